//! Receiving: from a client's OPEN to the moment a worker may claim the file.
//!
//! ```text
//! (none) -open-> receiving -close-> received | awaiting_rename (closed under a temporary name)
//! receiving -abandon-> partial -open-> receiving        awaiting_rename -rename-> received
//! partial | awaiting_rename -purge-> purged             any of these -remove-> removed
//! ```
//! An upload is a row in the store and a file `.spool/incoming/<id>`; the row is the truth. CLOSE is answered only after
//! the file and its directory are synced and the row is committed; a crash before that leaves a row in `receiving` that
//! [`Reception::recover`] turns into a partial file, which its user may resume. No upload is ever overwritten once a
//! worker may have it: the same name starts a new one.
//!
//! Everything here blocks.
//!
//! Failpoints, in the order of a file's way: `reception::begun`, `placed`, `resumed`, `data-synced`, `synced`, `committed`,
//! `renamed`; and `removed`.

mod extents;
mod named;
mod receiving;
mod recovery;
mod usage;

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

pub use receiving::{Closed, Receiving, WriteError};
use usage::Usage;

use super::{Layout, Place};
use crate::clock::Clock;
use crate::config::{LiveSettings, Name, Settings};
use crate::store::{Sent, Spot, Stage, Store, StoreError};

/// Called when a file has become `received`, so that a worker looks at once.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// The user on whose behalf something is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Its namespace.
    pub namespace: Name,
    /// Its name.
    pub user: String,
}

/// How a client opens a file for writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// Make it where there is none.
    pub create: bool,
    /// Start from nothing.
    pub truncate: bool,
    /// Fail where there is one.
    pub exclusive: bool,
}

/// Why a file could not be received. The client is told the text.
#[derive(Debug, thiserror::Error)]
pub enum ReceptionError {
    /// No such file, or none that this user sees.
    #[error("find the file")]
    Missing,
    /// The client can do something about it; the text says what.
    #[error("{0}")]
    Refused(&'static str),
    /// Not complete; kept for resume or given up, as the text says.
    #[error("{0}")]
    Incomplete(String),
    /// The spool.
    #[error("use the spool")]
    Spool(#[from] std::io::Error),
    /// The store.
    #[error("use the store")]
    Store(#[from] StoreError),
}

const TAKEN: &str =
    "the file has been received and is being processed; send a new version by uploading the whole file again";
const TAKEN_OVER: &str = "another session has taken this upload over, or removed it";
const REMOVED: &str = "the file was removed while it was being uploaded";
const LOST: &str = "the server has lost track of this upload; send the whole file again";

/// Whether `name` is one that a client gives a file it has not finished: such a file is not processed before a rename.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let endings = [".filepart", ".part", ".partial", ".tmp", ".upload"];
    // The leading dot covers lftp's `.in.*`.
    lower.starts_with('.') || endings.iter().any(|ending| lower.ends_with(ending))
}

/// Receives files for every session of this process.
pub struct Reception {
    live: LiveSettings,
    store: Store,
    clock: Clock,
    wake: Wake,
    process: recovery::ProcessMark,
    opened: AtomicU64,
    /// The uploads that this process writes, each with the flag that tells its session that another took it over.
    writers: Mutex<HashMap<i64, Arc<AtomicBool>>>,
    usage: Mutex<HashMap<Name, Arc<Usage>>>,
}

impl std::fmt::Debug for Reception {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reception").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Reception {
    /// A reception whose uploads lie under the state directory of `live`. Marks this process as living there.
    ///
    /// # Errors
    /// [`ReceptionError::Spool`] when the mark cannot be made.
    pub fn new(live: LiveSettings, store: Store, clock: Clock, wake: Wake) -> Result<Self, ReceptionError> {
        let process = recovery::ProcessMark::make(&live.current().state_dir)?;
        Ok(Self {
            live,
            store,
            clock,
            wake,
            process,
            opened: AtomicU64::new(0),
            writers: Mutex::default(),
            usage: Mutex::default(),
        })
    }

    fn layout(&self, namespace: &Name) -> Layout {
        Layout::new(&self.live.current().state_dir, namespace)
    }

    fn usage(&self, namespace: &Name) -> Arc<Usage> {
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(usage.entry(namespace.clone()).or_default())
    }

    fn linger_from(&self, settings: &Settings) -> DateTime<Utc> {
        self.clock.now() - TimeDelta::from_std(settings.spool.linger).unwrap_or(TimeDelta::zero())
    }

    fn spot<'a>(&self, sender: &'a Sender, place: &'a Place, name: &'a str) -> Result<Spot<'a>, ReceptionError> {
        let namespace_id = self.store.namespace_id(&sender.namespace)?;
        Ok(Spot { namespace_id, user: &sender.user, place, name })
    }

