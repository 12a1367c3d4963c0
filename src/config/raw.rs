//! The two kinds of file as the admin writes them: everything optional, nothing unknown.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::sections::{
    banks, campaigns, database, http, limits, mail, openpgp, redemptions, sftp, signing, spool, users,
};

/// `coupond.toml`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Main {
    pub(super) state_dir: Option<String>,
    pub(super) sftp: sftp::Raw,
    pub(super) database: database::Raw,
    pub(super) mail: Option<mail::Raw>,
    pub(super) openpgp: openpgp::Raw,
    pub(super) http: http::Raw,
    pub(super) spool: spool::Raw,
    pub(super) limits: limits::Raw,
}

/// `namespaces/<name>.toml`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Namespace {
    pub(super) timezone: Option<String>,
    pub(super) notify: Vec<String>,
    pub(super) exchange: bool,
    pub(super) may_delete_collected: bool,
    pub(super) new_banks: Option<String>,
    pub(super) users: BTreeMap<String, users::Raw>,
    pub(super) openpgp: signing::Raw,
    pub(super) banks: BTreeMap<String, banks::Raw>,
    pub(super) campaigns: BTreeMap<String, campaigns::Raw>,
    pub(super) redemptions: redemptions::Raw,
}

/// A number of bytes, or a text with a unit.
#[derive(Clone, Debug)]
pub(super) enum Size {
    Bytes(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes or a size such as \"4GiB\"")
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size::Bytes(bytes))
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<Size, E> {
        u64::try_from(bytes).map(Size::Bytes).map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(bytes), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
        Ok(Size::Text(text.to_owned()))
    }
}
