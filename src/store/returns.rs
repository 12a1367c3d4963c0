//! Not-sent lists: codes of a batch that come back to stock because their customers were not reached.
//!
//! Nothing is taken away: the assignment stays, and the code joins the lot's queue of returned codes (`returned`, places
//! counted by `lot.returns`). The next draw takes from that queue first, as a range, and assigns the code with a turn one
//! higher. That no code is in two hands rests on two unique indexes: a turn of a code comes back once
//! (`returned (…, seq, turn)`), and is followed once (`assignment (…, seq, turn)`; codes that came back are never packed).
//!
//! The namespace is locked alone, then the bank, then its lots: neither redemptions nor draws see half of it.

use std::io::Write;

use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection as _;
use diesel::pg::CopyFormat;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, SmallInt, Text, Timestamptz};

use super::copy::Rows;
pub use super::copy::write_row;
use super::schema::upload;
use super::{StoreError, Transaction};

mod staging {
    diesel::table! {
        staged_return (line) {
            line -> Int8,
            customer -> Text,
        }
    }
}

/// A batch whose customers may be reported as not reached.
#[derive(Clone, Debug, QueryableByName)]
pub struct ExportedBatch {
    /// The batch.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// Its bank.
    #[diesel(sql_type = Integer)]
    pub bank_id: i32,
    /// The bank's name.
    #[diesel(sql_type = Text)]
    pub bank: String,
    /// Whether customers keep the bank's codes.
    #[diesel(sql_type = Bool)]
    pub persistent: bool,
    /// The draw; `None`: a proof, nothing was drawn.
    #[diesel(sql_type = Nullable<Integer>)]
    pub draw: Option<i32>,
    /// The channel in its assignments.
    #[diesel(sql_type = Text)]
    pub hold_channel: String,
}

/// What a row of a not-sent list comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The code comes back.
    Returns,
    /// The bank is persistent: the customer keeps the code.
    Held,
    /// The customer stood earlier in the list.
    Repeated,
    /// The code had come back before.
    ReturnedBefore,
    /// The code was redeemed: the customer was reached after all.
    Redeemed,
    /// The customer got no code of the bank in that batch.
    Stranger,
}

impl Found {
    fn from_stored(number: i16) -> Self {
        match number {
            0 => Self::Returns,
            1 => Self::Held,
            2 => Self::Repeated,
            3 => Self::ReturnedBefore,
            4 => Self::Redeemed,
            _ => Self::Stranger,
        }
    }
}

/// A row that is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReturned {
    /// Its line.
    pub line: i64,
    /// The customer.
    pub customer: String,
    /// Why.
    pub found: Found,
}

/// The exported (or collected) batch `batch_id` of `campaign`, if there is one.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn exported_batch(
    connection: &mut Transaction,
    namespace_id: i32,
    campaign: &str,
    batch_id: i64,
) -> Result<Option<ExportedBatch>, StoreError> {
    Ok(diesel::sql_query(
        "SELECT b.id, b.bank_id, k.name AS bank, k.persistent, b.draw, coalesce(b.hold_channel, '') AS hold_channel \
         FROM batch AS b JOIN bank AS k ON k.namespace_id = $1 AND k.id = b.bank_id \
         WHERE b.namespace_id = $1 AND b.id = $2 AND b.campaign = $3 AND b.state IN ('exported', 'collected')",
    )
    .bind::<Integer, _>(namespace_id)
    .bind::<BigInt, _>(batch_id)
    .bind::<Text, _>(campaign)
    .get_result(connection)
    .optional()?)
}

/// Loads rows into a temporary table that ends with the transaction. `write` is given a sink for rows in the form of
/// [`write_row`].
///
/// # Errors
/// What `write` says, or the statement's error.
pub fn stage<E>(connection: &mut Transaction, write: impl FnOnce(&mut dyn Write) -> Result<(), E>) -> Result<(), E>
where
    E: From<StoreError>,
{
    connection.batch_execute(
        "CREATE TEMPORARY TABLE staged_return (line bigint NOT NULL, customer text COLLATE \"C\" NOT NULL) ON COMMIT DROP",
    ).map_err(StoreError::from)?;
    let rows = Rows::new(write);
    let copied = diesel::copy_from(staging::staged_return::table)
        .from_raw_data(staging::staged_return::table, |sink: &mut dyn Write| rows.feed(sink))
        .with_format(CopyFormat::Text)
        .execute(connection);
    rows.end(copied)?;
    connection.batch_execute("ANALYZE staged_return").map_err(StoreError::from)?;
    Ok(())
}

