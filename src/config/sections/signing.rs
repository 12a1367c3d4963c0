//! `[openpgp]` of a namespace: what inbound files must be.

use serde::Deserialize;

use crate::config::judge::Judge;
use crate::config::{NamespaceOpenpgp, Require};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section")]
pub(in crate::config) struct Raw {
    require: Option<String>,
    signers: Vec<String>,
}

const REQUIRE: [(&str, Require); 3] =
    [("none", Require::None), ("encrypted", Require::Encrypted), ("signed", Require::Signed)];

pub(in crate::config) fn judge(raw: &Raw, judge: &mut Judge<'_>) -> Option<NamespaceOpenpgp> {
    let path = ["openpgp", "require"];
    let require = judge.choice(&path, raw.require.as_deref(), &REQUIRE, Require::None);
    let signers = judge.files(&["openpgp", "signers"], &raw.signers, "certificate");
    if require == Some(Require::Signed) && raw.signers.is_empty() {
        judge.refuse(
            &path,
            "`require = \"signed\"` without `signers` would refuse every file; list the certificates that may sign",
        );
        return None;
    }
    Some(NamespaceOpenpgp { require: require?, signers: signers? })
}
