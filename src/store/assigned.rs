//! What customers were given, in the order of customers: rows of `assignment` and pages of sheets ([`super::sheets`]), met in
//! one pass. Of a customer's assignments the one of the latest draw comes out.
//!
//! All of a bank, or what is found of some customers: then each is looked for in the rows and in each sheet, and only the
//! pages that may have one are read.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::iter::Peekable;

use diesel::connection::SimpleConnection as _;
use diesel::deserialize::{self, FromSql};
use diesel::pg::{Pg, PgRowByRowLoadingMode, PgValue};
use diesel::prelude::*;
use diesel::row::NamedRow;
use diesel::sql_types::{self, Array, Integer, Nullable, SmallInt, Text};

use super::StoreError;
use super::by_place::column;

/// Which assignments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) namespace_id: i32,
    pub(super) bank_id: i32,
    /// As in the assignments.
    pub(super) channel: &'a str,
    /// The first and the last draw.
    pub(super) draws: (i32, i32),
    /// Whether it is asked which codes are redeemed.
    pub(super) asks_redeemed: bool,
}

/// A customer's latest assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assigned {
    pub(super) customer: String,
    pub(super) draw: i32,
    pub(super) lot_id: i32,
    /// As stored.
    pub(super) outcome: i16,
    pub(super) code: String,
    /// False where it was not asked.
    pub(super) redeemed: bool,
}

impl Assigned {
    pub(super) fn customer(&self) -> &str {
        &self.customer
    }
}

/// Whatever the planner knows of the tables. Compiling a statement costs more than it saves.
pub(super) const LOOK_UP: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_memoize = off; SET LOCAL jit = off";
/// Both sides lie in the order of customers in their indexes: nothing need be sorted.
const IN_ORDER: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off; \
                        SET LOCAL enable_memoize = off; SET LOCAL jit = off";
const RESET: &str = "SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on; SET LOCAL enable_sort = on; \
                     SET LOCAL enable_memoize = on";

/// The columns of a [`Piece`]: of a row, then of a page.
const ROW: &str = "a.customer AS first, a.draw, a.lot_id, NULL::text[] AS customers, ARRAY[a.outcome] AS outcomes, \
                   ARRAY[a.code] AS codes";
const PAGE: &str = "p.first_customer AS first, p.draw, p.lot_id, p.customers, p.outcomes, p.codes";
/// The places of redeemed codes, from 1. Each is looked up in the order of the index.
const PAGE_REDEEMED: &str = "(SELECT array_agg(u.nth::integer) FROM unnest(p.codes) WITH ORDINALITY AS u (code, nth) \
    CROSS JOIN LATERAL (SELECT FROM redemption x WHERE x.namespace_id = $1 AND x.code = u.code OFFSET 0) r) AS redeemed";
const ROW_REDEEMED: &str = "CASE WHEN r.code IS NOT NULL THEN ARRAY[1] END AS redeemed";
const NOT_ASKED: &str = "NULL::integer[] AS redeemed";
const LOOKED_UP: &str = "LEFT JOIN LATERAL (SELECT x.code FROM redemption x WHERE x.namespace_id = $1 AND x.code = a.code OFFSET 0) r ON true";

/// How rows and pages say what is redeemed: the columns, and what rows are joined to.
fn redeemed(asked: bool) -> (&'static str, &'static str, &'static str) {
    match asked {
        true => (ROW_REDEEMED, LOOKED_UP, PAGE_REDEEMED),
        false => (NOT_ASKED, "", NOT_ASKED),
    }
}

/// All of the bank. A draw has one channel, so that its pages need no join to its sheets, which would know no order.
fn all(asks_redeemed: bool) -> String {
    let (row_redeemed, join, page_redeemed) = redeemed(asks_redeemed);
    format!(
        "(SELECT {ROW}, {row_redeemed} FROM assignment a {join} \
          WHERE a.namespace_id = $1 AND a.bank_id = $2 AND a.channel = $3 AND a.draw BETWEEN $4 AND $5) \
         UNION ALL \
         (SELECT {PAGE}, {page_redeemed} FROM assignment_page p \
          WHERE p.namespace_id = $1 AND p.bank_id = $2 AND p.draw = ANY (ARRAY(SELECT s.draw FROM assignment_sheet s \
              WHERE s.namespace_id = $1 AND s.bank_id = $2 AND s.channel = $3 AND s.draw BETWEEN $4 AND $5))) \
         ORDER BY 1"
    )
}

