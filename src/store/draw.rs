//! Handing out: one transaction from "who needs a code" to "the batch is assigned".
//!
//! No coupon row is locked or updated. The bank's row is locked, so that batches of one bank follow one another and a
//! customer in two of them gets the same code; then its lots, in the order of their ids. Each lot's next codes are taken
//! as a range, redeemed ones left out, and joined to the customers by number. The lot's counters move exactly as far. Codes
//! that came back to stock ([`super::returns`]) are a second range of the lot, and go first.
//!
//! Which customers a lot serves follows the list's order; which of them gets which of its codes follows the order of
//! customers. So both indexes on `assignment` grow in order, which costs a third less than the list's order would.
//!
//! Whoever applies redemptions must lock the lots (in the order of bank and id) in a statement before the one that counts
//! what is redeemed ahead of `next_seq`: then the counters are exact whichever of the two commits first.
//!
//! On any failure, and when stock is short and the campaign waits, the transaction rolls back and nothing has happened.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Text};

use super::batches::{Claim, kept, redemptions_as_of};
use super::held::Found;
use super::recipients::Recipients;
use super::schema::{bank, batch, lot, redemption};
use super::{Store, StoreError, held};
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

/// What is handed out in this draw, before it is in `assignment`. `place` is the code's place in its queue.
const GIVEN: &str = "
CREATE TEMPORARY TABLE given (ordinal bigint NOT NULL, customer text COLLATE \"C\" NOT NULL, outcome smallint NOT NULL,
    part integer NOT NULL, place integer NOT NULL, lot_id integer NOT NULL, seq integer NOT NULL, turn smallint NOT NULL,
    code text COLLATE \"C\" NOT NULL)";

/// Both sides are numbered in the order in which they lie: sorting what is sorted costs less than a hash table of it, and
/// keeps the order, in which the insert then visits each page of the two indexes once. Redemptions are looked up, not
/// joined: the namespace may have redeemed a hundred times the codes of one draw.
const IN_ORDER: &str = "
SET LOCAL enable_hashjoin = off; SET LOCAL enable_nestloop = off; SET LOCAL enable_seqscan = off;
SET LOCAL enable_memoize = off;";

/// Where the customers of each part begin: the place in the list of the n-th who needs a code, for each n in $1.
const CUTS: &str = "
SELECT o.ordinal FROM (SELECT h.ordinal, row_number() OVER (ORDER BY h.ordinal) AS rank FROM held h WHERE h.outcome > 0) o
WHERE o.rank = ANY ($1) ORDER BY o.ordinal";

/// Joins the next codes of one queue with the customers of one part: which part a customer is in follows from the list's
/// order, which code of the part from the order of customers.
///
/// Each code is looked up among the redemptions, also where the lot's counter says that none is redeemed: a counter that is
/// wrong then stops the draw, and hands out nothing.
fn fill(queue: Queue, any_redemptions: bool) -> String {
    let (codes, place) = match queue {
        Queue::Fresh => (
            "SELECT c.seq AS place, c.seq, 0 AS turn, c.code FROM coupon c \
             WHERE c.namespace_id = $1 AND c.bank_id = $2 AND c.lot_id = $3 AND c.seq >= $4 AND c.seq < $5",
            "seq",
        ),
        // Each one's turn is one higher than when it came back, which the unique index on `assignment` lets happen once.
        Queue::Returned => (
            "SELECT c.place, c.seq, c.turn + 1 AS turn, c.code FROM returned c \
             WHERE c.namespace_id = $1 AND c.bank_id = $2 AND c.lot_id = $3 AND c.place >= $4 AND c.place < $5",
            "place",
        ),
    };
    let skipped = "LEFT JOIN LATERAL (SELECT true AS hit FROM redemption r \
                   WHERE r.namespace_id = $1 AND r.code = c.code OFFSET 0) r ON true";
    let codes = if any_redemptions {
        format!("{} AND r.hit IS NULL", codes.replace("c WHERE", &format!("c {skipped} WHERE")))
    } else {
        codes.to_owned()
    };
    format!(
        "INSERT INTO given (ordinal, customer, outcome, part, place, lot_id, seq, turn, code) \
         SELECT n.ordinal, n.customer, n.outcome, $6, t.place, $3, t.seq, t.turn::smallint, t.code \
         FROM (SELECT k.place, k.seq, k.turn, k.code, row_number() OVER (ORDER BY k.{place}) AS nth FROM ({codes}) k) t \
         JOIN (SELECT h.ordinal, h.customer, h.outcome, row_number() OVER (ORDER BY h.customer) AS nth \
               FROM held h WHERE h.outcome > 0 AND h.ordinal >= $7 AND h.ordinal < $8) n ON n.nth = t.nth"
    )
}

/// Read as it lies, which is in the order of the large index and, within a part, of the other one too.
const HAND_OUT: &str = "
INSERT INTO assignment AS a (namespace_id, bank_id, customer, channel, draw, batch_id, lot_id, seq, outcome, code, turn)
SELECT $1, $2, v.customer, $3, $4, $5, v.lot_id, v.seq, v.outcome, v.code, v.turn FROM given v";

const LEFT_OVER: &str = "
INSERT INTO unassigned AS u (namespace_id, batch_id, customer, reason)
SELECT $1, $2, h.customer, $3 FROM held h WHERE h.outcome > 0 AND h.ordinal >= $4";

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

#[derive(QueryableByName)]
struct Cut {
    #[diesel(sql_type = BigInt)]
    ordinal: i64,
}

/// The place in a list behind its last customer.
const END: i64 = i64::MAX;

/// What the temporary tables hold after a draw.
#[derive(Clone, Debug)]
pub(super) struct Fresh {
    /// Rows of `repeated`.
    pub(super) repeated: i64,
    /// Customers who need a code and stand here in the list, or behind it, got none.
    pub(super) left_over_from: i64,
    /// What is written down for them.
    pub(super) reason: Option<String>,
    /// End date per lot.
    pub(super) end_dates: HashMap<i32, Option<NaiveDate>>,
}

impl Recipients {
    /// Decides who keeps a code, draws for the others, and leaves the batch assigned; see [`Drawn`].
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when the claim was lost meanwhile; [`StoreError::Missing`] when a lot has fewer codes
    /// than its counters say; any other of the statements. Nothing has happened then.
    pub fn draw(&mut self, terms: &DrawTerms<'_>) -> Result<Drawn, StoreError> {
        let (listed, large) = (self.listed, self.is_large());
        let drawn = self.connection.transaction(|connection| draw(connection, terms, listed, large));
        match drawn {
            Ok((drawn, fresh)) => {
                self.fresh = Some(Box::new(fresh));
                Ok(drawn)
            }
            Err(Stop::Short { need, stock }) => Ok(Drawn::Short { need, stock }),
            Err(Stop::Store(error)) => Err(error),
        }
    }
}

fn draw(
    connection: &mut PgConnection,
    terms: &DrawTerms<'_>,
    listed: i64,
    large: bool,
) -> Result<(Drawn, Fresh), Stop> {
    let draw = lock_bank(connection, terms)? + 1;
    // Asked before who needs a code, so that the manifest never claims a newer redemption file than the draw saw.
    let as_of = redemptions_as_of(connection, terms.claim.namespace_id)?;
    let known = lots(connection, terms.claim.namespace_id, terms.bank_id, false)?;
    let found = held::find(connection, terms, &known, listed, large)?;
    let need = found.need;
    // Locked only now: redemptions go on while holds are looked up.
    let lots = lots(connection, terms.claim.namespace_id, terms.bank_id, true)?;
    let in_stock = stock::remaining(&lots, terms.open_on);
    let needed = u64::try_from(need).unwrap_or(0);
    let stock = i64::try_from(in_stock).unwrap_or(i64::MAX);
    if needed > in_stock && terms.short_reason.is_none() {
        return Err(Stop::Short { need, stock });
    }
    let parts = split(&lots, needed, terms.open_on);
    let cuts = cuts(connection, &parts, found)?;
    hand_out(connection, terms, draw, &parts, &cuts)?;
    let left_over_from = cuts.last().copied().unwrap_or(END);
    if let Some(reason) = terms.short_reason.filter(|_| needed > in_stock) {
        leave_over(connection, terms, reason, left_over_from, need - stock)?;
    }
    diesel::update(
        bank::table.filter(bank::namespace_id.eq(terms.claim.namespace_id)).filter(bank::id.eq(terms.bank_id)),
    )
    .set(bank::draws.eq(draw))
    .execute(connection)?;
    assigned(connection, terms, draw, as_of, (need, stock))?;
    let end_dates = lots.iter().map(|lot| (lot.id, lot.end_date)).collect();
    let fresh =
        Fresh { repeated: found.repeated, left_over_from, reason: terms.short_reason.map(str::to_owned), end_dates };
    Ok((Drawn::Assigned { draw, need, stock }, fresh))
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

/// Where in the list each part but the first begins, and at last where it is that nothing is left. One more than parts;
/// where all are served the last is [`END`].
fn cuts(connection: &mut PgConnection, parts: &[Part], found: Found) -> Result<Vec<i64>, Stop> {
    let need = u64::try_from(found.need).unwrap_or(0);
    let served = parts.last().map_or(0, |part| part.served_before + part.take);
    let ends = parts.iter().skip(1).map(|part| part.served_before).chain((served < need).then_some(served));
    let ranks: Vec<i64> = ends.map(|end| i64::try_from(end).unwrap_or(END).saturating_add(1)).collect();
    let mut cuts = vec![0];
    if !ranks.is_empty() {
        if found.everybody {
            cuts.extend(ranks.iter().map(|rank| rank - 1));
        } else {
            let places: Vec<Cut> = diesel::sql_query(CUTS).bind::<Array<BigInt>, _>(&ranks).load(connection)?;
            cuts.extend(places.into_iter().map(|cut| cut.ordinal));
        }
        if cuts.len() != ranks.len() + 1 {
            return Err(StoreError::Missing { what: "customers who need a code".to_owned() }.into());
        }
    }
    if served == need {
        cuts.push(END);
    }
    if parts.is_empty() {
        // Nobody is served: either nobody needs a code, or everybody is left over from the first on.
        return Ok(vec![if need == 0 { END } else { 0 }]);
    }
    Ok(cuts)
}

fn lots(connection: &mut PgConnection, namespace_id: i32, bank_id: i32, lock: bool) -> QueryResult<Vec<Lot>> {
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

/// Takes each part from its lot, moves the lots' counters, and writes the assignments. `cuts` are the places in the list at
/// which the parts begin, and the last one ends.
fn hand_out(
    connection: &mut PgConnection,
    terms: &DrawTerms<'_>,
    draw: i32,
    parts: &[Part],
    cuts: &[i64],
) -> Result<(), Stop> {
    connection.batch_execute(GIVEN)?;
    if parts.is_empty() {
        return Ok(());
    }
    connection.batch_execute(IN_ORDER)?;
    let any_redemptions: bool = diesel::select(diesel::dsl::exists(
        redemption::table.filter(redemption::namespace_id.eq(terms.claim.namespace_id)),
    ))
    .get_result(connection)?;
    for ((number, part), customers) in (0..).zip(parts).zip(cuts.windows(2)) {
        let (from, to) = (customers.first().copied().unwrap_or(END), customers.last().copied().unwrap_or(END));
        take(connection, terms, (number, part), (from, to), any_redemptions)?;
    }
    let given = diesel::sql_query(HAND_OUT)
        .bind::<Integer, _>(terms.claim.namespace_id)
        .bind::<Integer, _>(terms.bank_id)
        .bind::<Text, _>(terms.hold_channel)
        .bind::<Integer, _>(draw)
        .bind::<BigInt, _>(terms.claim.id)
        .execute(connection)?;
    let promised: u64 = parts.iter().map(|part| part.take).sum();
    if given as u64 == promised {
        return Ok(());
    }
    Err(Stop::Store(StoreError::Missing { what: format!("{promised} assignments (wrote {given})") }))
}

/// Takes one lot's part and moves its counters: past the last code taken, and down by the redeemed ones passed over.
fn take(
    connection: &mut PgConnection,
    terms: &DrawTerms<'_>,
    (number, part): (i32, &Part),
    (from, to): (i64, i64),
    any_redemptions: bool,
) -> Result<(), Stop> {
    let taken = diesel::sql_query(fill(part.queue, any_redemptions))
        .bind::<Integer, _>(terms.claim.namespace_id)
        .bind::<Integer, _>(terms.bank_id)
        .bind::<Integer, _>(part.lot_id)
        .bind::<Integer, _>(part.next)
        .bind::<BigInt, _>(part.reach())
        .bind::<Integer, _>(number)
        .bind::<BigInt, _>(from)
        .bind::<BigInt, _>(to)
        .execute(connection)?;
    let differs = || {
        let (lot, wanted) = (part.lot_id, part.take);
        Stop::Store(StoreError::Missing {
            what: format!("the {wanted} codes that the counters of lot {lot} promise (found {taken})"),
        })
    };
    if taken as u64 != part.take {
        return Err(differs());
    }
    let next = i32::try_from(behind_last(connection, (number, part))?).map_err(|_| differs())?;
    let passed = i64::from(next) - i64::from(part.next) - i64::try_from(part.take).unwrap_or(i64::MAX);
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
            row.set((lot::next_return.eq(next), lot::returns_redeemed.eq(redeemed))).execute(connection)?
        }
        Queue::Fresh => row.set((lot::next_seq.eq(next), lot::redeemed_ahead.eq(redeemed))).execute(connection)?,
    };
    Ok(())
}

/// The place behind the last code taken.
fn behind_last(connection: &mut PgConnection, (number, part): (i32, &Part)) -> QueryResult<i64> {
    if i64::from(part.next) + i64::try_from(part.take).unwrap_or(i64::MAX) == part.reach() {
        // As many were taken as there are places, so all of them were.
        return Ok(part.reach());
    }
    let last = diesel::sql_query("SELECT max(place)::bigint AS number FROM given WHERE part = $1")
        .bind::<Integer, _>(number)
        .get_result::<Number>(connection)?;
    Ok(last.number + 1)
}

/// Writes down who got nothing, so that a rerun leaves out the same customers.
fn leave_over(
    connection: &mut PgConnection,
    terms: &DrawTerms<'_>,
    reason: &str,
    from: i64,
    expected: i64,
) -> Result<(), Stop> {
    let noted = diesel::sql_query(LEFT_OVER)
        .bind::<Integer, _>(terms.claim.namespace_id)
        .bind::<BigInt, _>(terms.claim.id)
        .bind::<Text, _>(reason)
        .bind::<BigInt, _>(from)
        .execute(connection)?;
    if i64::try_from(noted) == Ok(expected) {
        return Ok(());
    }
    Err(Stop::Store(StoreError::Missing { what: format!("{expected} customers without a code") }))
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
    /// The lots of a bank with their counters, by id.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn lots(&self, namespace_id: i32, bank_id: i32) -> Result<Vec<Lot>, StoreError> {
        Ok(lots(&mut *self.connection()?, namespace_id, bank_id, false)?)
    }
}
