//! Handing out: codes of a bank's lots to customers who need one.
//!
//! No coupon row is locked or updated. Each lot's next codes are read as a range, redeemed ones left out, and go with the
//! customers into `assignment`; the lot's counters move exactly as far. Codes that came back to stock ([`super::returns`])
//! are a second range of the lot, and go first.
//!
//! Which customers a lot serves follows the list's order; which of them gets which of its codes follows the order of
//! customers. So both indexes on `assignment` grow in order, which costs a third less than the list's order would.

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::deserialize;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::row::NamedRow;
use diesel::sql_types::{BigInt, Integer, SmallInt, Text};

use super::StoreError;
use super::answers::Answering;
use super::by_place::column;
use super::copy::{Rows, escape, gather};
use super::draw::{DrawTerms, Stop};
use super::recipients::Customer;
use super::schema::{assignment, lot, redemption, unassigned};
use crate::bank::draw::Part;
use crate::bank::stock::Queue;
use crate::sorter::run::RunRow;
use crate::sorter::{Reading, Tape};

/// So many places of a queue are read at once.
const AT_ONCE: i64 = 50_000;
/// The place in a list behind its last customer.
const END: u64 = u64::MAX;

/// Which customers need a code, in their order.
#[derive(Debug)]
pub(super) struct Needs {
    /// A row for each customer: where it stands in the list, why it needs a code and how often it stands there again; behind
    /// it a row for each of those places.
    tape: Tape,
    places: Places,
}

/// The outcome is in the lowest bits of a row's group, above them how many rows of the same customer follow.
const OUTCOME_BITS: u32 = 3;
const OUTCOME: u32 = (1 << OUTCOME_BITS) - 1;

impl Needs {
    /// Nobody. What does not fit into memory goes to `directory`.
    pub(super) fn new(directory: &Path) -> Self {
        Self { tape: Tape::new(directory), places: Places::default() }
    }

    /// Notes a customer, who comes behind those noted before; `outcome`: as stored.
    pub(super) fn add(&mut self, customer: Customer<'_>, outcome: i16) -> std::io::Result<()> {
        let again = u32::try_from(customer.again.len()).map_err(std::io::Error::other)?;
        let group = again << OUTCOME_BITS | u32::from(outcome.unsigned_abs());
        self.places.add(customer.ordinal);
        self.tape.write(RunRow { number: customer.ordinal, group, text: customer.id })?;
        customer.again.iter().try_for_each(|place| self.tape.write(RunRow { number: *place, group: 0, text: "" }))
    }

    /// How many customers.
    pub(super) fn count(&self) -> u64 {
        self.places.count
    }

    /// Takes each part from its lot, moves the lots' counters, and writes the assignments; and writes down who got nothing,
    /// so that a rerun leaves out the same customers.
    pub(super) fn hand_out(
        &self,
        connection: &mut PgConnection,
        terms: &DrawTerms<'_>,
        draw: i32,
        parts: &[Part],
        answering: &mut Answering,
    ) -> Result<(), Stop> {
        let mut giving =
            Giving { terms, draw, needs: self, answering, any_redemptions: any_redemptions(connection, terms)? };
        // What is redeemed is looked up, not joined: the namespace may have redeemed a hundred times the codes of one draw.
        connection.batch_execute(
            "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off; \
             SET LOCAL enable_memoize = off; SET LOCAL jit = off",
        )?;
        let mut from = 0;
        for part in parts {
            let served = part.served_before + part.take;
            let to = self.place(served)?;
            giving.take(connection, part, from..to)?;
            from = to;
        }
        let left_over = self.count() - parts.last().map_or(0, |part| part.served_before + part.take);
        match terms.short_reason.filter(|_| left_over > 0) {
            Some(reason) => giving.leave_over(connection, reason, from, left_over),
            None => Ok(()),
        }
    }

