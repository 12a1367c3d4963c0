//! Codes come in by the million, in runs that are sorted and deduplicated already: COPY them into a temporary table while
//! the file is read; once it has verified, find what the banks have already, then number and insert the rest in order of
//! code. An upload is dominated by index inserts, and order makes them cheap.
//!
//! What the banks have already is looked up, code by code in the order of the index, so that no upload reads a whole bank. A
//! bank without codes is not asked. A large bank still costs more than a small one: the new codes go to more pages of the
//! index, and PostgreSQL logs each page whole when it is first changed after a checkpoint.

use std::io::Write;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::connection::SimpleConnection as _;
use diesel::pg::CopyFormat;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Date, Integer, Nullable, Text, Timestamptz};

use super::citus::is_citus;
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

/// What an upload added to one lot.
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

/// A row that was skipped because the code was there already.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct DuplicateCoupon {
    /// Its line.
    #[diesel(sql_type = BigInt)]
    pub line: i64,
    /// The code.
    #[diesel(sql_type = Text)]
    pub code: String,
}

/// What a file staged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Staged {
    /// How many runs.
    pub runs: u64,
    /// How many rows in all.
    pub rows: u64,
}

/// Makes the temporary table for the rows of a file; it ends with the transaction.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn begin_staging(connection: &mut Transaction) -> Result<(), StoreError> {
    Ok(connection.batch_execute(
        "CREATE TEMPORARY TABLE staged_coupon (lot_key integer NOT NULL, line bigint NOT NULL, \
         code text COLLATE \"C\" NOT NULL) ON COMMIT DROP",
    )?)
}

/// Loads one run behind those before it. `write` is given a sink for rows in the form of [`StagedCoupon::write`].
///
/// # Errors
/// What `write` says, or the statement's error.
pub fn stage<E>(connection: &mut Transaction, write: impl FnOnce(&mut dyn Write) -> Result<(), E>) -> Result<(), E>
where
    E: From<StoreError>,
{
    let rows = Rows::new(write);
    let copied = diesel::copy_from(staging::staged_coupon::table)
        .from_raw_data(staging::staged_coupon::table, |sink: &mut dyn Write| rows.feed(sink))
        .with_format(CopyFormat::Text)
        .execute(connection);
    rows.end(copied)
}

