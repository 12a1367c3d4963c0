//! Rows of several sources, each in order, as one in order: a tournament, in which a row that is taken is followed by the next
//! of its source, and only what that one meets on its way is compared.
//!
//! Sources are compared by eight bytes mostly, and their texts stay where they are.

use std::cmp::Ordering;
use std::io;

use super::By;
use super::run::{Run, RunRow, prefix};
use super::tape::{Reading, Tape};

/// Rows of one source.
#[derive(Debug)]
pub(super) enum Source {
    Tape(Reading),
    /// With how many of its rows were begun.
    Run(Run, usize),
}

impl Source {
    fn advance(&mut self, tape: &Tape) -> io::Result<bool> {
        match self {
            Self::Tape(reading) => reading.advance(tape),
            Self::Run(run, begun) => {
                *begun += 1;
                Ok(run.row(*begun - 1).is_some())
            }
        }
    }

    /// The row at hand.
    fn row(&self) -> io::Result<Option<RunRow<'_>>> {
        match self {
            Self::Tape(reading) => {
                let (at, rows) = reading.at();
                at.row(rows).map(Some)
            }
            Self::Run(run, begun) => Ok(begun.checked_sub(1).and_then(|at| run.row(at))),
        }
    }

    /// Number and text of the row at hand.
    fn compared(&self) -> (u64, &[u8]) {
        match self {
            Self::Tape(reading) => {
                let (at, rows) = reading.at();
                (at.number, at.bytes(rows))
            }
            Self::Run(run, begun) => {
                let row = begun.checked_sub(1).and_then(|at| run.row(at));
                row.map_or((0, &[]), |row| (row.number, row.text.as_bytes()))
            }
        }
    }
}

/// What a source's row at hand is compared by first.
#[derive(Clone, Copy, Debug)]
struct Key {
    first: u64,
    ended: bool,
}

const ENDED: Key = Key { first: u64::MAX, ended: true };

/// Gives rows in order.
#[derive(Debug)]
pub struct Sorted {
    by: By,
    /// How many bytes all texts begin with in common.
    shared: usize,
    tape: Tape,
    sources: Vec<Source>,
    /// For each source.
    keys: Vec<Key>,
    /// Who lost at each node of the tournament, whose leaves are the sources; at 0 who won it all.
    lost: Vec<usize>,
    begun: bool,
}

impl Sorted {
    pub(super) fn of(by: By, shared: usize, tape: Tape, sources: Vec<Source>) -> io::Result<Self> {
        let keys = vec![ENDED; sources.len()];
        let mut sorted = Self { by, shared, tape, sources, keys, lost: Vec::new(), begun: false };
        for source in 0..sorted.sources.len() {
            sorted.advance(source)?;
        }
        sorted.play();
        Ok(sorted)
    }

    /// The next row; `None` after the last.
    ///
    /// # Errors
    /// What the disk says.
    pub fn next_row(&mut self) -> io::Result<Option<RunRow<'_>>> {
        let Some(mut winner) = self.lost.first().copied() else { return Ok(None) };
        if self.begun {
            self.advance(winner)?;
            winner = self.replay(winner);
        }
        self.begun = true;
        match self.sources.get(winner) {
            Some(source) if !self.key(winner).ended => source.row(),
            _ => Ok(None),
        }
    }

    fn advance(&mut self, source: usize) -> io::Result<()> {
        let (Some(rows), Some(key)) = (self.sources.get_mut(source), self.keys.get_mut(source)) else { return Ok(()) };
        if key.ended && self.begun {
            return Ok(());
        }
        *key = if rows.advance(&self.tape)? {
            let (number, text) = rows.compared();
            let first = match self.by {
                By::Text => prefix(text.get(self.shared..).unwrap_or_default()),
                By::Number => number,
            };
            Key { first, ended: false }
        } else {
            ENDED
        };
        Ok(())
    }

    fn key(&self, source: usize) -> Key {
        self.keys.get(source).copied().unwrap_or(ENDED)
    }

    /// Everyone against everyone.
    fn play(&mut self) {
        let count = self.sources.len();
        // Who came to each node; the leaves are behind the inner nodes.
        let mut won: Vec<usize> = (0..count).chain(0..count).collect();
        self.lost = vec![0; count];
        for node in (1..count).rev() {
            let came = |node: usize| won.get(node).copied().unwrap_or_default();
            let (one, other) = (came(2 * node), came(2 * node + 1));
            let (winner, loser) = if self.is_before(one, other) { (one, other) } else { (other, one) };
            won.get_mut(node).into_iter().for_each(|place| *place = winner);
            self.lost.get_mut(node).into_iter().for_each(|place| *place = loser);
        }
        let winner = won.get(1).copied().unwrap_or_default();
        self.lost.first_mut().into_iter().for_each(|place| *place = winner);
    }

    /// Who comes first now that `source` has another row.
    fn replay(&mut self, source: usize) -> usize {
        let (mut winner, mut node) = (source, (source + self.sources.len()) / 2);
        while node > 0 {
            if let Some(loser) = self.lost.get(node).copied()
                && self.is_before(loser, winner)
            {
                self.lost.get_mut(node).into_iter().for_each(|place| *place = winner);
                winner = loser;
            }
            node /= 2;
        }
        self.lost.first_mut().into_iter().for_each(|place| *place = winner);
        winner
    }

    fn is_before(&self, one: usize, other: usize) -> bool {
        let (key, than) = (self.key(one), self.key(other));
        key.first.cmp(&than.first).then_with(|| self.compare_whole((one, key), (other, than))).is_lt()
    }

    fn compare_whole(&self, (one, key): (usize, Key), (other, than): (usize, Key)) -> Ordering {
        let by_row = || {
            let (Some(one), Some(other)) = (self.sources.get(one), self.sources.get(other)) else {
                return Ordering::Equal;
            };
            let ((number, text), (than, other)) = (one.compared(), other.compared());
            match self.by {
                By::Text => text.cmp(other).then(number.cmp(&than)),
                By::Number => Ordering::Equal,
            }
        };
        key.ended.cmp(&than.ended).then_with(by_row).then(one.cmp(&other))
    }
}