    /// Where in the list the customer stands who comes behind the first `served` who need a code.
    fn place(&self, served: u64) -> Result<u64, Stop> {
        if served == self.count() {
            return Ok(END);
        }
        let missing = || StoreError::Missing { what: "customers who need a code".to_owned() };
        Ok(self.places.nth(served).ok_or_else(missing)?)
    }
}

fn any_redemptions(connection: &mut PgConnection, terms: &DrawTerms<'_>) -> QueryResult<bool> {
    let redemptions = redemption::table.filter(redemption::namespace_id.eq(terms.claim.namespace_id));
    diesel::select(diesel::dsl::exists(redemptions)).get_result(connection)
}

/// Places in a list, one bit each.
#[derive(Debug, Default)]
struct Places {
    words: Vec<u64>,
    count: u64,
}

impl Places {
    fn add(&mut self, place: u64) {
        let word = usize::try_from(place / 64).unwrap_or(usize::MAX);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if let Some(word) = self.words.get_mut(word) {
            *word |= 1 << (place % 64);
            self.count += 1;
        }
    }

    /// The place that has `before` others before it.
    fn nth(&self, mut before: u64) -> Option<u64> {
        for (number, word) in (0..).zip(&self.words) {
            let here = u64::from(word.count_ones());
            if before < here {
                let rest = (0..before).fold(*word, |word, _| word & (word - 1));
                return Some(number * 64 + u64::from(rest.trailing_zeros()));
            }
            before -= here;
        }
        None
    }
}

/// A code of a queue.
#[derive(Debug)]
struct Code {
    /// Its place in the queue.
    place: i32,
    seq: i32,
    turn: i16,
    code: String,
}

impl QueryableByName<Pg> for Code {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> deserialize::Result<Self> {
        Ok(Self {
            place: column::<Integer, _>(row, 0)?,
            seq: column::<Integer, _>(row, 1)?,
            turn: column::<SmallInt, _>(row, 2)?,
            code: column::<Text, _>(row, 3)?,
        })
    }
}

/// The codes of a range of one queue.
///
/// Each is looked up among the redemptions, also where the lot's counter says that none is redeemed: a counter that is wrong
/// then stops the draw, and hands out nothing.
fn codes(queue: Queue, any_redemptions: bool) -> String {
    let (columns, table, place) = match queue {
        Queue::Fresh => ("c.seq AS place, c.seq, 0::smallint AS turn, c.code", "coupon", "seq"),
        // Each one's turn is one higher than when it came back, which the unique index on `assignment` lets happen once.
        Queue::Returned => ("c.place, c.seq, (c.turn + 1)::smallint AS turn, c.code", "returned", "place"),
    };
    let (looked_up, kept) = match any_redemptions {
        false => ("", ""),
        true => (
            "LEFT JOIN LATERAL (SELECT true AS hit FROM redemption r \
                 WHERE r.namespace_id = $1 AND r.code = c.code OFFSET 0) r ON true",
            "AND r.hit IS NULL",
        ),
    };
    format!(
        "SELECT {columns} FROM {table} c {looked_up} \
         WHERE c.namespace_id = $1 AND c.bank_id = $2 AND c.lot_id = $3 AND c.{place} >= $4 AND c.{place} < $5 {kept} \
         ORDER BY c.{place}"
    )
}

/// A draw while it hands out.
struct Giving<'a, 't> {
    terms: &'a DrawTerms<'t>,
    draw: i32,
    needs: &'a Needs,
    answering: &'a mut Answering,
    any_redemptions: bool,
}

