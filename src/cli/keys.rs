//! `coupond keys`: the daemon's own keys and the certificates that the configuration names.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::ConfigFile;
use super::desk::{AsJson, answer, table};
use crate::clock::Clock;
use crate::config::Settings;
use crate::openpgp::{Certificate, Keyring, Purpose, generate_key_file};
use crate::sftp::{HostKeys, host_keys};

const EXAMPLES: &str = "Examples:
  coupond keys                                        what there is, and when it expires
  coupond keys export > coupond.asc                   the certificate that clients encrypt to
  coupond keys export --host                          the public parts of the SSH host keys
  coupond keys generate /etc/coupond/openpgp/2027.key a new secret key, to be listed first in secret_keys";

/// Show the daemon's keys and its clients' certificates; export, generate
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Keys {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    json: AsJson,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List keys and certificates
    List,
    /// Print the OpenPGP certificate that clients encrypt to
    Export {
        /// Print the SSH host keys instead, one a line
        #[arg(long)]
        host: bool,
    },
    /// Make a new OpenPGP secret key in a new file
    Generate {
        /// The file; it must not exist
        file: PathBuf,
    },
}

const NOT_YET: &str = "find the daemon's own keys: it makes them at its first start";

/// One key or certificate.
#[derive(Debug, Serialize)]
struct Line {
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<String>,
    fingerprint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Lists, exports or generates.
pub(super) fn run(command: &Keys, out: &mut impl Write) -> anyhow::Result<()> {
    let settings = command.config.load()?;
    let now = Clock::system().now();
    match &command.action {
        None | Some(Action::List) => list(&settings, command.json.json, out),
        Some(Action::Export { host: false }) => {
            let keyring = Keyring::load_existing(&settings.openpgp.secret_keys, &settings.state_dir)?;
            Ok(out.write_all(&keyring.context(NOT_YET)?.certificate()?)?)
        }
        Some(Action::Export { host: true }) => {
            let keys = host_keys::load_existing(&settings.sftp.host_keys, &settings.state_dir)?;
            for line in keys.context(NOT_YET)?.public_lines() {
                writeln!(out, "{line}")?;
            }
            Ok(())
        }
        Some(Action::Generate { file }) => {
            let fingerprint = generate_key_file(file, now)?;
            writeln!(out, "made {} with the key {fingerprint}", file.display())?;
            writeln!(
                out,
                "next: put it first in `secret_keys`, keep the old key behind it, restart, tell your clients"
            )?;
            Ok(())
        }
    }
}

fn list(settings: &Settings, as_json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    let keyring = Keyring::load_existing(&settings.openpgp.secret_keys, &settings.state_dir)?;
    let own = |what, fingerprint| Line { what, namespace: None, of: None, fingerprint, expires: None, problem: None };
    for (place, fingerprint) in keyring.iter().flat_map(Keyring::fingerprints).enumerate() {
        lines.push(own(if place == 0 { "OpenPGP, in /openpgp/" } else { "OpenPGP, older" }, fingerprint));
    }
    let host = host_keys::load_existing(&settings.sftp.host_keys, &settings.state_dir)?;
    lines.extend(host.iter().flat_map(HostKeys::fingerprints).map(|fingerprint| own("SSH host key", fingerprint)));
    for namespace in settings.namespaces.values() {
        let name = namespace.name.as_str();
        for path in &namespace.openpgp.signers {
            lines.extend(certificates(("signer", Purpose::Sign), (name, None), path));
        }
        for campaign in namespace.campaigns.values() {
            if let Some(path) = &campaign.encrypt_to {
                lines.extend(certificates(
                    ("encrypt_to", Purpose::Encrypt),
                    (name, Some(campaign.name.as_str())),
                    path,
                ));
            }
        }
    }
    answer(as_json, &lines, out, |out| {
        let rows: Vec<_> = lines.iter().map(cells).collect();
        table(["what", "of", "fingerprint", "expires", "problem"], &rows, out)?;
        keyring.iter().flat_map(Keyring::warnings).try_for_each(|warning| writeln!(out, "note: {warning}"))
    })
}

fn cells(line: &Line) -> [String; 5] {
    let of = match (&line.namespace, &line.of) {
        (Some(namespace), Some(of)) => format!("{namespace}/{of}"),
        (namespace, _) => namespace.clone().unwrap_or_default(),
    };
    let (expires, problem) = (line.expires.clone(), line.problem.clone());
    [line.what.to_owned(), of, line.fingerprint.clone(), expires.unwrap_or_default(), problem.unwrap_or_default()]
}

/// The certificates in one file; one that cannot be read is a line too.
fn certificates(
    (what, purpose): (&'static str, Purpose),
    (namespace, of): (&str, Option<&str>),
    path: &Path,
) -> Vec<Line> {
    let now = Clock::system().now();
    let line = |fingerprint, expires, problem| Line {
        what,
        namespace: Some(namespace.to_owned()),
        of: of.map(ToOwned::to_owned),
        fingerprint,
        expires,
        problem,
    };
    match Certificate::load(path) {
        Ok(certificates) => certificates
            .iter()
            .map(|certificate| {
                let expires = certificate.expires(now).map(|at| at.date_naive().to_string());
                let problem = certificate.usable(purpose, now).err().map(|unusable| unusable.to_string());
                line(certificate.fingerprint(), expires, problem)
            })
            .collect(),
        Err(error) => vec![line(String::new(), None, Some(crate::error_chain::chain(&error)))],
    }
}
