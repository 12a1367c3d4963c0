//! The draw: one transaction from "who needs a code" to "the batch is assigned".
//!
//! The bank's row is locked, so that batches of one bank follow one another and a customer in two of them gets the same code;
//! then its lots, in the order of their ids. The list is gone through in the order of customers, beside what they hold; who
//! needs a code is noted, and gets it afterwards ([`super::hand_out`]), when it is known how many there are.
//!
//! Whoever applies redemptions must lock the lots (in the order of bank and id) before it counts what is redeemed ahead of
//! `next_seq`: then the counters are exact whichever of the two commits first.
//!
//! On any failure, and when stock is short and the campaign waits, the transaction rolls back and nothing has happened.

use std::collections::HashMap;
use std::path::Path;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;

use super::answers::{Answering, Answers};
use super::assigned::{self, Scope};
use super::batches::{Claim, kept, redemptions_as_of};
use super::hand_out::hand_out;
use super::needs::Needs;
use super::recipients::{Met, Recipients};
use super::redeemed::Redeemed;
use super::schema::{bank, batch, lot};
use super::{Store, StoreError, sheets};
use crate::bank::draw::split;
use crate::bank::hold::{self, Hold};
use crate::bank::stock::{self, Lot};

/// What a draw is made under.
#[derive(Clone, Copy, Debug)]
pub struct DrawTerms<'a> {
    /// The claimed batch.
    pub claim: Claim,
    /// Its bank.
    pub bank_id: i32,
    /// Whether customers keep the bank's codes.
    pub persistent: bool,
    /// The campaign's channel where the bank persists per channel, else empty.
    pub hold_channel: &'a str,
    /// The instant at which the batch is assigned.
    pub assigned_at: DateTime<Utc>,
    /// The instant at which windows are judged.
    pub send_at: DateTime<Utc>,
    /// The smallest end date that is open then.
    pub open_on: NaiveDate,
    /// What a customer for whom no code is left gets written down; `None`: nobody gets a code unless everybody does.
    pub short_reason: Option<&'a str>,
}

/// How a draw ended.
#[derive(Debug)]
pub enum Drawn {
    /// Committed: the batch is assigned.
    Assigned {
        /// The bank's draw number.
        draw: i32,
        /// Codes that were needed.
        need: i64,
        /// Codes that the bank had.
        stock: i64,
        /// What everyone got.
        answers: Box<Answers>,
    },
    /// Rolled back: not enough stock.
    Short {
        /// Codes that are needed.
        need: i64,
        /// Codes that the bank has.
        stock: i64,
    },
}

/// Why the transaction rolls back.
pub(super) enum Stop {
    Short { need: i64, stock: i64 },
    Store(StoreError),
}

impl From<diesel::result::Error> for Stop {
    fn from(error: diesel::result::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Decides who on the list keeps a code, draws for the others, and leaves the batch assigned; see [`Drawn`]. What does not
    /// fit into memory goes to `directory`.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when the claim was lost meanwhile; [`StoreError::Missing`] when a lot has fewer codes
    /// than its counters say; any other of the statements, or of the disk. Nothing has happened then.
    pub fn draw(&self, list: Recipients, terms: &DrawTerms<'_>, directory: &Path) -> Result<Drawn, StoreError> {
        match self.connection()?.transaction(|connection| draw(connection, list, terms, directory)) {
            Ok(drawn) => Ok(drawn),
            Err(Stop::Short { need, stock }) => Ok(Drawn::Short { need, stock }),
            Err(Stop::Store(error)) => Err(error),
        }
    }

    /// The lots of a bank with their counters, by id.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn lots(&self, namespace_id: i32, bank_id: i32) -> Result<Vec<Lot>, StoreError> {
        Ok(lots(&mut *self.connection()?, namespace_id, bank_id, false)?)
    }
}

fn draw(
    connection: &mut PgConnection,
    list: Recipients,
    terms: &DrawTerms<'_>,
    directory: &Path,
) -> Result<Drawn, Stop> {
    let draw = lock_bank(connection, terms)? + 1;
    // Asked before who needs a code, so that the manifest never claims a newer redemption file than the draw saw.
    let as_of = redemptions_as_of(connection, terms.claim.namespace_id)?;
    let known = lots(connection, terms.claim.namespace_id, terms.bank_id, false)?;
    let mut answering = Answering::new(directory, list.listed());
    answering.know(known.iter().map(|lot| (lot.id, lot.end_date)));
    let needs = decide(connection, list, terms, &known, &mut answering, directory)?;
    // Locked only now: redemptions go on while holds are looked up.
    let lots = lots(connection, terms.claim.namespace_id, terms.bank_id, true)?;
    answering.know(lots.iter().map(|lot| (lot.id, lot.end_date)));
    let in_stock = stock::remaining(&lots, terms.open_on);
    let needed = needs.count();
    let need = i64::try_from(needed).unwrap_or(i64::MAX);
    let stock = i64::try_from(in_stock).unwrap_or(i64::MAX);
    if needed > in_stock && terms.short_reason.is_none() {
        return Err(Stop::Short { need, stock });
    }
    let sheet_least = sheets::customers_least(terms.persistent, handed_out(&lots));
    hand_out(connection, terms, (draw, sheet_least), (&needs, &split(&lots, needed, terms.open_on)), &mut answering)?;
    diesel::update(
        bank::table.filter(bank::namespace_id.eq(terms.claim.namespace_id)).filter(bank::id.eq(terms.bank_id)),
    )
    .set(bank::draws.eq(draw))
    .execute(connection)?;
    assigned(connection, terms, draw, as_of, (need, stock))?;
    Ok(Drawn::Assigned { draw, need, stock, answers: Box::new(answering.end()?) })
}

