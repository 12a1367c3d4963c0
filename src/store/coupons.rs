//! Codes come in by the million, in runs that are sorted and deduplicated already: COPY them while the file is read; once it
//! has verified, leave out what the banks have already, and number the rest.
//!
//! A file of one run goes into a temporary table and from there, in order of code, into the namespace's shelf 0: an upload is
//! dominated by index inserts, and order makes them cheap. A larger one goes onto a shelf of its own where it can
//! ([`super::shelves`]), with nothing but its index left to be built in the end.
//!
//! What the banks have already is looked up, code by code in the order of the index, so that no small upload reads a whole
//! bank. A bank without codes is not asked. A large shelf still costs more than a small one: the new codes go to more pages of
//! the index, and PostgreSQL logs each page whole when it is first changed after a checkpoint.

use std::io::{self, Write};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::connection::SimpleConnection as _;
use diesel::pg::{CopyFormat, PgRowByRowLoadingMode};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Date, Integer, Nullable, Text, Timestamptz};

use super::citus::is_citus;
use super::copy::{Rows, escape, write_run};
use super::ledger::undo::bring_back;
use super::redeemed::{Marks, Place};
use super::shelves::Loading;
use super::{StoreError, Transaction};
use crate::sorter::run::{Run, RunRow};

mod staging {
    diesel::table! {
        staged_coupon (code) {
            lot_key -> Int4,
            line -> Int8,
            code -> Text,
        }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddedLot {
    /// Index in the list of new lots.
    pub lot_key: i32,
    /// Codes added.
    pub size: i64,
    /// Of these, codes that were redeemed before they came.
    pub redeemed: i64,
}

/// How many codes a lot got.
#[derive(Clone, Copy, Debug, QueryableByName)]
pub(super) struct LotSize {
    #[diesel(sql_type = Integer)]
    lot_key: i32,
    #[diesel(sql_type = BigInt)]
    size: i64,
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

/// What an upload added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// The lots that got any codes.
    pub lots: Vec<AddedLot>,
    /// How many rows were left out because their bank has the code; [`clashes`].
    pub clashes: u64,
    /// The shelf that the codes lie in.
    pub shelf: i32,
}

/// The rows of a file on their way in: run by run, then all at once.
#[derive(Debug)]
pub struct Intake {
    namespace_id: i32,
    runs: u64,
    rows: u64,
    /// Id and rows so far of each lot, where lots have ids yet.
    lots: Vec<(i32, i32)>,
    loading: Option<Loading>,
    /// Whether any rows went into the temporary table.
    any_staged: bool,
    /// Whether the shelf is indexed.
    indexed: bool,
}

impl Intake {
    /// Begins with the file.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn begin(connection: &mut Transaction, namespace_id: i32) -> Result<Self, StoreError> {
        connection.batch_execute(
            "CREATE TEMPORARY TABLE staged_coupon (lot_key integer NOT NULL, line bigint NOT NULL, \
             code text COLLATE \"C\" NOT NULL) ON COMMIT DROP",
        )?;
        Ok(Self { namespace_id, runs: 0, rows: 0, lots: Vec::new(), loading: None, any_staged: false, indexed: false })
    }

    /// How many rows came.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Loads one run behind those before it. `banks` has the bank of each lot so far, where the bank is known.
    ///
    /// A first run that is full is the beginning of a large file: it goes onto a shelf, if there can be one.
    ///
    /// # Errors
    /// The statements', or the sink's.
    pub fn take<E>(&mut self, connection: &mut Transaction, banks: &[Option<i32>], run: &mut Run) -> Result<(), E>
    where
        E: From<StoreError> + From<io::Error>,
    {
        let known: Option<Vec<i32>> = banks.iter().copied().collect();
        if self.runs == 0 && run.is_full() && known.is_some() {
            self.number(connection, banks.len())?;
            let shelf = self.lots.first().map_or(0, |(id, _)| *id);
            self.loading = Loading::begin(connection, self.namespace_id, shelf).map_err(StoreError::from)?;
        }
        self.runs += 1;
        self.rows += run.rows().len() as u64;
        match known.filter(|_| self.loading.is_some()) {
            Some(banks) => {
                self.number(connection, banks.len())?;
                if banks.len() > 1 {
                    // A lot's codes are found by the pages that they lie in.
                    run.gather_groups();
                }
                Loading::load(connection, |sink| Ok(load(run, &banks, &mut self.lots, sink)?))
            }
            None => {
                self.any_staged = true;
                stage(connection, |sink| Ok(write_run(run, sink, staged)?))
            }
        }
    }

    /// Gives each lot an id.
    fn number(&mut self, connection: &mut Transaction, lots: usize) -> Result<(), StoreError> {
        let missing = i64::try_from(lots.saturating_sub(self.lots.len())).unwrap_or(i64::MAX);
        if missing > 0 {
            let ids: Vec<Id> = diesel::sql_query(
                "SELECT nextval('lot_id_seq')::integer AS id FROM generate_series(1, $1) AS n ORDER BY n",
            )
            .bind::<BigInt, _>(missing)
            .load(connection)?;
            self.lots.extend(ids.into_iter().map(|id| (id.id, 0)));
        }
        Ok(())
    }

    /// Does what can be done before anything is locked.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements.
    pub fn index(&mut self, connection: &mut Transaction) -> Result<(), StoreError> {
        if let Some(loading) = self.loading.filter(|_| !self.any_staged) {
            self.indexed = loading.index(connection, self.rows)?;
        }
        Ok(())
    }

    /// Adds the codes that their bank does not have yet; each once. The banks, one for each lot, must be locked.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements.
    pub fn add(mut self, connection: &mut Transaction, banks: &[i32]) -> Result<Added, StoreError> {
        self.number(connection, banks.len())?;
        self.begin_lots(connection, banks)?;
        let known: Known = diesel::sql_query(KNOWN).bind::<Integer, _>(self.namespace_id).get_result(connection)?;
        connection.batch_execute(CLASHES)?;
        if let Some(loading) = self.loading {
            if self.indexed && loading.settle(connection, self.rows, (known.any_lots, known.any_void))? {
                let redeemed = match known.any_redemptions {
                    true => loading.redeemed(connection, self.rows)?,
                    false => Marks::default(),
                };
                let sizes = loading.sizes(connection)?;
                let shelf = loading.attach(connection)?;
                let kept: i64 = sizes.iter().map(|lot| lot.size).sum();
                let clashes = self.rows.saturating_sub(u64::try_from(kept).unwrap_or_default());
                return Ok(Added { lots: self.write_redeemed(connection, &sizes, redeemed)?, clashes, shelf });
            }
            loading.give_up(connection)?;
        }
        if known.any_void {
            bring_back(connection, self.namespace_id)?;
        }
        self.insert(connection, banks.len(), &known)
    }

    fn begin_lots(&self, connection: &mut Transaction, banks: &[i32]) -> Result<(), StoreError> {
        connection.batch_execute(
            "CREATE TEMPORARY TABLE new_lot (lot_key integer NOT NULL, bank_id integer NOT NULL, lot_id integer NOT NULL, \
             loaded bigint NOT NULL, lots_before integer NOT NULL) ON COMMIT DROP",
        )?;
        let keys: Vec<i32> = (0_i32..).take(banks.len()).collect();
        let (ids, loaded): (Vec<i32>, Vec<i32>) = self.lots.iter().copied().unzip();
        diesel::sql_query(
            "INSERT INTO new_lot (lot_key, bank_id, lot_id, loaded, lots_before) \
             SELECT k.lot_key, k.bank_id, k.lot_id, k.loaded, b.lots \
             FROM unnest($2::integer[], $3::integer[], $4::integer[], $5::integer[]) AS k (lot_key, bank_id, lot_id, loaded) \
             JOIN bank AS b ON b.namespace_id = $1 AND b.id = k.bank_id",
        )
        .bind::<Integer, _>(self.namespace_id)
        .bind::<Array<Integer>, _>(&keys)
        .bind::<Array<Integer>, _>(banks)
        .bind::<Array<Integer>, _>(&ids)
        .bind::<Array<Integer>, _>(&loaded)
        .execute(connection)?;
        Ok(connection.batch_execute("ANALYZE new_lot")?)
    }

    /// Inserts what is staged into shelf 0. Within a lot codes are numbered in order. A file of one run, for one lot, is
    /// inserted as it lies, without a sort.
    fn insert(&self, connection: &mut Transaction, lots: usize, known: &Known) -> Result<Added, StoreError> {
        // What costs so much by decree would be compiled each time, a dozen codes too.
        connection.batch_execute(
            "SET LOCAL enable_memoize = off; SET LOCAL enable_seqscan = off; SET LOCAL jit = off; SET LOCAL work_mem = '64MB'",
        )?;
        let mut clashes = 0;
        if known.any_lots {
            let statement = if is_citus(connection)? { CLASHES_JOINED } else { CLASHES_LOOKED_UP };
            clashes = diesel::sql_query(statement).bind::<Integer, _>(self.namespace_id).execute(connection)? as u64;
        }
        if self.rows > LARGE_FILE {
            connection.batch_execute("ANALYZE clash; SET LOCAL enable_nestloop = off")?;
        }
        let insert = insert(self.runs, lots, clashes);
        let namespace_id = self.namespace_id;
        let sizes = if lots == 1 {
            let size = diesel::sql_query(insert).bind::<Integer, _>(namespace_id).execute(connection)?;
            vec![LotSize { lot_key: 0, size: i64::try_from(size).unwrap_or(i64::MAX) }]
        } else {
            diesel::sql_query(counted(&insert)).bind::<Integer, _>(namespace_id).load(connection)?
        };
        let redeemed = match known.any_redemptions {
            true => redeemed(connection, namespace_id)?,
            false => Marks::default(),
        };
        connection.batch_execute("SET LOCAL enable_nestloop = on; SET LOCAL enable_seqscan = on")?;
        Ok(Added { lots: self.write_redeemed(connection, &sizes, redeemed)?, clashes, shelf: 0 })
    }

    /// Writes down which of the codes were redeemed before they came. Returns the lots that got any.
    fn write_redeemed(
        &self,
        connection: &mut Transaction,
        sizes: &[LotSize],
        redeemed: Marks,
    ) -> Result<Vec<AddedLot>, StoreError> {
        let by_lot = redeemed.by_lot();
        redeemed.write(connection, self.namespace_id)?;
        let redeemed_of = |lot_key| {
            let lot = usize::try_from(lot_key).ok().and_then(|key| self.lots.get(key));
            lot.and_then(|(id, _)| by_lot.get(id)).copied().unwrap_or(0)
        };
        let with_codes = sizes.iter().filter(|lot| lot.size > 0);
        Ok(with_codes
            .map(|lot| AddedLot { lot_key: lot.lot_key, size: lot.size, redeemed: redeemed_of(lot.lot_key) })
            .collect())
    }
}

#[derive(QueryableByName)]
struct Id {
    #[diesel(sql_type = Integer)]
    id: i32,
}

/// Appends one row as `staged_coupon` takes it.
fn staged(row: RunRow<'_>, buffer: &mut Vec<u8>) -> Result<(), StoreError> {
    write!(buffer, "{}\t{}\t", row.group, row.number)?;
    escape(row.text.as_bytes(), buffer);
    buffer.push(b'\n');
    Ok(())
}

/// Writes a run as a shelf takes it: numbered on within each lot.
fn load(run: &Run, banks: &[i32], lots: &mut [(i32, i32)], sink: &mut dyn Write) -> Result<(), StoreError> {
    write_run(run, sink, |row, buffer| {
        let key = row.group as usize;
        let (Some(bank), Some((lot, seq))) = (banks.get(key), lots.get_mut(key)) else {
            return Err(StoreError::Missing { what: "the lot of a row".to_owned() });
        };
        write!(buffer, "{bank}\t{lot}\t{seq}\t{}\t", row.number)?;
        *seq += 1;
        escape(row.text.as_bytes(), buffer);
        buffer.push(b'\n');
        Ok(())
    })
}

fn stage<E>(connection: &mut Transaction, write: impl FnOnce(&mut dyn Write) -> Result<(), E>) -> Result<(), E>
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

/// What decides how the rows come in.
const KNOWN: &str = "
SELECT EXISTS (SELECT FROM new_lot AS n WHERE n.lots_before > 0) AS any_lots,
    EXISTS (SELECT FROM lot AS l JOIN new_lot AS n ON n.bank_id = l.bank_id
            WHERE l.namespace_id = $1 AND l.voided_at IS NOT NULL) AS any_void,
    EXISTS (SELECT FROM redemption AS r WHERE r.namespace_id = $1) AS any_redemptions";

#[derive(QueryableByName)]
struct Known {
    #[diesel(sql_type = Bool)]
    any_lots: bool,
    #[diesel(sql_type = Bool)]
    any_void: bool,
    #[diesel(sql_type = Bool)]
    any_redemptions: bool,
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
fn counted(insert: &str) -> String {
    format!(
        "WITH added AS ({insert} RETURNING c.bank_id, c.lot_id) \
         SELECT n.lot_key, count(*) AS size FROM added AS a \
         JOIN new_lot AS n ON n.bank_id = a.bank_id AND n.lot_id = a.lot_id GROUP BY n.lot_key ORDER BY n.lot_key"
    )
}

/// Which codes of the new lots were redeemed before they came: each is looked up among the redemptions, and where it went only
/// if it is one of them.
const REDEEMED_LOOKED_UP: &str = "
SELECT c.bank_id, c.lot_id, c.seq
FROM (SELECT n.bank_id, n.lot_id, s.code FROM staged_coupon AS s JOIN new_lot AS n ON n.lot_key = s.lot_key
      CROSS JOIN LATERAL (SELECT FROM redemption AS r WHERE r.namespace_id = $1 AND r.code = s.code OFFSET 0) AS r OFFSET 0) AS s
CROSS JOIN LATERAL (SELECT k.bank_id, k.lot_id, k.seq FROM coupon AS k
    WHERE k.namespace_id = $1 AND k.code = s.code AND k.bank_id = s.bank_id OFFSET 0) AS c
WHERE c.lot_id = s.lot_id";
const REDEEMED_JOINED: &str = "
SELECT c.bank_id, c.lot_id, c.seq FROM staged_coupon AS s JOIN new_lot AS n ON n.lot_key = s.lot_key
JOIN (SELECT k.code, k.bank_id, k.lot_id, k.seq FROM coupon AS k JOIN redemption AS r
          ON r.namespace_id = k.namespace_id AND r.code = k.code WHERE k.namespace_id = $1) AS c
    ON c.code = s.code AND c.bank_id = n.bank_id AND c.lot_id = n.lot_id";

fn redeemed(connection: &mut Transaction, namespace_id: i32) -> Result<Marks, StoreError> {
    let statement = if is_citus(connection)? { REDEEMED_JOINED } else { REDEEMED_LOOKED_UP };
    let places = diesel::sql_query(statement)
        .bind::<Integer, _>(namespace_id)
        .load_iter::<Place, PgRowByRowLoadingMode>(connection)?;
    Marks::of(places)
}

/// Rows that [`Intake::add`] left out because their bank has the code, by line, at most `most`.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn clashes(connection: &mut Transaction, most: i64) -> Result<Vec<DuplicateCoupon>, StoreError> {
    Ok(diesel::sql_query("SELECT x.line, x.code FROM clash AS x ORDER BY x.line LIMIT $1")
        .bind::<BigInt, _>(most)
        .load(connection)?)
}

/// Rows that [`Intake::add`] left out because an earlier line, in another run, has the code for the same bank, by line, at most
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
    added: &Added,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    for lot in &added.lots {
        let Some(new) = usize::try_from(lot.lot_key).ok().and_then(|key| lots.get(key)) else {
            return Err(StoreError::Missing { what: format!("new lot {}", lot.lot_key) });
        };
        diesel::sql_query(
            "INSERT INTO lot (namespace_id, bank_id, id, upload_id, end_date, offer_type, size, redeemed_ahead, \
                 letter_case, shelf, created_at) \
             SELECT $1, n.bank_id, n.lot_id, $3, $4, $5, $6, $7, $8, $9, $10 FROM new_lot AS n WHERE n.lot_key = $2",
        )
        .bind::<Integer, _>(namespace_id)
        .bind::<Integer, _>(lot.lot_key)
        .bind::<BigInt, _>(upload_id)
        .bind::<Nullable<Date>, _>(new.end_date)
        .bind::<Text, _>(new.offer_type)
        .bind::<BigInt, _>(lot.size)
        .bind::<BigInt, _>(lot.redeemed)
        .bind::<Text, _>(new.letter_case)
        .bind::<Integer, _>(added.shelf)
        .bind::<Timestamptz, _>(now)
        .execute(connection)?;
    }
    diesel::sql_query(
        "UPDATE bank SET lots = bank.lots + n.lots FROM (SELECT l.bank_id, count(*) AS lots FROM lot AS l \
             WHERE l.namespace_id = $1 AND l.upload_id = $2 GROUP BY l.bank_id) AS n \
         WHERE bank.namespace_id = $1 AND bank.id = n.bank_id",
    )
    .bind::<Integer, _>(namespace_id)
    .bind::<BigInt, _>(upload_id)
    .execute(connection)?;
    Ok(())
}
