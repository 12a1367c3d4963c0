//! Redemptions: insert-only, one row a code, whichever banks hold it.
//!
//! Codes come sorted, and each is looked up once in the banks and once among the redemptions, in the order of the index:
//! what `found` and `already` say then is all that the insert, the counts and the lots need.
//!
//! A code that no bank holds is remembered. A code that differs from exactly one code only in ASCII case counts as that
//! one; how such a code can be found without an index on the folded text is what `lot.letter_case` is for: codes of one
//! case are found by folding the file's spelling, only lots with both cases must be read.

use std::io::Write;

use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection as _;
use diesel::pg::{CopyFormat, PgRowByRowLoadingMode};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text, Timestamptz};

use super::citus::is_citus;
use super::copy::Rows;
pub use super::copy::{write_row, write_run};
use super::redeemed::{NewlyRedeemed, Place};
use super::schema::redemption;
use super::{StoreError, Transaction};

mod staging {
    diesel::table! {
        staged_redemption (code) {
            line -> Int8,
            code -> Text,
        }
    }
}

/// Makes the temporary table for the rows of a file; it ends with the transaction.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn begin_staging(connection: &mut Transaction) -> Result<(), StoreError> {
    Ok(connection.batch_execute(
        "CREATE TEMPORARY TABLE staged_redemption (line bigint NOT NULL, code text COLLATE \"C\" NOT NULL) ON COMMIT DROP",
    )?)
}

/// Loads one run, sorted by code, behind those before it. `write` is given a sink for rows in the form of [`write_row`].
///
/// # Errors
/// What `write` says, or the statement's error.
pub fn stage<E>(connection: &mut Transaction, write: impl FnOnce(&mut dyn Write) -> Result<(), E>) -> Result<(), E>
where
    E: From<StoreError>,
{
    let rows = Rows::new(write);
    let copied = diesel::copy_from(staging::staged_redemption::table)
        .from_raw_data(staging::staged_redemption::table, |sink: &mut dyn Write| rows.feed(sink))
        .with_format(CopyFormat::Text)
        .execute(connection);
    rows.end(copied)
}

/// What a redemption file did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedemptionCounts {
    /// Codes that were redeemed before, by an earlier file or, in another case, by an earlier line.
    pub already: u64,
    /// Codes that no bank holds; remembered.
    pub unknown: u64,
    /// Codes that a bank holds and that are redeemed from now on.
    pub redeemed: u64,
    /// Whether every spelling of the file is that of a coupon: then there is nothing to note ([`noted`]).
    pub all_known: bool,
}

/// What a redemption file did to one lot.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct RedeemedInLot {
    /// The bank.
    #[diesel(sql_type = Integer)]
    pub bank_id: i32,
    /// The lot.
    #[diesel(sql_type = Integer)]
    pub lot_id: i32,
    /// The upload that brought the lot.
    #[diesel(sql_type = BigInt)]
    pub coupons_upload: i64,
    /// Codes of the lot.
    #[diesel(sql_type = BigInt)]
    pub size: i64,
    /// Codes of the lot that were ever handed out.
    #[diesel(sql_type = BigInt)]
    pub handed_out: i64,
    /// Codes of the lot that are redeemed from now on.
    #[diesel(sql_type = BigInt)]
    pub redeemed: i64,
    /// The first and the last line that did that.
    #[diesel(embed)]
    pub lines: Lines,
    /// Of these, codes that nobody had been given.
    #[diesel(sql_type = BigInt)]
    pub unassigned: i64,
    /// The first line that redeemed such a code.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub first_unassigned: Option<i64>,
    /// The last.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub last_unassigned: Option<i64>,
}

impl RedeemedInLot {
    /// The codes that nobody had been given, where no other bank holds one of them.
    #[must_use]
    pub fn nobodys(&self) -> Option<NobodysCodes> {
        let (first_line, last_line) = self.first_unassigned.zip(self.last_unassigned)?;
        let lines = Lines { first_line, last_line };
        Some(NobodysCodes { bank_id: self.bank_id, lot_id: self.lot_id, count: self.unassigned, lines })
    }
}

/// Lines of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, QueryableByName)]
pub struct Lines {
    /// The first.
    #[diesel(sql_type = BigInt)]
    pub first_line: i64,
    /// The last.
    #[diesel(sql_type = BigInt)]
    pub last_line: i64,
}

