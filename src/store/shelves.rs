//! Shelves: the partitions of `coupon`. Each namespace has its own, so that one brand's codes cost another nothing.
//!
//! Shelf 0 takes what comes day by day, row by row into its unique index. A file of very many codes gets a shelf to itself:
//! its rows are loaded as they come, frozen, and indexed when they are all there, which costs half of inserting them into an
//! index, and a good deal less where that index is large. What the namespace has already is met by a merge of the two
//! indexes. The shelf becomes a partition as the last thing in the upload's transaction; until then nobody sees it.
//!
//! Each shelf is one more place to look for a code. So there are few, each for a larger file than the one before, and only for
//! one that brings at least half as many codes as the namespace has ([`is_worth_it`]). No index spans two shelves: that a
//! bank has a code once is seen to by the upload, which holds the bank's lock when it looks.
//!
//! One shelf is loaded at a time in a store, because diesel wants to know the name of the table: a large file that comes
//! meanwhile goes to shelf 0, and does not wait. Under Citus `coupon` is no partitioned table, and everything goes into that.

use std::io::Write;

use diesel::connection::SimpleConnection as _;
use diesel::pg::{CopyFormat, PgRowByRowLoadingMode};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer};

use super::citus::is_citus;
use super::copy::Rows;
use super::coupons::LotSize;
use super::meets::Meets;
use super::redeemed::{Marks, Place};
use super::{StoreError, Transaction, statistics};

mod loading {
    diesel::table! {
        coupon_loading (code) {
            bank_id -> Int4,
            lot_id -> Int4,
            seq -> Int4,
            line -> Int8,
            code -> Text,
        }
    }
}

/// So many shelves can a namespace have beside shelf 0.
const SHELVES_MOST: i64 = 6;
/// So many codes make the first of them; each next one takes four times as many.
const CODES_LEAST: i64 = 125_000;
/// Any constant that all daemons share: "shelves" in ASCII. Whoever loads a shelf holds it.
const SHELF_LOCK: i64 = 0x0073_6865_6c76_6573;

/// Whether `codes` are worth a shelf, in a namespace that has `others` codes and `shelves` shelves beside shelf 0.
fn is_worth_it(codes: i64, others: i64, shelves: i64) -> bool {
    let least = CODES_LEAST << (2 * shelves.clamp(0, SHELVES_MOST));
    shelves < SHELVES_MOST && codes >= least && codes.saturating_mul(2) >= others
}

/// The statistics of what large changes leave in shelf 0, and in its index by lot, which knows only pages that were
/// summarised; the others are read at every draw.
pub(super) fn refresh(connection: &mut PgConnection, namespace_id: i32) -> QueryResult<()> {
    let (table, index) = match is_citus(connection)? {
        true => ("coupon".to_owned(), "coupon_seq".to_owned()),
        false => (name(namespace_id, 0), format!("{}_seq", name(namespace_id, 0))),
    };
    connection.batch_execute(&format!("ANALYZE {table}; SELECT brin_summarize_new_values('{index}')"))
}

/// Makes shelf 0 of a namespace, if it is not there.
pub(super) fn ensure(connection: &mut PgConnection, namespace_id: i32) -> QueryResult<()> {
    if is_citus(connection)? || exists(connection, namespace_id)? {
        return Ok(());
    }
    connection.transaction(|connection| {
        connection.batch_execute("LOCK TABLE coupon IN SHARE UPDATE EXCLUSIVE MODE")?;
        // Another daemon may have made it meanwhile.
        if exists(connection, namespace_id)? {
            return Ok(());
        }
        let table = name(namespace_id, 0);
        create(connection, &table, namespace_id, 0)?;
        index_codes(connection, &table, &table)?;
        index_places(connection, &table, &table)?;
        attach(connection, &table, namespace_id, 0)
    })
}

fn name(namespace_id: i32, shelf: i32) -> String {
    format!("coupon_{namespace_id}_{shelf}")
}

fn exists(connection: &mut PgConnection, namespace_id: i32) -> QueryResult<bool> {
    answer(connection, &format!("SELECT to_regclass('{}') IS NOT NULL AS yes", name(namespace_id, 0)))
}

/// The check says what the bounds will say, so that becoming a partition needs no look at the rows.
fn create(connection: &mut PgConnection, table: &str, namespace_id: i32, shelf: i32) -> QueryResult<()> {
    connection.batch_execute(&format!(
        "CREATE TABLE {table} (LIKE coupon INCLUDING DEFAULTS INCLUDING COMMENTS, \
             CHECK (namespace_id = {namespace_id} AND shelf = {shelf})); \
         COMMENT ON TABLE {table} IS 'A shelf of namespace {namespace_id}: a partition of coupon.'"
    ))
}