/// Gives each new lot its id. The banks must be locked.
///
/// # Errors
/// Any [`StoreError`] of the statements.
pub fn begin_lots(connection: &mut Transaction, namespace_id: i32, lots: &[NewLot]) -> Result<(), StoreError> {
    connection.batch_execute(
        "CREATE TEMPORARY TABLE new_lot (lot_key integer NOT NULL, bank_id integer NOT NULL, lot_id integer NOT NULL, \
         lots_before integer NOT NULL) ON COMMIT DROP",
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

/// From here on no plan may look rows up one by one without an index: the planner knows little of tables just made.
const LARGE_FILE: u64 = 10_000;

/// Rows whose code their bank has already.
const CLASHES: &str = "
CREATE TEMPORARY TABLE clash (line bigint NOT NULL, code text COLLATE \"C\" NOT NULL) ON COMMIT DROP";
const CLASHES_LOOKED_UP: &str = "
INSERT INTO clash (line, code)
SELECT s.line, s.code FROM staged_coupon AS s JOIN new_lot AS n ON n.lot_key = s.lot_key
CROSS JOIN LATERAL (SELECT FROM coupon AS k
    WHERE k.namespace_id = $1 AND k.code = s.code AND k.bank_id = n.bank_id OFFSET 0) AS k
WHERE n.lots_before > 0";
const CLASHES_JOINED: &str = "
INSERT INTO clash (line, code)
SELECT s.line, s.code FROM staged_coupon AS s JOIN new_lot AS n ON n.lot_key = s.lot_key
JOIN (SELECT c.code, c.bank_id FROM coupon AS c WHERE c.namespace_id = $1) AS k ON k.code = s.code AND k.bank_id = n.bank_id";

#[derive(QueryableByName)]
struct Known {
    #[diesel(sql_type = Bool)]
    any_lots: bool,
    #[diesel(sql_type = Bool)]
    any_redemptions: bool,
}

/// Adds the staged codes that their bank does not have yet; each once. Returns the lots that got any, and how many rows
/// were left out because their bank has the code ([`clashes`]).
///
/// Within a lot codes are numbered in order. A file of one run, for one lot, is inserted as it lies, without a sort.
///
/// # Errors
/// Any [`StoreError`] of the statements.
pub fn add(
    connection: &mut Transaction,
    namespace_id: i32,
    staged: Staged,
    lots: usize,
) -> Result<(Vec<AddedLot>, u64), StoreError> {
    let known: Known = diesel::sql_query(
        "SELECT EXISTS (SELECT FROM new_lot AS n WHERE n.lots_before > 0) AS any_lots, \
             EXISTS (SELECT FROM redemption AS r WHERE r.namespace_id = $1) AS any_redemptions",
    )
    .bind::<Integer, _>(namespace_id)
    .get_result(connection)?;
    connection.batch_execute(CLASHES)?;
    // What costs so much by decree would be compiled each time, a dozen codes too.
    connection.batch_execute(
        "SET LOCAL enable_memoize = off; SET LOCAL enable_seqscan = off; SET LOCAL jit = off; SET LOCAL work_mem = '64MB'",
    )?;
    let mut clashes = 0;
    if known.any_lots {
        let statement = if is_citus(connection)? { CLASHES_JOINED } else { CLASHES_LOOKED_UP };
        clashes = diesel::sql_query(statement).bind::<Integer, _>(namespace_id).execute(connection)? as u64;
    }
    if staged.rows > LARGE_FILE {
        connection.batch_execute("ANALYZE clash; SET LOCAL enable_nestloop = off")?;
    }
    let insert = insert(staged.runs, lots, clashes);
    let added = if lots == 1 {
        let size = diesel::sql_query(insert).bind::<Integer, _>(namespace_id).execute(connection)?;
        let redeemed = if known.any_redemptions { redeemed(connection, namespace_id)? } else { 0 };
        vec![AddedLot { lot_key: 0, size: i64::try_from(size).unwrap_or(i64::MAX), redeemed }]
    } else {
        diesel::sql_query(counted(&insert, known.any_redemptions)).bind::<Integer, _>(namespace_id).load(connection)?
    };
    connection.batch_execute("SET LOCAL enable_nestloop = on; SET LOCAL enable_seqscan = on")?;
    Ok((added.into_iter().filter(|lot| lot.size > 0).collect(), clashes))
}

fn insert(runs: u64, lots: usize, clashes: u64) -> String {
    let without = match clashes {
        0 => "",
        _ => "WHERE NOT EXISTS (SELECT FROM clash AS x WHERE x.line = s.line)",
    };
    // Rows of one run lie in order and have no repeats. Of several, the first line of a code in a bank counts.
    let (each, order) = match runs {
        1 => ("", ""),
        _ => ("DISTINCT ON (s.code, n.bank_id)", "ORDER BY s.code, n.bank_id, s.line"),
    };
    let numbered = if lots == 1 { "" } else { "PARTITION BY f.lot_key ORDER BY f.code" };
    format!(
        "INSERT INTO coupon AS c (namespace_id, bank_id, lot_id, seq, line, code) \
         SELECT $1, f.bank_id, f.lot_id, row_number() OVER ({numbered}) - 1, f.line, f.code \
         FROM (SELECT {each} n.bank_id, n.lot_id, s.lot_key, s.line, s.code \
               FROM staged_coupon AS s JOIN new_lot AS n ON n.lot_key = s.lot_key {without} {order}) AS f"
    )
}

/// The insert with its counts per lot.
fn counted(insert: &str, any_redemptions: bool) -> String {
    let (redeemed, looked_up) = if any_redemptions {
        let look_up = "LEFT JOIN LATERAL (SELECT true AS hit FROM redemption AS r \
                       WHERE r.namespace_id = $1 AND r.code = a.code OFFSET 0) AS r ON true";
        ("count(r.hit)", look_up)
    } else {
        ("0::bigint", "")
    };
    format!(
        "WITH added AS ({insert} RETURNING c.bank_id, c.lot_id, c.code) \
         SELECT n.lot_key, count(*) AS size, {redeemed} AS redeemed \
         FROM added AS a JOIN new_lot AS n ON n.bank_id = a.bank_id AND n.lot_id = a.lot_id {looked_up} \
         GROUP BY n.lot_key ORDER BY n.lot_key"
    )
}

/// How many codes of the one new lot were redeemed before they came.
fn redeemed(connection: &mut Transaction, namespace_id: i32) -> Result<i64, StoreError> {
    #[derive(QueryableByName)]
    struct Redeemed {
        #[diesel(sql_type = BigInt)]
        redeemed: i64,
    }
    let found: Redeemed = diesel::sql_query(
        "SELECT count(*) AS redeemed FROM coupon AS c \
         CROSS JOIN LATERAL (SELECT FROM redemption AS r WHERE r.namespace_id = $1 AND r.code = c.code OFFSET 0) AS r \
         WHERE c.namespace_id = $1 AND c.bank_id = (SELECT n.bank_id FROM new_lot AS n) \
             AND c.lot_id = (SELECT n.lot_id FROM new_lot AS n)",
    )
    .bind::<Integer, _>(namespace_id)
    .get_result(connection)?;
    Ok(found.redeemed)
}

/// Rows that [`add`] left out because their bank has the code, by line, at most `most`.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn clashes(connection: &mut Transaction, most: i64) -> Result<Vec<DuplicateCoupon>, StoreError> {
    Ok(diesel::sql_query("SELECT x.line, x.code FROM clash AS x ORDER BY x.line LIMIT $1")
        .bind::<BigInt, _>(most)
        .load(connection)?)
}

/// Rows that [`add`] left out because an earlier line, in another run, has the code for the same bank, by line, at most
/// `most`.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn repeats(connection: &mut Transaction, most: i64) -> Result<Vec<DuplicateCoupon>, StoreError> {
    Ok(diesel::sql_query(
        "SELECT s.line, s.code FROM ( \
             SELECT t.line, t.code, row_number() OVER (PARTITION BY t.code, n.bank_id ORDER BY t.line) AS nth \
             FROM staged_coupon AS t JOIN new_lot AS n ON n.lot_key = t.lot_key \
             WHERE NOT EXISTS (SELECT FROM clash AS x WHERE x.line = t.line)) AS s \
         WHERE s.nth > 1 ORDER BY s.line LIMIT $1",
    )
    .bind::<BigInt, _>(most)
    .load(connection)?)
}

/// Writes the lots down that got codes.
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
