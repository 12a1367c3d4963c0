//! `[redemptions]`: the daily redemption file.

use std::time::Duration;

use chrono::Weekday;
use serde::Deserialize;

use crate::config::judge::Judge;
use crate::config::{RedemptionFeed, SkippedDays, WhenStale, values};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section")]
pub(in crate::config) struct Raw {
    expected_by: Option<String>,
    grace: Option<String>,
    skip_days: Vec<String>,
    skip_dates: Vec<String>,
    max_age: Option<String>,
    when_stale: Option<String>,
}

const WHEN_STALE: [(&str, WhenStale); 2] = [("warn", WhenStale::Warn), ("wait", WhenStale::Wait)];

const WEEKDAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Mon),
    ("tue", Weekday::Tue),
    ("wed", Weekday::Wed),
    ("thu", Weekday::Thu),
    ("fri", Weekday::Fri),
    ("sat", Weekday::Sat),
    ("sun", Weekday::Sun),
];
/// A file that is later than this belongs to its own day: there would be nothing to wait for.
const LONGEST_GRACE: Duration = Duration::from_secs(6 * 3_600);

pub(in crate::config) fn judge(raw: &Raw, judge: &mut Judge<'_>) -> Option<RedemptionFeed> {
    let expected_by = match raw.expected_by.as_deref() {
        Some(text) => judge.accept(&["redemptions", "expected_by"], values::time(text)).map(Some),
        None => Some(None),
    };
    let grace = grace(raw, judge);
    let skipped = skipped(raw, judge);
    let max_age = match raw.max_age.as_deref() {
        Some(text) => judge.accept(&["redemptions", "max_age"], values::duration(text)).map(Some),
        None => Some(None),
    };
    let path = ["redemptions", "when_stale"];
    let when_stale = judge.choice(&path, raw.when_stale.as_deref(), &WHEN_STALE, WhenStale::Warn);
    if raw.when_stale.is_some() && raw.max_age.is_none() {
        judge.refuse(
            &path,
            "`when_stale` means nothing without `max_age`; say from which age on, such as `max_age = \"36h\"`",
        );
        return None;
    }
    Some(RedemptionFeed {
        expected_by: expected_by?,
        grace: grace?,
        skipped: skipped?,
        max_age: max_age?,
        when_stale: when_stale?,
    })
}

fn grace(raw: &Raw, judge: &mut Judge<'_>) -> Option<Duration> {
    let path = ["redemptions", "grace"];
    let Some(text) = raw.grace.as_deref() else { return Some(RedemptionFeed::GRACE) };
    if raw.expected_by.is_none() {
        judge.refuse(&path, "`grace` means nothing without `expected_by`; say by when the file is expected");
        return None;
    }
    let grace = judge.accept(&path, values::duration(text))?;
    if grace > LONGEST_GRACE {
        judge.refuse(
            &path,
            format!("`grace` is \"{}\"; use 6 hours at most, or a later `expected_by`", values::short(text)),
        );
        return None;
    }
    Some(grace)
}

fn skipped(raw: &Raw, judge: &mut Judge<'_>) -> Option<SkippedDays> {
    let (days, dates) = (["redemptions", "skip_days"], ["redemptions", "skip_dates"]);
    let mut skipped = SkippedDays::default();
    let mut good = true;
    for (index, text) in raw.skip_days.iter().enumerate() {
        let problem = match WEEKDAYS.iter().find(|(word, _)| word == text) {
            Some((_, day)) if skipped.weekdays.contains(day) => format!("\"{text}\" is listed twice; remove one"),
            Some((_, day)) => {
                skipped.weekdays.push(*day);
                continue;
            }
            None => format!(
                "\"{}\" is not a day of the week; use \"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\" or \"sun\"",
                values::short(text)
            ),
        };
        judge.refuse_item(&days, index, problem);
        good = false;
    }
    for (index, text) in raw.skip_dates.iter().enumerate() {
        let problem = match values::date(text) {
            Ok(date) if skipped.dates.insert(date) => continue,
            Ok(_) => format!("\"{}\" is listed twice; remove one", values::short(text)),
            Err(problem) => problem,
        };
        judge.refuse_item(&dates, index, problem);
        good = false;
    }
    if skipped.weekdays.len() == WEEKDAYS.len() {
        judge.refuse(&days, "`skip_days` names the whole week; leave out `expected_by` and `max_age` instead");
        good = false;
    }
    if raw.expected_by.is_none() && raw.max_age.is_none() {
        for (path, _) in
            [(&days, &raw.skip_days), (&dates, &raw.skip_dates)].into_iter().filter(|(_, given)| !given.is_empty())
        {
            let key = path.last().copied().unwrap_or_default();
            judge.refuse(path, format!("`{key}` means nothing without `expected_by` or `max_age`"));
            good = false;
        }
    }
    good.then_some(skipped)
}
