//! `[mail]`: how alerts are mailed.

use serde::Deserialize;

use crate::config::MailSettings;
use crate::config::judge::Judge;
use crate::config::values::mail_address;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section")]
pub(in crate::config) struct Raw {
    url: Option<String>,
    from: Option<String>,
    password_file: Option<String>,
}

/// `Some(None)` where the section is left out.
#[expect(
    clippy::option_option,
    reason = "the outer one says whether the section is right, the inner whether it is there"
)]
pub(in crate::config) fn judge(raw: Option<&Raw>, judge: &mut Judge<'_>) -> Option<Option<MailSettings>> {
    let Some(raw) = raw else { return Some(None) };
    let url = match &raw.url {
        Some(url) => judge.accept(&["mail", "url"], check_url(url)),
        None => {
            judge.refuse_key(
                &["mail"],
                "`url` is missing; write it like \"smtps://alerts@mail.example:465\", or leave the whole section out",
            );
            None
        }
    };
    let from = match &raw.from {
        Some(from) => judge.accept(&["mail", "from"], mail_address(from)),
        None => {
            judge.refuse_key(&["mail"], "`from` is missing; write it like \"coupond <alerts@example.com>\"");
            None
        }
    };
    let password_file = match &raw.password_file {
        Some(file) => Some(judge.file(&["mail", "password_file"], file, "password file")?),
        None => None,
    };
    let url = url?;
    if password_file.is_some() && !url.contains('@') {
        judge.refuse(
            &["mail", "password_file"],
            "a password without a user; name the user in `url`: \"smtps://user@host:465\"",
        );
        return None;
    }
    Some(Some(MailSettings { url, from: from?, password_file }))
}

fn check_url(url: &str) -> Result<String, String> {
    let Some(body) = url.strip_prefix("smtp://").or_else(|| url.strip_prefix("smtps://")) else {
        return Err(
            "`url` must begin with \"smtps://\" (TLS from the start) or \"smtp://\" (STARTTLS where offered)".into()
        );
    };
    let authority = body.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.contains(':') {
        // Not repeated in the message: it may be a real password.
        return Err("`url` holds a password; put it into a file and name that in `password_file`".into());
    }
    let (host, port) = host.rsplit_once(':').filter(|_| !host.ends_with(']')).unwrap_or((host, "25"));
    if host.is_empty() || host.contains(char::is_whitespace) || port.parse::<u16>().is_err() {
        return Err("`url` has no host or a bad port; write it like \"smtps://alerts@mail.example:465\"".into());
    }
    Ok(url.to_owned())
}
