//! Sheets: what a large draw takes out of one lot, packed into pages of some seventy assignments.
//!
//! A row of its own with two index entries was two thirds of what a batch costs. Within a sheet customers and places rise
//! together, so that its pages are found by either ([`super::assigned`]). Small draws, and codes that came back to stock,
//! go into `assignment` row by row.
//!
//! A unique index guards the rows. Pages have none for each of their places: before a lot's fresh codes go to anybody, the
//! draw asks, under the lot's lock, whether any of them was handed out before ([`is_untouched`]), and customers and places
//! that do not rise stop it.

use std::io::Write;

use diesel::pg::CopyFormat;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Integer};

use super::StoreError;
use super::copy::{BINARY_END, BINARY_HEADER, CopyError, GATHERED, Rows, lost};
use super::draw::DrawTerms;
use super::schema::{assignment_page, assignment_sheet};
use crate::bank::draw::Part;

/// So many customers make a sheet.
const CUSTOMERS_LEAST: u64 = 5_000;
/// Every sheet is one more place to look for who holds a code: in a persistent bank each brings at least one in so many of the
/// codes that were handed out before, so that their number grows as slowly as the bank doubles.
const SHARE: i64 = 32;
/// Bytes of arrays in a page, so that two of them share a page of the server.
const PAGE_BYTES: usize = 3_800;

/// How many customers of one lot make a sheet, in a bank that has handed out so many codes.
pub(super) fn customers_least(persistent: bool, handed_out: i64) -> u64 {
    let share = if persistent { u64::try_from(handed_out / SHARE).unwrap_or(0) } else { 0 };
    share.max(CUSTOMERS_LEAST)
}

/// Whether nothing of the lot was handed out from the part's first place on, but what came back.
pub(super) fn is_untouched(connection: &mut PgConnection, terms: &DrawTerms<'_>, part: &Part) -> QueryResult<bool> {
    #[derive(QueryableByName)]
    struct Answer {
        #[diesel(sql_type = Bool)]
        untouched: bool,
    }
    let answer: Answer = diesel::sql_query(
        "SELECT NOT EXISTS (SELECT FROM assignment a \
             WHERE a.namespace_id = $1 AND a.bank_id = $2 AND a.lot_id = $3 AND a.seq >= $4) \
         AND NOT EXISTS (SELECT FROM assignment_sheet s \
             WHERE s.namespace_id = $1 AND s.bank_id = $2 AND s.lot_id = $3 AND s.end_seq > $4) AS untouched",
    )
    .bind::<Integer, _>(terms.claim.namespace_id)
    .bind::<Integer, _>(terms.bank_id)
    .bind::<Integer, _>(part.lot_id)
    .bind::<Integer, _>(part.next)
    .get_result(connection)?;
    Ok(answer.untouched)
}

/// Writes the sheet itself down, when its pages are. `end`: the place behind the last handed out.
pub(super) fn close(
    connection: &mut PgConnection,
    terms: &DrawTerms<'_>,
    draw: i32,
    part: &Part,
    end: i32,
) -> Result<(), StoreError> {
    let missing = |_| StoreError::Missing { what: format!("room for {} customers in a sheet", part.take) };
    diesel::insert_into(assignment_sheet::table)
        .values((
            assignment_sheet::namespace_id.eq(terms.claim.namespace_id),
            assignment_sheet::bank_id.eq(terms.bank_id),
            assignment_sheet::draw.eq(draw),
            assignment_sheet::lot_id.eq(part.lot_id),
            assignment_sheet::channel.eq(terms.hold_channel),
            assignment_sheet::batch_id.eq(terms.claim.id),
            assignment_sheet::customers.eq(i32::try_from(part.take).map_err(missing)?),
            assignment_sheet::first_seq.eq(part.next),
            assignment_sheet::end_seq.eq(end),
        ))
        .execute(connection)?;
    Ok(())
}

/// An assignment on its way into a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given<'a> {
    pub(super) customer: &'a str,
    pub(super) seq: i32,
    pub(super) outcome: i16,
    pub(super) code: &'a str,
}

/// Whose pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sheet {
    pub(super) namespace_id: i32,
    pub(super) bank_id: i32,
    pub(super) draw: i32,
    pub(super) lot_id: i32,
}

