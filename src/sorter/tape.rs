//! Rows as they were written, to be read from the beginning as often as one likes.
//!
//! A few stay in memory. More go to a file that has no name, and is gone with the process, in blocks that are sealed with
//! AES-256-GCM under a key that is in this process's memory only: what a file brought never rests on disk in the clear.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;

use super::run::RunRow;

/// So many bytes of rows stay in memory, and make a block on disk.
pub(super) const IN_MEMORY_MOST: usize = 256 * 1024;
/// Number, group and length of a row.
const HEAD: usize = 8 + 4 + 4;

/// Rows that are written one after another.
#[derive(Debug)]
pub struct Tape {
    directory: PathBuf,
    sealed: Option<Sealed>,
    /// The rows behind the last block.
    tail: Vec<u8>,
}

struct Sealed {
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
        let length = u32::try_from(row.text.len()).map_err(io::Error::other)?;
        self.tail.extend_from_slice(&row.number.to_le_bytes());
        self.tail.extend_from_slice(&row.group.to_le_bytes());
        self.tail.extend_from_slice(&length.to_le_bytes());
        self.tail.extend_from_slice(row.text.as_bytes());
        if self.tail.len() >= IN_MEMORY_MOST { self.seal_tail() } else { Ok(()) }
    }

    fn seal_tail(&mut self) -> io::Result<()> {
        let sealed = match &mut self.sealed {
            Some(sealed) => sealed,
            none => none.insert(Sealed::create(&self.directory)?),
        };
        sealed.append(&mut self.tail)?;
        self.tail.clear();
        Ok(())
    }
}

impl Sealed {
    fn create(directory: &Path) -> io::Result<Self> {
        let mut key = [0; 32];
        rand::fill(&mut key).map_err(cipher)?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).map_err(cipher)?);
        Ok(Self { file: tempfile::tempfile_in(directory)?, key, ends: Vec::new() })
    }

    fn append(&mut self, block: &mut Vec<u8>) -> io::Result<()> {
        self.key.seal_in_place_append_tag(nonce(self.ends.len()), Aad::empty(), block).map_err(cipher)?;
        let start = self.ends.last().copied().unwrap_or(0);
        self.file.write_all_at(block, start)?;
        self.ends.push(start + block.len() as u64);
        Ok(())
    }

    /// Reads block `number` into `block`; false when there is none.
    fn read(&self, number: usize, block: &mut Vec<u8>) -> io::Result<bool> {
        let Some(end) = self.ends.get(number) else { return Ok(false) };
        let start = number.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        block.resize(usize::try_from(end - start).map_err(io::Error::other)?, 0);
        self.file.read_exact_at(block, start)?;
        let length = self.key.open_in_place(nonce(number), Aad::empty(), block).map_err(cipher)?.len();
        block.truncate(length);
        Ok(true)
    }
}

/// No two blocks of a key have the same.
fn nonce(block: usize) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes.iter_mut().zip((block as u64).to_le_bytes()).for_each(|(to, from)| *to = from);
    Nonce::assume_unique_for_key(bytes)
}

fn cipher(_: Unspecified) -> io::Error {
    io::Error::other("a block of rows on disk is not as it was written")
}

/// Where somebody is in a tape, from its beginning.
#[derive(Debug, Default)]
pub struct Reading {
    /// How many blocks, and then the tail, were begun.
    begun: usize,
    block: Vec<u8>,
    at: usize,
}

impl Reading {
    /// The next row of `tape`, which must be the same each time; `None` after the last.
    ///
    /// # Errors
    /// What the disk says, also when a block is not as it was written.
    pub fn next_row(&mut self, tape: &Tape) -> io::Result<Option<RunRow<'_>>> {
        while self.at == self.block.len() {
            if !self.next_block(tape)? {
                return Ok(None);
            }
        }
        let (row, behind) = row_at(&self.block, self.at).ok_or_else(|| cipher(Unspecified))?;
        self.at = behind;
        Ok(Some(row))
    }

    fn next_block(&mut self, tape: &Tape) -> io::Result<bool> {
        let blocks = tape.sealed.as_ref().map_or(0, |sealed| sealed.ends.len());
        if self.begun > blocks {
            return Ok(false);
        }
        self.at = 0;
        match &tape.sealed {
            Some(sealed) if self.begun < blocks => {
                sealed.read(self.begun, &mut self.block)?;
            }
            _ => {
                self.block.clear();
                self.block.extend_from_slice(&tape.tail);
            }
        }
        self.begun += 1;
        Ok(true)
    }
}

/// The row that begins at `at`, and where the next one does.
fn row_at(block: &[u8], at: usize) -> Option<(RunRow<'_>, usize)> {
    let rest = block.get(at..)?;
    let (number, rest) = rest.split_first_chunk()?;
    let (group, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let text = std::str::from_utf8(rest.get(..length)?).ok()?;
    let row = RunRow { number: u64::from_le_bytes(*number), group: u32::from_le_bytes(*group), text };
    Some((row, at + HEAD + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(tape: &Tape) -> io::Result<Vec<(u64, u32, String)>> {
        let (mut reading, mut found) = (Reading::default(), Vec::new());
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
        check(&["x".repeat(IN_MEMORY_MOST - HEAD)], 1);
        check(&["x".repeat(2 * IN_MEMORY_MOST), "last".to_owned()], 1);
        check(&(0..100).map(|row| row.to_string().repeat(5_000)).collect::<Vec<_>>(), 3);
    }

    #[test]
    fn on_disk_nothing_can_be_read_and_what_changed_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let tape = written(directory.path(), &["SECRET-CODE".repeat(IN_MEMORY_MOST / 8)]);
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
