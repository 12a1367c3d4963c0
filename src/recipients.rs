//! A recipients list, row by row: which column is `customer_id`, and which rows count.
//!
//! The inbound flow validates a list with it and the outbound flow reads the same list again for the assignment file;
//! both must come to the same result on every row, so the rules stand here and nowhere else. No effects.

use crate::plaintext::Record;
use crate::reason::{Finding, Reason};

/// One record of a list, as the reader of records gives it.
pub trait Row {
    /// Its first line, from 1.
    fn line(&self) -> u64;
    /// How many columns it has.
    fn width(&self) -> usize;
    /// The column at `index`, from 0, without its quotes.
    fn field(&self, index: usize) -> Option<&str>;
    /// Why it could not be read as a record, if so.
    fn problem(&self) -> Option<Reason>;
}

impl Row for Record<'_> {
    fn line(&self) -> u64 {
        self.line()
    }

    fn width(&self) -> usize {
        self.len()
    }

    fn field(&self, index: usize) -> Option<&str> {
        self.field(index)
    }

    fn problem(&self) -> Option<Reason> {
        self.problem()
    }
}

/// The header of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    names: Vec<String>,
    customer_id: usize,
    longest: usize,
}

/// What an assignment file has behind the list's own columns.
pub const ADDED_COLUMNS: [&str; 4] = ["bank_name", "code", "end_date", "outcome"];

/// The column that every list has.
const CUSTOMER_ID: &str = "customer_id";

/// What splits columns in files that this daemon refuses.
const OTHER_DELIMITERS: [char; 3] = [';', '\t', '|'];

impl Columns {
    /// Reads the header. `longest` is the limit `customer_id_bytes`.
    ///
    /// # Errors
    /// A finding that refuses the whole list.
    pub fn read(header: &dyn Row, longest: usize) -> Result<Self, Finding> {
        let refuse = |reason, message: String| Err(Finding::line(reason, header.line(), message));
        if let Some(problem) = header.problem() {
            return refuse(problem, format!("the header cannot be read: {}", problem.means()));
        }
        let names: Vec<String> =
            (0..header.width()).filter_map(|index| header.field(index)).map(ToOwned::to_owned).collect();
        let mut found = names.iter().enumerate().filter(|(_, name)| is_customer_id(name));
        match (found.next(), found.next()) {
            (Some((customer_id, _)), None) => Ok(Self { customer_id, longest, names }),
            (Some(_), Some(_)) => refuse(
                Reason::RepeatedColumn,
                format!("`{CUSTOMER_ID}` stands more than once in the header; leave one of them"),
            ),
            (None, _) => match other_delimiter(&names) {
                Some(delimiter) => refuse(
                    Reason::BadColumnDelimiter,
                    format!("the header's columns are split by `{}`; split them by commas", delimiter.escape_default()),
                ),
                None => refuse(
                    Reason::MissingColumn,
                    format!("the header has no column `{CUSTOMER_ID}`; the first row must name the columns"),
                ),
            },
        }
    }

    /// The columns' names as they stood.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The customer of `row`, outer blanks trimmed.
    ///
    /// # Errors
    /// A finding that rejects the row.
    pub fn customer<'r>(&self, row: &'r dyn Row) -> Result<&'r str, Finding> {
        let reject = |reason, message: String| Err(Finding::line(reason, row.line(), message));
        if let Some(problem) = row.problem() {
            return reject(problem, problem.means().to_owned());
        }
        if row.width() != self.names.len() {
            let (expected, found) = (self.names.len(), row.width());
            return reject(
                Reason::WrongColumnCount,
                format!("the header has {expected} columns, this row has {found}; quote a value that holds a comma"),
            );
        }
        let id = row.field(self.customer_id).unwrap_or_default().trim_matches([' ', '\t']);
        if id.is_empty() {
            return reject(Reason::EmptyCustomerId, format!("the `{CUSTOMER_ID}` is empty"));
        }
        if id.len() > self.longest {
            let (bytes, longest) = (id.len(), self.longest);
            return reject(
                Reason::CustomerIdTooLong,
                format!("the `{CUSTOMER_ID}` has {bytes} bytes; the longest may have {longest}"),
            );
        }
        // Almost all ids are plain ASCII, and every list is judged three times.
        let plain = id.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !plain && let Some((place, character)) = id.chars().enumerate().find(|(_, character)| character.is_control())
        {
            return reject(
                Reason::BadCharacter,
                format!(
                    "the `{CUSTOMER_ID}` has the control character U+{:04X} at {}",
                    u32::from(character),
                    place + 1
                ),
            );
        }
        Ok(id)
    }
}

