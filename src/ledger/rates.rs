//! Redemption rates: of the codes handed out in a month, how many have been redeemed by now; per bank, lot and campaign.
//!
//! A code belongs to the month in which it was handed out, whenever it is redeemed: so a share never exceeds one, and the last
//! months still grow. A customer who keeps a code is not counted again.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use chrono_tz::Tz;
use serde::Serialize;

use super::{Desk, LedgerError};
use crate::store::ledger::rates::Given;

/// One month of one bank, lot and campaign, in the order of its keys in JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// Its namespace.
    pub namespace: String,
    /// The local month in which the codes were handed out, as `2026-11`.
    pub month: String,
    /// The bank.
    pub bank: String,
    /// The lot's id.
    pub lot: i32,
    /// The lot's end date.
    pub end_date: Option<NaiveDate>,
    /// The campaign.
    pub campaign: String,
    /// Codes handed out.
    pub assigned: i64,
    /// Of these, redeemed by now.
    pub redeemed: i64,
    /// Redeemed by assigned, 0 to 1.
    pub share: f64,
}

impl Desk<'_> {
    /// Every month's rates, oldest first.
    ///
    /// # Errors
    /// Any error of the store.
    pub fn rates(&self) -> Result<Vec<Rate>, LedgerError> {
        let given = self.store.given_and_redeemed(self.namespace_id)?;
        Ok(by_month(self.namespace.name.as_str(), &given, self.namespace.timezone))
    }
}

/// How many of `assigned` are `redeemed`, 0 to 1.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub fn share(redeemed: i64, assigned: i64) -> f64 {
    if assigned == 0 { 0.0 } else { redeemed as f64 / assigned as f64 }
}

fn by_month(namespace: &str, given: &[Given], zone: Tz) -> Vec<Rate> {
    type Key<'g> = (String, &'g str, i32, &'g str);
    let mut sums: BTreeMap<Key<'_>, (Option<NaiveDate>, i64, i64)> = BTreeMap::new();
    for given in given {
        let month = given.assigned_at.with_timezone(&zone).format("%Y-%m").to_string();
        let sum = sums.entry((month, &given.bank, given.lot, &given.campaign)).or_insert((given.end_date, 0, 0));
        sum.1 += given.assigned;
        sum.2 += given.redeemed;
    }
    let rate = |((month, bank, lot, campaign), (end_date, assigned, redeemed)): (_, _)| Rate {
        namespace: namespace.to_owned(),
        month,
        bank: str::to_owned(bank),
        lot,
        end_date,
        campaign: str::to_owned(campaign),
        assigned,
        redeemed,
        share: share(redeemed, assigned),
    };
    sums.into_iter().map(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_belongs_to_the_local_month_in_which_it_was_handed_out() {
        let given = |at: &str, lot, campaign: &str, assigned, redeemed| Given {
            assigned_at: at.parse().unwrap(),
            bank: "spring26".to_owned(),
            lot,
            end_date: None,
            campaign: campaign.to_owned(),
            assigned,
            redeemed,
        };
        let rows = [
            given("2026-12-01T04:59:59Z", 1, "winback", 100, 7),
            given("2026-12-01T05:00:00Z", 1, "winback", 10, 1),
            given("2026-11-01T05:00:00Z", 1, "winback", 300, 93),
            given("2026-11-01T05:00:00Z", 1, "texts", 5, 0),
            given("2026-11-01T05:00:00Z", 2, "winback", 3, 3),
        ];
        let rates = by_month("acme", &rows, Tz::America__New_York);
        let told: Vec<String> = rates
            .iter()
            .map(|rate| {
                let Rate { month, lot, campaign, assigned, redeemed, share, .. } = rate;
                format!("{month} {lot} {campaign} {redeemed}/{assigned} {share:.2}")
            })
            .collect();
        assert_eq!(
            told,
            [
                "2026-11 1 texts 0/5 0.00",
                "2026-11 1 winback 100/400 0.25",
                "2026-11 2 winback 3/3 1.00",
                "2026-12 1 winback 1/10 0.10",
            ]
        );
        assert_eq!(share(0, 0).to_bits(), 0);
    }
}
