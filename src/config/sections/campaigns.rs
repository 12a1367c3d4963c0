//! `[campaigns.<name>]`: channel + bank + schedule.

use std::collections::BTreeMap;

use chrono::NaiveTime;
use serde::Deserialize;

use super::banks;
use crate::config::judge::Judge;
use crate::config::keys::nearest;
use crate::config::{Campaign, Channel, Name, Schedule, WhenShort, values};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section")]
pub(in crate::config) struct Raw {
    bank: Option<String>,
    channel: Option<String>,
    schedule: Option<String>,
    send_at: Option<String>,
    collect_by: Option<String>,
    when_short: Option<String>,
    encrypt_to: Option<String>,
}

const CHANNELS: [(&str, Channel); 2] = [("email", Channel::Email), ("sms", Channel::Sms)];
const WHEN_SHORT: [(&str, WhenShort); 3] =
    [("wait", WhenShort::Wait), ("partial", WhenShort::Partial), ("fallback", WhenShort::Fallback)];

pub(in crate::config) fn judge(
    name: &str,
    raw: &Raw,
    banks: &BTreeMap<String, banks::Raw>,
    judge: &mut Judge<'_>,
) -> Option<(Name, Campaign)> {
    let at = |key| ["campaigns", name, key];
    let named = values::name("campaign", name).map_err(|message| judge.refuse_key(&["campaigns", name], message)).ok();
    let channel = judge.choice(&at("channel"), raw.channel.as_deref(), &CHANNELS, Channel::Email);
    let schedule = match raw.schedule.as_deref() {
        Some(text) => judge.accept(&at("schedule"), values::schedule(text)),
        None => Some(Schedule::OnArrival),
    };
    let send_at = time(&at("send_at"), raw.send_at.as_deref(), judge);
    let collect_by = time(&at("collect_by"), raw.collect_by.as_deref(), judge);
    let when_short = judge.choice(&at("when_short"), raw.when_short.as_deref(), &WHEN_SHORT, WhenShort::Wait);
    let encrypt_to = match &raw.encrypt_to {
        Some(file) => judge.file(&at("encrypt_to"), file, "certificate").map(Some),
        None => Some(None),
    };
    let bank = bank(name, raw, banks, when_short, judge);
    let campaign = Campaign {
        name: named.clone()?,
        bank: bank?,
        channel: channel?,
        schedule: schedule?,
        send_at: send_at?,
        collect_by: collect_by?,
        when_short: when_short?,
        encrypt_to: encrypt_to?,
    };
    Some((named?, campaign))
}

fn time(path: &[&str], given: Option<&str>, judge: &mut Judge<'_>) -> Option<Option<NaiveTime>> {
    match given {
        Some(text) => judge.accept(path, values::time(text)).map(Some),
        None => Some(None),
    }
}

fn bank(
    name: &str,
    raw: &Raw,
    banks: &BTreeMap<String, banks::Raw>,
    when_short: Option<WhenShort>,
    judge: &mut Judge<'_>,
) -> Option<Name> {
    let at = |key| ["campaigns", name, key];
    let Some(bank) = raw.bank.as_deref() else {
        judge.refuse_key(&["campaigns", name], "`bank` is missing; name the bank that its codes come from");
        return None;
    };
    let Some(declared) = banks.get(bank) else {
        let hint = match nearest(bank, banks.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("declare it as `[banks.{}]`", values::short(bank)),
        };
        judge.refuse(&at("bank"), format!("no bank `{}` in this namespace; {hint}", values::short(bank)));
        return None;
    };
    if declared.is_site() {
        judge.refuse(
            &at("bank"),
            format!("bank `{bank}` is for the site and takes no batch; name a bank with `audience = \"communicate\"`"),
        );
        return None;
    }
    if when_short == Some(WhenShort::Fallback) && !declared.has_fallback() {
        judge.refuse(
            &at("when_short"),
            format!(
                "`when_short = \"fallback\"` needs a code to fall back on; set `fallback_code` in `[banks.{bank}]`"
            ),
        );
        return None;
    }
    // A bad name was said at the bank's own section.
    Name::parse(bank).ok()
}
