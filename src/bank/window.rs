//! The distribution window: from upload until the next local midnight after its end date.
//!
//! The date is what is stored; instants are computed at use, because a zone's rules can change between the two.

use chrono::{DateTime, Days, NaiveDate, NaiveDateTime, NaiveTime, Offset as _, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;

/// The first instant after the last one whose local date is `end_date` or earlier.
///
/// That is the next local midnight. Where the clocks jump over midnight it is the jump. Where midnight comes twice it is
/// the first one, unless the clocks go back into `end_date` itself: then that date has not ended before the second.
#[must_use]
pub fn end(end_date: NaiveDate, zone: Tz) -> DateTime<Utc> {
    let Some(midnight) = end_date.checked_add_days(Days::new(1)).map(|day| day.and_time(NaiveTime::MIN)) else {
        return DateTime::<Utc>::MAX_UTC;
    };
    let (first, last) = instants(midnight, zone);
    let before_last = (last - TimeDelta::nanoseconds(1)).with_timezone(&zone).date_naive();
    if before_last <= end_date { last } else { first }
}

/// The smallest end date whose window is still open at `instant`: a lot is open if it has no end date or one that is
/// not smaller. So one date compared in the store does what [`end`] would do lot by lot.
#[must_use]
pub fn open_on(instant: DateTime<Utc>, zone: Tz) -> NaiveDate {
    let today = instant.with_timezone(&zone).date_naive();
    match today.checked_sub_days(Days::new(1)) {
        Some(yesterday) if end(yesterday, zone) > instant => yesterday,
        _ => today,
    }
}

/// Whether a lot that ends with `end_date` may be handed out when `open_on` is the smallest open date.
#[must_use]
pub fn is_open(end_date: Option<NaiveDate>, open_on: NaiveDate) -> bool {
    end_date.is_none_or(|end_date| end_date >= open_on)
}

/// The first and the last instant at which clocks in `zone` show `local`; both are the end of the gap where they never do.
#[must_use]
pub fn instants(local: NaiveDateTime, zone: Tz) -> (DateTime<Utc>, DateTime<Utc>) {
    let mapped = zone.from_local_datetime(&local);
    if let (Some(first), Some(last)) = (mapped.earliest(), mapped.latest()) {
        return (first.to_utc(), last.to_utc());
    }
    let end = gap_end(local, zone);
    (end, end)
}

/// The first instant from `from` on at which clocks in `zone` show `time`. On a date that leaves it out, that is the end of the
/// gap; on a date that has it twice, only the first of the two counts.
#[must_use]
pub fn next_local(time: NaiveTime, zone: Tz, from: DateTime<Utc>) -> DateTime<Utc> {
    let shown = from.with_timezone(&zone).date_naive();
    // The day before, because a gap over midnight moves its time to the next date; two days after, because a date may be
    // left out altogether.
    let dates = shown.pred_opt().unwrap_or(shown).iter_days().take(5);
    dates.map(|date| instants(date.and_time(time), zone).0).find(|at| *at >= from).unwrap_or(from)
}

/// The instant at which the clocks jump over `local`.
fn gap_end(local: NaiveDateTime, zone: Tz) -> DateTime<Utc> {
    // No zone is a day away from UTC, and no gap is longer than a day (Samoa left out 30 December 2011).
    let as_utc = local.and_utc();
    let (mut before, mut after) = (as_utc - TimeDelta::days(2), as_utc + TimeDelta::days(2));
    while after - before > TimeDelta::seconds(1) {
        let middle = before + TimeDelta::seconds((after - before).num_seconds() / 2);
        if middle.with_timezone(&zone).naive_local() < local {
            before = middle;
        } else {
            after = middle;
        }
    }
    after
}

/// The instant after `from` and not after `until` at which the zone's offset changes first, if it does.
#[must_use]
pub fn change_between(from: DateTime<Utc>, until: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
    let offset = |instant: DateTime<Utc>| zone.offset_from_utc_datetime(&instant.naive_utc()).fix();
    let old = offset(from);
    // Steps of a day, so that two changes that cancel out (a summer time as a whole) are not overlooked.
    let mut before = from;
    let mut after = from;
    loop {
        if after >= until {
            return None;
        }
        before = before.max(after);
        after = (after + TimeDelta::days(1)).min(until);
        if offset(after) != old {
            break;
        }
    }
    while after - before > TimeDelta::nanoseconds(1) {
        let middle = before + (after - before) / 2;
        if offset(middle) == old {
            before = middle;
        } else {
            after = middle;
        }
    }
    Some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instant(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check_end(zone: &str, end_date: &str, expected: &str) {
        let zone: Tz = zone.parse().unwrap();
        assert_eq!(end(end_date.parse().unwrap(), zone), instant(expected), "{zone} {end_date}");
    }

    #[test]
    fn a_window_ends_with_the_next_local_midnight() {
        check_end("UTC", "2026-03-01", "2026-03-02T00:00:00Z");
        check_end("America/New_York", "2026-01-31", "2026-02-01T05:00:00Z");
        check_end("Europe/Berlin", "2026-02-28", "2026-02-28T23:00:00Z");
        check_end("Europe/Berlin", "2026-03-29", "2026-03-29T22:00:00Z");
        // 23 and 25 hours after the midnight before; and no summer time at all.
        check_end("America/New_York", "2026-03-08", "2026-03-09T04:00:00Z");
        check_end("America/New_York", "2026-11-01", "2026-11-02T05:00:00Z");
        check_end("Europe/Berlin", "2026-10-24", "2026-10-24T22:00:00Z");
        check_end("Europe/Berlin", "2026-10-25", "2026-10-25T23:00:00Z");
        check_end("Australia/Lord_Howe", "2026-04-05", "2026-04-05T13:30:00Z");
        check_end("America/Phoenix", "2026-03-08", "2026-03-09T07:00:00Z");
        check_end("Asia/Kathmandu", "2026-03-01", "2026-03-01T18:15:00Z");
        // Clocks jump from 00:00 to 01:00: the window ends with the jump.
        check_end("America/Havana", "2026-03-07", "2026-03-08T05:00:00Z");
        check_end("Africa/Cairo", "2026-04-23", "2026-04-23T22:00:00Z");
        // Midnight comes twice (01:00 becomes 00:00): the date has ended with the first.
        check_end("America/Havana", "2026-10-31", "2026-11-01T04:00:00Z");
        // 24:00 becomes 23:00: midnight comes once, after 25 hours.
        check_end("Africa/Cairo", "2026-10-29", "2026-10-29T22:00:00Z");
        // One minute after midnight the clocks went back into the date that had ended.
        check_end("America/St_Johns", "2010-11-06", "2010-11-07T03:30:00Z");
        // A day that does not exist.
        check_end("Pacific/Apia", "2011-12-29", "2011-12-30T10:00:00Z");
        check_end("Pacific/Apia", "2011-12-30", "2011-12-30T10:00:00Z");
        assert_eq!(end(NaiveDate::MAX, Tz::UTC), DateTime::<Utc>::MAX_UTC);
    }

    #[track_caller]
    fn check_open_on(zone: &str, at: &str, expected: &str) {
        let zone: Tz = zone.parse().unwrap();
        assert_eq!(open_on(instant(at), zone), expected.parse().unwrap(), "{zone} {at}");
    }

    #[test]
    fn the_smallest_open_date() {
        check_open_on("America/New_York", "2026-02-01T04:59:59Z", "2026-01-31");
        check_open_on("America/New_York", "2026-02-01T05:00:00Z", "2026-02-01");
        check_open_on("America/Havana", "2026-11-01T04:30:00Z", "2026-11-01");
        check_open_on("America/Havana", "2026-11-01T05:30:00Z", "2026-11-01");
        check_open_on("America/St_Johns", "2010-11-07T02:30:30Z", "2010-11-06");
        check_open_on("America/St_Johns", "2010-11-07T03:29:59Z", "2010-11-06");
        check_open_on("America/St_Johns", "2010-11-07T03:30:00Z", "2010-11-07");
        check_open_on("Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-31");
    }

    #[test]
    fn the_date_says_what_the_instants_say() {
        let zones = ["UTC", "America/New_York", "America/Havana", "America/St_Johns", "Africa/Cairo", "Pacific/Apia"];
        for zone in zones {
            let zone: Tz = zone.parse().unwrap();
            for start in
                ["2010-11-05T00:00:00Z", "2011-12-28T00:00:00Z", "2026-03-06T00:00:00Z", "2026-10-29T00:00:00Z"]
            {
                for minutes in (0..6 * 24 * 60).step_by(7) {
                    let at = instant(start) + TimeDelta::minutes(minutes);
                    let open_on = open_on(at, zone);
                    for days in -2..=2 {
                        let date = at.date_naive() + TimeDelta::days(days);
                        assert_eq!(is_open(Some(date), open_on), end(date, zone) > at, "{zone} {at} {date}");
                    }
                }
            }
        }
    }

    #[track_caller]
    fn check_next(zone: &str, time: &str, from: &str, expected: &str) {
        let (zone, time): (Tz, NaiveTime) = (zone.parse().unwrap(), time.parse().unwrap());
        assert_eq!(next_local(time, zone, instant(from)), instant(expected), "{zone} {time} {from}");
    }

    #[test]
    fn the_next_local_time() {
        check_next("UTC", "09:00:00", "2026-03-02T09:00:00Z", "2026-03-02T09:00:00Z");
        check_next("UTC", "09:00:00", "2026-03-02T09:00:00.000000001Z", "2026-03-03T09:00:00Z");
        check_next("Asia/Kathmandu", "09:00:00", "2026-03-02T03:14:59Z", "2026-03-02T03:15:00Z");
        check_next("America/New_York", "09:00:00", "2026-03-03T04:59:00Z", "2026-03-03T14:00:00Z");
        // The clocks go forward in between: 23 hours, not 24.
        check_next("America/New_York", "09:00:00", "2026-03-07T14:00:01Z", "2026-03-08T13:00:00Z");
        check_next("America/New_York", "09:00:00", "2026-10-31T13:00:01Z", "2026-11-01T14:00:00Z");
        // A time that is skipped moves to the instant after the gap, also for who starts at that instant.
        check_next("Europe/Berlin", "02:30:00", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z");
        check_next("Europe/Berlin", "02:30:00", "2026-03-29T01:00:00Z", "2026-03-29T01:00:00Z");
        check_next("Europe/Berlin", "02:30:00", "2026-03-29T01:00:01Z", "2026-03-30T00:30:00Z");
        // A gap over midnight belongs to the date before it.
        check_next("Africa/Cairo", "00:30:00", "2026-04-23T20:00:00Z", "2026-04-23T22:00:00Z");
        check_next("America/Scoresbysund", "23:30:00", "2024-03-30T23:00:00Z", "2024-03-31T00:30:00Z");
        check_next("America/Scoresbysund", "23:30:00", "2024-03-31T00:30:00Z", "2024-03-31T00:30:00Z");
        // A time that comes twice is its first; whoever starts between the two waits for the next date.
        check_next("Europe/Berlin", "02:30:00", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z");
        check_next("Europe/Berlin", "02:30:00", "2026-10-25T01:00:00Z", "2026-10-26T01:30:00Z");
        // A date that does not exist.
        check_next("Pacific/Apia", "09:00:00", "2011-12-29T19:00:01Z", "2011-12-30T10:00:00Z");
        check_next("Pacific/Apia", "09:00:00", "2011-12-30T10:00:01Z", "2011-12-30T19:00:00Z");
    }

    #[test]
    fn changes_of_the_clock() {
        let zone: Tz = "Europe/Berlin".parse().unwrap();
        let from = instant("2026-03-01T00:00:00Z");
        assert_eq!(change_between(from, instant("2026-03-20T00:00:00Z"), zone), None);
        assert_eq!(change_between(from, instant("2027-02-01T00:00:00Z"), zone), Some(instant("2026-03-29T01:00:00Z")));
    }
}
