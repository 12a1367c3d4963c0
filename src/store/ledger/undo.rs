//! Undoing a coupons upload: its lots become void, so that what is not handed out yet never is.
//!
//! A void code that nobody has may be uploaded again, with the right end date this time: then it leaves the void lot
//! ([`bring_back`]) and comes in as a new one. Nobody has what was never given, and what came back and waits. So the same content may come to the same place again too, which is why the
//! undone upload's hash is forgotten.
//!
//! Lots are locked in the order of bank and id, as draws and redemptions do. What a draw has handed out before stays with
//! the customers who have it.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Integer, Nullable, Text, Timestamptz};

use crate::store::schema::{lot, upload};
use crate::store::{Store, StoreError, Transaction};

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

/// What a customer has is an assignment that did not come back; what is neither with a customer nor waiting in one of the
/// lot's two queues was redeemed.
const COUNT: &str = "
SELECT c.bank, c.end_date, c.size, c.handed_out, c.size - c.handed_out - c.waiting AS redeemed, c.voided_before
FROM (
    SELECT l.id, b.name AS bank, l.end_date, l.size::bigint AS size, l.voided_at AS voided_before,
        ((l.size - l.next_seq - l.redeemed_ahead) + (l.returns - l.next_return - l.returns_redeemed))::bigint AS waiting,
        (SELECT count(*) FROM assignment a
         WHERE a.namespace_id = $1 AND a.bank_id = l.bank_id AND a.lot_id = l.id)
        + (SELECT coalesce(sum(s.customers), 0)::bigint FROM assignment_sheet s
           WHERE s.namespace_id = $1 AND s.bank_id = l.bank_id AND s.lot_id = l.id)
        - (SELECT count(*) FROM returned t
           WHERE t.namespace_id = $1 AND t.bank_id = l.bank_id AND t.lot_id = l.id) AS handed_out
    FROM lot l JOIN bank b ON b.namespace_id = l.namespace_id AND b.id = l.bank_id
    WHERE l.namespace_id = $1 AND l.upload_id = $2) c
ORDER BY c.bank, c.id";

const VOID: &str = "
UPDATE lot SET voided_at = $3 WHERE namespace_id = $1 AND upload_id = $2 AND voided_at IS NULL";

/// From `next_seq` on nothing was handed out, and of a void lot nothing ever will be. What was handed out and came back is in
/// nobody's hands either: but for the undoing it would be handed out again. Its assignments and returns stay as they are.
const LEAVE_VOID_LOTS: &str = "
DELETE FROM coupon c USING lot l, new_lot n, staged_coupon s
WHERE s.lot_key = n.lot_key AND c.namespace_id = $1 AND c.code = s.code AND c.bank_id = n.bank_id
  AND l.namespace_id = $1 AND l.bank_id = c.bank_id AND l.id = c.lot_id AND l.voided_at IS NOT NULL
  AND (c.seq >= l.next_seq OR EXISTS (SELECT FROM returned t WHERE t.namespace_id = $1 AND t.bank_id = c.bank_id
      AND t.lot_id = c.lot_id AND t.seq = c.seq AND t.place >= l.next_return))";

/// Lets the staged codes that lie in void lots leave them, so that they can come in anew. The banks must be locked.
///
/// # Errors
/// Any [`StoreError`] of the statements.
pub fn bring_back(connection: &mut Transaction, namespace_id: i32) -> Result<(), StoreError> {
    diesel::sql_query(LEAVE_VOID_LOTS).bind::<Integer, _>(namespace_id).execute(connection)?;
    Ok(())
}

impl Store {
    /// Whether upload `id` was undone.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn is_undone(&self, namespace_id: i32, id: i64) -> Result<bool, StoreError> {
        let voided: Option<i32> = lot::table
            .filter(lot::namespace_id.eq(namespace_id).and(lot::upload_id.eq(id)))
            .filter(lot::voided_at.is_not_null())
            .select(lot::id)
            .first(&mut self.connection()?)
            .optional()?;
        Ok(voided.is_some())
    }

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
            diesel::update(upload::table)
                .filter(upload::namespace_id.eq(namespace_id).and(upload::id.eq(id)))
                .set(upload::sha256.eq(None::<Vec<u8>>))
                .execute(transaction)?;
            Ok(lots)
        })
    }
}