/// Of some customers, $6. One by one, each with all of the index's columns: a condition on all customers at once may be left
/// to a filter behind it.
fn some(asks_redeemed: bool) -> String {
    let (row_redeemed, join, page_redeemed) = redeemed(asks_redeemed);
    format!(
        "(SELECT {ROW}, {row_redeemed} FROM unnest($6) AS c (customer) \
          CROSS JOIN LATERAL (SELECT s.customer, s.draw, s.lot_id, s.outcome, s.code FROM assignment s \
              WHERE s.namespace_id = $1 AND s.bank_id = $2 AND s.customer = c.customer AND s.channel = $3 \
                  AND s.draw BETWEEN $4 AND $5 ORDER BY s.draw DESC LIMIT 1) a {join}) \
         UNION ALL \
         (SELECT {PAGE}, {page_redeemed} FROM (SELECT DISTINCT s.draw, s.lot_id, f.first_customer FROM assignment_sheet s \
              CROSS JOIN unnest($6) AS c (customer) \
              CROSS JOIN LATERAL (SELECT x.first_customer FROM assignment_page x \
                  WHERE x.namespace_id = $1 AND x.bank_id = $2 AND x.draw = s.draw AND x.lot_id = s.lot_id \
                      AND x.first_customer <= c.customer ORDER BY x.first_customer DESC LIMIT 1) f \
              WHERE s.namespace_id = $1 AND s.bank_id = $2 AND s.channel = $3 AND s.draw BETWEEN $4 AND $5) d \
          CROSS JOIN LATERAL (SELECT y.* FROM assignment_page y WHERE y.namespace_id = $1 AND y.bank_id = $2 \
              AND y.draw = d.draw AND y.lot_id = d.lot_id AND y.first_customer = d.first_customer OFFSET 0) p) \
         ORDER BY 1"
    )
}

