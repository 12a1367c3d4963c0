//! What the store knows about one code, and about one customer.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Date, Integer, Nullable, SmallInt, Text, Timestamptz};

use crate::store::{Store, StoreError, assigned};

/// A code in one bank.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct BankedCode {
    /// The code as uploaded.
    #[diesel(sql_type = Text)]
    pub code: String,
    /// The bank's id.
    #[diesel(sql_type = Integer)]
    pub bank_id: i32,
    /// The bank.
    #[diesel(sql_type = Text)]
    pub bank: String,
    /// Its lot.
    #[diesel(sql_type = Integer)]
    pub lot_id: i32,
    /// Its place in the lot, from 0.
    #[diesel(sql_type = Integer)]
    pub seq: i32,
    /// Its line in the upload that brought it.
    #[diesel(sql_type = BigInt)]
    pub line: i64,
    /// How many codes the lot has.
    #[diesel(sql_type = Integer)]
    pub lot_size: i32,
    /// The first place of the lot that is not handed out.
    #[diesel(sql_type = Integer)]
    pub next_seq: i32,
    /// Last day of its window.
    #[diesel(sql_type = Nullable<Date>)]
    pub end_date: Option<NaiveDate>,
    /// The upload that brought it.
    #[diesel(sql_type = BigInt)]
    pub upload_id: i64,
    /// That upload's file name.
    #[diesel(sql_type = Text)]
    pub upload_name: String,
    /// When it was applied.
    #[diesel(sql_type = Timestamptz)]
    pub added_at: DateTime<Utc>,
    /// When that upload was undone.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub voided_at: Option<DateTime<Utc>>,
}

/// A redemption and the file that said so first.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct RedeemedCode {
    /// The code.
    #[diesel(sql_type = Text)]
    pub code: String,
    /// The upload.
    #[diesel(sql_type = BigInt)]
    pub upload_id: i64,
    /// Its file name.
    #[diesel(sql_type = Text)]
    pub upload_name: String,
    /// The line.
    #[diesel(sql_type = BigInt)]
    pub line: i64,
    /// When that file was received.
    #[diesel(sql_type = Timestamptz)]
    pub redeemed_at: DateTime<Utc>,
}

/// A code that a customer was given in a batch.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct GivenCode {
    /// The bank's id.
    #[diesel(sql_type = Integer)]
    pub bank_id: i32,
    /// The bank.
    #[diesel(sql_type = Text)]
    pub bank: String,
    /// Whether customers keep the bank's codes.
    #[diesel(sql_type = Bool)]
    pub persistent: bool,
    /// The customer.
    #[diesel(sql_type = Text)]
    pub customer: String,
    /// The channel of the hold; empty where the bank persists per customer.
    #[diesel(sql_type = Text)]
    pub channel: String,
    /// The bank's draw number.
    #[diesel(sql_type = Integer)]
    pub draw: i32,
    /// The batch.
    #[diesel(sql_type = BigInt)]
    pub batch_id: i64,
    /// The code's lot.
    #[diesel(sql_type = Integer)]
    pub lot_id: i32,
    /// Its place in the lot.
    #[diesel(sql_type = Integer)]
    pub seq: i32,
    /// How often the code had come back to stock before.
    #[diesel(sql_type = SmallInt)]
    pub turn: i16,
    /// See [`crate::bank::outcome::Outcome::from_stored`].
    #[diesel(sql_type = SmallInt)]
    pub outcome: i16,
    /// The code.
    #[diesel(sql_type = Text)]
    pub code: String,
    /// Last day of its window.
    #[diesel(sql_type = Nullable<Date>)]
    pub end_date: Option<NaiveDate>,
}

