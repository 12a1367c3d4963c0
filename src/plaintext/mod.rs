//! From a file as received to verified rows: layers are opened ([`open()`]), bytes become records ([`RecordReader`]).
//!
//! Plaintext flows in chunks through bounded buffers and never rests on disk. A source says that it has ended only after
//! the whole message verified, so whoever applies rows does it after the last `Ok(None)` and drops them on any error.

mod buffer;
mod layers;
mod open;
mod records;
mod scan;
mod sniff;

pub use layers::Layer;
pub use open::{Plaintext, Summary, Terms, open};
pub use records::{Notes, ReadError, Record, RecordReader};

use std::io;

use crate::reason::Finding;

/// A source of plaintext.
pub trait Chunks {
    /// The next bytes; `Ok(None)` is the verified end and comes only after the whole message verified.
    ///
    /// # Errors
    ///
    /// When the file is refused or cannot be read. What was handed out before must then be dropped.
    fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, OpenError>;
}

/// Why a file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file itself is at fault; the finding's weight says whether the client or an admin acts.
    #[error("open the file: {finding}")]
    Refused {
        /// What goes into the report.
        finding: Finding,
    },
    /// The disk, not the file: to be retried.
    #[error("read the file from disk")]
    Io(#[source] io::Error),
}

impl From<Finding> for OpenError {
    fn from(finding: Finding) -> Self {
        Self::Refused { finding }
    }
}