    /// OPEN for writing: a new upload, or the user's own unfinished one again.
    ///
    /// # Errors
    /// [`ReceptionError::Missing`] without `create`; [`ReceptionError::Refused`] as its text says; spool and store.
    pub fn open(
        &self,
        sender: &Sender,
        place: &Place,
        name: &str,
        intent: Intent,
    ) -> Result<Receiving, ReceptionError> {
        let settings = self.live.current();
        let spot = self.spot(sender, place, name)?;
        self.usage(&sender.namespace).measure(&self.store, spot.namespace_id)?;
        let Some(found) = self.store.sent(&spot, self.linger_from(&settings))? else {
            if !intent.create {
                return Err(ReceptionError::Missing);
            }
            return self.begin(sender, &spot);
        };
        match found.stage {
            Stage::Taken if intent.create && (intent.truncate || intent.exclusive) => self.begin(sender, &spot),
            _ if intent.exclusive => Err(ReceptionError::Refused("file exists already")),
            Stage::Received if intent.create && intent.truncate => self.begin(sender, &spot),
            Stage::Taken | Stage::Received => Err(ReceptionError::Refused(TAKEN)),
            Stage::Receiving | Stage::Partial | Stage::AwaitingRename => {
                self.resume(sender, &spot, &found, intent.truncate)
            }
        }
    }

    fn begin(&self, sender: &Sender, spot: &Spot<'_>) -> Result<Receiving, ReceptionError> {
        let session = self.session();
        let id = self.store.begin_receiving(spot, &session, self.clock.now())?;
        fail::fail_point!("reception::begun", |_| std::process::abort());
        let path = self.layout(&sender.namespace).incoming_file(id);
        match create_anew(&path) {
            Ok(file) => {
                fail::fail_point!("reception::placed", |_| std::process::abort());
                Ok(self.receiving(sender, spot, (id, session), (path, file), 0))
            }
            Err(error) => {
                // Without its file the row would show an empty upload that nobody can finish.
                if let Err(error) = self.store.abandon_receiving(
                    spot.namespace_id,
                    (id, session.as_str()),
                    (0, false),
                    self.clock.now(),
                ) {
                    tracing::warn!(
                        upload = id,
                        error = &error as &dyn std::error::Error,
                        "the row of an upload that has no file is still there"
                    );
                }
                Err(error.into())
            }
        }
    }

