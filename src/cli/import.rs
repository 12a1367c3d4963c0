//! `coupond import`: a file into the flow by command, and its report.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;

use super::desk::{AsJson, Opened, json, progress, spinner};
use super::uploads::{parse_kind, summary};
use super::{ConfigFile, FAILED, WrongUsage};
use crate::config::{LiveSettings, Name};
use crate::daemon;
use crate::doorbell::Doorbell;
use crate::error_chain::chain;
use crate::inbound::Inbound;
use crate::ledger::uploads::Upload;
use crate::ledger::{Desk, import::with_until};
use crate::spool::Kind;
use crate::telemetry::Metrics;

const EXAMPLES: &str = "Examples:
  coupond import coupons spring.csv.gpg --namespace acme --bank spring26 --until 2026-12-31
  coupond import coupons all-banks.csv --namespace acme --check
  coupond import redemptions used.csv --namespace acme
  coupond import recipients list.csv --namespace acme --campaign winback

The file takes the same path as one that a client sends, report included. Exit code 1: it was refused.";

/// How often the verdict is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A daemon looks for work every two seconds. When none has begun after this long, the command does the work itself.
const DAEMON_BEGINS: Duration = Duration::from_secs(10);

/// Put a file into the flow, wait for its verdict and print the report
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Import {
    /// coupons, redemptions or recipients
    #[arg(value_parser = parse_kind)]
    kind: Kind,
    /// The file: CSV, plain, gzip or OpenPGP
    file: PathBuf,
    #[command(flatten)]
    config: ConfigFile,
    /// The namespace
    #[arg(long, value_name = "NS")]
    namespace: String,
    /// The bank of all codes (coupons); without it the column bank_name says
    #[arg(long, value_name = "B", conflicts_with = "campaign")]
    bank: Option<String>,
    /// The campaign (recipients)
    #[arg(long, value_name = "C")]
    campaign: Option<String>,
    /// The end date of all codes (coupons), YYYY-MM-DD
    #[arg(long, value_name = "D")]
    until: Option<String>,
    /// Only report; apply nothing
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    json: AsJson,
}

/// Takes the file in and says how it ended.
pub(super) fn run(command: &Import, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let target = target(command)?;
    let name = name(&command.file, command.kind, command.until.as_deref())?;
    let opened = Opened::for_files(&command.config)?;
    let desk = opened.desk(&command.namespace)?;
    let runs = opened.daemon_runs();
    if !runs {
        let keyring = opened.keyring()?;
        daemon::agree(&opened.settings, &opened.store, &keyring, &opened.clock)?;
    }
    let place = desk.place(command.kind, target.as_ref(), command.check)?;
    let bar = progress(std::fs::metadata(&command.file).map_or(0, |metadata| metadata.len()), "copying");
    let id = desk.import(&place, &name, &command.file, &mut |done| bar.set_position(done))?;
    bar.finish_and_clear();
    let upload = verdict(&opened, &desk, id, runs)?;
    if command.json.json {
        json(&upload, out)?;
    } else {
        draw(&desk, &upload, out)?;
    }
    let refused = matches!(upload.state.as_str(), "rejected" | "quarantined") || upload.reason.is_some();
    Ok(if refused { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

fn target(command: &Import) -> anyhow::Result<Option<Name>> {
    let (given, what) = match command.kind {
        Kind::Recipients => (&command.campaign, "campaign"),
        Kind::Coupons | Kind::Redemptions => (&command.bank, "bank"),
    };
    let wrong = if command.kind == Kind::Recipients { &command.bank } else { &command.campaign };
    let usage = |why: &str| WrongUsage(format!("import {}: {why}", command.kind.as_str()));
    if wrong.is_some() {
        return Err(usage("only recipients have a `--campaign`, only coupons a `--bank`").into());
    }
    if command.kind == Kind::Redemptions && given.is_some() {
        return Err(usage("redemptions hold for every bank, so they have no `--bank`").into());
    }
    if command.kind == Kind::Recipients && given.is_none() {
        return Err(usage("say for which campaign: `--campaign NAME`").into());
    }
    given.as_deref().map(Name::parse).transpose().with_context(|| format!("read the {what}'s name"))
}

/// The file's own name, with the end date in it.
fn name(file: &Path, kind: Kind, until: Option<&str>) -> anyhow::Result<String> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("import `{}`: its name must be UTF-8", file.display()))?;
    match until {
        None => Ok(name.to_owned()),
        Some(_) if kind != Kind::Coupons => {
            Err(WrongUsage(format!("import {}: only coupons have an end date", kind.as_str())).into())
        }
        Some(until) => with_until(name, until).map_err(|error| WrongUsage(chain(&error)).into()),
    }
}

/// Waits until upload `id` has its verdict. Leases keep this and a daemon from doing the same work twice.
fn verdict(opened: &Opened, desk: &Desk<'_>, id: i64, daemon_runs: bool) -> anyhow::Result<Upload> {
    let sign = spinner("waiting for the daemon");
    let (bell, begun) = (Doorbell::default(), Instant::now());
    let mut patience = if daemon_runs { DAEMON_BEGINS } else { Duration::ZERO };
    loop {
        let upload = desk.upload(id)?.with_context(|| format!("find upload {id} in the store"))?;
        match upload.state.as_str() {
            "received" if begun.elapsed() >= patience => {
                sign.set_message("processing");
                process(opened)?;
                // Another process may have it; then it is waited for like a daemon.
                patience = begun.elapsed() + DAEMON_BEGINS;
            }
            "received" => bell.wait(bell.rings(), LOOK_EVERY),
            "active" | "deferred" => {
                sign.set_message(if upload.state == "active" {
                    "processing"
                } else {
                    "failed for the moment; will be tried again"
                });
                if !daemon_runs {
                    process(opened)?;
                }
                bell.wait(bell.rings(), LOOK_EVERY);
            }
            _ => {
                sign.finish_and_clear();
                return Ok(upload);
            }
        }
    }
}

/// What a daemon's worker does, once.
fn process(opened: &Opened) -> anyhow::Result<()> {
    let inbound = Inbound {
        store: opened.store.clone(),
        live: LiveSettings::new(opened.settings.clone()),
        keyring: Arc::new(opened.keyring()?),
        clock: opened.clock.clone(),
        applied: Doorbell::default(),
        metrics: Metrics::new(|| None),
    };
    inbound.process_waiting(&|| false)?;
    Ok(())
}

fn draw(desk: &Desk<'_>, upload: &Upload, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "upload {}: {} {}", upload.id, upload.name, upload.state)?;
    if let (Some(reason), Some(message)) = (&upload.reason, &upload.message) {
        writeln!(out, "why: {reason}: {message}")?;
    }
    if let Some(report) = &upload.report {
        summary(report, out)?;
    }
    writeln!(out, "report: {}/{}.{}.report.json", desk.layout.reports().display(), upload.name, upload.id)?;
    Ok(())
}
