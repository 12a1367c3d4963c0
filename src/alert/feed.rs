//! The daily redemption file: late, and arrived late.
//!
//! A file belongs to the next deadline after it, unless the last deadline was missed and it comes within hours of that:
//! then it is the late one, and the next day still expects its own. Days are looked at in order, because whether a file
//! was late depends on the file before. On skipped days none is expected: a file that comes on one is the late one of the
//! day before, or an extra one, and never stands for the next day.

use std::collections::BTreeMap;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::kinds::{Alert, Change};
use crate::bank::window;
use crate::config::SkippedDays;

/// How late a file may be and not count for the next day.
const LATE_MOST: TimeDelta = TimeDelta::hours(6);
/// How many days are looked at; what is alerted is about the last two.
const DAYS: u64 = 8;
/// How long a day is remembered.
const REMEMBERED: TimeDelta = TimeDelta::days(30);
/// Under this subject stands since when a file is expected.
const SINCE: &str = "redemptions_late/since";

/// A namespace's redemption feed.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// Local time by which a file is expected.
    pub expected_by: NaiveTime,
    /// How long after it a file is not called late yet.
    pub grace: TimeDelta,
    /// Days on which none is expected.
    pub skipped: &'a SkippedDays,
    /// The namespace's zone.
    pub zone: Tz,
    /// When files came, oldest first, from [`Feed::look_back`] on.
    pub arrivals: &'a [DateTime<Utc>],
    /// When the newest applied one came.
    pub newest: Option<DateTime<Utc>>,
}

/// What is remembered: level and since when, by subject.
pub type Memory = BTreeMap<String, (i32, DateTime<Utc>)>;

/// What became of one day's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Day {
    /// Nobody expected one yet.
    Free,
    InTime,
    Missing,
    Late(DateTime<Utc>),
}

impl Feed<'_> {
    /// From when on arrivals matter.
    #[must_use]
    pub fn look_back(now: DateTime<Utc>) -> DateTime<Utc> {
        now - TimeDelta::days(DAYS as i64 + 3)
    }

    fn deadline(&self, date: NaiveDate) -> DateTime<Utc> {
        window::instants(date.and_time(self.expected_by), self.zone).0
    }

    /// Judges the last two days whose time has come.
    #[must_use]
    pub fn judge(&self, remembered: &Memory, now: DateTime<Utc>) -> Vec<Change> {
        let Some((_, since)) = remembered.get(SINCE) else {
            // What was due before anybody watched is nobody's fault.
            let subject = SINCE.to_owned();
            return vec![Change { subject, from: None, to: 0, alert: None, forget_at: None }];
        };
        let days = self.days(*since, now);
        let last = days.iter().rev().take(2).rev();
        last.filter_map(|(date, day)| self.change(*date, *day, remembered, now)).collect()
    }

    fn change(&self, date: NaiveDate, day: Day, remembered: &Memory, now: DateTime<Utc>) -> Option<Change> {
        let subject = format!("redemptions_late/{date}");
        let from = remembered.get(&subject).map(|(level, _)| *level);
        let (to, alert) = match day {
            Day::Free | Day::InTime => return None,
            Day::Missing => (1, Alert::RedemptionsLate { date, expected_by: self.expected_by, newest: self.newest }),
            Day::Late(at) => {
                let late_by = at - self.deadline(date);
                (2, Alert::RedemptionsArrived { date, expected_by: self.expected_by, late_by })
            }
        };
        let forget_at = now.checked_add_signed(REMEMBERED);
        (from.unwrap_or(0) < to).then_some(Change { subject, from, to, alert: Some(alert), forget_at })
    }

    /// Every day whose deadline and grace are over, oldest first.
    fn days(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> Vec<(NaiveDate, Day)> {
        let today = now.with_timezone(&self.zone).date_naive();
        let dates = (0..=DAYS).rev().filter_map(|ago| today.checked_sub_days(Days::new(ago)));
        let mut days: Vec<(NaiveDate, Day)> = Vec::new();
        let mut arrivals = self.arrivals.iter().copied().peekable();
        // Files before the first of the days are of days before it.
        let mut before: Option<DateTime<Utc>> = None;
        for date in dates {
            let deadline = self.deadline(date);
            let over = deadline + self.grace;
            if over > now {
                break;
            }
            let mut came = false;
            while let Some(at) = arrivals.next_if(|at| *at <= over) {
                if before.is_some_and(|before| at > before) {
                    came |= !closes(days.last_mut(), at, before);
                }
            }
            if self.skipped.contains(date) {
                before = Some(deadline);
                continue;
            }
            let day = match came {
                // Whether the first file looked at was the late one of a day before, nobody knows.
                _ if deadline <= since || before.is_none() => Day::Free,
                true => Day::InTime,
                false => Day::Missing,
            };
            days.push((date, day));
            before = Some(deadline);
        }
        if let Some(at) = arrivals.find(|at| before.is_some_and(|before| *at > before)) {
            closes(days.last_mut(), at, before);
        }
        days
    }
}

