//! What every job stands on: a directory that goes when the run ends, sizes, GnuPG with its keys.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::machine::bash;
use crate::size::Size;

/// The ground of one run.
pub struct Ground {
    /// How much is measured.
    pub size: Size,
    /// GnuPG's home with the daemon's keys.
    pub gpg: Gpg,
    next: AtomicU32,
    // Removed last.
    directory: TempDir,
}

/// Kinds of OpenPGP keys that clients encrypt to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// RSA with 3072 bits.
    Rsa,
    /// Ed25519 with Curve25519.
    Curve25519,
}

impl Key {
    /// Both.
    pub const EVERY: [Self; 2] = [Self::Rsa, Self::Curve25519];

    /// Its user id in GnuPG.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rsa => "rsa@bench.example",
            Self::Curve25519 => "curve25519@bench.example",
        }
    }

    fn parameters(self) -> &'static str {
        match self {
            Self::Rsa => "Key-Type: RSA\nKey-Length: 3072\nSubkey-Type: RSA\nSubkey-Length: 3072",
            Self::Curve25519 => "Key-Type: EDDSA\nKey-Curve: ed25519\nSubkey-Type: ECDH\nSubkey-Curve: cv25519",
        }
    }
}

impl Ground {
    /// Makes a directory under `parent`, and the keys.
    pub fn new(parent: &Path, size: Size) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("cb").tempdir_in(parent).context("make a directory")?;
        // PostgreSQL is another user when root runs this, and must pass through.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711))?;
        let gpg = Gpg::new(&directory.path().join("gpg"))?;
        Ok(Self { size, gpg, next: AtomicU32::new(0), directory })
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A path that nothing has had yet.
    pub fn fresh(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }
}

/// GnuPG with a home of its own.
pub struct Gpg {
    home: PathBuf,
}

impl Gpg {
    fn new(home: &Path) -> anyhow::Result<Self> {
        fs::create_dir(home)?;
        fs::set_permissions(home, fs::Permissions::from_mode(0o700))?;
        let gpg = Self { home: home.to_owned() };
        for key in Key::EVERY {
            let parameters =
                format!("%no-protection\n{}\nName-Email: {}\nExpire-Date: 0\n%commit\n", key.parameters(), key.name());
            fs::write(home.join("parameters"), parameters)?;
            bash(&format!("{} --gen-key parameters", gpg.command()), home)?;
            let export = format!("{} --export-secret-keys {} >{}.key", gpg.command(), key.name(), key.name());
            bash(&format!("umask 077; {export}"), home)?;
        }
        Ok(gpg)
    }

    /// How gpg is called in a script.
    pub fn command(&self) -> String {
        format!("gpg --homedir '{}' --batch --yes --quiet --no-tty --trust-model always", self.home.display())
    }

    /// The file with a secret key.
    pub fn secret_key(&self, key: Key) -> PathBuf {
        self.home.join(format!("{}.key", key.name()))
    }

    /// Encrypts a file as gpg does by default, with `options` on top.
    pub fn encrypt(&self, plain: &Path, sealed: &Path, key: Key, options: &str) -> anyhow::Result<()> {
        let (plain, sealed) = (plain.display(), sealed.display());
        bash(&format!("{} {options} -r {} -o '{sealed}' -e '{plain}'", self.command(), key.name()), &self.home)?;
        Ok(())
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        // Not in bash, which refuses after an interrupt.
        let _ = Command::new("gpgconf").arg("--homedir").arg(&self.home).args(["--kill", "all"]).status();
    }
}

/// A port on loopback that nothing listens on, below those that the kernel gives to outgoing connections.
pub fn free_port() -> anyhow::Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(12_000 + (std::process::id().wrapping_mul(97) + step) % 20_000)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("find a free port")
}
