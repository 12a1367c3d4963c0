//! What must hold before a batch may look at its list: fresh redemptions, and a bank that has changed since it was short.

use chrono::{DateTime, TimeDelta, Utc};

use crate::config::{RedemptionFeed, WhenStale};

/// What the freshness of redemptions says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Go on.
    Fresh,
    /// Go on, and say so.
    Stale,
    /// Wait for a redemption file.
    Wait,
}

/// Judges the newest redemption file, received at `as_of`, for a batch on a bank that is `persistent` or not.
pub(super) fn freshness(
    feed: &RedemptionFeed,
    persistent: bool,
    as_of: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Freshness {
    let Some(max_age) = feed.max_age.filter(|_| persistent) else { return Freshness::Fresh };
    // A setting beyond what a time can express is never exceeded.
    let max_age = TimeDelta::from_std(max_age).unwrap_or(TimeDelta::MAX);
    match as_of {
        Some(as_of) if now - as_of <= max_age => Freshness::Fresh,
        _ if feed.when_stale == WhenStale::Wait => Freshness::Wait,
        _ => Freshness::Stale,
    }
}

/// A waiting batch looks at its list again only when that may help: every so many claims, or when stock has changed since
/// it was found short. The list may hold millions of rows, and retries come every few seconds.
pub(super) fn worth_a_look(compared: Option<(i64, i64)>, stock: u64, fence: i64) -> bool {
    const EVERY_CLAIMS: i64 = 120;
    match compared {
        Some((need, before)) => {
            let stock = i64::try_from(stock).unwrap_or(i64::MAX);
            stock != before || stock >= need || fence % EVERY_CLAIMS == 0
        }
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn check(max_age: Option<u64>, when_stale: WhenStale, persistent: bool, age: Option<i64>, expected: Freshness) {
        let feed = RedemptionFeed { expected_by: None, max_age: max_age.map(Duration::from_secs), when_stale };
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let as_of = age.map(|age| now - TimeDelta::seconds(age));
        assert_eq!(freshness(&feed, persistent, as_of, now), expected, "{age:?}");
    }

    #[test]
    fn fresh_or_stale() {
        check(None, WhenStale::Wait, true, None, Freshness::Fresh);
        check(Some(60), WhenStale::Wait, true, Some(60), Freshness::Fresh);
        check(Some(60), WhenStale::Wait, true, Some(61), Freshness::Wait);
        check(Some(60), WhenStale::Wait, true, None, Freshness::Wait);
        check(Some(60), WhenStale::Warn, true, Some(61), Freshness::Stale);
        check(Some(60), WhenStale::Wait, false, Some(61), Freshness::Fresh);
        check(Some(u64::MAX), WhenStale::Wait, true, Some(61), Freshness::Fresh);
    }

    #[test]
    fn a_short_batch_looks_when_stock_has_changed() {
        assert!(worth_a_look(None, 0, 1));
        assert!(!worth_a_look(Some((10, 4)), 4, 1));
        assert!(worth_a_look(Some((10, 4)), 5, 1));
        assert!(worth_a_look(Some((10, 4)), 4, 240));
    }
}
