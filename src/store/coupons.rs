//! Codes come in by the million, in runs that are sorted and deduplicated already: COPY each run into a temporary table
//! while the file is read; once it has verified, one statement a run drops what the bank has already, numbers and
//! inserts. An upload is dominated by index inserts, and order makes them cheap.

use std::io::Write;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::connection::SimpleConnection as _;
use diesel::pg::CopyFormat;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Date, Integer, Nullable, Text, Timestamptz};

use super::copy::{Rows, escape};
use super::{StoreError, Transaction};

mod staging {
    diesel::table! {
        staged_coupon (code) {
            lot_key -> Int4,
            line -> Int8,
            code -> Text,
        }
    }
}

/// One row of a run.
#[derive(Clone, Copy, Debug)]
pub struct StagedCoupon<'a> {
    /// Index of its lot in the list given to [`begin_lots`].
    pub lot_key: i32,
    /// Its line in the file.
    pub line: i64,
    /// The code.
    pub code: &'a str,
}

impl StagedCoupon<'_> {
    /// Appends the row in the form that COPY takes.
    ///
    /// # Errors
    /// None in practice: the buffer is memory.
    pub fn write(&self, buffer: &mut Vec<u8>) -> std::io::Result<()> {
        write!(buffer, "{}\t{}\t", self.lot_key, self.line)?;
        escape(self.code.as_bytes(), buffer);
        buffer.push(b'\n');
        Ok(())
    }
}

/// A lot about to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLot {
    /// Its bank.
    pub bank_id: i32,
    /// Last day of its window.
    pub end_date: Option<NaiveDate>,
    /// A memory aid.
    pub offer_type: &'static str,
    /// `none`, `upper`, `lower` or `mixed`: which letters its codes have.
    pub letter_case: &'static str,
}

/// What one run, or the whole upload, added to one lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, QueryableByName)]
pub struct AddedLot {
    /// Index in the list of new lots.
    #[diesel(sql_type = Integer)]
    pub lot_key: i32,
    /// Codes added.
    #[diesel(sql_type = BigInt)]
    pub size: i64,
    /// Of these, codes that were redeemed before they came.
    #[diesel(sql_type = BigInt)]
    pub redeemed: i64,
}

/// A row that was skipped because the code was there already, in the bank or in an earlier run of the same file.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct DuplicateCoupon {
    /// Its line.
    #[diesel(sql_type = BigInt)]
    pub line: i64,
    /// The code.
    #[diesel(sql_type = Text)]
    pub code: String,
    /// Whether the bank had it before this file.
    #[diesel(sql_type = Bool)]
    pub in_bank: bool,
}

