//! What everyone on a list got in a batch that is assigned, out of the record: for a run that finds the draw made, after a crash.

use std::path::Path;

use super::answers::{Answering, Answers};
use super::assigned::{self, Assigned, LEFT_OUT, Scope};
use super::recipients::{Met, Recipients};
use super::{Store, StoreError, draw};

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
enum Answer {
    Code { outcome: Option<i16>, lot_id: i32, code: String },
    Nothing { reason: String },
}

impl Answer {
    /// `draw`: the batch's. A code of an earlier one was kept.
    fn of(found: Assigned, draw: i32) -> Self {
        match found.outcome {
            Some(LEFT_OUT) => Self::Nothing { reason: found.code },
            outcome => {
                let outcome = outcome.filter(|_| found.draw == draw);
                Self::Code { outcome, lot_id: found.lot_id, code: found.code }
            }
        }
    }
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
            let lots = draw::lots(connection, recorded.namespace_id, recorded.bank_id, false)?;
            let mut answering = Answering::new(directory, list.listed());
            answering.know(lots.iter().map(|lot| (lot.id, lot.end_date)));
            let scope = Scope {
                namespace_id: recorded.namespace_id,
                bank_id: recorded.bank_id,
                channel: recorded.hold_channel,
                draws: (if recorded.persistent { 0 } else { recorded.draw }, recorded.draw),
                redeemed: None,
                left_out_of: Some(recorded.batch_id),
            };
            let mut answer = None;
            assigned::of_list(connection, &scope, &mut list, draw::handed_out(&lots), |row, met| {
                if let Met::First(found) = met {
                    answer = found.map(|found| Answer::of(found, recorded.draw));
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
