//! Files put into a namespace's directories locally (cp, rsync, NFS): taken once they have been still long enough.
//!
//! Taking is: a row in state `receiving` with the session `local`, a rename into `.spool/incoming`, the row to `received`.
//! A crash leaves a row without its file (the file is still where it was dropped, and is taken again) or with it (start-up
//! finishes the row).
//!
//! What can never be taken stays where it is, and is told apart: a name that no report could carry, a link, a file where no
//! file belongs.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Kind, Layout, Place, inbound_name, is_temporary};

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

/// A local file that is never taken as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Left {
    /// Its path; the name may be anything.
    pub path: PathBuf,
    /// Why.
    pub why: &'static str,
}

/// What lies in a namespace's directories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Still for long enough, by path.
    pub ready: Vec<Drop>,
    /// Never taken, by path.
    pub left: Vec<Left>,
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

    /// The files under `places` that have been still for `settle`, and those that are never taken. Temporary names and
    /// directories are left alone.
    ///
    /// # Errors
    /// Whatever the file system says about a directory that exists.
    pub fn look(
        &mut self,
        layout: &Layout,
        places: &[Place],
        now: DateTime<Utc>,
        settle: Duration,
    ) -> io::Result<Found> {
        let mut found = Found::default();
        let mut present = HashMap::new();
        for place in places {
            for entry in entries(&layout.drop_directory(place))? {
                let path = entry.path();
                let Ok(metadata) = path.symlink_metadata() else { continue };
                if metadata.is_dir() || is_unfinished(&entry) {
                    continue;
                }
                let name = match inbound_name(entry.file_name().as_encoded_bytes()) {
                    Ok(name) if metadata.is_file() => name.to_owned(),
                    Ok(_) => {
                        found.left.push(Left { path, why: "it is no regular file" });
                        continue;
                    }
                    Err(why) => {
                        found.left.push(Left { path, why });
                        continue;
                    }
                };
                if self.observe(&path, metadata.len(), metadata.modified().ok(), Moment { now, settle }) {
                    found.ready.push(Drop { place: place.clone(), name, path: path.clone(), bytes: metadata.len() });
                }
                if let Some(seen) = self.seen.remove(&path) {
                    present.insert(path, seen);
                }
            }
        }
        self.seen.retain(|path, _| !path.starts_with(layout.root()));
        self.seen.extend(present);
        found.left.extend(astray(layout, places)?);
        found.ready.sort_by(|one, other| one.path.cmp(&other.path));
        found.left.sort();
        Ok(found)
    }
}

/// Files where none belongs: beside the campaigns' directories, or in a directory that names no bank or campaign.
fn astray(layout: &Layout, places: &[Place]) -> io::Result<Vec<Left>> {
    let known: BTreeSet<PathBuf> = places.iter().map(|place| layout.drop_directory(place)).collect();
    let is = |entry: &fs::DirEntry, wanted: fn(&fs::FileType) -> bool| {
        !is_unfinished(entry) && entry.file_type().is_ok_and(|found| wanted(&found))
    };
    let mut left = Vec::new();
    let mut add = |directory: &Path, why| match entries(directory) {
        Ok(entries) => {
            let files = entries.iter().filter(|entry| is(entry, fs::FileType::is_file));
            left.extend(files.map(|entry| Left { path: entry.path(), why }));
        }
        // Whatever lies in it, it is none of ours and must not hold up what is.
        Err(_) => left.push(Left { path: directory.to_owned(), why: "the directory cannot be read" }),
    };
    add(&layout.root().join("check"), "it lies in no directory of a kind");
    for inbound in [layout.root().to_owned(), layout.root().join("check")] {
        for kind in Kind::EVERY {
            let directory = inbound.join(kind.as_str());
            if !known.contains(&directory) {
                add(&directory, "it lies in no campaign's directory");
            }
            for below in entries(&directory)?.iter().filter(|below| is(below, fs::FileType::is_dir)) {
                if !known.contains(&below.path()) {
                    add(&below.path(), "its directory names no bank or campaign of the configuration");
                }
            }
        }
    }
    Ok(left)
}

/// What is in a directory; nothing where there is none.
fn entries(directory: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether its name says that somebody still writes it.
fn is_unfinished(entry: &fs::DirEntry) -> bool {
    is_temporary(&entry.file_name().to_string_lossy())
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
        fs::create_dir(layout.drop_directory(&place).join("sub")).unwrap();

        let start = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let settle = Duration::from_secs(10);
        let mut stillness = Stillness::default();
        let mut ready = |after: i64| {
            stillness
                .look(&layout, std::slice::from_ref(&place), start + TimeDelta::seconds(after), settle)
                .unwrap()
                .ready
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

    #[test]
    fn what_is_never_taken_is_told_apart() {
        use std::os::unix::ffi::OsStrExt as _;
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path(), &Name::parse("acme").unwrap());
        let places = ["redemptions", "recipients/winback"].map(|path| Place::parse(path).unwrap());
        for path in ["redemptions/sub", "recipients/winback", "recipients/lost", "check/coupons"] {
            fs::create_dir_all(layout.root().join(path)).unwrap();
        }
        let write = |path: &[u8]| fs::write(layout.root().join(std::ffi::OsStr::from_bytes(path)), "A\n").unwrap();
        write(b"redemptions/good.csv");
        write(b"redemptions/.rsync.x");
        write(b"recipients/.hidden");
        for path in [
            b"redemptions/a\xff.csv".as_slice(),
            b"redemptions/b\n.csv",
            &[b"redemptions/".as_slice(), &[b'l'; 201]].concat(),
            b"redemptions/sub/c.csv",
            b"recipients/d.csv",
            b"recipients/lost/e.csv",
            b"check/f.csv",
            b"check/coupons/g.csv",
        ] {
            write(path);
        }
        std::os::unix::fs::symlink("/dev/null", layout.root().join("redemptions/link.csv")).unwrap();
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let found = Stillness::default().look(&layout, &places, now, Duration::ZERO).unwrap();
        assert_eq!(found.ready.iter().map(|drop| drop.name.as_str()).collect::<Vec<_>>(), ["good.csv"]);
        assert_eq!(found.left.len(), 9, "{:#?}", found.left);
        assert!(found.left.iter().all(|left| !left.path.ends_with("good.csv")));
    }
}
