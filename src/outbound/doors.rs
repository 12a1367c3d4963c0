//! What the outbound flow needs from others: a recipients list opened, an assignment file encrypted.

use std::error::Error;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use crate::config::Namespace;
use crate::reason::Finding;
use crate::recipients::Row;

/// Opens recipients lists as they were received: encrypted, compressed or plain.
pub trait Lists: Send + Sync {
    /// Calls `each` for every record of `file`, header first, until it breaks. `Ok` after the last record means that the
    /// whole message verified.
    ///
    /// # Errors
    /// [`ListError`]; what was handed out before must then be dropped.
    fn read(
        &self,
        namespace: &Namespace,
        file: &Path,
        each: &mut dyn FnMut(&dyn Row) -> ControlFlow<()>,
    ) -> Result<(), ListError>;
}

/// Why a list could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The disk; to be retried.
    #[error("read the recipients list from disk")]
    Disk(#[source] io::Error),
    /// The list itself, although it was accepted: a key is gone, or the file was damaged since. An admin must act.
    #[error("read the recipients list: {0}")]
    Refused(Finding),
}

/// Encrypts assignment files.
pub trait Seals: Send + Sync {
    /// Gets ready to encrypt to the certificate in the file `encrypt_to`, and to sign.
    ///
    /// # Errors
    /// [`SealError`]
    fn prepare(&self, encrypt_to: &Path) -> Result<Box<dyn Seal>, SealError>;
}

/// A certificate to encrypt to.
pub trait Seal {
    /// Starts a message into `sink`.
    ///
    /// # Errors
    /// [`SealError`]
    fn start<'a>(&'a self, sink: Box<dyn Write + Send + Sync + 'a>) -> Result<Box<dyn Sealed + 'a>, SealError>;
}

/// A message that is being written.
pub trait Sealed: Write {
    /// Ends the message; without it the message is cut.
    ///
    /// # Errors
    /// [`SealError`]
    fn finish(self: Box<Self>) -> Result<(), SealError>;
}

/// Why a file could not be encrypted.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The certificate or the daemon's own key; an admin must act.
    #[error("encrypt the assignment file")]
    Key(#[source] Box<dyn Error + Send + Sync>),
    /// The disk; to be retried.
    #[error("write the encrypted assignment file")]
    Write(#[source] io::Error),
}
