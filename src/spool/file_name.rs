//! What a file name says: its stem, and tokens between dots (`spring.until-2026-12-31.csv.gpg`).

use chrono::NaiveDate;

use crate::reason::{Finding, Reason};

/// A file name, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileName {
    /// The name up to the first dot.
    pub stem: String,
    /// `until-YYYY-MM-DD`: the end date of every row.
    pub until: Option<NaiveDate>,
    /// `proof`: a batch of test sends.
    pub proof: bool,
    /// `rows-N`: the file must hold exactly that many rows. Not asked of a rejects file, which keeps the name.
    pub rows: Option<u64>,
    /// `<upload id>.rejects`: the upload whose rejects file this is.
    pub rejects_of: Option<i64>,
    /// `not-sent` behind a batch's number: customers of that batch who were not reached.
    pub not_sent: Option<i64>,
}

impl FileName {
    /// Reads `name`. Tokens that are none of ours are just part of the name.
    ///
    /// # Errors
    /// A [`Reason::BadNameToken`] for `until-` without a date, `rows-` without a number or `not-sent` without a batch:
    /// guessing would give every row a wrong end date.
    pub fn parse(name: &str) -> Result<Self, Finding> {
        let stem = name.split('.').next().unwrap_or_default().to_owned();
        let mut read = Self { stem, ..Self::default() };
        let mut before = None;
        // Systems that write names in capitals mean the same: `LIST.PROOF.CSV` must not go out to customers.
        let lower = name.to_ascii_lowercase();
        for token in lower.split('.').skip(1) {
            if let Some(date) = token.strip_prefix("until-") {
                let date = parse_date(date).ok_or_else(|| bad(token, "a date as until-YYYY-MM-DD"))?;
                once(&mut read.until, date, token)?;
            } else if let Some(rows) = token.strip_prefix("rows-") {
                let rows = Some(rows).filter(|rows| rows.bytes().all(|byte| byte.is_ascii_digit()));
                let rows = rows.and_then(|rows| rows.parse().ok());
                once(&mut read.rows, rows.ok_or_else(|| bad(token, "a number as rows-100000"))?, token)?;
            } else if token == "proof" {
                read.proof = true;
            } else if token == "rejects" {
                read.rejects_of = before.and_then(|before: &str| before.parse().ok());
            } else if token == "not-sent" {
                let batch = before.and_then(|before: &str| before.parse().ok());
                read.not_sent =
                    Some(batch.ok_or_else(|| bad(token, "behind a batch's number as list.17.not-sent.csv"))?);
            }
            before = Some(token);
        }
        if read.rejects_of.is_some() {
            read.rows = None;
        }
        Ok(read)
    }
}

/// Longest name of an inbound file. A report adds to it, and must still fit into a directory entry.
const LONGEST_NAME: usize = 200;

/// The name of an inbound file as text.
///
/// # Errors
/// Why it cannot be one.
pub fn inbound_name(name: &[u8]) -> Result<&str, &'static str> {
    if name.len() > LONGEST_NAME {
        return Err("file name is longer than 200 bytes");
    }
    let text = std::str::from_utf8(name).map_err(|_| "file name is not UTF-8")?;
    if text.chars().any(char::is_control) {
        return Err("file name has a control character");
    }
    Ok(text)
}

/// Sets what a token says; a second one that says something else is a slip.
fn once<T: PartialEq>(place: &mut Option<T>, value: T, token: &str) -> Result<(), Finding> {
    match place {
        Some(before) if *before != value => Err(bad(token, "what an earlier part of the name says")),
        _ => {
            *place = Some(value);
            Ok(())
        }
    }
}

fn bad(token: &str, wanted: &str) -> Finding {
    Finding::file(
        Reason::BadNameToken,
        format!("the file name has `.{token}.`, which is not {wanted}; correct the name and send the file again"),
    )
}

/// A date as YYYY-MM-DD, nothing else: `2026-1-5` is as likely a slip as a date.
#[must_use]
pub fn parse_date(text: &str) -> Option<NaiveDate> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    (text.len() == 10).then_some(date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, stem: &str, until: Option<&str>, proof: bool, rows: Option<u64>) {
        let read = FileName::parse(name).unwrap();
        let until = until.map(|date| parse_date(date).unwrap());
        assert_eq!(read, FileName { stem: stem.to_owned(), until, proof, rows, ..FileName::default() }, "{name}");
    }

    #[test]
    fn names_of_inbound_files() {
        assert_eq!(inbound_name("codes-März.csv".as_bytes()), Ok("codes-März.csv"));
        assert!(inbound_name(b"codes\xff.csv").is_err());
        assert!(inbound_name("a\u{85}b".as_bytes()).is_err());
        assert!(inbound_name(&[b'a'; 200]).is_ok());
        assert!(inbound_name(&[b'a'; 201]).is_err());
    }

    #[test]
    fn tokens() {
        check("spring.until-2026-12-31.csv.gpg", "spring", Some("2026-12-31"), false, None);
        check("list.proof.csv", "list", None, true, None);
        check("list.rows-100000.csv", "list", None, false, Some(100_000));
        check("a.proof.rows-2.until-2026-02-03.csv", "a", Some("2026-02-03"), true, Some(2));
        check("proof.csv", "proof", None, false, None);
        check("List.Proof.csv", "List", None, true, None);
        check("A.UNTIL-2026-12-31.ROWS-2.CSV", "A", Some("2026-12-31"), false, Some(2));
        check("a.rows-2.rows-2.csv", "a", None, false, Some(2));
        check("plain", "plain", None, false, None);
        check(".hidden", "", None, false, None);
    }

    #[test]
    fn a_rejects_file_says_what_it_is_of() {
        let read = FileName::parse("list.rows-5.csv.12.rejects.csv").unwrap();
        assert_eq!((read.stem.as_str(), read.rejects_of, read.rows), ("list", Some(12), None));
        assert_eq!(FileName::parse("my.rejects.csv").unwrap().rejects_of, None);
    }

    #[test]
    fn a_not_sent_list_names_its_batch() {
        let batch = |name| FileName::parse(name).unwrap().not_sent;
        assert_eq!(batch("list.17.not-sent.csv"), Some(17));
        assert_eq!(batch("list.17.not-sent.rows-2.csv.pgp"), Some(17));
        assert_eq!(batch("not-sent.csv"), None);
        assert_eq!(batch("list.17.csv"), None);
    }

    #[test]
    fn slips_are_refused() {
        for name in [
            "a.until-2026-02-30.csv",
            "a.until-soon.csv",
            "a.until-2026-1-5.csv",
            "a.rows-many.csv",
            "a.rows-.csv",
            "list.not-sent.csv",
            "list.x.not-sent.csv",
            "a.rows-+2.csv",
            "a.until-2026-12-31.until-2027-12-31.csv",
        ] {
            assert_eq!(FileName::parse(name).unwrap_err().reason, Reason::BadNameToken, "{name}");
        }
    }
}
