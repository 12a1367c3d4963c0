//! How many of the codes that were handed out have been redeemed.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Integer, Nullable, Text, Timestamptz};

use crate::store::{Store, StoreError};

/// What one batch gave out of one lot.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Given {
    /// When the batch was assigned.
    #[diesel(sql_type = Timestamptz)]
    pub assigned_at: DateTime<Utc>,
    /// The bank.
    #[diesel(sql_type = Text)]
    pub bank: String,
    /// The lot's id.
    #[diesel(sql_type = Integer)]
    pub lot: i32,
    /// The lot's end date.
    #[diesel(sql_type = Nullable<Date>)]
    pub end_date: Option<NaiveDate>,
    /// The batch's campaign.
    #[diesel(sql_type = Text)]
    pub campaign: String,
    /// Codes that it gave, without those that came back to stock because their customer was not reached.
    #[diesel(sql_type = BigInt)]
    pub assigned: i64,
    /// Of these, codes that have been redeemed since.
    #[diesel(sql_type = BigInt)]
    pub redeemed: i64,
}

/// Each side is read once: assignments are counted per batch and lot before anything is joined to names.
const GIVEN: &str = "
WITH given AS (
    SELECT a.bank_id, a.lot_id, a.batch_id, count(*) AS assigned, count(r.code) AS redeemed
    FROM (SELECT s.bank_id, s.lot_id, s.batch_id, s.code FROM assigned s
          WHERE s.namespace_id = $1 AND NOT EXISTS (SELECT FROM returned t WHERE t.namespace_id = $1
              AND t.bank_id = s.bank_id AND t.lot_id = s.lot_id AND t.seq = s.seq AND t.turn = s.turn)) a
    LEFT JOIN (SELECT x.code FROM redemption x WHERE x.namespace_id = $1) r ON r.code = a.code
    GROUP BY a.bank_id, a.lot_id, a.batch_id)
SELECT coalesce(b.assigned_at, b.due_at) AS assigned_at, k.name AS bank, g.lot_id AS lot, l.end_date, b.campaign,
    g.assigned, g.redeemed
FROM given g
JOIN bank k ON k.namespace_id = $1 AND k.id = g.bank_id
JOIN lot l ON l.namespace_id = $1 AND l.bank_id = g.bank_id AND l.id = g.lot_id
JOIN batch b ON b.namespace_id = $1 AND b.id = g.batch_id";

impl Store {
    /// What every batch gave out of every lot, in no order.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn given_and_redeemed(&self, namespace_id: i32) -> Result<Vec<Given>, StoreError> {
        Ok(diesel::sql_query(GIVEN).bind::<Integer, _>(namespace_id).load(&mut self.connection()?)?)
    }
}
