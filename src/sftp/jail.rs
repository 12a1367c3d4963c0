//! A directory that nothing below it leads out of: a handle on it, and openat2 beneath that handle. Links of any kind
//! are never followed and never shown; only regular files and directories exist.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// A directory handle; everything is resolved beneath it.
#[derive(Debug)]
pub(super) struct Jail(OwnedFd);

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

fn joined(components: &[Vec<u8>]) -> Vec<u8> {
    if components.is_empty() { b".".to_vec() } else { components.join(&b'/') }
}

impl Jail {
    /// The jail at `directory`, a path that the daemon itself made up.
    pub(super) fn open(directory: &Path) -> Result<Self, Errno> {
        Ok(Self(rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Like [`Jail::open`], and makes the directory where it is missing.
    pub(super) fn open_or_create(directory: &Path) -> Result<Self, Errno> {
        use std::os::unix::fs::DirBuilderExt as _;
        match Self::open(directory) {
            Err(Errno::NOENT) => {
                let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
                made.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                Self::open(directory)
            }
            other => other,
        }
    }

    fn beneath(&self, components: &[Vec<u8>], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path = joined(components);
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.0, path.as_slice(), flags | OFlags::CLOEXEC, mode, BENEATH) {
                // A rename somewhere on the path happened meanwhile; the kernel asks to try again.
                Err(Errno::AGAIN) if tries < 16 => tries += 1,
                other => return other,
            }
        }
    }

    /// Opens a regular file. `flags` says how; nothing else than a regular file is ever opened.
    pub(super) fn file(&self, components: &[Vec<u8>], flags: OFlags) -> Result<File, Errno> {
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o600) } else { Mode::empty() };
        // NONBLOCK so that a FIFO put there locally cannot hold the session.
        let file = self.beneath(components, flags | OFlags::NOFOLLOW | OFlags::NONBLOCK, mode)?;
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(File::from(file)),
            FileType::Directory => Err(Errno::ISDIR),
            _ => Err(Errno::NOENT),
        }
    }

    /// A directory, to read its entries.
    pub(super) fn directory(&self, components: &[Vec<u8>]) -> Result<OwnedFd, Errno> {
        self.beneath(components, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
    }

    /// A regular file or directory; anything else is not there.
    pub(super) fn stat(&self, components: &[Vec<u8>]) -> Result<Stat, Errno> {
        let stat = rustix::fs::fstat(self.beneath(components, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?)?;
        shown(&stat).then_some(stat).ok_or(Errno::NOENT)
    }

    fn parent<'a>(&self, components: &'a [Vec<u8>]) -> Result<(OwnedFd, &'a [u8]), Errno> {
        let (last, above) = components.split_last().ok_or(Errno::BUSY)?;
        Ok((self.directory(above)?, last))
    }

    /// Removes a file; durable on return.
    pub(super) fn remove_file(&self, components: &[Vec<u8>]) -> Result<(), Errno> {
        let (parent, name) = self.parent(components)?;
        rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
        rustix::fs::fsync(&parent)
    }

    /// Removes an empty directory; durable on return.
    pub(super) fn remove_directory(&self, components: &[Vec<u8>]) -> Result<(), Errno> {
        let (parent, name) = self.parent(components)?;
        rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?;
        rustix::fs::fsync(&parent)
    }

    /// Makes a directory; durable on return.
    pub(super) fn make_directory(&self, components: &[Vec<u8>]) -> Result<(), Errno> {
        let (parent, name) = self.parent(components)?;
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))?;
        rustix::fs::fsync(&parent)
    }

    /// Renames within the jail; durable on return.
    pub(super) fn rename(&self, from: &[Vec<u8>], to: &[Vec<u8>], replace: bool) -> Result<(), Errno> {
        let (from_parent, from_name) = self.parent(from)?;
        let (to_parent, to_name) = self.parent(to)?;
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        rustix::fs::renameat_with(&from_parent, from_name, &to_parent, to_name, flags)?;
        rustix::fs::fsync(&to_parent)?;
        rustix::fs::fsync(&from_parent)
    }

    /// The entry of a file made just now; durable on return.
    pub(super) fn sync_parent(&self, components: &[Vec<u8>]) -> Result<(), Errno> {
        rustix::fs::fsync(self.parent(components)?.0)
    }

    pub(super) fn handle(&self) -> &OwnedFd {
        &self.0
    }

    /// Bytes of all files, at most 100,000 entries looked at.
    pub(super) fn bytes(&self) -> Result<u64, Errno> {
        let mut bytes = 0u64;
        let mut looked_at = 0;
        let mut open: Vec<Vec<Vec<u8>>> = vec![Vec::new()];
        while let Some(path) = open.pop() {
            let directory = self.directory(&path)?;
            for entry in rustix::fs::Dir::read_from(&directory)? {
                let entry = entry?;
                let name = entry.file_name();
                looked_at += 1;
                if matches!(name.to_bytes(), b"." | b"..") || looked_at > 100_000 {
                    continue;
                }
                let Ok(stat) = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => bytes = bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(0)),
                    FileType::Directory if path.len() < 32 => {
                        let mut below = path.clone();
                        below.push(name.to_bytes().to_vec());
                        open.push(below);
                    }
                    _ => {}
                }
            }
        }
        Ok(bytes)
    }
}

/// Whether an entry is shown at all.
pub(super) fn shown(stat: &Stat) -> bool {
    matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> Vec<Vec<u8>> {
        path.split('/').filter(|part| !part.is_empty()).map(|part| part.as_bytes().to_vec()).collect()
    }

    #[test]
    fn nothing_leads_out() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        let inside = tempfile::tempdir().unwrap();
        let root = inside.path();
        std::fs::create_dir(root.join("sub")).unwrap();
        std::fs::write(root.join("sub/file"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("dirlink")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), root.join("filelink")).unwrap();
        std::os::unix::fs::symlink("sub/file", root.join("innerlink")).unwrap();
        let jail = Jail::open(root).unwrap();
        assert!(jail.file(&parts("sub/file"), OFlags::RDONLY).is_ok());
        for path in ["dirlink/secret", "filelink", "innerlink"] {
            assert!(jail.file(&parts(path), OFlags::RDONLY).is_err(), "{path}");
            assert!(jail.stat(&parts(path)).is_err(), "{path}");
        }
        assert!(jail.file(&parts("filelink"), OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC).is_err());
        assert!(jail.directory(&parts("dirlink")).is_err());
        assert!(jail.rename(&parts("sub/file"), &parts("dirlink/file"), true).is_err());
        // The normaliser never lets these through; the kernel would not either.
        assert!(jail.stat(&[b"..".to_vec()]).is_err());
        assert!(
            jail.file(&[b"sub".to_vec(), b"..".to_vec(), b"..".to_vec(), b"etc".to_vec()], OFlags::RDONLY).is_err()
        );
        assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"secret");
        assert_eq!(jail.bytes().unwrap(), 1);
    }

    #[test]
    fn rename_replaces_only_when_asked() {
        let inside = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            std::fs::write(inside.path().join(name), name).unwrap();
        }
        let jail = Jail::open(inside.path()).unwrap();
        assert_eq!(jail.rename(&parts("a"), &parts("b"), false), Err(Errno::EXIST));
        assert_eq!(jail.rename(&parts("a"), &parts("b"), true), Ok(()));
        assert_eq!(std::fs::read(inside.path().join("b")).unwrap(), b"a");
        assert_eq!(jail.remove_directory(&[]), Err(Errno::BUSY));
    }
}
