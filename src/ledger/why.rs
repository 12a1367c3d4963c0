//! The steps of a life that follow from one row alone, each with its reason in words.

use chrono::{DateTime, Utc};

use super::lists::{ListReader, Listed, list_of};
use super::{BatchRef, Desk, FileRef, Step};
use crate::bank::outcome::Outcome;
use crate::store::ledger::batches::ListedBatch;
use crate::store::ledger::life::{BankedCode, GivenCode, LeftOut, RedeemedCode, ReturnedCode};

/// When a batch judged what its customers hold.
pub(super) fn moment(batch: &ListedBatch) -> DateTime<Utc> {
    batch.assigned_at.unwrap_or(batch.due_at)
}

pub(super) fn batch_ref(batch: &ListedBatch) -> BatchRef {
    BatchRef { id: batch.id, campaign: batch.campaign.clone() }
}

pub(super) fn redemption_step(redemption: &RedeemedCode, banked: &[BankedCode]) -> Step {
    let known = banked.iter().filter(|at| at.code == redemption.code);
    let why = match known.map(|at| at.added_at).min() {
        None => "no bank has the code; it is remembered".to_owned(),
        Some(added_at) if added_at > redemption.redeemed_at => {
            "before a bank had it: it came in as redeemed".to_owned()
        }
        Some(_) => "out of distribution in every bank from then on".to_owned(),
    };
    Step {
        at: redemption.redeemed_at,
        what: "redeemed",
        bank: None,
        code: Some(redemption.code.clone()),
        customer: None,
        file: Some(redeemed_in(redemption)),
        batch: None,
        why,
    }
}

pub(super) fn held_redemption_step(redemption: &RedeemedCode, given: &GivenCode) -> Step {
    Step {
        at: redemption.redeemed_at,
        what: "redeemed",
        bank: Some(given.bank.clone()),
        code: Some(given.code.clone()),
        customer: Some(given.customer.clone()),
        file: Some(redeemed_in(redemption)),
        batch: None,
        why: "the next batch gives another code".to_owned(),
    }
}

fn redeemed_in(redemption: &RedeemedCode) -> FileRef {
    FileRef { upload_id: redemption.upload_id, name: redemption.upload_name.clone(), line: Some(redemption.line) }
}

pub(super) fn returned_step(back: &ReturnedCode) -> Step {
    Step {
        at: back.returned_at,
        what: "came back",
        bank: Some(back.bank.clone()),
        code: Some(back.code.clone()),
        customer: Some(back.customer.clone()),
        file: Some(FileRef { upload_id: back.upload_id, name: back.upload_name.clone(), line: None }),
        batch: Some(BatchRef { id: back.batch_id, campaign: back.campaign.clone() }),
        why: "the customer was not reached: in stock again".to_owned(),
    }
}

pub(super) fn kept_step(batch: &ListedBatch, held: &GivenCode, listed: Listed) -> Step {
    let window =
        held.end_date.map_or_else(|| "has no end date".to_owned(), |date| format!("could be handed out until {date}"));
    Step {
        at: moment(batch),
        what: Outcome::Kept.as_str(),
        bank: Some(held.bank.clone()),
        code: Some(held.code.clone()),
        customer: Some(held.customer.clone()),
        file: Some(list_of(batch, Some(listed))),
        batch: Some(batch_ref(batch)),
        why: format!("not redeemed by then, and {window}"),
    }
}

pub(super) fn left_out_step(
    left: &LeftOut,
    draws: &[ListedBatch],
    desk: &Desk<'_>,
    customer: &str,
    reader: Option<&ListReader<'_>>,
) -> Option<Step> {
    let batch = draws.iter().find(|batch| batch.id == left.batch_id)?;
    let (need, stock) = (batch.need.unwrap_or_default(), batch.stock.unwrap_or_default());
    let fallback = left.reason == "FALLBACK";
    let short = format!("{need} codes were needed and `{}` had {stock}", batch.bank);
    Some(Step {
        at: moment(batch),
        what: if fallback { Outcome::Fallback.as_str() } else { "left out" },
        bank: Some(batch.bank.clone()),
        code: None,
        customer: Some(customer.to_owned()),
        file: Some(list_of(batch, reader.map(|reader| reader.find(desk, batch, customer)))),
        batch: Some(batch_ref(batch)),
        why: if fallback { format!("the bank's fallback code: {short}") } else { format!("{}: {short}", left.reason) },
    })
}
