//! What each customer of a list holds, found once: the draw, the stock comparison and the export all read the result.
//!
//! The result is a temporary table `held`, one row per customer, `outcome` 0 for a code that is kept and 1 to 3 for the
//! reason to need one, as `bank::hold::decide` says about one hold. Customers who stand in the list again are in
//! `repeated`. Both end with the transaction, if it is rolled back, or with the list.
//!
//! A list that is large beside the bank is joined with the bank's assignments as a whole; one that is small beside it is
//! looked up, customer by customer in the order of the index, so that a bank's age costs a batch nothing. Which one is
//! decided by counters, not by the planner: right after a large upload it may still take the bank for a handful of codes.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Text};

use super::citus::is_citus;
use super::draw::DrawTerms;
use super::{StoreError, statistics};
use crate::bank::stock::Lot;
use crate::bank::window;

const TABLES: &str = "
CREATE TEMPORARY TABLE held (ordinal bigint NOT NULL, customer text COLLATE \"C\" NOT NULL, outcome smallint NOT NULL,
    lot_id integer, code text COLLATE \"C\");
CREATE TEMPORARY TABLE repeated (ordinal bigint NOT NULL, customer text COLLATE \"C\" NOT NULL);";

const EVERYBODY_NEEDS: &str = "
INSERT INTO held (ordinal, customer, outcome)
SELECT DISTINCT ON (p.customer) p.ordinal, p.customer, 1 FROM recipient p ORDER BY p.customer, p.ordinal";

const REPEATED: &str = "
INSERT INTO repeated (ordinal, customer)
SELECT p.ordinal, p.customer FROM recipient p WHERE NOT EXISTS (SELECT FROM held h WHERE h.ordinal = p.ordinal)";

/// The distributed tables stand in subqueries of their own, which Citus plans apart and PostgreSQL flattens.
const HOLDS_JOINED: &str = "
LEFT JOIN (SELECT DISTINCT ON (s.customer) s.customer, s.lot_id, s.code FROM assignment s
           WHERE s.namespace_id = $1 AND s.bank_id = $2 AND s.channel = $3 ORDER BY s.customer, s.draw DESC) a
    ON a.customer = c.customer";
const HOLDS_LOOKED_UP: &str = "
LEFT JOIN LATERAL (SELECT s.customer, s.lot_id, s.code FROM assignment s
                   WHERE s.namespace_id = $1 AND s.bank_id = $2 AND s.customer = c.customer AND s.channel = $3
                   ORDER BY s.draw DESC LIMIT 1) a ON true";
const REDEMPTIONS_JOINED: &str = "
LEFT JOIN (SELECT x.code FROM redemption x WHERE x.namespace_id = $1) r ON r.code = a.code";
const REDEMPTIONS_LOOKED_UP: &str = "
LEFT JOIN LATERAL (SELECT x.code FROM redemption x WHERE x.namespace_id = $1 AND x.code = a.code OFFSET 0) r ON true";

/// How many rows there must be to a customer before each is looked up.
const WORTH_LOOKING_UP: i64 = 4;

/// How the list meets a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meets {
    Joined,
    LookedUp,
}

impl Meets {
    /// `rows` of the table against `customers` of the list; `large`: whether the list is.
    pub(super) fn by(rows: i64, customers: i64, large: bool) -> Self {
        if large && rows < customers.saturating_mul(WORTH_LOOKING_UP) { Self::Joined } else { Self::LookedUp }
    }
}

/// What [`find`] found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Rows of `repeated`.
    pub(super) repeated: i64,
    /// Customers who need a code.
    pub(super) need: i64,
    /// Whether these are all of the list, and nobody stands in it twice: the n-th of them is the n-th of the list.
    pub(super) everybody: bool,
}

#[derive(QueryableByName)]
struct Need {
    #[diesel(sql_type = BigInt)]
    need: i64,
}