fn is_customer_id(name: &str) -> bool {
    name.trim().eq_ignore_ascii_case(CUSTOMER_ID)
}

/// The delimiter other than a comma that the header seems to use. An id may hold any of them, so only the header is asked.
fn other_delimiter(names: &[String]) -> Option<char> {
    OTHER_DELIMITERS.into_iter().find(|delimiter| {
        names.iter().any(|name| name.split(*delimiter).any(is_customer_id))
            || matches!(names, [name] if name.contains(*delimiter))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fields<'a>(&'a [&'a str], Option<Reason>);

    impl Row for Fields<'_> {
        fn line(&self) -> u64 {
            7
        }
        fn width(&self) -> usize {
            self.0.len()
        }
        fn field(&self, index: usize) -> Option<&str> {
            self.0.get(index).copied()
        }
        fn problem(&self) -> Option<Reason> {
            self.1
        }
    }

    #[track_caller]
    fn check_header(header: &[&str], expected: Result<usize, Reason>) {
        let read = Columns::read(&Fields(header, None), 320);
        assert_eq!(read.map(|columns| columns.customer_id).map_err(|finding| finding.reason), expected, "{header:?}");
    }

    #[test]
    fn headers() {
        check_header(&["customer_id"], Ok(0));
        check_header(&["email", " Customer_ID ", "first"], Ok(1));
        check_header(&["email", "first"], Err(Reason::MissingColumn));
        check_header(&["id"], Err(Reason::MissingColumn));
        check_header(&["customer_id", "CUSTOMER_ID"], Err(Reason::RepeatedColumn));
        check_header(&["customer_id;email"], Err(Reason::BadColumnDelimiter));
        check_header(&["email\tcustomer_id"], Err(Reason::BadColumnDelimiter));
        check_header(&["customer_id|first", "last"], Err(Reason::BadColumnDelimiter));
        check_header(&["id;email"], Err(Reason::BadColumnDelimiter));
        check_header(&[], Err(Reason::MissingColumn));
    }

    #[track_caller]
    fn check_row(row: &[&str], expected: Result<&str, Reason>) {
        let columns = Columns::read(&Fields(&["email", "customer_id"], None), 320).unwrap();
        let row = Fields(row, None);
        let customer = columns.customer(&row).map_err(|finding| {
            assert_eq!(finding.line, Some(7));
            finding.reason
        });
        assert_eq!(customer, expected);
    }

    #[test]
    fn rows() {
        check_row(&["a@example.com", "c1"], Ok("c1"));
        check_row(&["", " \tauth0|12;3 "], Ok("auth0|12;3"));
        check_row(&["a", "Zoë 1"], Ok("Zoë 1"));
        check_row(&["a", " "], Err(Reason::EmptyCustomerId));
        check_row(&["a"], Err(Reason::WrongColumnCount));
        check_row(&["a", "b", "c"], Err(Reason::WrongColumnCount));
        check_row(&["a", "b\u{7}c"], Err(Reason::BadCharacter));
        check_row(&["a", "b\nc"], Err(Reason::BadCharacter));
        check_row(&["a", &"x".repeat(320)], Ok(&"x".repeat(320)));
        check_row(&["a", &"x".repeat(321)], Err(Reason::CustomerIdTooLong));
    }

    #[test]
    fn a_row_that_cannot_be_read_says_why() {
        let columns = Columns::read(&Fields(&["customer_id"], None), 320).unwrap();
        let finding = columns.customer(&Fields(&["c1"], Some(Reason::UnbalancedQuote))).unwrap_err();
        assert_eq!(finding.reason, Reason::UnbalancedQuote);
    }
}
