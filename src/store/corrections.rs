//! Which codes of a batch were redeemed after it was assigned.
//!
//! A draw never hands out or keeps a code whose redemption it knows, so every code of a batch that has a redemption was
//! redeemed later, or at the same moment: nothing need be noted while redemptions are applied. What was considered is
//! remembered in the batch's row as a number of redemption uploads, so that a look costs nothing while none has come.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::connection::SimpleConnection as _;
use diesel::pg::{Pg, PgRowByRowLoadingMode};
use diesel::prelude::*;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::sql_types::{BigInt, Integer, Nullable, Text, Timestamptz};

use super::assigned;
use super::batches::{Claim, ClaimedBatch};
use super::recipients::{Met, Recipients};
use super::schema::batch;
use super::{Store, StoreError};
use crate::sorter::run::RunRow;
use crate::sorter::{By, Sorter};

/// For how long after a batch was assigned redemptions are listed, where nobody said when its codes are sent.
const CORRECTED_FOR: TimeDelta = TimeDelta::hours(24);
/// A redemption file that is received in time may be applied this much later and still counts.
pub const LATE: TimeDelta = TimeDelta::hours(24);
/// A redemption file that waited longer than this before it was applied is not found any more.
const WAITED_MOST: TimeDelta = TimeDelta::days(14);

/// Until when redemptions are listed: until the batch is sent, where that is later than its assignment; else for a day.
#[must_use]
pub fn corrected_until(assigned_at: DateTime<Utc>, send_at: Option<DateTime<Utc>>) -> DateTime<Utc> {
    send_at.filter(|send_at| *send_at > assigned_at).unwrap_or(assigned_at + CORRECTED_FOR)
}

/// A batch for which redemption uploads have come that were not considered.
#[derive(Clone, Debug)]
pub struct Uncorrected {
    /// The batch, under the fence of its last claim.
    pub claim: Claim,
    /// How many redemption uploads there are to consider.
    pub seen: i64,
}

/// A customer of the batch whose code was redeemed.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct RedeemedSince {
    /// The customer.
    #[diesel(sql_type = Text)]
    pub customer: String,
    /// The code.
    #[diesel(sql_type = Text)]
    pub code: String,
    /// When the redemption file that says so was received.
    #[diesel(sql_type = Timestamptz)]
    pub redeemed_at: DateTime<Utc>,
}

const UNCORRECTED: &str = "
SELECT x.id, x.fence, x.seen FROM (
    SELECT b.id, b.fence, b.corrections_seen,
        (SELECT count(*) FROM upload u WHERE u.namespace_id = $1 AND u.kind = 'redemptions' AND u.target = ''
            AND u.state = 'applied' AND NOT u.dry_run AND u.received_at >= b.assigned_at - $4 * interval '1 second'
            AND u.finished_at >= b.assigned_at - interval '1 day') AS seen
    FROM batch b
    WHERE b.namespace_id = $1 AND b.state IN ('exported', 'collected') AND b.draw IS NOT NULL
        AND CASE WHEN b.send_at > b.assigned_at THEN b.send_at ELSE b.assigned_at + $5 * interval '1 second' END > $2
        AND (b.retry_at IS NULL OR b.retry_at <= $3)) x
WHERE x.seen <> x.corrections_seen ORDER BY x.id";

/// The code that the customer has out of this batch: of its draw, or kept from the latest before it. Each redemption is
/// followed through the indexes, one by one, whatever the planner knows of the tables (`OFFSET 0`): the other way round it
/// would compare every redemption with every assignment.
fn redeemed_since() -> String {
    let (at, to) = (assigned::at("$2", "c.lot_id", "c.seq"), assigned::to("$2", "a.customer"));
    format!(
        "
SELECT a.customer, r.code, r.redeemed_at
FROM redemption r
CROSS JOIN LATERAL (SELECT k.lot_id, k.seq FROM coupon k
    WHERE k.namespace_id = $1 AND k.code = r.code AND k.bank_id = $2 OFFSET 0) c
CROSS JOIN LATERAL (SELECT g.customer, g.lot_id, g.seq, g.draw, g.turn FROM {at} g
    WHERE g.channel = $3 AND g.draw BETWEEN $4 AND $5 OFFSET 0) a
WHERE r.namespace_id = $1 AND r.redeemed_at BETWEEN $7 AND $8
    AND r.upload_id IN (SELECT u.id FROM upload u WHERE u.namespace_id = $1 AND u.kind = 'redemptions' AND u.target = ''
        AND u.state = 'applied' AND u.received_at BETWEEN $7 AND $8 AND u.finished_at >= $9)
    AND NOT EXISTS (SELECT FROM {to} n
        WHERE n.channel = $3 AND n.draw > a.draw AND n.draw <= $5)
    AND NOT EXISTS (SELECT FROM unassigned s WHERE s.namespace_id = $1 AND s.batch_id = $6 AND s.customer = a.customer)
    AND NOT EXISTS (SELECT FROM returned t WHERE t.namespace_id = $1 AND t.bank_id = $2 AND t.lot_id = a.lot_id
        AND t.seq = a.seq AND t.turn = a.turn)"
    )
}

