//! Handing out: one transaction from "who needs a code" to "the batch is assigned".
//!
//! No coupon row is locked or updated. The bank's row is locked, so that batches of one bank follow one another and a
//! customer in two of them gets the same code; then its lots, in the order of their ids. Each lot's next codes are taken
//! as a range, redeemed ones left out, and joined to the customers by number. The lot's counters move exactly as far. Codes
//! that came back to stock ([`super::returns`]) are a second range of the lot, and go first.
//!
//! Whoever applies redemptions must lock the lots (in the order of bank and id) in a statement before the one that counts
//! what is redeemed ahead of `next_seq`: then the counters are exact whichever of the two commits first.
//!
//! On any failure, and when stock is short and the campaign waits, the transaction rolls back and nothing has happened.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Integer, Nullable, Text};

use super::batches::{Claim, kept, redemptions_as_of};
use super::recipients::Recipients;
use super::schema::{bank, batch, lot};
use super::{Store, StoreError};
use crate::bank::draw::{Part, split};
use crate::bank::stock::{self, Lot, Queue};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// Committed: the batch is assigned.
    Assigned {
        /// The bank's draw number.
        draw: i32,
        /// Codes that were needed.
        need: i64,
        /// Codes that the bank had.
        stock: i64,
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
enum Stop {
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

/// Customers who need a code, numbered in the list's order from 1, with the outcome they will have.
const NEEDERS: &str = "
CREATE TEMPORARY TABLE needer (rank bigint NOT NULL, customer text COLLATE \"C\" NOT NULL, outcome smallint NOT NULL)
ON COMMIT DROP";

/// The latest assignment is the hold; what `bank::hold::decide` says about one hold, said about all. The distributed
/// tables stand in subqueries, which Citus plans apart and PostgreSQL flattens.
const NEED_WHERE_NOT_KEPT: &str = "
INSERT INTO needer (rank, customer, outcome)
SELECT row_number() OVER (ORDER BY h.ordinal), h.customer, h.outcome
FROM (
    SELECT DISTINCT ON (c.ordinal) c.ordinal, c.customer,
        CASE WHEN a.customer IS NULL THEN 1 WHEN r.code IS NOT NULL THEN 2 WHEN l.end_date < $4 THEN 3 ELSE 0 END AS outcome
    FROM (SELECT p.customer, min(p.ordinal) AS ordinal FROM recipient p GROUP BY p.customer) c
    LEFT JOIN (SELECT s.customer, s.draw, s.lot_id, s.code FROM assignment s
               WHERE s.namespace_id = $1 AND s.bank_id = $2 AND s.channel = $3) a ON a.customer = c.customer
    LEFT JOIN (SELECT x.code FROM redemption x WHERE x.namespace_id = $1) r ON r.code = a.code
    LEFT JOIN (SELECT o.id, o.end_date FROM lot o WHERE o.namespace_id = $1 AND o.bank_id = $2) l ON l.id = a.lot_id
    ORDER BY c.ordinal, a.draw DESC) h
WHERE h.outcome > 0";

const EVERYBODY_NEEDS: &str = "
INSERT INTO needer (rank, customer, outcome)
SELECT row_number() OVER (ORDER BY c.ordinal), c.customer, 1
FROM (SELECT p.customer, min(p.ordinal) AS ordinal FROM recipient p GROUP BY p.customer) c";

/// Ranks lie in the order of the table's pages, so a range of them is found by their ranges.
const NEEDERS_FOUND: &str = "CREATE INDEX ON needer USING brin (rank); ANALYZE needer;";

/// Takes the next codes of one lot for the customers numbered from $9 on. Inserted in the order of the large index, whose
/// pages are then visited once each; the other index only grows where the lot is being handed out.
const TAKE: &str = "
WITH given AS (
    INSERT INTO assignment AS a
        (namespace_id, bank_id, customer, channel, draw, batch_id, lot_id, seq, outcome, code)
    SELECT $1, $2, n.customer, $3, $4, $5, $6, t.seq, n.outcome, t.code
    FROM (SELECT k.seq, k.code, row_number() OVER (ORDER BY k.seq) AS place
          FROM (SELECT c.seq, c.code FROM coupon c
                WHERE c.namespace_id = $1 AND c.bank_id = $2 AND c.lot_id = $6 AND c.seq >= $7 AND c.seq < $8
                  AND NOT EXISTS (SELECT FROM redemption r WHERE r.namespace_id = $1 AND r.code = c.code)) k) t
    JOIN needer n ON n.rank = t.place + $9
    WHERE t.place <= $10 AND n.rank > $9 AND n.rank <= $9 + $10
    ORDER BY n.customer
    RETURNING a.seq)
SELECT count(*) AS taken, max(g.seq) AS last FROM given g";

/// The same from the codes of the lot that came back. Each one's turn is one higher than when it came back, which the
/// unique index on `assignment` lets happen once.
const TAKE_RETURNED: &str = "
WITH picked AS MATERIALIZED (
    SELECT k.place, k.seq, k.turn, k.code, row_number() OVER (ORDER BY k.place) AS nth
    FROM (SELECT t.place, t.seq, t.turn, t.code FROM returned t
          WHERE t.namespace_id = $1 AND t.bank_id = $2 AND t.lot_id = $6 AND t.place >= $7 AND t.place < $8
            AND NOT EXISTS (SELECT FROM redemption r WHERE r.namespace_id = $1 AND r.code = t.code)) k),
given AS (
    INSERT INTO assignment AS a
        (namespace_id, bank_id, customer, channel, draw, batch_id, lot_id, seq, outcome, code, turn)
    SELECT $1, $2, n.customer, $3, $4, $5, $6, p.seq, n.outcome, p.code, (p.turn + 1)::smallint
    FROM picked p
    JOIN needer n ON n.rank = p.nth + $9
    WHERE p.nth <= $10 AND n.rank > $9 AND n.rank <= $9 + $10
    ORDER BY n.customer
    RETURNING a.seq)
SELECT (SELECT count(*) FROM given g) AS taken, (SELECT max(p.place) FROM picked p WHERE p.nth <= $10) AS last";

const LEFT_OVER: &str = "
WITH noted AS (
    INSERT INTO unassigned AS u (namespace_id, batch_id, customer, reason)
    SELECT $1, $2, n.customer, $3 FROM needer n WHERE n.rank > $4
    RETURNING u.customer)
SELECT count(*) AS taken, NULL::integer AS last FROM noted";

#[derive(QueryableByName)]
struct Taken {
    #[diesel(sql_type = BigInt)]
    taken: i64,
    #[diesel(sql_type = Nullable<Integer>)]
    last: Option<i32>,
}

impl Recipients {
    /// Decides who keeps a code, draws for the others, and leaves the batch assigned; see [`Drawn`].
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when the claim was lost meanwhile; [`StoreError::Missing`] when a lot has fewer codes
    /// than its counters say; any other of the statements. Nothing has happened then.
    pub fn draw(&mut self, terms: &DrawTerms<'_>) -> Result<Drawn, StoreError> {
        let drawn = self.connection.transaction(|connection| draw(connection, terms));
        match drawn {
            Ok(drawn) => Ok(drawn),
            Err(Stop::Short { need, stock }) => Ok(Drawn::Short { need, stock }),
            Err(Stop::Store(error)) => Err(error),
        }
    }
}

fn draw(connection: &mut PgConnection, terms: &DrawTerms<'_>) -> Result<Drawn, Stop> {
    let draw = lock_bank(connection, terms)? + 1;
    // Asked before who needs a code, so that the manifest never claims a newer redemption file than the draw saw.
    let as_of = redemptions_as_of(connection, terms.claim.namespace_id)?;
    let need = find_needers(connection, terms)?;
    // Locked only now: redemptions go on while holds are looked up.
    let lots = lots(connection, terms.claim.namespace_id, terms.bank_id, true)?;
    let in_stock = stock::remaining(&lots, terms.open_on);
    let needed = u64::try_from(need).unwrap_or(0);
    let stock = i64::try_from(in_stock).unwrap_or(i64::MAX);
    if needed > in_stock && terms.short_reason.is_none() {
        return Err(Stop::Short { need, stock });
    }
    for part in split(&lots, needed, terms.open_on) {
        take(connection, terms, draw, &part)?;
    }
    if let Some(reason) = terms.short_reason.filter(|_| needed > in_stock) {
        leave_over(connection, terms, reason, need, stock)?;
    }
    diesel::update(
        bank::table.filter(bank::namespace_id.eq(terms.claim.namespace_id)).filter(bank::id.eq(terms.bank_id)),
    )
    .set(bank::draws.eq(draw))
    .execute(connection)?;
    assigned(connection, terms, draw, as_of, (need, stock))?;
    Ok(Drawn::Assigned { draw, need, stock })
}

/// Makes batches of one bank follow one another. Returns how many draws it has had.
fn lock_bank(connection: &mut PgConnection, terms: &DrawTerms<'_>) -> Result<i32, Stop> {
    let draws = bank::table
        .filter(bank::namespace_id.eq(terms.claim.namespace_id))
        .filter(bank::id.eq(terms.bank_id))
        .select(bank::draws)
        .for_update()
        .first(connection)
        .optional()?;
    draws.ok_or_else(|| Stop::Store(StoreError::Missing { what: format!("bank {}", terms.bank_id) }))
}

fn find_needers(connection: &mut PgConnection, terms: &DrawTerms<'_>) -> Result<i64, Stop> {
    connection.batch_execute(NEEDERS)?;
    if terms.persistent {
        diesel::sql_query(NEED_WHERE_NOT_KEPT)
            .bind::<Integer, _>(terms.claim.namespace_id)
            .bind::<Integer, _>(terms.bank_id)
            .bind::<Text, _>(terms.hold_channel)
            .bind::<Date, _>(terms.open_on)
            .execute(connection)?;
    } else {
        diesel::sql_query(EVERYBODY_NEEDS).execute(connection)?;
    }
    connection.batch_execute(NEEDERS_FOUND)?;
    let counted: Taken =
        diesel::sql_query("SELECT count(*) AS taken, NULL::integer AS last FROM needer").get_result(connection)?;
    Ok(counted.taken)
}

fn lots(connection: &mut PgConnection, namespace_id: i32, bank_id: i32, lock: bool) -> QueryResult<Vec<Lot>> {
    type Row = (i32, Option<NaiveDate>, (i32, i32, i32), (i32, i32, i32), Option<DateTime<Utc>>);
    let query =
        lot::table.filter(lot::namespace_id.eq(namespace_id)).filter(lot::bank_id.eq(bank_id)).order(lot::id).select((
            lot::id,
            lot::end_date,
            (lot::size, lot::next_seq, lot::redeemed_ahead),
            (lot::returns, lot::next_return, lot::returns_redeemed),
            lot::voided_at,
        ));
    let rows: Vec<Row> = if lock { query.for_update().load(connection)? } else { query.load(connection)? };
    Ok(rows
        .into_iter()
        .map(|(id, end_date, (size, next_seq, redeemed_ahead), returned, voided_at)| {
            let (returns, next_return, returns_redeemed) = returned;
            let void = voided_at.is_some();
            Lot { id, end_date, size, next_seq, redeemed_ahead, returns, next_return, returns_redeemed, void }
        })
        .collect())
}

/// Takes one lot's part and moves its counters: past the last code taken, and down by the redeemed ones passed over.
fn take(connection: &mut PgConnection, terms: &DrawTerms<'_>, draw: i32, part: &Part) -> Result<(), Stop> {
    let wanted = i64::try_from(part.take).unwrap_or(i64::MAX);
    let statement = match part.queue {
        Queue::Returned => TAKE_RETURNED,
        Queue::Fresh => TAKE,
    };
    let given: Taken = diesel::sql_query(statement)
        .bind::<Integer, _>(terms.claim.namespace_id)
        .bind::<Integer, _>(terms.bank_id)
        .bind::<Text, _>(terms.hold_channel)
        .bind::<Integer, _>(draw)
        .bind::<BigInt, _>(terms.claim.id)
        .bind::<Integer, _>(part.lot_id)
        .bind::<Integer, _>(part.next)
        .bind::<BigInt, _>(part.reach())
        .bind::<BigInt, _>(i64::try_from(part.served_before).unwrap_or(i64::MAX))
        .bind::<BigInt, _>(wanted)
        .get_result(connection)?;
    let differs = || {
        let (lot, found) = (part.lot_id, given.taken);
        Stop::Store(StoreError::Missing {
            what: format!("the {wanted} codes that the counters of lot {lot} promise (found {found})"),
        })
    };
    let last = given.last.filter(|_| given.taken == wanted).ok_or_else(differs)?;
    let passed = i64::from(last) + 1 - i64::from(part.next) - given.taken;
    let redeemed = i32::try_from(i64::from(part.redeemed) - passed).ok().filter(|left| *left >= 0);
    let redeemed = redeemed.ok_or_else(differs)?;
    let row = diesel::update(
        lot::table
            .filter(lot::namespace_id.eq(terms.claim.namespace_id))
            .filter(lot::bank_id.eq(terms.bank_id))
            .filter(lot::id.eq(part.lot_id)),
    );
    match part.queue {
        Queue::Returned => {
            row.set((lot::next_return.eq(last + 1), lot::returns_redeemed.eq(redeemed))).execute(connection)?
        }
        Queue::Fresh => row.set((lot::next_seq.eq(last + 1), lot::redeemed_ahead.eq(redeemed))).execute(connection)?,
    };
    Ok(())
}

/// Writes down who got nothing, so that a rerun leaves out the same customers.
fn leave_over(
    connection: &mut PgConnection,
    terms: &DrawTerms<'_>,
    reason: &str,
    need: i64,
    stock: i64,
) -> Result<(), Stop> {
    let noted: Taken = diesel::sql_query(LEFT_OVER)
        .bind::<Integer, _>(terms.claim.namespace_id)
        .bind::<BigInt, _>(terms.claim.id)
        .bind::<Text, _>(reason)
        .bind::<BigInt, _>(stock)
        .get_result(connection)?;
    if noted.taken == need - stock {
        return Ok(());
    }
    Err(Stop::Store(StoreError::Missing { what: format!("{} of the customers without a code", need - stock) }))
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

impl Store {
    /// The lots of a bank with their counters, in the order of uploads.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn lots(&self, namespace_id: i32, bank_id: i32) -> Result<Vec<Lot>, StoreError> {
        Ok(lots(&mut *self.connection()?, namespace_id, bank_id, false)?)
    }
}
