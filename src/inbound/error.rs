//! Why an upload does not go on, and who acts.

use std::io;

use super::tally::TallyError;
use crate::plaintext::{OpenError, ReadError};
use crate::reason::{Finding, Weight};
use crate::store::StoreError;

/// Processing one upload ended without an effect.
#[derive(Debug, thiserror::Error)]
pub enum InboundError {
    /// Nobody acts: disk or store failed for the moment, it is tried again.
    #[error("process the upload now")]
    Retry(#[source] RetryCause),
    /// The client corrects and resends.
    #[error("accept the file: {0}")]
    Reject(Finding),
    /// An admin looks first.
    #[error("read the file: {0}")]
    Quarantine(Finding),
    /// The same content came before, as this upload.
    #[error("apply the content a second time: upload {0} brought it")]
    Repeat(i64),
    /// Everything went well, but nothing is to be applied: the effect is rolled back.
    #[error("apply a dry run")]
    DryRun(Box<super::apply::Effect>),
}

/// What failed for the moment.
#[derive(Debug, thiserror::Error)]
pub enum RetryCause {
    /// The disk.
    #[error("read or write a file")]
    Io(#[from] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configuration does not have its namespace any more.
    #[error("find namespace `{0}` in the configuration")]
    NoNamespace(String),
    /// A key file cannot be read.
    #[error("load a certificate")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl InboundError {
    /// A refusal, by what its reason weighs.
    #[must_use]
    pub fn refuse(finding: Finding) -> Self {
        match finding.reason.weight() {
            Weight::Quarantined => Self::Quarantine(finding),
            Weight::Rejected | Weight::Row | Weight::Note => Self::Reject(finding),
        }
    }
}

impl From<StoreError> for InboundError {
    fn from(error: StoreError) -> Self {
        Self::Retry(error.into())
    }
}

impl From<io::Error> for InboundError {
    fn from(error: io::Error) -> Self {
        Self::Retry(error.into())
    }
}

impl From<TallyError> for InboundError {
    fn from(error: TallyError) -> Self {
        match error {
            TallyError::Io(error) => error.into(),
            TallyError::Refused(finding) => Self::refuse(finding),
        }
    }
}

impl From<OpenError> for InboundError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused { finding } => Self::refuse(finding),
            OpenError::Io(error) => error.into(),
        }
    }
}

impl From<ReadError> for InboundError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Open(error) => error.into(),
            ReadError::Refused(finding) => Self::refuse(finding),
        }
    }
}