/// Right after a large upload the planner takes the tables for small ones, and would read them whole for each redemption.
const THROUGH_INDEXES: &str = "
SET LOCAL enable_nestloop = on; SET LOCAL enable_mergejoin = off; SET LOCAL enable_hashjoin = off;
SET LOCAL enable_seqscan = off; SET LOCAL enable_memoize = off; SET LOCAL jit = off";

/// So many corrections are held in memory; of more the store makes the order.
const IN_MEMORY_MOST: usize = 50_000;

/// What was redeemed of a batch.
#[derive(Debug)]
pub enum Redeemed {
    /// All of it, in no order.
    Few(Vec<RedeemedSince>),
    /// More than should be in memory: to be read with [`Store::redeemed_since`].
    Many,
}

impl Store {
    /// Batches that are not sent yet, or were a little while ago, and that may need a correction at `now`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn uncorrected(&self, namespace_id: i32, now: DateTime<Utc>) -> Result<Vec<Uncorrected>, StoreError> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            id: i64,
            #[diesel(sql_type = BigInt)]
            fence: i64,
            #[diesel(sql_type = BigInt)]
            seen: i64,
        }
        let rows: Vec<Row> = diesel::sql_query(UNCORRECTED)
            .bind::<Integer, _>(namespace_id)
            .bind::<Timestamptz, _>(now - LATE)
            .bind::<Timestamptz, _>(now)
            .bind::<BigInt, _>(WAITED_MOST.num_seconds())
            .bind::<BigInt, _>(CORRECTED_FOR.num_seconds())
            .load(&mut self.connection()?)?;
        let claim = |row: &Row| Claim { namespace_id, id: row.id, fence: row.fence };
        Ok(rows.iter().map(|row| Uncorrected { claim: claim(row), seen: row.seen }).collect())
    }

    /// Gives `publish` every code of `batch` that was redeemed in time, and how many its corrections file has now; what it
    /// returns is how many it has then. Nobody else corrects the batch meanwhile; `false`: somebody does.
    ///
    /// # Errors
    /// What `publish` says, or any [`StoreError`] of the statements.
    pub fn correct<E: From<StoreError>>(
        &self,
        batch: &ClaimedBatch,
        seen: i64,
        publish: impl FnOnce(Redeemed, i64) -> Result<i64, E>,
    ) -> Result<bool, E> {
        let claim = batch.claim;
        let row = batch::table.filter(batch::namespace_id.eq(claim.namespace_id)).filter(batch::id.eq(claim.id));
        self.transaction(|transaction| {
            let published: Option<i64> = row
                .filter(batch::corrections_seen.ne(seen))
                .select(batch::corrections)
                .for_no_key_update()
                .skip_locked()
                .first(transaction)
                .optional()
                .map_err(StoreError::from)?;
            let Some(published) = published else { return Ok(false) };
            transaction.batch_execute(THROUGH_INDEXES).map_err(StoreError::from)?;
            let redeemed = few_redeemed(transaction, batch).map_err(StoreError::from)?;
            let rows = publish(redeemed, published)?;
            diesel::update(row)
                .set((
                    batch::corrections.eq(rows),
                    batch::corrections_seen.eq(seen),
                    batch::retry_at.eq(None::<DateTime<Utc>>),
                ))
                .execute(transaction)
                .map_err(StoreError::from)?;
            Ok(true)
        })
    }

    /// Leaves the corrections of a batch alone until `retry_at`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn put_correction_off(&self, claim: Claim, retry_at: DateTime<Utc>) -> Result<(), StoreError> {
        diesel::update(
            batch::table
                .filter(batch::namespace_id.eq(claim.namespace_id))
                .filter(batch::id.eq(claim.id))
                .filter(batch::state.eq_any(["exported", "collected"])),
        )
        .set(batch::retry_at.eq(retry_at))
        .execute(&mut self.connection()?)?;
        Ok(())
    }
}

