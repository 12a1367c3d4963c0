//! What the first row of a file is: a header, or already data.

use crate::plaintext::Record;
use crate::reason::{Finding, Reason};

/// Names of the code column, case-insensitive.
const CODE_COLUMNS: [&str; 4] = ["code", "coupon", "coupon_code", "coupon code"];

/// Whether a cell names the code column.
#[must_use]
pub fn names_code(cell: &str) -> bool {
    let cell = cell.trim();
    CODE_COLUMNS.iter().any(|name| cell.eq_ignore_ascii_case(name))
}

/// Names that other systems give the code column. None of them is in the contract.
const FOREIGN_CODE_COLUMNS: [&str; 10] = [
    "code",
    "coupon",
    "couponcode",
    "voucher",
    "vouchercode",
    "promo",
    "promocode",
    "discountcode",
    "offercode",
    "gutscheincode",
];

/// The likely header that a lone cell is, if it is one and no name of the contract: such a word would be handed out as a code.
///
/// Case, one plural `s`, and what splits the words do not matter. What cannot be a code is no risk, and is left to the rows.
#[must_use]
pub fn foreign_code_column(cell: &str) -> Option<String> {
    let cell = cell.trim();
    if names_code(cell) || cell.contains(' ') {
        return None;
    }
    let lower = cell.to_ascii_lowercase();
    let word: String = lower.chars().filter(|character| !matches!(character, '_' | '-' | '.')).collect();
    let known = |word: &str| FOREIGN_CODE_COLUMNS.contains(&word);
    (known(&word) || word.strip_suffix('s').is_some_and(known)).then_some(lower)
}

/// Refuses a file whose first row is too long to be read: most often rows that end in something else than LF.
///
/// # Errors
/// [`Reason::RowTooLong`].
pub fn refuse_too_long(first: &Record<'_>) -> Result<(), Finding> {
    if first.problem() != Some(Reason::RowTooLong) {
        return Ok(());
    }
    let message = "the first row is longer than the limit; end every row with LF and close every quote";
    Err(Finding::line(Reason::RowTooLong, first.line(), message))
}

/// Refuses a file whose rows are split by something else than a comma, seen in its first row: codes have none of these
/// characters, so one cell that has them is a row in disguise.
///
/// # Errors
/// [`Reason::BadColumnDelimiter`] that names the delimiter.
pub fn refuse_other_delimiters<'r>(
    line: u64,
    mut cells: impl ExactSizeIterator<Item = &'r str>,
) -> Result<(), Finding> {
    if cells.len() != 1 {
        return Ok(());
    }
    let Some(cell) = cells.next() else { return Ok(()) };
    let names = [(';', "a semicolon"), ('\t', "a tab"), ('|', "a vertical bar")];
    let inside = cell.trim();
    match names.iter().find(|(delimiter, _)| inside.contains(*delimiter)) {
        None => Ok(()),
        Some((_, name)) => Err(Finding::line(
            Reason::BadColumnDelimiter,
            line,
            format!("columns are split by {name}; split them by a comma and send the file again"),
        )),
    }
}

/// The place of the one column that `is` names.
///
/// # Errors
/// [`Reason::RepeatedColumn`] when two cells name it.
pub fn find<'r>(
    line: u64,
    cells: impl Iterator<Item = &'r str>,
    what: &str,
    is: impl Fn(&str) -> bool,
) -> Result<Option<usize>, Finding> {
    let mut found = None;
    for (index, cell) in cells.enumerate() {
        if is(cell) && found.replace(index).is_some() {
            return Err(Finding::line(
                Reason::RepeatedColumn,
                line,
                format!("the header has two columns for `{what}`; keep one and send the file again"),
            ));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delimiters() {
        let refused = |cells: &[&str]| refuse_other_delimiters(1, cells.iter().copied()).is_err();
        assert!(refused(&["bank_name;code"]));
        assert!(refused(&["bank_name\tcode"]));
        assert!(refused(&["bank_name|code"]));
        assert!(refused(&["A1;B2"]));
        assert!(!refused(&["code"]));
        assert!(!refused(&["\tcode "]));
        assert!(!refused(&["bank_name", "a;b"]));
    }

    #[test]
    fn foreign_code_columns() {
        for name in
            ["codes", "Voucher", "voucher_code", "VOUCHER-CODES", "promo_code", "PromoCode", " coupon-code", "coupons"]
        {
            assert!(foreign_code_column(name).is_some(), "{name}");
        }
        // The contract's own names, codes, and what can be no code anyway.
        for name in
            ["", "code", "Coupon Code", "coupon_code", "SAVE10", "PROMO-2026", "VOUCHERS-X", "voucher code", "s"]
        {
            assert_eq!(foreign_code_column(name), None, "{name}");
        }
    }

    #[test]
    fn code_columns() {
        for name in ["code", " Code ", "COUPON", "coupon_code", "Coupon Code"] {
            assert!(names_code(name), "{name}");
        }
        for name in ["", "codes", "CODE1", "coupon-code"] {
            assert!(!names_code(name), "{name}");
        }
    }
}
