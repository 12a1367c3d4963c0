//! A file that is hashed and written by a thread of its own, behind whoever makes it.
//!
//! To hash and write a large file costs almost as much as to make it. A few buffers go round between both sides. Short files have no
//! thread. An error of the disk comes out of a later write, or at the end; without the end nothing is known to be on disk.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use crate::digest::Sha256;

/// Bytes that are handed over at once.
const AT_ONCE: usize = 64 * 1024;
/// Buffers that may wait for the disk; one more is written, and one filled.
const WAITING: usize = 2;

/// Writes behind.
#[derive(Debug)]
pub(super) struct Behind<F> {
    filling: Vec<u8>,
    side: Side<F>,
}

#[derive(Debug)]
enum Side<F> {
    Here(Hashed<F>),
    There(There<F>),
    /// An error came out; there is no file any more.
    Failed,
}

/// Where bytes come to rest, and the hash of those that did.
#[derive(Debug)]
struct Hashed<F> {
    file: F,
    hash: Sha256,
}

impl<F: Write> Hashed<F> {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }
}

#[derive(Debug)]
struct There<F> {
    /// `None` when no more comes.
    full: Option<SyncSender<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<Hashed<F>>>>,
}

impl<F: Write + Send + 'static> There<F> {
    fn start(hashed: Hashed<F>) -> io::Result<Self> {
        let ((full, filled), (emptied, empty)) = (sync_channel(WAITING), channel());
        let thread =
            thread::Builder::new().name("behind".to_owned()).spawn(move || write(hashed, &filled, &emptied))?;
        Ok(Self { full: Some(full), empty, thread: Some(thread) })
    }
}

impl<F> There<F> {
    /// What the thread came to, when it has written all it was handed.
    fn end(&mut self) -> io::Result<Hashed<F>> {
        self.full = None;
        let gone = || io::Error::other("the thread that writes a file panicked");
        self.thread.take().map(JoinHandle::join).and_then(Result::ok).ok_or_else(gone)?
    }
}

/// Who lets a file go half way waits for its thread: afterwards nobody writes to it.
impl<F> Drop for There<F> {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.end();
        }
    }
}

fn write<F: Write>(
    mut hashed: Hashed<F>,
    filled: &Receiver<Vec<u8>>,
    emptied: &Sender<Vec<u8>>,
) -> io::Result<Hashed<F>> {
    while let Ok(mut bytes) = filled.recv() {
        hashed.take(&bytes)?;
        bytes.clear();
        // At the end nobody wants it back.
        let _ = emptied.send(bytes);
    }
    Ok(hashed)
}

