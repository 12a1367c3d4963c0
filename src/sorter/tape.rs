//! Rows as they were written, to be read as often as one likes.
//!
//! A few stay in memory. More go to a file that has no name, and is gone with the process, in blocks that are sealed with
//! AES-256-GCM under a key that is in this process's memory only: what a file brought never rests on disk in the clear.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;

use super::run::RunRow;

/// So many bytes of rows make a block on disk; fewer stay in memory. Who merges runs has a block of each.
pub(super) const BLOCK: usize = 32 * 1024;

/// Rows that are written one after another.
#[derive(Debug)]
pub struct Tape {
    directory: PathBuf,
    sealed: Option<Sealed>,
    /// The rows behind the last block on disk, packed.
    tail: Vec<u8>,
}

/// What stands before the text of a packed row: its number, its group, and how long the text is.
pub(super) const HEAD: usize = 16;

/// Puts a row behind others.
pub(super) fn pack(rows: &mut Vec<u8>, row: RunRow<'_>) -> io::Result<()> {
    let length = u32::try_from(row.text.len()).map_err(io::Error::other)?;
    let head = u128::from(row.number) | u128::from(row.group) << 64 | u128::from(length) << 96;
    rows.extend_from_slice(&head.to_le_bytes());
    rows.extend_from_slice(row.text.as_bytes());
    Ok(())
}

/// A row among others that are packed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Packed {
    pub(super) number: u64,
    pub(super) group: u32,
    text: usize,
    /// Where its text ends, and the next row begins.
    pub(super) end: usize,
}

impl Packed {
    /// The row that begins at `start`; `None` where nothing was packed.
    pub(super) fn at(rows: &[u8], start: usize) -> Option<Self> {
        let head = u128::from_le_bytes(*rows.get(start..)?.first_chunk::<HEAD>()?);
        let low = |shift: u32| u32::try_from(head >> shift & u128::from(u32::MAX)).ok();
        let (text, length) = (start + HEAD, usize::try_from(low(96)?).ok()?);
        let end = text.checked_add(length).filter(|end| *end <= rows.len())?;
        Some(Self { number: u64::from(low(32)?) << 32 | u64::from(low(0)?), group: low(64)?, text, end })
    }

    /// Its text, which is compared without a look at whether it is text.
    pub(super) fn bytes(self, rows: &[u8]) -> &[u8] {
        rows.get(self.text..self.end).unwrap_or_default()
    }

    /// The whole of it.
    pub(super) fn row(self, rows: &[u8]) -> io::Result<RunRow<'_>> {
        let text = std::str::from_utf8(self.bytes(rows)).map_err(|_| damaged())?;
        Ok(RunRow { number: self.number, group: self.group, text })
    }
}

/// A file without a name, of blocks that are sealed one by one.
pub(super) struct Sealed {
    file: File,
    key: LessSafeKey,
    /// Where each block ends in the file.
    ends: Vec<u64>,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").field("blocks", &self.ends.len()).finish_non_exhaustive()
    }
}

impl Tape {
    /// An empty tape, which makes a file in `directory` once it is too long for memory.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), sealed: None, tail: Vec::new() }
    }

    /// Writes a row behind the last.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write(&mut self, row: RunRow<'_>) -> io::Result<()> {
        pack(&mut self.tail, row)?;
        if self.tail.len() < BLOCK { Ok(()) } else { self.seal() }
    }

    /// Takes what is in memory to disk, so that the next row begins a block. Returns how many there are then.
    ///
    /// # Errors
    /// What the disk says.
    pub fn cut(&mut self) -> io::Result<usize> {
        self.seal()?;
        Ok(self.sealed.as_ref().map_or(0, |sealed| sealed.ends.len()))
    }

    fn seal(&mut self) -> io::Result<()> {
        let sealed = match &mut self.sealed {
            Some(sealed) => sealed,
            none => none.insert(Sealed::create(&self.directory)?),
        };
        sealed.append(&mut self.tail).map(|_| ())
    }
}

impl Sealed {
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        let mut key = [0; 32];
        rand::fill(&mut key).map_err(no_cipher)?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).map_err(no_cipher)?);
        Ok(Self { file: tempfile::tempfile_in(directory)?, key, ends: Vec::new() })
    }

    /// Makes a block of `bytes`, which are left empty. Returns its number.
    pub(super) fn append(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let number = self.ends.len();
        self.key.seal_in_place_append_tag(nonce(number), Aad::empty(), bytes).map_err(no_cipher)?;
        let start = self.ends.last().copied().unwrap_or(0);
        self.file.write_all_at(bytes, start)?;
        self.ends.push(start + bytes.len() as u64);
        bytes.clear();
        Ok(number)
    }

    /// Reads the block with this number into `bytes`, if there is one.
    pub(super) fn read(&self, number: usize, bytes: &mut Vec<u8>) -> io::Result<bool> {
        let Some(end) = self.ends.get(number) else { return Ok(false) };
        let start = number.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        bytes.resize(usize::try_from(end - start).map_err(io::Error::other)?, 0);
        self.file.read_exact_at(bytes, start)?;
        let opened = self.key.open_in_place(nonce(number), Aad::empty(), bytes).map_err(|_| damaged())?.len();
        bytes.truncate(opened);
        Ok(true)
    }
}

