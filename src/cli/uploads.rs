//! `coupond uploads`: what came in and what became of it; undo, replay.

use std::io::Write;

use clap::{Args, Subcommand};

use super::desk::{Ask, Asked, answer, json, list, local, progress, size};
use crate::config::Namespace;
use crate::ledger::undo::UndoneLot;
use crate::ledger::uploads::Upload;
use crate::spool::Kind;
use crate::store::ledger::uploads::UploadFilter;

const EXAMPLES: &str = "Examples:
  coupond uploads                                   the newest 20, of every namespace
  coupond uploads list --kind redemptions --limit 7
  coupond uploads list --namespace acme --state rejected
  coupond uploads show 42                           with its report
  coupond uploads undo 42                           void what it brought and nobody was given
  coupond uploads replay 42                         process its original again, as a new upload";

/// Show uploads; undo one, process one again
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Uploads {
    #[command(flatten)]
    ask: Ask,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List uploads, newest first
    List(Filter),
    /// Show one upload with its report
    Show {
        /// The upload's id
        id: i64,
    },
    /// Void the codes that a coupons upload brought and that nobody was given yet
    Undo {
        /// The upload's id
        id: i64,
    },
    /// Process the archived original of a refused or undone upload again, as a new upload
    Replay {
        /// The upload's id
        id: i64,
    },
}

#[derive(Debug, Args)]
struct Filter {
    /// Only this kind: coupons, redemptions, recipients
    #[arg(long, value_parser = parse_kind)]
    kind: Option<Kind>,
    /// Only in this state, for example rejected or quarantined
    #[arg(long, value_name = "STATE", value_parser = STATES)]
    state: Option<String>,
    /// At most so many per namespace
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
}

const STATES: [&str; 14] = [
    "receiving",
    "partial",
    "awaiting_rename",
    "received",
    "active",
    "deferred",
    "applied",
    "rejected",
    "quarantined",
    "duplicate",
    "checked",
    "removed",
    "purged",
    "discarded",
];

pub(super) fn parse_kind(text: &str) -> Result<Kind, String> {
    Kind::parse(text).ok_or_else(|| "one of coupons, redemptions, recipients".to_owned())
}

/// Lists, shows, undoes or replays.
pub(super) fn run(command: &Uploads, out: &mut impl Write) -> anyhow::Result<()> {
    match &command.action {
        None => uploads(&command.ask.open()?, &UploadFilter { limit: 20, ..UploadFilter::default() }, out),
        Some(Action::List(filter)) => {
            let filter = UploadFilter { kind: filter.kind, state: filter.state.as_deref(), limit: filter.limit };
            uploads(&command.ask.open()?, &filter, out)
        }
        Some(Action::Show { id }) => show(&command.ask.open()?, *id, out),
        Some(Action::Undo { id }) => undo(&command.ask.open()?, *id, out),
        Some(Action::Replay { id }) => replay(&command.ask.open_for_files()?, *id, out),
    }
}

/// Lists what `filter` lets through.
pub(super) fn uploads(asked: &Asked<'_>, filter: &UploadFilter<'_>, out: &mut impl Write) -> anyhow::Result<()> {
    let found = asked.newest_first(|desk| desk.uploads(filter), |upload| upload.id)?;
    let header = ["id", "place", "name", "size", "received", "state", "why"];
    let row = |namespace: &Namespace, upload: &Upload| {
        [
            upload.id.to_string(),
            format!("{}/{}", upload.namespace, place(upload)),
            upload.name.clone(),
            size(upload.bytes),
            local(upload.received_at.unwrap_or(upload.created_at), namespace),
            upload.state.clone(),
            upload.reason.clone().unwrap_or_default(),
        ]
    };
    list(asked.as_json, &found, ("no uploads", header), row, out)
}

fn place(upload: &Upload) -> String {
    let check = if upload.dry_run { "check/" } else { "" };
    match &upload.target {
        Some(target) => format!("{check}{}/{target}", upload.kind),
        None => format!("{check}{}", upload.kind),
    }
}

