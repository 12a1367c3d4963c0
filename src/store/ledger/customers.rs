//! Erasing a customer: the id is replaced by an opaque token wherever it stands, so that counts and codes stay.
//!
//! An export that is under way still finds its recipients by id. So the banks are locked against draws, and nothing is
//! erased while a batch of one of them is assigned and not exported.

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Text};

use crate::store::banks::lock_banks;
use crate::store::{Store, StoreError, assigned};

/// How erasing ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Erased {
    /// The id stands nowhere any more.
    Done {
        /// Rows that said which code the customer was given.
        assignments: i64,
        /// Rows that said that the customer was left out.
        left_out: i64,
    },
    /// Nothing was changed: these batches are being exported.
    Exporting(Vec<i64>),
}

#[derive(QueryableByName)]
struct Id {
    #[diesel(sql_type = Integer)]
    id: i32,
}

#[derive(QueryableByName)]
struct BatchId {
    #[diesel(sql_type = BigInt)]
    id: i64,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    rows: i64,
}

fn banks() -> String {
    format!(
        "SELECT k.id FROM bank k WHERE k.namespace_id = $1 AND (
            EXISTS (SELECT FROM {} a)
            OR EXISTS (SELECT FROM batch b JOIN unassigned n ON n.namespace_id = $1 AND n.batch_id = b.id AND n.customer = $2
                       WHERE b.namespace_id = $1 AND b.bank_id = k.id))
        ORDER BY k.id",
        assigned::to("k.id", "$2")
    )
}

const EXPORTING: &str = "
SELECT b.id FROM batch b WHERE b.namespace_id = $1 AND b.bank_id = ANY($2) AND b.state = 'assigned' ORDER BY b.id";

const ASSIGNMENTS: &str = "
WITH changed AS (
    UPDATE assignment SET customer = $3 WHERE namespace_id = $1 AND bank_id = ANY($4) AND customer = $2
    RETURNING draw)
SELECT count(*) AS rows FROM changed";

/// A page is in the order of customers, where a token would have no place: what was packed becomes a row first.
const UNPACK: &str = "
WITH page AS (
    SELECT s.channel, s.batch_id, p.*, array_position(p.customers, $2) AS at
    FROM assignment_sheet s
    CROSS JOIN LATERAL (SELECT x.* FROM assignment_page x
        WHERE x.namespace_id = $1 AND x.bank_id = s.bank_id AND x.draw = s.draw AND x.lot_id = s.lot_id
            AND x.first_customer <= $2 ORDER BY x.first_customer DESC LIMIT 1) p
    WHERE s.namespace_id = $1 AND s.bank_id = ANY($3)),
unpacked AS (
    INSERT INTO assignment (namespace_id, bank_id, customer, channel, draw, batch_id, lot_id, seq, outcome, code)
    SELECT $1, f.bank_id, $2, f.channel, f.draw, f.batch_id, f.lot_id, f.seqs[f.at], f.outcomes[f.at], f.codes[f.at]
    FROM page f WHERE f.at IS NOT NULL RETURNING bank_id, draw, lot_id),
emptied AS (
    DELETE FROM assignment_page p USING page f
    WHERE p.namespace_id = $1 AND p.bank_id = f.bank_id AND p.lot_id = f.lot_id AND p.first_seq = f.first_seq
        AND f.at IS NOT NULL AND cardinality(f.customers) = 1),
shortened AS (
    UPDATE assignment_page p SET first_customer = CASE f.at WHEN 1 THEN f.customers[2] ELSE f.first_customer END,
        customers = f.customers[:f.at - 1] || f.customers[f.at + 1:], seqs = f.seqs[:f.at - 1] || f.seqs[f.at + 1:],
        outcomes = f.outcomes[:f.at - 1] || f.outcomes[f.at + 1:], codes = f.codes[:f.at - 1] || f.codes[f.at + 1:]
    FROM page f
    WHERE p.namespace_id = $1 AND p.bank_id = f.bank_id AND p.lot_id = f.lot_id AND p.first_seq = f.first_seq
        AND f.at IS NOT NULL AND cardinality(f.customers) > 1)
UPDATE assignment_sheet s SET customers = s.customers - 1 FROM unpacked u
WHERE s.namespace_id = $1 AND s.bank_id = u.bank_id AND s.draw = u.draw AND s.lot_id = u.lot_id";

const LEFT_OUT: &str = "
WITH changed AS (
    UPDATE unassigned SET customer = $3
    WHERE namespace_id = $1 AND batch_id IN (SELECT b.id FROM batch b WHERE b.namespace_id = $1) AND customer = $2
    RETURNING batch_id)
SELECT count(*) AS rows FROM changed";

/// Came back to stock: only with an assignment, so in one of the banks.
const RETURNED: &str = "
UPDATE returned SET customer = $3 WHERE namespace_id = $1 AND bank_id = ANY($4) AND customer = $2";

/// A corrections file is written anew when it gets longer. It may have held the customer, and the next one will not; one
/// too few here only means that the same rows are written once more.
const CORRECTIONS: &str = "
UPDATE batch SET corrections = corrections - 1 WHERE namespace_id = $1 AND bank_id = ANY($2) AND corrections > 0";

impl Store {
    /// Puts `token` in the place of `customer` wherever it stands.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements.
    pub fn erase_customer(&self, namespace_id: i32, customer: &str, token: &str) -> Result<Erased, StoreError> {
        self.transaction(|transaction| {
            let found: Vec<Id> = diesel::sql_query(banks())
                .bind::<Integer, _>(namespace_id)
                .bind::<Text, _>(customer)
                .load(transaction)?;
            let banks: Vec<i32> = found.iter().map(|bank| bank.id).collect();
            lock_banks(transaction, namespace_id, &banks)?;
            let exporting: Vec<BatchId> = diesel::sql_query(EXPORTING)
                .bind::<Integer, _>(namespace_id)
                .bind::<Array<Integer>, _>(&banks)
                .load(transaction)?;
            if !exporting.is_empty() {
                return Ok(Erased::Exporting(exporting.iter().map(|batch| batch.id).collect()));
            }
            diesel::sql_query(UNPACK)
                .bind::<Integer, _>(namespace_id)
                .bind::<Text, _>(customer)
                .bind::<Array<Integer>, _>(&banks)
                .execute(transaction)?;
            let assignments: Count = diesel::sql_query(ASSIGNMENTS)
                .bind::<Integer, _>(namespace_id)
                .bind::<Text, _>(customer)
                .bind::<Text, _>(token)
                .bind::<Array<Integer>, _>(&banks)
                .get_result(transaction)?;
            diesel::sql_query(RETURNED)
                .bind::<Integer, _>(namespace_id)
                .bind::<Text, _>(customer)
                .bind::<Text, _>(token)
                .bind::<Array<Integer>, _>(&banks)
                .execute(transaction)?;
            diesel::sql_query(CORRECTIONS)
                .bind::<Integer, _>(namespace_id)
                .bind::<Array<Integer>, _>(&banks)
                .execute(transaction)?;
            let left_out: Count = diesel::sql_query(LEFT_OUT)
                .bind::<Integer, _>(namespace_id)
                .bind::<Text, _>(customer)
                .bind::<Text, _>(token)
                .get_result(transaction)?;
            Ok(Erased::Done { assignments: assignments.rows, left_out: left_out.rows })
        })
    }
}
