//! Which parts of a file have been written: clients pipeline, and a dropped session can leave a gap. Pure.

/// Byte ranges, sorted, apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extents(Vec<(u64, u64)>);

/// Ranges kept before a file is judged too scattered: an honest client leaves as many as it has requests in flight.
const MOST: usize = 4096;

impl Extents {
    /// A file of `size` bytes without a gap.
    pub(super) fn whole(size: u64) -> Self {
        Self(if size == 0 { Vec::new() } else { vec![(0, size)] })
    }

    /// Adds `[from, to)`. False: too scattered.
    pub(super) fn add(&mut self, from: u64, to: u64) -> bool {
        if from >= to {
            return true;
        }
        // The usual case: the next bytes of the last range.
        if let Some((start, end)) = self.0.last_mut()
            && *start <= from
            && from <= *end
        {
            *end = (*end).max(to);
            return true;
        }
        let first = self.0.partition_point(|(_, end)| *end < from);
        let after = self.0.partition_point(|(start, _)| *start <= to);
        let touched = self.0.get(first..after).unwrap_or_default();
        let start = touched.first().map_or(from, |(start, _)| from.min(*start));
        let end = touched.last().map_or(to, |(_, end)| to.max(*end));
        self.0.splice(first..after.max(first), [(start, end)]);
        self.0.len() <= MOST
    }

    /// The file was cut to `size`.
    pub(super) fn cut(&mut self, size: u64) {
        self.0.retain(|(start, _)| *start < size);
        if let Some((_, end)) = self.0.last_mut() {
            *end = (*end).min(size);
        }
    }

    /// Bytes from the start without a gap.
    pub(super) fn contiguous(&self) -> u64 {
        match self.0.first() {
            Some((0, end)) => *end,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ranges: &[(u64, u64)], expected: &[(u64, u64)], contiguous: u64) {
        let mut extents = Extents::default();
        for (from, to) in ranges {
            assert!(extents.add(*from, *to));
        }
        assert_eq!(extents.0, expected, "{ranges:?}");
        assert_eq!(extents.contiguous(), contiguous, "{ranges:?}");
    }

    #[test]
    fn ranges_merge() {
        check(&[], &[], 0);
        check(&[(0, 10), (10, 20)], &[(0, 20)], 20);
        check(&[(10, 20), (0, 10)], &[(0, 20)], 20);
        check(&[(0, 10), (20, 30)], &[(0, 10), (20, 30)], 10);
        check(&[(0, 10), (20, 30), (10, 20)], &[(0, 30)], 30);
        check(&[(5, 10)], &[(5, 10)], 0);
        check(&[(0, 1), (2, 3), (4, 5), (6, 7), (1, 6)], &[(0, 7)], 7);
        check(&[(0, 10), (2, 5)], &[(0, 10)], 10);
        check(&[(0, 10), (20, 30), (0, 40)], &[(0, 40)], 40);
        check(&[(20, 30), (40, 50), (0, 5)], &[(0, 5), (20, 30), (40, 50)], 5);
        check(&[(3, 3)], &[], 0);
    }

    #[test]
    fn cutting() {
        let mut extents = Extents::whole(100);
        assert!(extents.add(200, 300));
        extents.cut(250);
        assert_eq!(extents.0, [(0, 100), (200, 250)]);
        extents.cut(150);
        assert_eq!(extents.0, [(0, 100)]);
        extents.cut(0);
        assert_eq!(extents, Extents::whole(0));
    }

    #[test]
    fn scattered_writes_end_somewhere() {
        let mut extents = Extents::default();
        let refused = (0..10_000u64).find(|n| !extents.add(n * 10, n * 10 + 1));
        assert_eq!(refused, Some(4096));
    }
}