fn index_codes(connection: &mut PgConnection, table: &str, name: &str) -> QueryResult<()> {
    connection.batch_execute(&format!("CREATE UNIQUE INDEX {name}_code ON {table} (namespace_id, code, bank_id)"))
}

fn index_places(connection: &mut PgConnection, table: &str, name: &str) -> QueryResult<()> {
    connection.batch_execute(&format!(
        "CREATE INDEX {name}_seq ON {table} USING brin (lot_id, seq) WITH (pages_per_range = 32)"
    ))
}

fn attach(connection: &mut PgConnection, table: &str, namespace_id: i32, shelf: i32) -> QueryResult<()> {
    connection.batch_execute(&format!(
        "ALTER TABLE coupon ATTACH PARTITION {table} FOR VALUES FROM ({namespace_id}, {shelf}) TO ({namespace_id}, {})",
        shelf + 1
    ))
}

fn answer(connection: &mut PgConnection, question: &str) -> QueryResult<bool> {
    #[derive(QueryableByName)]
    struct Answer {
        #[diesel(sql_type = Bool)]
        yes: bool,
    }
    Ok(diesel::sql_query(question).get_result::<Answer>(connection)?.yes)
}

/// A shelf while it is loaded, as the table `coupon_loading`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loading {
    namespace_id: i32,
    shelf: i32,
}

impl Loading {
    /// Begins to load shelf `shelf`; any number that is new in the namespace will do. `None` when there can be none: another
    /// is being loaded right now, the namespace has many, or the store is distributed.
    pub(super) fn begin(connection: &mut Transaction, namespace_id: i32, shelf: i32) -> QueryResult<Option<Self>> {
        if is_citus(connection)? || stock(connection, namespace_id)?.shelves >= SHELVES_MOST {
            return Ok(None);
        }
        if !answer(connection, &format!("SELECT pg_try_advisory_xact_lock({SHELF_LOCK}) AS yes"))? {
            return Ok(None);
        }
        create(connection, "coupon_loading", namespace_id, shelf)?;
        connection.batch_execute(&format!(
            "ALTER TABLE coupon_loading ALTER namespace_id SET DEFAULT {namespace_id}, ALTER shelf SET DEFAULT {shelf}"
        ))?;
        Ok(Some(Self { namespace_id, shelf }))
    }

