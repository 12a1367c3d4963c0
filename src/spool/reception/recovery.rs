//! What the start and the sweep do: uploads whose session died become partial files, and files without a row go.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chrono::TimeDelta;

use super::{Reception, ReceptionError};
use crate::config::Name;
use crate::store::Stage;

/// Says that this process lives: a locked file under `<state_dir>/sessions`, named like the first part of
/// `upload.session`. The lock goes with the process, however it ends, so that a daemon that shares the spool can tell
/// dead sessions from living ones.
#[derive(Debug)]
pub(super) struct ProcessMark {
    token: String,
    path: PathBuf,
    _lock: File,
}

impl ProcessMark {
    pub(super) fn make(state_dir: &Path) -> io::Result<Self> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        let directory = directory(state_dir);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let token = format!("{:016x}", rand::random::<u64>());
        let path = directory.join(&token);
        let lock = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        lock.lock()?;
        Ok(Self { token, path, _lock: lock })
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }
}

impl Drop for ProcessMark {
    fn drop(&mut self) {
        // Left behind, it is only a file that nobody locks.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("sessions")
}

/// Whether a process with this token lives and shares this state directory.
fn lives(state_dir: &Path, token: &str) -> bool {
    if token.is_empty() || token.bytes().any(|byte| !byte.is_ascii_hexdigit()) {
        return false;
    }
    match File::open(directory(state_dir).join(token)) {
        Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// The bytes of `file` before its first hole: a crash among pipelined writes can leave one. Cuts the rest off.
pub(super) fn whole_length(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(0);
    }
    let whole = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(0)).unwrap_or(length).min(length);
    if whole < length {
        file.set_len(whole)?;
    }
    Ok(whole)
}

impl Reception {
    /// At the start: what sessions of dead processes left in `receiving` becomes `partial` with its real size. Files of
    /// removed and purged uploads go, and those of no upload that are older than `partial_keep`. Returns how many uploads
    /// it found.
    ///
    /// A row whose file is not in this spool is left alone: another daemon with a spool of its own may be at it.
    ///
    /// # Errors
    /// Spool and store.
    pub fn recover(&self) -> Result<usize, ReceptionError> {
        let settings = self.live.current();
        let mut recovered = 0;
        for namespace in settings.namespaces.keys() {
            let namespace_id = self.store.namespace_id(namespace)?;
            for found in self.store.unfinished_receiving(namespace_id)? {
                let token = found.session.split('/').next().unwrap_or_default();
                if found.stage != Stage::Receiving || lives(&settings.state_dir, token) {
                    continue;
                }
                let path = self.layout(namespace).incoming_file(found.id);
                let key = (found.id, found.session.as_str());
                let bytes = match File::options().read(true).write(true).open(&path) {
                    Ok(file) => whole_length(&file)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        // Its process lived here and died between row and file: there is nothing to resume.
                        if !token.is_empty() && directory(&settings.state_dir).join(token).try_exists()? {
                            self.store.abandon_receiving(namespace_id, key, (0, false), self.clock.now())?;
                        }
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                if self.store.abandon_receiving(namespace_id, key, (bytes, true), self.clock.now())? {
                    recovered += 1;
                    tracing::info!(%namespace, upload = found.id, bytes, "an interrupted upload is kept as a partial file");
                }
            }
            self.remove_strays(namespace, namespace_id)?;
        }
        self.remove_dead_marks(&settings.state_dir);
        Ok(recovered)
    }

    /// Unfinished uploads that nobody has written for longer than `partial_keep` -> `purged`. Returns how many.
    ///
    /// # Errors
    /// Store.
    pub fn purge_partial(&self) -> Result<usize, ReceptionError> {
        let settings = self.live.current();
        let keep = TimeDelta::from_std(settings.spool.partial_keep).unwrap_or(TimeDelta::MAX);
        let Some(cutoff) = self.clock.now().checked_sub_signed(keep) else { return Ok(0) };
        let mut purged = 0;
        for namespace in settings.namespaces.keys() {
            let namespace_id = self.store.namespace_id(namespace)?;
            for id in self.store.purge_unfinished(namespace_id, cutoff)? {
                self.delete(namespace, id);
                tracing::info!(%namespace, upload = id, "a partial file was purged");
                purged += 1;
            }
        }
        Ok(purged)
    }

    fn remove_strays(&self, namespace: &Name, namespace_id: i32) -> Result<(), ReceptionError> {
        let keep = self.live.current().spool.partial_keep;
        let now = SystemTime::from(self.clock.now());
        let entries = match std::fs::read_dir(self.layout(namespace).incoming()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| name.parse::<i64>().ok());
            let age = entry.metadata()?.modified()?;
            found.extend(id.map(|id| (id, now.duration_since(age).is_ok_and(|age| age > keep))));
        }
        for part in found.chunks(1000) {
            let ids: Vec<i64> = part.iter().map(|(id, _)| *id).collect();
            let keeps_its_file = self.store.keep_their_files(namespace_id, &ids)?;
            // Where there is no row, another daemon may be about to make it visible, and the file's age decides.
            for (id, _) in part.iter().filter(|(id, old)| !keeps_its_file.get(id).copied().unwrap_or(!old)) {
                tracing::info!(%namespace, upload = id, "a file that belongs to no upload was removed");
                self.delete(namespace, *id);
            }
        }
        Ok(())
    }

    fn remove_dead_marks(&self, state_dir: &Path) {
        let Ok(entries) = std::fs::read_dir(directory(state_dir)) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|token| token != self.process.token() && !lives(state_dir, token)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}
