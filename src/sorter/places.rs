//! Rows that each have a place of their own in a list whose length is known: put in order without comparing them.
//!
//! The list is cut into stretches. Each has a buffer, which goes to disk, sealed, whenever it is full; all buffers together
//! are small. Stretches are then read one by one, and their rows found by place. A list of one stretch stays in memory.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use super::ahead::Ahead;
use super::run::RunRow;
use super::tape::{HEAD, Packed, Sealed, damaged, pack};

/// A stretch has at least so many places: while one is gone through, and the next is read, both are in memory, and
/// most processors have room for the rows of one close at hand.
const PLACES_LEAST: u64 = 16 * 1024;
/// So many stretches at most, which have longer ones in very long lists.
const STRETCHES_MOST: u64 = 2_048;
/// Bytes of all buffers, and of one.
const BUFFERS: usize = 8 << 20;
const BUFFER_MOST: usize = 32 << 10;

/// Takes rows in any order; a row's number is its place, from 0.
#[derive(Debug)]
pub struct Placing {
    directory: PathBuf,
    /// A stretch has two to the power of this many places.
    bits: u32,
    buffer: usize,
    stretches: VecDeque<Stretch>,
    sealed: Option<Sealed>,
}

/// Rows of some places, packed: those in memory, and the blocks on disk that have those before.
#[derive(Debug, Default)]
struct Stretch {
    rows: Vec<u8>,
    blocks: Vec<usize>,
}

impl Placing {
    /// For a list of `count` places. What does not fit into memory goes to `directory`, into a file that has no name.
    #[must_use]
    pub fn new(directory: &Path, count: u64) -> Self {
        Self::with(directory, count, PLACES_LEAST.max(count.div_ceil(STRETCHES_MOST)))
    }

    fn with(directory: &Path, count: u64, places: u64) -> Self {
        let bits = places.next_power_of_two().trailing_zeros();
        let stretches = usize::try_from(count.div_ceil(1 << bits)).unwrap_or(usize::MAX);
        let buffer = (BUFFERS / stretches.max(1)).min(BUFFER_MOST);
        let stretches = (0..stretches).map(|_| Stretch::default()).collect();
        Self { directory: directory.to_owned(), bits, buffer, stretches, sealed: None }
    }

    /// Puts a row into its place.
    ///
    /// # Errors
    /// What the disk says; and when the list has no such place.
    pub fn push(&mut self, row: RunRow<'_>) -> io::Result<()> {
        let beyond = || io::Error::other("a row beyond the end of its list");
        let only = self.stretches.len() == 1;
        let stretch = usize::try_from(row.number >> self.bits).ok().and_then(|stretch| self.stretches.get_mut(stretch));
        let stretch = stretch.ok_or_else(beyond)?;
        if stretch.rows.capacity() == 0 {
            stretch.rows.reserve_exact(self.buffer + self.buffer / 8);
        }
        pack(&mut stretch.rows, row)?;
        if stretch.rows.len() < self.buffer || only {
            return Ok(());
        }
        let sealed = match &mut self.sealed {
            Some(sealed) => sealed,
            none => none.insert(Sealed::create(&self.directory)?),
        };
        stretch.blocks.push(sealed.append(&mut stretch.rows)?);
        Ok(())
    }

    /// The rows in order.
    ///
    /// # Errors
    /// What the disk says.
    pub fn placed(self) -> io::Result<Placed> {
        let Self { bits, mut stretches, sealed, .. } = self;
        let (mut first, mut scratch) = (0, Vec::new());
        let mut next = move || {
            let Some(stretch) = stretches.pop_front() else { return Ok(None) };
            let in_order = InOrder::of(stretch, sealed.as_ref(), (first, 1 << bits), &mut scratch)?;
            first += 1 << bits;
            Ok(Some(in_order))
        };
        let now = next()?.unwrap_or_default();
        Ok(Placed { now, ahead: Ahead::of(next)? })
    }
}

