//! Erasing a customer on a privacy request: the id goes, counts and codes stay.
//!
//! In the store an opaque random token takes the id's place, the same in every row, so that no key collides and every
//! count stays. Files are not rewritten: the lists and assignment files in which the id stands are named, because they
//! are evidence of what was sent, and go when their time is over.

use serde::Serialize;

use super::{Desk, LedgerError};
use crate::store::ledger::customers::Erased;

/// What erasing did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Erasure {
    /// What stands in the place of the id.
    pub token: String,
    /// Rows that said which code the customer was given.
    pub assignments: i64,
    /// Rows that said that the customer was left out of a batch.
    pub left_out: i64,
}

impl Desk<'_> {
    /// Unlinks `customer` everywhere in the store.
    ///
    /// # Errors
    /// [`LedgerError::NotThere`] when the store does not know the id; [`LedgerError::Refused`] while a batch of the
    /// banks concerned is being exported; the store.
    pub fn erase(&self, customer: &str) -> Result<Erasure, LedgerError> {
        let what = "erase the customer";
        let token = format!("erased-{:032x}", rand::random::<u128>());
        match self.store.erase_customer(self.namespace_id, customer, &token)? {
            Erased::Done { assignments: 0, left_out: 0 } => Err(LedgerError::NotThere {
                what: format!(
                    "the customer in namespace `{}`: no batch has handed out a code to that id",
                    self.namespace.name
                ),
            }),
            Erased::Done { assignments, left_out } => Ok(Erasure { token, assignments, left_out }),
            Erased::Exporting(batches) => {
                let batches: Vec<String> = batches.iter().map(ToString::to_string).collect();
                let why = format!("batch {} is being exported; try again when it is done", batches.join(", "));
                Err(LedgerError::refused(what, why))
            }
        }
    }
}
