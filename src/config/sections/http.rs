//! `[http]`: where health and metrics are served.

use std::net::{Ipv4Addr, SocketAddr};

use serde::Deserialize;

use super::sftp::address;
use crate::config::judge::Judge;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section")]
pub(in crate::config) struct Raw {
    listen: Option<String>,
}

const DEFAULT_PORT: u16 = 9187;

pub(in crate::config) fn judge(raw: &Raw, judge: &mut Judge<'_>) -> Option<SocketAddr> {
    match &raw.listen {
        None => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))),
        Some(text) => judge.accept(&["http", "listen"], address(text)),
    }
}
