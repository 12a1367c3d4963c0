//! `coupond customer`: what a customer got and why; `--erase` unlinks the id.

use std::io::Write;

use anyhow::bail;
use clap::Args;

use super::ConfigFile;
use super::code::{Of, draw, with_lists};
use super::desk::{AsJson, Opened, json};
use crate::ledger::Desk;

const EXAMPLES: &str = "Examples:
  coupond customer c-1001 --namespace acme                    every code, and why
  coupond customer c-1001 --namespace acme --erase --yes      on a privacy request

Erasing puts a random token in the place of the id, so that counts and codes stay. It does not rewrite files: recipients
lists in the archive go after `archive_days`, assignment files are yours to delete. A list that still holds the id gives
that customer a new code.";

/// Tell what a customer got and why; or erase the id
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CustomerCommand {
    /// The customer_id
    id: String,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    of: Of,
    #[command(flatten)]
    json: AsJson,
    /// Unlink the id everywhere in the store; counts and codes stay
    #[arg(long)]
    erase: bool,
    /// Yes, erase; it cannot be taken back
    #[arg(long, requires = "erase")]
    yes: bool,
}

/// Tells or erases.
pub(super) fn run(command: &CustomerCommand, out: &mut impl Write) -> anyhow::Result<()> {
    if command.erase && !command.yes {
        bail!("erase the customer: it cannot be taken back; add `--yes` if you are sure");
    }
    let opened = Opened::new(&command.config)?;
    let desk = opened.desk(&command.of.namespace)?;
    if command.erase {
        return erase(&desk, &command.id, command.json, out);
    }
    let life = with_lists(&opened, command.of.quick, |reader| Ok(desk.customer(&command.id, reader)?))?;
    if command.json.json {
        return json(&life, out);
    }
    for standing in &life.now {
        let window = standing.end_date.map_or_else(|| "no end date".to_owned(), |date| format!("until {date}"));
        let channel = standing.channel.as_deref().map_or_else(String::new, |channel| format!(" ({channel})"));
        let state = if standing.state == "held" { "holds" } else { "last had" };
        let since = if standing.state == "held" { String::new() } else { format!(", {}", standing.state) };
        writeln!(out, "{state} {} of {}{channel}, {window}{since}", standing.code, standing.bank)?;
    }
    if life.now.is_empty() {
        writeln!(out, "holds no code")?;
    }
    Ok(draw(desk.namespace, &life, out)?)
}

fn erase(desk: &Desk<'_>, id: &str, as_json: AsJson, out: &mut impl Write) -> anyhow::Result<()> {
    let erased = desk.erase(id)?;
    if as_json.json {
        return json(&erased, out);
    }
    let (assignments, left_out) = (erased.assignments, erased.left_out);
    writeln!(
        out,
        "erased: {assignments} codes given, {left_out} times left out; the store knows the customer as {} now",
        erased.token
    )?;
    writeln!(out, "files are as they were: recipients lists in the archive, assignment files, rejects files")?;
    Ok(())
}
