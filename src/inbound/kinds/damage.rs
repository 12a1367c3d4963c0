//! Codes that a spreadsheet has spoilt: `1.2E+10` where digits were, and leading zeros cut off.

use crate::reason::{Finding, Reason};

/// What the codes of one file look like.
#[derive(Clone, Debug)]
pub struct Damage {
    scientific: u64,
    first_scientific: Option<u64>,
    /// How many codes of digits only have each length, and the first line of each.
    digits: [(u64, u64); LENGTHS],
}

const LENGTHS: usize = 100;
/// Fewer codes of digits than this say nothing about their usual length.
const DIGIT_CODES_LEAST: u64 = 20;

impl Default for Damage {
    fn default() -> Self {
        Self { scientific: 0, first_scientific: None, digits: [(0, 0); LENGTHS] }
    }
}

impl Damage {
    /// Takes one more code into account.
    pub fn see(&mut self, code: &str, line: u64) {
        if is_scientific(code) {
            self.scientific += 1;
            self.first_scientific.get_or_insert(line);
        } else if code.bytes().all(|byte| byte.is_ascii_digit())
            && let Some((count, first)) = self.digits.get_mut(code.len())
        {
            if *count == 0 {
                *first = line;
            }
            *count += 1;
        }
    }

    /// What to warn of, with how many codes.
    #[must_use]
    pub fn findings(&self) -> Vec<(Finding, u64)> {
        let mut findings = Vec::new();
        if let Some(line) = self.first_scientific {
            let message =
                "codes look like numbers that a spreadsheet rewrote, such as 1.2E+10; send the list as it was made";
            findings.push((Finding::line(Reason::SpreadsheetNumber, line, message), self.scientific));
        }
        let all: u64 = self.digits.iter().map(|(count, _)| count).sum();
        let usual = self.digits.iter().enumerate().max_by_key(|(_, (count, _))| *count);
        if let Some((length, (count, _))) = usual
            && all >= DIGIT_CODES_LEAST
            && count * 10 >= all * 8
        {
            let shorter = || self.digits.iter().take(length).filter(|(count, _)| *count > 0);
            let cut: u64 = shorter().map(|(count, _)| count).sum();
            if let Some(line) = shorter().map(|(_, first)| *first).min() {
                let message = format!(
                    "codes of digits are shorter than the usual {length}; a spreadsheet may have cut leading zeros"
                );
                findings.push((Finding::line(Reason::ZerosCut, line, message), cut));
            }
        }
        findings
    }
}

/// `1E+10`, `1.2E+10`
fn is_scientific(code: &str) -> bool {
    if !matches!(code.as_bytes(), [b'0'..=b'9', b'.' | b'E', ..]) {
        return false;
    }
    let Some((mantissa, exponent)) = code.split_once("E+") else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    digits(exponent) && whole.len() == 1 && digits(whole) && digits(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(codes: &[&str], expected: &[(Reason, u64, u64)]) {
        let mut damage = Damage::default();
        for (line, code) in (1..).zip(codes) {
            damage.see(code, line);
        }
        let found: Vec<_> = damage
            .findings()
            .into_iter()
            .map(|(finding, count)| (finding.reason, finding.line.unwrap(), count))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn numbers_that_were_rewritten() {
        check(&["A1", "1.2E+10", "3.46E+15", "9E+12"], &[(Reason::SpreadsheetNumber, 2, 3)]);
        check(&["1E10", "E+10", "12.5E+10", "1.2E+1A", "SALE+10", "1.E+5"], &[]);
    }

    #[test]
    fn zeros_that_were_cut() {
        let mut codes = vec!["12345678"; 19];
        codes.push("123456");
        check(&codes, &[(Reason::ZerosCut, 20, 1)]);
        check(codes.get(1..).unwrap(), &[]);
        // A list of mixed lengths has no usual one.
        let mixed: Vec<&str> = ["1234", "12345"].into_iter().cycle().take(40).collect();
        check(&mixed, &[]);
    }
}
