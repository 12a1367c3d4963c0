//! OpenSSH's server, private: its own configuration, host key and port, ended with the run.
//!
//! It serves SFTP itself (`internal-sftp`): that is its fastest way, and no shell with somebody's start-up files comes in.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::ground::free_port;
use crate::machine::{self, bash, first_line};
use crate::openssh;

/// The argument with which this program runs another one and outlives everything it leaves behind.
pub const REAP: &str = "--reap";

/// Where the system keeps a directory that sshd wants when root runs it.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";

/// A running sshd.
pub struct Sshd {
    reaper: Child,
    /// Where it listens.
    pub port: u16,
    /// Who may log in: whoever runs this.
    pub user: String,
    made_directory: bool,
}

impl Sshd {
    /// Starts one that takes the key `key` (with its `.pub`), in `directory`.
    pub fn start(directory: &Path, key: &Path) -> anyhow::Result<Self> {
        let sshd = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd", "/usr/bin/sshd"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .context("find sshd: install openssh-server")?;
        bash("ssh-keygen -q -t ed25519 -N '' -C bench -f host_key", directory)?;
        let port = free_port()?;
        let (here, public) = (directory.display(), key.with_extension("pub"));
        let configuration = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {here}/host_key\nPidFile none\nAuthorizedKeysFile \"{}\"\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin yes\nMaxStartups 100\nPrintMotd no\nLogLevel ERROR\n\
             Subsystem sftp internal-sftp\nForceCommand internal-sftp\n",
            public.display()
        );
        let file = directory.join("sshd_config");
        std::fs::write(&file, configuration)?;
        let root = rustix::process::geteuid().is_root();
        let made_directory = root && std::fs::create_dir(PRIVILEGE_SEPARATION).is_ok();
        let log = std::fs::File::create(directory.join("sshd.log"))?;
        let reaper = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(std::env::current_exe()?)
            .args([REAP, "setpriv", "--pdeathsig", "KILL", "--", sshd, "-D", "-e", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let user = first_line("id -un");
        let mut server = Self { reaper, port, user, made_directory };
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.reaper.try_wait()?.is_some();
            let said = || std::fs::read_to_string(directory.join("sshd.log")).unwrap_or_default();
            ensure!(!ended && start.elapsed() < Duration::from_secs(20), "start sshd: {}", said());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        // Such as a locked account: the log says it, the client does not hear it.
        let said = || std::fs::read_to_string(directory.join("sshd.log")).unwrap_or_default();
        openssh::sftp(port, &server.user, key, "pwd", directory)
            .with_context(|| format!("log in at sshd: {}", said()))?;
        Ok(server)
    }

    /// The root of its process tree, which keeps the CPU time of all that ended.
    pub fn tree(&self) -> u32 {
        self.reaper.id()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let listener = machine::child_of(self.reaper.id()).and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(listener) = listener {
            let _ = rustix::process::kill_process(listener, Signal::TERM);
        }
        let start = Instant::now();
        while matches!(self.reaper.try_wait(), Ok(None)) {
            if start.elapsed() > Duration::from_secs(10) {
                let _ = self.reaper.kill();
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        if self.made_directory {
            let _ = std::fs::remove_dir(PRIVILEGE_SEPARATION);
        }
    }
}

/// Runs a program and waits for it and for every process that it or its children leave behind: the process that serves
/// SFTP may outlive the sshd that started it, and its CPU time would be nobody's.
pub fn reap(mut program: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let Some(name) = program.next() else { return ExitCode::FAILURE };
    if rustix::process::set_child_subreaper(Some(rustix::process::getpid())).is_err() {
        return ExitCode::FAILURE;
    }
    let Ok(_child) = Command::new(PathBuf::from(name)).args(program).spawn() else { return ExitCode::FAILURE };
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return ExitCode::SUCCESS,
        }
    }
}