/// Writes pages; `next` hands one assignment to the page at a time, or says that there are no more. Returns how many
/// assignments were written.
pub(super) fn write_pages(
    connection: &mut PgConnection,
    sheet: Sheet,
    mut next: impl FnMut(&mut Page) -> Result<bool, StoreError>,
) -> Result<usize, StoreError> {
    let (mut given, mut pages) = (0, 0);
    let rows = Rows::new(|sink: &mut dyn Write| -> Result<(), StoreError> {
        let (mut page, mut binary) = (Page::default(), Vec::from(BINARY_HEADER));
        loop {
            let more = next(&mut page)?;
            if page.is_full() || (!more && page.seqs.count > 0) {
                given += page.seqs.count;
                pages += 1;
                page.write(sheet, &mut binary)?;
            }
            if !more {
                binary.extend_from_slice(&BINARY_END);
            }
            if binary.len() >= GATHERED || !more {
                sink.write_all(&binary).map_err(|error| lost(&error))?;
                binary.clear();
            }
            if !more {
                return Ok(());
            }
        }
    });
    let copied: Result<usize, CopyError> = diesel::copy_from(assignment_page::table)
        .from_raw_data(assignment_page::table, |sink: &mut dyn Write| rows.feed(sink))
        .with_format(CopyFormat::Binary)
        .execute(connection);
    let written = copied.as_ref().map_or(0, |rows| *rows);
    rows.end(copied)?;
    if written == pages {
        return Ok(given);
    }
    Err(StoreError::Missing { what: format!("{pages} pages of assignments (wrote {written})") })
}

/// A page while it fills, in the binary form of COPY.
#[derive(Debug)]
pub(super) struct Page {
    first: Option<(i32, String)>,
    /// What was pushed last, onto the page before, too.
    last: Option<(i32, String)>,
    customers: Array,
    seqs: Array,
    outcomes: Array,
    codes: Array,
}

impl Default for Page {
    fn default() -> Self {
        let (text, int4, int2) = (Array::of(25), Array::of(23), Array::of(21));
        Self { first: None, last: None, customers: text.clone(), seqs: int4, outcomes: int2, codes: text }
    }
}

impl Page {
    /// Places in the order in which they come; customers, too, or they would not be found again.
    pub(super) fn push(&mut self, given: Given<'_>) -> Result<(), StoreError> {
        if self.last.as_ref().is_some_and(|(seq, customer)| *seq >= given.seq || customer.as_str() >= given.customer) {
            let what = format!("places and customers that rise (place {})", given.seq);
            return Err(StoreError::Missing { what });
        }
        let last = self.last.get_or_insert_default();
        last.0 = given.seq;
        given.customer.clone_into(&mut last.1);
        self.first.get_or_insert_with(|| (given.seq, given.customer.to_owned()));
        self.customers.push(given.customer.as_bytes());
        self.seqs.push(&given.seq.to_be_bytes());
        self.outcomes.push(&given.outcome.to_be_bytes());
        self.codes.push(given.code.as_bytes());
        Ok(())
    }

    fn is_full(&self) -> bool {
        [&self.customers, &self.seqs, &self.outcomes, &self.codes]
            .iter()
            .map(|array| array.elements.len())
            .sum::<usize>()
            >= PAGE_BYTES
    }

    /// Appends the page as a row, and empties it.
    fn write(&mut self, sheet: Sheet, binary: &mut Vec<u8>) -> std::io::Result<()> {
        let (first_seq, first_customer) = self.first.take().unwrap_or_default();
        binary.extend_from_slice(&10_i16.to_be_bytes());
        for number in [sheet.namespace_id, sheet.bank_id, sheet.draw, sheet.lot_id, first_seq] {
            binary.extend_from_slice(&4_i32.to_be_bytes());
            binary.extend_from_slice(&number.to_be_bytes());
        }
        binary.extend_from_slice(&length(first_customer.len())?);
        binary.extend_from_slice(first_customer.as_bytes());
        for array in [&mut self.customers, &mut self.seqs, &mut self.outcomes, &mut self.codes] {
            array.write(binary)?;
        }
        Ok(())
    }
}

/// An array of one dimension, as PostgreSQL sends and receives it.
#[derive(Clone, Debug)]
struct Array {
    element_oid: i32,
    count: usize,
    /// Each with its length before it.
    elements: Vec<u8>,
}

impl Array {
    fn of(element_oid: i32) -> Self {
        Self { element_oid, count: 0, elements: Vec::new() }
    }

    /// Elements are short: a customer's id or a code, both limited by settings far below 2 GiB.
    fn push(&mut self, element: &[u8]) {
        self.elements.extend_from_slice(&u32::try_from(element.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.elements.extend_from_slice(element);
        self.count += 1;
    }

    fn write(&mut self, binary: &mut Vec<u8>) -> std::io::Result<()> {
        // One dimension, no nulls, the element's type, how many, counted from 1.
        binary.extend_from_slice(&length(20 + self.elements.len())?);
        binary.extend_from_slice(&1_i32.to_be_bytes());
        binary.extend_from_slice(&0_i32.to_be_bytes());
        binary.extend_from_slice(&self.element_oid.to_be_bytes());
        binary.extend_from_slice(&length(self.count)?);
        binary.extend_from_slice(&1_i32.to_be_bytes());
        binary.extend_from_slice(&self.elements);
        self.elements.clear();
        self.count = 0;
        Ok(())
    }
}

fn length(bytes: usize) -> std::io::Result<[u8; 4]> {
    i32::try_from(bytes).map(i32::to_be_bytes).map_err(std::io::Error::other)
}
