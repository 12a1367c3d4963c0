//! `coupond quarantine`: what waits for an admin, and what becomes of it.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::json;

use super::desk::{Ask, answer};
use super::uploads;
use crate::store::ledger::uploads::UploadFilter;

const EXAMPLES: &str = "Examples:
  coupond quarantine                   what waits, and why
  coupond quarantine release 42        the cause is mended: process it as if it had just come
  coupond quarantine discard 42        never apply it; the original stays in the archive for a while";

/// Show what waits for an admin; release or discard it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Quarantine {
    #[command(flatten)]
    ask: Ask,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List what is quarantined, newest first
    List,
    /// Process an upload as if it had just come
    Release {
        /// The upload's id
        id: i64,
    },
    /// Decide that an upload is never applied
    Discard {
        /// The upload's id
        id: i64,
    },
}

/// Lists, releases or discards.
pub(super) fn run(command: &Quarantine, out: &mut impl Write) -> anyhow::Result<()> {
    match command.action {
        None | Some(Action::List) => {
            let filter = UploadFilter { state: Some("quarantined"), limit: 10_000, kind: None };
            uploads::uploads(&command.ask.open()?, &filter, out)
        }
        Some(Action::Release { id }) => {
            let asked = command.ask.open_for_files()?;
            asked.upload(id)?.0.release(id)?;
            answer(asked.as_json, &json!({"id": id, "state": "received"}), out, |out| {
                writeln!(out, "upload {id} is received; the daemon processes it, `uploads show {id}` says how it ends")
            })
        }
        Some(Action::Discard { id }) => {
            let asked = command.ask.open_for_files()?;
            asked.upload(id)?.0.discard(id)?;
            answer(asked.as_json, &json!({"id": id, "state": "discarded"}), out, |out| {
                writeln!(out, "upload {id} is discarded")
            })
        }
    }
}