/// Calls `work` with all latest assignments in the scope, in the order of customers.
pub(super) fn with_all<T>(
    connection: &mut PgConnection,
    scope: &Scope<'_>,
    work: impl FnOnce(&mut dyn Iterator<Item = QueryResult<Assigned>>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    connection.batch_execute(IN_ORDER)?;
    let pieces = diesel::sql_query(all(scope.asks_redeemed))
        .bind::<Integer, _>(scope.namespace_id)
        .bind::<Integer, _>(scope.bank_id)
        .bind::<Text, _>(scope.channel)
        .bind::<Integer, _>(scope.draws.0)
        .bind::<Integer, _>(scope.draws.1)
        .load_iter::<Piece, PgRowByRowLoadingMode>(connection)?;
    let done = work(&mut Latest::of(pieces))?;
    connection.batch_execute(RESET)?;
    Ok(done)
}

/// The latest assignments in the scope of these customers, in their order, and perhaps of others who stand beside them.
/// [`LOOK_UP`] must be in force.
pub(super) fn of_some(
    connection: &mut PgConnection,
    scope: &Scope<'_>,
    customers: &[&str],
) -> QueryResult<Vec<Assigned>> {
    let pieces: Vec<Piece> = diesel::sql_query(some(scope.asks_redeemed))
        .bind::<Integer, _>(scope.namespace_id)
        .bind::<Integer, _>(scope.bank_id)
        .bind::<Text, _>(scope.channel)
        .bind::<Integer, _>(scope.draws.0)
        .bind::<Integer, _>(scope.draws.1)
        .bind::<Array<Text>, _>(customers)
        .load(connection)?;
    Latest::of(pieces.into_iter().map(Ok)).collect()
}

/// How many sheets the bank has: in so many places more a customer is looked for.
pub(super) fn count_sheets(connection: &mut PgConnection, namespace_id: i32, bank_id: i32) -> QueryResult<i64> {
    use super::schema::assignment_sheet::dsl;
    dsl::assignment_sheet
        .filter(dsl::namespace_id.eq(namespace_id))
        .filter(dsl::bank_id.eq(bank_id))
        .count()
        .get_result(connection)
}

/// A row of `assignment`, or a page.
#[derive(Debug)]
struct Piece {
    /// The customer at hand: first the first, which is a row's only one.
    customer: String,
    draw: i32,
    lot_id: i32,
    /// `None` for a row.
    customers: Option<Elements>,
    outcomes: Elements,
    codes: Elements,
    redeemed: Elements,
    /// The place of the customer at hand, from 1, and the next that is redeemed.
    place: i32,
    next_redeemed: Option<i32>,
}

impl QueryableByName<Pg> for Piece {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> deserialize::Result<Self> {
        let mut piece = Self {
            customer: column::<Text, _>(row, 0)?,
            draw: column::<Integer, _>(row, 1)?,
            lot_id: column::<Integer, _>(row, 2)?,
            customers: column::<Nullable<Array<Text>>, _>(row, 3)?,
            outcomes: column::<Array<SmallInt>, _>(row, 4)?,
            codes: column::<Array<Text>, _>(row, 5)?,
            redeemed: column::<Nullable<Array<Integer>>, Option<Elements>>(row, 6)?.unwrap_or_default(),
            place: 1,
            next_redeemed: None,
        };
        if let Some(customers) = &mut piece.customers {
            customers.next()?;
        }
        piece.next_redeemed = piece.redeemed.next()?.map(number);
        Ok(piece)
    }
}

impl Piece {
    /// The assignment at hand; and on to the next. The second is false when there is none.
    fn take(&mut self) -> deserialize::Result<(Assigned, bool)> {
        let redeemed = self.next_redeemed == Some(self.place);
        if redeemed {
            self.next_redeemed = self.redeemed.next()?.map(number);
        }
        let (Some(outcome), Some(code)) = (self.outcomes.next()?, self.codes.next()?) else {
            return Err("a page has more customers than codes".into());
        };
        let assigned = Assigned {
            customer: std::mem::take(&mut self.customer),
            draw: self.draw,
            lot_id: self.lot_id,
            outcome: i16::try_from(number(outcome))?,
            code: std::str::from_utf8(code)?.to_owned(),
            redeemed,
        };
        self.place += 1;
        let next = match &mut self.customers {
            Some(customers) => customers.next()?,
            None => None,
        };
        if let Some(next) = next {
            std::str::from_utf8(next)?.clone_into(&mut self.customer);
        }
        Ok((assigned, next.is_some()))
    }
}

/// A heap gives its greatest: that is the least customer here, and of one customer the latest draw.
impl Ord for Piece {
    fn cmp(&self, other: &Self) -> Ordering {
        other.customer.as_bytes().cmp(self.customer.as_bytes()).then(self.draw.cmp(&other.draw))
    }
}

impl PartialOrd for Piece {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Piece {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Piece {}

/// The latest assignment of each customer, out of pieces that come in the order of their first customers.
struct Latest<I: Iterator<Item = QueryResult<Piece>>> {
    pieces: Peekable<I>,
    /// Pieces that are begun.
    open: BinaryHeap<Piece>,
    /// The customer that came out last.
    last: Option<String>,
}

impl<I: Iterator<Item = QueryResult<Piece>>> Latest<I> {
    fn of(pieces: I) -> Self {
        Self { pieces: pieces.peekable(), open: BinaryHeap::new(), last: None }
    }

    /// The next assignment of any draw; those of one customer come latest first.
    fn any(&mut self) -> QueryResult<Option<Assigned>> {
        // What begins no later than what is at hand must be open before that comes out.
        while let Some(piece) = self.pieces.next_if(|piece| match (piece, self.open.peek()) {
            (Ok(piece), Some(open)) => piece.customer.as_bytes() <= open.customer.as_bytes(),
            _ => true,
        }) {
            self.open.push(piece?);
        }
        let Some(mut piece) = self.open.peek_mut() else { return Ok(None) };
        let (assigned, more) = piece.take().map_err(diesel::result::Error::DeserializationError)?;
        if !more {
            PeekMut::pop(piece);
        }
        Ok(Some(assigned))
    }
}

impl<I: Iterator<Item = QueryResult<Piece>>> Iterator for Latest<I> {
    type Item = QueryResult<Assigned>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let assigned = match self.any() {
                Ok(assigned) => assigned?,
                Err(error) => return Some(Err(error)),
            };
            if self.last.as_ref() != Some(&assigned.customer) {
                let last = self.last.get_or_insert_default();
                last.clone_from(&assigned.customer);
                return Some(Ok(assigned));
            }
        }
    }
}

/// The elements of an array as they came, one after another.
#[derive(Debug, Default)]
struct Elements {
    bytes: Vec<u8>,
    at: usize,
}

/// One dimension at most: how many there are, nulls or not, the element's type; how many elements, and from where they count.
const HEADER: usize = 20;

impl Elements {
    fn of(value: &PgValue<'_>) -> Self {
        Self { bytes: value.as_bytes().to_owned(), at: HEADER }
    }

    /// `None` behind the last.
    fn next(&mut self) -> deserialize::Result<Option<&[u8]>> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let (length, rest) = self.bytes.get(self.at..).and_then(<[u8]>::split_first_chunk).ok_or(CUT)?;
        let length = usize::try_from(i32::from_be_bytes(*length))?;
        self.at += size_of::<i32>() + length;
        Ok(Some(rest.get(..length).ok_or(CUT)?))
    }
}

