//! Redemptions: codes out of distribution in every bank that holds them, unknown ones remembered.

use chrono::TimeDelta;

use super::{BankEffect, Effect, Rows, Suspicion};
use crate::bank::suspicion::is_burst;
use crate::config::Audience;
use crate::inbound::Work;
use crate::inbound::error::InboundError;
use crate::inbound::kinds::redemptions::Columns;
use crate::inbound::series::missed;
use crate::inbound::tally::{LISTED_MOST, Tally};
use crate::reason::{Finding, Reason};
use crate::store::Transaction;
use crate::store::banks::{self, KnownBank, NamespaceLock};
use crate::store::redemptions::{
    self as store, Applied, Lines, NobodysCodes, NotedRedemption, RedeemedInLot, RedemptionCounts, RedemptionTerms,
    Redemptions, UnsortedRedemptions,
};
use crate::store::uploads;

/// How far back names of a series are looked at.
const REMEMBERED: TimeDelta = TimeDelta::days(60);

pub(super) fn apply(
    transaction: &mut Transaction,
    work: &Work<'_>,
    rows: &mut Rows,
    tally: &mut Tally,
) -> Result<Effect, InboundError> {
    store::begin(transaction)?;
    let codes = read(work, rows, tally)?;
    super::judge(work, rows, tally)?;
    warn_of_missed(transaction, work, tally)?;
    let namespace_id = work.claimed.namespace_id;
    banks::lock_namespace(transaction, namespace_id, NamespaceLock::Alone)?;
    // An empty file says "none today", every day with the same bytes: it repeats nothing.
    if tally.rows.read > 0 {
        super::stop_if_repeated(transaction, work, rows)?;
    }
    let before = super::remaining(transaction, work)?;
    let terms = RedemptionTerms {
        store: work.store,
        namespace_id,
        upload_id: work.claimed.id,
        redeemed_at: work.claimed.received_at,
        directory: &work.layout.prepared(),
        noted_most: LISTED_MOST + 1,
    };
    let Applied { counts, lots: redeemed, nobodys, noted } = store::apply(transaction, &terms, codes)?;
    let after = super::remaining(transaction, work)?;
    let known = banks::every(transaction, namespace_id)?;
    let mut effects: Vec<BankEffect> = Vec::new();
    for bank in &known {
        let lots = || redeemed.iter().filter(|row| row.bank_id == bank.id);
        if lots().next().is_some() {
            // Codes of the site's banks are shown to whoever comes: none of them is anybody's.
            let handed_out = bank.audience != Audience::Site.as_str();
            effects.push(BankEffect {
                bank: bank.name.clone(),
                before: before.get(&bank.id).copied().unwrap_or_default(),
                after: after.get(&bank.id).copied().unwrap_or_default(),
                accepted: lots().map(|row| row.redeemed).sum(),
                unassigned: handed_out.then(|| lots().map(|row| row.unassigned).sum()),
            });
        }
    }
    effects.sort_by(|one, other| one.bank.cmp(&other.bank));
    count(tally, &counts, &nobodys, noted)?;
    Ok(Effect { banks: effects, suspicion: suspicion(&known, &redeemed, &nobodys) })
}

/// A file of an earlier date that should have come before this one: what it says was redeemed is still handed out.
fn warn_of_missed(transaction: &mut Transaction, work: &Work<'_>, tally: &mut Tally) -> Result<(), InboundError> {
    let since = work.now - REMEMBERED;
    let names = uploads::names_that_came(transaction, work.claimed.namespace_id, work.place.kind.as_str(), since)?;
    let mut missed = missed(&work.claimed.name, names.iter().map(String::as_str));
    missed.retain(|date| !work.namespace.redemptions.skipped.contains(*date));
    if !missed.is_empty() {
        // The clients' reports say it; the admin sees it with `uploads show`.
        let dates: Vec<String> = missed.iter().map(ToString::to_string).collect();
        let message = format!("no file of this series has come for {}; send what is missing", dates.join(", "));
        tally.warn(Finding::file(Reason::DateMissed, message), missed.len() as u64);
    }
    Ok(())
}

