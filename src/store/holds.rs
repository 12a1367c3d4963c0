//! What customers hold: the newest assignment of each, and whether its code was redeemed.
//!
//! A list that is large beside the bank goes through the bank's holds as a whole; for one that is small beside it they are
//! looked up, some thousand customers at a time in the order of the index, so that a bank's age costs a batch nothing.

use diesel::connection::SimpleConnection as _;
use diesel::deserialize;
use diesel::pg::{Pg, PgRowByRowLoadingMode};
use diesel::prelude::*;
use diesel::row::NamedRow;
use diesel::sql_types::{Array, Bool, Integer, Text};

use super::by_place::column;
use super::meets::Meets;
use super::recipients::{Met, Recipients};
use super::{StoreError, statistics};
use crate::sorter::run::RunRow;

/// Whose holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) namespace_id: i32,
    pub(super) bank_id: i32,
    /// As in the assignments.
    pub(super) channel: &'a str,
}

/// The code that a customer holds.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    customer: String,
    pub(super) lot_id: i32,
    pub(super) code: String,
    pub(super) redeemed: bool,
}

impl QueryableByName<Pg> for Hold {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> deserialize::Result<Self> {
        Ok(Self {
            customer: column::<Text, _>(row, 0)?,
            lot_id: column::<Integer, _>(row, 1)?,
            code: column::<Text, _>(row, 2)?,
            redeemed: column::<Bool, _>(row, 3)?,
        })
    }
}

impl Hold {
    fn customer(&self) -> &str {
        &self.customer
    }
}

/// Whatever the planner knows of the tables. Compiling a statement costs more than it saves.
pub(super) const LOOK_UP: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_memoize = off; SET LOCAL jit = off";
const JOIN: &str = "SET LOCAL enable_nestloop = off; SET LOCAL enable_memoize = off; SET LOCAL jit = off; \
                    SET LOCAL work_mem = '128MB'";
const JOIN_AND_LOOK_UP: &str = "SET LOCAL enable_memoize = off; SET LOCAL jit = off; SET LOCAL work_mem = '128MB'";
const RESET: &str = "SET LOCAL enable_seqscan = on; SET LOCAL enable_nestloop = on; SET LOCAL enable_memoize = on";

/// One by one, each with all of the index's columns: a condition on all customers at once may be left to a filter behind it.
const LOOKED_UP: &str = "
SELECT a.customer, a.lot_id, a.code, r.code IS NOT NULL AS redeemed
FROM unnest($4) AS c (customer)
CROSS JOIN LATERAL (SELECT s.customer, s.lot_id, s.code FROM assignment s
    WHERE s.namespace_id = $1 AND s.bank_id = $2 AND s.customer = c.customer AND s.channel = $3
    ORDER BY s.draw DESC LIMIT 1) a
LEFT JOIN LATERAL (SELECT x.code FROM redemption x WHERE x.namespace_id = $1 AND x.code = a.code OFFSET 0) r ON true
ORDER BY a.customer";

/// All holds of the bank. A join as a whole knows no order: it comes before the rows are put into theirs.
fn joined(redemptions: Meets) -> String {
    let newest = |redeemed: &str, joined: &str| {
        format!(
            "SELECT DISTINCT ON (s.customer) s.customer, s.lot_id, s.code{redeemed} FROM assignment s {joined} \
             WHERE s.namespace_id = $1 AND s.bank_id = $2 AND s.channel = $3 ORDER BY s.customer, s.draw DESC"
        )
    };
    match redemptions {
        Meets::Joined => newest(
            ", r.code IS NOT NULL AS redeemed",
            "LEFT JOIN (SELECT x.code FROM redemption x WHERE x.namespace_id = $1) r ON r.code = s.code",
        ),
        Meets::LookedUp => format!(
            "SELECT a.*, r.code IS NOT NULL AS redeemed FROM ({}) a \
             LEFT JOIN LATERAL (SELECT x.code FROM redemption x \
                 WHERE x.namespace_id = $1 AND x.code = a.code OFFSET 0) r ON true ORDER BY a.customer",
            newest("", "")
        ),
    }
}

/// Calls `each` for every row of the list with what its customer holds. `handed_out`: how many codes the bank ever handed out.
pub(super) fn of_list(
    connection: &mut PgConnection,
    scope: &Scope<'_>,
    list: &mut Recipients,
    handed_out: i64,
    each: impl FnMut(RunRow<'_>, Met<Hold>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if handed_out == 0 {
        return list.beside(std::iter::empty(), Hold::customer, each);
    }
    let listed = i64::try_from(list.listed()).unwrap_or(i64::MAX);
    if Meets::by(handed_out, listed) == Meets::LookedUp {
        connection.batch_execute(LOOK_UP)?;
        let look_up = |customers: &[&str]| {
            diesel::sql_query(LOOKED_UP)
                .bind::<Integer, _>(scope.namespace_id)
                .bind::<Integer, _>(scope.bank_id)
                .bind::<Text, _>(scope.channel)
                .bind::<Array<Text>, _>(customers)
                .load(connection)
        };
        list.looked_up(look_up, Hold::customer, each)?;
    } else {
        let redemptions = Meets::by(statistics::redemptions(connection)?, listed);
        connection.batch_execute(if redemptions == Meets::Joined { JOIN } else { JOIN_AND_LOOK_UP })?;
        let held = diesel::sql_query(joined(redemptions))
            .bind::<Integer, _>(scope.namespace_id)
            .bind::<Integer, _>(scope.bank_id)
            .bind::<Text, _>(scope.channel)
            .load_iter::<Hold, PgRowByRowLoadingMode>(connection)?;
        list.beside(held, Hold::customer, each)?;
    }
    Ok(connection.batch_execute(RESET)?)
}
