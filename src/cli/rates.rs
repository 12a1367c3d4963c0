//! `coupond banks --rates`: how many of the codes handed out each month have been redeemed.

use std::io::Write;

use super::desk::{Asked, answer, table};
use crate::ledger::rates::{Rate, share};

/// Asks every namespace that is asked about, and draws.
pub(super) fn show(asked: &Asked<'_>, out: &mut impl Write) -> anyhow::Result<()> {
    let mut rates = Vec::new();
    for desk in asked.desks()? {
        rates.extend(desk.rates()?);
    }
    answer(asked.as_json, &rates, out, |out| draw(&rates, out))
}

/// Each bank's month as a whole, then its lots and campaigns.
fn draw(rates: &[Rate], out: &mut impl Write) -> std::io::Result<()> {
    if rates.is_empty() {
        return writeln!(out, "no codes were handed out yet");
    }
    let key = |rate: &Rate| (rate.namespace.clone(), rate.month.clone(), rate.bank.clone());
    let mut rows = Vec::new();
    for bank in rates.chunk_by(|one, other| key(one) == key(other)) {
        let sum = |of: fn(&Rate) -> i64| bank.iter().map(of).sum::<i64>();
        let (assigned, redeemed) = (sum(|rate| rate.assigned), sum(|rate| rate.redeemed));
        let Some(first) = bank.first() else { continue };
        rows.push(row(first, "all".to_owned(), "all", (assigned, redeemed)));
        for rate in bank {
            let lot = match rate.end_date {
                Some(date) => format!("{} (until {date})", rate.lot),
                None => rate.lot.to_string(),
            };
            rows.push(row(rate, lot, &rate.campaign, (rate.assigned, rate.redeemed)));
        }
    }
    table(["month", "bank", "lot", "campaign", "assigned", "redeemed", "share"], &rows, out)
}

fn row(rate: &Rate, lot: String, campaign: &str, (assigned, redeemed): (i64, i64)) -> [String; 7] {
    [
        rate.month.clone(),
        format!("{}/{}", rate.namespace, rate.bank),
        lot,
        campaign.to_owned(),
        assigned.to_string(),
        redeemed.to_string(),
        format!("{:.1} %", share(redeemed, assigned) * 100.0),
    ]
}
