//! Redemptions: insert-only, one row a code, whichever banks hold it.
//!
//! A code that no bank holds is remembered. A code that differs from exactly one code only in ASCII case counts as that
//! one; how such a code can be found without an index on the folded text is what `lot.letter_case` is for: codes of one
//! case are found by folding the file's spelling, only lots with both cases must be read.

use std::io::Write;

use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection as _;
use diesel::pg::CopyFormat;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Text, Timestamptz};

use super::copy::Rows;
pub use super::copy::write_row;
use super::{StoreError, Transaction};

mod staging {
    diesel::table! {
        staged_redemption (code) {
            line -> Int8,
            code -> Text,
        }
    }
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
        "CREATE TEMPORARY TABLE staged_redemption (line bigint NOT NULL, code text COLLATE \"C\" NOT NULL) ON COMMIT DROP",
    ).map_err(StoreError::from)?;
    let rows = Rows::new(write);
    let copied = diesel::copy_from(staging::staged_redemption::table)
        .from_raw_data(staging::staged_redemption::table, |sink: &mut dyn Write| rows.feed(sink))
        .with_format(CopyFormat::Text)
        .execute(connection);
    rows.end(copied)?;
    connection.batch_execute("ANALYZE staged_redemption").map_err(StoreError::from)?;
    Ok(())
}

