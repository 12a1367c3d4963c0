//! The story: what each side does, and what it gets.

use std::fs;
use std::io::Write;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::stage::{Actor, Stage};
use crate::cli::banks;
use crate::cli::desk::{Asked, Opened};
use crate::config;

/// Plays all scenes in order.
pub(super) fn play(stage: &mut Stage, out: &mut impl Write) -> anyhow::Result<()> {
    let mut teller = Teller { out, scene: 0 };
    teller.scene("The daemon starts with no database set up")?;
    teller.line(&format!("it serves SFTP on 127.0.0.1:{} and runs a PostgreSQL of its own", stage.sftp_port()))?;
    coupons(stage, &mut teller)?;
    let first = first_batch(stage, &mut teller)?;
    redemptions(stage, &mut teller, &first)?;
    second_batch(stage, &mut teller, &first)?;
    nightly(stage, &mut teller)?;
    proofs(stage, &mut teller)?;
    refusals(stage, &mut teller)?;
    stock(stage, &mut teller)
}

fn coupons(stage: &Stage, teller: &mut Teller<'_, impl Write>) -> anyhow::Result<()> {
    teller.scene("The client drops codes, encrypted with GnuPG to the daemon's certificate")?;
    let mut file = String::from("bank_name,code\n");
    for number in 1..=8 {
        file.push_str(&format!("spring26,SPRING-{number:03}\nshipping,SHIP-{number:03}\n"));
    }
    write(stage, "codes.csv", &file)?;
    stage.gpg(&["--encrypt", "--recipient", "coupond", "--output", "codes.csv.pgp", "codes.csv"])?;
    put(stage, teller, Actor::Client, "codes.csv.pgp", "/coupons/")?;

    teller.scene("More codes for one bank: one column, and an end date in the file's name")?;
    write(stage, "early.until-2099-06-30.csv", "EARLY-1\nEARLY-2\nEARLY-3\n")?;
    put(stage, teller, Actor::Client, "early.until-2099-06-30.csv", "/coupons/spring26/")?;
    Ok(())
}

fn first_batch(stage: &Stage, teller: &mut Teller<'_, impl Write>) -> anyhow::Result<String> {
    teller.scene("The campaign system drops a recipients list; codes that end first go out first")?;
    write(stage, "monday.csv", "customer_id,first_name\nc1,Ada\nc2,Ben\nc3,Cyd\nc4,Dee\nc5,Eve\n")?;
    put(stage, teller, Actor::Campaigns, "monday.csv", "/recipients/winback/")?;
    assignments(stage, teller, "winback", "monday.")
}

fn redemptions(stage: &Stage, teller: &mut Teller<'_, impl Write>, first: &str) -> anyhow::Result<()> {
    teller.scene("The shop's redemptions: armored, CRLF; one code was never given out, one nobody knows")?;
    let used = code_of(first, "c2")?;
    write(stage, "used.csv", &format!("{used}\r\nSPRING-008\r\nNOBODY-KNOWS\r\n"))?;
    stage.gpg(&["--armor", "--encrypt", "--recipient", "coupond", "--output", "used.csv.asc", "used.csv"])?;
    put(stage, teller, Actor::Client, "used.csv.asc", "/redemptions/").map(|_| ())
}

fn second_batch(stage: &Stage, teller: &mut Teller<'_, impl Write>, first: &str) -> anyhow::Result<()> {
    teller.scene("The same customers the next time: they keep their codes, but for the redeemed one")?;
    write(stage, "tuesday.csv", "customer_id,first_name\nc1,Ada\nc2,Ben\nc3,Cyd\nc4,Dee\nc5,Eve\nc6,Fay\n")?;
    put(stage, teller, Actor::Campaigns, "tuesday.csv", "/recipients/winback/")?;
    let second = assignments(stage, teller, "winback", "tuesday.")?;
    if code_of(first, "c1")? != code_of(&second, "c1")? || code_of(first, "c2")? == code_of(&second, "c2")? {
        bail!("see that c1 kept its code and c2 got another");
    }
    Ok(())
}

fn nightly(stage: &Stage, teller: &mut Teller<'_, impl Write>) -> anyhow::Result<()> {
    teller.scene("A scheduled campaign on a bank that gives new codes each time")?;
    write(stage, "sms.csv", "customer_id\nc1\nc2\n")?;
    put(stage, teller, Actor::Campaigns, "sms.csv", "/recipients/nightly/")?;
    assignments(stage, teller, "nightly", "sms.").map(|_| ())
}

fn proofs(stage: &Stage, teller: &mut Teller<'_, impl Write>) -> anyhow::Result<()> {
    teller.scene("A proof list: every row gets the example code, nothing is drawn")?;
    write(stage, "look.proof.csv", "customer_id\ntester\n")?;
    put(stage, teller, Actor::Campaigns, "look.proof.csv", "/recipients/winback/")?;
    assignments(stage, teller, "winback", "look.").map(|_| ())
}

