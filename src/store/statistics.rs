//! What the planner knows, brought up to date right after a large change. Autovacuum would do it within a minute or so;
//! until then a bank that has just got a million codes is planned for as if it had a handful.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::BigInt;

use super::{Store, StoreError, shelves};

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
    const ROWS_LEAST: u64 = 5_000;

    fn refresh(self, connection: &mut PgConnection, namespace_id: i32) -> QueryResult<()> {
        match self {
            Self::Coupons => shelves::refresh(connection, namespace_id),
            Self::Redemptions => connection.batch_execute("ANALYZE redemption"),
            Self::Assignments => connection.batch_execute("ANALYZE assignment, assignment_page, assignment_sheet"),
        }
    }
}

/// About how many redemptions there are, in all namespaces together.
pub(super) fn redemptions(connection: &mut PgConnection) -> QueryResult<i64> {
    #[derive(QueryableByName)]
    struct Estimate {
        #[diesel(sql_type = BigInt)]
        rows: i64,
    }
    let estimate: Estimate = diesel::sql_query(
        "SELECT coalesce((SELECT greatest(c.reltuples, 0)::bigint FROM pg_class AS c WHERE c.oid = 'redemption'::regclass), 0) \
             AS rows",
    )
    .get_result(connection)?;
    Ok(estimate.rows)
}

impl Store {
    /// Refreshes what is known of a table after `rows` rows of a namespace changed in it, if that is worth it.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements; nothing depends on them.
    pub fn refresh_statistics(&self, namespace_id: i32, changed: Changed, rows: u64) -> Result<(), StoreError> {
        if rows >= Changed::ROWS_LEAST {
            changed.refresh(&mut *self.connection()?, namespace_id)?;
        }
        Ok(())
    }
}