/// Codes of one lot that were redeemed and that nobody had been given, in any bank.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct NobodysCodes {
    /// The bank.
    #[diesel(sql_type = Integer)]
    pub bank_id: i32,
    /// The lot.
    #[diesel(sql_type = Integer)]
    pub lot_id: i32,
    /// How many.
    #[diesel(sql_type = BigInt)]
    pub count: i64,
    /// Where in the file.
    #[diesel(embed)]
    pub lines: Lines,
}

/// A row worth a line in the report.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct NotedRedemption {
    /// Its line.
    #[diesel(sql_type = BigInt)]
    pub line: i64,
    /// The code as the file had it.
    #[diesel(sql_type = Text)]
    pub written: String,
    /// Codes that differ from it in ASCII case only; 0: no bank knows it at all.
    #[diesel(sql_type = BigInt)]
    pub variants: i64,
}

/// Redeems the codes that were staged in `runs` runs. The namespace must be locked alone. A staged row that is in none of the
/// counts repeats another's code.
///
/// # Errors
/// Any [`StoreError`] of the statements.
pub fn apply(
    connection: &mut Transaction,
    namespace_id: i32,
    upload_id: i64,
    redeemed_at: DateTime<Utc>,
    runs: usize,
) -> Result<(RedemptionCounts, Vec<RedeemedInLot>), StoreError> {
    // The planner knows little of tables just made: nothing may be looked up without an index.
    // And what costs so much by decree would be compiled each time, a dozen codes too.
    connection.batch_execute(
        "SET LOCAL enable_seqscan = off; SET LOCAL enable_memoize = off; SET LOCAL jit = off; SET LOCAL work_mem = '64MB'",
    )?;
    let all_known = find(connection, namespace_id, runs)?;
    find_already_redeemed(connection, namespace_id)?;
    connection.batch_execute(
        "ANALYZE already; UPDATE found AS f SET fresh = false FROM already AS a WHERE a.line = f.line; \
         ANALYZE found; SET LOCAL enable_seqscan = on",
    )?;
    let counts = insert(connection, (namespace_id, upload_id), redeemed_at, all_known)?;
    // Nor what it knows of codes that have just come back: only a hash compares the whole key at once.
    connection.batch_execute("SET LOCAL enable_nestloop = off; SET LOCAL enable_mergejoin = off")?;
    let lots = count_in_lots(connection, namespace_id)?;
    mark_places(connection, namespace_id)?;
    Ok((counts, lots))
}

/// Each spelling of the file with each coupon that it stands for; without one, `bank_id` is null. `fresh`: it is redeemed from
/// now on, and was not before.
const FOUND: &str = "
CREATE TEMPORARY TABLE found (line bigint NOT NULL, written text COLLATE \"C\" NOT NULL, code text COLLATE \"C\" NOT NULL,
    bank_id integer, lot_id integer, seq integer, fresh boolean NOT NULL DEFAULT true) ON COMMIT DROP;
