//! Who owns the private PostgreSQL of a directory, and who only uses it.
//!
//! `pg.lock` is held by the one process that starts, watches and stops the server; its holder may end any server of that
//! directory. `attached.lock` is shared by everyone who uses a server of somebody else's. Both go with their process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::PrivateServerError;
use super::directories::open_file;
use super::error::file;
use super::postmaster::{PidFile, serves};

const TICK: Duration = Duration::from_millis(50);

/// The right to run the server; given up when dropped.
#[derive(Debug)]
pub(super) struct Ownership {
    _lock: File,
    attached: File,
}

/// The use of a server that another process runs; given up when dropped.
#[derive(Debug)]
pub(super) struct Attachment {
    _shared: File,
    pub(super) socket_directory: PathBuf,
}

fn open(path: &Path) -> Result<File, PrivateServerError> {
    open_file(path, OpenOptions::new().read(true).write(true))
}

/// Turns the three outcomes of trying a lock into two and an error.
fn taken(tried: Result<(), TryLockError>, path: &Path) -> Result<bool, PrivateServerError> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(file("lock", path)(error)),
    }
}

impl Ownership {
    /// Takes the server over, unless another process has it.
    pub(super) fn try_take(root: &Path) -> Result<Option<Self>, PrivateServerError> {
        let path = root.join("pg.lock");
        let mut lock = open(&path)?;
        if !taken(lock.try_lock(), &path)? {
            return Ok(None);
        }
        // Only for the words of an error: the lock itself is what counts.
        let written =
            lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(file("write", &path))?;
        Ok(Some(Self { attached: open(&root.join("attached.lock"))?, _lock: lock }))
    }

    /// Takes the server over, waiting for another process to give it up: a daemon that was just killed, a command that
    /// is just ending.
    pub(super) fn take(root: &Path, patience: Duration) -> Result<Self, PrivateServerError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(ownership) = Self::try_take(root)? {
                return Ok(ownership);
            }
            if Instant::now() >= deadline {
                return Err(PrivateServerError::InUse { lock: root.join("pg.lock"), holder: holder(root) });
            }
            std::thread::park_timeout(TICK);
        }
    }

    /// Waits until nobody is attached any more, and lets nobody attach from then on.
    pub(super) fn wait_for_attached(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while let Err(TryLockError::WouldBlock) = self.attached.try_lock() {
            if Instant::now() >= deadline {
                tracing::warn!("stopping the private PostgreSQL while other processes still use it");
                return;
            }
            std::thread::park_timeout(TICK);
        }
    }
}

impl Attachment {
    /// Joins the running server; `None` while there is none that is ready, or its owner is about to stop it.
    pub(super) fn try_join(root: &Path) -> Result<Option<Self>, PrivateServerError> {
        let path = root.join("attached.lock");
        let shared = open(&path)?;
        if !taken(shared.try_lock_shared(), &path)? {
            return Ok(None);
        }
        let data = root.join("pgdata");
        let ready = PidFile::read(&data).filter(|server| server.ready && serves(server.pid, &data));
        let socket_directory = ready.and_then(|server| server.socket_directory);
        Ok(socket_directory.map(|socket_directory| Self { _shared: shared, socket_directory }))
    }
}

/// The process id in the lock file, for messages.
pub(super) fn holder(root: &Path) -> String {
    let mut text = [0; 16];
    let length = open(&root.join("pg.lock")).ok().and_then(|mut lock| lock.read(&mut text).ok()).unwrap_or_default();
    let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default()).trim().to_owned();
    if text.is_empty() { "unknown".into() } else { text }
}
