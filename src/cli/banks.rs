//! `coupond banks`: what remains in each bank per end date, with bars, or with `--rates` how much of it is redeemed.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::desk::{Ask, Asked, answer};
use super::rates;
use crate::config::Name;
use crate::store::banks::Stock;

const BAR_WIDTH: usize = 30;

const EXAMPLES: &str = "Examples:
  coupond banks
  coupond banks --namespace acme
  coupond banks --rates
  coupond banks --json | jq '.[] | select(.open and .remaining < 1000)'";

/// Show what remains in each bank per end date, or how much of it is redeemed
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Banks {
    #[command(flatten)]
    ask: Ask,
    /// Show how many of the codes handed out each month have been redeemed, per bank, lot and campaign
    #[arg(long)]
    rates: bool,
}

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Line {
    namespace: String,
    bank: String,
    end_date: Option<String>,
    size: i64,
    remaining: i64,
    open: bool,
}

/// Lists every bank of every namespace that is asked about.
pub(super) fn run(command: &Banks, out: &mut impl Write) -> anyhow::Result<()> {
    let asked = command.ask.open()?;
    if command.rates { rates::show(&asked, out) } else { show(&asked, out) }
}

/// The same with the store open.
pub(super) fn show(asked: &Asked<'_>, out: &mut impl Write) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    for desk in asked.desks()? {
        let today = desk.now.with_timezone(&desk.namespace.timezone).date_naive();
        let stock = asked.opened.store.stock(desk.namespace_id, today)?;
        lines.extend(stock.iter().map(|stock| line(&desk.namespace.name, stock)));
    }
    answer(asked.as_json, &lines, out, |out| draw(&lines, out))
}

fn line(namespace: &Name, stock: &Stock) -> Line {
    Line {
        namespace: namespace.to_string(),
        bank: stock.bank.clone(),
        end_date: stock.end_date.map(|date| date.to_string()),
        size: stock.size - stock.void,
        remaining: stock.remaining,
        open: stock.open,
    }
}

/// One bar a line, all in the scale of the largest lot: full blocks remain, shaded ones are gone.
fn draw(lines: &[Line], out: &mut impl Write) -> std::io::Result<()> {
    let largest = lines.iter().map(|line| line.size).max().unwrap_or_default().max(1);
    let names = lines.iter().map(|line| line.namespace.len() + line.bank.len() + 1).max().unwrap_or_default();
    for line in lines {
        let name = format!("{}/{}", line.namespace, line.bank);
        let end = match (&line.end_date, line.size) {
            (Some(end), _) if line.open => format!("until {end}"),
            (Some(end), _) => format!("ended {end}"),
            (None, 0) => "no codes yet".to_owned(),
            (None, _) => "no end date".to_owned(),
        };
        let (full, all) = (cells(line.remaining, largest), cells(line.size, largest));
        let bar = format!("{}{}", "█".repeat(full), "░".repeat(all.saturating_sub(full)));
        writeln!(out, "{name:names$}  {end:16}  {bar:BAR_WIDTH$}  {} of {} remain", line.remaining, line.size)?;
    }
    Ok(())
}

fn cells(count: i64, largest: i64) -> usize {
    let width = i64::try_from(BAR_WIDTH).unwrap_or(i64::MAX);
    let cells = count.saturating_mul(width).saturating_add(largest - 1) / largest;
    usize::try_from(cells).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_share_one_scale() {
        let line = |bank: &str, end: Option<&str>, size, remaining, open| Line {
            namespace: "acme".to_owned(),
            bank: bank.to_owned(),
            end_date: end.map(ToOwned::to_owned),
            size,
            remaining,
            open,
        };
        let mut out = Vec::new();
        let lines = [
            line("spring26", Some("2026-12-31"), 60, 30, true),
            line("a", Some("2026-01-01"), 10, 0, false),
            line("a", None, 0, 0, true),
        ];
        draw(&lines, &mut out).unwrap();
        let drawn = String::from_utf8(out).unwrap();
        let expected = [
            "acme/spring26  until 2026-12-31  ███████████████░░░░░░░░░░░░░░░  30 of 60 remain",
            "acme/a         ended 2026-01-01  ░░░░░                           0 of 10 remain",
            "acme/a         no codes yet                                      0 of 0 remain",
        ];
        assert_eq!(drawn.lines().collect::<Vec<_>>(), expected);
    }
}
