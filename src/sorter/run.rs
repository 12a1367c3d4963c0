//! A run: as many rows of a file as fit into a fixed amount of memory, sorted before they go to the store. Uploads and
//! batches are dominated by index inserts and by joins on text, and both are cheap in order; a file larger than one run
//! goes in several, each in order. Pure.

/// Rows of one run, if nothing else is said. Two are in memory at a time, in each of two workers.
const ROWS_MOST: usize = 500_000;
/// Bytes of text of one run.
const TEXT_MOST: usize = 12 << 20;

/// Rows in memory, sorted on demand.
#[derive(Debug)]
pub struct Run {
    rows_most: usize,
    text: String,
    rows: Vec<Row>,
    /// Rows that were added, repeats and all.
    added: usize,
    /// How many bytes all rows begin with in common: codes of one lot, and customers of one system, often share a prefix.
    shared: usize,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    /// Eight bytes of the text behind what all rows share, so that most comparisons need no look at the text.
    prefix: u64,
    number: u64,
    start: usize,
    length: u32,
    group: u32,
}

/// One row of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunRow<'r> {
    /// Where it stood: a line, or a place in a list.
    pub number: u64,
    /// What it belongs to beside its text: a lot.
    pub group: u32,
    /// What it is sorted by: a code, or a customer.
    pub text: &'r str,
}

impl Default for Run {
    fn default() -> Self {
        Self::of(ROWS_MOST)
    }
}

impl Run {
    /// A run of at most so many rows.
    #[must_use]
    pub fn of(rows_most: usize) -> Self {
        Self { rows_most, text: String::new(), rows: Vec::new(), added: 0, shared: 0 }
    }

    /// Adds a row.
    pub fn push(&mut self, row: RunRow<'_>) {
        self.shared = match self.rows.first() {
            Some(first) => shared(bytes(&self.text, first), row.text.as_bytes(), self.shared),
            None => row.text.len(),
        };
        self.rows.push(Row {
            prefix: 0,
            number: row.number,
            start: self.text.len(),
            length: u32::try_from(row.text.len()).unwrap_or(u32::MAX),
            group: row.group,
        });
        self.text.push_str(row.text);
        self.added += 1;
    }

    /// Whether the next row belongs to the next run. Repeats that were dropped still count.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.added >= self.rows_most || self.text.len() >= TEXT_MOST
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Makes room for the next run; keeps the memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.text.clear();
        self.added = 0;
    }

    /// Sorts by text (in byte order), rows of one text by number.
    pub fn sort(&mut self) {
        self.sort_by(|_| 0);
    }

    /// Sorts by text and keeps the lowest number of each text in each bank; `bank_of` gives the bank of a group. What is
    /// dropped goes to `dropped`, in order.
    pub fn sort_and_drop_repeats(&mut self, bank_of: &[usize], mut dropped: impl FnMut(RunRow<'_>)) {
        let bank = |row: &Row| bank_of.get(row.group as usize).copied().unwrap_or(usize::MAX);
        self.sort_by(bank);
        let all = &self.text;
        self.rows.dedup_by(|later, kept| {
            let same =
                later.prefix == kept.prefix && bytes(all, later) == bytes(all, kept) && bank(later) == bank(kept);
            if same {
                dropped(whole(all, later));
            }
            same
        });
    }

    /// Sorts by number.
    pub fn sort_by_number(&mut self) {
        self.rows.sort_unstable_by_key(|row| row.number);
    }

    /// Puts the rows of each group together, and keeps their order.
    pub fn gather_groups(&mut self) {
        self.rows.sort_by_key(|row| row.group);
    }

    /// What all rows begin with.
    pub(super) fn beginning(&self) -> &[u8] {
        let first = self.rows.first().map_or(&[][..], |first| bytes(&self.text, first));
        first.get(..self.shared).unwrap_or_default()
    }

    fn sort_by(&mut self, bank: impl Fn(&Row) -> usize) {
        let (all, shared) = (&self.text, self.shared);
        for row in &mut self.rows {
            row.prefix = prefix(bytes(all, row).get(shared..).unwrap_or_default());
        }
        self.rows.sort_unstable_by(|one, other| {
            (one.prefix.cmp(&other.prefix))
                .then_with(|| bytes(all, one).cmp(bytes(all, other)))
                .then_with(|| bank(one).cmp(&bank(other)))
                .then(one.number.cmp(&other.number))
        });
    }

    /// How many codes look like another code of the run (case, O and 0, I and 1), and the lowest number of such a one. The
    /// rows must be sorted.
    #[must_use]
    pub fn lookalikes(&self) -> Option<(u64, u64)> {
        let mut folded: Vec<(u64, &Row)> = Vec::with_capacity(self.rows.len());
        let mut last: Option<&Row> = None;
        for row in &self.rows {
            // The same code in another bank is no lookalike.
            if last.is_none_or(|last| bytes(&self.text, last) != bytes(&self.text, row)) {
                folded.push((fold(bytes(&self.text, row)), row));
            }
            last = Some(row);
        }
        folded.sort_unstable_by_key(|(hash, row)| (*hash, row.number));
        let alike = |one: &&[(u64, &Row)]| one.len() > 1;
        let groups = || folded.chunk_by(|one, other| one.0 == other.0).filter(alike);
        let count: usize = groups().map(|group| group.len() - 1).sum();
        let first = groups().filter_map(|group| group.get(1)).map(|(_, row)| row.number).min()?;
        Some((count as u64, first))
    }

    /// The row at `index`, from 0, as they lie.
    #[must_use]
    pub fn row(&self, index: usize) -> Option<RunRow<'_>> {
        self.rows.get(index).map(|row| whole(&self.text, row))
    }

    /// The rows as they lie.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = RunRow<'_>> {
        self.rows.iter().map(|row| whole(&self.text, row))
    }
}

