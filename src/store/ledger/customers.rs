//! Erasing a customer: the id is replaced by an opaque token wherever it stands, so that counts and codes stay.
//!
//! An export that is under way still finds its recipients by id. So the banks are locked against draws, and nothing is
//! erased while a batch of one of them is assigned and not exported.

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Text};

use crate::store::banks::lock_banks;
use crate::store::{Store, StoreError};

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

const BANKS: &str = "
SELECT k.id FROM bank k WHERE k.namespace_id = $1 AND (
    EXISTS (SELECT FROM assignment a WHERE a.namespace_id = $1 AND a.bank_id = k.id AND a.customer = $2)
    OR EXISTS (SELECT FROM batch b JOIN unassigned n ON n.namespace_id = $1 AND n.batch_id = b.id AND n.customer = $2
               WHERE b.namespace_id = $1 AND b.bank_id = k.id))
ORDER BY k.id";

const EXPORTING: &str = "
SELECT b.id FROM batch b WHERE b.namespace_id = $1 AND b.bank_id = ANY($2) AND b.state = 'assigned' ORDER BY b.id";

const ASSIGNMENTS: &str = "
WITH changed AS (
    UPDATE assignment SET customer = $3 WHERE namespace_id = $1 AND bank_id = ANY($4) AND customer = $2
    RETURNING draw)
SELECT count(*) AS rows FROM changed";

/// Whose code came back has an assignment as well, in the same bank.
const RETURNED: &str = "
UPDATE returned SET customer = $3 WHERE namespace_id = $1 AND bank_id = ANY($4) AND customer = $2";

const LEFT_OUT: &str = "
WITH changed AS (
    UPDATE unassigned SET customer = $3
    WHERE namespace_id = $1 AND batch_id IN (SELECT b.id FROM batch b WHERE b.namespace_id = $1) AND customer = $2
    RETURNING batch_id)
SELECT count(*) AS rows FROM changed";

impl Store {
    /// Puts `token` in the place of `customer` wherever it stands.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements.
    pub fn erase_customer(&self, namespace_id: i32, customer: &str, token: &str) -> Result<Erased, StoreError> {
        self.transaction(|transaction| {
            let found: Vec<Id> = diesel::sql_query(BANKS)
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
            let left_out: Count = diesel::sql_query(LEFT_OUT)
                .bind::<Integer, _>(namespace_id)
                .bind::<Text, _>(customer)
                .bind::<Text, _>(token)
                .get_result(transaction)?;
            Ok(Erased::Done { assignments: assignments.rows, left_out: left_out.rows })
        })
    }
}
