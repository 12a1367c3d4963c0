//! Other parties' certificates: about to expire, or not usable any more.
//!
//! A certificate is asked whether it can be used in a month, in a week, now: so a subkey that ends before its certificate
//! counts, too. The daemon's own keys never expire.

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};

use super::kinds::{Alert, Change};
use crate::config::Namespace;
use crate::error_chain::chain;
use crate::openpgp::{Certificate, Purpose};

/// How far a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Good for a month at least.
    Good,
    /// Not usable in a month.
    Month,
    /// Not usable in a week.
    Week,
    /// Not usable now.
    Unusable,
}

const MONTH: TimeDelta = TimeDelta::days(30);
const WEEK: TimeDelta = TimeDelta::days(7);

/// A certificate and what the namespace uses it for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// How far it is.
    pub stage: Stage,
    /// When it expires, where it says so.
    pub expires: Option<DateTime<Utc>>,
    /// What for.
    pub uses: Vec<String>,
}

/// Every certificate that `namespace` names, by fingerprint. A file that cannot be read is logged: the configuration was
/// checked when it was loaded, so somebody is at it.
#[must_use]
pub fn used(namespace: &Namespace, now: DateTime<Utc>) -> BTreeMap<String, Used> {
    let mut found = BTreeMap::new();
    for campaign in namespace.campaigns.values() {
        if let Some(path) = &campaign.encrypt_to {
            let text = format!("campaign `{}` encrypts its assignment files to it", campaign.name);
            add(&mut found, path, Purpose::Encrypt, &text, now);
        }
    }
    for path in &namespace.openpgp.signers {
        add(&mut found, path, Purpose::Sign, "its signatures on uploads count", now);
    }
    found
}

fn add(found: &mut BTreeMap<String, Used>, path: &Path, purpose: Purpose, text: &str, now: DateTime<Utc>) {
    let certificates = match Certificate::load(path) {
        Ok(certificates) => certificates,
        Err(error) => {
            tracing::warn!(error = %chain(&error), "Cannot tell whether a certificate is about to expire");
            return;
        }
    };
    for certificate in certificates {
        let stage = stage(|at| certificate.usable(purpose, at).is_ok(), now);
        let used = found.entry(certificate.fingerprint()).or_insert_with(|| Used {
            stage,
            expires: certificate.expires(now),
            uses: Vec::new(),
        });
        used.stage = used.stage.max(stage);
        used.uses.push(text.to_owned());
    }
}

fn stage(usable: impl Fn(DateTime<Utc>) -> bool, now: DateTime<Utc>) -> Stage {
    if !usable(now) {
        Stage::Unusable
    } else if !usable(now + WEEK) {
        Stage::Week
    } else if !usable(now + MONTH) {
        Stage::Month
    } else {
        Stage::Good
    }
}

/// Judges a certificate: each stage once; one that was renewed is armed again.
#[must_use]
pub fn judge(fingerprint: &str, used: &Used, remembered: Option<i32>) -> Option<Change> {
    let level = match used.stage {
        Stage::Good => 0,
        Stage::Month => 1,
        Stage::Week => 2,
        Stage::Unusable => 3,
    };
    if remembered.unwrap_or(0) == level {
        return None;
    }
    let alert = Alert::CertificateExpiring {
        fingerprint: fingerprint.to_owned(),
        uses: used.uses.clone(),
        stage: used.stage,
        expires: used.expires,
    };
    Some(Change {
        subject: format!("certificate_expiring/{fingerprint}"),
        from: remembered,
        to: level,
        alert: (level > remembered.unwrap_or(0)).then_some(alert),
        forget_at: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        for (days, expected) in
            [(31, Stage::Good), (30, Stage::Month), (8, Stage::Month), (7, Stage::Week), (0, Stage::Unusable)]
        {
            let expires = now + TimeDelta::days(days);
            assert_eq!(stage(|at| at < expires, now), expected, "{days}");
        }
    }

    #[test]
    fn each_stage_once_and_again_after_it_was_renewed() {
        let mut remembered = None;
        for (stage, alerted) in [
            (Stage::Good, false),
            (Stage::Month, true),
            (Stage::Month, false),
            (Stage::Week, true),
            (Stage::Good, false),
            (Stage::Week, true),
            (Stage::Unusable, true),
        ] {
            let used = Used { stage, expires: None, uses: Vec::new() };
            let change = judge("F", &used, remembered);
            assert_eq!(change.as_ref().is_some_and(|change| change.alert.is_some()), alerted, "{stage:?}");
            remembered = change.map_or(remembered, |change| Some(change.to));
        }
    }
}