/// The rows of a stretch by place: their texts as one, so that it is looked at once whether they are text.
#[derive(Debug, Default)]
struct InOrder {
    rows: Vec<InPlace>,
    text: String,
    /// How many rows were given out, and where the text of the last ends.
    given: (usize, usize),
}

#[derive(Clone, Copy, Debug)]
struct InPlace {
    number: u64,
    group: u32,
    /// Where its text ends.
    end: u32,
}

const NOWHERE: u32 = u32::MAX;

impl InOrder {
    /// `first` and `count`: the stretch's places.
    fn of(
        stretch: Stretch,
        sealed: Option<&Sealed>,
        (first, count): (u64, usize),
        scratch: &mut Vec<u8>,
    ) -> io::Result<Self> {
        let packed = stretch.read(sealed, scratch)?;
        // Where the row of each place begins.
        let (mut starts, mut start, mut found) = (vec![NOWHERE; count], 0, 0);
        while start < packed.len() {
            let row = Packed::at(&packed, start).ok_or_else(damaged)?;
            let place = row.number.checked_sub(first).and_then(|place| usize::try_from(place).ok());
            match place.and_then(|place| starts.get_mut(place)) {
                Some(free) if *free == NOWHERE => *free = u32::try_from(start).map_err(io::Error::other)?,
                _ => return Err(io::Error::other("two rows for one place of a list")),
            }
            start = row.end;
            found += 1;
        }
        let (mut rows, mut text) = (Vec::with_capacity(found), Vec::with_capacity(packed.len() - found * HEAD));
        for start in starts.into_iter().filter(|start| *start != NOWHERE) {
            let row = Packed::at(&packed, start as usize).ok_or_else(damaged)?;
            text.extend_from_slice(row.bytes(&packed));
            let end = u32::try_from(text.len()).map_err(io::Error::other)?;
            rows.push(InPlace { number: row.number, group: row.group, end });
        }
        Ok(Self { rows, text: String::from_utf8(text).map_err(|_| damaged())?, given: (0, 0) })
    }

    fn next_row(&mut self) -> io::Result<Option<RunRow<'_>>> {
        let (given, start) = self.given;
        let Some(row) = self.rows.get(given) else { return Ok(None) };
        self.given = (given + 1, row.end as usize);
        let text = self.text.get(start..row.end as usize).ok_or_else(damaged)?;
        Ok(Some(RunRow { number: row.number, group: row.group, text }))
    }

    fn is_done(&self) -> bool {
        self.given.0 == self.rows.len()
    }
}

impl Stretch {
    /// All of its rows, packed; `scratch` is for blocks on their way.
    fn read(self, sealed: Option<&Sealed>, scratch: &mut Vec<u8>) -> io::Result<Vec<u8>> {
        let Some(sealed) = sealed.filter(|_| !self.blocks.is_empty()) else { return Ok(self.rows) };
        let mut rows = Vec::with_capacity((self.blocks.len() + 1) * self.rows.capacity());
        for block in self.blocks {
            if !sealed.read(block, scratch)? {
                return Err(damaged());
            }
            rows.extend_from_slice(scratch);
        }
        rows.extend_from_slice(&self.rows);
        Ok(rows)
    }
}

/// Gives rows in order of their places; who reads them notices a place that has none.
#[derive(Debug)]
pub struct Placed {
    now: InOrder,
    ahead: Ahead<InOrder>,
}

impl Placed {
    /// The next row; `None` after the last.
    ///
    /// # Errors
    /// What the disk says; and when a place has two.
    pub fn next_row(&mut self) -> io::Result<Option<RunRow<'_>>> {
        while self.now.is_done() {
            match self.ahead.next()? {
                Some(next) => self.now = next,
                None => return Ok(None),
            }
        }
        self.now.next_row()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rows = Vec<(u64, u32, String)>;

