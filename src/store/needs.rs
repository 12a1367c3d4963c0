//! Who needs a code in a draw, and in which order they are served.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::answers::Answering;
use crate::sorter::run::RunRow;
use crate::sorter::{By, Reading, Sorted, Sorter, Tape};

/// The customers who need a code, in byte order.
#[derive(Debug)]
pub(super) struct Needs {
    /// A row for each of their rows in the list: its number is the ordinal there, its group the outcome, as stored, in a
    /// customer's first row, and [`AGAIN`] in the others.
    tape: Tape,
    /// Where in the list each of them stands first.
    ordinals: Ordinals,
    directory: PathBuf,
}

/// No outcome in the store has this number.
const AGAIN: u32 = 0;

impl Needs {
    /// Nobody. What does not fit into memory goes to `directory`.
    pub(super) fn new(directory: &Path) -> Self {
        Self { tape: Tape::new(directory), ordinals: Ordinals::default(), directory: directory.to_owned() }
    }

    /// Notes a customer by its first row in the list, which comes behind those noted before; `outcome`: as stored.
    pub(super) fn add(&mut self, row: RunRow<'_>, outcome: i16) -> io::Result<()> {
        self.ordinals.add(row.number);
        self.tape.write(RunRow { group: u32::from(outcome.unsigned_abs()), ..row })
    }

    /// Notes another row of the customer noted last.
    pub(super) fn add_again(&mut self, row: RunRow<'_>) -> io::Result<()> {
        self.tape.write(RunRow { group: AGAIN, ..row })
    }

    /// How many customers.
    pub(super) fn count(&self) -> u64 {
        self.ordinals.count
    }

    /// The customers as they are served: part by part, which follows from the list's order; within a part in byte order.
    /// `ends`: how many are served when each part is done; behind the last come those who get nothing.
    pub(super) fn in_line<'a>(&'a self, ends: &[u64], answering: &'a mut Answering) -> Result<Waiting<'a>, StoreError> {
        let missing = || StoreError::Missing { what: "customers who need a code".to_owned() };
        let begins = ends.iter().filter(|end| **end < self.count());
        let begins = begins.map(|end| self.ordinals.nth(*end).ok_or_else(missing)).collect::<Result<Vec<u64>, _>>()?;
        let line = if begins.is_empty() {
            Line::Tape(&self.tape, Reading::all())
        } else {
            Line::Parts(self.by_part(&begins)?)
        };
        let (customer, ordinal, outcome) = (String::new(), 0, 0);
        Ok(Waiting { line, answering, customer, ordinal, outcome, given: Given::Nobody })
    }

    /// Sorted by part first. `begins`: where in the list each part but the first begins.
    fn by_part(&self, begins: &[u64]) -> io::Result<Sorted> {
        let (mut rows, mut reading) = (Sorter::new(&self.directory, By::Text), Reading::all());
        let (mut text, mut part) = (String::new(), 0);
        while let Some(row) = reading.next_row(&self.tape)? {
            if row.group != AGAIN {
                part = begins.partition_point(|begin| *begin <= row.number);
            }
            text.clear();
            write!(text, "{part:0PART_DIGITS$}{}", row.text).map_err(io::Error::other)?;
            rows.push(RunRow { text: &text, ..row })?;
        }
        rows.sorted()
    }
}

/// So many digits of the part's number stand in front of a customer, so that rows are sorted by it.
const PART_DIGITS: usize = 10;

/// Ordinals of a list, one bit each.
#[derive(Debug, Default)]
struct Ordinals {
    words: Vec<u64>,
    count: u64,
}

impl Ordinals {
    fn add(&mut self, ordinal: u64) {
        let word = usize::try_from(ordinal / 64).unwrap_or(usize::MAX);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if let Some(word) = self.words.get_mut(word) {
            *word |= 1 << (ordinal % 64);
            self.count += 1;
        }
    }

    /// The ordinal that has `before` others before it.
    fn nth(&self, mut before: u64) -> Option<u64> {
        for (number, word) in (0..).zip(&self.words) {
            let here = u64::from(word.count_ones());
            if before < here {
                let rest = (0..before).fold(*word, |word, _| word & (word - 1));
                return Some(number * 64 + u64::from(rest.trailing_zeros()));
            }
            before -= here;
        }
        None
    }
}

/// The customers who need a code, one behind the other.
pub(super) struct Waiting<'a> {
    line: Line<'a>,
    answering: &'a mut Answering,
    customer: String,
    ordinal: u64,
    outcome: i16,
    given: Given,
}

enum Line<'a> {
    Tape(&'a Tape, Reading),
    /// With the part's number in front of each customer.
    Parts(Sorted),
}

/// What the last customer got.
enum Given {
    Nobody,
    Code { lot_id: i32, code: String },
    Nothing { reason: String },
}

