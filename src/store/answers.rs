//! What every recipient of a batch got, in the list's order: gathered in the order of customers, read in the other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::path::Path;

use chrono::NaiveDate;

use super::StoreError;
use crate::sorter::run::RunRow;
use crate::sorter::{Placed, Placing};

/// What one recipient got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Got<'a> {
    /// Its place in the list, from 0, counting accepted rows.
    pub ordinal: u64,
    /// The code, or why there is none of the bank.
    pub code: Result<GotCode<'a>, &'a str>,
}

/// A code that a recipient got or kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GotCode<'a> {
    /// The code.
    pub code: &'a str,
    /// The end date of its lot.
    pub end_date: Option<NaiveDate>,
    /// The outcome stored with it, where this batch assigned it; `None`: it was kept.
    pub outcome: Option<i16>,
}

/// The outcome is in the lowest bits of a row's group; above them the place of the end date among those known.
const OUTCOME_BITS: u32 = 3;
const KEPT: u32 = 0;
/// No code: the text is the reason. No outcome in the store has this number.
const NONE: u32 = (1 << OUTCOME_BITS) - 1;

/// Takes what recipients got, in any order.
#[derive(Debug)]
pub(super) struct Answering {
    rows: Placing,
    /// Where each lot's end date stands.
    places: HashMap<i32, u32>,
    end_dates: Vec<Option<NaiveDate>>,
    /// The lot of the code before and its place: most codes are of the same.
    last: Option<(i32, u32)>,
}

impl Answering {
    /// For so many recipients. What does not fit into memory goes to `directory`.
    pub(super) fn new(directory: &Path, listed: u64) -> Self {
        Self { rows: Placing::new(directory, listed), places: HashMap::new(), end_dates: Vec::new(), last: None }
    }

    /// Learns when lots end. Only codes of these can be answered.
    pub(super) fn know(&mut self, lots: impl Iterator<Item = (i32, Option<NaiveDate>)>) {
        for (lot_id, end_date) in lots {
            if let Entry::Vacant(new) = self.places.entry(lot_id) {
                new.insert(u32::try_from(self.end_dates.len()).unwrap_or(u32::MAX));
                self.end_dates.push(end_date);
            }
        }
    }

    /// The recipient at `ordinal` got a code of a lot; `outcome`: as stored, `None`: kept.
    pub(super) fn code(
        &mut self,
        ordinal: u64,
        outcome: Option<i16>,
        (lot_id, code): (i32, &str),
    ) -> Result<(), StoreError> {
        let place = match self.last {
            Some((last, place)) if last == lot_id => place,
            _ => {
                let missing = || StoreError::Missing { what: format!("lot {lot_id}") };
                *self.places.get(&lot_id).ok_or_else(missing)?
            }
        };
        self.last = Some((lot_id, place));
        let outcome = match outcome {
            None => KEPT,
            Some(outcome) => u32::try_from(outcome)
                .ok()
                .filter(|outcome| (KEPT + 1..NONE).contains(outcome))
                .ok_or_else(|| StoreError::Missing { what: format!("outcome {outcome}") })?,
        };
        let group = place << OUTCOME_BITS | outcome;
        Ok(self.rows.push(RunRow { number: ordinal, group, text: code })?)
    }

    /// The recipient at `ordinal` got no code of the bank.
    pub(super) fn nothing(&mut self, ordinal: u64, reason: &str) -> Result<(), StoreError> {
        Ok(self.rows.push(RunRow { number: ordinal, group: NONE, text: reason })?)
    }

    pub(super) fn end(self) -> io::Result<Answers> {
        Ok(Answers { rows: self.rows.placed()?, end_dates: self.end_dates })
    }
}

/// What every recipient got, in the list's order.
#[derive(Debug)]
pub struct Answers {
    rows: Placed,
    end_dates: Vec<Option<NaiveDate>>,
}

impl Answers {
    /// What the next recipient got; `None` after the last. One of whom nothing is known is passed over.
    ///
    /// # Errors
    /// What the disk says; and when a recipient got something twice.
    pub fn next_got(&mut self) -> io::Result<Option<Got<'_>>> {
        let Some(row) = self.rows.next_row()? else { return Ok(None) };
        let (outcome, place) = (row.group & NONE, row.group >> OUTCOME_BITS);
        let code = if outcome == NONE {
            Err(row.text)
        } else {
            let end_date = self.end_dates.get(place as usize).copied().flatten();
            let outcome = i16::try_from(outcome).ok().filter(|outcome| *outcome > 0);
            Ok(GotCode { code: row.text, end_date, outcome })
        };
        Ok(Some(Got { ordinal: row.number, code }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_lists_order() {
        let date: NaiveDate = "2026-12-31".parse().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut answering = Answering::new(directory.path(), 4);
        answering.know([(70, None), (9, Some(date))].into_iter());
        answering.know([(9, None)].into_iter());
        answering.code(2, Some(3), (70, "C")).unwrap();
        answering.nothing(1, "SHORT_STOCK").unwrap();
        answering.code(0, None, (9, "A")).unwrap();
        assert!(matches!(answering.code(3, None, (8, "D")), Err(StoreError::Missing { .. })));
        assert!(matches!(answering.code(3, Some(7), (9, "D")), Err(StoreError::Missing { .. })));
        assert!(matches!(answering.code(3, Some(0), (9, "D")), Err(StoreError::Missing { .. })));
        let mut answers = answering.end().unwrap();
        let code = |code, end_date, outcome| Ok(GotCode { code, end_date, outcome });
        let expected = [
            Got { ordinal: 0, code: code("A", Some(date), None) },
            Got { ordinal: 1, code: Err("SHORT_STOCK") },
            Got { ordinal: 2, code: code("C", None, Some(3)) },
        ];
        for got in expected {
            assert_eq!(answers.next_got().unwrap(), Some(got));
        }
        assert_eq!(answers.next_got().unwrap(), None);
    }
}
