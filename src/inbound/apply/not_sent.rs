//! A not-sent list: customers of a batch who were not reached. In a bank that is not persistent their codes come back to
//! stock; in a persistent one they keep them, and the list is only answered.

use std::io::Write;

use super::{BankEffect, Effect, Rows};
use crate::inbound::Work;
use crate::inbound::error::InboundError;
use crate::inbound::tally::Tally;
use crate::reason::{Finding, Reason};
use crate::recipients::Columns;
use crate::store::Transaction;
use crate::store::banks::{self, NamespaceLock};
use crate::store::returns::{self, ExportedBatch, Found};

pub(super) fn apply(
    transaction: &mut Transaction,
    work: &Work<'_>,
    rows: &mut Rows,
    tally: &mut Tally,
    batch_id: i64,
) -> Result<Effect, InboundError> {
    let namespace_id = work.claimed.namespace_id;
    returns::stage(transaction, |sink| read(work, rows, tally, sink))?;
    // Alone: a code that is redeemed at this moment would come back to stock for ever.
    banks::lock_namespace(transaction, namespace_id, NamespaceLock::Alone)?;
    super::stop_if_repeated(transaction, work, rows)?;
    let batch = returns::exported_batch(transaction, namespace_id, &work.claimed.target, batch_id)?
        .filter(|batch| batch.draw.is_some())
        .ok_or_else(|| unknown_batch(batch_id))?;
    banks::lock_banks(transaction, namespace_id, &[batch.bank_id])?;
    returns::judge(transaction, namespace_id, &batch)?;
    let idle = count(transaction, tally)?;
    super::judge(work, rows, tally)?;
    returns::mark(transaction, namespace_id, work.claimed.id, batch_id)?;
    tally.rows.accepted -= idle;
    let before = super::remaining(transaction, work)?;
    let accepted = if batch.persistent {
        tally.warn(Finding::file(Reason::HoldStays, Reason::HoldStays.means()), tally.rows.accepted);
        0
    } else {
        returns::apply(transaction, namespace_id, &batch, work.claimed.id, work.claimed.received_at)?
    };
    let after = super::remaining(transaction, work)?;
    let remaining = |of: &std::collections::BTreeMap<i32, i64>| of.get(&batch.bank_id).copied().unwrap_or_default();
    let (before, after) = (remaining(&before), remaining(&after));
    let ExportedBatch { bank, .. } = batch;
    let banks = vec![BankEffect { bank, before, after, accepted, unassigned: None }];
    Ok(Effect { banks, ..Effect::default() })
}

fn unknown_batch(batch_id: i64) -> InboundError {
    InboundError::Reject(Finding::file(
        Reason::UnknownBatch,
        format!(
            "batch {batch_id} is none of this campaign that handed out codes and was exported; \
             name the file after the assignment file, as list.{batch_id}.not-sent.csv"
        ),
    ))
}

/// Reads every row; the good ones go to `sink`.
fn read(work: &Work<'_>, rows: &mut Rows, tally: &mut Tally, sink: &mut dyn Write) -> Result<(), InboundError> {
    let mut columns: Option<Columns> = None;
    let mut buffer = Vec::with_capacity(80 * 1024);
    while let Some(record) = rows.next_record()? {
        let Some(columns) = &columns else {
            match Columns::read(&record, work.limits.customer_id_bytes) {
                Ok(found) => {
                    tally.begin(&record, true);
                    columns = Some(found);
                }
                Err(finding) => return Err(super::refuse(rows, finding)),
            }
            continue;
        };
        tally.rows.read += 1;
        match columns.customer(&record) {
            Ok(customer) => {
                tally.rows.accepted += 1;
                returns::write_row(record.line(), customer, &mut buffer)?;
            }
            Err(finding) => tally.reject(finding, record.raw())?,
        }
        super::flush_if_large(&mut buffer, sink)?;
    }
    Ok(sink.write_all(&buffer)?)
}

/// Counts and lists what has no effect. Returns how many rows that read well are not accepted.
fn count(transaction: &mut Transaction, tally: &mut Tally) -> Result<u64, InboundError> {
    let mut idle = 0;
    for row in returns::without_effect(transaction)? {
        let line = u64::try_from(row.line).unwrap_or_default();
        let (reason, message) = match row.found {
            Found::Returns | Found::Held => continue,
            Found::Stranger => {
                idle += 1;
                tally.reject(Finding::line(Reason::NotInBatch, line, Reason::NotInBatch.means()), &row.customer)?;
                continue;
            }
            Found::Repeated => (Reason::RepeatedCustomer, "the customer stood earlier in this list"),
            Found::ReturnedBefore => (Reason::AlreadyReturned, "the code had come back to stock before"),
            Found::Redeemed => (Reason::AlreadyRedeemed, "the code was redeemed since: it stays out of stock"),
        };
        idle += 1;
        tally.rows.duplicate += 1;
        let finding = Finding::line(reason, line, message);
        tally.list(&finding, &row.customer)?;
        tally.warn(finding, 1);
    }
    Ok(idle)
}
