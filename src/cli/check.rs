//! `coupond check`: validates, and says in a line what it found. Also run before every start and before a reload.

use std::io::{self, Write};

use crate::config::{Namespace, Settings};

/// Writes the summary of settings that were found right.
pub(super) fn run(settings: &Settings, out: &mut impl Write) -> io::Result<()> {
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
    notes
}
