//! What a session has open. A handle is a random number, so that no client can guess or count its way to another one,
//! in hexadecimal digits, because some clients keep handles as text.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::packet::{Entry, Refusal};
use super::path::VirtualPath;
use super::tree::Shelf;
use crate::spool::Receiving;

/// An inbound file being written.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) receiving: Receiving,
    pub(super) append: bool,
}

/// A file on disk: an outbound one being read, or one in `/exchange`.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) file: File,
    /// The outbound directory; `None`: `/exchange`.
    pub(super) shelf: Option<Shelf>,
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) append: bool,
    /// Components below `/exchange` of a file opened for writing: its directory is synced at CLOSE.
    pub(super) below: Vec<Vec<u8>>,
    pub(super) size: u64,
    pub(super) bytes_read: u64,
    pub(super) read_end: u64,
    pub(super) changed: bool,
}

/// A directory being listed.
#[derive(Debug)]
pub(super) enum Listing {
    /// All of it is known.
    Ready(VecDeque<Entry>),
    /// Read from disk as the client asks; of `/reports`, only what the role may see.
    Disk { directory: OwnedFd, entries: Box<rustix::fs::Dir>, shelf: Option<Shelf> },
}

/// What a handle stands for.
#[derive(Debug)]
pub(super) enum Open {
    Upload(Box<Upload>),
    Plain(Box<Plain>),
    Directory(Listing),
}

/// One thing that is open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) what: Open,
    pub(super) path: VirtualPath,
    pub(super) since: Instant,
}

/// The handles of one session.
#[derive(Debug, Default)]
pub(super) struct Handles {
    open: HashMap<u64, Opened>,
    directories: usize,
}

impl Handles {
    /// Refuses when `most_files` or `most_directories` are open already. Asked before anything is opened.
    pub(super) fn room(&self, directory: bool, most: usize) -> Result<(), Refusal> {
        let open = if directory { self.directories } else { self.open.len() - self.directories };
        if open < most {
            return Ok(());
        }
        let what = if directory { "directories" } else { "files" };
        Err(Refusal::failure(format!("too many open {what}: at most {most} in a session; close some first")))
    }

    pub(super) fn insert(&mut self, what: Open, path: VirtualPath) -> [u8; 16] {
        let mut id: u64 = rand::random();
        while self.open.contains_key(&id) {
            id = rand::random();
        }
        if matches!(what, Open::Directory(_)) {
            self.directories += 1;
        }
        self.open.insert(id, Opened { what, path, since: Instant::now() });
        wire(id)
    }

    pub(super) fn get(&mut self, handle: &[u8]) -> Result<&mut Opened, Refusal> {
        key(handle).and_then(|id| self.open.get_mut(&id)).ok_or_else(unknown)
    }

    pub(super) fn remove(&mut self, handle: &[u8]) -> Result<Opened, Refusal> {
        let opened = key(handle).and_then(|id| self.open.remove(&id)).ok_or_else(unknown)?;
        if matches!(opened.what, Open::Directory(_)) {
            self.directories -= 1;
        }
        Ok(opened)
    }

    pub(super) fn drain(&mut self) -> Vec<Opened> {
        self.directories = 0;
        self.open.drain().map(|(_, opened)| opened).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

fn wire(id: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (place, digit) in digits.iter_mut().enumerate() {
        let nibble = id >> (60 - 4 * place) & 0xf;
        *digit = *b"0123456789abcdef".get(nibble as usize).unwrap_or(&b'0');
    }
    digits
}

/// Exactly what [`wire`] makes: 16 digits, lower case.
fn key(handle: &[u8]) -> Option<u64> {
    let id = u64::from_str_radix(std::str::from_utf8(handle).ok()?, 16).ok()?;
    (wire(id) == handle).then_some(id)
}

fn unknown() -> Refusal {
    Refusal::failure("no such handle")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_exact_and_counted() {
        let mut handles = Handles::default();
        let listing = || Open::Directory(Listing::Ready(VecDeque::new()));
        let wire = handles.insert(listing(), VirtualPath::default());
        assert!(handles.get(&wire).is_ok());
        assert!(handles.get(&wire[..15]).is_err());
        assert!(handles.get(&wire.map(|digit| if digit == b'a' { b'A' } else { b'+' })).is_err());
        assert!(handles.get(&[wire.as_slice(), b"\0"].concat()).is_err());
        assert!(handles.get(b"").is_err());
        assert!(handles.get(&[0; 300]).is_err());
        assert!(handles.room(true, 1).is_err());
        assert!(handles.room(false, 1).is_ok());
        assert!(handles.remove(&wire).is_ok());
        assert!(handles.remove(&wire).is_err());
        assert!(handles.room(true, 1).is_ok());
    }
}
