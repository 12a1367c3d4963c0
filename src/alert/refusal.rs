//! What a mail says about a refused file: why, and the first rejected rows of its report, but never a code.
//!
//! Reports quote cells so that the client finds them, and a cell may hold a code in the wrong column. A report stays in
//! `/reports/`, a mail travels: so a quoted value is cut here unless it stands in the file's own name or in the contract.

use chrono::TimeDelta;
use serde::Deserialize;

/// How many refused files of one namespace are mailed one by one within [`WINDOW`]. A program that goes wrong sends hundreds
/// of the same kind: ten show what it does, more would bury every other alert and make people filter them all away. What
/// is beyond is counted in one mail when the window is over.
pub const MAILS_MOST: i64 = 10;
/// See [`MAILS_MOST`].
pub const WINDOW: TimeDelta = TimeDelta::hours(1);
/// How many rejected rows, and how many warnings, a mail lists.
pub const FIRST: usize = 10;

/// Words of the contract, which are no cells.
const CONTRACT: [&str; 12] = [
    "code",
    "coupon",
    "coupon_code",
    "coupon code",
    "bank_name",
    "end_date",
    "offer_type",
    "customer_id",
    ";",
    "|",
    ",",
    "gpg --export --armor",
];

/// What a report says about a refused file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Why it was refused, its first rejected rows, then warnings.
    pub errors: Vec<ReportedError>,
    /// Rejected rows in all, as far as it was read.
    pub rejected: u64,
}

/// One error or warning of a report.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReportedError {
    /// Its stable code.
    pub reason: String,
    /// What is wrong and what to do.
    pub message: String,
    /// The line, where it is about one.
    #[serde(default)]
    pub line: Option<u64>,
    /// How often it was found.
    #[serde(default)]
    pub count: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Report {
    refused: Option<ReportedError>,
    first_rejects: Vec<ReportedError>,
    rows: Rows,
    warnings: Vec<ReportedError>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rows {
    rejected: u64,
}

/// Reads `report`. `name` and `target` are what the client named the file and its directory. A report that cannot be read
/// says nothing.
#[must_use]
pub fn read(report: &str, name: &str, target: &str) -> Refusal {
    let Report { refused, first_rejects, rows, warnings } = serde_json::from_str(report).unwrap_or_default();
    let rejects = first_rejects.into_iter().take(FIRST);
    let mut errors: Vec<_> = refused.into_iter().chain(rejects).chain(warnings.into_iter().take(FIRST)).collect();
    for error in &mut errors {
        error.message = cut_quotes(&error.message, &[name, target]);
    }
    Refusal { errors, rejected: rows.rejected }
}

/// Cuts values between backticks to their first two characters, unless they are no cells.
fn cut_quotes(message: &str, known: &[&str]) -> String {
    let mut quoted = false;
    let mut parts = Vec::new();
    for part in message.split('`') {
        let plain = !quoted || CONTRACT.contains(&part) || known.iter().any(|known| known.contains(part));
        parts.push(if plain || part.chars().count() <= 2 {
            part.to_owned()
        } else {
            part.chars().take(2).chain(['…']).collect()
        });
        quoted = !quoted;
    }
    parts.join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &str, expected: &str) {
        assert_eq!(cut_quotes(message, &["a.until-2026-13-01.csv", "spring26"]), expected);
    }

    #[test]
    fn values_are_cut() {
        check("there is no bank `SAVE-1234`; correct the name", "there is no bank `SA…`; correct the name");
        check("the header has two columns for `code`; keep one", "the header has two columns for `code`; keep one");
        check("the file name has `.until-2026-13-01.`, which", "the file name has `.until-2026-13-01.`, which");
        check("the directory, which is `spring26`", "the directory, which is `spring26`");
        check("split by `;`, not `SECRET", "split by `;`, not `SE…");
        check("nothing quoted", "nothing quoted");
    }

    #[test]
    fn why_it_was_refused_comes_first() {
        let report = r#"{"status": "rejected", "refused": {"reason": "NO_ROWS", "message": "no data row"},
            "rows": {"read": 9, "rejected": 2},
            "first_rejects": [{"line": 3, "reason": "EMPTY_CODE", "message": "no code beside `SAVE-1234`"}],
            "warnings": [{"reason": "BOM", "message": "dropped", "line": null, "count": 1}]}"#;
        let refusal = read(report, "", "");
        let reasons: Vec<_> = refusal.errors.iter().map(|error| error.reason.as_str()).collect();
        assert_eq!((reasons, refusal.rejected), (vec!["NO_ROWS", "EMPTY_CODE", "BOM"], 2));
        let row = refusal.errors.get(1).unwrap();
        assert_eq!((row.line, row.message.as_str()), (Some(3), "no code beside `SA…`"));
        assert_eq!(read("not JSON", "", ""), Refusal::default());
    }
}
