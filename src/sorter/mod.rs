//! Rows in order, however many: sorted in memory as far as they fit, in runs on disk beyond it, merged as they are read.
//!
//! The store gives and takes rows in order at a fraction of what it costs to let it sort them in temporary tables; and a
//! list of a hundred million customers does not fit into the daemon's memory. What goes to disk is sealed ([`tape`]).

pub mod run;
mod tape;

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::io;
use std::path::Path;

use run::{Run, RunRow};
pub use tape::{Reading, Tape};

/// So many rows are sorted in memory. A batch has two sorters, and there may be two batches and their corrections at once.
const ROWS_MOST: usize = 250_000;

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Text in byte order, rows of one text by number.
    Text,
    /// Number.
    Number,
}

/// Takes rows in any order.
#[derive(Debug)]
pub struct Sorter {
    by: By,
    run: Run,
    /// Runs that were sorted, one behind the other, and where each ends.
    tape: Tape,
    ends: Vec<usize>,
}

impl Sorter {
    /// A sorter that puts what it has no memory for into `directory`, in files that have no name.
    #[must_use]
    pub fn new(directory: &Path, by: By) -> Self {
        Self::with(directory, by, Run::of(ROWS_MOST))
    }

    fn with(directory: &Path, by: By, run: Run) -> Self {
        Self { by, run, tape: Tape::new(directory), ends: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// What the disk says.
    pub fn push(&mut self, row: RunRow<'_>) -> io::Result<()> {
        if self.run.is_full() {
            self.sort();
            self.run.rows().try_for_each(|row| self.tape.write(row))?;
            self.ends.push(self.tape.cut()?);
            self.run.clear();
        }
        self.run.push(row);
        Ok(())
    }

    fn sort(&mut self) {
        match self.by {
            By::Text => self.run.sort(),
            By::Number => self.run.sort_by_number(),
        }
    }

    /// The rows in order.
    ///
    /// # Errors
    /// What the disk says.
    pub fn sorted(mut self) -> io::Result<Sorted> {
        self.sort();
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let mut sources: Vec<Source> =
            starts.zip(&self.ends).map(|(start, end)| Source::Tape(Reading::of(start..*end))).collect();
        sources.push(Source::Run(self.run, 0));
        let mut heads = BinaryHeap::new();
        for (source, rows) in sources.iter_mut().enumerate() {
            let mut head = Head { by: self.by, number: 0, group: 0, text: String::new(), source };
            if rows.next_into(&self.tape, &mut head)? {
                heads.push(head);
            }
        }
        Ok(Sorted { tape: self.tape, sources, heads, begun: false })
    }
}

/// Gives rows in order.
#[derive(Debug)]
pub struct Sorted {
    tape: Tape,
    sources: Vec<Source>,
    /// The next row of each source.
    heads: BinaryHeap<Head>,
    /// Whether the least of the heads has been given out.
    begun: bool,
}

impl Sorted {
    /// The next row; `None` after the last.
    ///
    /// # Errors
    /// What the disk says.
    pub fn next_row(&mut self) -> io::Result<Option<RunRow<'_>>> {
        if self.begun
            && let Some(mut head) = self.heads.peek_mut()
        {
            let more = match self.sources.get_mut(head.source) {
                Some(source) => source.next_into(&self.tape, &mut head)?,
                None => false,
            };
            if !more {
                PeekMut::pop(head);
            }
        }
        self.begun = true;
        Ok(self.heads.peek().map(Head::row))
    }
}

#[derive(Debug)]
enum Source {
    Tape(Reading),
    Run(Run, usize),
}

impl Source {
    /// False, and `head` as it was, after the last row.
    fn next_into(&mut self, tape: &Tape, head: &mut Head) -> io::Result<bool> {
        let row = match self {
            Self::Tape(reading) => reading.next_row(tape)?,
            Self::Run(run, at) => {
                *at += 1;
                run.row(*at - 1)
            }
        };
        let Some(row) = row else { return Ok(false) };
        head.number = row.number;
        head.group = row.group;
        head.text.clear();
        head.text.push_str(row.text);
        Ok(true)
    }
}

/// A row with where it came from. The greatest is what comes first, as the heap wants it.
#[derive(Debug)]
struct Head {
    by: By,
    number: u64,
    group: u32,
    text: String,
    source: usize,
}

impl Head {
    fn row(&self) -> RunRow<'_> {
        RunRow { number: self.number, group: self.group, text: &self.text }
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = match self.by {
            By::Text => self.text.cmp(&other.text).then(self.number.cmp(&other.number)),
            By::Number => self.number.cmp(&other.number),
        };
        order.then(self.source.cmp(&other.source)).reverse()
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(by: By, rows_most: usize, rows: &[(u64, &str)]) -> Vec<(u64, u32, String)> {
        let directory = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::with(directory.path(), by, Run::of(rows_most));
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
    fn a_directory_that_is_not_there() {
        let mut sorter = Sorter::with(Path::new("/nowhere/at/all"), By::Text, Run::of(1));
        assert!(sorter.push(RunRow { number: 0, group: 0, text: "x" }).is_ok());
        let pushed = sorter.push(RunRow { number: 1, group: 0, text: "y" });
        assert_eq!(pushed.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
