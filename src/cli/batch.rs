//! `coupond batch`: what ran, what waits and why; run a campaign now.

use std::io::Write;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::desk::{Ask, Asked, json, list, local};
use crate::config::{Name, Namespace};
use crate::ledger::batches::Batch;
use crate::store::ledger::batches::BatchFilter;

const EXAMPLES: &str = "Examples:
  coupond batch                              the newest 20, of every namespace
  coupond batch list --campaign winback --state waiting
  coupond batch show 7                       with its manifest
  coupond batch run winback                  its lists now, whatever the schedule says";

/// Show batches; run a campaign now
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BatchCommand {
    #[command(flatten)]
    ask: Ask,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List batches, newest first
    List {
        /// Only this campaign
        #[arg(long)]
        campaign: Option<String>,
        /// Only in this state
        #[arg(long, value_name = "STATE", value_parser = ["due", "waiting", "assigned", "exported", "collected"])]
        state: Option<String>,
        /// At most so many per namespace
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
    },
    /// Show one batch with its manifest
    Show {
        /// The batch's id
        id: i64,
    },
    /// Make the accepted lists of a campaign due now, and let its waiting batches look again
    Run {
        /// The campaign
        campaign: String,
    },
}

/// Lists, shows or runs.
pub(super) fn run(command: &BatchCommand, out: &mut impl Write) -> anyhow::Result<()> {
    let asked = command.ask.open()?;
    match &command.action {
        None => batches(&asked, &BatchFilter { limit: 20, ..BatchFilter::default() }, out),
        Some(Action::List { campaign, state, limit }) => {
            let (campaign, state) = (campaign.as_deref(), state.as_deref());
            batches(&asked, &BatchFilter { campaign, state, limit: *limit, ..BatchFilter::default() }, out)
        }
        Some(Action::Show { id }) => show(&asked, *id, out),
        Some(Action::Run { campaign }) => run_campaign(&asked, campaign, out),
    }
}

fn batches(asked: &Asked<'_>, filter: &BatchFilter<'_>, out: &mut impl Write) -> anyhow::Result<()> {
    let found = asked.newest_first(|desk| desk.batches(filter), |batch| batch.id)?;
    let header = ["id", "campaign", "list", "bank", "due", "state", "why"];
    list(asked.as_json, &found, ("no batches", header), row, out)
}

fn row(namespace: &Namespace, batch: &Batch) -> [String; 7] {
    let proof = if batch.proof { " (proof)" } else { "" };
    [
        batch.id.to_string(),
        format!("{}/{}", batch.namespace, batch.campaign),
        format!("{}{proof}", batch.list),
        batch.bank.clone(),
        local(batch.due_at, namespace),
        batch.state.clone(),
        why(batch),
    ]
}

/// Why a batch is not done.
pub(super) fn why(batch: &Batch) -> String {
    batch.waiting_for.clone().unwrap_or_default()
}

fn show(asked: &Asked<'_>, id: i64, out: &mut impl Write) -> anyhow::Result<()> {
    let filter = BatchFilter { id: Some(id), limit: 1, ..BatchFilter::default() };
    let (desk, batch) =
        asked.desk_that(&format!("batch {id}"), |desk| Ok(desk.batches(&filter)?.into_iter().next()))?;
    if asked.as_json {
        return json(&batch, out);
    }
    let at = |at| local(at, desk.namespace);
    let proof = if batch.proof { ", a test send" } else { "" };
    writeln!(out, "batch {id}: campaign {} of {}, bank {}{proof}", batch.campaign, batch.namespace, batch.bank)?;
    writeln!(out, "list: {} (upload {})", batch.list, batch.upload_id)?;
    writeln!(out, "due: {}, business date {}", at(batch.due_at), batch.business_date)?;
    writeln!(out, "state: {}", batch.state)?;
    if batch.waiting_for.is_some() {
        writeln!(out, "why: {}", why(&batch))?;
    }
    if let (Some(need), Some(stock)) = (batch.need, batch.stock) {
        writeln!(out, "codes: {need} needed, {stock} in stock")?;
    }
    if let Some(send_at) = batch.send_at {
        let as_of = batch.redemptions_as_of.map_or_else(|| "never".to_owned(), at);
        writeln!(out, "end dates judged at {}; newest redemption file: {as_of}", at(send_at))?;
    }
    if let Some(exported_at) = batch.exported_at {
        writeln!(out, "exported: {}", at(exported_at))?;
    }
    if let Some(manifest) = &batch.manifest {
        files(manifest, out)?;
    }
    for fetched in &batch.fetched {
        writeln!(out, "fetched: {} by {}, {}", fetched.file, fetched.user, at(fetched.at))?;
    }
    Ok(())
}

fn files(manifest: &serde_json::Value, out: &mut impl Write) -> anyhow::Result<()> {
    if let Some(rows) = manifest.get("rows").and_then(serde_json::Value::as_object) {
        let rows = rows.iter().filter(|(_, count)| count.as_u64() != Some(0));
        let rows: Vec<String> = rows.map(|(outcome, count)| format!("{count} {outcome}")).collect();
        writeln!(out, "rows: {}", rows.join(", "))?;
    }
    for file in manifest.get("files").and_then(serde_json::Value::as_array).into_iter().flatten() {
        let name = file.get("name").and_then(serde_json::Value::as_str).unwrap_or_default();
        let sha256 = file.get("sha256").and_then(serde_json::Value::as_str).unwrap_or_default();
        writeln!(out, "file: {name}, SHA-256 {sha256}")?;
    }
    Ok(())
}

fn run_campaign(asked: &Asked<'_>, campaign: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let name = Name::parse(campaign).context("read the campaign's name")?;
    let what = format!("campaign `{name}` in the configuration");
    let has = |desk: &crate::ledger::Desk<'_>| Ok(desk.namespace.campaigns.contains_key(&name).then_some(()));
    let holders = asked.desks()?.iter().filter(|desk| desk.namespace.campaigns.contains_key(&name)).count();
    anyhow::ensure!(holders < 2, "run campaign `{name}`: several namespaces have it; say `--namespace NS`");
    let (desk, ()) = asked.desk_that(&what, has)?;
    let ran = desk.run_campaign(&name)?;
    if asked.as_json {
        return json(&ran, out);
    }
    let ids = |ids: &[i64]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if ran.made.is_empty() && ran.nudged.is_empty() {
        return Ok(writeln!(
            out,
            "nothing to run: no accepted list waits in /recipients/{name}/ of {}",
            desk.namespace.name
        )?);
    }
    if !ran.made.is_empty() {
        writeln!(out, "due now: batch {}", ids(&ran.made))?;
    }
    if !ran.nudged.is_empty() {
        writeln!(out, "looks again now: batch {}", ids(&ran.nudged))?;
    }
    if !asked.opened.daemon_runs() {
        writeln!(out, "no daemon runs here: the next one to start does the work")?;
    }
    Ok(())
}