/// Loads run number `run` into a temporary table that ends with the transaction. `write` is given a sink for rows in the
/// form of [`StagedCoupon::write`].
///
/// # Errors
/// What `write` says, or the statement's error.
pub fn stage<E>(
    connection: &mut Transaction,
    run: usize,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E>
where
    E: From<StoreError>,
{
    connection
        .batch_execute(
            "CREATE TEMPORARY TABLE staged_coupon (lot_key integer NOT NULL, line bigint NOT NULL, \
             code text COLLATE \"C\" NOT NULL) ON COMMIT DROP",
        )
        .map_err(StoreError::from)?;
    let rows = Rows::new(write);
    let copied = diesel::copy_from(staging::staged_coupon::table)
        .from_raw_data(staging::staged_coupon::table, |sink: &mut dyn Write| rows.feed(sink))
        .with_format(CopyFormat::Text)
        .execute(connection);
    rows.end(copied)?;
    connection
        .batch_execute(&format!("ANALYZE staged_coupon; ALTER TABLE staged_coupon RENAME TO staged_coupon_{run}"))
        .map_err(StoreError::from)?;
    Ok(())
}

/// Gives each new lot its id. The banks must be locked.
///
/// # Errors
/// Any [`StoreError`] of the statements.
pub fn begin_lots(connection: &mut Transaction, namespace_id: i32, lots: &[NewLot]) -> Result<(), StoreError> {
    connection.batch_execute(
        "CREATE TEMPORARY TABLE new_lot (lot_key integer NOT NULL, bank_id integer NOT NULL, lot_id integer NOT NULL, \
         lots_before integer NOT NULL, size integer NOT NULL DEFAULT 0) ON COMMIT DROP",
    )?;
    let keys: Vec<i32> = (0_i32..).take(lots.len()).collect();
    let banks: Vec<i32> = lots.iter().map(|lot| lot.bank_id).collect();
    diesel::sql_query(
        "INSERT INTO new_lot (lot_key, bank_id, lot_id, lots_before) \
         SELECT k.lot_key, k.bank_id, b.lots + row_number() OVER (PARTITION BY k.bank_id ORDER BY k.lot_key), b.lots \
         FROM unnest($2::integer[], $3::integer[]) AS k (lot_key, bank_id) \
         JOIN bank AS b ON b.namespace_id = $1 AND b.id = k.bank_id",
    )
    .bind::<Integer, _>(namespace_id)
    .bind::<Array<Integer>, _>(&keys)
    .bind::<Array<Integer>, _>(&banks)
    .execute(connection)?;
    Ok(connection.batch_execute("ANALYZE new_lot")?)
}

/// Adds the codes of one run that their bank does not have yet. Rows come as they were staged, in order of code; where
/// there is one lot, its numbers follow that same order and one sort (of sorted rows) serves both.
///
/// # Errors
/// Any [`StoreError`] of the statements.
pub fn add_run(
    connection: &mut Transaction,
    namespace_id: i32,
    run: usize,
    lots: usize,
) -> Result<Vec<AddedLot>, StoreError> {
    let numbered = if lots == 1 { "ORDER BY s.code" } else { "PARTITION BY s.lot_key ORDER BY s.code" };
    let added: Vec<AddedLot> = diesel::sql_query(format!(
        "WITH added AS ( \
             INSERT INTO coupon AS c (namespace_id, bank_id, lot_id, seq, code) \
             SELECT $1, n.bank_id, n.lot_id, n.size + row_number() OVER ({numbered}) - 1, s.code \
             FROM staged_coupon_{run} AS s JOIN new_lot AS n ON n.lot_key = s.lot_key \
             WHERE NOT EXISTS (SELECT FROM coupon AS k \
                 WHERE k.namespace_id = $1 AND k.code = s.code AND k.bank_id = n.bank_id) \
             ORDER BY s.code \
             RETURNING c.bank_id, c.lot_id, c.code) \
         SELECT n.lot_key, count(*) AS size, count(r.code) AS redeemed \
         FROM added AS a JOIN new_lot AS n ON n.bank_id = a.bank_id AND n.lot_id = a.lot_id \
         LEFT JOIN redemption AS r ON r.namespace_id = $1 AND r.code = a.code \
         GROUP BY n.lot_key ORDER BY n.lot_key",
    ))
    .bind::<Integer, _>(namespace_id)
    .load(connection)?;
    for lot in &added {
        diesel::sql_query("UPDATE new_lot SET size = size + $2 WHERE lot_key = $1")
            .bind::<Integer, _>(lot.lot_key)
            .bind::<BigInt, _>(lot.size)
            .execute(connection)?;
    }
    Ok(added)
}

/// The rows of one run that [`add_run`] left out, by line, at most `most`. To be asked right after it: what the run added
/// itself is told apart by `added_before`, the size that each lot (by key) had before.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn duplicates(
    connection: &mut Transaction,
    namespace_id: i32,
    run: usize,
    added_before: &[i64],
    most: i64,
) -> Result<Vec<DuplicateCoupon>, StoreError> {
    Ok(diesel::sql_query(format!(
        "SELECT s.line, s.code, c.lot_id <= n.lots_before AS in_bank \
         FROM staged_coupon_{run} AS s JOIN new_lot AS n ON n.lot_key = s.lot_key \
         JOIN coupon AS c ON c.namespace_id = $1 AND c.code = s.code AND c.bank_id = n.bank_id \
         LEFT JOIN new_lot AS o ON o.bank_id = c.bank_id AND o.lot_id = c.lot_id \
         WHERE o.lot_key IS NULL OR c.seq < ($2::bigint[])[o.lot_key + 1] ORDER BY s.line LIMIT $3",
    ))
    .bind::<Integer, _>(namespace_id)
    .bind::<Array<BigInt>, _>(added_before)
    .bind::<BigInt, _>(most)
    .load(connection)?)
}

/// Writes the lots down, once every run was added. `added` is their sum per lot.
///
/// # Errors
/// Any [`StoreError`] of the statements.
pub fn finish_lots(
    connection: &mut Transaction,
    namespace_id: i32,
    upload_id: i64,
    lots: &[NewLot],
    added: &[AddedLot],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    for lot in added {
        let Some(new) = usize::try_from(lot.lot_key).ok().and_then(|key| lots.get(key)) else {
            return Err(StoreError::Missing { what: format!("new lot {}", lot.lot_key) });
        };
        diesel::sql_query(
            "INSERT INTO lot (namespace_id, bank_id, id, upload_id, end_date, offer_type, size, redeemed_ahead, \
                 letter_case, created_at) \
             SELECT $1, n.bank_id, n.lot_id, $3, $4, $5, $6, $7, $8, $9 FROM new_lot AS n WHERE n.lot_key = $2",
        )
        .bind::<Integer, _>(namespace_id)
        .bind::<Integer, _>(lot.lot_key)
        .bind::<BigInt, _>(upload_id)
        .bind::<Nullable<Date>, _>(new.end_date)
        .bind::<Text, _>(new.offer_type)
        .bind::<BigInt, _>(lot.size)
        .bind::<BigInt, _>(lot.redeemed)
        .bind::<Text, _>(new.letter_case)
        .bind::<Timestamptz, _>(now)
        .execute(connection)?;
    }
    // Lot ids of keys that added nothing stay unused: ids give an order, not a count.
    diesel::sql_query(
        "UPDATE bank SET lots = n.newest FROM (SELECT bank_id, max(lot_id) AS newest FROM new_lot GROUP BY bank_id) AS n \
         WHERE bank.namespace_id = $1 AND bank.id = n.bank_id",
    )
    .bind::<Integer, _>(namespace_id)
    .execute(connection)?;
    Ok(())
}
