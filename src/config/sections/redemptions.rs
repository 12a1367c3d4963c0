//! `[redemptions]`: the daily redemption file.

use serde::Deserialize;

use crate::config::judge::Judge;
use crate::config::{RedemptionFeed, WhenStale, values};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section")]
pub(in crate::config) struct Raw {
    expected_by: Option<String>,
    max_age: Option<String>,
    when_stale: Option<String>,
}

const WHEN_STALE: [(&str, WhenStale); 2] = [("warn", WhenStale::Warn), ("wait", WhenStale::Wait)];

pub(in crate::config) fn judge(raw: &Raw, judge: &mut Judge<'_>) -> Option<RedemptionFeed> {
    let expected_by = match raw.expected_by.as_deref() {
        Some(text) => judge.accept(&["redemptions", "expected_by"], values::time(text)).map(Some),
        None => Some(None),
    };
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
    Some(RedemptionFeed { expected_by: expected_by?, max_age: max_age?, when_stale: when_stale? })
}
