//! `[sftp]`: where the SFTP endpoint listens, and with which host keys.

use std::net::{Ipv4Addr, SocketAddr};

use serde::Deserialize;

use crate::config::SftpSettings;
use crate::config::judge::Judge;
use crate::config::values::short;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a section")]
pub(in crate::config) struct Raw {
    listen: Option<Vec<String>>,
    host_keys: Vec<String>,
}

const DEFAULT_PORT: u16 = 2222;

pub(in crate::config) fn judge(raw: &Raw, judge: &mut Judge<'_>) -> Option<SftpSettings> {
    let listen = listen(raw, judge);
    let host_keys = judge.files(&["sftp", "host_keys"], &raw.host_keys, "host key");
    Some(SftpSettings { listen: listen?, host_keys: host_keys? })
}

fn listen(raw: &Raw, judge: &mut Judge<'_>) -> Option<Vec<SocketAddr>> {
    let path = ["sftp", "listen"];
    let Some(given) = &raw.listen else {
        return Some(vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT))]);
    };
    if given.is_empty() {
        judge.refuse(&path, "`listen` is empty; give at least one address, such as \"0.0.0.0:2222\"");
    }
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for (index, text) in given.iter().enumerate() {
        match address(text) {
            Err(message) => judge.refuse_item(&path, index, message),
            // Port 0 takes any free port, so twice is two ports.
            Ok(address) if address.port() != 0 && addresses.contains(&address) => {
                judge.refuse_item(&path, index, format!("\"{address}\" is listed twice; remove one"));
            }
            Ok(address) => addresses.push(address),
        }
    }
    (!addresses.is_empty() && addresses.len() == given.len()).then_some(addresses)
}

/// An IP address with a port. Names are not resolved: what one resolves to can change between two starts.
pub(in crate::config) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("\"{}\" is not an address with a port; write it like \"0.0.0.0:2222\" or \"[::]:2222\"", short(text))
    })
}
