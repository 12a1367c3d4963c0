//! Which lots serve a need: earliest end date first, no end date last, then by upload; within a lot what came back first.

use chrono::NaiveDate;

use super::stock::{Lot, Queue};

/// What one lot gives to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The lot.
    pub lot_id: i32,
    /// Which of its codes.
    pub queue: Queue,
    /// Where the queue's untouched codes begin.
    pub next: i32,
    /// How many of those are redeemed and will be skipped.
    pub redeemed: i32,
    /// How many codes it gives.
    pub take: u64,
    /// How many customers earlier lots serve.
    pub served_before: u64,
}

impl Part {
    /// The first place that cannot be reached: behind the codes taken and all redeemed ones that may lie among them.
    #[must_use]
    pub fn reach(&self) -> i64 {
        i64::from(self.next) + i64::try_from(self.take).unwrap_or(i64::MAX) + i64::from(self.redeemed)
    }
}

/// How `need` codes are split over `lots`. Serves less where the open lots have less.
#[must_use]
pub fn split(lots: &[Lot], need: u64, open_on: NaiveDate) -> Vec<Part> {
    let mut ordered: Vec<&Lot> = lots.iter().collect();
    ordered.sort_by_key(|lot| (lot.end_date.is_none(), lot.end_date, lot.upload_id, lot.id));
    let mut served = 0;
    let mut parts = Vec::new();
    for lot in ordered {
        if lot.remaining(open_on) == 0 {
            continue;
        }
        let queues = [
            (Queue::Returned, lot.next_return, lot.returns_redeemed),
            (Queue::Fresh, lot.next_seq, lot.redeemed_ahead),
        ];
        for (queue, next, redeemed) in queues {
            let take = lot.waiting(queue).min(need - served);
            if take > 0 {
                parts.push(Part { lot_id: lot.id, queue, next, redeemed, take, served_before: served });
                served += take;
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lot(id: i32, end_date: Option<&str>, remaining: i32) -> Lot {
        let end_date = end_date.map(|date| date.parse().unwrap());
        let upload_id = i64::from(id);
        Lot { id, upload_id, end_date, size: remaining + 5, next_seq: 3, redeemed_ahead: 2, ..Lot::default() }
    }

    #[track_caller]
    fn check(lots: &[Lot], need: u64, expected: &[(i32, u64)]) {
        let parts = split(lots, need, "2026-03-02".parse().unwrap());
        let taken: Vec<_> = parts.iter().map(|part| (part.lot_id, part.take)).collect();
        assert_eq!(taken, expected);
        let mut served = 0;
        for part in parts {
            assert_eq!(part.served_before, served);
            served += part.take;
        }
    }

    #[test]
    fn the_order_of_uploads_not_of_ids() {
        let lots = [Lot { upload_id: 8, ..lot(1, None, 10) }, Lot { upload_id: 7, ..lot(2, None, 10) }];
        check(&lots, 15, &[(2, 10), (1, 5)]);
    }

    #[test]
    fn earliest_end_date_first() {
        let lots = [
            lot(1, None, 10),
            lot(2, Some("2026-04-01"), 10),
            lot(3, Some("2026-03-02"), 10),
            lot(4, Some("2026-04-01"), 10),
            lot(5, Some("2026-03-01"), 10),
            Lot { void: true, ..lot(6, Some("2026-03-02"), 10) },
        ];
        check(&lots, 0, &[]);
        check(&lots, 10, &[(3, 10)]);
        check(&lots, 25, &[(3, 10), (2, 10), (4, 5)]);
        check(&lots, 40, &[(3, 10), (2, 10), (4, 10), (1, 10)]);
        check(&lots, 99, &[(3, 10), (2, 10), (4, 10), (1, 10)]);
        check(&[], 5, &[]);
    }

    #[test]
    fn what_came_back_first() {
        let lots = [
            Lot { returns: 5, next_return: 1, returns_redeemed: 1, ..lot(1, None, 10) },
            Lot { returns: 2, ..lot(2, Some("2026-04-01"), 3) },
            Lot { returns: 2, ..lot(3, Some("2026-03-01"), 3) },
        ];
        check(&lots, 1, &[(2, 1)]);
        check(&lots, 4, &[(2, 2), (2, 2)]);
        check(&lots, 99, &[(2, 2), (2, 3), (1, 3), (1, 10)]);
        let parts = split(&lots, 99, "2026-03-02".parse().unwrap());
        let third = parts.get(2).map(|part| (part.queue, part.next, part.redeemed, part.reach()));
        assert_eq!(third, Some((Queue::Returned, 1, 1, 1 + 3 + 1)));
    }

    #[test]
    fn a_part_reaches_over_what_it_may_skip() {
        let parts = split(&[lot(1, None, 10)], 4, "2026-03-02".parse().unwrap());
        assert_eq!(parts.first().map(Part::reach), Some(3 + 4 + 2));
    }
}
