//! One upload while a session writes it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};

use super::extents::Extents;
use super::usage::Usage;
use super::{ReceptionError, TAKEN_OVER};
use crate::config::Limits;

/// Free space is asked for again after this many bytes.
const SPACE_CHECK: u64 = 16 << 20;

/// Names one opening of one upload: the row must still carry it when something changes.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) namespace_id: i32,
    pub(super) id: i64,
    pub(super) session: String,
}

/// What CLOSE achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The upload.
    pub id: i64,
    /// Its size.
    pub bytes: u64,
    /// Whether it waits for a rename out of its temporary name.
    pub temporary: bool,
}

/// A WRITE that was refused. From then on every WRITE and the CLOSE of that opening fail the same way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct WriteError {
    /// What the client is told.
    pub text: String,
    /// Whether a resume can help; else the file is not kept.
    resumable: bool,
}

/// An upload that is being received. Dropping it without [`super::Reception::close`] or
/// [`super::Reception::abandon`] leaves its row in `receiving`.
#[derive(Debug)]
pub struct Receiving {
    pub(super) key: Key,
    path: PathBuf,
    file: File,
    written: Extents,
    size: u64,
    charged: u64,
    space_left: u64,
    failed: Option<WriteError>,
    usage: Arc<Usage>,
    limits: Limits,
    pub(super) revoked: Arc<AtomicBool>,
    pub(super) temporary: bool,
    pub(super) modified_at: Option<DateTime<Utc>>,
}

impl Receiving {
    pub(super) fn new(
        key: Key,
        (path, file): (PathBuf, File),
        size: u64,
        (usage, limits): (Arc<Usage>, Limits),
        (revoked, temporary): (Arc<AtomicBool>, bool),
    ) -> Self {
        usage.grow(size);
        Self {
            key,
            path,
            file,
            written: Extents::whole(size),
            size,
            charged: size,
            space_left: 0,
            failed: None,
            usage,
            limits,
            revoked,
            temporary,
            modified_at: None,
        }
    }

    /// The upload's id.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.key.id
    }

    /// Its size so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The time that the client gave it.
    #[must_use]
    pub fn modified_at(&self) -> Option<DateTime<Utc>> {
        self.modified_at
    }

    /// Remembers a time; CLOSE puts it into the row.
    pub fn set_modified_at(&mut self, at: DateTime<Utc>) {
        self.modified_at = Some(at);
    }

    /// WRITE.
    ///
    /// # Errors
    /// [`WriteError`], the same one for every later WRITE.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), WriteError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        self.try_write(offset, data).inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn try_write(&mut self, offset: u64, data: &[u8]) -> Result<(), WriteError> {
        if self.revoked.load(Ordering::Acquire) {
            return Err(WriteError { text: TAKEN_OVER.into(), resumable: true });
        }
        let end = offset.saturating_add(data.len() as u64);
        self.make_room(end)?;
        self.file.write_all_at(data, offset).map_err(|error| WriteError {
            text: format!("the server could not write the file: {}", error.kind()),
            resumable: true,
        })?;
        if !self.written.add(offset, end) {
            return Err(WriteError {
                text: "the file is written in too many separate pieces".into(),
                resumable: false,
            });
        }
        self.size = self.size.max(end);
        Ok(())
    }

    /// Checks the limits for a file that reaches `end`, and charges for it.
    fn make_room(&mut self, end: u64) -> Result<(), WriteError> {
        if end > self.limits.upload_bytes {
            let text = format!("the file is larger than the limit of {} bytes", self.limits.upload_bytes);
            return Err(WriteError { text, resumable: false });
        }
        let more = end.saturating_sub(self.charged);
        if more == 0 {
            return Ok(());
        }
        if self.usage.total().saturating_add(more) > self.limits.quota_bytes {
            let text = "the quota of this namespace is used up; ask its admin".to_owned();
            return Err(WriteError { text, resumable: false });
        }
        if self.space_left < more {
            let space = rustix::fs::fstatvfs(&self.file).map_err(|_| WriteError {
                text: "the server cannot tell how much space is left".into(),
                resumable: true,
            })?;
            let free = space.f_bavail.saturating_mul(space.f_frsize).saturating_sub(self.limits.free_space_bytes);
            if free < more {
                return Err(WriteError { text: "the server is out of space; try again later".into(), resumable: true });
            }
            self.space_left = free.min(SPACE_CHECK.max(more));
        }
        self.space_left -= more;
        self.usage.grow(more);
        self.charged = end;
        Ok(())
    }

    /// FSETSTAT with a size.
    ///
    /// # Errors
    /// [`WriteError`] like [`Receiving::write`].
    pub fn set_size(&mut self, size: u64) -> Result<(), WriteError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        if self.revoked.load(Ordering::Acquire) {
            return Err(WriteError { text: TAKEN_OVER.into(), resumable: true });
        }
        self.make_room(size)?;
        self.file.set_len(size).map_err(|error| WriteError {
            text: format!("the server could not resize the file: {}", error.kind()),
            resumable: true,
        })?;
        self.written.cut(size);
        self.size = size;
        Ok(())
    }

    /// Another handle on the file, to sync it on a thread that may wait.
    ///
    /// # Errors
    /// Those of `dup`.
    pub fn try_clone_file(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }

    /// The size, when every byte of it was written and every WRITE went well.
    pub(super) fn whole(&self) -> Result<u64, ReceptionError> {
        if let Some(failed) = &self.failed {
            return Err(ReceptionError::Incomplete(failed.text.clone()));
        }
        if self.written.contiguous() != self.size {
            let text = format!(
                "the upload has a gap after byte {}: it is kept as a partial file, resume or send it again",
                self.written.contiguous()
            );
            return Err(ReceptionError::Incomplete(text));
        }
        Ok(self.size)
    }

    /// The file's data and its entry in the directory.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()?;
        fail::fail_point!("reception::data-synced", |_| std::process::abort());
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Cuts the file at its first gap, so that a resume starts at the right place. The bytes left, and whether to keep it.
    pub(super) fn cut(&self) -> std::io::Result<(u64, bool)> {
        let bytes = self.written.contiguous();
        if bytes != self.size {
            self.file.set_len(bytes)?;
        }
        Ok((bytes, self.failed.as_ref().is_none_or(|failed| failed.resumable)))
    }

    /// It stays in the spool and no longer grows.
    pub(super) fn settle(&self) {
        self.usage.settle(self.size);
    }

    pub(super) fn delete(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(upload = self.key.id, %error, "the file of an upload that was given up is still there");
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.usage.shrink(self.charged);
    }
}