const CUT: &str = "an array of the store ends in the middle of an element";

impl<T> FromSql<Array<T>, Pg> for Elements
where
    T: sql_types::SingleValue,
    Array<T>: 'static,
{
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Self::of(&value))
    }
}

/// The value of an element of two or four bytes.
fn number(element: &[u8]) -> i32 {
    match *element {
        [high, low] => i32::from(i16::from_be_bytes([high, low])),
        [a, b, c, d] => i32::from_be_bytes([a, b, c, d]),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(elements: &[&[u8]]) -> Elements {
        let mut bytes = vec![0; HEADER];
        for element in elements {
            bytes.extend_from_slice(&u32::try_from(element.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(element);
        }
        Elements { bytes, at: HEADER }
    }

    /// A page of a draw; each customer's code is named after both, and those at the places in `redeemed` are.
    fn page(draw: i32, customers: &[&str], redeemed: &[i32]) -> Piece {
        let codes: Vec<String> = customers.iter().map(|customer| format!("{customer}/{draw}")).collect();
        let places: Vec<[u8; 4]> = redeemed.iter().map(|place| place.to_be_bytes()).collect();
        let mut redeemed = array(&places.iter().map(<[u8; 4]>::as_slice).collect::<Vec<_>>());
        let next_redeemed = redeemed.next().unwrap().map(number);
        let mut rest = array(&customers.iter().map(|customer| customer.as_bytes()).collect::<Vec<_>>());
        rest.next().unwrap();
        Piece {
            customer: customers[0].to_owned(),
            draw,
            lot_id: 1,
            customers: Some(rest),
            outcomes: array(&vec![&[0_u8, 2][..]; customers.len()]),
            codes: array(&codes.iter().map(String::as_bytes).collect::<Vec<_>>()),
            redeemed,
            place: 1,
            next_redeemed,
        }
    }

    fn row(draw: i32, customer: &str) -> Piece {
        Piece { customers: None, ..page(draw, &[customer], &[]) }
    }

    #[track_caller]
    fn check(pieces: Vec<Piece>, expected: &[&str]) {
        let latest: QueryResult<Vec<Assigned>> = Latest::of(pieces.into_iter().map(Ok)).collect();
        let said: Vec<String> = latest
            .unwrap()
            .into_iter()
            .inspect(|assigned| assert_eq!((assigned.outcome, assigned.lot_id), (2, 1)))
            .inspect(|assigned| assert_eq!(assigned.code, format!("{}/{}", assigned.customer, assigned.draw)))
            .map(|assigned| format!("{}{}", assigned.code, if assigned.redeemed { " redeemed" } else { "" }))
            .collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn the_latest_of_each_customer_in_order() {
        check(vec![], &[]);
        check(vec![row(3, "b")], &["b/3"]);
        // Pages that overlap, a row of the same draw between them, a customer in all three draws.
        let pieces = vec![
            page(1, &["a", "c", "e", "z"], &[1, 4]),
            page(2, &["b", "c"], &[2]),
            row(3, "c"),
            page(2, &["d", "e"], &[]),
            row(1, "f"),
            page(1, &["zz"], &[1]),
        ];
        let expected = ["a/1 redeemed", "b/2", "c/3", "d/2", "e/2", "f/1", "z/1 redeemed", "zz/1 redeemed"];
        check(pieces, &expected);
        // One customer, and pieces that begin with the same one.
        check(vec![row(1, "a"), row(3, "a"), row(2, "a"), page(4, &["a", "b"], &[2])], &["a/4", "b/4 redeemed"]);
    }

    #[test]
    fn an_array_that_was_cut_is_an_error() {
        let mut cut = page(1, &["a", "b"], &[]);
        cut.codes.bytes.pop();
        let taken: QueryResult<Vec<Assigned>> = Latest::of([Ok(cut)].into_iter()).collect();
        assert!(taken.is_err());
        let mut few = page(1, &["a", "b"], &[]);
        few.codes = array(&[b"a/1"]);
        let taken: QueryResult<Vec<Assigned>> = Latest::of([Ok(few)].into_iter()).collect();
        assert!(taken.is_err());
    }
}
