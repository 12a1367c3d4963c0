//! The collect stage: a file of a batch was fetched; with the last of them the batch is collected.
//!
//! Who tells it is the daemon, which hears of every finished download. The name of the file names the batch; the manifest
//! that was recorded before anything was published says which files there are.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::manifest;
use crate::config::Name;
use crate::store::pickups::{NewPickup, Noted};
use crate::store::{Store, StoreError};

/// A finished download.
#[derive(Clone, Copy, Debug)]
pub struct Download<'a> {
    /// The user's namespace.
    pub namespace: &'a Name,
    /// The path as the user sees it.
    pub path: &'a [u8],
    /// The user.
    pub user: &'a str,
    /// The file's size.
    pub bytes: u64,
    /// When.
    pub at: DateTime<Utc>,
}

/// Writes a download down if it is of a batch's file. With `patient`, [`Noted::TooEarly`] may ask to come again.
///
/// # Errors
/// Any [`StoreError`]; nothing was written down then.
pub fn collect(store: &Store, download: &Download<'_>, patient: bool) -> Result<Noted, StoreError> {
    let Some(BatchFile { campaign, batch_id, file }) = BatchFile::parse(download.path) else {
        return Ok(Noted::NoBatch);
    };
    let namespace_id = store.namespace_id(download.namespace)?;
    let pickup = NewPickup { campaign, batch_id, file, user: download.user, bytes: download.bytes, at: download.at };
    let noted =
        store.note_pickup(namespace_id, &pickup, patient, |recorded, fetched| is_complete(recorded, file, fetched))?;
    if noted == Noted::Collected {
        tracing::info!(namespace = %download.namespace, campaign, batch = batch_id, "a batch was collected");
    }
    Ok(noted)
}

/// A path under `/assignments/`, read: `/assignments/<campaign>/<stem>.<batch>.<what>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BatchFile<'a> {
    campaign: &'a str,
    batch_id: i64,
    file: &'a str,
}

impl<'a> BatchFile<'a> {
    fn parse(path: &'a [u8]) -> Option<Self> {
        let path = std::str::from_utf8(path).ok()?;
        let (campaign, file) = path.strip_prefix('/').unwrap_or(path).strip_prefix("assignments/")?.split_once('/')?;
        // A stem has no dot.
        let batch_id = file.split('.').nth(1)?.parse().ok()?;
        (!file.contains('/')).then_some(Self { campaign, batch_id, file })
    }
}

/// Whether `fetched` holds the manifest and every file that it lists. `file` is one of the batch's names.
fn is_complete(recorded: &str, file: &str, fetched: &BTreeSet<String>) -> bool {
    let Some(files) = manifest::listed(recorded) else { return false };
    let stem: Vec<&str> = file.split('.').take(2).collect();
    let manifest = format!("{}.manifest.json", stem.join("."));
    fetched.contains(&manifest) && files.iter().all(|listed| fetched.contains(&listed.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Option<(&str, i64, &str)>) {
        let read = BatchFile::parse(path.as_bytes());
        assert_eq!(read.map(|file| (file.campaign, file.batch_id, file.file)), expected, "{path}");
    }

    #[test]
    fn paths() {
        check("/assignments/winback/list.7.csv", Some(("winback", 7, "list.7.csv")));
        check("/assignments/winback/list.7.manifest.json", Some(("winback", 7, "list.7.manifest.json")));
        check("/assignments/winback/list.7.unassigned.csv.pgp", Some(("winback", 7, "list.7.unassigned.csv.pgp")));
        check("/assignments/winback/list.csv", None);
        check("/assignments/list.7.csv", None);
        check("/assignments/winback/a/list.7.csv", None);
        check("/reports/list.7.csv", None);
        check("/openpgp/coupond.asc", None);
    }

    #[test]
    fn complete_with_the_manifest_and_all_it_lists() {
        let recorded = r#"{"files":[{"name":"l.7.csv","sha256":"","bytes":0,"rows":0},
            {"name":"l.7.unassigned.csv","sha256":"","bytes":0,"rows":0}]}"#;
        let complete =
            |names: &[&str]| is_complete(recorded, "l.7.csv", &names.iter().map(|name| (*name).to_owned()).collect());
        assert!(!complete(&["l.7.csv"]));
        assert!(!complete(&["l.7.csv", "l.7.unassigned.csv"]));
        assert!(!complete(&["l.7.csv", "l.7.manifest.json", "l.7.corrections.csv"]));
        assert!(complete(&["l.7.csv", "l.7.unassigned.csv", "l.7.manifest.json"]));
        assert!(!is_complete("", "l.7.csv", &BTreeSet::new()));
    }
}