/// A code that came back to stock, because its customer was not reached.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct ReturnedCode {
    /// The bank's id.
    #[diesel(sql_type = Integer)]
    pub bank_id: i32,
    /// The bank.
    #[diesel(sql_type = Text)]
    pub bank: String,
    /// The code's lot.
    #[diesel(sql_type = Integer)]
    pub lot_id: i32,
    /// Its place in the lot.
    #[diesel(sql_type = Integer)]
    pub seq: i32,
    /// The turn that came back.
    #[diesel(sql_type = SmallInt)]
    pub turn: i16,
    /// The code.
    #[diesel(sql_type = Text)]
    pub code: String,
    /// Who was not reached.
    #[diesel(sql_type = Text)]
    pub customer: String,
    /// The batch that had assigned it.
    #[diesel(sql_type = BigInt)]
    pub batch_id: i64,
    /// That batch's campaign.
    #[diesel(sql_type = Text)]
    pub campaign: String,
    /// The not-sent list.
    #[diesel(sql_type = BigInt)]
    pub upload_id: i64,
    /// That list's file name.
    #[diesel(sql_type = Text)]
    pub upload_name: String,
    /// When it was received.
    #[diesel(sql_type = Timestamptz)]
    pub returned_at: DateTime<Utc>,
}

/// A customer who got no code of the bank in a batch.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct LeftOut {
    /// The batch.
    #[diesel(sql_type = BigInt)]
    pub batch_id: i64,
    /// A reason code, or `FALLBACK`.
    #[diesel(sql_type = Text)]
    pub reason: String,
}

const BANKED: &str = "
SELECT c.code, c.bank_id, b.name AS bank, c.lot_id, c.seq, c.line, l.size AS lot_size, l.next_seq, l.end_date, l.upload_id,
    u.name AS upload_name, l.created_at AS added_at, l.voided_at
FROM coupon c
JOIN bank b ON b.namespace_id = c.namespace_id AND b.id = c.bank_id
JOIN lot l ON l.namespace_id = c.namespace_id AND l.bank_id = c.bank_id AND l.id = c.lot_id
JOIN upload u ON u.namespace_id = l.namespace_id AND u.id = l.upload_id
WHERE c.namespace_id = $1 AND c.code = ANY($2) ORDER BY l.created_at, b.name, c.code";

const REDEEMED: &str = "
SELECT r.code, r.upload_id, u.name AS upload_name, r.line, r.redeemed_at
FROM redemption r JOIN upload u ON u.namespace_id = r.namespace_id AND u.id = r.upload_id
WHERE r.namespace_id = $1 AND r.code = ANY($2) ORDER BY r.redeemed_at, r.code";

const GIVEN: &str = "
SELECT a.bank_id, b.name AS bank, b.persistent, a.customer, a.channel, a.draw, a.batch_id, a.lot_id, a.seq, a.turn,
    a.outcome, a.code, l.end_date
FROM bank b ";

const OF_CUSTOMER: &str = "
JOIN lot l ON l.namespace_id = $1 AND l.bank_id = b.id AND l.id = a.lot_id
WHERE b.namespace_id = $1 ORDER BY a.bank_id, a.channel, a.draw";

const OF_PLACE: &str = "
JOIN lot l ON l.namespace_id = $1 AND l.bank_id = $2 AND l.id = $3
WHERE b.namespace_id = $1 AND b.id = $2 ORDER BY a.draw";

const RETURNED: &str = "
SELECT t.bank_id, k.name AS bank, t.lot_id, t.seq, t.turn, t.code, t.customer, t.batch_id, b.campaign, t.upload_id,
    u.name AS upload_name, t.returned_at
FROM returned t
JOIN bank k ON k.namespace_id = t.namespace_id AND k.id = t.bank_id
JOIN batch b ON b.namespace_id = t.namespace_id AND b.id = t.batch_id
JOIN upload u ON u.namespace_id = t.namespace_id AND u.id = t.upload_id
WHERE t.namespace_id = $1";

const LEFT_OUT: &str = "
SELECT n.batch_id, n.reason FROM unassigned n
WHERE n.namespace_id = $1 AND n.batch_id IN (SELECT b.id FROM batch b WHERE b.namespace_id = $1) AND n.customer = $2
ORDER BY n.batch_id";

