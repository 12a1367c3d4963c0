//! What the planner knows, brought up to date right after a large change. Autovacuum would do it within a minute or so;
//! until then a bank that has just got a million codes is planned for as if it had a handful.

use diesel::connection::SimpleConnection as _;

use super::{Store, StoreError};

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Codes were added.
    Coupons,
    /// Codes were redeemed.
    Redemptions,
    /// Codes were handed out.
    Assignments,
}

impl Changed {
    /// Fewer rows than this change no plan.
    const ROWS_LEAST: u64 = 10_000;

    fn statements(self) -> &'static str {
        match self {
            // The index by lot only knows pages that were summarised; the others are read at every draw.
            Self::Coupons => "ANALYZE coupon; SELECT brin_summarize_new_values('coupon_seq')",
            Self::Redemptions => "ANALYZE redemption",
            Self::Assignments => "ANALYZE assignment",
        }
    }
}

impl Store {
    /// Refreshes what is known of a table after `rows` rows of it changed, if that is worth it.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements; nothing depends on them.
    pub fn refresh_statistics(&self, changed: Changed, rows: u64) -> Result<(), StoreError> {
        if rows >= Changed::ROWS_LEAST {
            self.connection()?.batch_execute(changed.statements())?;
        }
        Ok(())
    }
}
