//! A run: as many rows of a coupon file as fit into a fixed amount of memory, sorted by code and deduplicated before they
//! go to the store. An upload is dominated by index inserts, and those are cheap in order; a file larger than one run
//! goes in several, each in order. Pure.

/// Rows of one run.
const ROWS_MOST: usize = 1_000_000;
/// Bytes of codes of one run.
const TEXT_MOST: usize = 24 << 20;

/// Rows in memory, sorted on demand.
#[derive(Debug, Default)]
pub(super) struct Run {
    text: Vec<u8>,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    /// The first eight bytes of the code, so that most comparisons need no look at the text.
    prefix: u64,
    line: u64,
    start: usize,
    length: u32,
    lot_key: u32,
}

/// One row of a sorted run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunRow<'r> {
    pub(super) line: u64,
    pub(super) lot_key: u32,
    pub(super) code: &'r str,
}

impl Run {
    /// Adds a row.
    pub(super) fn push(&mut self, row: RunRow<'_>) {
        let code = row.code.as_bytes();
        let mut first = [0; 8];
        first.iter_mut().zip(code).for_each(|(to, from)| *to = *from);
        self.rows.push(Row {
            prefix: u64::from_be_bytes(first),
            line: row.line,
            start: self.text.len(),
            length: u32::try_from(code.len()).unwrap_or(u32::MAX),
            lot_key: row.lot_key,
        });
        self.text.extend_from_slice(code);
    }

    /// Whether the next row belongs to the next run.
    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= ROWS_MOST || self.text.len() >= TEXT_MOST
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Makes room for the next run; keeps the memory.
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.text.clear();
    }

    /// Sorts by code and keeps the first line of each code in each bank; `bank_of` gives the bank of a lot key. What is
    /// dropped goes to `dropped`, in the order of codes.
    pub(super) fn sort(&mut self, bank_of: &[usize], mut dropped: impl FnMut(RunRow<'_>)) {
        let text = &self.text;
        let bank = |row: &Row| bank_of.get(row.lot_key as usize).copied().unwrap_or(usize::MAX);
        self.rows.sort_unstable_by(|one, other| {
            (one.prefix.cmp(&other.prefix))
                .then_with(|| code(text, one).cmp(code(text, other)))
                .then_with(|| bank(one).cmp(&bank(other)))
                .then(one.line.cmp(&other.line))
        });
        self.rows.dedup_by(|later, kept| {
            let same =
                later.prefix == kept.prefix && code(text, later) == code(text, kept) && bank(later) == bank(kept);
            if same {
                dropped(RunRow { line: later.line, lot_key: later.lot_key, code: code(text, later) });
            }
            same
        });
    }

    /// How many codes look like another code of the run (case, O and 0, I and 1), and the first line of such a one. The
    /// rows must be sorted.
    pub(super) fn lookalikes(&self) -> Option<(u64, u64)> {
        let mut folded: Vec<(u64, &Row)> = Vec::with_capacity(self.rows.len());
        let mut last: Option<&Row> = None;
        for row in &self.rows {
            // The same code in another bank is no lookalike.
            if last.is_none_or(|last| code(&self.text, last) != code(&self.text, row)) {
                folded.push((fold(code(&self.text, row)), row));
            }
            last = Some(row);
        }
        folded.sort_unstable_by_key(|(hash, row)| (*hash, row.line));
        let alike = |one: &&[(u64, &Row)]| one.len() > 1;
        let groups = || folded.chunk_by(|one, other| one.0 == other.0).filter(alike);
        let count: usize = groups().map(|group| group.len() - 1).sum();
        let first = groups().filter_map(|group| group.get(1)).map(|(_, row)| row.line).min()?;
        Some((count as u64, first))
    }

    /// The rows as they lie.
    pub(super) fn rows(&self) -> impl ExactSizeIterator<Item = RunRow<'_>> {
        self.rows.iter().map(|row| RunRow { line: row.line, lot_key: row.lot_key, code: code(&self.text, row) })
    }
}

/// A hash (FNV-1a) of the code as a hasty eye reads it.
fn fold(code: &str) -> u64 {
    code.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        let seen = match byte.to_ascii_uppercase() {
            b'O' => b'0',
            b'I' => b'1',
            other => other,
        };
        (hash ^ u64::from(seen)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The code of a row; it was pushed as text, so it is.
fn code<'r>(text: &'r [u8], row: &Row) -> &'r str {
    let bytes = text.get(row.start..row.start + row.length as usize).unwrap_or_default();
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: u64, lot_key: u32, code: &str) -> RunRow<'_> {
        RunRow { line, lot_key, code }
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
        run.sort(&bank_of, |row| dropped.push((row.line, row.code.to_owned())));
        let kept: Vec<_> = run.rows().map(|row| (row.line, row.lot_key, row.code)).collect();
        assert_eq!(
            kept,
            [(6, 0, "A"), (3, 0, "LONG-CODE-1"), (4, 1, "LONG-CODE-1"), (2, 0, "LONG-CODE-2"), (8, 0, "a")]
        );
        assert_eq!(dropped, [(5, "LONG-CODE-2".to_owned()), (7, "LONG-CODE-2".to_owned())]);
        run.clear();
        assert!(run.is_empty() && !run.is_full());
    }

    #[test]
    fn lookalikes_are_counted() {
        let mut run = Run::default();
        let codes = ["SALE-O1", "SALE-01", "sale-0I", "OTHER", "PLAIN"];
        for (line, code) in (1..).zip(codes) {
            run.push(row(line, 0, code));
        }
        run.push(row(6, 1, "PLAIN"));
        run.sort(&[0, 1], |_| {});
        assert_eq!(run.lookalikes(), Some((2, 2)));
    }

    #[test]
    fn a_prefix_is_less_than_what_it_begins() {
        let mut run = Run::default();
        for pushed in [row(1, 0, "AB"), row(2, 0, "A"), row(3, 0, "ABCDEFGHI"), row(4, 0, "ABCDEFGH")] {
            run.push(pushed);
        }
        run.sort(&[0], |_| {});
        assert_eq!(run.rows().map(|row| row.code).collect::<Vec<_>>(), ["A", "AB", "ABCDEFGH", "ABCDEFGHI"]);
    }
}