/// How many bytes two texts begin with in common, at most `most`.
pub(super) fn shared(one: &[u8], other: &[u8], most: usize) -> usize {
    one.iter().zip(other).take(most).take_while(|(one, other)| one == other).count()
}

/// The first eight bytes as a number that compares as they do.
pub(super) fn prefix(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    u64::from_be_bytes(first)
}

/// A hash (FNV-1a) of the code as a hasty eye reads it.
fn fold(code: &[u8]) -> u64 {
    code.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        let seen = match byte.to_ascii_uppercase() {
            b'O' => b'0',
            b'I' => b'1',
            other => other,
        };
        (hash ^ u64::from(seen)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The text of a row as bytes, which are quicker to compare.
fn bytes<'r>(all: &'r str, row: &Row) -> &'r [u8] {
    all.as_bytes().get(row.start..row.start + row.length as usize).unwrap_or_default()
}

/// The row as it was pushed.
fn whole<'r>(all: &'r str, row: &Row) -> RunRow<'r> {
    let text = all.get(row.start..row.start + row.length as usize).unwrap_or_default();
    RunRow { number: row.number, group: row.group, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u64, group: u32, text: &str) -> RunRow<'_> {
        RunRow { number, group, text }
    }

    #[test]
    fn sorted_and_the_first_line_of_a_code_stays() {
        // Lots 0 and 2 are of one bank, lot 1 of another.
        let bank_of = [0, 1, 0];
        let mut run = Run::default();
        for pushed in [
            row(2, 0, "LONG-CODE-2"),
            row(3, 0, "LONG-CODE-1"),
            row(4, 1, "LONG-CODE-1"),
            row(5, 2, "LONG-CODE-2"),
            row(6, 0, "A"),
            row(7, 0, "LONG-CODE-2"),
            row(8, 0, "a"),
        ] {
            run.push(pushed);
        }
        let mut dropped = Vec::new();
        run.sort_and_drop_repeats(&bank_of, |row| dropped.push((row.number, row.text.to_owned())));
        let kept: Vec<_> = run.rows().map(|row| (row.number, row.group, row.text)).collect();
        assert_eq!(
            kept,
            [(6, 0, "A"), (3, 0, "LONG-CODE-1"), (4, 1, "LONG-CODE-1"), (2, 0, "LONG-CODE-2"), (8, 0, "a")]
        );
        assert_eq!(dropped, [(5, "LONG-CODE-2".to_owned()), (7, "LONG-CODE-2".to_owned())]);
        run.clear();
        assert!(run.is_empty() && !run.is_full());
    }

    #[test]
    fn full_is_full_though_repeats_were_dropped() {
        let mut run = Run::of(3);
        for number in 0..3 {
            assert!(!run.is_full());
            run.push(row(number, 0, "A"));
        }
        run.sort_and_drop_repeats(&[0], |_| {});
        assert!(run.is_full() && run.rows().len() == 1);
        run.clear();
        assert!(!run.is_full());
    }

    #[test]
    fn groups_are_gathered_in_order() {
        let mut run = Run::default();
        for pushed in [row(1, 1, "C"), row(2, 0, "D"), row(3, 1, "A"), row(4, 0, "B")] {
            run.push(pushed);
        }
        run.sort();
        run.gather_groups();
        assert_eq!(run.rows().map(|row| row.text).collect::<Vec<_>>(), ["B", "D", "A", "C"]);
    }

    #[test]
    fn lookalikes_are_counted() {
        let mut run = Run::default();
        let codes = ["SALE-O1", "SALE-01", "sale-0I", "OTHER", "PLAIN"];
        for (number, code) in (1..).zip(codes) {
            run.push(row(number, 0, code));
        }
        run.push(row(6, 1, "PLAIN"));
        run.sort_and_drop_repeats(&[0, 1], |_| {});
        assert_eq!(run.lookalikes(), Some((2, 2)));
    }

    #[test]
    fn a_prefix_is_less_than_what_it_begins() {
        let mut run = Run::default();
        for pushed in [row(1, 0, "AB"), row(2, 0, "A"), row(3, 0, "ABCDEFGHI"), row(4, 0, "ABCDEFGH")] {
            run.push(pushed);
        }
        run.sort();
        assert_eq!(run.rows().map(|row| row.text).collect::<Vec<_>>(), ["A", "AB", "ABCDEFGH", "ABCDEFGHI"]);
    }

    #[test]
    fn a_shared_beginning_does_not_count() {
        let mut run = Run::default();
        let pushed = ["cust-20", "cust-1", "cust-", "cust-3000000000", "cust-3000000001", "cust-1"];
        for (number, text) in (0..).zip(pushed) {
            run.push(row(number, 0, text));
        }
        run.sort();
        let sorted: Vec<_> = run.rows().map(|row| (row.number, row.text)).collect();
        let expected = [
            (2, "cust-"),
            (1, "cust-1"),
            (5, "cust-1"),
            (0, "cust-20"),
            (3, "cust-3000000000"),
            (4, "cust-3000000001"),
        ];
        assert_eq!(sorted, expected);
        run.clear();
        run.push(row(0, 0, "b"));
        run.push(row(1, 0, "a"));
        run.sort();
        assert_eq!(run.rows().map(|row| row.text).collect::<Vec<_>>(), ["a", "b"]);
    }
}
