//! Which accepted lists become batches now.
//!
//! A list belongs to the first firing at or after the instant it was received ([`crate::schedule`]) and makes one batch,
//! which a unique index sees to. A firing without a list makes none.

use chrono::{DateTime, Utc};

use crate::config::{Audience, Bank, Campaign, Name, Namespace, Schedule};
use crate::schedule::{Firing, first_firing};
use crate::store::batches::{NewBatch, PendingList};
use crate::store::{Store, StoreError};

/// Makes every batch that is due at `now`. Returns the next firing that a pending list waits for.
pub(super) fn make_due(
    store: &Store,
    namespace_id: i32,
    namespace: &Namespace,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    let mut next: Option<DateTime<Utc>> = None;
    for list in store.pending_lists(namespace_id)? {
        // A campaign that was taken out of the configuration leaves its lists where they are.
        let Some(campaign) = namespace.campaigns.get(list.campaign.as_str()) else { continue };
        let Some(bank) = namespace.banks.get(&campaign.bank).filter(|bank| bank.audience != Audience::Site) else {
            continue;
        };
        let Some(firing) = firing_of(&campaign.schedule, namespace, &list) else { continue };
        if firing.at > now {
            next = Some(next.map_or(firing.at, |next| next.min(firing.at)));
            continue;
        }
        make(store, (namespace_id, namespace), (campaign, bank), &list, firing, now)?;
    }
    Ok(next)
}

/// Makes a batch of every pending list of one campaign now, whatever its schedule says; their ids.
///
/// # Errors
/// Any [`StoreError`] of the statements.
pub fn make_due_now(
    store: &Store,
    namespace_id: i32,
    namespace: &Namespace,
    campaign: &Name,
    now: DateTime<Utc>,
) -> Result<Vec<i64>, StoreError> {
    let mut made = Vec::new();
    let Some(campaign) = namespace.campaigns.get(campaign) else { return Ok(made) };
    let Some(bank) = namespace.banks.get(&campaign.bank).filter(|bank| bank.audience != Audience::Site) else {
        return Ok(made);
    };
    let firing = Firing { at: now, date: now.with_timezone(&namespace.timezone).date_naive() };
    for list in store.pending_lists(namespace_id)?.iter().filter(|list| list.campaign == campaign.name.as_str()) {
        made.extend(make(store, (namespace_id, namespace), (campaign, bank), list, firing, now)?);
    }
    Ok(made)
}

fn make(
    store: &Store,
    (namespace_id, namespace): (i32, &Namespace),
    (campaign, bank): (&Campaign, &Bank),
    list: &PendingList,
    firing: Firing,
    now: DateTime<Utc>,
) -> Result<Option<i64>, StoreError> {
    let new = NewBatch {
        campaign: &list.campaign,
        bank,
        channel: campaign.channel.as_str(),
        upload_id: list.upload_id,
        business_date: firing.date,
        due_at: firing.at,
        proof: is_proof(&list.name),
    };
    let made = store.make_batch(namespace_id, &new, now)?;
    if let Some(batch) = made {
        let (campaign, upload) = (list.campaign.as_str(), list.upload_id);
        tracing::info!(namespace = %namespace.name, campaign, batch, upload, "a batch is due");
    }
    Ok(made)
}

fn firing_of(schedule: &Schedule, namespace: &Namespace, list: &PendingList) -> Option<Firing> {
    let (zone, at) = (namespace.timezone, list.received_at);
    match schedule {
        Schedule::OnArrival => Some(Firing { at, date: at.with_timezone(&zone).date_naive() }),
        Schedule::Cron(expression) => first_firing(expression, zone, at),
    }
}

/// Whether a token between dots says that the list is a test send.
fn is_proof(name: &str) -> bool {
    name.split('.').skip(1).any(|token| token.eq_ignore_ascii_case("proof"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, proof: bool) {
        assert_eq!(is_proof(name), proof, "{name}");
    }

    #[test]
    fn proofs() {
        check("list.proof.csv", true);
        check("list.PROOF.csv.gz", true);
        check("list.rows-3.proof.csv", true);
        check("proof.csv", false);
        check("list.csv", false);
        check("list.proofs.csv", false);
    }
}
