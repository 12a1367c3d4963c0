//! What everyone on a list got in a batch that is assigned, out of the record: for a run that finds the draw made, after a crash.

use std::path::Path;

use chrono::NaiveDate;
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Text};

use super::answers::{Answering, Answers};
use super::holds::{self, Hold, Scope};
use super::recipients::{Customers, Recipients};
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

#[derive(QueryableByName)]
struct LeftOver {
    #[diesel(sql_type = Text)]
    customer: String,
    #[diesel(sql_type = Text)]
    reason: String,
}

const LEFT_OVER: &str = "
SELECT u.customer, u.reason FROM unassigned u
WHERE u.namespace_id = $1 AND u.batch_id = $2 AND u.customer = ANY ($3) ORDER BY u.customer";

impl Store {
    /// What everyone on the list got in a batch that is assigned, as its draw gave it. What does not fit into memory goes to
    /// `directory`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements; [`StoreError::Missing`] when the record does not have everyone.
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
            let scope = Scope {
                namespace_id: recorded.namespace_id,
                bank_id: recorded.bank_id,
                channel: recorded.hold_channel,
                draws: (if recorded.persistent { 0 } else { recorded.draw }, recorded.draw),
            };
            connection.batch_execute(holds::LOOK_UP)?;
            let mut customers = Customers::default();
            while list.next_customers(&mut customers)? {
                let ids = customers.ids();
                let left_over: Vec<LeftOver> = diesel::sql_query(LEFT_OVER)
                    .bind::<Integer, _>(recorded.namespace_id)
                    .bind::<BigInt, _>(recorded.batch_id)
                    .bind::<Array<Text>, _>(&ids)
                    .load(connection)?;
                let held = holds::look_up(connection, &scope, &ids, None)?;
                let mut left_over = left_over.into_iter().map(Ok).peekable();
                let mut held = held.into_iter().map(Ok).peekable();
                Recipients::pair(&customers, &mut held, Hold::customer, |customer, hold| {
                    let reason = left_over.next_if(|row: &QueryResult<LeftOver>| {
                        row.as_ref().is_ok_and(|row| row.customer == customer.id)
                    });
                    match (reason.transpose()?, hold) {
                        (Some(left_over), _) => {
                            customer.ordinals().try_for_each(|place| answering.nothing(place, &left_over.reason))
                        }
                        (None, Some(hold)) => {
                            let outcome = Some(hold.outcome).filter(|_| hold.draw == recorded.draw);
                            let code = (hold.lot_id, hold.code.as_str());
                            customer.ordinals().try_for_each(|place| answering.code(place, outcome, code))
                        }
                        (None, None) => Err(StoreError::Missing { what: "what a recipient got".to_owned() }),
                    }
                })?;
            }
            Ok(answering.end()?)
        })
    }
}
