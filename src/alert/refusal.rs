//! What a mail says about a refused file: the first errors of its report, and never a code.
//!
//! Reports quote cells so that the client finds them, and a cell may hold a code in the wrong column. A report stays in
//! `/reports/`, a mail travels: so a quoted value is cut here unless it stands in the file's own name or in the contract.

use serde::Deserialize;

/// How many errors a mail lists.
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
    warnings: Vec<ReportedError>,
}

/// The first errors of `report`, why the file was refused before the rest. `name` and `target` are what the client named the
/// file and its directory. A report that cannot be read has none.
#[must_use]
pub fn first_errors(report: &str, name: &str, target: &str) -> Vec<ReportedError> {
    let report: Report = serde_json::from_str(report).unwrap_or_default();
    let mut errors: Vec<_> = report.refused.into_iter().chain(report.warnings).take(FIRST).collect();
    for error in &mut errors {
        error.message = cut_quotes(&error.message, &[name, target]);
    }
    errors
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
            "warnings": [{"reason": "BOM", "message": "dropped", "line": null, "count": 1}]}"#;
        let errors = first_errors(report, "", "");
        assert_eq!(errors.iter().map(|error| error.reason.as_str()).collect::<Vec<_>>(), ["NO_ROWS", "BOM"]);
        assert_eq!(first_errors("not JSON", "", ""), []);
    }
}
