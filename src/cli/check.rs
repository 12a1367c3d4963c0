//! `coupond check`: validates, and says in a line what it found. Also run before every start and before a reload.

use std::io::{self, Write};

use anyhow::Context as _;

use crate::config::{Namespace, Settings};
use crate::error_chain::chain;
use crate::openpgp::{Certificate, Keyring};
use crate::sftp::host_keys;

/// Looks at the keys that settings name, which were found right otherwise, and writes the summary.
pub(super) fn run(settings: &Settings, out: &mut impl Write) -> anyhow::Result<()> {
    if !settings.sftp.host_keys.is_empty() {
        host_keys::load_existing(&settings.sftp.host_keys, &settings.state_dir)?;
    }
    if !settings.openpgp.secret_keys.is_empty() {
        Keyring::load_existing(&settings.openpgp.secret_keys, &settings.state_dir)?;
    }
    summary(settings, out).context("write to standard output")
}

fn summary(settings: &Settings, out: &mut impl Write) -> io::Result<()> {
    let namespaces = settings.namespaces.values();
    let count = |of: fn(&Namespace) -> usize| namespaces.clone().map(of).sum::<usize>();
    writeln!(
        out,
        "ok: {}, {}, {}, {}",
        counted(settings.namespaces.len(), "namespace"),
        counted(count(|namespace| namespace.users.len()), "user"),
        counted(count(|namespace| namespace.banks.len()), "bank"),
        counted(count(|namespace| namespace.campaigns.len()), "campaign"),
    )?;
    for note in notes(settings) {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// What is allowed and still worth a second look.
fn notes(settings: &Settings) -> Vec<String> {
    let mut notes = Vec::new();
    if settings.namespaces.is_empty() {
        let directory = settings.file.with_file_name("namespaces");
        notes.push(format!("nobody can log in yet: put one file per brand into {}", directory.display()));
    }
    let notify = settings.namespaces.values().any(|namespace| !namespace.notify.is_empty());
    if notify && settings.mail.is_none() {
        notes.push("`notify` is set and `[mail]` is not: alerts are only logged".to_owned());
    }
    for namespace in settings.namespaces.values() {
        let campaigns = namespace.campaigns.values().filter_map(|campaign| campaign.encrypt_to.as_ref());
        for path in namespace.openpgp.signers.iter().chain(campaigns) {
            notes.extend(Certificate::load(path).err().map(|error| format!("failed to {}", chain(&error))));
        }
    }
    notes
}
