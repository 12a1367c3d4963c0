//! Recipients: the list is checked and kept; the batch reads it again. Accepting it is the whole effect.

use super::{Effect, Rows};
use crate::inbound::Work;
use crate::inbound::error::InboundError;
use crate::inbound::tally::Tally;
use crate::reason::{Finding, Reason};
use crate::recipients::{ADDED_COLUMNS, Columns};
use crate::store::Transaction;
use crate::store::banks::{self, NamespaceLock};

pub(super) fn apply(
    transaction: &mut Transaction,
    work: &Work<'_>,
    rows: &mut Rows,
    tally: &mut Tally,
) -> Result<Effect, InboundError> {
    read(work, rows, tally)?;
    if tally.rows.read == 0 {
        tally.take_notes(rows.notes());
        return Err(InboundError::Reject(Finding::file(
            Reason::NoRows,
            "the list has no recipients; send at least one, or nothing",
        )));
    }
    super::judge(work, rows, tally)?;
    // Two copies of one list at the same moment: the second must see the first.
    banks::lock_namespace(transaction, work.claimed.namespace_id, NamespaceLock::Alone)?;
    super::stop_if_repeated(transaction, work, rows)?;
    Ok(Effect::default())
}

fn read(work: &Work<'_>, rows: &mut Rows, tally: &mut Tally) -> Result<(), InboundError> {
    let mut columns: Option<Columns> = None;
    while let Some(record) = rows.next_record()? {
        let Some(columns) = &columns else {
            match Columns::read(&record, work.limits.customer_id_bytes) {
                Ok(found) => {
                    tally.begin(&record, true);
                    warn_of_names_taken(&found, record.line(), tally);
                    columns = Some(found);
                }
                Err(finding) => return Err(super::refuse(rows, finding)),
            }
            continue;
        };
        tally.rows.read += 1;
        match columns.customer(&record) {
            Ok(_) => tally.rows.accepted += 1,
            Err(finding) => tally.reject(finding, record.raw())?,
        }
        if record.fields().any(starts_a_formula) {
            let message = "a cell that a spreadsheet would run as a formula; it is left as it is";
            tally.warn(Finding::line(Reason::FormulaCell, record.line(), message), 1);
        }
    }
    Ok(())
}

/// A list that was made from an earlier assignment file has that file's columns, and the old code in front of the new.
fn warn_of_names_taken(columns: &Columns, line: u64, tally: &mut Tally) {
    let taken = |name: &&String| ADDED_COLUMNS.iter().any(|added| name.trim().eq_ignore_ascii_case(added));
    let names: Vec<&str> = columns.names().iter().filter(taken).map(String::as_str).collect();
    if !names.is_empty() {
        let message = format!(
            "the assignment file adds columns of these names behind the list's own: {}; leave yours out",
            names.join(", ")
        );
        tally.warn(Finding::line(Reason::ColumnNameTaken, line, message), names.len() as u64);
    }
}

/// Whether a spreadsheet would run the cell. A minus or plus before a digit is a number.
fn starts_a_formula(cell: &str) -> bool {
    let mut characters = cell.chars();
    match characters.next() {
        Some('=' | '@') => true,
        Some('+' | '-') => !characters.next().is_some_and(|next| next.is_ascii_digit() || next == '.'),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cell: &str, formula: bool) {
        assert_eq!(starts_a_formula(cell), formula, "{cell:?}");
    }

    #[test]
    fn formulas() {
        check("=1+1", true);
        check("@SUM(A1)", true);
        check("+cmd|x", true);
        check("-cmd", true);
        check("-12", false);
        check("+4917012345", false);
        check("plain", false);
        check("", false);
    }
}
