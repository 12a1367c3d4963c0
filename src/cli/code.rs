//! `coupond code`: a code's whole life.

use std::io::Write;

use clap::Args;

use super::ConfigFile;
use super::desk::{AsJson, Opened, json, local, spinner, table};
use crate::config::Namespace;
use crate::ledger::history::{Life, Standing};
use crate::ledger::{ListReader, Step};

const EXAMPLES: &str = "Examples:
  coupond code SPRING-0001 --namespace acme
  coupond code SPRING-0001 --namespace acme --quick    without reading recipients lists again

Which batches kept a code for its customer stands only in their recipients lists; lists are read again as long as the
archive has them.";

/// Tell a code's life: uploaded, handed out, kept, redeemed; with file and line or batch, and why
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CodeCommand {
    /// The code
    code: String,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    pub(super) of: Of,
    #[command(flatten)]
    json: AsJson,
}

/// Whose, and how thoroughly.
#[derive(Debug, Args)]
pub(super) struct Of {
    /// The namespace
    #[arg(long, value_name = "NS")]
    pub(super) namespace: String,
    /// Don't read recipients lists again
    #[arg(long)]
    pub(super) quick: bool,
}

/// Tells it.
pub(super) fn run(command: &CodeCommand, out: &mut impl Write) -> anyhow::Result<()> {
    let opened = Opened::new(&command.config)?;
    let desk = opened.desk(&command.of.namespace)?;
    let life = with_lists(&opened, command.of.quick, |reader| Ok(desk.code(&command.code, reader)?))?;
    if command.json.json {
        return json(&life, out);
    }
    for spelling in &life.other_spellings {
        writeln!(out, "no bank has that spelling; this is about {spelling}")?;
    }
    for standing in &life.now {
        writeln!(out, "{}", stands(standing))?;
    }
    if life.now.is_empty() {
        writeln!(out, "no bank of {} has it", life.namespace)?;
    }
    Ok(draw(desk.namespace, &life, out)?)
}

/// Runs `ask` with a reader of lists, unless `quick`.
pub(super) fn with_lists<T>(
    opened: &Opened,
    quick: bool,
    ask: impl FnOnce(Option<&ListReader<'_>>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let doors = if quick { None } else { opened.doors()? };
    let Some(doors) = doors else { return ask(None) };
    let sign = spinner("looking");
    let reading = |batch: i64| sign.set_message(format!("reading the recipients list of batch {batch}"));
    let told = ask(Some(&ListReader { lists: &doors, reading: &reading }));
    sign.finish_and_clear();
    told
}

fn stands(standing: &Standing) -> String {
    let window = standing.end_date.map_or_else(|| "no end date".to_owned(), |date| format!("until {date}"));
    let customer = standing.customer.as_deref().map_or_else(String::new, |customer| format!(" by {customer}"));
    let what = match standing.state {
        "held" => format!("held{customer}"),
        "replaced" => format!("was held{customer}"),
        "redeemed" if standing.customer.is_some() => {
            format!("redeemed; was given to{}", customer.replacen(" by", "", 1))
        }
        "lapsed" if standing.customer.is_some() => format!("lapsed; was given to{}", customer.replacen(" by", "", 1)),
        state => state.to_owned(),
    };
    format!("{} in {}: {what}, {window}", standing.code, standing.bank)
}

/// The steps as a table, and what could not be found out.
pub(super) fn draw(namespace: &Namespace, life: &Life, out: &mut impl Write) -> std::io::Result<()> {
    let rows: Vec<_> = life.steps.iter().map(|step| row(namespace, step)).collect();
    table(["when", "what", "code", "customer", "where", "why"], &rows, out)?;
    if !life.unknown_batches.is_empty() {
        let batches: Vec<String> = life.unknown_batches.iter().map(ToString::to_string).collect();
        writeln!(
            out,
            "not known, because their lists were not read: whether batch {} kept a code",
            batches.join(", ")
        )?;
    }
    Ok(())
}

fn row(namespace: &Namespace, step: &Step) -> [String; 6] {
    let mut place = Vec::new();
    if let Some(batch) = &step.batch {
        place.push(format!("batch {} of {}", batch.id, batch.campaign));
    }
    if let Some(file) = &step.file {
        let line = file.line.map_or_else(String::new, |line| format!(" line {line}"));
        place.push(format!("upload {} {}{line}", file.upload_id, file.name));
    }
    let bank = step.bank.as_deref();
    let code = match (&step.code, bank) {
        (Some(code), Some(bank)) => format!("{bank}/{code}"),
        (Some(code), None) => code.clone(),
        (None, bank) => bank.unwrap_or_default().to_owned(),
    };
    [
        local(step.at, namespace),
        step.what.to_owned(),
        code,
        step.customer.clone().unwrap_or_default(),
        place.join(", "),
        step.why.clone(),
    ]
}
