//! Codes come in by the million: COPY into a temporary table, then one statement that sorts, drops what the bank has
//! already, numbers and inserts. An upload is dominated by index inserts, and order makes them cheap.

use std::io::Write;

use chrono::{DateTime, NaiveDate, Utc};
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

/// One accepted row of a coupon file.
#[derive(Clone, Copy, Debug)]
pub struct StagedCoupon<'a> {
    /// Index of its lot in the list given to [`apply`].
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

/// What one lot added.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
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

/// A row that was skipped because the code was there already.
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

/// Loads rows into a temporary table that ends with the transaction. `write` is given a sink for rows in the form of
/// [`StagedCoupon::write`].
///
/// # Errors
/// What `write` says, or the statement's error.
pub fn stage<E>(connection: &mut Transaction, write: impl FnOnce(&mut dyn Write) -> Result<(), E>) -> Result<(), E>
where
    E: From<StoreError>,
{
    use diesel::connection::SimpleConnection as _;
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
    connection.batch_execute("ANALYZE staged_coupon").map_err(StoreError::from)?;
    Ok(())
}

/// Adds the staged codes that their bank does not have yet. The banks must be locked.
///
/// # Errors
/// Any [`StoreError`] of the statements.
pub fn apply(
    connection: &mut Transaction,
    namespace_id: i32,
    upload_id: i64,
    lots: &[NewLot],
    now: DateTime<Utc>,
) -> Result<Vec<AddedLot>, StoreError> {
    use diesel::connection::SimpleConnection as _;
    connection.batch_execute(
        "CREATE TEMPORARY TABLE new_lot (lot_key integer NOT NULL, bank_id integer NOT NULL, lot_id integer NOT NULL) \
         ON COMMIT DROP",
    )?;
    let keys: Vec<i32> = (0_i32..).take(lots.len()).collect();
    let banks: Vec<i32> = lots.iter().map(|lot| lot.bank_id).collect();
    diesel::sql_query(
        "INSERT INTO new_lot (lot_key, bank_id, lot_id) \
         SELECT k.lot_key, k.bank_id, b.lots + row_number() OVER (PARTITION BY k.bank_id ORDER BY k.lot_key) \
         FROM unnest($2::integer[], $3::integer[]) AS k (lot_key, bank_id) \
         JOIN bank AS b ON b.namespace_id = $1 AND b.id = k.bank_id",
    )
    .bind::<Integer, _>(namespace_id)
    .bind::<Array<Integer>, _>(&keys)
    .bind::<Array<Integer>, _>(&banks)
    .execute(connection)?;
    let added = insert_codes(connection, namespace_id)?;
    insert_lots(connection, namespace_id, upload_id, lots, &added, now)?;
    Ok(added)
}

fn insert_codes(connection: &mut Transaction, namespace_id: i32) -> Result<Vec<AddedLot>, StoreError> {
    Ok(diesel::sql_query(
        "WITH fresh AS MATERIALIZED ( \
             SELECT s.bank_id, s.lot_id, s.lot_key, s.code FROM ( \
                 SELECT DISTINCT ON (t.code, n.bank_id) n.bank_id, n.lot_id, t.lot_key, t.code \
                 FROM staged_coupon AS t JOIN new_lot AS n ON n.lot_key = t.lot_key \
                 ORDER BY t.code, n.bank_id, t.line) AS s \
             WHERE NOT EXISTS (SELECT FROM coupon AS c \
                 WHERE c.namespace_id = $1 AND c.code = s.code AND c.bank_id = s.bank_id)), \
         added AS ( \
             INSERT INTO coupon AS c (namespace_id, bank_id, lot_id, seq, code) \
             SELECT $1, f.bank_id, f.lot_id, row_number() OVER (PARTITION BY f.lot_key ORDER BY f.code) - 1, f.code \
             FROM fresh AS f ORDER BY f.code) \
         SELECT f.lot_key, count(*) AS size, count(r.code) AS redeemed \
         FROM fresh AS f LEFT JOIN redemption AS r ON r.namespace_id = $1 AND r.code = f.code \
         GROUP BY f.lot_key ORDER BY f.lot_key",
    )
    .bind::<Integer, _>(namespace_id)
    .load(connection)?)
}

fn insert_lots(
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

/// The staged rows that were skipped, by line, at most `most`. `banks` says how many lots each bank had before.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn duplicates(
    connection: &mut Transaction,
    namespace_id: i32,
    banks: &[(i32, i32)],
    most: i64,
) -> Result<Vec<DuplicateCoupon>, StoreError> {
    let (ids, lots): (Vec<i32>, Vec<i32>) = banks.iter().copied().unzip();
    Ok(diesel::sql_query(
        "SELECT d.line, d.code, c.code IS NOT NULL AS in_bank FROM ( \
             SELECT s.line, s.code, n.bank_id, b.lots, \
                 row_number() OVER (PARTITION BY s.code, n.bank_id ORDER BY s.line) AS nth \
             FROM staged_coupon AS s JOIN new_lot AS n ON n.lot_key = s.lot_key \
             JOIN unnest($2::integer[], $3::integer[]) AS b (id, lots) ON b.id = n.bank_id) AS d \
         LEFT JOIN coupon AS c ON c.namespace_id = $1 AND c.code = d.code AND c.bank_id = d.bank_id \
             AND c.lot_id <= d.lots \
         WHERE d.nth > 1 OR c.code IS NOT NULL ORDER BY d.line LIMIT $4",
    )
    .bind::<Integer, _>(namespace_id)
    .bind::<Array<Integer>, _>(&ids)
    .bind::<Array<Integer>, _>(&lots)
    .bind::<BigInt, _>(most)
    .load(connection)?)
}
