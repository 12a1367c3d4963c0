//! Rows in order, however many: sorted in memory as far as they fit, in runs on disk beyond it, merged as they are read
//! ([`Sorter`]); or put into their places, where each has one of its own ([`Placing`]).
//!
//! The store gives and takes rows in order at a fraction of what it costs to let it sort them in temporary tables; and a
//! list of a hundred million customers does not fit into the daemon's memory. What goes to disk is sealed ([`tape`]). Sorting
//! and reading back have threads of their own, which end with what they work for, and whose errors come out there.

mod ahead;
mod behind;
mod merge;
mod places;
pub mod run;
mod tape;

use std::io;
use std::path::Path;

use behind::{Behind, Runs};
pub use merge::Sorted;
use merge::Source;
pub use places::{Placed, Placing};
use run::{Run, RunRow, shared};
pub use tape::{Reading, Tape};

/// So many rows are sorted in memory, while as many are gathered. There may be two batches and their corrections at once.
const ROWS_MOST: usize = 200_000;

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Text in byte order, rows of one text by number.
    Text,
    /// Number.
    Number,
}

impl By {
    fn sort(self, run: &mut Run) {
        match self {
            Self::Text => run.sort(),
            Self::Number => run.sort_by_number(),
        }
    }
}

/// Takes rows in any order.
#[derive(Debug)]
pub struct Sorter {
    by: By,
    rows_most: usize,
    filling: Run,
    /// The tape that sorted runs go to, until there are any; from then on whoever writes them to it.
    tape: Option<Tape>,
    behind: Option<Behind>,
    /// What all rows that were handed over begin with.
    beginning: Option<Vec<u8>>,
}

impl Sorter {
    /// A sorter that puts what it has no memory for into `directory`, in files that have no name.
    #[must_use]
    pub fn new(directory: &Path, by: By) -> Self {
        Self::with(directory, by, ROWS_MOST)
    }

