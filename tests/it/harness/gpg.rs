//! A client's GnuPG, with a home of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use tempfile::TempDir;

use super::{run, succeed};

/// A GnuPG home.
pub struct Gpg {
    home: TempDir,
}

/// What GnuPG made of a message.
#[derive(Debug)]
pub struct Opened {
    /// What was in it.
    pub content: Vec<u8>,
    /// The lines of `--status-fd`.
    pub status: String,
}

impl Gpg {
    /// An empty home.
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self { home }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("gpg");
        command
            .current_dir(self.home.path())
            .env("GNUPGHOME", self.home.path())
            .args(["--batch", "--yes", "--quiet", "--no-tty", "--trust-model", "always"])
            .args(arguments);
        command
    }

    /// Takes a certificate in.
    pub fn import(&self, certificate: &[u8]) {
        fs::write(self.home.path().join("certificate"), certificate).unwrap();
        succeed(&mut self.command(&["--import", "certificate"]), "");
    }

    /// Makes a key for signing and encryption without a passphrase; answers with its certificate, armored.
    pub fn make_key(&self, name: &str) -> String {
        let quick = ["--pinentry-mode", "loopback", "--passphrase", "", "--quick-gen-key", name, "default", "default"];
        succeed(&mut self.command(&quick), "");
        String::from_utf8(succeed(&mut self.command(&["--armor", "--export", name]), "")).unwrap()
    }

    /// Encrypts to the daemon's certificate, which must have been imported.
    pub fn encrypt(&self, plaintext: impl AsRef<[u8]>, more: &[&str]) -> Vec<u8> {
        fs::write(self.home.path().join("plaintext"), plaintext).unwrap();
        let arguments = ["--encrypt", "--recipient", "coupond", "--output", "message", "plaintext"];
        succeed(&mut self.command(&[more, &arguments].concat()), "");
        fs::read(self.home.path().join("message")).unwrap()
    }

    /// Decrypts, which must succeed.
    #[track_caller]
    pub fn decrypt(&self, message: &[u8]) -> Opened {
        fs::write(self.home.path().join("message"), message).unwrap();
        let arguments = ["--status-fd", "2", "--output", "plaintext", "--decrypt", "message"];
        let output = run(&mut self.command(&arguments), "");
        let status = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "gpg --decrypt: {status}");
        Opened { content: fs::read(self.home.path().join("plaintext")).unwrap(), status }
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").env("GNUPGHOME", self.home.path()).args(["--kill", "all"]).output();
    }
}