impl Waiting<'_> {
    /// On to the next customer; false behind the last. What the one before got goes to all of its rows.
    pub(super) fn advance(&mut self) -> Result<bool, StoreError> {
        loop {
            let (row, digits) = match &mut self.line {
                Line::Tape(tape, reading) => (reading.next_row(tape)?, 0),
                Line::Parts(rows) => (rows.next_row()?, PART_DIGITS),
            };
            let Some(row) = row else { return Ok(false) };
            self.ordinal = row.number;
            if row.group != AGAIN {
                self.customer.clear();
                self.customer.push_str(row.text.get(digits..).unwrap_or_default());
                self.outcome = i16::try_from(row.group).unwrap_or_default();
                return Ok(true);
            }
            self.answer()?;
        }
    }

    /// The customer at hand.
    pub(super) fn customer(&self) -> &str {
        &self.customer
    }

    /// Why it needs a code, as stored.
    pub(super) fn outcome(&self) -> i16 {
        self.outcome
    }

    /// The customer at hand gets a code of a lot.
    pub(super) fn gets_code(&mut self, lot_id: i32, code: &str) -> Result<(), StoreError> {
        self.given = Given::Code { lot_id, code: code.to_owned() };
        self.answer()
    }

    /// The customer at hand gets no code of the bank.
    pub(super) fn gets_nothing(&mut self, reason: &str) -> Result<(), StoreError> {
        self.given = Given::Nothing { reason: reason.to_owned() };
        self.answer()
    }

    fn answer(&mut self) -> Result<(), StoreError> {
        match &self.given {
            Given::Code { lot_id, code } => self.answering.code(self.ordinal, Some(self.outcome), (*lot_id, code)),
            Given::Nothing { reason } => self.answering.nothing(self.ordinal, reason),
            Given::Nobody => Err(StoreError::Missing { what: "a customer's first row".to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_in_order() {
        let mut ordinals = Ordinals::default();
        let all = [3, 64, 0, 63, 130, 1_000];
        all.iter().for_each(|ordinal| ordinals.add(*ordinal));
        let found: Vec<Option<u64>> = (0..7).map(|before| ordinals.nth(before)).collect();
        assert_eq!(found, [Some(0), Some(3), Some(63), Some(64), Some(130), Some(1_000), None]);
        assert_eq!(ordinals.count, 6);
    }

    /// In the list: d, b, a, b, c, a, a.
    fn needs(directory: &Path) -> Needs {
        let mut needs = Needs::new(directory);
        let row = |number, text| RunRow { number, group: 0, text };
        needs.add(row(2, "a"), 1).unwrap();
        needs.add_again(row(5, "a")).unwrap();
        needs.add_again(row(6, "a")).unwrap();
        needs.add(row(1, "b"), 2).unwrap();
        needs.add_again(row(3, "b")).unwrap();
        needs.add(row(4, "c"), 3).unwrap();
        needs.add(row(0, "d"), 1).unwrap();
        needs
    }

    /// Serves them in line; the first `codes` get one.
    #[track_caller]
    fn check(ends: &[u64], codes: usize, line: &[(&str, i16)], got: &[&str]) {
        let directory = tempfile::tempdir().unwrap();
        let needs = needs(directory.path());
        assert_eq!(needs.count(), 4);
        let mut answering = Answering::new(directory.path(), 7);
        answering.know([(1, None)].into_iter());
        let mut waiting = needs.in_line(ends, &mut answering).unwrap();
        let mut found = Vec::new();
        while waiting.advance().unwrap() {
            found.push((waiting.customer().to_owned(), waiting.outcome()));
            if found.len() <= codes {
                waiting.gets_code(1, &format!("code {}", found.len())).unwrap();
            } else {
                waiting.gets_nothing("nothing").unwrap();
            }
        }
        assert_eq!(found, line.iter().map(|(id, outcome)| ((*id).to_owned(), *outcome)).collect::<Vec<_>>());
        let (mut answers, mut found) = (answering.end().unwrap(), Vec::new());
        while let Some(got) = answers.next_got().unwrap() {
            found.push(got.code.map_or_else(|reason| reason, |got| got.code).to_owned());
        }
        assert_eq!(found, got);
    }

    #[test]
    fn one_part_serves_in_byte_order() {
        let line = [("a", 1), ("b", 2), ("c", 3), ("d", 1)];
        let got = ["code 4", "code 2", "code 1", "code 2", "code 3", "code 1", "code 1"];
        check(&[4], 4, &line, &got);
    }

    #[test]
    fn parts_serve_in_the_lists_order() {
        // d and b; a; c.
        let line = [("b", 2), ("d", 1), ("a", 1), ("c", 3)];
        let got = ["code 2", "code 1", "code 3", "code 1", "code 4", "code 3", "code 3"];
        check(&[2, 3, 4], 4, &line, &got);
        let got = ["code 2", "code 1", "code 3", "code 1", "nothing", "code 3", "code 3"];
        check(&[2, 3], 3, &line, &got);
    }

    #[test]
    fn nobody_is_served() {
        let line = [("a", 1), ("b", 2), ("c", 3), ("d", 1)];
        check(&[], 0, &line, &["nothing"; 7]);
    }
}
