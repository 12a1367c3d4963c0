//! What everyone on a list got in a batch that is assigned, out of the record: for a run that finds the draw made, after a crash.

use std::path::Path;

use chrono::NaiveDate;
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Text};

use super::answers::{Answering, Answers};
use super::assigned::{self, Assigned, Scope};
use super::recipients::{Met, Recipients};
use super::schema::lot;
use super::{Store, StoreError};

/// Which batch's results to read.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    /// The namespace.
    pub namespace_id: i32,
    /// The bank.
    pub bank_id: i32,
    /// The batch.
    pub batch_id: i64,
    /// The batch's draw.
    pub draw: i32,
    /// Whether codes of earlier draws are kept.
    pub persistent: bool,
    /// The channel in its assignments.
    pub hold_channel: &'a str,
}

/// What a customer got.
struct Row {
    customer: String,
    answer: Answer,
}

#[derive(Clone)]
enum Answer {
    Code { outcome: Option<i16>, lot_id: i32, code: String },
    Nothing { reason: String },
}

impl Row {
    fn customer(&self) -> &str {
        &self.customer
    }

    /// `draw`: the batch's. A code of an earlier one was kept.
    fn of(assigned: Assigned, draw: i32) -> Self {
        let outcome = Some(assigned.outcome).filter(|_| assigned.draw == draw);
        let answer = Answer::Code { outcome, lot_id: assigned.lot_id, code: assigned.code };
        Self { customer: assigned.customer, answer }
    }
}

/// A customer who got no code of the bank.
#[derive(QueryableByName)]
struct LeftOut {
    #[diesel(sql_type = Text)]
    customer: String,
    #[diesel(sql_type = Text)]
    reason: String,
}

const LEFT_OUT: &str = "
SELECT c.customer, u.reason FROM unnest($3) AS c (customer)
CROSS JOIN LATERAL (SELECT n.reason FROM unassigned n
    WHERE n.namespace_id = $1 AND n.batch_id = $2 AND n.customer = c.customer OFFSET 0) u
ORDER BY c.customer COLLATE \"C\"";

/// What these customers got, in their order, and perhaps others. A code that was held before and is none any more has its
/// reason beside it, which counts.
fn rows(connection: &mut PgConnection, scope: &Scope<'_>, batch_id: i64, customers: &[&str]) -> QueryResult<Vec<Row>> {
    let left_out: Vec<LeftOut> = diesel::sql_query(LEFT_OUT)
        .bind::<Integer, _>(scope.namespace_id)
        .bind::<BigInt, _>(batch_id)
        .bind::<Array<Text>, _>(customers)
        .load(connection)?;
    let mut left_out = left_out.into_iter().peekable();
    let mut rows = Vec::with_capacity(customers.len());
    for assigned in assigned::of_some(connection, scope, customers)? {
        while let Some(left) = left_out.next_if(|left| left.customer < assigned.customer) {
            rows.push(Row { customer: left.customer, answer: Answer::Nothing { reason: left.reason } });
        }
        match left_out.next_if(|left| left.customer == assigned.customer) {
            Some(left) => rows.push(Row { customer: left.customer, answer: Answer::Nothing { reason: left.reason } }),
            None => rows.push(Row::of(assigned, scope.draws.1)),
        }
    }
    rows.extend(left_out.map(|left| Row { customer: left.customer, answer: Answer::Nothing { reason: left.reason } }));
    Ok(rows)
}

impl Store {
    /// What everyone on the list got in a batch that is assigned, as its draw gave it. What does not fit into memory goes to
    /// `directory`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements, or of the disk; [`StoreError::Missing`] when the record does not have everyone.
    pub fn recorded(
        &self,
        mut list: Recipients,
        recorded: &Recorded<'_>,
        directory: &Path,
    ) -> Result<Answers, StoreError> {
        self.transaction(|connection| {
            let lots: Vec<(i32, Option<NaiveDate>)> = lot::table
                .filter(lot::namespace_id.eq(recorded.namespace_id))
                .filter(lot::bank_id.eq(recorded.bank_id))
                .select((lot::id, lot::end_date))
                .load(connection)?;
            let mut answering = Answering::new(directory);
            answering.know(lots.into_iter());
            connection.batch_execute(assigned::LOOK_UP)?;
            let scope = Scope {
                namespace_id: recorded.namespace_id,
                bank_id: recorded.bank_id,
                channel: recorded.hold_channel,
                draws: (if recorded.persistent { 0 } else { recorded.draw }, recorded.draw),
                asks_redeemed: false,
            };
            let look_up = |customers: &[&str]| rows(connection, &scope, recorded.batch_id, customers);
            let mut answer = None;
            list.looked_up(look_up, Row::customer, |row, met| {
                if let Met::First(found) = met {
                    answer = found.map(|found| found.answer);
                }
                match &answer {
                    Some(Answer::Code { outcome, lot_id, code }) => {
                        answering.code(row.number, *outcome, (*lot_id, code))
                    }
                    Some(Answer::Nothing { reason }) => answering.nothing(row.number, reason),
                    None => Err(StoreError::Missing { what: "what a recipient got".to_owned() }),
                }
            })?;
            Ok(answering.end()?)
        })
    }
}
