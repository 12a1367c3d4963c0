//! Files for clients to collect: written out of sight, complete and durable, then moved to their final name in one step.
//!
//! A reader never sees a part of a file. What a killed daemon leaves behind lies in `.spool/prepared` under a name of its
//! own, and is either published by the next run or swept away.

use std::fs::{self, File};
use std::io::{self, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};

use super::behind::FileBehind;
use crate::digest::{Sha256, hexadecimal};

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// A file that is being written out of sight.
#[derive(Debug)]
pub struct Prepared {
    file: FileBehind,
    bytes: u64,
}

impl Prepared {
    /// Starts the file at `path`, and over again where a killed run left one.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: FileBehind::new(File::create(path)?), bytes: 0 })
    }

    /// Makes the file durable.
    ///
    /// # Errors
    /// Those of the file system; the file must then be written again from its start.
    pub fn finish(self) -> io::Result<Content> {
        let (file, hash) = self.file.end()?;
        file.sync_all()?;
        Ok(Content { sha256: hexadecimal(&hash.finish()), bytes: self.bytes })
    }
}

impl Write for Prepared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Moves a durable file to its final name in `directory` and makes the name durable too.
///
/// # Errors
/// Those of the file system.
pub fn publish(from: &Path, directory: &Path, name: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let to = directory.join(name);
    fs::rename(from, &to)?;
    File::open(directory)?.sync_all()?;
    Ok(to)
}

/// What the file at `path` holds; `None` when there is none.
///
/// # Errors
/// Those of the file system.
pub fn content_of(path: &Path) -> io::Result<Option<Content>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut file = BufReader::new(file);
    let mut hash = Sha256::default();
    let mut bytes = 0;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(Some(Content { sha256: hexadecimal(&hash.finish()), bytes }));
        }
        hash.update(buffer.get(..read).unwrap_or_default());
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_file_is_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let prepared = directory.path().join("prepared");
        let mut file = Prepared::create(&prepared).unwrap();
        file.write_all(b"abc").unwrap();
        let content = file.finish().unwrap();
        assert_eq!(content.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(content.bytes, 3);
        let to = publish(&prepared, &directory.path().join("out"), "list.csv").unwrap();
        assert_eq!(content_of(&to).unwrap(), Some(content));
        assert_eq!(content_of(&prepared).unwrap(), None);
    }
}
