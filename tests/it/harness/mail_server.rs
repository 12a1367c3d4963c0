//! A real mail server: aiosmtpd in a Python of its own, which ends with the test process. Mails that it took are files.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

/// A mail server on a port of its own, which it keeps when it is started again.
pub struct MailServer {
    directory: TempDir,
    port: u16,
    smtps: bool,
    running: Option<(Child, ChildStdin)>,
}

impl MailServer {
    /// One that speaks in the clear.
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), false)
    }

    /// One with a certificate that nobody has signed: STARTTLS, or TLS from the start.
    pub fn start_with_tls(smtps: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(directory.path())
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        Self::start_in(directory, smtps)
    }

    fn start_in(directory: TempDir, smtps: bool) -> Self {
        let mut server = Self { directory, port: 0, smtps, running: None };
        server.start_again();
        server
    }

    /// Starts it again after [`MailServer::kill`].
    pub fn start_again(&mut self) {
        let mut command = Command::new(python());
        command.args(["-c", include_str!("mail_server.py")]).arg(self.directory.path()).arg(self.port.to_string());
        if self.smtps {
            command.arg("smtps");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // What it thinks of clients that do not trust it.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.port = line.trim().parse().unwrap();
        self.running = Some((child, stdin));
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let (mut child, _) = self.running.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Tells it how to behave.
    pub fn behave(&self, name: &str, content: &str) {
        fs::write(self.directory.path().join(name), content).unwrap();
    }

    /// What it took, in order.
    pub fn mails(&self) -> Vec<Value> {
        let entries = fs::read_dir(self.directory.path()).unwrap().flatten().map(|entry| entry.path());
        let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ext| ext == "json")).collect();
        files.sort();
        files.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill();
        }
    }
}

/// The Python that has aiosmtpd: the system's, where another one comes first in PATH.
fn python() -> &'static str {
    static PYTHON: OnceLock<&str> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let has = |python: &&str| {
            let asked = Command::new(python).args(["-c", "import aiosmtpd"]).stderr(Stdio::null()).status();
            asked.is_ok_and(|status| status.success())
        };
        ["python3", "/usr/bin/python3"]
            .into_iter()
            .find(has)
            .expect("Python with aiosmtpd is needed (scripts/install-needs --tests)")
    })
}
