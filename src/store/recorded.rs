//! What everyone on a list got in a batch that is assigned, out of the record: for a run that finds the draw made, after a crash.

use std::path::Path;

use chrono::NaiveDate;
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, SmallInt, Text};

use super::answers::{Answering, Answers};
use super::holds;
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

/// What the record has of a customer.
#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    customer: String,
    #[diesel(sql_type = Nullable<Integer>)]
    draw: Option<i32>,
    #[diesel(sql_type = Nullable<SmallInt>)]
    outcome: Option<i16>,
    #[diesel(sql_type = Nullable<Integer>)]
    lot_id: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    code: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    reason: Option<String>,
}

impl Row {
    fn customer(&self) -> &str {
        &self.customer
    }

    /// `draw`: the batch's. A code that was held before and is none any more has its reason beside it.
    fn answer(self, draw: i32) -> Option<Answer> {
        match (self.reason, self.lot_id, self.code) {
            (Some(reason), _, _) => Some(Answer::Nothing { reason }),
            (None, Some(lot_id), Some(code)) => {
                Some(Answer::Code { outcome: self.outcome.filter(|_| self.draw == Some(draw)), lot_id, code })
            }
            _ => None,
        }
    }
}

const RECORD: &str = "
SELECT c.customer, a.draw, a.outcome, a.lot_id, a.code, u.reason
FROM unnest($7) AS c (customer)
LEFT JOIN LATERAL (SELECT s.draw, s.outcome, s.lot_id, s.code FROM assignment s
    WHERE s.namespace_id = $1 AND s.bank_id = $2 AND s.customer = c.customer AND s.channel = $3 AND s.draw BETWEEN $4 AND $5
    ORDER BY s.draw DESC LIMIT 1) a ON true
LEFT JOIN LATERAL (SELECT n.reason FROM unassigned n
    WHERE n.namespace_id = $1 AND n.batch_id = $6 AND n.customer = c.customer OFFSET 0) u ON true
ORDER BY c.customer COLLATE \"C\"";

/// What a customer got.
enum Answer {
    Code { outcome: Option<i16>, lot_id: i32, code: String },
    Nothing { reason: String },
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
            connection.batch_execute(holds::LOOK_UP)?;
            let look_up = |customers: &[&str]| {
                diesel::sql_query(RECORD)
                    .bind::<Integer, _>(recorded.namespace_id)
                    .bind::<Integer, _>(recorded.bank_id)
                    .bind::<Text, _>(recorded.hold_channel)
                    .bind::<Integer, _>(if recorded.persistent { 0 } else { recorded.draw })
                    .bind::<Integer, _>(recorded.draw)
                    .bind::<BigInt, _>(recorded.batch_id)
                    .bind::<Array<Text>, _>(customers)
                    .load::<Row>(connection)
            };
            let mut answer = None;
            list.looked_up(look_up, Row::customer, |row, met| {
                if let Met::First(found) = met {
                    answer = found.and_then(|found| found.answer(recorded.draw));
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
