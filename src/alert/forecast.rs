//! When a bank will be empty if the coming nights are like the last ones.
//!
//! The rate is what was handed out between the beginning of a day a week ago and the beginning of today: whole days, so
//! that a night's batch never counts half.

use std::collections::BTreeMap;

use chrono::{Days, NaiveDate};

use super::kinds::{Alert, Change};

/// How many nights the rate is taken from.
pub const NIGHTS: u64 = 7;
/// With fewer nights there is no rate worth the name.
const LEAST_NIGHTS: u64 = 3;
/// A bank that is empty within so many days is alerted; that date's weekday says it all.
const HORIZON_DAYS: i64 = 7;

/// When a bank will be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// How many nights the rate was taken from.
    pub nights: u64,
    /// Codes a night, rounded up.
    pub per_night: u64,
    /// The day on which the last code goes.
    pub empty_on: NaiveDate,
}

/// Looks ahead. `days` says how far the bank had been handed out when each day began, `today` among them; `handed_out` how
/// far it is now.
#[must_use]
pub fn outlook(remaining: u64, handed_out: i64, today: NaiveDate, days: &BTreeMap<NaiveDate, i64>) -> Option<Outlook> {
    let began = *days.get(&today)?;
    let (first, before) = days.range(today.checked_sub_days(Days::new(NIGHTS))?..today).next()?;
    let nights = u64::try_from((today - *first).num_days()).ok().filter(|nights| *nights >= LEAST_NIGHTS)?;
    let drawn = u64::try_from(began - before).ok().filter(|drawn| *drawn > 0)?;
    if remaining == 0 {
        return None;
    }
    let more = u64::try_from((u128::from(remaining) * u128::from(nights)).div_ceil(u128::from(drawn))).ok()?;
    // Has today's part gone already?
    let first_night = if handed_out > began { today.succ_opt()? } else { today };
    let empty_on = first_night.checked_add_days(Days::new(more.checked_sub(1)?))?;
    Some(Outlook { nights, per_night: drawn.div_ceil(nights), empty_on })
}

/// Judges a bank. An alert is armed again when the bank lasts twice as long as what was alerted, not when it hovers there.
#[must_use]
pub fn judge(
    bank: &str,
    remaining: u64,
    outlook: Option<&Outlook>,
    today: NaiveDate,
    remembered: Option<i32>,
) -> Option<Change> {
    let days_left = outlook.map(|outlook| (outlook.empty_on - today).num_days());
    let was_soon = remembered.unwrap_or(0) > 0;
    let horizon = if was_soon { 2 * HORIZON_DAYS } else { HORIZON_DAYS - 1 };
    let soon = days_left.is_some_and(|days| days <= horizon);
    if soon == was_soon {
        return None;
    }
    let alert = outlook.filter(|_| soon).map(|outlook| Alert::EmptySoon {
        bank: bank.to_owned(),
        remaining,
        outlook: outlook.clone(),
    });
    Some(Change {
        subject: format!("empty_soon/{bank}"),
        from: remembered,
        to: i32::from(soon),
        alert,
        forget_at: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    /// Counts at the beginning of each day, the last of them today, 10 December.
    fn days(counts: &[i64]) -> BTreeMap<NaiveDate, i64> {
        let today = date("2026-12-10");
        counts.iter().rev().enumerate().map(|(ago, count)| (today - Days::new(ago as u64), *count)).collect()
    }

    #[track_caller]
    fn check(remaining: u64, handed_out: i64, counts: &[i64], expected: Option<(u64, u64, &str)>) {
        let found = outlook(remaining, handed_out, date("2026-12-10"), &days(counts));
        let expected =
            expected.map(|(nights, per_night, empty_on)| Outlook { nights, per_night, empty_on: date(empty_on) });
        assert_eq!(found, expected, "{remaining} left, {handed_out} of {counts:?}");
    }

    #[test]
    fn the_day_on_which_the_last_code_goes() {
        let week = [0, 100, 200, 300, 400, 500, 600, 700];
        // Tonight's batch is still to come: 10, 11, 12 December.
        check(300, 700, &week, Some((7, 100, "2026-12-12")));
        check(301, 700, &week, Some((7, 100, "2026-12-13")));
        check(1, 700, &week, Some((7, 100, "2026-12-10")));
        // It has been.
        check(300, 800, &week, Some((7, 100, "2026-12-13")));
        // Older days do not count, missing ones make the rate one of fewer nights.
        check(300, 700, &[-9000, -500, 0, 100, 200, 300, 400, 500, 600, 700], Some((7, 100, "2026-12-12")));
        check(300, 300, &[0, 100, 200, 300], Some((3, 100, "2026-12-12")));
        check(100, 10, &[0, 0, 0, 10], Some((3, 4, "2027-01-08")));
    }

    #[test]
    fn no_rate_no_outlook() {
        check(300, 200, &[0, 100, 200], None);
        check(300, 700, &[700, 700, 700, 700], None);
        check(0, 700, &[0, 100, 200, 300, 400, 500, 600, 700], None);
        check(300, 700, &[], None);
        check(u64::MAX, i64::MAX, &[0, 0, 0, 1], None);
    }

    #[test]
    fn alerted_once_until_it_lasts_again() {
        let today = date("2026-12-10");
        let mut remembered = None;
        for (days_left, alerted, level) in [
            (Some(30), false, None),
            (Some(6), true, Some(1)),
            (Some(7), false, Some(1)),
            (Some(14), false, Some(1)),
            (Some(15), false, Some(0)),
            (Some(7), false, Some(0)),
            (Some(2), true, Some(1)),
            (None, false, Some(0)),
        ] {
            let outlook = days_left.map(|days| Outlook { nights: 7, per_night: 1, empty_on: today + Days::new(days) });
            let change = judge("spring26", 10, outlook.as_ref(), today, remembered);
            assert_eq!(change.as_ref().is_some_and(|change| change.alert.is_some()), alerted, "{days_left:?}");
            remembered = change.map_or(remembered, |change| Some(change.to));
            assert_eq!(remembered, level, "{days_left:?}");
        }
    }
}