/// What a redemption file did.
#[derive(Clone, Debug, Default, PartialEq, Eq, QueryableByName)]
pub struct RedemptionCounts {
    /// Codes that stood more than once in the file.
    #[diesel(sql_type = BigInt)]
    pub repeated: i64,
    /// Codes that were redeemed before.
    #[diesel(sql_type = BigInt)]
    pub already: i64,
    /// Codes that no bank holds; remembered.
    #[diesel(sql_type = BigInt)]
    pub unknown: i64,
    /// Codes that a bank holds and that are redeemed from now on.
    #[diesel(sql_type = BigInt)]
    pub redeemed: i64,
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

/// Redeems the staged codes. The namespace must be locked alone.
///
/// # Errors
/// Any [`StoreError`] of the statements.
pub fn apply(
    connection: &mut Transaction,
    namespace_id: i32,
    upload_id: i64,
    redeemed_at: DateTime<Utc>,
) -> Result<(RedemptionCounts, Vec<RedeemedInLot>), StoreError> {
    match_codes(connection, namespace_id)?;
    let counts = insert(connection, namespace_id, upload_id, redeemed_at)?;
    let lots = count_in_lots(connection, namespace_id)?;
    Ok((counts, lots))
}

/// Fills `used`: each distinct spelling of the file, the code it stands for, how that was found.
fn match_codes(connection: &mut Transaction, namespace_id: i32) -> Result<(), StoreError> {
    connection.batch_execute(
        "CREATE TEMPORARY TABLE used (line bigint NOT NULL, written text COLLATE \"C\" NOT NULL, \
             code text COLLATE \"C\", variants bigint NOT NULL DEFAULT 0) ON COMMIT DROP; \
         CREATE TEMPORARY TABLE redeemed_now (code text COLLATE \"C\" NOT NULL, line bigint NOT NULL) ON COMMIT DROP",
    )?;
    diesel::sql_query(
        "INSERT INTO used (line, written, code) \
         SELECT s.line, s.code, k.code FROM \
             (SELECT DISTINCT ON (code) line, code FROM staged_redemption ORDER BY code, line) AS s \
         LEFT JOIN (SELECT DISTINCT c.code FROM staged_redemption AS t \
             JOIN coupon AS c ON c.namespace_id = $1 AND c.code = t.code) AS k ON k.code = s.code",
    )
    .bind::<Integer, _>(namespace_id)
    .execute(connection)?;
    connection.batch_execute("ANALYZE used")?;
    if any(connection, "SELECT EXISTS (SELECT FROM used WHERE code IS NULL) AS any")? {
        match_other_case(connection, namespace_id)?;
    }
    Ok(())
}

fn match_other_case(connection: &mut Transaction, namespace_id: i32) -> Result<(), StoreError> {
    connection.batch_execute(
        "CREATE TEMPORARY TABLE variant (written text COLLATE \"C\" NOT NULL, code text COLLATE \"C\" NOT NULL) ON COMMIT DROP",
    )?;
    diesel::sql_query(
        // One equality a side: with `IN (upper, lower)` the planner can only compare every code with every other where it
        // takes the namespace for small, and it does so until the next ANALYZE.
        "INSERT INTO variant (written, code) \
         SELECT DISTINCT u.written, c.code FROM \
             (SELECT written, upper(written) AS folded FROM used WHERE code IS NULL \
              UNION SELECT written, lower(written) FROM used WHERE code IS NULL) AS u \
         JOIN coupon AS c ON c.namespace_id = $1 AND c.code = u.folded",
    )
    .bind::<Integer, _>(namespace_id)
    .execute(connection)?;
    diesel::sql_query(
        "INSERT INTO variant (written, code) \
         SELECT DISTINCT u.written, c.code FROM lot AS l \
         JOIN coupon AS c ON c.namespace_id = $1 AND c.bank_id = l.bank_id AND c.lot_id = l.id \
         JOIN used AS u ON lower(u.written) = lower(c.code) AND u.code IS NULL \
         WHERE l.namespace_id = $1 AND l.letter_case = 'mixed'",
    )
    .bind::<Integer, _>(namespace_id)
    .execute(connection)?;
    connection.batch_execute(
        "UPDATE used SET variants = v.n, code = CASE v.n WHEN 1 THEN v.code END FROM \
             (SELECT written, count(DISTINCT code) AS n, min(code) AS code FROM variant GROUP BY written) AS v \
         WHERE used.written = v.written",
    )?;
    Ok(())
}

fn insert(
    connection: &mut Transaction,
    namespace_id: i32,
    upload_id: i64,
    redeemed_at: DateTime<Utc>,
) -> Result<RedemptionCounts, StoreError> {
    diesel::sql_query(
        "WITH added AS ( \
             INSERT INTO redemption AS r (namespace_id, code, upload_id, line, redeemed_at) \
             SELECT $1, coalesce(u.code, u.written), $2, min(u.line), $3 FROM used AS u \
             GROUP BY coalesce(u.code, u.written) ORDER BY 2 \
             ON CONFLICT DO NOTHING RETURNING r.code, r.line) \
         INSERT INTO redeemed_now (code, line) SELECT code, line FROM added",
    )
    .bind::<Integer, _>(namespace_id)
    .bind::<BigInt, _>(upload_id)
    .bind::<Timestamptz, _>(redeemed_at)
    .execute(connection)?;
    connection.batch_execute("ANALYZE redeemed_now")?;
    // Every row of the file is in exactly one of the four.
    Ok(diesel::sql_query(
        "SELECT (SELECT count(*) FROM staged_redemption) - count(*) AS repeated, \
             count(*) FILTER (WHERE nth > 1 OR NOT fresh) AS already, \
             count(*) FILTER (WHERE nth = 1 AND fresh AND code IS NULL) AS unknown, \
             count(*) FILTER (WHERE nth = 1 AND fresh AND code IS NOT NULL) AS redeemed \
         FROM (SELECT u.code, n.code IS NOT NULL AS fresh, \
                 row_number() OVER (PARTITION BY coalesce(u.code, u.written) ORDER BY u.line) AS nth \
             FROM used AS u LEFT JOIN redeemed_now AS n ON n.code = coalesce(u.code, u.written)) AS rows",
    )
    .get_result(connection)?)
}

/// Takes the codes that nobody has been given yet, or that came back and wait (one place at most for each), out of their
/// lots' counts. Lots are locked first, and counted in a statement
/// of its own: a draw that went before has moved `next_seq`, and the count must see that.
fn count_in_lots(connection: &mut Transaction, namespace_id: i32) -> Result<Vec<RedeemedInLot>, StoreError> {
    connection.batch_execute(
        "CREATE TEMPORARY TABLE redeemed_coupon (bank_id integer NOT NULL, lot_id integer NOT NULL, seq integer NOT NULL, \
             line bigint NOT NULL) ON COMMIT DROP",
    )?;
    diesel::sql_query(
        "INSERT INTO redeemed_coupon (bank_id, lot_id, seq, line) \
         SELECT c.bank_id, c.lot_id, c.seq, n.line FROM redeemed_now AS n \
         JOIN coupon AS c ON c.namespace_id = $1 AND c.code = n.code",
    )
    .bind::<Integer, _>(namespace_id)
    .execute(connection)?;
    diesel::sql_query(
        "SELECT l.id FROM lot AS l WHERE l.namespace_id = $1 \
             AND (l.bank_id, l.id) IN (SELECT bank_id, lot_id FROM redeemed_coupon) \
         ORDER BY l.bank_id, l.id FOR NO KEY UPDATE",
    )
    .bind::<Integer, _>(namespace_id)
    .execute(connection)?;
    Ok(diesel::sql_query(
        "WITH hit AS MATERIALIZED ( \
             SELECT r.bank_id, r.lot_id, count(*) AS redeemed, min(r.line) AS first_line, max(r.line) AS last_line, \
                 count(*) FILTER (WHERE r.seq >= l.next_seq) AS ahead, count(t.seq) AS returned \
             FROM redeemed_coupon AS r \
             JOIN lot AS l ON l.namespace_id = $1 AND l.bank_id = r.bank_id AND l.id = r.lot_id \
             LEFT JOIN (SELECT x.bank_id, x.lot_id, x.seq, x.place FROM returned AS x WHERE x.namespace_id = $1) AS t \
                 ON t.bank_id = r.bank_id AND t.lot_id = r.lot_id AND t.seq = r.seq AND t.place >= l.next_return \
             GROUP BY r.bank_id, r.lot_id), \
         counted AS ( \
             UPDATE lot SET redeemed_ahead = lot.redeemed_ahead + h.ahead, \
                 returns_redeemed = lot.returns_redeemed + h.returned FROM hit AS h \
             WHERE lot.namespace_id = $1 AND lot.bank_id = h.bank_id AND lot.id = h.lot_id AND h.ahead + h.returned > 0) \
         SELECT h.bank_id, h.lot_id, l.upload_id AS coupons_upload, l.size::bigint AS size, \
             l.next_seq::bigint AS handed_out, h.redeemed, h.first_line, h.last_line, h.ahead + h.returned AS unassigned \
         FROM hit AS h JOIN lot AS l ON l.namespace_id = $1 AND l.bank_id = h.bank_id AND l.id = h.lot_id \
         ORDER BY h.bank_id, h.lot_id",
    )
    .bind::<Integer, _>(namespace_id)
    .load(connection)?)
}

/// Of the codes that [`apply`] has redeemed, those that nobody had been given in any bank. Codes of the site's banks are
/// never given to anybody and do not count; a code stands with the same line in every bank that holds it.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn in_nobodys_hands(connection: &mut Transaction, namespace_id: i32) -> Result<Vec<NobodysCodes>, StoreError> {
    Ok(diesel::sql_query(
        "SELECT g.bank_id, g.lot_id, count(*) AS count, min(g.line) AS first_line, max(g.line) AS last_line FROM ( \
             SELECT r.bank_id, r.lot_id, r.line, bool_and(b.audience <> 'site' AND (r.seq >= l.next_seq OR t.seq IS NOT NULL)) \
                 OVER (PARTITION BY r.line) AS nobodys \
             FROM redeemed_coupon AS r \
             JOIN lot AS l ON l.namespace_id = $1 AND l.bank_id = r.bank_id AND l.id = r.lot_id \
             JOIN bank AS b ON b.namespace_id = $1 AND b.id = r.bank_id \
             LEFT JOIN (SELECT x.bank_id, x.lot_id, x.seq, x.place FROM returned AS x WHERE x.namespace_id = $1) AS t \
                 ON t.bank_id = r.bank_id AND t.lot_id = r.lot_id AND t.seq = r.seq AND t.place >= l.next_return) AS g \
         WHERE g.nobodys GROUP BY g.bank_id, g.lot_id ORDER BY g.bank_id, g.lot_id",
    )
    .bind::<Integer, _>(namespace_id)
    .load(connection)?)
}

/// Rows whose spelling no bank has: unknown, other case, or ambiguous; by line, at most `most`.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn noted(connection: &mut Transaction, most: i64) -> Result<Vec<NotedRedemption>, StoreError> {
    Ok(diesel::sql_query(
        "SELECT line, written, variants FROM used WHERE variants > 0 OR code IS NULL ORDER BY line LIMIT $1",
    )
    .bind::<BigInt, _>(most)
    .load(connection)?)
}

fn any(connection: &mut Transaction, query: &str) -> Result<bool, StoreError> {
    #[derive(QueryableByName)]
    struct Any {
        #[diesel(sql_type = Bool)]
        any: bool,
    }
    let answer: Any = diesel::sql_query(query).get_result(connection)?;
    Ok(answer.any)
}