/// How many codes of the lots were ever handed out.
pub(super) fn handed_out(lots: &[Lot]) -> i64 {
    lots.iter().map(|lot| i64::from(lot.next_seq) + i64::from(lot.next_return)).sum()
}

/// Who keeps a code is answered; who needs one is noted.
fn decide(
    connection: &mut PgConnection,
    mut list: Recipients,
    terms: &DrawTerms<'_>,
    lots: &[Lot],
    answering: &mut Answering,
    directory: &Path,
) -> Result<Needs, StoreError> {
    let mut needs = Needs::new(directory);
    let held = if terms.persistent { handed_out(lots) } else { 0 };
    let redeemed = match terms.persistent {
        true => Redeemed::of_bank(connection, terms.claim.namespace_id, terms.bank_id)?,
        false => Redeemed::default(),
    };
    let end_dates: HashMap<i32, Option<NaiveDate>> = lots.iter().map(|lot| (lot.id, lot.end_date)).collect();
    // Most customers hold a code of the lot that the one before has, too.
    let mut last: Option<(i32, Option<NaiveDate>)> = None;
    let scope = Scope {
        namespace_id: terms.claim.namespace_id,
        bank_id: terms.bank_id,
        channel: terms.hold_channel,
        draws: (0, i32::MAX),
        redeemed: Some(&redeemed).filter(|redeemed| !redeemed.is_empty()),
        left_out_of: None,
    };
    // The code that the customer at hand keeps.
    let mut kept: Option<(i32, String)> = None;
    assigned::of_list(connection, &scope, &mut list, held, |row, met| {
        if let Met::First(held) = met {
            let mut end_date = |lot_id| match last {
                Some((known, end_date)) if known == lot_id => end_date,
                _ => last.insert((lot_id, end_dates.get(&lot_id).copied().flatten())).1,
            };
            let judged = held.as_ref().map(|held| Hold { redeemed: held.redeemed, end_date: end_date(held.lot_id) });
            let outcome = hold::decide(judged, terms.open_on).stored();
            kept = held.filter(|_| outcome.is_none()).map(|held| (held.lot_id, held.code));
            if kept.is_none() {
                return Ok(needs.add(row, outcome.unwrap_or_default())?);
            }
        }
        match &kept {
            Some((lot_id, code)) => answering.code(row.number, None, (*lot_id, code)),
            None => Ok(needs.add_again(row)?),
        }
    })?;
    Ok(needs)
}

/// Makes batches of one bank follow one another. Returns how many draws it has had. Its key stays free: a list of the bank
/// becomes a batch while another is drawn.
fn lock_bank(connection: &mut PgConnection, terms: &DrawTerms<'_>) -> Result<i32, Stop> {
    let draws = bank::table
        .filter(bank::namespace_id.eq(terms.claim.namespace_id))
        .filter(bank::id.eq(terms.bank_id))
        .select(bank::draws)
        .for_no_key_update()
        .first(connection)
        .optional()?;
    draws.ok_or_else(|| Stop::Store(StoreError::Missing { what: format!("bank {}", terms.bank_id) }))
}

pub(super) fn lots(
    connection: &mut PgConnection,
    namespace_id: i32,
    bank_id: i32,
    lock: bool,
) -> QueryResult<Vec<Lot>> {
    type Row = (i32, i64, Option<NaiveDate>, (i32, i32, i32), (i32, i32, i32), Option<DateTime<Utc>>);
    let query =
        lot::table.filter(lot::namespace_id.eq(namespace_id)).filter(lot::bank_id.eq(bank_id)).order(lot::id).select((
            lot::id,
            lot::upload_id,
            lot::end_date,
            (lot::size, lot::next_seq, lot::redeemed_ahead),
            (lot::returns, lot::next_return, lot::returns_redeemed),
            lot::voided_at,
        ));
    let rows: Vec<Row> = if lock { query.for_update().load(connection)? } else { query.load(connection)? };
    Ok(rows
        .into_iter()
        .map(|(id, upload_id, end_date, (size, next_seq, redeemed_ahead), returned, voided_at)| {
            let (returns, next_return, returns_redeemed) = returned;
            let void = voided_at.is_some();
            Lot {
                id,
                upload_id,
                end_date,
                size,
                next_seq,
                redeemed_ahead,
                returns,
                next_return,
                returns_redeemed,
                void,
            }
        })
        .collect())
}

/// Due or waiting to assigned, if the claim still holds.
fn assigned(
    connection: &mut PgConnection,
    terms: &DrawTerms<'_>,
    draw: i32,
    as_of: Option<DateTime<Utc>>,
    (need, stock): (i64, i64),
) -> Result<(), StoreError> {
    let claim = terms.claim;
    let changed = diesel::update(
        batch::table
            .filter(batch::namespace_id.eq(claim.namespace_id))
            .filter(batch::id.eq(claim.id))
            .filter(batch::fence.eq(claim.fence))
            .filter(batch::state.eq_any(["due", "waiting"])),
    )
    .set((
        batch::state.eq("assigned"),
        batch::send_at.eq(terms.send_at),
        batch::assigned_at.eq(terms.assigned_at),
        batch::draw.eq(draw),
        batch::hold_channel.eq(terms.hold_channel),
        batch::redemptions_as_of.eq(as_of),
        batch::need.eq(need),
        batch::stock.eq(stock),
        batch::waiting_for.eq(None::<String>),
    ))
    .returning(batch::id)
    .get_result::<i64>(connection);
    kept(claim, changed)
}