    fn resume(
        &self,
        sender: &Sender,
        spot: &Spot<'_>,
        found: &Sent,
        truncate: bool,
    ) -> Result<Receiving, ReceptionError> {
        let session = self.session();
        self.revoke(found.id);
        if !self.store.resume_receiving(spot.namespace_id, found, &session)? {
            return Err(ReceptionError::Refused("the file changed just now; look at it again"));
        }
        fail::fail_point!("reception::resumed", |_| std::process::abort());
        let path = self.layout(&sender.namespace).incoming_file(found.id);
        let (file, size) = if truncate {
            // A new file in the old one's place: what a dead session still writes goes nowhere.
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => (create(&path)?, 0),
            }
        } else {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            let size = recovery::whole_length(&file)?;
            (file, size)
        };
        Ok(self.receiving(sender, spot, (found.id, session), (path, file), size))
    }

    fn session(&self) -> String {
        format!("{}/{}", self.process.token(), self.opened.fetch_add(1, Ordering::Relaxed))
    }

    fn revoke(&self, id: i64) {
        if let Some(flag) = self.writers.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
            flag.store(true, Ordering::Release);
        }
    }

    fn receiving(
        &self,
        sender: &Sender,
        spot: &Spot<'_>,
        (id, session): (i64, String),
        (path, file): (PathBuf, File),
        size: u64,
    ) -> Receiving {
        let revoked = Arc::new(AtomicBool::new(false));
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&revoked));
        let key = receiving::Key { namespace_id: spot.namespace_id, id, session };
        let limits = self.live.current().limits.clone();
        let temporary = is_temporary(spot.name);
        Receiving::new(key, (path, file), size, (self.usage(&sender.namespace), limits), (revoked, temporary))
    }

    fn forget(&self, receiving: &Receiving) {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        // Only the own flag: after a take-over another session's stands under the same id.
        if writers.get(&receiving.key.id).is_some_and(|flag| Arc::ptr_eq(flag, &receiving.revoked)) {
            writers.remove(&receiving.key.id);
        }
    }

    /// CLOSE: makes the upload durable and `received` (or `awaiting_rename`). Whatever else happens, it is kept as a
    /// partial file, except where it can never become whole.
    ///
    /// # Errors
    /// [`ReceptionError::Incomplete`] for holes and refused writes, [`ReceptionError::Refused`] when another session has
    /// it now; spool and store.
    pub fn close(&self, sender: &Sender, receiving: Receiving) -> Result<Closed, ReceptionError> {
        match self.try_close(sender, &receiving) {
            Ok(closed) => {
                self.forget(&receiving);
                if !receiving.temporary {
                    (self.wake)();
                }
                Ok(closed)
            }
            Err(error) => {
                if let Err(error) = self.abandon(receiving) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "an upload could not be marked partial");
                }
                Err(error)
            }
        }
    }

    fn try_close(&self, sender: &Sender, receiving: &Receiving) -> Result<Closed, ReceptionError> {
        if receiving.revoked.load(Ordering::Acquire) {
            return Err(self.why_not_mine(receiving));
        }
        let bytes = receiving.whole()?;
        receiving.sync()?;
        fail::fail_point!("reception::synced", |_| std::process::abort());
        let completed = self.completed(sender, bytes, receiving.modified_at);
        let key = (receiving.key.id, receiving.key.session.as_str());
        if !self.store.complete_receiving(receiving.key.namespace_id, key, receiving.temporary, &completed)? {
            return Err(self.why_not_mine(receiving));
        }
        fail::fail_point!("reception::committed", |_| std::process::abort());
        receiving.settle();
        Ok(Closed { id: receiving.key.id, bytes, temporary: receiving.temporary })
    }

    /// Why the row is not this session's any more. Beginning is not durable: a crash of the store may take a row.
    fn why_not_mine(&self, receiving: &Receiving) -> ReceptionError {
        match self.store.is_upload_gone(receiving.key.namespace_id, receiving.key.id) {
            Ok(None) => ReceptionError::Refused(LOST),
            Ok(Some(true)) => ReceptionError::Refused(REMOVED),
            Ok(Some(false)) => ReceptionError::Refused(TAKEN_OVER),
            Err(error) => error.into(),
        }
    }

    fn completed(&self, sender: &Sender, bytes: u64, modified_at: Option<DateTime<Utc>>) -> crate::store::Completed {
        let at = self.clock.now();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        crate::store::Completed { bytes, modified_at, at, business_date: self.business_date(sender, at) }
    }

    fn business_date(&self, sender: &Sender, at: DateTime<Utc>) -> chrono::NaiveDate {
        let settings = self.live.current();
        let zone = settings.namespaces.get(&sender.namespace).map_or(chrono_tz::UTC, |namespace| namespace.timezone);
        at.with_timezone(&zone).date_naive()
    }

    /// The session is gone, or could not finish: `partial` with what is there without a gap, or `removed` where no
    /// resume can help.
    ///
    /// # Errors
    /// Spool and store. The row then stays in `receiving` until the next start.
    pub fn abandon(&self, receiving: Receiving) -> Result<(), ReceptionError> {
        self.forget(&receiving);
        if receiving.revoked.load(Ordering::Acquire) {
            return Ok(());
        }
        let (bytes, keep) = receiving.cut()?;
        let key = (receiving.key.id, receiving.key.session.as_str());
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let mine = self.store.abandon_receiving(receiving.key.namespace_id, key, (bytes, keep), self.clock.now())?;
        if mine && !keep {
            receiving.delete();
        }
        if mine && keep {
            receiving.settle();
        }
        drop(receiving);
        Ok(())
    }

    /// Bytes that the namespace has in the spool, those being written included.
    #[must_use]
    pub fn bytes_used(&self, namespace: &Name) -> u64 {
        self.usage(namespace).total()
    }
}

/// The store gave the id just now, so a file of that name is left of a row that a crash of the store has lost (beginning
/// is not durable): it makes room, and whoever still writes it writes nowhere.
fn create_anew(path: &std::path::Path) -> std::io::Result<File> {
    match create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(path)?;
            create(path)
        }
        other => other,
    }
}

fn create(path: &std::path::Path) -> std::io::Result<File> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let open = || File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
    match open() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let directory = path.parent().ok_or(error)?;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            open()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names() {
        for name in ["a.csv.filepart", "a.part", "a.csv.PARTIAL", "a.tmp", "a.upload", ".in.a.csv", ".a.csv", "."] {
            assert!(is_temporary(name), "{name}");
        }
        for name in ["a.csv", "part", "a.part.csv", "a.parts", "in.a.csv", "upload", "a..csv"] {
            assert!(!is_temporary(name), "{name}");
        }
    }
}
