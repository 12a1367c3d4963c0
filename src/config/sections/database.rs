//! `[database]`: a server's URL, or nothing for a private PostgreSQL.

use serde::Deserialize;

use crate::config::DatabaseSettings;
use crate::config::judge::Judge;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section")]
pub(in crate::config) struct Raw {
    url: Option<String>,
}

pub(in crate::config) fn judge(raw: &Raw, judge: &mut Judge<'_>) -> Option<DatabaseSettings> {
    let Some(url) = &raw.url else { return Some(DatabaseSettings::Private) };
    let body = url.strip_prefix("postgresql://").or_else(|| url.strip_prefix("postgres://"));
    // The URL may hold a password: it is not repeated in the message.
    if body.is_none_or(str::is_empty) || url.contains(char::is_whitespace) {
        judge.refuse(
            &["database", "url"],
            "`url` is not a PostgreSQL URL; write it like \"postgresql://coupond@db.example/coupond\", or leave it out for a private PostgreSQL",
        );
        return None;
    }
    Some(DatabaseSettings::Url(url.clone()))
}