impl Giving<'_, '_> {
    /// Takes one lot's part for the customers who stand first in the list within `between`, and moves its counters: past
    /// the last code taken, and down by the redeemed ones passed over.
    fn take(&mut self, connection: &mut PgConnection, part: &Part, between: Range<u64>) -> Result<(), Stop> {
        let mut waiting = Waiting::new(self.needs, between);
        let differs = |found: u64| {
            let (lot, wanted) = (part.lot_id, part.take);
            Stop::Store(StoreError::Missing {
                what: format!("the {wanted} codes that the counters of lot {lot} promise (found {found})"),
            })
        };
        let (mut taken, mut begin, mut next) = (0, i64::from(part.next), part.next);
        while taken < part.take && begin < part.reach() {
            let end = part.reach().min(begin + AT_ONCE);
            let mut codes: Vec<Code> = diesel::sql_query(codes(part.queue, self.any_redemptions))
                .bind::<Integer, _>(self.terms.claim.namespace_id)
                .bind::<Integer, _>(self.terms.bank_id)
                .bind::<Integer, _>(part.lot_id)
                .bind::<BigInt, _>(begin)
                .bind::<BigInt, _>(end)
                .load(connection)?;
            codes.truncate(usize::try_from(part.take - taken).unwrap_or(usize::MAX));
            if let Some(last) = codes.last() {
                next = last.place.checked_add(1).ok_or_else(|| differs(taken))?;
            }
            taken += codes.len() as u64;
            begin = end;
            self.assign(connection, part.lot_id, &codes, &mut waiting)?;
        }
        if taken != part.take {
            return Err(differs(taken));
        }
        let passed = i64::from(next) - i64::from(part.next) - i64::try_from(part.take).unwrap_or(i64::MAX);
        let redeemed = i32::try_from(i64::from(part.redeemed) - passed).ok().filter(|left| *left >= 0);
        let redeemed = redeemed.ok_or_else(|| differs(taken))?;
        let row = diesel::update(
            lot::table
                .filter(lot::namespace_id.eq(self.terms.claim.namespace_id))
                .filter(lot::bank_id.eq(self.terms.bank_id))
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

    /// Gives these codes to the next customers.
    fn assign(
        &mut self,
        connection: &mut PgConnection,
        lot_id: i32,
        codes: &[Code],
        waiting: &mut Waiting<'_>,
    ) -> Result<(), Stop> {
        if codes.is_empty() {
            return Ok(());
        }
        let terms = self.terms;
        let front = format!("{}\t{}\t", terms.claim.namespace_id, terms.bank_id);
        let mut middle = Vec::from(b"\t");
        escape(terms.hold_channel.as_bytes(), &mut middle);
        middle.extend_from_slice(format!("\t{}\t{}\t{lot_id}\t", self.draw, terms.claim.id).as_bytes());
        let mut codes_left = codes.iter();
        let rows = Rows::new(|sink: &mut dyn Write| {
            gather(sink, |text| {
                let Some(code) = codes_left.next() else { return Ok(false) };
                if !waiting.advance()? {
                    return Err(StoreError::Missing { what: "customers who need a code".to_owned() });
                }
                text.extend_from_slice(front.as_bytes());
                escape(waiting.customer.as_bytes(), text);
                text.extend_from_slice(&middle);
                write!(text, "{}\t{}\t", code.seq, waiting.outcome)?;
                escape(code.code.as_bytes(), text);
                writeln!(text, "\t{}", code.turn)?;
                let given = (lot_id, code.code.as_str());
                waiting
                    .ordinals
                    .iter()
                    .try_for_each(|place| self.answering.code(*place, Some(waiting.outcome), given))?;
                Ok(true)
            })
        });
        let copied = diesel::copy_from(assignment::table)
            .from_raw_data(assignment::table, |sink: &mut dyn Write| rows.feed(sink))
            .execute(connection);
        let written = copied.as_ref().map_or(0, |rows| *rows);
        rows.end(copied)?;
        if written == codes.len() {
            return Ok(());
        }
        let what = format!("{} assignments (wrote {written})", codes.len());
        Err(Stop::Store(StoreError::Missing { what }))
    }

    /// Writes down that customers from `from` on got nothing.
    fn leave_over(
        &mut self,
        connection: &mut PgConnection,
        reason: &str,
        from: u64,
        expected: u64,
    ) -> Result<(), Stop> {
        let mut waiting = Waiting::new(self.needs, from..END);
        let front = format!("{}\t{}\t{reason}\t", self.terms.claim.namespace_id, self.terms.claim.id);
        let rows = Rows::new(|sink: &mut dyn Write| {
            gather(sink, |text| {
                if !waiting.advance()? {
                    return Ok(false);
                }
                text.extend_from_slice(front.as_bytes());
                escape(waiting.customer.as_bytes(), text);
                text.push(b'\n');
                waiting.ordinals.iter().try_for_each(|place| self.answering.nothing(*place, reason))?;
                Ok(true)
            })
        });
        let copied = diesel::copy_from(unassigned::table)
            .from_raw_data(
                (unassigned::namespace_id, unassigned::batch_id, unassigned::reason, unassigned::customer),
                |sink: &mut dyn Write| rows.feed(sink),
            )
            .execute(connection);
        let written = copied.as_ref().map_or(0, |rows| *rows);
        rows.end(copied)?;
        if written as u64 == expected {
            return Ok(());
        }
        Err(Stop::Store(StoreError::Missing { what: format!("{expected} customers without a code (found {written})") }))
    }
}

/// Goes through the customers who need a code and stand first in the list between two places, the second not among them.
struct Waiting<'n> {
    tape: &'n Tape,
    reading: Reading,
    between: Range<u64>,
    customer: String,
    outcome: i16,
    /// All its places in the list.
    ordinals: Vec<u64>,
}

impl<'n> Waiting<'n> {
    fn new(needs: &'n Needs, between: Range<u64>) -> Self {
        let reading = Reading::default();
        Self { tape: &needs.tape, reading, between, customer: String::new(), outcome: 0, ordinals: Vec::new() }
    }

