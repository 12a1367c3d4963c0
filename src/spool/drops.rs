//! Files put into a namespace's directories locally (cp, rsync, NFS): taken once they have been still long enough.
//!
//! Taking is: a row in state `receiving` with the session `local`, a rename into `.spool/incoming`, the row to `received`.
//! A crash leaves a row without its file (the file is still where it was dropped, and is taken again) or with it (start-up
//! finishes the row).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Layout, Place, is_temporary};

/// A local file that is ready to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drop {
    /// Where it was put.
    pub place: Place,
    /// Its name.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// Remembers since when each local file has been still.
#[derive(Debug, Default)]
pub struct Stillness {
    seen: HashMap<PathBuf, Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    bytes: u64,
    modified: Option<std::time::SystemTime>,
    since: DateTime<Utc>,
}

impl Stillness {
    /// Whether a file that has this size and time now has had them for `settle`.
    fn observe(&mut self, path: &Path, bytes: u64, modified: Option<std::time::SystemTime>, at: Moment) -> bool {
        match self.seen.get(path) {
            Some(seen) if seen.bytes == bytes && seen.modified == modified => {
                at.now.signed_duration_since(seen.since).to_std().is_ok_and(|still| still >= at.settle)
            }
            _ => {
                self.seen.insert(path.to_owned(), Seen { bytes, modified, since: at.now });
                at.settle.is_zero()
            }
        }
    }

    /// The files under `places` that have been still for `settle`. Temporary names, directories, links and names that are
    /// not UTF-8 are left alone.
    ///
    /// # Errors
    /// Whatever the file system says about a directory that exists.
    pub fn ready(
        &mut self,
        layout: &Layout,
        places: &[Place],
        now: DateTime<Utc>,
        settle: Duration,
    ) -> io::Result<Vec<Drop>> {
        let mut ready = Vec::new();
        let mut present = HashMap::new();
        for place in places {
            let entries = match fs::read_dir(layout.drop_directory(place)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let Ok(metadata) = entry.path().symlink_metadata() else { continue };
                if !metadata.is_file() || is_temporary(&name) || name.chars().any(char::is_control) || name.len() > 200
                {
                    continue;
                }
                let path = entry.path();
                if self.observe(&path, metadata.len(), metadata.modified().ok(), Moment { now, settle }) {
                    ready.push(Drop { place: place.clone(), name, path: path.clone(), bytes: metadata.len() });
                }
                if let Some(seen) = self.seen.remove(&path) {
                    present.insert(path, seen);
                }
            }
        }
        self.seen.retain(|path, _| !path.starts_with(layout.root()));
        self.seen.extend(present);
        ready.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(ready)
    }
}

#[derive(Clone, Copy)]
struct Moment {
    now: DateTime<Utc>,
    settle: Duration,
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::config::Name;

    #[test]
    fn a_file_is_ready_once_it_is_still() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path(), &Name::parse("acme").unwrap());
        let place = Place::parse("redemptions").unwrap();
        fs::create_dir_all(layout.drop_directory(&place)).unwrap();
        let path = layout.drop_directory(&place).join("used.csv");
        fs::write(&path, "A\n").unwrap();
        fs::write(layout.drop_directory(&place).join(".rsync.x"), "A\n").unwrap();
        std::os::unix::fs::symlink(&path, layout.drop_directory(&place).join("link.csv")).unwrap();

        let start = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let settle = Duration::from_secs(10);
        let mut stillness = Stillness::default();
        let mut ready = |after: i64| {
            stillness
                .ready(&layout, std::slice::from_ref(&place), start + TimeDelta::seconds(after), settle)
                .unwrap()
                .into_iter()
                .map(|ready| ready.name)
                .collect::<Vec<_>>()
        };
        assert!(ready(0).is_empty());
        assert!(ready(9).is_empty());
        fs::write(&path, "A\nB\n").unwrap();
        assert!(ready(11).is_empty(), "it grew: the time starts anew");
        assert!(ready(20).is_empty());
        assert_eq!(ready(21), ["used.csv"]);
    }
}