CREATE TEMPORARY TABLE already (line bigint NOT NULL) ON COMMIT DROP;
CREATE TEMPORARY TABLE alike (written text COLLATE \"C\" NOT NULL, code text COLLATE \"C\" NOT NULL, codes bigint NOT NULL)
    ON COMMIT DROP";
const LOOKED_UP: &str = "
LEFT JOIN LATERAL (SELECT c.bank_id, c.lot_id, c.seq FROM coupon AS c
                   WHERE c.namespace_id = $1 AND c.code = s.code OFFSET 0) AS k ON true";
const JOINED: &str = "
LEFT JOIN (SELECT c.code, c.bank_id, c.lot_id, c.seq FROM coupon AS c WHERE c.namespace_id = $1) AS k ON k.code = s.code";

/// Where codes of several runs come together, each with its first line.
const MERGED: &str = "(SELECT DISTINCT ON (t.code) t.line, t.code FROM staged_redemption AS t ORDER BY t.code, t.line)";
/// One run is in order, and has each code once.
const AS_IT_LIES: &str = "staged_redemption";

/// Fills `found`. Returns whether every spelling is that of a coupon.
fn find(connection: &mut Transaction, namespace_id: i32, runs: usize) -> Result<bool, StoreError> {
    connection.batch_execute(FOUND)?;
    let met = if is_citus(connection)? { JOINED } else { LOOKED_UP };
    let codes = if runs > 1 { MERGED } else { AS_IT_LIES };
    diesel::sql_query(format!(
        "INSERT INTO found (line, written, code, bank_id, lot_id, seq) \
         SELECT s.line, s.code, s.code, k.bank_id, k.lot_id, k.seq FROM {codes} AS s {met}",
    ))
    .bind::<Integer, _>(namespace_id)
    .execute(connection)?;
    let all_known = !has(connection, "SELECT EXISTS (SELECT FROM found WHERE bank_id IS NULL) AS any")?;
    if !all_known {
        find_in_other_case(connection, namespace_id)?;
    }
    Ok(all_known)
}

fn find_in_other_case(connection: &mut Transaction, namespace_id: i32) -> Result<(), StoreError> {
    // Each of the namespace's codes of mixed case is looked up here: they may be millions, and so may the file's.
    connection.batch_execute(
        "CREATE TEMPORARY TABLE variant (written text COLLATE \"C\" NOT NULL, code text COLLATE \"C\" NOT NULL) ON COMMIT DROP; \
         CREATE TEMPORARY TABLE unknown ON COMMIT DROP AS \
         SELECT f.written, lower(f.written) AS folded FROM found AS f WHERE f.bank_id IS NULL; \
         CREATE INDEX ON unknown (folded); ANALYZE unknown",
    )?;
    diesel::sql_query(
        // One equality a side: with `IN (upper, lower)` the planner can only compare every code with every other where it
        // takes the namespace for small, and it does so until the next ANALYZE.
        "INSERT INTO variant (written, code) \
         SELECT DISTINCT u.written, c.code FROM \
             (SELECT k.written, upper(k.written) AS folded FROM unknown AS k UNION SELECT k.written, k.folded FROM unknown AS k) AS u \
         JOIN coupon AS c ON c.namespace_id = $1 AND c.code = u.folded",
    )
    .bind::<Integer, _>(namespace_id)
    .execute(connection)?;
    diesel::sql_query(
        "INSERT INTO variant (written, code) \
         SELECT DISTINCT u.written, c.code FROM lot AS l \
         JOIN coupon AS c ON c.namespace_id = $1 AND c.bank_id = l.bank_id AND c.lot_id = l.id \
         JOIN unknown AS u ON u.folded = lower(c.code) \
         WHERE l.namespace_id = $1 AND l.letter_case = 'mixed'",
    )
    .bind::<Integer, _>(namespace_id)
    .execute(connection)?;
    if !has(connection, "SELECT EXISTS (SELECT FROM variant) AS any")? {
        return Ok(());
    }
    connection.batch_execute(
        "INSERT INTO alike (written, code, codes) \
         SELECT v.written, min(v.code), count(DISTINCT v.code) FROM variant AS v GROUP BY v.written; \
         CREATE TEMPORARY TABLE respelled ON COMMIT DROP AS \
         SELECT f.line, f.written, a.code FROM found AS f JOIN alike AS a ON a.written = f.written WHERE a.codes = 1; \
         DELETE FROM found AS f USING respelled AS e WHERE e.line = f.line",
    )?;
    diesel::sql_query(
        "INSERT INTO found (line, written, code, bank_id, lot_id, seq) \
         SELECT e.line, e.written, e.code, c.bank_id, c.lot_id, c.seq FROM respelled AS e \
         JOIN coupon AS c ON c.namespace_id = $1 AND c.code = e.code",
    )
    .bind::<Integer, _>(namespace_id)
    .execute(connection)?;
    // Two spellings of the file may stand for one code.
    Ok(connection.batch_execute(
        "INSERT INTO already (line) SELECT DISTINCT f.line FROM \
             (SELECT g.line, min(g.line) OVER (PARTITION BY g.code) AS first FROM found AS g) AS f WHERE f.line > f.first",
    )?)
}

/// What a bank holds says by its place whether it is redeemed; what none holds is looked up.
fn find_already_redeemed(connection: &mut Transaction, namespace_id: i32) -> Result<(), StoreError> {
    if !any(connection, namespace_id)? {
        return Ok(());
    }
    let met = if is_citus(connection)? {
        "JOIN (SELECT x.code FROM redemption AS x WHERE x.namespace_id = $1) AS r ON r.code = f.code"
    } else {
        "CROSS JOIN LATERAL (SELECT FROM redemption AS x WHERE x.namespace_id = $1 AND x.code = f.code OFFSET 0) AS r"
    };
    diesel::sql_query(format!(
        "INSERT INTO already (line) SELECT DISTINCT f.line FROM found AS f {met} \
         WHERE f.bank_id IS NULL AND NOT EXISTS (SELECT FROM already AS a WHERE a.line = f.line)"
    ))
    .bind::<Integer, _>(namespace_id)
    .execute(connection)?;
    // There are few blocks: each code meets its own in one pass.
    connection.batch_execute("SET LOCAL enable_nestloop = off; SET LOCAL enable_mergejoin = off")?;
    diesel::sql_query(
        "INSERT INTO already (line) SELECT DISTINCT f.line FROM found AS f \
         JOIN (SELECT x.bank_id, x.lot_id, x.block, x.bits FROM redeemed_block AS x WHERE x.namespace_id = $1) AS b \
             ON b.bank_id = f.bank_id AND b.lot_id = f.lot_id AND b.block = f.seq / 32768 \
         WHERE CASE WHEN f.seq % 32768 < 8 * octet_length(b.bits) THEN get_bit(b.bits, f.seq % 32768) = 1 ELSE false END \
             AND NOT EXISTS (SELECT FROM already AS a WHERE a.line = f.line)",
    )
    .bind::<Integer, _>(namespace_id)
    .execute(connection)?;
    Ok(connection.batch_execute("SET LOCAL enable_nestloop = on; SET LOCAL enable_mergejoin = on")?)
}

fn insert(
    connection: &mut Transaction,
    (namespace_id, upload_id): (i32, i64),
    redeemed_at: DateTime<Utc>,
    all_known: bool,
) -> Result<RedemptionCounts, StoreError> {
    // Nobody else redeems meanwhile, so that what was not found to be redeemed already is new.
    let inserted = diesel::sql_query(
        "INSERT INTO redemption AS r (namespace_id, code, upload_id, line, redeemed_at) \
         SELECT DISTINCT ON (f.code) $1, f.code, $2, f.line, $3 FROM found AS f WHERE f.fresh ORDER BY f.code",
    )
    .bind::<Integer, _>(namespace_id)
    .bind::<BigInt, _>(upload_id)
    .bind::<Timestamptz, _>(redeemed_at)
    .execute(connection)? as u64;
    #[derive(QueryableByName)]
    struct Counted {
        #[diesel(sql_type = BigInt)]
        already: i64,
        #[diesel(sql_type = BigInt)]
        unknown: i64,
    }
    let counted: Counted = diesel::sql_query(
        "SELECT (SELECT count(*) FROM already) AS already, \
             (SELECT count(*) FROM found AS f WHERE f.bank_id IS NULL AND f.fresh) AS unknown",
    )
    .get_result(connection)?;
    let unknown = u64::try_from(counted.unknown).unwrap_or_default();
    let already = u64::try_from(counted.already).unwrap_or_default();
    Ok(RedemptionCounts { already, unknown, redeemed: inserted.saturating_sub(unknown), all_known })
}

/// Coupons that are redeemed from now on.
const REDEEMED_NOW: &str = "(SELECT f.bank_id, f.lot_id, f.seq, f.line FROM found AS f \
     WHERE f.bank_id IS NOT NULL AND f.fresh)";

/// Codes that came back and wait: one place at most for each.
const WAITING_AGAIN: &str = "LEFT JOIN (SELECT x.bank_id, x.lot_id, x.seq, x.place FROM returned AS x WHERE x.namespace_id = $1) AS t \
     ON t.bank_id = r.bank_id AND t.lot_id = r.lot_id AND t.seq = r.seq AND t.place >= l.next_return";

/// Takes the codes that nobody has been given yet, or that came back and wait, out of their lots' counts. Lots are locked
/// first, and counted in a statement of its own: a draw that went before has moved `next_seq`, and the count must see that.
fn count_in_lots(connection: &mut Transaction, namespace_id: i32) -> Result<Vec<RedeemedInLot>, StoreError> {
    diesel::sql_query(format!(
        "SELECT l.id FROM lot AS l WHERE l.namespace_id = $1 \
             AND (l.bank_id, l.id) IN (SELECT n.bank_id, n.lot_id FROM {REDEEMED_NOW} AS n) \
         ORDER BY l.bank_id, l.id FOR NO KEY UPDATE",
    ))
    .bind::<Integer, _>(namespace_id)
    .execute(connection)?;
    #[derive(QueryableByName)]
    struct Returns {
        #[diesel(sql_type = Bool)]
        any: bool,
    }
    let returns: Returns = diesel::sql_query(
        "SELECT EXISTS (SELECT FROM lot AS l WHERE l.namespace_id = $1 AND l.returns > l.next_return) AS any",
    )
    .bind::<Integer, _>(namespace_id)
    .get_result(connection)?;
    let (waiting, waits) = if returns.any { (WAITING_AGAIN, "t.seq IS NOT NULL") } else { ("", "false") };
    Ok(diesel::sql_query(format!(
        "WITH hit AS MATERIALIZED ( \
             SELECT r.bank_id, r.lot_id, count(*) AS redeemed, min(r.line) AS first_line, max(r.line) AS last_line, \
                 count(*) FILTER (WHERE r.seq >= l.next_seq) AS ahead, count(*) FILTER (WHERE {waits}) AS returned, \
                 min(r.line) FILTER (WHERE r.seq >= l.next_seq OR {waits}) AS first_unassigned, \
                 max(r.line) FILTER (WHERE r.seq >= l.next_seq OR {waits}) AS last_unassigned \
             FROM {REDEEMED_NOW} AS r \
             JOIN lot AS l ON l.namespace_id = $1 AND l.bank_id = r.bank_id AND l.id = r.lot_id \
             {waiting} \
             GROUP BY r.bank_id, r.lot_id), \
         counted AS ( \
             UPDATE lot SET redeemed_ahead = lot.redeemed_ahead + h.ahead, \
                 returns_redeemed = lot.returns_redeemed + h.returned FROM hit AS h \
             WHERE lot.namespace_id = $1 AND lot.bank_id = h.bank_id AND lot.id = h.lot_id AND h.ahead + h.returned > 0) \
         SELECT h.bank_id, h.lot_id, l.upload_id AS coupons_upload, l.size::bigint AS size, \
             l.next_seq::bigint AS handed_out, h.redeemed, h.first_line, h.last_line, h.ahead + h.returned AS unassigned, \
             h.first_unassigned, h.last_unassigned \
         FROM hit AS h JOIN lot AS l ON l.namespace_id = $1 AND l.bank_id = h.bank_id AND l.id = h.lot_id \
         ORDER BY h.bank_id, h.lot_id",
    ))
    .bind::<Integer, _>(namespace_id)
    .load(connection)?)
}

/// Writes down by place what is redeemed from now on.
fn mark_places(connection: &mut Transaction, namespace_id: i32) -> Result<(), StoreError> {
    let places = diesel::sql_query(format!("SELECT r.bank_id, r.lot_id, r.seq FROM {REDEEMED_NOW} AS r"))
        .load_iter::<Place, PgRowByRowLoadingMode>(connection)?;
    NewlyRedeemed::of(places)?.write(connection, namespace_id)
}

/// Of the codes that [`apply`] has redeemed, those that nobody had been given in any bank. Codes of the site's banks are
/// never given to anybody and do not count; a code stands with the same line in every bank that holds it.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn in_nobodys_hands(connection: &mut Transaction, namespace_id: i32) -> Result<Vec<NobodysCodes>, StoreError> {
    Ok(diesel::sql_query(format!(
        "SELECT g.bank_id, g.lot_id, count(*) AS count, min(g.line) AS first_line, max(g.line) AS last_line FROM ( \
             SELECT r.bank_id, r.lot_id, r.line, bool_and(b.audience <> 'site' AND (r.seq >= l.next_seq OR t.seq IS NOT NULL)) \
                 OVER (PARTITION BY r.line) AS nobodys \
             FROM {REDEEMED_NOW} AS r \
             JOIN lot AS l ON l.namespace_id = $1 AND l.bank_id = r.bank_id AND l.id = r.lot_id \
             JOIN bank AS b ON b.namespace_id = $1 AND b.id = r.bank_id \
             {WAITING_AGAIN}) AS g \
         WHERE g.nobodys GROUP BY g.bank_id, g.lot_id ORDER BY g.bank_id, g.lot_id",
    ))
    .bind::<Integer, _>(namespace_id)
    .load(connection)?)
}

/// Rows whose spelling no bank has: unknown, other case, or ambiguous; by line, at most `most`.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn noted(connection: &mut Transaction, most: i64) -> Result<Vec<NotedRedemption>, StoreError> {
    Ok(diesel::sql_query(
        "SELECT DISTINCT f.line, f.written, coalesce(a.codes, 0) AS variants FROM found AS f \
         LEFT JOIN alike AS a ON a.written = f.written \
         WHERE f.bank_id IS NULL OR a.codes IS NOT NULL ORDER BY f.line LIMIT $1",
    )
    .bind::<BigInt, _>(most)
    .load(connection)?)
}

/// Whether the namespace has any redemption.
pub(super) fn any(connection: &mut PgConnection, namespace_id: i32) -> QueryResult<bool> {
    let redemptions = redemption::table.filter(redemption::namespace_id.eq(namespace_id));
    diesel::select(diesel::dsl::exists(redemptions)).get_result(connection)
}

fn has(connection: &mut Transaction, query: &str) -> Result<bool, StoreError> {
    #[derive(QueryableByName)]
    struct Any {
        #[diesel(sql_type = Bool)]
        any: bool,
    }
    let answer: Any = diesel::sql_query(query).get_result(connection)?;
    Ok(answer.any)
}