/// Whether the file that came `at` is the late one of the day before, whose deadline is `deadline`. A file that is later
/// than that ends the waiting, too, but counts for its own day as well.
fn closes(day: Option<&mut (NaiveDate, Day)>, at: DateTime<Utc>, deadline: Option<DateTime<Utc>>) -> bool {
    match (day, deadline) {
        (Some((_, day @ Day::Missing)), Some(deadline)) => {
            *day = Day::Late(at);
            at - deadline <= LATE_MOST
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use chrono::Weekday;

    use super::*;

    fn instant(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// Looks at each of `looks` with what had arrived by then; expects these alerts: `late <date>`, `arrived <date> <minutes>`.
    #[track_caller]
    fn check(since: &str, arrivals: &[&str], looks: &[(&str, &[&str])]) {
        check_skipping(&SkippedDays::default(), since, arrivals, looks);
    }

    #[track_caller]
    fn check_skipping(skipped: &SkippedDays, since: &str, arrivals: &[&str], looks: &[(&str, &[&str])]) {
        let mut memory = Memory::from([(SINCE.to_owned(), (0, instant(since)))]);
        for (now, expected) in looks {
            let now = instant(now);
            let arrived: Vec<_> = arrivals.iter().map(|at| instant(at)).filter(|at| *at <= now).collect();
            let feed = Feed {
                expected_by: NaiveTime::from_hms_opt(6, 0, 0).unwrap(),
                grace: TimeDelta::minutes(15),
                skipped,
                zone: Tz::America__New_York,
                arrivals: &arrived,
                newest: None,
            };
            let mut said = Vec::new();
            for change in feed.judge(&memory, now) {
                said.push(match change.alert.unwrap() {
                    Alert::RedemptionsLate { date, .. } => format!("late {date}"),
                    Alert::RedemptionsArrived { date, late_by, .. } => {
                        format!("arrived {date} {}", late_by.num_minutes())
                    }
                    other => panic!("{other:?}"),
                });
                memory.insert(change.subject, (change.to, now));
            }
            assert_eq!(said, *expected, "{now}");
        }
    }

    // 06:00 in New York is 11:00 UTC in winter.
    #[test]
    fn late_and_arrived_late() {
        check(
            "2026-02-01T00:00:00Z",
            &["2026-02-01T10:30:00Z", "2026-02-02T10:30:00Z", "2026-02-03T13:10:00Z", "2026-02-04T10:30:00Z"],
            &[
                ("2026-02-03T11:00:00Z", &[]),
                ("2026-02-03T11:14:59Z", &[]),
                ("2026-02-03T11:15:00Z", &["late 2026-02-03"]),
                ("2026-02-03T12:00:00Z", &[]),
                ("2026-02-03T13:11:00Z", &["arrived 2026-02-03 130"]),
                ("2026-02-03T14:00:00Z", &[]),
                ("2026-02-04T12:00:00Z", &[]),
            ],
        );
    }

    #[test]
    fn within_the_grace_is_in_time() {
        check("2026-02-01T00:00:00Z", &["2026-02-01T11:10:00Z"], &[("2026-02-01T12:00:00Z", &[])]);
    }

    #[test]
    fn a_late_file_does_not_stand_for_the_next_day() {
        check(
            "2026-02-01T00:00:00Z",
            &["2026-02-01T13:10:00Z"],
            &[
                ("2026-02-01T11:15:00Z", &["late 2026-02-01"]),
                ("2026-02-01T13:11:00Z", &["arrived 2026-02-01 130"]),
                ("2026-02-02T11:15:00Z", &["late 2026-02-02"]),
            ],
        );
    }

    #[test]
    fn a_file_long_after_counts_for_its_own_day() {
        check(
            "2026-02-01T00:00:00Z",
            &["2026-02-01T22:00:00Z"],
            &[
                ("2026-02-01T11:15:00Z", &["late 2026-02-01"]),
                ("2026-02-01T22:01:00Z", &["arrived 2026-02-01 660"]),
                ("2026-02-02T12:00:00Z", &[]),
            ],
        );
    }

    #[test]
    fn nothing_is_late_that_was_due_before_anybody_watched() {
        check(
            "2026-02-01T11:00:00Z",
            &[],
            &[("2026-02-01T20:00:00Z", &[]), ("2026-02-02T12:00:00Z", &["late 2026-02-02"])],
        );
        let (grace, skipped) = (TimeDelta::minutes(15), &SkippedDays::default());
        let feed = Feed { expected_by: NaiveTime::MIN, grace, skipped, zone: Tz::UTC, arrivals: &[], newest: None };
        let first = feed.judge(&Memory::new(), instant("2026-02-01T20:00:00Z"));
        assert!(matches!(&*first, [Change { alert: None, to: 0, .. }]), "{first:?}");
    }

    #[test]
    fn after_a_long_silence_only_the_last_two_days_are_named() {
        check("2026-01-01T00:00:00Z", &[], &[("2026-02-05T12:00:00Z", &["late 2026-02-04", "late 2026-02-05"])]);
    }

    /// 6, 13 and 20 February 2026 are Fridays.
    #[test]
    fn nothing_is_late_on_a_skipped_day() {
        let weekend =
            SkippedDays { weekdays: vec![Weekday::Sat, Weekday::Sun], dates: ["2026-02-16".parse().unwrap()].into() };
        let friday = "2026-02-06T10:30:00Z";
        check_skipping(
            &weekend,
            "2026-02-01T00:00:00Z",
            &["2026-02-05T10:30:00Z", friday],
            &[
                ("2026-02-06T12:00:00Z", &[]),
                ("2026-02-07T12:00:00Z", &[]),
                ("2026-02-08T23:00:00Z", &[]),
                ("2026-02-09T11:14:59Z", &[]),
                ("2026-02-09T11:15:00Z", &["late 2026-02-09"]),
            ],
        );
        // What comes on a skipped day does not stand for Monday; what comes after Sunday's time does.
        check_skipping(
            &weekend,
            "2026-02-01T00:00:00Z",
            &["2026-02-05T10:30:00Z", friday, "2026-02-08T10:30:00Z"],
            &[("2026-02-09T11:15:00Z", &["late 2026-02-09"])],
        );
        check_skipping(
            &weekend,
            "2026-02-01T00:00:00Z",
            &["2026-02-05T10:30:00Z", friday, "2026-02-09T04:00:00Z"],
            &[("2026-02-09T11:15:00Z", &[])],
        );
        // Friday's own that comes on Saturday or Sunday is Friday's; Monday still expects one.
        for (late, minutes) in [("2026-02-07T08:00:00Z", 1260), ("2026-02-08T12:30:00Z", 2970)] {
            let arrived = format!("arrived 2026-02-06 {minutes}");
            check_skipping(
                &weekend,
                "2026-02-01T00:00:00Z",
                &["2026-02-05T10:30:00Z", late],
                &[
                    ("2026-02-06T11:15:00Z", &["late 2026-02-06"]),
                    ("2026-02-08T13:00:00Z", &[&arrived]),
                    ("2026-02-09T11:15:00Z", &["late 2026-02-09"]),
                ],
            );
        }
        // A long weekend, and a single date in it.
        check_skipping(
            &weekend,
            "2026-02-01T00:00:00Z",
            &["2026-02-12T10:30:00Z", "2026-02-13T10:30:00Z"],
            &[("2026-02-16T20:00:00Z", &[]), ("2026-02-17T11:15:00Z", &["late 2026-02-17"])],
        );
    }

    #[test]
    fn the_deadline_follows_the_clocks() {
        // Summer time since 8 March: 06:00 is 10:00 UTC.
        check(
            "2026-03-01T00:00:00Z",
            &[],
            &[
                ("2026-03-07T11:00:00Z", &["late 2026-03-05", "late 2026-03-06"]),
                ("2026-03-09T10:15:00Z", &["late 2026-03-08", "late 2026-03-09"]),
            ],
        );
    }
}
