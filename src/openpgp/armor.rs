//! One armored message, and nothing armored behind it.
//!
//! The library stops at the end of the first armor and never looks at what follows. A footer is harmless; a second
//! message would be lost without a word, so the source is read to its end and searched for one.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use memchr::memmem;

const BEGIN: &[u8] = b"-----BEGIN PGP ";

/// The armored bytes, read by the library first and to their end afterwards. Clones share the position.
#[derive(Clone)]
pub(super) struct ArmoredSource(Arc<Mutex<Watched>>);

struct Watched {
    reader: Box<dyn Read + Send + Sync>,
    /// The last bytes read, too few to hold a header line.
    tail: Vec<u8>,
    headers: usize,
}

impl ArmoredSource {
    pub(super) fn new(reader: impl Read + Send + Sync + 'static) -> Self {
        Self(Arc::new(Mutex::new(Watched { reader: Box::new(reader), tail: Vec::new(), headers: 0 })))
    }

    /// Reads to the end; whether one message was all.
    pub(super) fn is_alone(&mut self) -> io::Result<bool> {
        io::copy(self, &mut io::sink())?;
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).headers <= 1)
    }
}

impl Read for ArmoredSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let read = watched.reader.read(buffer)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        // Across the seam first, then within.
        let seam = bytes.get(..BEGIN.len() - 1).unwrap_or(bytes);
        watched.tail.extend_from_slice(seam);
        let found = memmem::find_iter(&watched.tail, BEGIN).count() + memmem::find_iter(bytes, BEGIN).count();
        watched.headers += found;
        if seam.len() < bytes.len() {
            watched.tail.clear();
            let last = bytes.len().saturating_sub(BEGIN.len() - 1);
            watched.tail.extend_from_slice(bytes.get(last..).unwrap_or_default());
        }
        let surplus = watched.tail.len().saturating_sub(BEGIN.len() - 1);
        watched.tail.drain(..surplus);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, alone: bool) {
        for size in 1..=text.len() {
            let mut source = ArmoredSource::new(io::Cursor::new(text.to_owned().into_bytes()));
            let mut buffer = vec![0; size];
            while source.read(&mut buffer).unwrap() > 0 {}
            assert_eq!(source.is_alone().unwrap(), alone, "in pieces of {size}");
        }
    }

    #[test]
    fn second_messages() {
        check("-----BEGIN PGP MESSAGE-----\n\nabc\n-----END PGP MESSAGE-----\nregards\n", true);
        check("-----BEGIN PGP MESSAGE-----\n\nabc\n-----END PGP MESSAGE-----\n-----BEGIN PGP MESSAGE-----\n", false);
        check("-----BEGIN PGP -----BEGIN PGP ", false);
    }
}
