//! The validated settings of the daily redemption file: `[redemptions]`.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{Datelike as _, NaiveDate, NaiveTime, Weekday};

/// The daily redemption file.
#[derive(Clone, Debug)]
pub struct RedemptionFeed {
    /// Local time by which it is expected.
    pub expected_by: Option<NaiveTime>,
    /// How long after its time it is not called late yet.
    pub grace: Duration,
    /// Days on which none is expected.
    pub skipped: SkippedDays,
    /// Age after which redemptions are stale; skipped days do not count.
    pub max_age: Option<Duration>,
    /// What a batch on a persistent bank does then.
    pub when_stale: WhenStale,
}

impl RedemptionFeed {
    /// `grace` where the key is left out: the file may just be on its way.
    pub const GRACE: Duration = Duration::from_secs(15 * 60);
}

impl Default for RedemptionFeed {
    /// As where the section is left out.
    fn default() -> Self {
        Self {
            expected_by: None,
            grace: Self::GRACE,
            skipped: SkippedDays::default(),
            max_age: None,
            when_stale: WhenStale::Warn,
        }
    }
}

/// Local days on which no redemption file is expected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkippedDays {
    /// Days of every week.
    pub weekdays: Vec<Weekday>,
    /// Single dates.
    pub dates: BTreeSet<NaiveDate>,
}

impl SkippedDays {
    /// Whether `date` is one of them.
    #[must_use]
    pub fn contains(&self, date: NaiveDate) -> bool {
        self.weekdays.contains(&date.weekday()) || self.dates.contains(&date)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.weekdays.is_empty() && self.dates.is_empty()
    }
}

/// What a batch on a persistent bank does when redemptions are stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenStale {
    /// Goes on, with a warning.
    Warn,
    /// Waits.
    Wait,
}
