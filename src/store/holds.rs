//! What the customers of a list hold: of each the latest assignment, with whether its code is redeemed.
//!
//! Both come in the order of customers, and are met in one pass. A list that is large beside the bank meets all of its
//! assignments; of a smaller one the customers are looked up, some thousand at a time, so that a bank's age costs a batch
//! nothing.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;

use super::StoreError;
use super::assigned::{self, Assigned, LOOK_UP, Scope};
use super::meets::Meets;
use super::recipients::{Met, Recipients};
use crate::sorter::run::RunRow;

/// Calls `each` for every row of the list with what its customer holds. `handed_out`: how many codes the bank ever handed out.
pub(super) fn of_list(
    connection: &mut PgConnection,
    scope: &Scope<'_>,
    list: &mut Recipients,
    handed_out: i64,
    each: impl FnMut(RunRow<'_>, Met<Assigned>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if handed_out == 0 {
        return list.beside(std::iter::empty(), Assigned::customer, each);
    }
    let listed = i64::try_from(list.listed()).unwrap_or(i64::MAX);
    let sheets = assigned::count_sheets(connection, scope.namespace_id, scope.bank_id)?;
    if Meets::by(handed_out, listed.saturating_mul(1 + sheets)) == Meets::LookedUp {
        connection.batch_execute(LOOK_UP)?;
        list.looked_up(|customers| assigned::of_some(connection, scope, customers), Assigned::customer, each)?;
        return Ok(connection.batch_execute("SET LOCAL enable_seqscan = on; SET LOCAL enable_memoize = on")?);
    }
    assigned::with_all(connection, scope, |held| list.beside(held, Assigned::customer, each))
}
