//! The effect of one upload, in one transaction: rows are read straight into a table that nobody else sees, and only when the
//! whole file has verified a few set-based statements make them count.

mod coupons;
mod not_sent;
mod recipients;
mod redemptions;

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::Work;
use super::error::InboundError;
use super::mended::Source;
use super::tally::Tally;
use crate::plaintext::{Layer, RecordReader};
use crate::reason::{Finding, Reason};
use crate::spool::Kind;
use crate::store::{StoreError, Transaction, banks, uploads};

/// The rows of an upload.
pub(super) type Rows = RecordReader<Source>;

/// What an upload did, or would do in a dry run.
#[derive(Debug, Default)]
pub struct Effect {
    /// Per bank, by name.
    pub banks: Vec<BankEffect>,
    /// What of it nobody should have redeemed.
    pub suspicion: Vec<Suspicion>,
}

/// Redemptions in one lot that look wrong: counts and where to look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Suspicion {
    /// Why: a stable reason code.
    pub reason: &'static str,
    /// The bank.
    pub bank: String,
    /// The lot.
    pub lot: i32,
    /// The upload that brought the lot.
    pub coupons_upload: i64,
    /// How many codes.
    pub count: i64,
    /// The first line of this file that has one.
    pub first_line: i64,
    /// The last.
    pub last_line: i64,
}

/// What an upload did to one bank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BankEffect {
    /// The bank.
    pub bank: String,
    /// Remaining codes before.
    pub before: i64,
    /// Remaining codes after.
    pub after: i64,
    /// Codes added (coupons), redeemed (redemptions), or come back to stock (a not-sent list).
    pub accepted: i64,
    /// Of the redeemed codes, those that nobody had been given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unassigned: Option<i64>,
}

/// Applies the upload inside `transaction`.
///
/// # Errors
/// Anything that ends the upload without an effect; the transaction is then rolled back.
pub(super) fn apply(
    transaction: &mut Transaction,
    work: &Work<'_>,
    rows: &mut Rows,
    tally: &mut Tally,
) -> Result<Effect, InboundError> {
    match work.place.kind {
        Kind::Coupons => coupons::apply(transaction, work, rows, tally),
        Kind::Redemptions => redemptions::apply(transaction, work, rows, tally),
        Kind::Recipients => match work.file_name.not_sent {
            Some(batch_id) => not_sent::apply(transaction, work, rows, tally, batch_id),
            None => recipients::apply(transaction, work, rows, tally),
        },
    }
}

/// Refuses the file for what it holds, but not before the whole message has verified: what a damaged message happens to
/// decrypt to must not show in the answer.
fn refuse(rows: &mut Rows, finding: Finding) -> InboundError {
    match rows.drain() {
        Ok(()) => InboundError::refuse(finding),
        Err(error) => error.into(),
    }
}

/// Ends the reading: what the reader noticed, the row count in the file's name, the reject limit.
fn judge(work: &Work<'_>, rows: &Rows, tally: &mut Tally) -> Result<(), InboundError> {
    tally.take_notes(rows.notes());
    warn_of_extension(work, rows, tally);
    if let Some(wanted) = work.file_name.rows.filter(|wanted| *wanted != tally.rows.read) {
        return Err(InboundError::Reject(Finding::file(
            Reason::RowCountDiffers,
            format!("the file name says {wanted} rows, the file has {}; send the whole file again", tally.rows.read),
        )));
    }
    Ok(tally.judge()?)
}

/// A name that promises encryption or compression, and content without it: somebody forgot a step.
fn warn_of_extension(work: &Work<'_>, rows: &Rows, tally: &mut Tally) {
    let Some(summary) = rows.source().summary() else { return };
    let extension = work.claimed.name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    let has = |is: fn(&Layer) -> bool| summary.layers.iter().any(is);
    let promised = match extension.as_deref() {
        Some("gpg" | "pgp" | "asc") if !has(|layer| matches!(layer, Layer::Openpgp { .. })) => "encrypted",
        Some("gz" | "gzip") if !has(|layer| matches!(layer, Layer::Gzip)) => "packed with gzip",
        _ => return,
    };
    let message = format!("the file is not {promised}, though its name says so");
    tally.warn(Finding::file(Reason::ExtensionDiffers, message), 1);
}

/// Stops when the same content was applied at the same place before.
fn stop_if_repeated(transaction: &mut Transaction, work: &Work<'_>, rows: &Rows) -> Result<(), InboundError> {
    let Some(sha256) = rows.source().summary().and_then(|summary| summary.sha256) else {
        return Err(StoreError::Missing { what: "the end of the file".to_owned() }.into());
    };
    // A repeated recipients list is a new batch from the next day on.
    let returns_batch = work.file_name.not_sent;
    let list = work.place.kind == Kind::Recipients && returns_batch.is_none();
    let on = list.then_some(work.claimed.business_date);
    match uploads::repeated(transaction, work.claimed, &sha256, on, returns_batch)? {
        Some(earlier) => Err(InboundError::Repeat(earlier)),
        None => Ok(()),
    }
}

/// Remaining codes per bank id.
fn remaining(transaction: &mut Transaction, work: &Work<'_>) -> Result<BTreeMap<i32, i64>, StoreError> {
    Ok(banks::remaining(transaction, work.claimed.namespace_id, work.today())?.into_iter().collect())
}

/// Reads the next run on a thread of its own while the store takes the one before.
fn at_once<N: Send, T>(read: impl FnOnce() -> N + Send, take: impl FnOnce() -> T) -> (N, T) {
    std::thread::scope(|scope| {
        let reading = scope.spawn(read);
        let taken = take();
        (reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), taken)
    })
}

/// Writes what has gathered once it is worth a call.
fn flush_if_large(buffer: &mut Vec<u8>, sink: &mut dyn Write) -> std::io::Result<()> {
    if buffer.len() >= 64 * 1024 {
        sink.write_all(buffer)?;
        buffer.clear();
    }
    Ok(())
}