/// Fills `held` and `repeated` from `recipient`, which has `listed` rows.
pub(super) fn find(
    connection: &mut PgConnection,
    terms: &DrawTerms<'_>,
    lots: &[Lot],
    listed: i64,
    large: bool,
) -> Result<Found, StoreError> {
    connection.batch_execute(TABLES)?;
    let handed_out: i64 = lots.iter().map(|lot| i64::from(lot.next_seq) + i64::from(lot.next_return)).sum();
    let mut everybody = true;
    let customers = if terms.persistent && handed_out > 0 {
        everybody = false;
        let redeemed = statistics::redemptions(connection)?;
        let citus = is_citus(connection)?;
        let meets = |rows| if citus { Meets::Joined } else { Meets::by(rows, listed, large) };
        let (holds, redemptions) = (meets(handed_out), meets(redeemed));
        connection.batch_execute(settings(holds, large))?;
        let lapsed: Vec<i32> =
            lots.iter().filter(|lot| !window::is_open(lot.end_date, terms.open_on)).map(|lot| lot.id).collect();
        diesel::sql_query(statement(holds, redemptions))
            .bind::<Integer, _>(terms.claim.namespace_id)
            .bind::<Integer, _>(terms.bank_id)
            .bind::<Text, _>(terms.hold_channel)
            .bind::<Array<Integer>, _>(lapsed)
            .execute(connection)?
    } else {
        diesel::sql_query(EVERYBODY_NEEDS).execute(connection)?
    };
    let mut repeated = 0;
    if i64::try_from(customers).is_ok_and(|customers| customers < listed) {
        repeated = i64::try_from(diesel::sql_query(REPEATED).execute(connection)?).unwrap_or(i64::MAX);
    }
    everybody &= repeated == 0;
    let need = if everybody {
        listed
    } else {
        let counted: Need =
            diesel::sql_query("SELECT count(*) AS need FROM held WHERE outcome > 0").get_result(connection)?;
        counted.need
    };
    Ok(Found { repeated, need, everybody })
}

fn settings(holds: Meets, large: bool) -> &'static str {
    match (holds, large) {
        (Meets::LookedUp, _) => "SET LOCAL enable_seqscan = off; SET LOCAL enable_memoize = off",
        (Meets::Joined, true) => "SET LOCAL enable_nestloop = off; SET LOCAL enable_memoize = off",
        (Meets::Joined, false) => "SET LOCAL enable_memoize = off",
    }
}

fn statement(holds: Meets, redemptions: Meets) -> String {
    let holds = match holds {
        Meets::Joined => HOLDS_JOINED,
        Meets::LookedUp => HOLDS_LOOKED_UP,
    };
    let redemptions = match redemptions {
        Meets::Joined => REDEMPTIONS_JOINED,
        Meets::LookedUp => REDEMPTIONS_LOOKED_UP,
    };
    format!(
        "INSERT INTO held (ordinal, customer, outcome, lot_id, code) \
         SELECT c.ordinal, c.customer, CASE WHEN a.customer IS NULL THEN 1 WHEN r.code IS NOT NULL THEN 2 \
             WHEN a.lot_id = ANY ($4) THEN 3 ELSE 0 END, a.lot_id, a.code \
         FROM (SELECT DISTINCT ON (p.customer) p.customer, p.ordinal FROM recipient p ORDER BY p.customer, p.ordinal) c \
         {holds} {redemptions}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rows: i64, customers: i64, large: bool, expected: Meets) {
        assert_eq!(Meets::by(rows, customers, large), expected, "{rows} rows, {customers} customers");
    }

    #[test]
    fn what_is_small_beside_the_bank_is_looked_up() {
        check(0, 100, false, Meets::LookedUp);
        check(20_000_000, 100, false, Meets::LookedUp);
        check(0, 1_000_000, true, Meets::Joined);
        check(3_999_999, 1_000_000, true, Meets::Joined);
        check(4_000_000, 1_000_000, true, Meets::LookedUp);
        check(i64::MAX, i64::MAX, true, Meets::LookedUp);
    }
}
