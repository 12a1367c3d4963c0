//! The first code of a file without header: whether it looks like a header that nobody knows.

use crate::reason::{Finding, Reason};

/// Fewer codes than this say nothing about what a code of the file looks like.
const CODES_LEAST: u64 = 3;

/// Compares the first code with those after it. Pure.
#[derive(Clone, Copy, Debug, Default)]
pub struct FirstRow {
    /// The line and length of a first code that has no digit.
    plain: Option<(u64, usize)>,
    later: u64,
    with_digit: u64,
    as_long: u64,
}

impl FirstRow {
    /// Takes the first accepted code of a file without header, when it is the first row.
    pub fn begin(&mut self, code: &str, line: u64) {
        self.plain = (!has_digit(code)).then_some((line, code.len()));
    }

    /// Takes one more code into account.
    pub fn see(&mut self, code: &str) {
        if let Some((_, length)) = self.plain {
            self.later += 1;
            self.with_digit += u64::from(has_digit(code));
            self.as_long += u64::from(code.len() == length);
        }
    }

    /// What to warn of: a first code without a digit where nearly all others have one. Among random codes of one length
    /// such a one comes up now and then, so it must have another length than most.
    #[must_use]
    pub fn finding(&self) -> Option<Finding> {
        let (line, _) = self.plain?;
        let stands_out = self.with_digit * 100 >= self.later * 95 && self.as_long * 2 < self.later;
        let stands_out = stands_out && self.later >= CODES_LEAST;
        let message = "the first row has no digit, and nearly all others have: if it is a header, it was taken as a code; \
                       have this upload undone, call the column `code` and send the file again";
        stands_out.then(|| Finding::line(Reason::FirstRowDiffers, line, message))
    }
}

fn has_digit(code: &str) -> bool {
    code.bytes().any(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(first: &str, later: &[&str], expected: bool) {
        let mut row = FirstRow::default();
        row.begin(first, 1);
        later.iter().for_each(|code| row.see(code));
        assert_eq!(row.finding().is_some(), expected, "{first} {later:?}");
    }

    #[test]
    fn a_word_among_numbers() {
        check("kupon", &["A1", "A2", "A3"], true);
        check("kupon", &["A1", "A2"], false);
        check("A0", &["A1", "A2", "A3"], false);
        check("ABCDE", &["AB1DE", "4BCDE", "ABCD7"], false);
        check("SPRING", &["SUMMER", "AUTUMN", "WINTER", "A1"], false);
        let mut many = vec!["A1"; 95];
        many.extend(["XYZ"; 5]);
        check("kupon", &many, true);
        many.push("XYZ");
        check("kupon", &many, false);
    }
}
