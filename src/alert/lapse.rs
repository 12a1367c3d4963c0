//! Codes about to lapse: their end date is near, and nobody was given them.

use chrono::{NaiveDate, TimeDelta};

use super::kinds::{Alert, Change};
use crate::bank::window;

/// How many days before the end date is an alert.
pub const DAYS_BEFORE: i64 = 7;
/// How long after the end date it is remembered that there was one.
const REMEMBERED: TimeDelta = TimeDelta::days(30);

/// Codes of one bank with one end date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The bank.
    pub bank: String,
    /// Their end date.
    pub end_date: NaiveDate,
    /// Codes with that end date.
    pub size: u64,
    /// Of these, codes that can still be handed out.
    pub remaining: u64,
}

impl Ending {
    /// What it is remembered under.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("lapsing/{}/{}", self.bank, self.end_date)
    }
}

/// Judges codes of one bank and end date; `open_on` is the smallest end date whose window is open.
#[must_use]
pub fn judge(ending: &Ending, open_on: NaiveDate, remembered: Option<i32>) -> Option<Change> {
    let days = (ending.end_date - open_on).num_days();
    if remembered.is_some() || ending.remaining == 0 || !(0..=DAYS_BEFORE).contains(&days) {
        return None;
    }
    Some(Change {
        subject: ending.subject(),
        from: None,
        to: 1,
        alert: Some(Alert::Lapsing {
            bank: ending.bank.clone(),
            end_date: ending.end_date,
            size: ending.size,
            remaining: ending.remaining,
        }),
        forget_at: window::end(ending.end_date, chrono_tz::Tz::UTC).checked_add_signed(REMEMBERED),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(end_date: &str, remaining: u64, remembered: Option<i32>, alerted: bool) {
        let ending = Ending { bank: "spring26".to_owned(), end_date: end_date.parse().unwrap(), size: 100, remaining };
        let change = judge(&ending, "2026-12-10".parse().unwrap(), remembered);
        assert_eq!(change.is_some(), alerted, "{ending:?}");
    }

    #[test]
    fn stock_that_lapses_within_a_week() {
        check("2026-12-18", 40, None, false);
        check("2026-12-17", 40, None, true);
        check("2026-12-10", 40, None, true);
        check("2026-12-09", 40, None, false);
        check("2026-12-17", 0, None, false);
        check("2026-12-17", 40, Some(1), false);
    }
}