impl Store {
    /// Every code of `batch` that was redeemed in time, for customers of the list and in its order. What does not fit into
    /// memory goes to `directory`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement, or of the disk; each item may bring one too.
    pub fn redeemed_since(
        &self,
        batch: &ClaimedBatch,
        mut list: Recipients,
        directory: &Path,
    ) -> Result<impl Iterator<Item = Result<RedeemedSince, StoreError>> + use<>, StoreError> {
        let mut found = Sorter::new(directory, By::Number);
        self.transaction(|connection| -> Result<(), StoreError> {
            connection.batch_execute(THROUGH_INDEXES)?;
            let statement = format!("SELECT x.* FROM ({}) x ORDER BY x.customer", redeemed_since());
            let redeemed = bound(statement, batch).load_iter::<RedeemedSince, PgRowByRowLoadingMode>(connection)?;
            let mut text = String::new();
            list.beside(redeemed, RedeemedSince::customer, |row, met| {
                if let Met::First(Some(redeemed)) = met {
                    text.clear();
                    redeemed.write(&mut text);
                    found.push(RunRow { number: row.number, group: 0, text: &text })?;
                }
                Ok(())
            })
        })?;
        let mut rows = found.sorted()?;
        Ok(std::iter::from_fn(move || {
            let row = rows.next_row().map_err(StoreError::from).transpose()?;
            Some(row.and_then(|row| RedeemedSince::read(row.text)))
        }))
    }
}

impl RedeemedSince {
    fn customer(&self) -> &str {
        &self.customer
    }

    /// One text of it all. The store's texts have no NUL.
    fn write(&self, text: &mut String) {
        let parts = [self.customer.as_str(), "\0", &self.code, "\0", &self.redeemed_at.timestamp_micros().to_string()];
        parts.iter().for_each(|part| text.push_str(part));
    }

    fn read(text: &str) -> Result<Self, StoreError> {
        let mut parts = text.split('\0');
        let mut part = || parts.next().unwrap_or_default();
        let (customer, code, at) = (part().to_owned(), part().to_owned(), part());
        let redeemed_at = at.parse().ok().and_then(DateTime::from_timestamp_micros);
        let redeemed_at = redeemed_at.ok_or_else(|| StoreError::Missing { what: "a redemption's time".to_owned() })?;
        Ok(Self { customer, code, redeemed_at })
    }
}

fn few_redeemed(connection: &mut PgConnection, batch: &ClaimedBatch) -> QueryResult<Redeemed> {
    let statement = format!("{} LIMIT {}", redeemed_since(), IN_MEMORY_MOST + 1);
    let redeemed: Vec<RedeemedSince> = bound(statement, batch).load(connection)?;
    Ok(if redeemed.len() > IN_MEMORY_MOST { Redeemed::Many } else { Redeemed::Few(redeemed) })
}

/// The statement with what it asks about `batch`; of one that drew nothing it finds nothing.
fn bound(statement: String, batch: &ClaimedBatch) -> BoxedSqlQuery<'static, Pg, SqlQuery> {
    let draw = batch.draw.unwrap_or(-1);
    let assigned_at = batch.assigned_at.unwrap_or(DateTime::<Utc>::UNIX_EPOCH);
    diesel::sql_query(statement)
        .into_boxed()
        .bind::<Integer, _>(batch.claim.namespace_id)
        .bind::<Integer, _>(batch.bank_id)
        .bind::<Nullable<Text>, _>(batch.hold_channel.clone())
        .bind::<Integer, _>(if batch.persistent { 0 } else { draw })
        .bind::<Integer, _>(draw)
        .bind::<BigInt, _>(batch.claim.id)
        .bind::<Timestamptz, _>(assigned_at - WAITED_MOST)
        .bind::<Timestamptz, _>(corrected_until(assigned_at, batch.send_at))
        .bind::<Timestamptz, _>(assigned_at - TimeDelta::days(1))
}
