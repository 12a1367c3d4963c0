//! When a campaign's batches are due: a cron expression read in the namespace's zone.
//!
//! `cron` alone follows the wall clock: 02:30 is skipped in the night the clocks go forward and comes twice in the night
//! they go back. Here a local time fires once on its date: a time that does not exist fires when the clocks have jumped
//! over it, a time that comes twice fires the first time. A schedule for every hour means "again and again" rather than
//! a time of day, so it simply goes on through both kinds of night.
//!
//! A list belongs to the first firing at or after the instant it was received, however late the daemon learns of it. So
//! missed dates are caught up once each and the oldest first, a long downtime costs nothing but one look per list, and no
//! clock that was wrong for a while leaves a mark.

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use cron::{Schedule, TimeUnitSpec as _};

use crate::bank::window;

/// One firing of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Firing {
    /// When it fires.
    pub at: DateTime<Utc>,
    /// The business date: the local date that the expression named.
    pub date: NaiveDate,
}

/// Wall-clock times looked at for one firing: every second of two days. More than a night's worth never lies before
/// `from`, so the bound is for expressions that no calendar satisfies.
const MOST_TIMES: usize = 2 * 86_400;

/// The first firing of `schedule` at or after `from`; `None` when it never fires again.
#[must_use]
pub fn first_firing(schedule: &Schedule, zone: Tz, from: DateTime<Utc>) -> Option<Firing> {
    if schedule.hours().is_all() {
        first_elapsed(schedule, zone, from)
    } else {
        first_on_the_wall(schedule, zone, from)
    }
}

/// A time of day: each local time fires once.
fn first_on_the_wall(schedule: &Schedule, zone: Tz, from: DateTime<Utc>) -> Option<Firing> {
    // What showed just before `from`, so that a time that the clocks jump over at `from` is not missed.
    let shown = (from - TimeDelta::nanoseconds(1)).with_timezone(&zone).naive_local();
    wall_times(schedule, shown)
        .map(|local| Firing { at: window::instants(local.naive_utc(), zone).0, date: local.date_naive() })
        .find(|firing| firing.at >= from)
}

/// Every hour: within a stretch of one offset it follows the clock, and the next stretch begins with its own clock.
fn first_elapsed(schedule: &Schedule, zone: Tz, mut from: DateTime<Utc>) -> Option<Firing> {
    // A firing is never more than some years ahead, and a year has few changes of the clock.
    for _ in 0..100 {
        let shown = from.with_timezone(&zone).naive_local();
        let ahead = shown - from.naive_utc();
        let local = wall_times(schedule, shown - TimeDelta::nanoseconds(1)).next()?;
        let at = local.checked_sub_signed(ahead)?;
        match window::change_between(from, at, zone) {
            None => return Some(Firing { at, date: local.date_naive() }),
            Some(change) => from = change,
        }
    }
    None
}

/// The wall-clock times after `shown` that the expression names. `cron` sees them as UTC, where no time is left out or
/// repeated.
fn wall_times(schedule: &Schedule, shown: NaiveDateTime) -> impl Iterator<Item = DateTime<Utc>> {
    schedule.after(&shown.and_utc()).take(MOST_TIMES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instant(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(expression: &str, zone: &str, from: &str, expected: &[(&str, &str)]) {
        let schedule: Schedule = expression.parse().unwrap();
        let zone: Tz = zone.parse().unwrap();
        let mut from = instant(from);
        for (at, date) in expected {
            let firing = first_firing(&schedule, zone, from).unwrap();
            assert_eq!(firing, Firing { at: instant(at), date: date.parse().unwrap() }, "{expression} {zone} {from}");
            from = firing.at + TimeDelta::nanoseconds(1);
        }
    }

    #[test]
    fn firings() {
        check(
            "0 0 2 * * *",
            "America/New_York",
            "2026-01-10T07:00:00Z",
            &[("2026-01-10T07:00:00Z", "2026-01-10"), ("2026-01-11T07:00:00Z", "2026-01-11")],
        );
        check("0 0 2 * * *", "UTC", "2026-01-10T02:00:00.5Z", &[("2026-01-11T02:00:00Z", "2026-01-11")]);
        // The time does not exist on 29 March: it fires with the jump.
        check(
            "0 30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            &[("2026-03-29T01:00:00Z", "2026-03-29"), ("2026-03-30T00:30:00Z", "2026-03-30")],
        );
        // The time comes twice on 25 October: it fires the first time.
        check(
            "0 30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            &[("2026-10-25T00:30:00Z", "2026-10-25"), ("2026-10-26T01:30:00Z", "2026-10-26")],
        );
        check("0 30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", &[("2026-10-26T01:30:00Z", "2026-10-26")]);
        // Several a day.
        check(
            "0 0 2,14 * * *",
            "UTC",
            "2026-01-10T02:00:01Z",
            &[("2026-01-10T14:00:00Z", "2026-01-10"), ("2026-01-11T02:00:00Z", "2026-01-11")],
        );
        // Every half hour goes on through the repeated hour.
        check(
            "0 */30 * * * *",
            "Europe/Berlin",
            "2026-10-25T00:10:00Z",
            &[
                ("2026-10-25T00:30:00Z", "2026-10-25"),
                ("2026-10-25T01:00:00Z", "2026-10-25"),
                ("2026-10-25T01:30:00Z", "2026-10-25"),
                ("2026-10-25T02:00:00Z", "2026-10-25"),
            ],
        );
        check("* * * * * *", "Europe/Berlin", "2026-03-29T00:59:59.5Z", &[("2026-03-29T01:00:00Z", "2026-03-29")]);
        // A day that does not exist.
        check(
            "0 0 2 * * *",
            "Pacific/Apia",
            "2011-12-29T12:00:01Z",
            &[("2011-12-30T10:00:00Z", "2011-12-30"), ("2011-12-30T12:00:00Z", "2011-12-31")],
        );
    }

    #[test]
    fn a_schedule_of_the_past_never_fires() {
        let schedule: Schedule = "0 0 2 * * * 2020".parse().unwrap();
        assert_eq!(first_firing(&schedule, Tz::UTC, instant("2026-01-01T00:00:00Z")), None);
        let schedule: Schedule = "0 0 * * * * 2020".parse().unwrap();
        assert_eq!(first_firing(&schedule, Tz::UTC, instant("2026-01-01T00:00:00Z")), None);
    }

    #[test]
    fn every_time_of_every_night_fires_once_a_date() {
        let zones = [
            "UTC",
            "Europe/Berlin",
            "Europe/London",
            "America/New_York",
            "America/Havana",
            "America/St_Johns",
            "Africa/Cairo",
            "Australia/Lord_Howe",
            "Asia/Tehran",
            "Pacific/Chatham",
        ];
        for zone in zones {
            let zone: Tz = zone.parse().unwrap();
            for hour in 0..24 {
                let schedule: Schedule = format!("0 30 {hour} * * *").parse().unwrap();
                let mut from = instant("2025-01-02T12:00:00Z");
                let mut last = first_firing(&schedule, zone, from).unwrap();
                for _ in 0..3 * 365 {
                    from = last.at + TimeDelta::nanoseconds(1);
                    let next = first_firing(&schedule, zone, from).unwrap();
                    assert_eq!(next.date, last.date.succ_opt().unwrap(), "{zone} {hour}:30 after {}", last.at);
                    assert!(next.at > last.at);
                    last = next;
                }
            }
        }
    }
}
