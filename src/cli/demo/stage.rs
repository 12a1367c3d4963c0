//! What the demo stands on: a daemon, two SFTP users, a client's GnuPG.

use std::fs::{self, DirBuilder};
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// How long anything on this small scale may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Set by ^C and SIGTERM: the next step of the story fails, and what was set up is cleared away as after any failure.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The two SFTP users of the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Actor {
    Client,
    Campaigns,
}

impl Actor {
    pub(super) fn user(self) -> &'static str {
        match self {
            Self::Client => "acme-feed",
            Self::Campaigns => "acme-mail",
        }
    }
}

/// A running daemon and what its clients have.
#[derive(Debug)]
pub(super) struct Stage {
    directory: PathBuf,
    sftp_port: u16,
    http_port: u16,
    daemon: Option<Child>,
}

impl Stage {
    /// Makes keys and configuration, and starts the daemon.
    pub(super) fn set() -> anyhow::Result<Self> {
        catch_signals().context("catch signals")?;
        let directory = std::env::temp_dir().join(format!("coupond-demo-{}", std::process::id()));
        // Others may pass through: PostgreSQL runs as a user of its own when this runs as root.
        DirBuilder::new().mode(0o711).create(&directory).with_context(|| format!("make `{}`", directory.display()))?;
        let mut stage = Self { directory, sftp_port: free_port()?, http_port: free_port()?, daemon: None };
        for (name, mode) in [("client", 0o700), ("gnupg", 0o700), ("namespaces", 0o755)] {
            DirBuilder::new().mode(mode).create(stage.path(name))?;
        }
        stage.write_configuration()?;
        stage.start_daemon()?;
        stage.import_certificate()?;
        Ok(stage)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn sftp_port(&self) -> u16 {
        self.sftp_port
    }

    pub(super) fn daemon_id(&self) -> u32 {
        self.daemon.as_ref().map_or(0, Child::id)
    }

    fn write_configuration(&self) -> anyhow::Result<()> {
        let (client, campaigns) = (self.make_key(Actor::Client)?, self.make_key(Actor::Campaigns)?);
        let main = format!(
            "state_dir = \"state\"\n\n[sftp]\nlisten = [\"127.0.0.1:{}\"]\n\n[http]\nlisten = \"127.0.0.1:{}\"\n",
            self.sftp_port, self.http_port
        );
        fs::write(self.path("coupond.toml"), main)?;
        let acme = format!(
            "timezone = \"America/New_York\"\n\n\
             [users.{}]\nrole = \"client\"\npublic_keys = [\"{client}\"]\n\n\
             [users.{}]\nrole = \"campaigns\"\npublic_keys = [\"{campaigns}\"]\n\n\
             [banks.spring26]\noffer_type = \"percent_off\"\nproof_code = \"SPRING-EXAMPLE\"\n\n\
             [banks.shipping]\npersistent = false\noffer_type = \"free_shipping\"\n\n\
             [campaigns.winback]\nbank = \"spring26\"\nchannel = \"email\"\nschedule = \"on-arrival\"\n\n\
             [campaigns.nightly]\nbank = \"shipping\"\nchannel = \"sms\"\nschedule = \"*/2 * * * * *\"\n",
            Actor::Client.user(),
            Actor::Campaigns.user()
        );
        Ok(fs::write(self.path("namespaces/acme.toml"), acme)?)
    }

    fn make_key(&self, actor: Actor) -> anyhow::Result<String> {
        let key = self.path("client").join(actor.user());
        output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", actor.user(), "-f"]).arg(&key))?;
        Ok(fs::read_to_string(key.with_extension("pub"))?.trim().to_owned())
    }

    fn start_daemon(&mut self) -> anyhow::Result<()> {
        let log = fs::File::create(self.path("daemon.log"))?;
        let daemon = Command::new(std::env::current_exe()?)
            .args(["serve", "--config"])
            .arg(self.path("coupond.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // ^C at the terminal is for the demo, which ends the daemon in order.
            .process_group(0)
            .spawn()
            .context("start the daemon")?;
        self.daemon = Some(daemon);
        let ready = || std::net::TcpStream::connect(("127.0.0.1", self.sftp_port)).is_ok();
        wait_until("the daemon serves SFTP", ready).with_context(|| {
            let log = fs::read_to_string(self.path("daemon.log")).unwrap_or_default();
            format!("start the daemon, which said:\n{log}")
        })
    }

    /// The client takes the daemon's certificate over SFTP into its own GnuPG.
    fn import_certificate(&self) -> anyhow::Result<()> {
        self.sftp(Actor::Client, &["get /openpgp/coupond.asc"])?;
        self.gpg(&["--import", "coupond.asc"])
    }

    /// Runs a batch of `sftp` commands in the client's directory; answers with what it printed.
    pub(super) fn sftp(&self, actor: Actor, commands: &[&str]) -> anyhow::Result<String> {
        let batch = self.path("client").join("batch");
        fs::write(&batch, commands.join("\n") + "\n")?;
        output(self.sftp_command(actor).arg("-b").arg(&batch).arg(format!("{}@127.0.0.1", actor.user())))
    }

    fn sftp_command(&self, actor: Actor) -> Command {
        let mut command = Command::new("sftp");
        command
            .current_dir(self.path("client"))
            .args(["-q", "-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-P", &self.sftp_port.to_string(), "-i"])
            .arg(actor.user());
        command
    }

    /// Runs GnuPG as the client does.
    pub(super) fn gpg(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new("gpg");
        command
            .current_dir(self.path("client"))
            .env("GNUPGHOME", self.path("gnupg"))
            .args(["--batch", "--yes", "--quiet", "--no-tty", "--trust-model", "always"])
            .args(arguments);
        output(&mut command).map(|_| ())
    }

    /// Waits until `/directory/` has a file with this beginning and ending, and fetches it.
    pub(super) fn fetch(&self, actor: Actor, directory: &str, begins: &str, ends: &str) -> anyhow::Result<String> {
        let mut name = None;
        wait_until(&format!("{directory}/{begins}*{ends}"), || {
            let listing = self.sftp(actor, &[&format!("ls -1 {directory}")]).unwrap_or_default();
            name = listing
                .lines()
                .filter_map(|line| line.rsplit('/').next())
                .find(|name| name.starts_with(begins) && name.ends_with(ends))
                .map(ToOwned::to_owned);
            name.is_some()
        })?;
        let name = name.unwrap_or_default();
        self.sftp(actor, &[&format!("get {directory}/{name}")])?;
        Ok(fs::read_to_string(self.path("client").join(name))?)
    }

    /// What to type to go on by hand.
    pub(super) fn commands(&self) -> Vec<String> {
        let sftp = |actor: Actor| {
            format!(
                "sftp -F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -P {} -i {} {}@127.0.0.1",
                self.sftp_port,
                self.path("client").join(actor.user()).display(),
                actor.user()
            )
        };
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("coupond"));
        vec![
            sftp(Actor::Client),
            sftp(Actor::Campaigns),
            format!("{} banks --config {}", program.display(), self.path("coupond.toml").display()),
            format!("curl http://127.0.0.1:{}/metrics", self.http_port),
            format!("kill {0}; tail --pid={0} -f /dev/null; rm -r {1}", self.daemon_id(), self.directory.display()),
        ]
    }

    /// Ends everything and removes the directory.
    pub(super) fn strike(mut self) -> anyhow::Result<()> {
        self.end().context("end the daemon")
    }

    /// Leaves everything as it is.
    pub(super) fn leave(mut self) {
        self.end_gnupg();
        self.daemon = None;
        self.directory = PathBuf::new();
    }

    fn end_gnupg(&self) {
        // It may never have been started.
        let _ = Command::new("gpgconf").env("GNUPGHOME", self.path("gnupg")).args(["--kill", "all"]).output();
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if self.directory.as_os_str().is_empty() {
            return Ok(());
        }
        self.end_gnupg();
        if let Some(mut daemon) = self.daemon.take() {
            let id = i32::try_from(daemon.id()).ok().and_then(Pid::from_raw).context("know the daemon's process")?;
            kill_process(id, Signal::TERM)?;
            let status = daemon.wait()?;
            if !status.success() {
                bail!("it ended with {status}; see {}", self.path("daemon.log").display());
            }
        }
        Ok(fs::remove_dir_all(std::mem::take(&mut self.directory))?)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Only where the story broke off: the error that broke it is the one to show.
        let _ = self.end();
    }
}

/// Without this ^C would end the demo alone and leave its daemon behind.
fn catch_signals() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        INTERRUPTED.store(true, Ordering::Relaxed);
    })?;
    Ok(())
}

fn go_on() -> anyhow::Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("go on: interrupted");
    }
    Ok(())
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while !done() {
        go_on()?;
        if start.elapsed() > PATIENCE {
            bail!("see within {} seconds that {what}", PATIENCE.as_secs());
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    Ok(())
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    go_on()?;
    let program = Path::new(command.get_program()).display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run `{program}`; is it installed?"))?;
    if !output.status.success() {
        bail!("run `{program}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
