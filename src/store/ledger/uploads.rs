//! Uploads as an admin lists them.

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use crate::spool::Kind;
use crate::store::schema::upload;
use crate::store::{Store, StoreError};

/// One upload.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = upload)]
pub struct ListedUpload {
    /// Its id.
    pub id: i64,
    /// `coupons`, `redemptions` or `recipients`.
    pub kind: String,
    /// The bank or campaign that its directory names; empty: none.
    pub target: String,
    /// Whether it came under `/check/`.
    pub dry_run: bool,
    /// Its file name.
    pub name: String,
    /// The SFTP user that sent it; empty: dropped locally or imported.
    pub user_name: String,
    /// Its state, see `src/inbound/mod.rs`.
    pub state: String,
    /// Its size as received.
    pub bytes: i64,
    /// First byte.
    pub created_at: DateTime<Utc>,
    /// When it was complete and durable.
    pub received_at: Option<DateTime<Utc>>,
    /// Claims so far.
    pub attempts: i32,
    /// When a deferred upload is tried again.
    pub retry_at: Option<DateTime<Utc>>,
    /// When the verdict was committed.
    pub finished_at: Option<DateTime<Utc>>,
    /// When the report was in `/reports/`.
    pub reported_at: Option<DateTime<Utc>>,
    /// The report, as JSON.
    pub report: Option<String>,
}

/// Which uploads are listed.
#[derive(Clone, Copy, Debug, Default)]
pub struct UploadFilter<'a> {
    /// Only of this kind.
    pub kind: Option<Kind>,
    /// Only in this state; `None`: every state but `removed` and `purged`, of which nothing is left.
    pub state: Option<&'a str>,
    /// At most so many.
    pub limit: i64,
}

impl Store {
    /// Uploads of the namespace, newest first.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn list_uploads(&self, namespace_id: i32, filter: &UploadFilter<'_>) -> Result<Vec<ListedUpload>, StoreError> {
        let mut query = upload::table.filter(upload::namespace_id.eq(namespace_id)).into_boxed();
        if let Some(kind) = filter.kind {
            query = query.filter(upload::kind.eq(kind.as_str()));
        }
        query = match filter.state {
            Some(state) => query.filter(upload::state.eq(state)),
            None => query.filter(upload::state.ne_all(["removed", "purged"])),
        };
        Ok(query
            .order(upload::id.desc())
            .limit(filter.limit)
            .select(ListedUpload::as_select())
            .load(&mut self.connection()?)?)
    }

    /// One upload, if the namespace has it.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn listed_upload(&self, namespace_id: i32, id: i64) -> Result<Option<ListedUpload>, StoreError> {
        Ok(upload::table
            .filter(upload::namespace_id.eq(namespace_id).and(upload::id.eq(id)))
            .select(ListedUpload::as_select())
            .first(&mut self.connection()?)
            .optional()?)
    }
}
