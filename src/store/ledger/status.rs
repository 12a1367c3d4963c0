//! How the feeds and queues of a namespace stand.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Nullable, Text, Timestamptz};

use crate::store::{Store, StoreError};

/// The last file of one kind that has a verdict.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct LastFile {
    /// `coupons`, `redemptions` or `recipients`.
    #[diesel(sql_type = Text)]
    pub kind: String,
    /// Its upload.
    #[diesel(sql_type = BigInt)]
    pub upload_id: i64,
    /// Its file name.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// Its verdict.
    #[diesel(sql_type = Text)]
    pub state: String,
    /// When it was complete.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub received_at: Option<DateTime<Utc>>,
    /// When the newest one that was applied was complete.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub applied_at: Option<DateTime<Utc>>,
}

/// How many uploads are in one open state.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Queue {
    /// The state.
    #[diesel(sql_type = Text)]
    pub state: String,
    /// How many.
    #[diesel(sql_type = BigInt)]
    pub uploads: i64,
    /// When the first byte of the oldest came.
    #[diesel(sql_type = Timestamptz)]
    pub oldest: DateTime<Utc>,
}

const LAST: &str = "
SELECT DISTINCT ON (u.kind) u.kind, u.id AS upload_id, u.name, u.state, u.received_at,
    (SELECT max(a.received_at) FROM upload a
     WHERE a.namespace_id = $1 AND a.kind = u.kind AND a.state = 'applied' AND NOT a.dry_run) AS applied_at
FROM upload u
WHERE u.namespace_id = $1 AND NOT u.dry_run
  AND u.state IN ('applied', 'rejected', 'quarantined', 'duplicate', 'discarded')
ORDER BY u.kind, u.received_at DESC, u.id DESC";

const QUEUES: &str = "
SELECT u.state, count(*) AS uploads, min(u.created_at) AS oldest FROM upload u
WHERE u.namespace_id = $1
  AND u.state IN ('receiving', 'partial', 'awaiting_rename', 'received', 'active', 'deferred', 'quarantined')
GROUP BY u.state ORDER BY array_position(
    ARRAY['receiving', 'partial', 'awaiting_rename', 'received', 'active', 'deferred', 'quarantined'], u.state)";

impl Store {
    /// The last file of each kind.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn last_files(&self, namespace_id: i32) -> Result<Vec<LastFile>, StoreError> {
        Ok(diesel::sql_query(LAST).bind::<Integer, _>(namespace_id).load(&mut self.connection()?)?)
    }

    /// Open uploads by state, in the order of an upload's life.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn queues(&self, namespace_id: i32) -> Result<Vec<Queue>, StoreError> {
        Ok(diesel::sql_query(QUEUES).bind::<Integer, _>(namespace_id).load(&mut self.connection()?)?)
    }
}
