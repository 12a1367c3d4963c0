//! `coupond contract`: the file contract for one client, from the live settings.

use std::io::Write;

use clap::Args;

use super::ConfigFile;
use crate::config::Name;
use crate::ledger::contract::{self, Surroundings};
use crate::openpgp::Certificate;
use crate::sftp::host_keys;
use crate::spool::Layout;

const EXAMPLES: &str = "Examples:
  coupond contract acme > acme-contract.md";

/// Write the file contract for one client: directories, columns, limits, reason codes, sample files
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Contract {
    /// The namespace
    namespace: String,
    #[command(flatten)]
    config: ConfigFile,
}

/// Writes it as Markdown. Needs no store; fingerprints are in it once the daemon has made its keys.
pub(super) fn run(command: &Contract, out: &mut impl Write) -> anyhow::Result<()> {
    let settings = command.config.load()?;
    let namespace = Name::parse(&command.namespace)
        .ok()
        .and_then(|name| settings.namespaces.get(&name))
        .ok_or_else(|| anyhow::anyhow!("find namespace `{}` in the configuration", command.namespace))?;
    let certificate = Layout::new(&settings.state_dir, &namespace.name).openpgp().join("coupond.asc");
    let around = Surroundings {
        host_keys: host_keys::load_existing(&settings.sftp.host_keys, &settings.state_dir)?
            .map_or_else(Vec::new, |keys| keys.fingerprints()),
        openpgp: if certificate.exists() {
            Certificate::load(&certificate)?.first().map(Certificate::fingerprint)
        } else {
            None
        },
    };
    write!(out, "{}", contract::write(&settings, namespace, &around))?;
    Ok(())
}
