//! Handing out: codes of a bank's lots to customers who need one.
//!
//! No coupon row is locked or updated. Each lot's next codes are read as a range, redeemed ones ([`super::redeemed`]) left out, and go with the
//! customers into `assignment`, or, where they are thousands, into a sheet ([`super::sheets`]); the lot's counters move
//! exactly as far. Codes that came back to stock ([`super::returns`])
//! are a second range of the lot, and go first.
//!
//! Which customers a lot serves follows the list's order; which of them gets which of its codes follows the order of
//! customers. So both indexes on `assignment` grow in order, and a sheet is in the order of both.

use std::io::Write;

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
use super::needs::{Needs, Waiting};
use super::redeemed::Redeemed;
use super::schema::{assignment, lot, returned, unassigned};
use super::sheets::{self, Given, Sheet};
use crate::bank::draw::Part;
use crate::bank::stock::Queue;

/// So many places of a queue are read at once.
const AT_ONCE: i64 = 50_000;

/// Takes each part from its lot, moves the lots' counters, and writes the assignments; and writes down who got nothing, so that
/// a rerun leaves out the same customers.
pub(super) fn hand_out(
    connection: &mut PgConnection,
    terms: &DrawTerms<'_>,
    (draw, sheet_least): (i32, u64),
    (needs, parts): (&Needs, &[Part]),
    answering: &mut Answering,
) -> Result<(), Stop> {
    let ends: Vec<u64> = parts.iter().map(|part| part.served_before + part.take).collect();
    let left_over = needs.count() - ends.last().copied().unwrap_or(0);
    // Asked anew: now that the lots are locked nobody redeems any more of their codes.
    let redeemed = Redeemed::of_bank(connection, terms.claim.namespace_id, terms.bank_id)?;
    let mut giving = Giving { terms, draw, sheet_least, waiting: needs.in_line(&ends, answering)?, redeemed };
    connection.batch_execute("SET LOCAL enable_seqscan = off; SET LOCAL jit = off")?;
    parts.iter().try_for_each(|part| giving.take(connection, part))?;
    if let Some(reason) = terms.short_reason.filter(|_| left_over > 0) {
        giving.leave_over(connection, reason, left_over)?;
    }
    if giving.waiting.advance()? {
        return Err(Stop::Store(StoreError::Missing { what: "codes for all who need one".to_owned() }));
    }
    Ok(())
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
fn codes(queue: Queue) -> String {
    let (columns, table, place) = match queue {
        Queue::Fresh => ("c.seq AS place, c.seq, 0::smallint AS turn, c.code", "coupon", "seq"),
        // Each one's turn is one higher than when it came back, which the unique index on `assignment` lets happen once.
        Queue::Returned => ("c.place, c.seq, (c.turn + 1)::smallint AS turn, c.code", "returned", "place"),
    };
    format!(
        "SELECT {columns} FROM {table} c \
         WHERE c.namespace_id = $1 AND c.bank_id = $2 AND c.lot_id = $3 AND c.{place} >= $4 AND c.{place} < $5 \
         ORDER BY c.{place}"
    )
}

/// A draw while it hands out.
struct Giving<'a, 't> {
    terms: &'a DrawTerms<'t>,
    draw: i32,
    /// How many customers of one lot make a sheet.
    sheet_least: u64,
    waiting: Waiting<'a>,
    redeemed: Redeemed,
}

impl Giving<'_, '_> {
    /// Takes one lot's part for the next customers, and moves its counters: past the last code taken, and down by the redeemed
    /// ones passed over.
    fn take(&mut self, connection: &mut PgConnection, part: &Part) -> Result<(), Stop> {
        let differs = |found: u64| {
            let (lot, wanted) = (part.lot_id, part.take);
            Stop::Store(StoreError::Missing {
                what: format!("the {wanted} codes that the counters of lot {lot} promise (found {found})"),
            })
        };
        if part.queue == Queue::Fresh && !sheets::is_untouched(connection, self.terms, part)? {
            let what = format!("codes that nobody has from place {} of lot {} on", part.next, part.lot_id);
            return Err(Stop::Store(StoreError::Missing { what }));
        }
        // Two ways to the same number: neither a wrong counter nor a wrong place goes unseen.
        let marked = self.count_redeemed(connection, part)?;
        if Ok(marked) != u64::try_from(part.redeemed) {
            let (lot, bank, counted) = (part.lot_id, self.terms.bank_id, part.redeemed);
            let what = format!(
                "the {counted} redeemed codes that the counters of lot {lot} of bank {bank} say (found {marked}; see \
                 `A draw that stops` in docs/operations.md)"
            );
            return Err(Stop::Store(StoreError::Missing { what }));
        }
        let (mut taken, mut begin, mut next) = (0, i64::from(part.next), part.next);
        while taken < part.take && begin < part.reach() {
            let end = part.reach().min(begin + AT_ONCE);
            let mut codes: Vec<Code> = diesel::sql_query(codes(part.queue))
                .bind::<Integer, _>(self.terms.claim.namespace_id)
                .bind::<Integer, _>(self.terms.bank_id)
                .bind::<Integer, _>(part.lot_id)
                .bind::<BigInt, _>(begin)
                .bind::<BigInt, _>(end)
                .load(connection)?;
            codes.retain(|code| !self.redeemed.has(part.lot_id, code.seq));
            codes.truncate(usize::try_from(part.take - taken).unwrap_or(usize::MAX));
            if codes.first().is_some_and(|first| first.place < next)
                || !codes.is_sorted_by(|one, other| one.place < other.place)
            {
                let what = format!("each place of lot {} once", part.lot_id);
                return Err(Stop::Store(StoreError::Missing { what }));
            }
            if let Some(last) = codes.last() {
                next = last.place.checked_add(1).ok_or_else(|| differs(taken))?;
            }
            taken += codes.len() as u64;
            begin = end;
            self.assign(connection, part, &codes)?;
        }
        if taken != part.take {
            return Err(differs(taken));
        }
        let passed = i64::from(next) - i64::from(part.next) - i64::try_from(part.take).unwrap_or(i64::MAX);
        let redeemed = i32::try_from(i64::from(part.redeemed) - passed).ok().filter(|left| *left >= 0);
        let redeemed = redeemed.ok_or_else(|| differs(taken))?;
        if self.is_packed(part) {
            sheets::close(connection, self.terms, self.draw, part, next)?;
        }
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

    /// How many codes of the part's queue are redeemed, from its first place on.
    fn count_redeemed(&self, connection: &mut PgConnection, part: &Part) -> Result<u64, StoreError> {
        if part.queue == Queue::Fresh {
            return Ok(self.redeemed.count_from(part.lot_id, part.next));
        }
        let waiting: Vec<i32> = returned::table
            .filter(returned::namespace_id.eq(self.terms.claim.namespace_id))
            .filter(returned::bank_id.eq(self.terms.bank_id).and(returned::lot_id.eq(part.lot_id)))
            .filter(returned::place.ge(part.next))
            .select(returned::seq)
            .load(connection)?;
        Ok(waiting.into_iter().filter(|seq| self.redeemed.has(part.lot_id, *seq)).count() as u64)
    }

    /// Gives these codes to the next customers.
    fn assign(&mut self, connection: &mut PgConnection, part: &Part, codes: &[Code]) -> Result<(), Stop> {
        if codes.is_empty() {
            return Ok(());
        }
        let written = match self.is_packed(part) {
            true => self.assign_packed(connection, part.lot_id, codes)?,
            false => self.assign_row_by_row(connection, part.lot_id, codes)?,
        };
        if written == codes.len() {
            return Ok(());
        }
        let what = format!("{} assignments (wrote {written})", codes.len());
        Err(Stop::Store(StoreError::Missing { what }))
    }

    fn assign_packed(
        &mut self,
        connection: &mut PgConnection,
        lot_id: i32,
        codes: &[Code],
    ) -> Result<usize, StoreError> {
        let (namespace_id, bank_id) = (self.terms.claim.namespace_id, self.terms.bank_id);
        let mut codes_left = codes.iter();
        sheets::write_pages(connection, Sheet { namespace_id, bank_id, draw: self.draw, lot_id }, |page| {
            let Some(code) = codes_left.next() else { return Ok(false) };
            self.next_customer()?;
            let (customer, outcome) = (self.waiting.customer(), self.waiting.outcome());
            page.push(Given { customer, seq: code.seq, outcome, code: &code.code })?;
            self.waiting.gets_code(lot_id, &code.code)?;
            Ok(true)
        })
    }

    fn is_packed(&self, part: &Part) -> bool {
        part.queue == Queue::Fresh && part.take >= self.sheet_least
    }

    fn next_customer(&mut self) -> Result<(), StoreError> {
        match self.waiting.advance()? {
            true => Ok(()),
            false => Err(StoreError::Missing { what: "customers who need a code".to_owned() }),
        }
    }

    fn assign_row_by_row(
        &mut self,
        connection: &mut PgConnection,
        lot_id: i32,
        codes: &[Code],
    ) -> Result<usize, StoreError> {
        let terms = self.terms;
        let front = format!("{}\t{}\t", terms.claim.namespace_id, terms.bank_id);
        let mut middle = Vec::from(b"\t");
        escape(terms.hold_channel.as_bytes(), &mut middle);
        middle.extend_from_slice(format!("\t{}\t{}\t{lot_id}\t", self.draw, terms.claim.id).as_bytes());
        let mut codes_left = codes.iter();
        let rows = Rows::new(|sink: &mut dyn Write| {
            gather(sink, |text| {
                let Some(code) = codes_left.next() else { return Ok(false) };
                self.next_customer()?;
                text.extend_from_slice(front.as_bytes());
                escape(self.waiting.customer().as_bytes(), text);
                text.extend_from_slice(&middle);
                write!(text, "{}\t{}\t", code.seq, self.waiting.outcome())?;
                escape(code.code.as_bytes(), text);
                writeln!(text, "\t{}", code.turn)?;
                self.waiting.gets_code(lot_id, &code.code)?;
                Ok(true)
            })
        });
        let copied = diesel::copy_from(assignment::table)
            .from_raw_data(assignment::table, |sink: &mut dyn Write| rows.feed(sink))
            .execute(connection);
        let written = copied.as_ref().map_or(0, |rows| *rows);
        rows.end(copied)?;
        Ok(written)
    }

    /// Writes down that whoever is left got nothing.
    fn leave_over(&mut self, connection: &mut PgConnection, reason: &str, expected: u64) -> Result<(), Stop> {
        let front = format!("{}\t{}\t{reason}\t", self.terms.claim.namespace_id, self.terms.claim.id);
        let rows = Rows::new(|sink: &mut dyn Write| {
            gather(sink, |text| {
                if !self.waiting.advance()? {
                    return Ok(false);
                }
                text.extend_from_slice(front.as_bytes());
                escape(self.waiting.customer().as_bytes(), text);
                text.push(b'\n');
                self.waiting.gets_nothing(reason)?;
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
