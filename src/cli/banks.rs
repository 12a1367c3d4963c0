//! `coupond banks`: what remains in each bank per end date, with bars.

use std::io::Write;

use anyhow::Context as _;
use serde::Serialize;

use crate::clock::Clock;
use crate::config::{Name, Settings};
use crate::daemon::{self, Ownership};
use crate::store::banks::Stock;

const BAR_WIDTH: usize = 30;

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

/// Lists every bank of every namespace, or of `only`.
pub(super) fn run(settings: &Settings, only: Option<&str>, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let only = only.map(Name::parse).transpose().context("read the namespace's name")?;
    if let Some(name) = only.as_ref().filter(|name| !settings.namespaces.contains_key(*name)) {
        anyhow::bail!("find namespace `{name}` in the configuration");
    }
    let (_server, store) = daemon::open_store(settings, Ownership::Command)?;
    store.ensure_namespaces(settings.namespaces.keys())?;
    let now = Clock::system().now();
    let mut lines = Vec::new();
    for namespace in
        settings.namespaces.values().filter(|namespace| only.as_ref().is_none_or(|only| *only == namespace.name))
    {
        let today = now.with_timezone(&namespace.timezone).date_naive();
        let stock = store.stock(store.namespace_id(&namespace.name)?, today)?;
        lines.extend(stock.iter().map(|stock| line(&namespace.name, stock)));
    }
    if json {
        serde_json::to_writer_pretty(&mut *out, &lines)?;
        writeln!(out)?;
        return Ok(());
    }
    Ok(draw(&lines, out)?)
}

fn line(namespace: &Name, stock: &Stock) -> Line {
    Line {
        namespace: namespace.to_string(),
        bank: stock.bank.clone(),
        end_date: stock.end_date.map(|date| date.to_string()),
        size: stock.size,
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