    fn with(directory: &Path, by: By, rows_most: usize) -> Self {
        let tape = Some(Tape::new(directory));
        Self { by, rows_most, filling: Run::of(rows_most), tape, behind: None, beginning: None }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// What the disk says, also about rows that came before.
    pub fn push(&mut self, row: RunRow<'_>) -> io::Result<()> {
        if self.filling.is_full() {
            self.hand_over()?;
        }
        self.filling.push(row);
        Ok(())
    }

    fn hand_over(&mut self) -> io::Result<()> {
        self.note_beginning();
        if let Some(tape) = self.tape.take() {
            self.behind = Some(Behind::start(self.by, tape)?);
        }
        let behind = self.behind.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let full = std::mem::replace(&mut self.filling, Run::of(self.rows_most));
        if let Some(empty) = behind.hand_over(full)? {
            self.filling = empty;
        }
        Ok(())
    }

    fn note_beginning(&mut self) {
        let of_run = self.filling.beginning();
        match &mut self.beginning {
            Some(beginning) => beginning.truncate(shared(beginning, of_run, beginning.len())),
            none => *none = Some(of_run.to_vec()),
        }
    }

    /// The rows in order.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sorted(mut self) -> io::Result<Sorted> {
        self.note_beginning();
        self.by.sort(&mut self.filling);
        let Runs { tape, ends } = match (self.behind, self.tape) {
            (Some(mut behind), _) => behind.end()?,
            (None, Some(tape)) => Runs { tape, ends: Vec::new() },
            (None, None) => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let mut sources: Vec<Source> =
            starts.zip(&ends).map(|(start, end)| Source::Tape(Reading::of(start..*end))).collect();
        sources.push(Source::Run(self.filling, 0));
        Sorted::of(self.by, self.beginning.map_or(0, |beginning| beginning.len()), tape, sources)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(by: By, rows_most: usize, rows: &[(u64, &str)]) -> Vec<(u64, u32, String)> {
        let directory = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::with(directory.path(), by, rows_most);
        for (number, text) in rows {
            sorter.push(RunRow { number: *number, group: 7, text }).unwrap();
        }
        let mut sorted = sorter.sorted().unwrap();
        let mut found = Vec::new();
        while let Some(row) = sorted.next_row().unwrap() {
            found.push((row.number, row.group, row.text.to_owned()));
        }
        assert!(sorted.next_row().unwrap().is_none());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "a file with a name");
        found
    }

    #[test]
    fn runs_are_merged() {
        let rows: Vec<(u64, String)> =
            (0..1_000).map(|number| (number, format!("c-{}", number * 7_919 % 500))).collect();
        let given: Vec<(u64, &str)> = rows.iter().map(|(number, text)| (*number, text.as_str())).collect();
        let mut by_text: Vec<(u64, u32, String)> = rows.iter().map(|(n, text)| (*n, 7, text.clone())).collect();
        by_text.sort_by(|one, other| (&one.2, one.0).cmp(&(&other.2, other.0)));
        let mut backwards = given.clone();
        backwards.reverse();
        for rows_most in [1, 3, 250, 999, 1_000, 1_001] {
            assert_eq!(sorted(By::Text, rows_most, &given), by_text, "{rows_most}");
            let by_number: Vec<u64> = sorted(By::Number, rows_most, &backwards).into_iter().map(|row| row.0).collect();
            assert_eq!(by_number, (0..1_000).collect::<Vec<u64>>(), "{rows_most}");
        }
    }

    #[test]
    fn nothing_is_in_order() {
        assert_eq!(sorted(By::Text, 10, &[]), []);
    }

    #[test]
    fn texts_with_and_without_a_common_beginning() {
        for texts in [&["cust-9", "cust-1", "cust-10"][..], &["cust-2", "cust-1", "d", ""], &["b", "a", "b", "a"]] {
            let given: Vec<(u64, &str)> = (0..).zip(texts.iter().copied()).collect();
            let mut expected: Vec<(u64, u32, String)> =
                given.iter().map(|(number, text)| (*number, 7, (*text).to_owned())).collect();
            expected.sort_by(|one, other| (&one.2, one.0).cmp(&(&other.2, other.0)));
            for rows_most in 1..=5 {
                assert_eq!(sorted(By::Text, rows_most, &given), expected, "{rows_most}");
            }
        }
        // Behind what all begin with, eight bytes are the same, or are the greatest there are.
        let (long, longer) = ("x".repeat(20), "\u{10ffff}".repeat(8));
        let given = [(5, long.as_str()), (3, long.as_str()), (4, &longer), (2, "x"), (u64::MAX, &longer), (0, &long)];
        let texts = [(2, "x"), (0, &*long), (3, &long), (5, &long), (4, &longer), (u64::MAX, &longer)];
        let expected = texts.map(|(number, text)| (number, 7, text.to_owned()));
        let numbers = [0, 2, 3, 4, 5, u64::MAX];
        for rows_most in 1..=7 {
            assert_eq!(sorted(By::Text, rows_most, &given), expected, "{rows_most}");
            let found: Vec<u64> = sorted(By::Number, rows_most, &given).iter().map(|row| row.0).collect();
            assert_eq!(found, numbers, "{rows_most}");
        }
    }

    /// The rows before go on their way while the next are pushed.
    #[test]
    fn a_directory_that_is_not_there() {
        let mut sorter = Sorter::with(Path::new("/nowhere/at/all"), By::Text, 1);
        assert!(sorter.push(RunRow { number: 0, group: 0, text: "x" }).is_ok());
        let failed = (1..4).find_map(|number| sorter.push(RunRow { number, group: 0, text: "y" }).err());
        assert_eq!(failed.map(|error| error.kind()), Some(io::ErrorKind::NotFound));
        assert!(sorter.sorted().is_err());
        let mut sorter = Sorter::with(Path::new("/nowhere/at/all"), By::Text, 1);
        (0..2).for_each(|number| sorter.push(RunRow { number, group: 0, text: "x" }).unwrap());
        assert_eq!(sorter.sorted().err().map(|error| error.kind()), Some(io::ErrorKind::NotFound));
    }

    #[test]
    fn a_list_that_is_let_go_half_way() {
        let directory = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::with(directory.path(), By::Text, 10);
        (0..95).for_each(|number| sorter.push(RunRow { number, group: 0, text: "x" }).unwrap());
        drop(sorter);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