fn show(asked: &Asked<'_>, id: i64, out: &mut impl Write) -> anyhow::Result<()> {
    let (desk, upload) = asked.upload(id)?;
    if asked.as_json {
        return json(&upload, out);
    }
    writeln!(out, "upload {id}: {} in /{}/ of {}", upload.name, place(&upload), upload.namespace)?;
    let received = upload.received_at.map_or_else(|| "not yet".to_owned(), |at| local(at, desk.namespace));
    let from = upload.user.as_deref().map_or_else(|| "put there locally".to_owned(), |user| format!("sent by {user}"));
    writeln!(out, "{from}, received {received}, {}", size(upload.bytes))?;
    writeln!(out, "state: {}", upload.state)?;
    if let (Some(reason), Some(message)) = (&upload.reason, &upload.message) {
        writeln!(out, "why: {reason}: {message}")?;
    }
    if let Some(report) = &upload.report {
        summary(report, out)?;
        writeln!(out, "report: {}/{}.{id}.report.json", desk.layout.reports().display(), upload.name)?;
    }
    Ok(())
}

/// What a report says, for people.
pub(super) fn summary(report: &serde_json::Value, out: &mut impl Write) -> anyhow::Result<()> {
    let count = |pointer: &str| report.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or_default();
    let rows = ["read", "accepted", "rejected", "duplicate", "unknown"];
    let rows: Vec<String> = rows.iter().map(|what| format!("{} {what}", count(&format!("/rows/{what}")))).collect();
    writeln!(out, "rows: {}", rows.join(", "))?;
    let each = |key: &str| report.get(key).and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    let text = |value: &serde_json::Value, key: &str| {
        value.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let number =
        |value: &serde_json::Value, key: &str| value.get(key).and_then(serde_json::Value::as_i64).unwrap_or_default();
    for bank in each("banks") {
        let (before, after) = (number(&bank, "before"), number(&bank, "after"));
        writeln!(out, "bank {}: {before} before, {after} after", text(&bank, "bank"))?;
    }
    if let Some(earlier) = report.get("repeats_upload").and_then(serde_json::Value::as_i64) {
        writeln!(out, "repeats upload {earlier}")?;
    }
    for warning in each("warnings") {
        let (reason, message, times) = (text(&warning, "reason"), text(&warning, "message"), number(&warning, "count"));
        let times = if times == 1 { String::new() } else { format!(" ({times} times)") };
        writeln!(out, "warning: {reason}: {message}{times}")?;
    }
    Ok(())
}

fn undo(asked: &Asked<'_>, id: i64, out: &mut impl Write) -> anyhow::Result<()> {
    let lots = asked.upload(id)?.0.undo(id)?;
    answer(asked.as_json, &lots, out, |out| {
        for lot in &lots {
            let window = lot.end_date.as_deref().map_or_else(String::new, |date| format!(" until {date}"));
            let UndoneLot { bank, added, voided, handed_out, redeemed, .. } = lot;
            writeln!(
                out,
                "{bank}{window}: {voided} of {added} codes are void, {handed_out} handed out, {redeemed} redeemed"
            )?;
        }
        if lots.iter().any(|lot| lot.handed_out > 0) {
            writeln!(out, "codes that were handed out stay with the customers who have them")?;
        }
        writeln!(out, "void codes come in as new ones when they are sent again; `uploads replay {id}` sends them again")
    })
}

fn replay(asked: &Asked<'_>, id: i64, out: &mut impl Write) -> anyhow::Result<()> {
    let (desk, upload) = asked.upload(id)?;
    let bar = progress(u64::try_from(upload.bytes).unwrap_or(0), "copying");
    let again = desk.replay(id, &mut |done| bar.set_position(done))?;
    bar.finish_and_clear();
    answer(asked.as_json, &serde_json::json!({"id": again, "copy_of": id}), out, |out| {
        let then = "the daemon processes it";
        writeln!(out, "upload {again} is a copy of upload {id}; {then}, `uploads show {again}` says how it ends")
    })
}
