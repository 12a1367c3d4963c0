//! What customers hold: the newest assignment of each, and whether its code was redeemed.
//!
//! A list that is large beside the bank goes through the bank's holds as a whole; for one that is small beside it they are
//! looked up, some thousand customers at a time in the order of the index, so that a bank's age costs a batch nothing.

use diesel::connection::SimpleConnection as _;
use diesel::deserialize;
use diesel::pg::{Pg, PgRowByRowLoadingMode};
use diesel::prelude::*;
use diesel::row::NamedRow;
use diesel::sql_types::{Array, Bool, Integer, SmallInt, Text};

use super::by_place::column;
use super::meets::Meets;
use super::recipients::{Customer, Customers, Recipients};
use super::{StoreError, statistics};

/// Whose holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) namespace_id: i32,
    pub(super) bank_id: i32,
    /// As in the assignments.
    pub(super) channel: &'a str,
    /// The first and the last draw that count.
    pub(super) draws: (i32, i32),
}

/// The code that a customer holds.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    customer: String,
    pub(super) lot_id: i32,
    pub(super) draw: i32,
    pub(super) outcome: i16,
    pub(super) code: String,
    pub(super) redeemed: bool,
}

impl QueryableByName<Pg> for Hold {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> deserialize::Result<Self> {
        Ok(Self {
            customer: column::<Text, _>(row, 0)?,
            lot_id: column::<Integer, _>(row, 1)?,
            draw: column::<Integer, _>(row, 2)?,
            outcome: column::<SmallInt, _>(row, 3)?,
            code: column::<Text, _>(row, 4)?,
            redeemed: column::<Bool, _>(row, 5)?,
        })
    }
}

impl Hold {
    pub(super) fn customer(&self) -> &str {
        &self.customer
    }
}

/// Whatever the planner knows of the tables. Compiling a statement costs more than it saves.
pub(super) const LOOK_UP: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_memoize = off; SET LOCAL jit = off";
const JOIN: &str = "SET LOCAL enable_nestloop = off; SET LOCAL enable_memoize = off; SET LOCAL jit = off; \
                    SET LOCAL work_mem = '128MB'";
const JOIN_AND_LOOK_UP: &str = "SET LOCAL enable_memoize = off; SET LOCAL jit = off; SET LOCAL work_mem = '128MB'";
const RESET: &str = "SET LOCAL enable_seqscan = on; SET LOCAL enable_nestloop = on; SET LOCAL enable_memoize = on";

/// `which`: the customers. Whether redemptions are asked, and how, is `redemptions`. A join as a whole knows no order: it comes
/// before the rows are put into theirs.
fn statement(which: &str, redemptions: Option<Meets>) -> String {
    let newest = |redeemed: &str, joined: &str| {
        format!(
            "SELECT DISTINCT ON (s.customer) s.customer, s.lot_id, s.draw, s.outcome, s.code{redeemed} \
             FROM assignment s {joined} \
             WHERE s.namespace_id = $1 AND s.bank_id = $2 AND s.channel = $3 AND s.draw BETWEEN $4 AND $5 {which} \
             ORDER BY s.customer, s.draw DESC"
        )
    };
    match redemptions {
        None => newest(", false AS redeemed", ""),
        Some(Meets::Joined) => newest(
            ", r.code IS NOT NULL AS redeemed",
            "LEFT JOIN (SELECT x.code FROM redemption x WHERE x.namespace_id = $1) r ON r.code = s.code",
        ),
        Some(Meets::LookedUp) => format!(
            "SELECT a.*, r.code IS NOT NULL AS redeemed FROM ({}) a \
             LEFT JOIN LATERAL (SELECT x.code FROM redemption x \
                 WHERE x.namespace_id = $1 AND x.code = a.code OFFSET 0) r ON true ORDER BY a.customer",
            newest("", "")
        ),
    }
}

/// The holds of these customers, in order. The connection must have been told to [`LOOK_UP`].
pub(super) fn look_up(
    connection: &mut PgConnection,
    scope: &Scope<'_>,
    customers: &[&str],
    redemptions: Option<Meets>,
) -> QueryResult<Vec<Hold>> {
    diesel::sql_query(statement("AND s.customer = ANY ($6)", redemptions))
        .bind::<Integer, _>(scope.namespace_id)
        .bind::<Integer, _>(scope.bank_id)
        .bind::<Text, _>(scope.channel)
        .bind::<Integer, _>(scope.draws.0)
        .bind::<Integer, _>(scope.draws.1)
        .bind::<Array<Text>, _>(customers)
        .load(connection)
}

/// Calls `each` for every customer of the list with what it holds. `handed_out`: how many codes the bank ever handed out.
pub(super) fn of_list(
    connection: &mut PgConnection,
    scope: &Scope<'_>,
    list: &mut Recipients,
    handed_out: i64,
    mut each: impl FnMut(Customer<'_>, Option<Hold>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut customers = Customers::default();
    let listed = i64::try_from(list.listed()).unwrap_or(i64::MAX);
    if handed_out == 0 {
        while list.next_customers(&mut customers)? {
            customers.iter().try_for_each(|customer| each(customer, None))?;
        }
        return Ok(());
    }
    let redeemed = statistics::redemptions(connection)?;
    if Meets::by(handed_out, listed) == Meets::LookedUp {
        connection.batch_execute(LOOK_UP)?;
        while list.next_customers(&mut customers)? {
            let held = look_up(connection, scope, &customers.ids(), Some(Meets::LookedUp))?;
            Recipients::pair(&customers, &mut held.into_iter().map(Ok).peekable(), Hold::customer, &mut each)?;
        }
    } else {
        let redemptions = Meets::by(redeemed, listed);
        connection.batch_execute(if redemptions == Meets::Joined { JOIN } else { JOIN_AND_LOOK_UP })?;
        let mut held = diesel::sql_query(statement("", Some(redemptions)))
            .bind::<Integer, _>(scope.namespace_id)
            .bind::<Integer, _>(scope.bank_id)
            .bind::<Text, _>(scope.channel)
            .bind::<Integer, _>(scope.draws.0)
            .bind::<Integer, _>(scope.draws.1)
            .load_iter::<Hold, PgRowByRowLoadingMode>(connection)?
            .peekable();
        while list.next_customers(&mut customers)? {
            Recipients::pair(&customers, &mut held, Hold::customer, &mut each)?;
        }
    }
    Ok(connection.batch_execute(RESET)?)
}