/// Judges every staged row. Namespace and bank must be locked; the bank's lots are from here on.
///
/// # Errors
/// Any [`StoreError`] of the statements.
pub fn judge(connection: &mut Transaction, namespace_id: i32, batch: &ExportedBatch) -> Result<(), StoreError> {
    diesel::sql_query("SELECT id FROM lot WHERE namespace_id = $1 AND bank_id = $2 ORDER BY id FOR NO KEY UPDATE")
        .bind::<Integer, _>(namespace_id)
        .bind::<Integer, _>(batch.bank_id)
        .execute(connection)?;
    // What the planner knows of a young bank, and of codes that have just come back, may be old: only a hash compares the
    // whole key at once.
    connection.batch_execute(
        "CREATE TEMPORARY TABLE not_reached (line bigint NOT NULL, customer text COLLATE \"C\" NOT NULL, \
             found smallint NOT NULL, lot_id integer, seq integer, turn smallint, code text COLLATE \"C\") ON COMMIT DROP; \
         SET LOCAL enable_nestloop = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off",
    )?;
    let statement = if batch.persistent {
        // Who kept a code has no row of that batch, but an older one.
        "INSERT INTO not_reached (line, customer, found) \
         SELECT s.line, s.customer, CASE WHEN s.nth > 1 THEN 2 WHEN a.customer IS NULL THEN 5 ELSE 1 END \
         FROM (SELECT line, customer, row_number() OVER (PARTITION BY customer ORDER BY line) AS nth \
             FROM staged_return) AS s \
         LEFT JOIN (SELECT DISTINCT x.customer FROM assigned AS x WHERE x.namespace_id = $1 AND x.bank_id = $2 \
             AND x.channel = $3 AND x.draw <= $4) AS a ON a.customer = s.customer"
    } else {
        "INSERT INTO not_reached (line, customer, found, lot_id, seq, turn, code) \
         SELECT s.line, s.customer, CASE WHEN s.nth > 1 THEN 2 WHEN a.customer IS NULL THEN 5 WHEN t.seq IS NOT NULL THEN 3 \
             WHEN r.code IS NOT NULL THEN 4 ELSE 0 END, a.lot_id, a.seq, a.turn, a.code \
         FROM (SELECT line, customer, row_number() OVER (PARTITION BY customer ORDER BY line) AS nth \
             FROM staged_return) AS s \
         LEFT JOIN (SELECT x.customer, x.lot_id, x.seq, x.turn, x.code FROM assigned AS x WHERE x.namespace_id = $1 \
             AND x.bank_id = $2 AND x.channel = $3 AND x.draw = $4) AS a ON a.customer = s.customer \
         LEFT JOIN (SELECT y.lot_id, y.seq, y.turn FROM returned AS y WHERE y.namespace_id = $1 AND y.bank_id = $2) AS t \
             ON t.lot_id = a.lot_id AND t.seq = a.seq AND t.turn = a.turn \
         LEFT JOIN (SELECT z.code FROM redemption AS z WHERE z.namespace_id = $1) AS r ON r.code = a.code"
    };
    diesel::sql_query(statement)
        .bind::<Integer, _>(namespace_id)
        .bind::<Integer, _>(batch.bank_id)
        .bind::<Text, _>(&batch.hold_channel)
        .bind::<Nullable<Integer>, _>(batch.draw)
        .execute(connection)?;
    connection.batch_execute("ANALYZE not_reached")?;
    Ok(())
}

/// The rows that are not accepted, by line.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn without_effect(connection: &mut Transaction) -> Result<Vec<NotReturned>, StoreError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        line: i64,
        #[diesel(sql_type = Text)]
        customer: String,
        #[diesel(sql_type = SmallInt)]
        found: i16,
    }
    let rows: Vec<Row> =
        diesel::sql_query("SELECT line, customer, found FROM not_reached WHERE found > 1 ORDER BY line")
            .load(connection)?;
    Ok(rows
        .into_iter()
        .map(|row| NotReturned { line: row.line, customer: row.customer, found: Found::from_stored(row.found) })
        .collect())
}

/// Puts the judged codes into their lots' queues. Returns how many.
///
/// # Errors
/// Any [`StoreError`] of the statements.
pub fn apply(
    connection: &mut Transaction,
    namespace_id: i32,
    batch: &ExportedBatch,
    upload_id: i64,
    returned_at: DateTime<Utc>,
) -> Result<i64, StoreError> {
    #[derive(QueryableByName)]
    struct Returned {
        #[diesel(sql_type = BigInt)]
        n: i64,
    }
    let returned: Returned = diesel::sql_query(
        "WITH added AS ( \
             INSERT INTO returned AS t (namespace_id, bank_id, lot_id, place, seq, turn, code, customer, batch_id, upload_id, \
                 returned_at) \
             SELECT $1, $2, f.lot_id, l.returns + row_number() OVER (PARTITION BY f.lot_id ORDER BY f.seq) - 1, f.seq, \
                 f.turn, f.code, f.customer, $3, $4, $5 \
             FROM not_reached AS f \
             JOIN (SELECT o.id, o.returns FROM lot AS o WHERE o.namespace_id = $1 AND o.bank_id = $2) AS l \
                 ON l.id = f.lot_id \
             WHERE f.found = 0 RETURNING t.seq) \
         SELECT count(*) AS n FROM added",
    )
    .bind::<Integer, _>(namespace_id)
    .bind::<Integer, _>(batch.bank_id)
    .bind::<BigInt, _>(batch.id)
    .bind::<BigInt, _>(upload_id)
    .bind::<Timestamptz, _>(returned_at)
    .get_result(connection)?;
    diesel::sql_query(
        "WITH came AS MATERIALIZED ( \
             SELECT lot_id, count(*)::integer AS n FROM not_reached WHERE found = 0 GROUP BY lot_id) \
         UPDATE lot SET returns = lot.returns + c.n FROM came AS c \
         WHERE lot.namespace_id = $1 AND lot.bank_id = $2 AND lot.id = c.lot_id",
    )
    .bind::<Integer, _>(namespace_id)
    .bind::<Integer, _>(batch.bank_id)
    .execute(connection)?;
    Ok(returned.n)
}

/// Marks the upload as a not-sent list about `batch_id`, so that it makes no batch itself.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn mark(connection: &mut Transaction, namespace_id: i32, upload_id: i64, batch_id: i64) -> Result<(), StoreError> {
    diesel::update(upload::table.filter(upload::namespace_id.eq(namespace_id)).filter(upload::id.eq(upload_id)))
        .set(upload::returns_batch.eq(batch_id))
        .execute(connection)?;
    Ok(())
}
