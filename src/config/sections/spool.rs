//! `[spool]`: times of the spool.

use serde::Deserialize;

use crate::config::SpoolSettings;
use crate::config::judge::Judge;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section")]
pub(in crate::config) struct Raw {
    settle_secs: Option<u64>,
    linger_secs: Option<u64>,
    partial_keep_hours: Option<u64>,
    archive_days: Option<u64>,
}

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

pub(in crate::config) fn judge(raw: &Raw, judge: &mut Judge<'_>) -> Option<SpoolSettings> {
    let settle = judge.span(&["spool", "settle_secs"], raw.settle_secs, 0..=HOUR, 10, 1);
    let linger = judge.span(&["spool", "linger_secs"], raw.linger_secs, 0..=DAY, 120, 1);
    let partial_keep = judge.span(&["spool", "partial_keep_hours"], raw.partial_keep_hours, 1..=24 * 366, 48, HOUR);
    let archive_keep = judge.span(&["spool", "archive_days"], raw.archive_days, 0..=3_660, 30, DAY);
    Some(SpoolSettings { settle: settle?, linger: linger?, partial_keep: partial_keep?, archive_keep: archive_keep? })
}