fn refusals(stage: &Stage, teller: &mut Teller<'_, impl Write>) -> anyhow::Result<()> {
    teller.scene("A file with the wrong delimiter is refused with a reason, and nothing is applied")?;
    write(stage, "wrong.csv", "bank_name;code\nspring26;OOPS-1\n")?;
    let report = put(stage, teller, Actor::Client, "wrong.csv", "/coupons/")?;
    let refused = report.get("refused").cloned().unwrap_or_default();
    teller.line(&format!("{}: {}", text(&refused, "reason"), text(&refused, "message")))?;

    teller.scene("Walls: the client does not see the campaign system's side")?;
    let seen = stage.sftp(Actor::Client, &["ls -1 /"])?;
    teller.line(&format!(
        "the client sees {}",
        seen.lines().filter(|line| line.starts_with('/')).collect::<Vec<_>>().join(" ")
    ))?;
    if stage.sftp(Actor::Client, &["ls /recipients"]).is_ok() {
        bail!("see that the client cannot list /recipients");
    }
    teller.line("sftp> ls /recipients        refused")
}

fn stock(stage: &Stage, teller: &mut Teller<'_, impl Write>) -> anyhow::Result<()> {
    teller.scene("What remains in the banks")?;
    let settings = config::load(&stage.path("coupond.toml"), std::iter::empty())?;
    let mut drawn = Vec::new();
    banks::show(&Asked::everything(Opened::of(settings)?), &mut drawn)?;
    for line in String::from_utf8_lossy(&drawn).lines() {
        teller.line(line)?;
    }
    Ok(())
}

/// Drops a file and waits for its report.
fn put(
    stage: &Stage,
    teller: &mut Teller<'_, impl Write>,
    actor: Actor,
    name: &str,
    directory: &str,
) -> anyhow::Result<Value> {
    teller.line(&format!("{}  sftp> put {name} {directory}", actor.user()))?;
    stage.sftp(actor, &[&format!("put {name} {directory}")])?;
    let report = stage.fetch(actor, "/reports", &format!("{name}."), ".report.json")?;
    let report: Value = serde_json::from_str(&report).context("read the report")?;
    let rows = report.get("rows").cloned().unwrap_or_default();
    let count = |key: &str| rows.get(key).and_then(Value::as_u64).unwrap_or_default();
    teller.line(&format!(
        "report: {} - {} rows read, {} accepted, {} rejected, {} duplicate, {} unknown",
        text(&report, "status"),
        count("read"),
        count("accepted"),
        count("rejected"),
        count("duplicate"),
        count("unknown")
    ))?;
    Ok(report)
}

/// Waits for a batch's manifest, and shows the assignment file that it vouches for.
fn assignments(
    stage: &Stage,
    teller: &mut Teller<'_, impl Write>,
    campaign: &str,
    stem: &str,
) -> anyhow::Result<String> {
    let directory = format!("/assignments/{campaign}");
    let manifest = stage.fetch(Actor::Campaigns, &directory, stem, ".manifest.json")?;
    let manifest: Value = serde_json::from_str(&manifest).context("read the manifest")?;
    let file = manifest.pointer("/files/0/name").and_then(Value::as_str).context("find the file in the manifest")?;
    let content = stage.fetch(Actor::Campaigns, &directory, file, "")?;
    teller.line(&format!("collected {directory}/{file}"))?;
    for line in content.lines() {
        teller.line(&format!("    {line}"))?;
    }
    Ok(content)
}

fn code_of(assignments: &str, customer: &str) -> anyhow::Result<String> {
    let mut reader = csv::Reader::from_reader(assignments.as_bytes());
    let column = reader.headers()?.iter().position(|name| name == "code").context("find the `code` column")?;
    for record in reader.records() {
        let record = record?;
        if record.get(0) == Some(customer) {
            return Ok(record.get(column).unwrap_or_default().to_owned());
        }
    }
    bail!("find customer `{customer}` in the assignment file")
}

fn write(stage: &Stage, name: &str, content: &str) -> anyhow::Result<()> {
    Ok(fs::write(stage.path("client").join(name), content)?)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Tells it to the reader.
struct Teller<'o, W> {
    out: &'o mut W,
    scene: u32,
}

impl<W: Write> Teller<'_, W> {
    fn scene(&mut self, title: &str) -> anyhow::Result<()> {
        self.scene += 1;
        Ok(writeln!(self.out, "\n{:2}  {title}", self.scene)?)
    }

    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        Ok(writeln!(self.out, "    {line}")?)
    }
}
