//! Why a batch did not come further, and who acts.

use std::io;

use super::doors::{ListError, SealError};
use crate::store::StoreError;

/// A batch stopped. Its state says how far it came; nothing is half done.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The recipients list.
    #[error(transparent)]
    List(#[from] ListError),
    /// The encryption.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The spool.
    #[error("write the files of batch {batch}")]
    Disk {
        /// The batch.
        batch: i64,
        /// The file system's error.
        #[source]
        source: io::Error,
    },
    /// The configuration no longer has what the batch needs.
    #[error("find {what} in the configuration")]
    NotConfigured {
        /// What is missing.
        what: String,
    },
    /// The list read now is not the list that codes were assigned for, or a record is missing.
    #[error("match row {row} of the recipients list with the recorded assignments")]
    Differs {
        /// The accepted row, from 1.
        row: i64,
    },
}

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nobody: it is tried again by itself soon.
    Retry,
    /// An admin; it is still tried again, rarely, so that it goes on once mended.
    Admin,
    /// Nobody: another worker has taken the batch over.
    LetGo,
}

impl OutboundError {
    /// Who acts.
    #[must_use]
    pub fn act(&self) -> Act {
        match self {
            Self::Store(StoreError::LeaseLost { .. }) => Act::LetGo,
            Self::Store(error) if error.is_transient() => Act::Retry,
            Self::List(ListError::Disk(error)) if error.kind() == io::ErrorKind::NotFound => Act::Admin,
            Self::List(ListError::Disk(_)) | Self::Seal(SealError::Write(_)) | Self::Disk { .. } => Act::Retry,
            Self::Store(_) | Self::List(_) | Self::Seal(_) | Self::NotConfigured { .. } | Self::Differs { .. } => {
                Act::Admin
            }
        }
    }
}
