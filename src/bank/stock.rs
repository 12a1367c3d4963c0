//! Remaining codes: one predicate for counts, alerts, preflight and draw.

use chrono::NaiveDate;

use super::window;

/// The counters of one lot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lot {
    /// Its id.
    pub id: i32,
    /// The upload that brought it.
    pub upload_id: i64,
    /// Last local day on which its codes may be handed out.
    pub end_date: Option<NaiveDate>,
    /// How many codes it has.
    pub size: i32,
    /// The first place that is not handed out.
    pub next_seq: i32,
    /// Codes from `next_seq` on that are redeemed already.
    pub redeemed_ahead: i32,
    /// How many of its codes ever came back to stock: a second queue beside the first.
    pub returns: i32,
    /// The first place of that queue that is not handed out again.
    pub next_return: i32,
    /// Returned codes from `next_return` on that are redeemed already.
    pub returns_redeemed: i32,
    /// Whether its upload was undone.
    pub void: bool,
}

impl Lot {
    /// Codes that can still be handed out: not handed out, not redeemed, not void, window open.
    #[must_use]
    pub fn remaining(&self, open_on: NaiveDate) -> u64 {
        if self.void || !window::is_open(self.end_date, open_on) {
            return 0;
        }
        self.waiting(Queue::Returned) + self.waiting(Queue::Fresh)
    }

    /// Codes of one queue that are not redeemed, whether or not the lot is open.
    #[must_use]
    pub fn waiting(&self, queue: Queue) -> u64 {
        let (length, next, redeemed) = match queue {
            Queue::Returned => (self.returns, self.next_return, self.returns_redeemed),
            Queue::Fresh => (self.size, self.next_seq, self.redeemed_ahead),
        };
        u64::try_from(i64::from(length) - i64::from(next) - i64::from(redeemed)).unwrap_or(0)
    }
}

/// The two queues of a lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Codes that came back: handed out again first.
    Returned,
    /// Codes that were never handed out.
    Fresh,
}

/// Codes that a whole bank can still hand out.
#[must_use]
pub fn remaining(lots: &[Lot], open_on: NaiveDate) -> u64 {
    lots.iter().map(|lot| lot.remaining(open_on)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lot(end_date: Option<&str>, size: i32, next_seq: i32, redeemed_ahead: i32) -> Lot {
        let end_date = end_date.map(|date| date.parse().unwrap());
        Lot { id: 1, end_date, size, next_seq, redeemed_ahead, ..Lot::default() }
    }

    #[track_caller]
    fn check(lot: &Lot, expected: u64) {
        assert_eq!(lot.remaining("2026-03-02".parse().unwrap()), expected, "{lot:?}");
    }

    #[test]
    fn what_remains() {
        check(&lot(None, 100, 0, 0), 100);
        check(&lot(None, 100, 40, 7), 53);
        check(&lot(None, 100, 93, 7), 0);
        check(&lot(Some("2026-03-02"), 100, 40, 0), 60);
        check(&lot(Some("2026-03-01"), 100, 40, 0), 0);
        check(&Lot { void: true, ..lot(None, 100, 40, 0) }, 0);
        check(&Lot { returns: 9, next_return: 4, returns_redeemed: 2, ..lot(None, 100, 40, 7) }, 56);
        check(&Lot { returns: 9, ..lot(Some("2026-03-01"), 100, 40, 0) }, 0);
        check(&Lot { returns: 9, void: true, ..lot(None, 100, 40, 0) }, 0);
    }

    #[test]
    fn a_bank_is_the_sum_of_its_open_lots() {
        let lots = [lot(None, 10, 1, 2), lot(Some("2026-03-01"), 10, 0, 0), lot(Some("2026-03-09"), 10, 0, 0)];
        assert_eq!(remaining(&lots, "2026-03-02".parse().unwrap()), 17);
    }
}
