//! What is kept for `archive_days` and then goes: originals in the archive after their verdict, reports, assignment files.
//!
//! The decision is pure and asks only what the store says; a file that the store does not know stays. Nothing goes before its
//! verdict is answered, no quarantined file ever goes, no list whose batch still needs it. Reports and assignment files stay
//! a day at least, whatever is set: they are answers. Deleting may be repeated; a crash leaves some of it for the next time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use super::{Layout, durable, parse_date};
use crate::store::retention::{KnownBatch, KnownUpload};
use crate::store::{Store, StoreError};

/// Answers stay at least so long.
const ANSWERS_LEAST: Duration = Duration::from_secs(24 * 3600);
/// How many files the store is asked about at once.
const ASKED_AT_ONCE: usize = 1000;

/// Something could not be looked through.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The disk.
    #[error("look through old files")]
    Disk(#[from] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Originals of uploads.
    pub originals: u64,
    /// Reports and rejects files.
    pub reports: u64,
    /// Files of batches.
    pub assignments: u64,
}

impl Gone {
    /// Whether anything went.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Deletes what of one namespace is older than `keep`.
///
/// # Errors
/// [`RetentionError`]; what went before it is gone, the rest stays for the next time.
pub fn sweep(
    store: &Store,
    layout: &Layout,
    namespace_id: i32,
    keep: Duration,
    now: DateTime<Utc>,
) -> Result<Gone, RetentionError> {
    let answers = keep.max(ANSWERS_LEAST);
    let mut gone = Gone::default();
    for part in files(&layout.archive(), |name| name.parse().ok())?.chunks(ASKED_AT_ONCE) {
        let known = store.known_uploads(namespace_id, &ids(part))?;
        gone.originals += remove(part, |id| known.get(&id).is_some_and(|upload| original_may_go(upload, keep, now)))?;
    }
    for part in files(&layout.reports(), upload_of)?.chunks(ASKED_AT_ONCE) {
        let known = store.known_uploads(namespace_id, &ids(part))?;
        gone.reports += remove(part, |id| known.get(&id).is_some_and(|upload| report_may_go(upload, answers, now)))?;
    }
    for (path, date) in files(&layout.reports(), suspicion_of)? {
        if dated_may_go(date, answers, now) {
            durable::remove_if_there(&path)?;
            gone.reports += 1;
        }
    }
    for campaign in directories(&layout.root().join("assignments"))? {
        for part in files(&campaign, batch_of)?.chunks(ASKED_AT_ONCE) {
            let known = store.known_batches(namespace_id, &ids(part))?;
            gone.assignments +=
                remove(part, |id| known.get(&id).is_some_and(|batch| export_may_go(batch, answers, now)))?;
        }
    }
    Ok(gone)
}

/// Whether the original of an upload may go.
fn original_may_go(upload: &KnownUpload, keep: Duration, now: DateTime<Utc>) -> bool {
    // A row without a batch is a list that still waits for its firing.
    let needed = upload.makes_batch
        && upload.batch.as_ref().is_none_or(|batch| batch.exported_at.is_none() || batch.corrected_until > now);
    let settled = upload.reported_at.is_some() && !is_open(&upload.state);
    settled && !needed && upload.finished_at.is_some_and(|verdict| is_past(verdict, keep, now))
}

fn report_may_go(upload: &KnownUpload, keep: Duration, now: DateTime<Utc>) -> bool {
    !is_open(&upload.state) && upload.reported_at.is_some_and(|reported| is_past(reported, keep, now))
}

fn export_may_go(batch: &KnownBatch, keep: Duration, now: DateTime<Utc>) -> bool {
    batch.corrected_until <= now && batch.exported_at.is_some_and(|exported| is_past(exported, keep, now))
}

fn dated_may_go(date: NaiveDate, keep: Duration, now: DateTime<Utc>) -> bool {
    // Two days on, it has ended in every zone.
    is_past(date.and_time(chrono::NaiveTime::MIN).and_utc() + TimeDelta::days(2), keep, now)
}

/// Whether the upload has no final verdict: a quarantined file waits for an admin, a released one is processed again.
fn is_open(state: &str) -> bool {
    !matches!(state, "applied" | "rejected" | "duplicate" | "checked" | "discarded")
}

fn is_past(since: DateTime<Utc>, keep: Duration, now: DateTime<Utc>) -> bool {
    now.signed_duration_since(since).to_std().is_ok_and(|age| age >= keep)
}

/// `<original name>.<upload id>.report.json` or `.rejects.csv`
fn upload_of(name: &str) -> Option<i64> {
    let stem = name.strip_suffix(".report.json").or_else(|| name.strip_suffix(".rejects.csv"))?;
    stem.rsplit('.').next()?.parse().ok()
}

/// `suspicion.<date>.csv`
fn suspicion_of(name: &str) -> Option<NaiveDate> {
    parse_date(name.strip_prefix("suspicion.")?.strip_suffix(".csv")?)
}

/// `<stem>.<batch>.<what>`, where the stem has no dot.
fn batch_of(name: &str) -> Option<i64> {
    let mut parts = name.split('.').skip(1);
    let batch = parts.next()?.parse().ok()?;
    parts.next().map(|_| batch)
}

fn ids(part: &[(PathBuf, i64)]) -> Vec<i64> {
    part.iter().map(|(_, id)| *id).collect()
}

fn remove(part: &[(PathBuf, i64)], may_go: impl Fn(i64) -> bool) -> io::Result<u64> {
    let mut gone = 0;
    for (path, id) in part {
        if may_go(*id) {
            durable::remove_if_there(path)?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// The files of a directory whose names `read` understands.
fn files<T>(directory: &Path, read: impl Fn(&str) -> Option<T>) -> io::Result<Vec<(PathBuf, T)>> {
    let mut found = Vec::new();
    for entry in entries(directory)? {
        let entry = entry?;
        let what = entry.file_name().to_str().and_then(&read);
        found.extend(what.filter(|_| entry.path().is_file()).map(|what| (entry.path(), what)));
    }
    Ok(found)
}

fn directories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in entries(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The entries of a directory; none when it is not there.
fn entries(directory: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn day(day: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(day)
    }

    fn upload(state: &str) -> KnownUpload {
        let (finished_at, reported_at) = (Some(day(10)), Some(day(10)));
        KnownUpload { id: 1, state: state.to_owned(), finished_at, reported_at, makes_batch: false, batch: None }
    }

    fn list(exported_at: Option<i64>, corrected_until: i64) -> KnownUpload {
        let batch = KnownBatch { id: 1, exported_at: exported_at.map(day), corrected_until: day(corrected_until) };
        KnownUpload { makes_batch: true, batch: Some(batch), ..upload("applied") }
    }

    /// `original`: the day from which a file that is kept for five days may go.
    #[track_caller]
    fn check(upload: &KnownUpload, original: Option<i64>) {
        for now in 0..40 {
            let may_go = original_may_go(upload, DAY * 5, day(now));
            assert_eq!(may_go, original.is_some_and(|from| now >= from), "day {now}: {upload:?}");
        }
    }

    #[test]
    fn originals_go_after_their_verdict_only() {
        for state in ["applied", "rejected", "duplicate", "checked", "discarded"] {
            check(&upload(state), Some(15));
        }
        for state in ["receiving", "partial", "awaiting_rename", "received", "active", "deferred", "quarantined"] {
            check(&upload(state), None);
        }
        check(&KnownUpload { reported_at: None, ..upload("applied") }, None);
        check(&KnownUpload { finished_at: None, ..upload("applied") }, None);
    }

    #[test]
    fn a_list_stays_while_its_batch_needs_it() {
        check(&list(Some(11), 12), Some(15));
        check(&list(Some(20), 21), Some(21));
        check(&list(None, 12), None);
        check(&KnownUpload { batch: None, ..list(None, 0) }, None);
    }

    #[test]
    fn answers_stay_for_themselves() {
        assert!(
            report_may_go(&upload("applied"), DAY * 5, day(15)) && !report_may_go(&upload("applied"), DAY * 5, day(14))
        );
        assert!(!report_may_go(&upload("quarantined"), DAY * 5, day(90)));
        let batch = |exported_at: Option<i64>| KnownBatch {
            id: 1,
            exported_at: exported_at.map(day),
            corrected_until: day(12),
        };
        assert!(
            export_may_go(&batch(Some(11)), DAY * 5, day(16)) && !export_may_go(&batch(Some(11)), DAY * 5, day(15))
        );
        assert!(!export_may_go(&batch(None), DAY * 5, day(90)));
        assert!(!export_may_go(&batch(Some(10)), DAY, day(11)));
    }

    #[test]
    fn names() {
        assert_eq!(upload_of("spring.csv.gpg.17.report.json"), Some(17));
        assert_eq!(upload_of("a.18.rejects.csv"), Some(18));
        assert_eq!(upload_of("suspicion.2026-03-02.csv"), None);
        assert_eq!(suspicion_of("suspicion.2026-03-02.csv"), Some("2026-03-02".parse().unwrap()));
        assert_eq!(suspicion_of("suspicion.x.csv.18.rejects.csv"), None);
        assert_eq!(batch_of("list.7.unassigned.csv.pgp"), Some(7));
        assert_eq!(batch_of("list.7"), None);
        assert_eq!(batch_of("list.csv"), None);
    }
}
