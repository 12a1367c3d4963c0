//! What the store knows about files that may be old enough to go.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz};

use super::corrections::{LATE, corrected_until};
use super::{Store, StoreError};

/// An upload, as far as keeping its files goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownUpload {
    /// The upload.
    pub id: i64,
    /// Its state.
    pub state: String,
    /// When its verdict was committed.
    pub finished_at: Option<DateTime<Utc>>,
    /// When its report was in `/reports/`.
    pub reported_at: Option<DateTime<Utc>>,
    /// Whether it is a list of which a batch is made, and that the batch reads again.
    pub makes_batch: bool,
    /// That batch, once there is one.
    pub batch: Option<KnownBatch>,
}

/// A batch, as far as keeping its files goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownBatch {
    /// The batch.
    pub id: i64,
    /// When its manifest appeared; `None`: not yet.
    pub exported_at: Option<DateTime<Utc>>,
    /// Until when its corrections file may be written.
    pub corrected_until: DateTime<Utc>,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    finished_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    reported_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Bool)]
    makes_batch: bool,
    #[diesel(sql_type = Nullable<BigInt>)]
    batch_id: Option<i64>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    assigned_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    send_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    exported_at: Option<DateTime<Utc>>,
}

#[derive(QueryableByName)]
struct BatchRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    assigned_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    send_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    exported_at: Option<DateTime<Utc>>,
}

type Instant = Option<DateTime<Utc>>;

fn batch(id: i64, (assigned_at, send_at): (Instant, Instant), exported_at: Instant) -> KnownBatch {
    // A redemption file that came in time may be applied a little later.
    let until = |assigned_at| corrected_until(assigned_at, send_at) + LATE;
    let corrected_until = assigned_at.map_or(DateTime::<Utc>::MAX_UTC, until);
    KnownBatch { id, exported_at, corrected_until }
}

impl Store {
    /// Those of `ids` that are uploads.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn known_uploads(&self, namespace_id: i32, ids: &[i64]) -> Result<BTreeMap<i64, KnownUpload>, StoreError> {
        let rows: Vec<Row> = diesel::sql_query(
            "SELECT u.id, u.state, u.finished_at, u.reported_at, \
                 (u.kind = 'recipients' AND u.state = 'applied' AND NOT u.dry_run AND u.returns_batch IS NULL) AS makes_batch, \
                 b.id AS batch_id, b.assigned_at, b.send_at, b.exported_at \
             FROM upload AS u LEFT JOIN batch AS b ON b.namespace_id = $1 AND b.upload_id = u.id \
             WHERE u.namespace_id = $1 AND u.id = ANY($2)",
        )
        .bind::<Integer, _>(namespace_id)
        .bind::<Array<BigInt>, _>(ids)
        .load(&mut self.connection()?)?;
        let known = |row: Row| KnownUpload {
            id: row.id,
            state: row.state,
            finished_at: row.finished_at,
            reported_at: row.reported_at,
            makes_batch: row.makes_batch,
            batch: row.batch_id.map(|id| batch(id, (row.assigned_at, row.send_at), row.exported_at)),
        };
        Ok(rows.into_iter().map(|row| (row.id, known(row))).collect())
    }

    /// Those of `ids` that are batches.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn known_batches(&self, namespace_id: i32, ids: &[i64]) -> Result<BTreeMap<i64, KnownBatch>, StoreError> {
        let rows: Vec<BatchRow> = diesel::sql_query(
            "SELECT b.id, b.assigned_at, b.send_at, b.exported_at FROM batch AS b WHERE b.namespace_id = $1 AND b.id = ANY($2)",
        )
        .bind::<Integer, _>(namespace_id)
        .bind::<Array<BigInt>, _>(ids)
        .load(&mut self.connection()?)?;
        Ok(rows
            .into_iter()
            .map(|row| (row.id, batch(row.id, (row.assigned_at, row.send_at), row.exported_at)))
            .collect())
    }
}
