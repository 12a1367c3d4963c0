//! Batches as an admin lists them, and the nudge that makes waiting ones look again.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Date, Integer, Nullable, Text, Timestamptz};

use crate::store::{Store, StoreError};

/// One batch with the names of what it hangs on.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct ListedBatch {
    /// Its id.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// Its campaign.
    #[diesel(sql_type = Text)]
    pub campaign: String,
    /// Its bank's id.
    #[diesel(sql_type = Integer)]
    pub bank_id: i32,
    /// Its bank.
    #[diesel(sql_type = Text)]
    pub bank: String,
    /// Whether customers keep the bank's codes.
    #[diesel(sql_type = Bool)]
    pub persistent: bool,
    /// Its recipients list.
    #[diesel(sql_type = BigInt)]
    pub upload_id: i64,
    /// That list's file name.
    #[diesel(sql_type = Text)]
    pub list_name: String,
    /// The local date of its firing or arrival.
    #[diesel(sql_type = Date)]
    pub business_date: NaiveDate,
    /// Whether it is a test send.
    #[diesel(sql_type = Bool)]
    pub proof: bool,
    /// `due`, `waiting`, `assigned`, `exported` or `collected`.
    #[diesel(sql_type = Text)]
    pub state: String,
    /// The instant of its firing or arrival.
    #[diesel(sql_type = Timestamptz)]
    pub due_at: DateTime<Utc>,
    /// The instant at which windows were judged.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub send_at: Option<DateTime<Utc>>,
    /// The bank's draw number, from `assigned` on; none for a proof.
    #[diesel(sql_type = Nullable<Integer>)]
    pub draw: Option<i32>,
    /// The channel in its assignments, from `assigned` on.
    #[diesel(sql_type = Nullable<Text>)]
    pub hold_channel: Option<String>,
    /// When its assignments were committed.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub assigned_at: Option<DateTime<Utc>>,
    /// When the newest redemption file known then was received.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub redemptions_as_of: Option<DateTime<Utc>>,
    /// Codes that it needed when last compared.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub need: Option<i64>,
    /// Codes that the bank had then.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub stock: Option<i64>,
    /// Why it waits.
    #[diesel(sql_type = Nullable<Text>)]
    pub waiting_for: Option<String>,
    /// Its manifest, as JSON.
    #[diesel(sql_type = Nullable<Text>)]
    pub manifest: Option<String>,
    /// When its manifest appeared.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub exported_at: Option<DateTime<Utc>>,
}

/// Which batches are listed.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchFilter<'a> {
    /// Only of this campaign.
    pub campaign: Option<&'a str>,
    /// Only in this state.
    pub state: Option<&'a str>,
    /// Only this one.
    pub id: Option<i64>,
    /// Only those that have not been exported.
    pub open: bool,
    /// At most so many.
    pub limit: i64,
}

const LISTED: &str = "
SELECT b.id, b.campaign, b.bank_id, k.name AS bank, k.persistent, b.upload_id, u.name AS list_name, b.business_date,
    b.proof, b.state, b.due_at, b.send_at, b.draw, b.hold_channel, b.assigned_at, b.redemptions_as_of, b.need, b.stock,
    b.waiting_for, b.manifest, b.exported_at
FROM batch b
JOIN bank k ON k.namespace_id = b.namespace_id AND k.id = b.bank_id
JOIN upload u ON u.namespace_id = b.namespace_id AND u.id = b.upload_id
WHERE b.namespace_id = $1";

const NEWEST_FIRST: &str = "
  AND ($2 IS NULL OR b.campaign = $2) AND ($3 IS NULL OR b.state = $3) AND ($4 IS NULL OR b.id = $4)
  AND (NOT $5 OR b.state IN ('due', 'waiting', 'assigned'))
ORDER BY b.id DESC LIMIT $6";

const DRAWS: &str = "
  AND b.draw IS NOT NULL
ORDER BY b.bank_id, b.draw";

/// A waiting batch compares need with stock anew when it does not know what it compared last.
const NUDGE: &str = "
UPDATE batch SET retry_at = NULL, need = CASE state WHEN 'assigned' THEN need END,
    stock = CASE state WHEN 'assigned' THEN stock END
WHERE namespace_id = $1 AND campaign = $2 AND state IN ('due', 'waiting', 'assigned') RETURNING id";

impl Store {
    /// Batches of the namespace, newest first.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn list_batches(&self, namespace_id: i32, filter: &BatchFilter<'_>) -> Result<Vec<ListedBatch>, StoreError> {
        Ok(diesel::sql_query(format!("{LISTED}{NEWEST_FIRST}"))
            .bind::<Integer, _>(namespace_id)
            .bind::<Nullable<Text>, _>(filter.campaign)
            .bind::<Nullable<Text>, _>(filter.state)
            .bind::<Nullable<BigInt>, _>(filter.id)
            .bind::<Bool, _>(filter.open)
            .bind::<BigInt, _>(filter.limit)
            .load(&mut self.connection()?)?)
    }

    /// Every batch of the namespace that drew codes, by bank and draw.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn draws(&self, namespace_id: i32) -> Result<Vec<ListedBatch>, StoreError> {
        Ok(diesel::sql_query(format!("{LISTED}{DRAWS}"))
            .bind::<Integer, _>(namespace_id)
            .load(&mut self.connection()?)?)
    }

    /// Lets the open batches of a campaign that are put off be claimed at once. Returns their ids. Leases stand.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn nudge_batches(&self, namespace_id: i32, campaign: &str) -> Result<Vec<i64>, StoreError> {
        #[derive(QueryableByName)]
        struct Nudged {
            #[diesel(sql_type = BigInt)]
            id: i64,
        }
        let nudged: Vec<Nudged> = diesel::sql_query(NUDGE)
            .bind::<Integer, _>(namespace_id)
            .bind::<Text, _>(campaign)
            .load(&mut self.connection()?)?;
        Ok(nudged.into_iter().map(|batch| batch.id).collect())
    }
}
