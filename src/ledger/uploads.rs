//! Uploads as a command shows them.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Desk, LedgerError};
use crate::store::ledger::uploads::{ListedUpload, UploadFilter};

/// One upload, in the order of its keys in JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Upload {
    /// Its id.
    pub id: i64,
    /// Its namespace.
    pub namespace: String,
    /// `coupons`, `redemptions` or `recipients`.
    pub kind: String,
    /// The bank or campaign that its directory names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether it is a trial under `/check/`.
    pub dry_run: bool,
    /// Its file name.
    pub name: String,
    /// Who sent it over SFTP; none: put there locally.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its state.
    pub state: String,
    /// Its size as sent.
    pub bytes: i64,
    /// Rows read, where it has a report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Why it was refused, where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// That in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// First byte.
    pub created_at: DateTime<Utc>,
    /// When it was complete.
    pub received_at: Option<DateTime<Utc>>,
    /// When its verdict was made.
    pub finished_at: Option<DateTime<Utc>>,
    /// The whole report; only where one upload is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<serde_json::Value>,
}

impl Upload {
    /// The upload with what its report says in a word or two.
    #[must_use]
    pub fn of(namespace: &str, listed: ListedUpload, whole: bool) -> Self {
        let report: Option<serde_json::Value> =
            listed.report.as_deref().and_then(|report| serde_json::from_str(report).ok());
        let text =
            |pointer: &str| report.as_ref().and_then(|report| report.pointer(pointer)?.as_str()).map(ToOwned::to_owned);
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            id: listed.id,
            namespace: namespace.to_owned(),
            kind: listed.kind,
            target: some(listed.target),
            dry_run: listed.dry_run,
            name: listed.name,
            user: some(listed.user_name),
            state: listed.state,
            bytes: listed.bytes,
            rows: report.as_ref().and_then(|report| report.pointer("/rows/read")?.as_u64()),
            reason: text("/refused/reason"),
            message: text("/refused/message"),
            created_at: listed.created_at,
            received_at: listed.received_at,
            finished_at: listed.finished_at,
            report: report.filter(|_| whole),
        }
    }
}

impl Desk<'_> {
    /// Uploads, newest first.
    ///
    /// # Errors
    /// Any error of the store.
    pub fn uploads(&self, filter: &UploadFilter<'_>) -> Result<Vec<Upload>, LedgerError> {
        let listed = self.store.list_uploads(self.namespace_id, filter)?;
        Ok(listed.into_iter().map(|upload| Upload::of(self.namespace.name.as_str(), upload, false)).collect())
    }

    /// One upload with its report, if this namespace has it.
    ///
    /// # Errors
    /// Any error of the store.
    pub fn upload(&self, id: i64) -> Result<Option<Upload>, LedgerError> {
        let listed = self.store.listed_upload(self.namespace_id, id)?;
        Ok(listed.map(|upload| Upload::of(self.namespace.name.as_str(), upload, true)))
    }

    /// The row of an upload that must be there.
    pub(super) fn row(&self, id: i64) -> Result<ListedUpload, LedgerError> {
        let missing = || LedgerError::NotThere { what: format!("upload {id} in namespace `{}`", self.namespace.name) };
        self.store.listed_upload(self.namespace_id, id)?.ok_or_else(missing)
    }
}