/// No two blocks of a key have the same.
fn nonce(block: usize) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes.iter_mut().zip((block as u64).to_le_bytes()).for_each(|(to, from)| *to = from);
    Nonce::assume_unique_for_key(bytes)
}

fn no_cipher(_: Unspecified) -> io::Error {
    io::Error::other("rows that go to disk could not be encrypted")
}

pub(super) fn damaged() -> io::Error {
    io::Error::other("rows read back from disk are not as they were written; is the disk sound?")
}

/// Where somebody is in a tape.
#[derive(Debug)]
pub struct Reading {
    /// The blocks that are not begun; behind the last on disk comes what is in memory.
    blocks: Range<usize>,
    rows: Vec<u8>,
    at: Packed,
}

impl Reading {
    /// At the beginning of a tape.
    #[must_use]
    pub fn all() -> Self {
        Self::of(0..usize::MAX)
    }

    /// At the beginning of some blocks.
    #[must_use]
    pub fn of(blocks: Range<usize>) -> Self {
        Self { blocks, rows: Vec::new(), at: Packed::default() }
    }

    /// The next row of `tape`, which must be the same each time; `None` after the last.
    ///
    /// # Errors
    /// What the disk says, also when a block is not as it was written.
    pub fn next_row(&mut self, tape: &Tape) -> io::Result<Option<RunRow<'_>>> {
        if self.advance(tape)? { self.at.row(&self.rows).map(Some) } else { Ok(None) }
    }

    /// On to the next row; false behind the last.
    pub(super) fn advance(&mut self, tape: &Tape) -> io::Result<bool> {
        while self.at.end == self.rows.len() {
            let Some(number) = self.blocks.next() else { return Ok(false) };
            self.at.end = 0;
            let is_read = match &tape.sealed {
                Some(sealed) => sealed.read(number, &mut self.rows)?,
                None => false,
            };
            if !is_read {
                self.rows.clone_from(&tape.tail);
                self.blocks = 0..0;
            }
        }
        self.at = Packed::at(&self.rows, self.at.end).ok_or_else(damaged)?;
        Ok(true)
    }

    /// The row at hand, of which there must be one.
    pub(super) fn at(&self) -> (Packed, &[u8]) {
        (self.at, &self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(tape: &Tape) -> io::Result<Vec<(u64, u32, String)>> {
        let (mut reading, mut found) = (Reading::all(), Vec::new());
        while let Some(row) = reading.next_row(tape)? {
            found.push((row.number, row.group, row.text.to_owned()));
        }
        assert!(reading.next_row(tape)?.is_none());
        Ok(found)
    }

    fn written(directory: &Path, texts: &[String]) -> Tape {
        let mut tape = Tape::new(directory);
        for (number, text) in (0..).zip(texts) {
            tape.write(RunRow { number, group: 3, text }).unwrap();
        }
        tape
    }

    #[track_caller]
    fn check(texts: &[String], blocks: usize) {
        let directory = tempfile::tempdir().unwrap();
        let tape = written(directory.path(), texts);
        assert_eq!(tape.sealed.as_ref().map_or(0, |sealed| sealed.ends.len()), blocks);
        let expected: Vec<_> = (0..).zip(texts).map(|(number, text)| (number, 3, text.clone())).collect();
        assert_eq!(rows(&tape).unwrap(), expected);
        assert_eq!(rows(&tape).unwrap(), expected, "a second time");
    }

    #[test]
    fn as_they_were_written() {
        check(&[], 0);
        check(&[String::new(), "a".to_owned(), "ü".to_owned()], 0);
        check(&["x".repeat(BLOCK - HEAD)], 1);
        check(&["x".repeat(2 * BLOCK), "last".to_owned()], 1);
        check(&(0..100).map(|row| row.to_string().repeat(BLOCK / 50)).collect::<Vec<_>>(), 3);
    }

    #[test]
    fn stretches_begin_where_it_was_cut() {
        let directory = tempfile::tempdir().unwrap();
        let texts: Vec<String> = (0..3).map(|row| row.to_string().repeat(BLOCK)).collect();
        let mut tape = written(directory.path(), &texts);
        assert_eq!(tape.cut().unwrap(), 4, "an empty one, too");
        tape.write(RunRow { number: 9, group: 0, text: "x" }).unwrap();
        assert_eq!(tape.cut().unwrap(), 5);
        let numbers = |blocks| {
            let (mut reading, mut found) = (Reading::of(blocks), Vec::new());
            while let Some(row) = reading.next_row(&tape).unwrap() {
                found.push(row.number);
            }
            found
        };
        assert_eq!(numbers(0..2), [0, 1]);
        assert_eq!(numbers(2..5), [2, 9]);
        assert!(numbers(5..5).is_empty());
    }

    #[test]
    fn on_disk_nothing_can_be_read_and_what_changed_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let tape = written(directory.path(), &["SECRET-CODE".repeat(BLOCK / 8)]);
        let sealed = tape.sealed.as_ref().unwrap();
        let mut on_disk = vec![0; usize::try_from(sealed.ends[0]).unwrap()];
        sealed.file.read_exact_at(&mut on_disk, 0).unwrap();
        assert!(!on_disk.windows(6).any(|bytes| bytes == b"SECRET"));
        on_disk[100] ^= 1;
        sealed.file.write_all_at(&on_disk, 0).unwrap();
        assert!(rows(&tape).is_err());
        sealed.file.set_len(100).unwrap();
        assert_eq!(rows(&tape).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
