//! Undoing a coupons upload: its lots become void, so that what is not handed out yet never is.
//!
//! Lots are locked in the order of bank and id, as draws and redemptions do. What a draw has handed out before stays with
//! the customers who have it.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Integer, Nullable, Text, Timestamptz};

use crate::store::{Store, StoreError};

/// One lot of an undone upload.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct VoidedLot {
    /// The bank.
    #[diesel(sql_type = Text)]
    pub bank: String,
    /// Last day of its window.
    #[diesel(sql_type = Nullable<Date>)]
    pub end_date: Option<NaiveDate>,
    /// Codes that the upload had added.
    #[diesel(sql_type = BigInt)]
    pub size: i64,
    /// Of these, codes that customers have been given.
    #[diesel(sql_type = BigInt)]
    pub handed_out: i64,
    /// Of these, codes that were redeemed without having been given to anybody.
    #[diesel(sql_type = BigInt)]
    pub redeemed: i64,
    /// When it had been voided before; `None`: it is void from now on.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub voided_before: Option<DateTime<Utc>>,
}

/// Locked first, counted in a statement of its own: a draw that went before has moved `next_seq`, and that must be seen.
const LOCK: &str = "
SELECT l.id FROM lot l WHERE l.namespace_id = $1 AND l.upload_id = $2 ORDER BY l.bank_id, l.id FOR NO KEY UPDATE";

const COUNT: &str = "
SELECT b.name AS bank, l.end_date, l.size::bigint AS size,
    (SELECT count(*) FROM assignment a
     WHERE a.namespace_id = $1 AND a.bank_id = l.bank_id AND a.lot_id = l.id) AS handed_out,
    l.redeemed_ahead + l.next_seq - (SELECT count(*) FROM assignment a
     WHERE a.namespace_id = $1 AND a.bank_id = l.bank_id AND a.lot_id = l.id) AS redeemed,
    l.voided_at AS voided_before
FROM lot l JOIN bank b ON b.namespace_id = l.namespace_id AND b.id = l.bank_id
WHERE l.namespace_id = $1 AND l.upload_id = $2 ORDER BY b.name, l.id";

const VOID: &str = "
UPDATE lot SET voided_at = $3 WHERE namespace_id = $1 AND upload_id = $2 AND voided_at IS NULL";

impl Store {
    /// Voids the lots of upload `id`. Returns every lot as it stood; those that were void before stay as they were.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements.
    pub fn void_upload(&self, namespace_id: i32, id: i64, now: DateTime<Utc>) -> Result<Vec<VoidedLot>, StoreError> {
        self.transaction(|transaction| {
            diesel::sql_query(LOCK).bind::<Integer, _>(namespace_id).bind::<BigInt, _>(id).execute(transaction)?;
            let lots =
                diesel::sql_query(COUNT).bind::<Integer, _>(namespace_id).bind::<BigInt, _>(id).load(transaction)?;
            diesel::sql_query(VOID)
                .bind::<Integer, _>(namespace_id)
                .bind::<BigInt, _>(id)
                .bind::<Timestamptz, _>(now)
                .execute(transaction)?;
            Ok(lots)
        })
    }
}
