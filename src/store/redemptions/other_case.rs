//! Codes of a redemption file that no bank has as they stand: taken for the one code that differs in ASCII case only, or else
//! remembered.
//!
//! How such a code can be found without an index on the folded text is what `lot.letter_case` is for: codes of one case are
//! found by folding the file's spelling, only lots with both cases must be read.

use std::io::Write;

use diesel::connection::SimpleConnection as _;
use diesel::pg::{CopyFormat, PgRowByRowLoadingMode};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Text, Timestamptz};

use super::RedemptionTerms;
use crate::sorter::run::RunRow;
use crate::sorter::{By, Reading, Sorted, Sorter, Tape};
use crate::store::copy::{Rows, gather, write_row};
use crate::store::{StoreError, Transaction};

mod staging {
    diesel::table! {
        unknown (line) {
            line -> Int8,
            written -> Text,
        }
    }
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

/// Takes the codes into a temporary table, each of them once; it ends with the transaction.
pub(super) fn stage(connection: &mut Transaction, codes: &Tape) -> Result<(), StoreError> {
    connection.batch_execute(
        "CREATE TEMPORARY TABLE unknown (line bigint NOT NULL, written text COLLATE \"C\" NOT NULL, \
             folded text COLLATE \"C\" GENERATED ALWAYS AS (lower(written)) STORED) ON COMMIT DROP; \
         CREATE TEMPORARY TABLE variant (written text COLLATE \"C\" NOT NULL, code text COLLATE \"C\" NOT NULL) ON COMMIT DROP; \
         CREATE TEMPORARY TABLE alike (written text COLLATE \"C\" NOT NULL, code text COLLATE \"C\" NOT NULL, codes bigint NOT NULL) \
         ON COMMIT DROP",
    )?;
    let mut reading = Reading::all();
    let rows = Rows::new(|sink: &mut dyn Write| {
        gather(sink, |text| match reading.next_row(codes)? {
            Some(row) => Ok(write_row(row.number, row.text, text).map(|()| true)?),
            None => Ok(false),
        })
    });
    let copied = diesel::copy_from(staging::unknown::table)
        .from_raw_data(staging::unknown::table, |sink: &mut dyn Write| rows.feed(sink))
        .with_format(CopyFormat::Text)
        .execute(connection);
    rows.end(copied)?;
    Ok(connection.batch_execute("CREATE INDEX ON unknown (folded); ANALYZE unknown")?)
}

/// Finds what each of them is taken for: lines and codes, in the order of codes.
pub(super) fn find(connection: &mut Transaction, terms: &RedemptionTerms<'_>) -> Result<Sorted, StoreError> {
    diesel::sql_query(
        // One equality a side: with `IN (upper, lower)` the planner can only compare every code with every other where it
        // takes the namespace for small, and it does so until the next ANALYZE.
        "INSERT INTO variant (written, code) \
         SELECT DISTINCT u.written, c.code FROM \
             (SELECT k.written, upper(k.written) AS folded FROM unknown AS k UNION SELECT k.written, k.folded FROM unknown AS k) AS u \
         JOIN coupon AS c ON c.namespace_id = $1 AND c.code = u.folded",
    )
    .bind::<Integer, _>(terms.namespace_id)
    .execute(connection)?;
    // Each of the namespace's codes of mixed case is looked up here: they may be millions, and so may the file's.
    diesel::sql_query(
        "INSERT INTO variant (written, code) \
         SELECT DISTINCT u.written, c.code FROM lot AS l \
         JOIN coupon AS c ON c.namespace_id = $1 AND c.bank_id = l.bank_id AND c.lot_id = l.id \
         JOIN unknown AS u ON u.folded = lower(c.code) \
         WHERE l.namespace_id = $1 AND l.letter_case = 'mixed'",
    )
    .bind::<Integer, _>(terms.namespace_id)
    .execute(connection)?;
    connection.batch_execute(
        "INSERT INTO alike (written, code, codes) \
         SELECT v.written, min(v.code), count(DISTINCT v.code) FROM variant AS v GROUP BY v.written; \
         CREATE INDEX ON alike (written); ANALYZE alike",
    )?;
    #[derive(QueryableByName)]
    struct Respelled {
        #[diesel(sql_type = BigInt)]
        line: i64,
        #[diesel(sql_type = Text)]
        code: String,
    }
    let respelled = diesel::sql_query(
        "SELECT u.line, a.code FROM alike AS a JOIN unknown AS u ON u.written = a.written WHERE a.codes = 1",
    )
    .load_iter::<Respelled, PgRowByRowLoadingMode>(connection)?;
    let mut codes = Sorter::new(terms.directory, By::Text);
    for row in respelled {
        let Respelled { line, code } = row?;
        codes.push(RunRow { number: u64::try_from(line).unwrap_or_default(), group: 0, text: &code })?;
    }
    Ok(codes.sorted()?)
}

/// Remembers the others as they stand. Returns how many, and how many were remembered before.
pub(super) fn remember(connection: &mut Transaction, terms: &RedemptionTerms<'_>) -> Result<(u64, u64), StoreError> {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        unknown: i64,
    }
    let all: Count =
        diesel::sql_query(format!("SELECT count(*) AS unknown FROM {STRANGERS}")).get_result(connection)?;
    let remembered = diesel::sql_query(format!(
        "INSERT INTO redemption AS r (namespace_id, code, upload_id, line, redeemed_at) \
         SELECT $1, s.written, $2, s.line, $3 FROM {STRANGERS} ORDER BY s.written \
         ON CONFLICT (namespace_id, code) DO NOTHING",
    ))
    .bind::<Integer, _>(terms.namespace_id)
    .bind::<BigInt, _>(terms.upload_id)
    .bind::<Timestamptz, _>(terms.redeemed_at)
    .execute(connection)? as u64;
    Ok((remembered, u64::try_from(all.unknown).unwrap_or_default().saturating_sub(remembered)))
}

/// Those that are like none, or like several.
const STRANGERS: &str = "(SELECT u.line, u.written FROM unknown AS u \
     WHERE NOT EXISTS (SELECT FROM alike AS a WHERE a.written = u.written AND a.codes = 1)) AS s";

/// All of them by line, at most `most`.
pub(super) fn noted(connection: &mut Transaction, most: i64) -> Result<Vec<NotedRedemption>, StoreError> {
    Ok(diesel::sql_query(
        "SELECT u.line, u.written, coalesce(a.codes, 0) AS variants FROM unknown AS u \
         LEFT JOIN alike AS a ON a.written = u.written ORDER BY u.line LIMIT $1",
    )
    .bind::<BigInt, _>(most)
    .load(connection)?)
}
