//! `[banks.<name>]`: declared banks.

use serde::Deserialize;

use crate::config::judge::Judge;
use crate::config::{Audience, Bank, Name, OfferType, PersistPer, values};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section")]
pub(in crate::config) struct Raw {
    audience: Option<String>,
    persistent: Option<bool>,
    persist_per: Option<String>,
    offer_type: Option<String>,
    low_stock: Option<u64>,
    proof_code: Option<String>,
    fallback_code: Option<String>,
}

impl Raw {
    /// Whether it is for the site, as written.
    pub(super) fn is_site(&self) -> bool {
        self.audience.as_deref() == Some("site")
    }

    /// Whether it has a static code, as written.
    pub(super) fn has_fallback(&self) -> bool {
        self.fallback_code.is_some()
    }
}

const AUDIENCES: [(&str, Audience); 2] = [("communicate", Audience::Communicate), ("site", Audience::Site)];
const PERSIST_PER: [(&str, PersistPer); 2] = [("customer", PersistPer::Customer), ("channel", PersistPer::Channel)];

pub(in crate::config) fn judge(
    name: &str,
    raw: &Raw,
    longest_code: usize,
    judge: &mut Judge<'_>,
) -> Option<(Name, Bank)> {
    let at = |key| ["banks", name, key];
    let named = values::name("bank", name).map_err(|message| judge.refuse_key(&["banks", name], message)).ok();
    let audience = judge.choice(&at("audience"), raw.audience.as_deref(), &AUDIENCES, Audience::Communicate);
    let persist_per = judge.choice(&at("persist_per"), raw.persist_per.as_deref(), &PERSIST_PER, PersistPer::Customer);
    let offers = OfferType::EVERY.map(|offer| (offer.as_str(), offer));
    let offer_type = judge.choice(&at("offer_type"), raw.offer_type.as_deref(), &offers, OfferType::Other);
    let mut code = |key, given: Option<&String>| match given {
        Some(text) => judge.accept(&at(key), values::code(text, longest_code)).map(Some),
        None => Some(None),
    };
    let proof_code = code("proof_code", raw.proof_code.as_ref());
    let fallback_code = code("fallback_code", raw.fallback_code.as_ref());
    let consistent = combine(name, raw, audience, judge);
    let bank = Bank {
        name: named.clone()?,
        audience: audience?,
        persistent: raw.persistent.unwrap_or(true),
        persist_per: persist_per?,
        offer_type: offer_type?,
        low_stock: raw.low_stock,
        proof_code: proof_code?.unwrap_or_else(|| format!("PROOF-{}", name.to_ascii_uppercase())),
        fallback_code: fallback_code?,
    };
    consistent.then_some((named?, bank))
}

/// Refuses what cannot mean anything together.
fn combine(name: &str, raw: &Raw, audience: Option<Audience>, judge: &mut Judge<'_>) -> bool {
    let at = |key| ["banks", name, key];
    let persistent = raw.persistent.unwrap_or(true);
    let site = audience == Some(Audience::Site);
    if site && persistent {
        let message = "a site bank is never persistent; write `persistent = false`";
        // Left out, it is the section that lacks it.
        if raw.persistent.is_some() {
            judge.refuse(&at("persistent"), message);
        } else {
            judge.refuse_key(&["banks", name], message);
        }
        return false;
    }
    if raw.persist_per.is_some() && !persistent {
        judge.refuse(
            &at("persist_per"),
            "`persist_per` means nothing in a bank with `persistent = false`; remove one of them",
        );
        return false;
    }
    for (key, given) in [("proof_code", &raw.proof_code), ("fallback_code", &raw.fallback_code)] {
        if site && given.is_some() {
            judge.refuse(&at(key), format!("`{key}` means nothing in a site bank, which takes no batch; remove it"));
            return false;
        }
    }
    true
}
