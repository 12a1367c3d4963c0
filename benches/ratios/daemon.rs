//! coupond as a user runs it: the released program, SFTP, its private PostgreSQL.
//!
//! The kernel ends it when the run ends, however that happens.

use std::fs;
use std::io::{Read as _, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use crate::client::Client;
use crate::database::Database;
use crate::ground::{Ground, Key, free_port};
use crate::machine::{self, Cost, bash};

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_coupond");
/// The only user; it may do everything.
pub const USER: &str = "feed";
/// The longest that a single job may take.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A running daemon, and all that is its own.
pub struct Daemon {
    directory: PathBuf,
    sftp_port: u16,
    http_port: u16,
    process: Child,
}

impl Daemon {
    /// A new one with banks `b1` to `b<banks>`, persistent, each with a campaign `c1` to `c<banks>` that runs on arrival.
    pub fn new(ground: &Ground, banks: u32) -> anyhow::Result<Self> {
        Self::new_at(ground, &ground.fresh("d"), banks)
    }

    /// The same at this place.
    pub fn new_at(ground: &Ground, directory: &Path, banks: u32) -> anyhow::Result<Self> {
        for made in [directory.to_owned(), directory.join("namespaces")] {
            fs::create_dir(&made)?;
            fs::set_permissions(&made, fs::Permissions::from_mode(0o711))?;
        }
        let key = directory.join("key");
        bash(&format!("ssh-keygen -q -t ed25519 -N '' -C bench -f '{}'", key.display()), directory)?;
        let public = fs::read_to_string(key.with_extension("pub"))?;
        let mut namespace =
            format!("exchange = true\n[users.{USER}]\nrole = \"all\"\npublic_keys = [\"{}\"]\n\n", public.trim());
        for bank in 1..=banks {
            namespace.push_str(&format!("[banks.b{bank}]\naudience = \"communicate\"\n"));
            namespace.push_str(&format!(
                "[campaigns.c{bank}]\nbank = \"b{bank}\"\nchannel = \"email\"\nschedule = \"on-arrival\"\n"
            ));
        }
        fs::write(directory.join("namespaces/bench.toml"), namespace)?;
        Self::start_in(ground, directory)
    }

    /// A copy of a daemon that was stopped with [`Daemon::stop`].
    pub fn copy_of(ground: &Ground, template: &Path) -> anyhow::Result<Self> {
        let directory = ground.fresh("d");
        bash(&format!("cp -a --reflink=auto '{}' '{}'; sync", template.display(), directory.display()), template)?;
        Self::start_in(ground, &directory)
    }

    /// Starts in a directory that is there.
    pub fn start_in(ground: &Ground, directory: &Path) -> anyhow::Result<Self> {
        let (sftp_port, http_port) = (free_port()?, free_port()?);
        let keys = Key::EVERY.map(|key| format!("{:?}", ground.gpg.secret_key(key).display().to_string())).join(", ");
        let file = directory.join("coupond.toml");
        let text = format!(
            "state_dir = \"state\"\n[sftp]\nlisten = [\"127.0.0.1:{sftp_port}\"]\n\
             [http]\nlisten = \"127.0.0.1:{http_port}\"\n[openpgp]\nsecret_keys = [{keys}]\n"
        );
        fs::write(&file, text)?;
        let log = fs::File::options().create(true).append(true).open(directory.join("daemon.log"))?;
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", PROGRAM, "serve", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start the daemon")?;
        let mut daemon = Self { directory: directory.to_owned(), sftp_port, http_port, process };
        daemon.wait("the daemon is ready", |daemon| Ok(daemon.ready().then_some(())))?;
        Ok(daemon)
    }

    fn ready(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.http_port))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(stream, "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        ask().is_ok_and(|answer| answer.ends_with("200"))
    }

    /// Looks until `look` finds something. Fails when the daemon ends meanwhile.
    pub fn wait<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let start = Instant::now();
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if let Some(status) = self.process.try_wait()? {
                anyhow::bail!("the daemon ended with {status} before {what}; its last lines:\n{}", self.log_tail());
            }
            anyhow::ensure!(!machine::INTERRUPTED.load(Ordering::Relaxed), "interrupted");
            if start.elapsed() > PATIENCE {
                anyhow::bail!("did not see that {what}; the daemon's last lines:\n{}", self.log_tail());
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.directory.join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where it serves SFTP.
    pub fn port(&self) -> u16 {
        self.sftp_port
    }

    /// The secret key of [`USER`].
    pub fn key(&self) -> PathBuf {
        self.directory.join("key")
    }

    /// A path below its namespace's directory.
    pub fn shared(&self, name: &str) -> PathBuf {
        self.directory.join("state/namespaces/bench").join(name)
    }

    /// A path in its own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// One of the databases of its private PostgreSQL.
    pub fn database(&self, name: &str) -> anyhow::Result<Database> {
        Database::of(&self.directory.join("state"), name)
    }

    /// A client that is logged in.
    pub fn client(&self) -> anyhow::Result<Client> {
        Client::connect(self.sftp_port, USER, &self.key(), None)
    }

    /// Runs a command of the program that must succeed; answers with what it printed.
    pub fn command(&self, arguments: &str) -> anyhow::Result<(String, Cost)> {
        bash(&format!("'{PROGRAM}' {arguments} --config '{}'", self.path("coupond.toml").display()), &self.directory)
    }

    /// OpenSSH's `sftp` with these commands.
    pub fn sftp(&self, commands: &str) -> anyhow::Result<Cost> {
        crate::openssh::sftp(self.sftp_port, USER, &self.key(), commands, &self.directory)
    }

    /// Uploads files under temporary names; then renames all of them at once, which makes them received, and measures
    /// until `done` finds what follows, and CPU until the daemon rests again.
    ///
    /// `files`: local path, directory, name.
    pub fn measure<T>(
        &mut self,
        files: &[(&Path, String, String)],
        done: impl FnMut(&Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<(T, Cost)> {
        for (local, directory, name) in files {
            self.sftp(&format!("put \"{}\" {directory}/{name}.part", local.display()))?;
        }
        let client = self.client()?;
        self.database("coupond")?.settle()?;
        machine::rest(self.id());
        machine::forget_peak(self.id())?;
        let (start, before) = (Instant::now(), machine::tree_cpu(self.id()));
        for (_, directory, name) in files {
            client.rename(&format!("{directory}/{name}.part"), &format!("{directory}/{name}"))?;
        }
        let found = self.wait("the work is done", done)?;
        let wall = start.elapsed().as_secs_f64();
        machine::rest(self.id());
        let cpu = machine::tree_cpu(self.id()) - before;
        Ok((found, Cost { wall, cpu, peak: machine::peak(self.id())? }))
    }

    /// [`Daemon::measure`] for one upload, until its report is there.
    pub fn upload(&mut self, local: &Path, directory: &str, name: &str) -> anyhow::Result<(Value, Cost)> {
        let file = [(local, directory.to_owned(), name.to_owned())];
        let (report, cost) = self.measure(&file, |daemon| {
            let Some(path) = find(&daemon.shared("reports"), &format!("{name}."), ".report.json")? else {
                return Ok(None);
            };
            Ok(Some(serde_json::from_slice::<Value>(&fs::read(path)?)?))
        })?;
        let status = report.get("status").and_then(Value::as_str).unwrap_or_default();
        anyhow::ensure!(matches!(status, "applied" | "checked"), "the report on `{name}` says: {report:#}");
        Ok((report, cost))
    }

    /// Asks it to stop, and waits until it and its PostgreSQL have. Its directory remains.
    pub fn stop(mut self) -> anyhow::Result<PathBuf> {
        self.end();
        Ok(std::mem::take(&mut self.directory))
    }

    fn end(&mut self) {
        let id = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id
            && matches!(self.process.try_wait(), Ok(None))
        {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        let start = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) {
            if start.elapsed() > Duration::from_secs(120) {
                let _ = self.process.kill();
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
        // Stopped and handed over: then the directory is somebody else's.
        if !self.directory.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// The one file in `directory` whose name begins and ends so.
pub fn find(directory: &Path, begins: &str, ends: &str) -> anyhow::Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory).with_context(|| format!("list `{}`", directory.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(begins) && name.ends_with(ends)) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// A number in a report or manifest.
pub fn number(value: &Value, path: &str) -> anyhow::Result<u64> {
    value.pointer(path).and_then(Value::as_u64).with_context(|| format!("no `{path}` in {value:#}"))
}
