//! Moves and writes that survive a power cut: the file is synced before it gets its name, the directory after.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Makes what was renamed or created in `directory` durable.
///
/// # Errors
/// Whatever the file system says.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes the content of a file durable. `false`: it is not there.
///
/// # Errors
/// Whatever the file system says, except that the file is not there.
pub fn sync_file(path: &Path) -> io::Result<bool> {
    match File::open(path) {
        Ok(file) => file.sync_all().map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes `directory` and what leads to it, for the daemon and its group.
///
/// # Errors
/// Whatever the file system says.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(directory)
}

/// Opens a new file for writing, replacing what an earlier try left there.
///
/// # Errors
/// Whatever the file system says.
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path)
}

/// Writes `bytes` to `path` as a whole: nobody ever sees a part.
///
/// # Errors
/// Whatever the file system says.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(".writing");
    let hidden = Path::new(&hidden);
    let mut file = create(hidden)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(hidden, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Moves a synced file to its place. `false`: it is not there (an earlier try moved it).
///
/// # Errors
/// Whatever the file system says, except that the file is not there.
pub fn move_file(from: &Path, to: &Path) -> io::Result<bool> {
    match fs::rename(from, to) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    if let Some(directory) = to.parent() {
        sync_directory(directory)?;
    }
    if let Some(directory) = from.parent() {
        sync_directory(directory)?;
    }
    Ok(true)
}

/// Removes a file if it is there.
///
/// # Errors
/// Whatever the file system says, except that the file is not there.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_or_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_move_may_be_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&from, b"x").unwrap();
        assert!(move_file(&from, &to).unwrap());
        assert!(!move_file(&from, &to).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"x");
    }
}
