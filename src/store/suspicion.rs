//! Redemptions of one local day that nobody should have made, counted by lot and redemption upload.
//!
//! Codes of the site's banks are never assigned, and a code that another bank handed out was redeemed rightly: neither is
//! suspicious for not being assigned.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Text, Timestamptz};

use super::schema::suspicion;
use super::{Store, StoreError, assigned};

/// Codes of one lot that one upload redeemed.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct LotCount {
    /// The bank.
    #[diesel(sql_type = Text)]
    pub bank: String,
    /// The lot.
    #[diesel(sql_type = Integer)]
    pub lot_id: i32,
    /// The upload that brought the lot.
    #[diesel(sql_type = BigInt)]
    pub coupons_upload: i64,
    /// The upload that redeemed them.
    #[diesel(sql_type = BigInt)]
    pub redemptions_upload: i64,
    /// How many.
    #[diesel(sql_type = BigInt)]
    pub count: i64,
    /// The first of its lines.
    #[diesel(sql_type = BigInt)]
    pub first_line: i64,
    /// The last of its lines.
    #[diesel(sql_type = BigInt)]
    pub last_line: i64,
    /// How many codes of the lot are out: handed out, or for the site all.
    #[diesel(sql_type = BigInt)]
    pub lot_out: i64,
}

const COLUMNS: &str = "k.name AS bank, l.id AS lot_id, l.upload_id AS coupons_upload, \
    r.upload_id AS redemptions_upload, count(*) AS count, min(r.line) AS first_line, max(r.line) AS last_line, \
    max(CASE k.audience WHEN 'site' THEN l.size ELSE l.next_seq END)::bigint AS lot_out";

const JOINED: &str = "JOIN coupon AS c ON c.namespace_id = $1 AND c.code = r.code \
    JOIN lot AS l ON l.namespace_id = $1 AND l.bank_id = c.bank_id AND l.id = c.lot_id \
    JOIN bank AS k ON k.namespace_id = $1 AND k.id = c.bank_id";

const GROUPED: &str = "GROUP BY k.name, l.id, l.upload_id, r.upload_id ORDER BY k.name, l.id, r.upload_id";

/// Redeemed while known to a bank, and in nobody's hands: never assigned, or come back since.
fn unassigned() -> String {
    format!(
        "l.created_at <= r.redeemed_at AND NOT EXISTS ( \
    SELECT FROM coupon AS o JOIN bank AS b ON b.namespace_id = $1 AND b.id = o.bank_id \
    LEFT JOIN LATERAL {} AS a ON true \
    WHERE o.namespace_id = $1 AND o.code = r.code AND (b.audience = 'site' OR (a.seq IS NOT NULL AND NOT EXISTS ( \
        SELECT FROM returned AS t WHERE t.namespace_id = $1 AND t.bank_id = a.bank_id AND t.lot_id = a.lot_id \
            AND t.seq = a.seq AND t.turn = a.turn))))",
        assigned::at("o.bank_id", "o.lot_id", "o.seq")
    )
}

/// Redeemed before any bank had it.
const BEFORE_UPLOAD: &str = "r.redeemed_at < l.created_at AND NOT EXISTS ( \
    SELECT FROM coupon AS o JOIN lot AS m ON m.namespace_id = $1 AND m.bank_id = o.bank_id AND m.id = o.lot_id \
    WHERE o.namespace_id = $1 AND o.code = r.code AND m.created_at <= r.redeemed_at)";

/// Which redemptions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// All of files received on the day.
    All,
    /// Of these, codes that nobody held.
    Unassigned,
    /// Codes of lots applied on the day that had been redeemed before they were uploaded.
    BeforeUpload,
}

impl Store {
    /// Redemptions from `from` until before `until`, by lot and redemption upload.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn count_redeemed(
        &self,
        namespace_id: i32,
        counted: Counted,
        (from, until): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Vec<LotCount>, StoreError> {
        const ON_THE_DAY: &str = "r.redeemed_at >= $2 AND r.redeemed_at < $3";
        let which = match counted {
            Counted::All => ON_THE_DAY.to_owned(),
            Counted::Unassigned => format!("{ON_THE_DAY} AND {}", unassigned()),
            Counted::BeforeUpload => format!("l.created_at >= $2 AND l.created_at < $3 AND {BEFORE_UPLOAD}"),
        };
        let statement =
            format!("SELECT {COLUMNS} FROM redemption AS r {JOINED} WHERE r.namespace_id = $1 AND {which} {GROUPED}");
        Ok(diesel::sql_query(statement)
            .bind::<Integer, _>(namespace_id)
            .bind::<Timestamptz, _>(from)
            .bind::<Timestamptz, _>(until)
            .load(&mut self.connection()?)?)
    }

    /// The newest local date that was looked through.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn last_suspicion(&self, namespace_id: i32) -> Result<Option<NaiveDate>, StoreError> {
        Ok(suspicion::table
            .filter(suspicion::namespace_id.eq(namespace_id))
            .select(diesel::dsl::max(suspicion::business_date))
            .first(&mut self.connection()?)?)
    }

    /// Whether a file received before `until` has no verdict yet that may add to what was redeemed by then.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn is_open_before(&self, namespace_id: i32, until: DateTime<Utc>) -> Result<bool, StoreError> {
        #[derive(QueryableByName)]
        struct Open {
            #[diesel(sql_type = Bool)]
            open: bool,
        }
        let answer: Open = diesel::sql_query(
            "SELECT EXISTS (SELECT FROM upload WHERE namespace_id = $1 AND state IN ('received', 'active', 'deferred') \
                 AND kind <> 'recipients' AND NOT dry_run AND received_at < $2) AS open",
        )
        .bind::<Integer, _>(namespace_id)
        .bind::<Timestamptz, _>(until)
        .get_result(&mut self.connection()?)?;
        Ok(answer.open)
    }

    /// Remembers that a date was looked through.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn suspicion_made(
        &self,
        namespace_id: i32,
        date: NaiveDate,
        findings: usize,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        diesel::insert_into(suspicion::table)
            .values((
                suspicion::namespace_id.eq(namespace_id),
                suspicion::business_date.eq(date),
                suspicion::findings.eq(i64::try_from(findings).unwrap_or(i64::MAX)),
                suspicion::made_at.eq(now),
            ))
            .on_conflict_do_nothing()
            .execute(&mut self.connection()?)?;
        Ok(())
    }
}
