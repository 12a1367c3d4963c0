//! What a client is shown of a file or directory: attributes, and the line that `ls -l` prints.

use chrono::{DateTime, Utc};
use rustix::fs::{FileType, Stat};

use super::packet::{Attributes, Code, Entry, Refusal};
use crate::error_chain::chain;
use crate::spool::ReceptionError;
use crate::store::{Sent, Stage};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

fn seconds(at: DateTime<Utc>) -> u32 {
    u32::try_from(at.timestamp()).unwrap_or(0)
}

/// A directory of the virtual tree.
pub(super) fn directory(since: DateTime<Utc>) -> Attributes {
    Attributes {
        size: Some(0),
        owner: Some((0, 0)),
        permissions: Some(DIRECTORY | 0o755),
        times: Some((seconds(since), seconds(since))),
    }
}

/// An upload.
pub(super) fn upload(size: u64, modified: DateTime<Utc>) -> Attributes {
    Attributes {
        size: Some(size),
        owner: Some((0, 0)),
        permissions: Some(FILE | 0o600),
        times: Some((seconds(modified), seconds(modified))),
    }
}

pub(super) fn sent(sent: &Sent) -> Attributes {
    let received = if sent.stage == Stage::Receiving { None } else { sent.received_at };
    let modified = sent.modified_at.or(received).unwrap_or(sent.created_at);
    upload(u64::try_from(sent.bytes).unwrap_or(0), modified)
}

/// Something on disk. The numbers of its owner are the daemon's own affair.
pub(super) fn on_disk(stat: &Stat) -> Attributes {
    let time = |seconds| u32::try_from(seconds).unwrap_or(0);
    let kind = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory { DIRECTORY } else { FILE };
    Attributes {
        size: Some(u64::try_from(stat.st_size).unwrap_or(0)),
        owner: Some((0, 0)),
        permissions: Some(kind | (stat.st_mode & 0o777)),
        times: Some((time(stat.st_atime), time(stat.st_mtime))),
    }
}

/// The entry of a listing.
pub(super) fn entry(name: Vec<u8>, attributes: Attributes) -> Entry {
    let mode = attributes.permissions.unwrap_or(0);
    let modified = attributes.times.map_or(0, |(_, modified)| i64::from(modified));
    let when = DateTime::from_timestamp(modified, 0).unwrap_or_default().format("%b %e  %Y");
    let bits: String = (0..9)
        .rev()
        .zip("rwxrwxrwx".chars())
        .map(|(bit, letter)| if mode & (1 << bit) == 0 { '-' } else { letter })
        .collect();
    let kind = if mode & DIRECTORY == DIRECTORY { 'd' } else { '-' };
    let size = attributes.size.unwrap_or(0);
    let mut long_name = format!("{kind}{bits}    1 coupond  coupond  {size:>12} {when} ").into_bytes();
    long_name.extend_from_slice(&name);
    Entry { name, long_name, attributes }
}

impl From<rustix::io::Errno> for Refusal {
    /// Never the system's own words with a path: only what the client can act on.
    fn from(error: rustix::io::Errno) -> Self {
        use rustix::io::Errno;
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV => Self::missing(),
            Errno::ACCESS | Errno::PERM => Self::denied("Permission denied"),
            Errno::EXIST => Self::failure("exists already"),
            Errno::NOTEMPTY => Self::failure("directory is not empty"),
            Errno::ISDIR => Self::failure("is a directory"),
            Errno::NAMETOOLONG => Self::failure("name is too long"),
            Errno::NOSPC | Errno::DQUOT => Self::failure("the server is out of space; try again later"),
            Errno::BUSY => Self::denied("Permission denied"),
            other => {
                tracing::warn!(error = %other, "a file operation failed");
                Self::failure("the server could not do that; try again later")
            }
        }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO).into()
    }
}

impl From<ReceptionError> for Refusal {
    fn from(error: ReceptionError) -> Self {
        match error {
            ReceptionError::Missing => Self::missing(),
            ReceptionError::Refused(text) => Self::failure(text),
            ReceptionError::Incomplete(text) => Self::failure(text),
            ReceptionError::Spool(source) => {
                tracing::error!(error = %source, "failed to use the spool");
                Self::failure("the server could not store the file; try again later")
            }
            ReceptionError::Store(source) => {
                let error = chain(&source);
                if source.is_unavailable() {
                    // The store has said it.
                    tracing::debug!(error, "failed to record an upload");
                } else {
                    tracing::error!(error, "failed to record an upload");
                }
                Self::new(Code::Failure, "the server cannot record uploads right now; try again later")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_look_like_ls() {
        let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let file = entry(b"a.csv".to_vec(), upload(1234, at));
        assert_eq!(
            String::from_utf8(file.long_name).unwrap(),
            "-rw-------    1 coupond  coupond          1234 Jan 15  2027 a.csv"
        );
        let directory = entry(b"coupons".to_vec(), directory(at));
        assert!(directory.long_name.starts_with(b"drwxr-xr-x "));
    }
}