impl<F: Write + Send + 'static> Behind<F> {
    pub(super) fn new(file: F) -> Self {
        Self { filling: Vec::new(), side: Side::Here(Hashed { file, hash: Sha256::default() }) }
    }

    /// The file with all bytes handed to the system, and their hash.
    pub(super) fn end(mut self) -> io::Result<(F, Sha256)> {
        let hashed = match std::mem::replace(&mut self.side, Side::Failed) {
            Side::Here(mut hashed) => {
                hashed.take(&self.filling)?;
                hashed
            }
            Side::There(mut there) => {
                let rest = std::mem::take(&mut self.filling);
                // Should the thread be gone, its end says why.
                let _ = there.full.as_ref().map(|full| full.send(rest));
                there.end()?
            }
            Side::Failed => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        Ok((hashed.file, hashed.hash))
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let mut there = match std::mem::replace(&mut self.side, Side::Failed) {
            Side::Here(hashed) => There::start(hashed)?,
            Side::There(there) => there,
            Side::Failed => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        let empty = there.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(AT_ONCE));
        let bytes = std::mem::replace(&mut self.filling, empty);
        if there.full.as_ref().is_none_or(|full| full.send(bytes).is_err()) {
            return there.end().and(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.side = Side::There(there);
        Ok(())
    }
}

impl<F: Write + Send + 'static> Write for Behind<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = AT_ONCE.saturating_sub(self.filling.len());
        let (now, rest) = bytes.split_at(room.min(bytes.len()));
        self.filling.extend_from_slice(now);
        if self.filling.len() < AT_ONCE {
            return Ok(now.len());
        }
        self.hand_over()?;
        let more = rest.get(..rest.len().min(AT_ONCE - 1)).unwrap_or_default();
        self.filling.extend_from_slice(more);
        Ok(now.len() + more.len())
    }

    /// Nothing is known to be written before the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As a file on disk.
pub(super) type FileBehind = Behind<File>;

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::digest::hexadecimal;

    /// Takes `room` bytes, then fails or panics.
    #[derive(Clone)]
    struct Disk {
        taken: Arc<Mutex<Vec<u8>>>,
        room: usize,
        panics: bool,
    }

    fn disk(room: usize, panics: bool) -> Disk {
        Disk { taken: Arc::default(), room, panics }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut taken = self.taken.lock().unwrap();
            if taken.len() + bytes.len() > self.room {
                assert!(!self.panics, "as if the code were wrong");
                return Err(io::ErrorKind::StorageFull.into());
            }
            taken.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[track_caller]
    fn check(parts: &[usize]) {
        let disk = disk(usize::MAX, false);
        let mut behind = Behind::new(disk.clone());
        let mut expected = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let bytes: Vec<u8> = (0..*part).map(|byte| u8::try_from((byte * 7 + number) % 251).unwrap()).collect();
            behind.write_all(&bytes).unwrap();
            expected.extend_from_slice(&bytes);
        }
        let (_, hash) = behind.end().unwrap();
        assert!(*disk.taken.lock().unwrap() == expected, "{parts:?}");
        let mut whole = Sha256::default();
        whole.update(&expected);
        assert_eq!(hexadecimal(&hash.finish()), hexadecimal(&whole.finish()), "{parts:?}");
    }

    #[test]
    fn all_bytes_in_order() {
        for parts in [&[][..], &[0], &[3, 0, 4], &[AT_ONCE - 1], &[AT_ONCE], &[AT_ONCE, 1], &[1, 5 * AT_ONCE, 7]] {
            check(parts);
        }
        check(&[1_000; 700]);
        check(&[100_001; 40]);
    }

    #[test]
    fn an_error_comes_out() {
        // At the end of a short file, at the end of a long one, and in the midst of it.
        let mut behind = Behind::new(disk(0, false));
        behind.write_all(b"x").unwrap();
        assert_eq!(behind.end().err().map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
        let mut behind = Behind::new(disk(AT_ONCE, false));
        behind.write_all(&vec![0; AT_ONCE + 1]).unwrap();
        assert_eq!(behind.end().err().map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
        let mut behind = Behind::new(disk(AT_ONCE, false));
        let failed = (0..100).find_map(|_| behind.write_all(&vec![0; AT_ONCE]).err()).unwrap();
        assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
        assert_eq!(behind.write_all(&vec![0; AT_ONCE]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(behind.end().err().map(|error| error.kind()), Some(io::ErrorKind::BrokenPipe));
    }

    #[test]
    fn a_panic_is_an_error() {
        let mut behind = Behind::new(disk(AT_ONCE, true));
        let failed = (0..100).find_map(|_| behind.write_all(&vec![0; AT_ONCE]).err()).unwrap();
        assert_eq!(failed.to_string(), "the thread that writes a file panicked");
        let mut behind = Behind::new(disk(AT_ONCE, true));
        behind.write_all(&vec![0; AT_ONCE + 1]).unwrap();
        assert!(behind.end().is_err());
    }

    #[test]
    fn nobody_writes_to_a_file_that_was_let_go() {
        let disk = disk(usize::MAX, false);
        let mut behind = Behind::new(disk.clone());
        behind.write_all(&vec![0; 3 * AT_ONCE + 5]).unwrap();
        drop(behind);
        assert_eq!(Arc::strong_count(&disk.taken), 1, "the thread is still there");
    }
}