/// What of the redemptions nobody should have made.
fn suspicion(known: &[KnownBank], redeemed: &[RedeemedInLot], nobodys: &[NobodysCodes]) -> Vec<Suspicion> {
    let mut found = Vec::new();
    for row in redeemed {
        let Some(bank) = known.iter().find(|bank| bank.id == row.bank_id) else { continue };
        let mut add = |reason: Reason, count, lines: Lines| {
            let (bank, lot, coupons_upload) = (bank.name.clone(), row.lot_id, row.coupons_upload);
            let Lines { first_line, last_line } = lines;
            found.push(Suspicion { reason: reason.as_str(), bank, lot, coupons_upload, count, first_line, last_line });
        };
        if let Some(codes) = nobodys.iter().find(|codes| (codes.bank_id, codes.lot_id) == (row.bank_id, row.lot_id)) {
            add(Reason::RedeemedUnassigned, codes.count, codes.lines);
        }
        let out = if bank.audience == Audience::Site.as_str() { row.size } else { row.handed_out };
        if is_burst(u64::try_from(row.redeemed).unwrap_or_default(), u64::try_from(out).unwrap_or_default()) {
            add(Reason::RedemptionBurst, row.redeemed, row.lines);
        }
    }
    found
}

/// Reads the whole file.
fn read(work: &Work<'_>, rows: &mut Rows, tally: &mut Tally) -> Result<Redemptions, InboundError> {
    let (mut codes, mut columns) = (UnsortedRedemptions::new(&work.layout.prepared()), None);
    while let Some(record) = rows.next_record()? {
        let known = match &columns {
            Some(known) => known,
            None => match Columns::from_first(&record) {
                Ok(found) => {
                    tally.begin(&record, found.header);
                    let skip = found.header;
                    let found = columns.insert(found);
                    if skip {
                        continue;
                    }
                    found
                }
                Err(finding) => return Err(super::refuse(rows, finding)),
            },
        };
        tally.rows.read += 1;
        let row = match record.problem() {
            Some(reason) => Err(Ok(super::super::row_problem(reason, record.line()))),
            None => known.read(&record, work.limits.code_bytes),
        };
        match row {
            Ok((code, trimmed)) => {
                tally.rows.accepted += 1;
                if trimmed {
                    tally.warn(Finding::line(Reason::Trimmed, record.line(), "outer blanks were trimmed"), 1);
                }
                codes.add(record.line(), code)?;
            }
            Err(Ok(finding)) => tally.reject(finding, record.raw())?,
            Err(Err(finding)) => return Err(super::refuse(rows, finding)),
        }
    }
    Ok(codes.end()?)
}

/// Corrects the counts by what the store knew, and lists what no bank holds.
fn count(
    tally: &mut Tally,
    counts: &RedemptionCounts,
    nobodys: &[NobodysCodes],
    mut noted: Vec<NotedRedemption>,
) -> Result<(), InboundError> {
    let number = |count: i64| u64::try_from(count).unwrap_or_default();
    // What was read and is in none of the store's counts stood in the file before.
    let repeated = tally.rows.accepted.saturating_sub(counts.redeemed + counts.unknown + counts.already);
    tally.rows.accepted = counts.redeemed;
    tally.rows.unknown = counts.unknown;
    tally.rows.duplicate = repeated + counts.already;
    if counts.already > 0 {
        let message = "codes were redeemed before; the first time stands";
        tally.warn(Finding::file(Reason::AlreadyRedeemed, message), counts.already);
    }
    if repeated > 0 {
        let message = "codes stood more than once in this file";
        tally.warn(Finding::file(Reason::DuplicateInFile, message), repeated);
    }
    let unassigned: i64 = nobodys.iter().map(|codes| codes.count).sum();
    if unassigned > 0 {
        let message = "codes were redeemed that nobody had been given";
        tally.warn(Finding::file(Reason::RedeemedUnassigned, message), number(unassigned));
    }
    if noted.len() as u64 > number(LISTED_MOST) {
        noted.pop();
        let message = format!("only the first {LISTED_MOST} unknown codes are listed");
        tally.warn(Finding::file(Reason::RejectsCut, message), 1);
    }
    for row in noted {
        let (reason, message) = match row.variants {
            0 => (Reason::UnknownCode, "no bank has the code; it is remembered"),
            1 => (Reason::CaseDiffers, "taken for the one code that differs from it in case only"),
            _ => (Reason::AmbiguousCode, "several codes differ from it in case only; none was taken"),
        };
        let finding = Finding::line(reason, number(row.line), message);
        tally.list(&finding, &row.written)?;
        tally.warn(finding, 1);
    }
    Ok(())
}