impl Store {
    /// Where the banks of the namespace hold any of `codes`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn banked(&self, namespace_id: i32, codes: &[String]) -> Result<Vec<BankedCode>, StoreError> {
        Ok(diesel::sql_query(BANKED)
            .bind::<Integer, _>(namespace_id)
            .bind::<Array<Text>, _>(codes)
            .load(&mut self.connection()?)?)
    }

    /// The redemptions of any of `codes`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn redeemed(&self, namespace_id: i32, codes: &[String]) -> Result<Vec<RedeemedCode>, StoreError> {
        Ok(diesel::sql_query(REDEEMED)
            .bind::<Integer, _>(namespace_id)
            .bind::<Array<Text>, _>(codes)
            .load(&mut self.connection()?)?)
    }

    /// Who was given the code at one place of a lot, turn by turn.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn given_code(&self, namespace_id: i32, at: &BankedCode) -> Result<Vec<GivenCode>, StoreError> {
        Ok(diesel::sql_query(format!("{GIVEN}CROSS JOIN LATERAL {} a {OF_PLACE}", assigned::at("$2", "$3", "$4")))
            .bind::<Integer, _>(namespace_id)
            .bind::<Integer, _>(at.bank_id)
            .bind::<Integer, _>(at.lot_id)
            .bind::<Integer, _>(at.seq)
            .load(&mut self.connection()?)?)
    }

    /// When the code at one place of a lot came back to stock, turn by turn.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn returned_code(&self, namespace_id: i32, at: &BankedCode) -> Result<Vec<ReturnedCode>, StoreError> {
        let place = " AND t.bank_id = $2 AND t.lot_id = $3 AND t.seq = $4 ORDER BY t.turn";
        Ok(diesel::sql_query(format!("{RETURNED}{place}"))
            .bind::<Integer, _>(namespace_id)
            .bind::<Integer, _>(at.bank_id)
            .bind::<Integer, _>(at.lot_id)
            .bind::<Integer, _>(at.seq)
            .load(&mut self.connection()?)?)
    }

    /// When the code came back to stock in lots that it has left since: their upload was undone, and it was uploaded again.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn returned_before(&self, namespace_id: i32, at: &BankedCode) -> Result<Vec<ReturnedCode>, StoreError> {
        let elsewhere = " AND t.bank_id = $2 AND t.code = $3 AND t.lot_id <> $4 ORDER BY t.lot_id, t.turn";
        Ok(diesel::sql_query(format!("{RETURNED}{elsewhere}"))
            .bind::<Integer, _>(namespace_id)
            .bind::<Integer, _>(at.bank_id)
            .bind::<Text, _>(&at.code)
            .bind::<Integer, _>(at.lot_id)
            .load(&mut self.connection()?)?)
    }

    /// The codes that came back to stock because a customer was not reached.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn returned_by(&self, namespace_id: i32, customer: &str) -> Result<Vec<ReturnedCode>, StoreError> {
        Ok(diesel::sql_query(format!("{RETURNED} AND t.customer = $2 ORDER BY t.returned_at"))
            .bind::<Integer, _>(namespace_id)
            .bind::<Text, _>(customer)
            .load(&mut self.connection()?)?)
    }

    /// Every code that a customer was given, by bank, channel and draw.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn given_to(&self, namespace_id: i32, customer: &str) -> Result<Vec<GivenCode>, StoreError> {
        Ok(diesel::sql_query(format!("{GIVEN}CROSS JOIN LATERAL {} a {OF_CUSTOMER}", assigned::to("b.id", "$2")))
            .bind::<Integer, _>(namespace_id)
            .bind::<Text, _>(customer)
            .load(&mut self.connection()?)?)
    }

    /// The batches in which a customer got no code of the bank.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn left_out(&self, namespace_id: i32, customer: &str) -> Result<Vec<LeftOut>, StoreError> {
        Ok(diesel::sql_query(LEFT_OUT)
            .bind::<Integer, _>(namespace_id)
            .bind::<Text, _>(customer)
            .load(&mut self.connection()?)?)
    }
}