    /// On to the next customer; false behind the last.
    fn advance(&mut self) -> Result<bool, StoreError> {
        while let Some(row) = self.reading.next_row(self.tape)? {
            let (again, is_mine) = (row.group >> OUTCOME_BITS, self.between.contains(&row.number));
            self.ordinals.clear();
            if is_mine {
                self.customer.clear();
                self.customer.push_str(row.text);
                self.outcome = i16::try_from(row.group & OUTCOME).unwrap_or_default();
                self.ordinals.push(row.number);
            }
            for _ in 0..again {
                let place = self.reading.next_row(self.tape)?.map(|row| row.number);
                self.ordinals.extend(place.filter(|_| is_mine));
            }
            if is_mine {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_order() {
        let mut places = Places::default();
        let all = [3, 64, 0, 63, 130, 1_000];
        all.iter().for_each(|place| places.add(*place));
        let found: Vec<Option<u64>> = (0..7).map(|before| places.nth(before)).collect();
        assert_eq!(found, [Some(0), Some(3), Some(63), Some(64), Some(130), Some(1_000), None]);
        assert_eq!(places.count, 6);
    }

    #[test]
    fn who_waits_between_two_places() {
        let directory = tempfile::tempdir().unwrap();
        let mut needs = Needs::new(directory.path());
        let customer = |id, ordinal, again| Customer { id, ordinal, again };
        needs.add(customer("a", 7, &[]), 1).unwrap();
        needs.add(customer("b", 2, &[3, 9]), 2).unwrap();
        needs.add(customer("c", 5, &[6]), 3).unwrap();
        assert_eq!(needs.count(), 3);
        let found = |between| {
            let (mut waiting, mut found) = (Waiting::new(&needs, between), Vec::new());
            while waiting.advance().unwrap() {
                found.push((waiting.customer.clone(), waiting.outcome, waiting.ordinals.clone()));
            }
            found
        };
        let (a, b, c) =
            (("a".to_owned(), 1, vec![7]), ("b".to_owned(), 2, vec![2, 3, 9]), ("c".to_owned(), 3, vec![5, 6]));
        assert_eq!(found(0..END), [a.clone(), b.clone(), c.clone()]);
        assert_eq!(found(0..5), [b]);
        assert_eq!(found(5..7), [c]);
        assert_eq!(found(7..END), [a]);
        assert_eq!(found(8..END), []);
    }
}
