//! What must hold before a batch may look at its list: fresh redemptions, and a bank that has changed since it was short.

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;

use crate::bank::window;
use crate::config::{RedemptionFeed, SkippedDays, WhenStale};

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

/// Judges the newest redemption file, received at `as_of`, for a batch on a bank that is `persistent` or not. On a skipped
/// day of `zone` nothing waits for a file that nobody sends; nor does what was skipped make redemptions older.
pub(super) fn freshness(
    feed: &RedemptionFeed,
    persistent: bool,
    as_of: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    zone: Tz,
) -> Freshness {
    let Some(max_age) = feed.max_age.filter(|_| persistent) else { return Freshness::Fresh };
    // A setting beyond what a time can express is never exceeded.
    let max_age = TimeDelta::from_std(max_age).unwrap_or(TimeDelta::MAX);
    match as_of {
        Some(as_of) if now - as_of - skipped_between(&feed.skipped, as_of, now, zone) <= max_age => Freshness::Fresh,
        _ if feed.when_stale == WhenStale::Wait && !feed.skipped.contains(now.with_timezone(&zone).date_naive()) => {
            Freshness::Wait
        }
        _ => Freshness::Stale,
    }
}

/// How much of the time between two instants lies in skipped days.
fn skipped_between(skipped: &SkippedDays, from: DateTime<Utc>, until: DateTime<Utc>, zone: Tz) -> TimeDelta {
    if skipped.is_empty() {
        return TimeDelta::zero();
    }
    let last = until.with_timezone(&zone).date_naive();
    let within = |date: NaiveDate| {
        let begin = date.checked_sub_days(Days::new(1)).map_or(from, |before| window::end(before, zone));
        (window::end(date, zone).min(until) - begin.max(from)).max(TimeDelta::zero())
    };
    let days = from.with_timezone(&zone).date_naive().iter_days().take_while(|date| *date <= last);
    days.filter(|date| skipped.contains(*date)).map(within).sum()
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

    use chrono::Weekday;

    use super::*;

    #[track_caller]
    fn check(max_age: Option<u64>, when_stale: WhenStale, persistent: bool, age: Option<i64>, expected: Freshness) {
        let feed =
            RedemptionFeed { max_age: max_age.map(Duration::from_secs), when_stale, ..RedemptionFeed::default() };
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let as_of = age.map(|age| now - TimeDelta::seconds(age));
        assert_eq!(freshness(&feed, persistent, as_of, now, Tz::UTC), expected, "{age:?}");
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

    #[track_caller]
    fn check_skipped(as_of: &str, now: &str, expected: Freshness) {
        let skipped =
            SkippedDays { weekdays: vec![Weekday::Sat, Weekday::Sun], dates: ["2026-12-25".parse().unwrap()].into() };
        let feed = RedemptionFeed {
            max_age: Some(Duration::from_secs(36 * 3_600)),
            when_stale: WhenStale::Wait,
            skipped,
            ..RedemptionFeed::default()
        };
        let (as_of, at) = (as_of.parse().unwrap(), now.parse().unwrap());
        assert_eq!(freshness(&feed, true, Some(as_of), at, Tz::America__New_York), expected, "{as_of} {now}");
    }

    /// Fridays are 6 and 27 November, 18 and 25 December 2026; New York is at UTC-5.
    #[test]
    fn skipped_days_do_not_make_redemptions_older() {
        // Friday 06:00 to Monday: 18 hours of Friday, then Monday's.
        check_skipped("2026-11-06T11:00:00Z", "2026-11-09T05:00:00Z", Freshness::Fresh);
        check_skipped("2026-11-06T11:00:00Z", "2026-11-09T23:00:00Z", Freshness::Fresh);
        check_skipped("2026-11-06T11:00:00Z", "2026-11-09T23:00:01Z", Freshness::Wait);
        // Friday's did not come: it is stale, but nobody sends one on Saturday or Sunday.
        check_skipped("2026-11-05T11:00:00Z", "2026-11-07T04:59:59Z", Freshness::Wait);
        check_skipped("2026-11-05T11:00:00Z", "2026-11-07T05:00:00Z", Freshness::Stale);
        check_skipped("2026-11-05T11:00:00Z", "2026-11-09T04:59:59Z", Freshness::Stale);
        check_skipped("2026-11-05T11:00:00Z", "2026-11-09T05:00:00Z", Freshness::Wait);
        // One that came on a Saturday ages from Monday on.
        check_skipped("2026-11-07T20:00:00Z", "2026-11-10T17:00:00Z", Freshness::Fresh);
        check_skipped("2026-11-07T20:00:00Z", "2026-11-10T17:00:01Z", Freshness::Wait);
        // A holiday that is a Friday: Thursday's file is good until Monday evening.
        check_skipped("2026-12-24T11:00:00Z", "2026-12-28T23:00:00Z", Freshness::Fresh);
        check_skipped("2026-12-24T11:00:00Z", "2026-12-28T23:00:01Z", Freshness::Wait);
        // On the Sunday on which the clocks go forward the day has 23 hours.
        check_skipped("2026-03-06T11:00:00Z", "2026-03-09T22:00:00Z", Freshness::Fresh);
        check_skipped("2026-03-06T11:00:00Z", "2026-03-09T22:00:01Z", Freshness::Wait);
    }

    #[test]
    fn a_short_batch_looks_when_stock_has_changed() {
        assert!(worth_a_look(None, 0, 1));
        assert!(!worth_a_look(Some((10, 4)), 4, 1));
        assert!(worth_a_look(Some((10, 4)), 5, 1));
        assert!(worth_a_look(Some((10, 4)), 4, 240));
    }
}
