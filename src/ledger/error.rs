//! Why a command could not do what it was asked.

use std::io;

use crate::store::StoreError;

/// A command failed, or was refused; nothing is half done that the same command would not end.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk.
    #[error("{what}")]
    Disk {
        /// What was tried, as a fragment.
        what: String,
        /// Why it did not go.
        #[source]
        source: io::Error,
    },
    /// There is no such thing.
    #[error("find {what}")]
    NotThere {
        /// What was looked for.
        what: String,
    },
    /// It is there, but this cannot be done with it.
    #[error("{what}: {why}")]
    Refused {
        /// What was asked for, as a fragment.
        what: String,
        /// Why not, and what to do instead.
        why: String,
    },
}

impl LedgerError {
    pub(super) fn disk(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Disk { what, source }
    }

    pub(super) fn refused(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), why: why.into() }
    }
}
