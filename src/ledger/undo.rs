//! Undoing a coupons upload: what is not handed out yet never will be.
//!
//! Customers keep what they were given: those codes have been sent. The void ones may be uploaded again, for example with
//! the right end date.

use serde::Serialize;

use super::{Desk, LedgerError};
use crate::store::ledger::undo::VoidedLot;

/// What undoing did to one bank's codes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UndoneLot {
    /// The bank.
    pub bank: String,
    /// Last day of the window.
    pub end_date: Option<String>,
    /// Codes that the upload had added.
    pub added: i64,
    /// Codes that are void from now on.
    pub voided: i64,
    /// Codes that customers have, and keep.
    pub handed_out: i64,
    /// Codes that were redeemed and that nobody had been given.
    pub redeemed: i64,
}

impl Desk<'_> {
    /// Voids what upload `id` brought and nobody was given yet.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] when it is not an applied coupons upload, or was undone before; the store.
    pub fn undo(&self, id: i64) -> Result<Vec<UndoneLot>, LedgerError> {
        let what = format!("undo upload {id}");
        let row = self.row(id)?;
        let instead = match row.kind.as_str() {
            "coupons" => None,
            "redemptions" => Some("a redemption cannot be taken back: the code may be worthless in the shop"),
            _ => Some("a recipients list has no codes; only coupons uploads can be undone"),
        };
        if let Some(why) = instead {
            return Err(LedgerError::refused(what, why));
        }
        if row.state != "applied" {
            return Err(LedgerError::refused(what, format!("it is `{}`: it brought no codes", row.state)));
        }
        let lots = self.store.void_upload(self.namespace_id, id, self.now)?;
        if lots.is_empty() {
            return Err(LedgerError::refused(what, "every code in it was there before: it brought none"));
        }
        if let Some(before) = lots.iter().find_map(|lot| lot.voided_before) {
            let when = before.with_timezone(&self.namespace.timezone).format("%Y-%m-%d %H:%M:%S %Z");
            return Err(LedgerError::refused(what, format!("it was undone on {when}")));
        }
        Ok(lots.into_iter().map(undone).collect())
    }
}

fn undone(lot: VoidedLot) -> UndoneLot {
    UndoneLot {
        bank: lot.bank,
        end_date: lot.end_date.map(|date| date.to_string()),
        added: lot.size,
        voided: lot.size - lot.handed_out - lot.redeemed,
        handed_out: lot.handed_out,
        redeemed: lot.redeemed,
    }
}
