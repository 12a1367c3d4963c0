//! `coupond status`: feeds, queues, what waits and why, what runs next, what runs low.

use std::io::Write;

use clap::Args;

use super::desk::{Ask, json, local};
use crate::config::Namespace;
use crate::ledger::status::{Feed, Status};

const EXAMPLES: &str = "Examples:
  coupond status
  coupond status --namespace acme
  coupond status --json | jq '.[].batches[].waiting_for'";

/// Show how every namespace stands: feeds, queues, batches, schedules, stock
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusCommand {
    #[command(flatten)]
    ask: Ask,
}

/// Asks and draws.
pub(super) fn run(command: &StatusCommand, out: &mut impl Write) -> anyhow::Result<()> {
    let asked = command.ask.open()?;
    let desks = asked.desks()?;
    let mut statuses = Vec::new();
    for desk in &desks {
        statuses.push((desk.namespace, desk.status()?));
    }
    if asked.as_json {
        return json(&statuses.iter().map(|(_, status)| status).collect::<Vec<_>>(), out);
    }
    writeln!(out, "daemon: {}", if asked.opened.daemon_runs() { "runs" } else { "does not run here" })?;
    for (namespace, status) in &statuses {
        draw(namespace, status, out)?;
    }
    Ok(())
}

fn draw(namespace: &Namespace, status: &Status, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "\n{}", status.namespace)?;
    for feed in &status.feeds {
        writeln!(out, "  {:11}  {}", feed.kind, feed_line(namespace, feed))?;
    }
    for queue in &status.queues {
        let act = if queue.state == "quarantined" { "; see `coupond quarantine`" } else { "" };
        let (state, uploads, oldest) = (&queue.state, queue.uploads, local(queue.oldest, namespace));
        writeln!(out, "  queue        {uploads} {state}, the oldest since {oldest}{act}")?;
    }
    for batch in &status.batches {
        let why = batch.waiting_for.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        writeln!(out, "  batch        {} of {} is {}{why}", batch.id, batch.campaign, batch.state)?;
    }
    for next in &status.campaigns {
        let when = match next.at {
            Some(at) => format!("next {}", local(at, namespace)),
            None if next.schedule == "on-arrival" => "runs when a list arrives".to_owned(),
            None => "never runs again".to_owned(),
        };
        let lists = if next.lists.is_empty() { String::new() } else { format!(", with {}", next.lists.join(", ")) };
        writeln!(out, "  campaign     {}: {when}{lists}", next.campaign)?;
    }
    for bank in &status.banks {
        let low = match (bank.low, bank.low_stock) {
            (true, Some(threshold)) => format!(", LOW (alerts from {threshold} on)"),
            (true, None) => ", LOW".to_owned(),
            (false, _) => String::new(),
        };
        writeln!(out, "  bank         {}: {} remain{low}", bank.bank, bank.remaining)?;
    }
    Ok(())
}

fn feed_line(namespace: &Namespace, feed: &Feed) -> String {
    let Some(last) = &feed.last else {
        return if feed.stale { "no file yet, STALE".to_owned() } else { "no file yet".to_owned() };
    };
    let when = last.received_at.map_or_else(String::new, |at| format!(", {}", local(at, namespace)));
    let applied = match feed.applied_at {
        _ if last.state == "applied" => String::new(),
        Some(at) => format!("; applied last {}", local(at, namespace)),
        None => "; never one applied".to_owned(),
    };
    let stale = if feed.stale { ", STALE" } else { "" };
    format!("{} ({}, upload {}{when}){applied}{stale}", last.name, last.state, last.upload_id)
}
