//! `[openpgp]` of `coupond.toml`: the daemon's own keys.

use serde::Deserialize;

use crate::config::OpenpgpSettings;
use crate::config::judge::Judge;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section")]
pub(in crate::config) struct Raw {
    secret_keys: Vec<String>,
}

pub(in crate::config) fn judge(raw: &Raw, judge: &mut Judge<'_>) -> Option<OpenpgpSettings> {
    let secret_keys = judge.files(&["openpgp", "secret_keys"], &raw.secret_keys, "secret key")?;
    Some(OpenpgpSettings { secret_keys })
}