    /// Loads rows of bank, lot, seq, line and code, in COPY's text form.
    pub(super) fn load<E>(
        connection: &mut Transaction,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E>
    where
        E: From<StoreError>,
    {
        let rows = Rows::new(write);
        let copied = diesel::copy_from(loading::coupon_loading::table)
            .from_raw_data(loading::coupon_loading::table, |sink: &mut dyn Write| rows.feed(sink))
            .with_format(CopyFormat::Text)
            .with_freeze(true)
            .execute(connection);
        rows.end(copied)
    }

    /// Builds the index of codes over `codes` rows. False, and nothing built, when they are too few, or when the file has a code
    /// twice for one bank. Needs no lock on anything.
    pub(super) fn index(self, connection: &mut Transaction, codes: u64) -> Result<bool, StoreError> {
        let stock = stock(connection, self.namespace_id)?;
        if !is_worth_it(i64::try_from(codes).unwrap_or(i64::MAX), stock.codes, stock.shelves) {
            return Ok(false);
        }
        let name = name(self.namespace_id, self.shelf);
        // What is caught in the server is in no log of it; otherwise the code would be, and what parallel workers say is too.
        connection.batch_execute(&format!(
            "SET LOCAL maintenance_work_mem = '256MB'; SET LOCAL max_parallel_maintenance_workers = 0; \
             DO $$ BEGIN \
                 CREATE UNIQUE INDEX {name}_code ON coupon_loading (namespace_id, code, bank_id); \
             EXCEPTION WHEN unique_violation THEN NULL; \
             END $$"
        ))?;
        if !answer(connection, &format!("SELECT to_regclass('{name}_code') IS NOT NULL AS yes"))? {
            return Ok(false);
        }
        connection.batch_execute("ANALYZE coupon_loading")?;
        Ok(true)
    }

    /// Whether the rows can stay where they are. If so, what their banks have already has left and stands in `clash`, no lot
    /// has a gap, and everything is indexed. The banks must be locked, and `new_lot` be filled.
    ///
    /// They cannot stay when the banks have many of them already, or one that can leave a void lot.
    pub(super) fn settle(
        self,
        connection: &mut Transaction,
        codes: u64,
        (any_lots, any_void): (bool, bool),
    ) -> Result<bool, StoreError> {
        let taken = if any_lots { self.find_taken(connection)? } else { 0 };
        if taken > i64::try_from(codes).unwrap_or(i64::MAX) / 4 || (any_void && self.any_void(connection)?) {
            return Ok(false);
        }
        if taken > 0 {
            self.let_go(connection)?;
        }
        index_places(connection, "coupon_loading", &name(self.namespace_id, self.shelf))?;
        Ok(true)
    }

    /// Whether any that is taken lies in a void lot.
    fn any_void(self, connection: &mut Transaction) -> QueryResult<bool> {
        without(connection, LOOK_UP, |connection| {
            answer(
                connection,
                &format!(
                    "SELECT EXISTS (SELECT FROM taken AS t \
                         CROSS JOIN LATERAL (SELECT c.lot_id FROM coupon AS c WHERE c.namespace_id = {0} \
                             AND c.code = t.code AND c.bank_id = t.bank_id OFFSET 0) AS c \
                         JOIN lot AS l ON l.namespace_id = {0} AND l.bank_id = t.bank_id AND l.id = c.lot_id \
                         WHERE l.voided_at IS NOT NULL) AS yes",
                    self.namespace_id
                ),
            )
        })
    }

    /// Both sides lie in order in their indexes, and both are long.
    fn find_taken(self, connection: &mut Transaction) -> QueryResult<i64> {
        connection.batch_execute(
            "CREATE TEMPORARY TABLE taken (bank_id integer NOT NULL, code text COLLATE \"C\" NOT NULL) ON COMMIT DROP",
        )?;
        without(connection, MERGE, |connection| {
            let taken = diesel::sql_query(
                "INSERT INTO taken (bank_id, code) SELECT s.bank_id, s.code FROM coupon_loading AS s \
                 JOIN coupon AS k ON k.namespace_id = $1 AND k.code = s.code AND k.bank_id = s.bank_id \
                 WHERE s.namespace_id = $1",
            )
            .bind::<Integer, _>(self.namespace_id)
            .execute(connection)?;
            connection.batch_execute("ANALYZE taken")?;
            Ok(i64::try_from(taken).unwrap_or(i64::MAX))
        })
    }

    /// Lets go of what is taken, and moves each lot's last codes into the gaps.
    fn let_go(self, connection: &mut Transaction) -> QueryResult<()> {
        connection.batch_execute(
            "CREATE TEMPORARY TABLE gap (lot_id integer NOT NULL, seq integer NOT NULL) ON COMMIT DROP; \
             CREATE TEMPORARY TABLE moved (bank_id integer NOT NULL, code text COLLATE \"C\" NOT NULL, seq integer NOT NULL) \
             ON COMMIT DROP",
        )?;
        diesel::sql_query(
            "WITH gone AS (DELETE FROM coupon_loading AS s USING taken AS t \
                 WHERE s.namespace_id = $1 AND s.code = t.code AND s.bank_id = t.bank_id \
                 RETURNING s.line, s.code, s.lot_id, s.seq), \
             noted AS (INSERT INTO clash (line, code) SELECT g.line, g.code FROM gone AS g) \
             INSERT INTO gap (lot_id, seq) SELECT g.lot_id, g.seq FROM gone AS g",
        )
        .bind::<Integer, _>(self.namespace_id)
        .execute(connection)?;
        // A merge would sort the whole shelf for the few rows behind the new end.
        connection.batch_execute(
            "ANALYZE gap; SET LOCAL enable_mergejoin = off; \
             UPDATE new_lot AS n SET loaded = n.loaded - g.gaps \
             FROM (SELECT lot_id, count(*) AS gaps FROM gap GROUP BY lot_id) AS g WHERE g.lot_id = n.lot_id; \
             INSERT INTO moved (bank_id, code, seq) \
             SELECT m.bank_id, m.code, g.seq \
             FROM (SELECT s.bank_id, s.code, s.lot_id, row_number() OVER (PARTITION BY s.lot_id ORDER BY s.seq) AS nth \
                   FROM coupon_loading AS s JOIN new_lot AS n ON n.lot_id = s.lot_id WHERE s.seq >= n.loaded) AS m \
             JOIN (SELECT g.lot_id, g.seq, row_number() OVER (PARTITION BY g.lot_id ORDER BY g.seq) AS nth \
                   FROM gap AS g JOIN new_lot AS n ON n.lot_id = g.lot_id WHERE g.seq < n.loaded) AS g \
                 ON g.lot_id = m.lot_id AND g.nth = m.nth; \
             ANALYZE moved; SET LOCAL enable_mergejoin = on",
        )?;
        diesel::sql_query(
            "UPDATE coupon_loading AS s SET seq = m.seq FROM moved AS m \
             WHERE s.namespace_id = $1 AND s.code = m.code AND s.bank_id = m.bank_id",
        )
        .bind::<Integer, _>(self.namespace_id)
        .execute(connection)?;
        Ok(())
    }

    /// How many codes each lot has now; to be called after [`Self::settle`].
    pub(super) fn sizes(self, connection: &mut Transaction) -> QueryResult<Vec<LotSize>> {
        diesel::sql_query("SELECT n.lot_key, n.loaded AS size FROM new_lot AS n ORDER BY n.lot_key").load(connection)
    }

    /// Which of `codes` codes are redeemed already; to be called after [`Self::settle`].
    pub(super) fn redeemed(self, connection: &mut Transaction, codes: u64) -> Result<Marks, StoreError> {
        // Few redemptions are gone through beside the codes; of very many, those of the codes are looked up.
        let codes = i64::try_from(codes).unwrap_or(i64::MAX);
        let (off, met) = match Meets::by(statistics::redemptions(connection)?, codes) {
            Meets::Joined => (MERGE, "JOIN redemption AS r ON r.namespace_id = $1 AND r.code = s.code"),
            Meets::LookedUp => (
                LOOK_UP,
                "CROSS JOIN LATERAL (SELECT FROM redemption AS r \
                     WHERE r.namespace_id = $1 AND r.code = s.code OFFSET 0) AS r",
            ),
        };
        let places =
            format!("SELECT s.bank_id, s.lot_id, s.seq FROM coupon_loading AS s {met} WHERE s.namespace_id = $1");
        without(connection, off, |connection| {
            Marks::of(
                diesel::sql_query(places)
                    .bind::<Integer, _>(self.namespace_id)
                    .load_iter::<Place, PgRowByRowLoadingMode>(connection)?,
            )
        })
    }

    /// Makes the shelf a partition of `coupon`. Returns its number.
    pub(super) fn attach(self, connection: &mut Transaction) -> Result<i32, StoreError> {
        let name = name(self.namespace_id, self.shelf);
        connection.batch_execute(&format!(
            "ALTER TABLE coupon_loading ALTER namespace_id DROP DEFAULT, ALTER shelf DROP DEFAULT; \
             ALTER TABLE coupon_loading RENAME TO {name}"
        ))?;
        attach(connection, &name, self.namespace_id, self.shelf)?;
        Ok(self.shelf)
    }

    /// Gives the rows back to whoever inserts them into shelf 0; the shelf is no more.
    pub(super) fn give_up(self, connection: &mut Transaction) -> Result<(), StoreError> {
        Ok(connection.batch_execute(
            "INSERT INTO staged_coupon (lot_key, line, code) SELECT n.lot_key, s.line, s.code \
             FROM coupon_loading AS s JOIN new_lot AS n ON n.lot_id = s.lot_id; \
             DROP TABLE coupon_loading",
        )?)
    }
}

/// What a join in the order of two indexes does without, whatever the planner knows of the tables.
const MERGE: &[&str] = &["hashjoin", "nestloop", "sort", "seqscan", "bitmapscan"];
/// What a look-up for each row does without.
const LOOK_UP: &[&str] = &["memoize", "seqscan"];

/// Does `work` while the planner has these ways no more.
fn without<T, E: From<diesel::result::Error>>(
    connection: &mut Transaction,
    ways: &[&str],
    work: impl FnOnce(&mut Transaction) -> Result<T, E>,
) -> Result<T, E> {
    let switch = |to: &str| ways.iter().map(|way| format!("SET LOCAL enable_{way} = {to};")).collect::<String>();
    // What costs so much by decree would be compiled each time.
    connection.batch_execute(&format!("SET LOCAL jit = off; {}", switch("off")))?;
    let done = work(connection)?;
    connection.batch_execute(&switch("on"))?;
    Ok(done)
}

#[derive(QueryableByName)]
struct Stock {
    #[diesel(sql_type = BigInt)]
    codes: i64,
    #[diesel(sql_type = BigInt)]
    shelves: i64,
}

fn stock(connection: &mut PgConnection, namespace_id: i32) -> QueryResult<Stock> {
    diesel::sql_query(
        "SELECT coalesce(sum(l.size), 0)::bigint AS codes, count(DISTINCT nullif(l.shelf, 0)) AS shelves \
         FROM lot AS l WHERE l.namespace_id = $1",
    )
    .bind::<Integer, _>(namespace_id)
    .get_result(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worth_a_shelf() {
        assert!(is_worth_it(125_000, 0, 0));
        assert!(!is_worth_it(124_999, 0, 0));
        assert!(is_worth_it(250_000, 500_000, 0));
        assert!(!is_worth_it(250_000, 500_001, 0));
        // The second takes half a million, the sixth 128 million.
        assert!(!is_worth_it(499_999, 0, 1) && is_worth_it(500_000, 0, 1));
        assert!(!is_worth_it(127_999_999, 0, 5) && is_worth_it(128_000_000, 0, 5));
        assert!(!is_worth_it(i64::MAX, 0, 6));
    }
}