    fn placed(count: u64, places: u64, numbers: impl Iterator<Item = u64>) -> io::Result<Rows> {
        let directory = tempfile::tempdir()?;
        let mut placing = Placing::with(directory.path(), count, places);
        // So that rows go to disk although there are few.
        placing.buffer = 64;
        for number in numbers {
            placing.push(RunRow { number, group: 7, text: &format!("row {number} ü") })?;
        }
        let (mut placed, mut found) = (placing.placed()?, Vec::new());
        while let Some(row) = placed.next_row()? {
            found.push((row.number, row.group, row.text.to_owned()));
        }
        assert!(placed.next_row()?.is_none());
        assert_eq!(std::fs::read_dir(directory.path())?.count(), 0, "a file with a name");
        Ok(found)
    }

    #[track_caller]
    fn check(count: u64, places: u64) {
        let expected: Rows = (0..count).map(|number| (number, 7, format!("row {number} ü"))).collect();
        assert_eq!(placed(count, places, (0..count).rev()).unwrap(), expected, "{count} {places}");
        // 7,919 is a prime, so that each number comes once.
        let mixed = (0..count).map(|number| number * 7_919 % count);
        assert_eq!(placed(count, places, mixed).unwrap(), expected, "{count} {places}");
    }

    #[test]
    fn every_row_in_its_place() {
        for count in [0, 1, 2, 15, 16, 17, 31, 32, 33, 1_000] {
            check(count, 16);
        }
        check(1_000, 1);
        check(1_000, 1_024);
    }

    #[test]
    fn a_place_without_a_row_is_passed_over() {
        let numbers = |rows: Rows| rows.into_iter().map(|row| row.0).collect::<Vec<u64>>();
        assert_eq!(numbers(placed(40, 8, [39, 7, 20].into_iter()).unwrap()), [7, 20, 39]);
        assert_eq!(numbers(placed(40, 64, [39, 7].into_iter()).unwrap()), [7, 39]);
        assert!(placed(40, 8, std::iter::empty()).unwrap().is_empty());
    }

    #[test]
    fn a_place_taken_twice_or_not_there_is_an_error() {
        for places in [8, 64] {
            for twice in [0, 7, 8, 39] {
                let error = placed(40, places, (0..40).chain([twice])).unwrap_err();
                assert_eq!(error.to_string(), "two rows for one place of a list");
            }
            assert!(placed(40, places, [64, u64::MAX].into_iter()).is_err());
        }
        assert!(placed(0, 8, [0].into_iter()).is_err());
    }

    #[test]
    fn very_long_lists_have_longer_stretches() {
        let directory = tempfile::tempdir().unwrap();
        let of = |count| {
            let placing = Placing::new(directory.path(), count);
            (placing.stretches.len(), 1_u64 << placing.bits, placing.buffer)
        };
        assert_eq!(of(1), (1, 16_384, BUFFER_MOST));
        assert_eq!(of(16_384), (1, 16_384, BUFFER_MOST));
        assert_eq!(of(16_385), (2, 16_384, BUFFER_MOST));
        assert_eq!(of(100_000_000), (1_526, 65_536, BUFFERS / 1_526));
    }

    #[test]
    fn what_the_disk_says_comes_out() {
        let mut placing = Placing::with(Path::new("/nowhere/at/all"), 40, 8);
        placing.buffer = 1;
        let pushed = placing.push(RunRow { number: 1, group: 0, text: "y" });
        assert_eq!(pushed.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn who_has_enough_lets_the_rest_go() {
        let directory = tempfile::tempdir().unwrap();
        let mut placing = Placing::with(directory.path(), 1_000, 8);
        placing.buffer = 64;
        (0..1_000).for_each(|number| placing.push(RunRow { number, group: 0, text: "x" }).unwrap());
        let mut placed = placing.placed().unwrap();
        assert_eq!(placed.next_row().unwrap().map(|row| row.number), Some(0));
        drop(placed);
    }
}
