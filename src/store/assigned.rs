//! What customers were given, in the order of customers: rows of `assignment` and pages of sheets ([`super::sheets`]), met in
//! one pass. Of a customer's assignments the one of the latest draw comes out.
//!
//! All of a bank, or what is found of some customers: then each is looked for in the rows and in each sheet.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::iter::Peekable;

use diesel::connection::SimpleConnection as _;
use diesel::deserialize::{self, FromSql};
use diesel::pg::{Pg, PgRowByRowLoadingMode, PgValue};
use diesel::prelude::*;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::row::NamedRow;
use diesel::sql_types::{self, Array, BigInt, Integer, Nullable, SmallInt, Text};

use super::StoreError;
use super::by_place::column;
use super::meets::Meets;
use super::recipients::{Met, Recipients};
use super::redeemed::Redeemed;
use crate::sorter::run::RunRow;

/// Which assignments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) namespace_id: i32,
    pub(super) bank_id: i32,
    /// As in the assignments.
    pub(super) channel: &'a str,
    /// The first and the last draw.
    pub(super) draws: (i32, i32),
    /// What is redeemed, where that is asked.
    pub(super) redeemed: Option<&'a Redeemed>,
    /// The batch whose customers without a code of the bank are asked for too.
    pub(super) left_out_of: Option<i64>,
}

/// A customer's latest assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assigned {
    pub(super) customer: String,
    pub(super) draw: i32,
    pub(super) lot_id: i32,
    /// As stored, or [`LEFT_OUT`]; `None` where nobody was asked for who was left out.
    pub(super) outcome: Option<i16>,
    /// Where the customer was left out, why.
    pub(super) code: String,
    /// False where it was not asked.
    pub(super) redeemed: bool,
}

/// Stands in the place of the outcome where the customer got no code of the bank. That is later than any draw.
pub(super) const LEFT_OUT: i16 = 0;

impl Assigned {
    pub(super) fn customer(&self) -> &str {
        &self.customer
    }
}

/// Whatever the planner knows of the tables. Compiling a statement costs more than it saves.
const LOOK_UP: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_memoize = off; SET LOCAL jit = off";
/// Both sides lie in the order of customers in their indexes: nothing need be sorted.
const IN_ORDER: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off; \
                        SET LOCAL enable_memoize = off; SET LOCAL jit = off";
const RESET: &str = "SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on; SET LOCAL enable_sort = on; \
                     SET LOCAL enable_memoize = on";

/// A subquery for what a customer was given out of a bank, with the columns of `assigned`; `$1` is the namespace. Its own
/// names begin with `in_`, so that what stands for `bank` and `customer` means what it means outside. Arrays are asked for a
/// place: to unfold a page for one assignment costs twenty times as much.
pub(super) fn to(bank: &str, customer: &str) -> String {
    format!(
        "(SELECT {UNPACKED} FROM assignment in_row \
          WHERE in_row.namespace_id = $1 AND in_row.bank_id = {bank} AND in_row.customer = {customer} \
          UNION ALL \
          SELECT {PACKED} FROM assignment_sheet in_sheet \
          CROSS JOIN LATERAL (SELECT in_all.customers, in_all.seqs, in_all.outcomes, in_all.codes FROM assignment_page in_all \
              WHERE in_all.namespace_id = $1 AND in_all.bank_id = {bank} AND in_all.draw = in_sheet.draw \
                  AND in_all.lot_id = in_sheet.lot_id AND in_all.first_customer <= {customer} \
              ORDER BY in_all.first_customer DESC LIMIT 1) in_page \
          CROSS JOIN LATERAL (SELECT array_position(in_page.customers, {customer}) AS th OFFSET 0) in_place \
          WHERE in_sheet.namespace_id = $1 AND in_sheet.bank_id = {bank} AND in_place.th IS NOT NULL)"
    )
}

/// The same for who was given the code at one place of a lot, turn by turn.
pub(super) fn at(bank: &str, lot: &str, place: &str) -> String {
    format!(
        "(SELECT {UNPACKED} FROM assignment in_row \
          WHERE in_row.namespace_id = $1 AND in_row.bank_id = {bank} AND in_row.lot_id = {lot} AND in_row.seq = {place} \
          UNION ALL \
          SELECT {PACKED} \
          FROM (SELECT in_all.draw, in_all.customers, in_all.seqs, in_all.outcomes, in_all.codes FROM assignment_page in_all \
              WHERE in_all.namespace_id = $1 AND in_all.bank_id = {bank} AND in_all.lot_id = {lot} \
                  AND in_all.first_seq <= {place} ORDER BY in_all.first_seq DESC LIMIT 1) in_page \
          CROSS JOIN LATERAL (SELECT array_position(in_page.seqs, {place}) AS th OFFSET 0) in_place \
          JOIN assignment_sheet in_sheet ON in_sheet.namespace_id = $1 AND in_sheet.bank_id = {bank} \
              AND in_sheet.draw = in_page.draw AND in_sheet.lot_id = {lot} \
          WHERE in_place.th IS NOT NULL)"
    )
}

const UNPACKED: &str = "in_row.bank_id, in_row.customer, in_row.channel, in_row.draw, in_row.batch_id, in_row.lot_id, \
    in_row.seq, in_row.turn, in_row.outcome, in_row.code";
/// The same columns of the place in a page.
const PACKED: &str = "in_sheet.bank_id, in_page.customers[in_place.th], in_sheet.channel, in_sheet.draw, in_sheet.batch_id, \
    in_sheet.lot_id, in_page.seqs[in_place.th], 0::smallint, in_page.outcomes[in_place.th], in_page.codes[in_place.th]";

/// Which of a [`Piece`]'s columns are asked for: the server sends an array element by element, which is most of its work.
#[derive(Clone, Copy)]
struct Asked {
    places: bool,
    outcomes: bool,
}

impl Asked {
    fn by(scope: &Scope<'_>) -> Self {
        Self { places: scope.redeemed.is_some(), outcomes: scope.left_out_of.is_some() }
    }

    /// The columns of a row, of a page, and of who was left out.
    fn columns(self) -> (String, String, &'static str) {
        let or_null = |asked, columns, null| if asked { columns } else { (null, null) };
        let places = or_null(self.places, ("ARRAY[a.seq]", "p.seqs"), "NULL::integer[]");
        let outcomes = or_null(self.outcomes, ("ARRAY[a.outcome]", "p.outcomes"), "NULL::smallint[]");
        (
            format!(
                "a.customer AS first, a.draw, a.lot_id, NULL::text[] AS customers, {} AS outcomes, \
                 ARRAY[a.code] AS codes, {} AS places",
                outcomes.0, places.0
            ),
            format!("p.first_customer, p.draw, p.lot_id, p.customers, {}, p.codes, {}", outcomes.1, places.1),
            "n.customer, 2147483647, 0, NULL::text[], ARRAY[0::smallint], ARRAY[n.reason], NULL::integer[]",
        )
    }
}

/// All of the bank. A draw has one channel, so that its pages need no join to its sheets, which would know no order. Each part
/// asks for its order itself: then they are merged as they come out of their indexes, and nothing is sorted.
fn all(asked: Asked) -> String {
    let (row, page, without) = asked.columns();
    format!(
        "(SELECT {row} FROM assignment a \
          WHERE a.namespace_id = $1 AND a.bank_id = $2 AND a.channel = $3 AND a.draw BETWEEN $4 AND $5 ORDER BY a.customer) \
         UNION ALL \
         (SELECT {page} FROM assignment_page p \
          WHERE p.namespace_id = $1 AND p.bank_id = $2 AND p.draw = ANY (ARRAY(SELECT s.draw FROM assignment_sheet s \
              WHERE s.namespace_id = $1 AND s.bank_id = $2 AND s.channel = $3 AND s.draw BETWEEN $4 AND $5)) \
          ORDER BY p.first_customer) \
         UNION ALL \
         (SELECT {without} FROM unassigned n WHERE n.namespace_id = $1 AND n.batch_id = $6 ORDER BY n.customer) \
         ORDER BY 1"
    )
}

/// Of some customers, $7. One by one, each with all of the index's columns: a condition on all customers at once may be left
/// to a filter behind it.
fn some(asked: Asked) -> String {
    let (row, _, without) = asked.columns();
    format!(
        "(SELECT {row} FROM unnest($7) AS c (customer) CROSS JOIN LATERAL {} a \
          WHERE a.channel = $3 AND a.draw BETWEEN $4 AND $5) \
         UNION ALL \
         (SELECT {without} FROM unnest($7) AS c (customer) \
          CROSS JOIN LATERAL (SELECT x.customer, x.reason FROM unassigned x \
              WHERE x.namespace_id = $1 AND x.batch_id = $6 AND x.customer = c.customer OFFSET 0) n) \
         ORDER BY 1",
        to("$2", "c.customer")
    )
}

/// Calls `each` for every row of the list with the latest assignment in the scope of its customer.
///
/// `handed_out`: how many codes the bank ever handed out. A list that is large beside it meets all of its assignments; of a
/// smaller one the customers are looked up, some thousand at a time, so that a bank's age costs a batch nothing.
pub(super) fn of_list(
    connection: &mut PgConnection,
    scope: &Scope<'_>,
    list: &mut Recipients,
    handed_out: i64,
    each: impl FnMut(RunRow<'_>, Met<Assigned>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if handed_out == 0 && scope.left_out_of.is_none() {
        return list.beside(std::iter::empty(), Assigned::customer, each);
    }
    let places = 1 + LOOKED_AT * count_sheets(connection, scope)?;
    let listed = i64::try_from(list.listed()).unwrap_or(i64::MAX).saturating_mul(places);
    if Meets::by(handed_out, listed) == Meets::LookedUp {
        connection.batch_execute(LOOK_UP)?;
        list.looked_up(|customers| of_some(connection, scope, customers), Assigned::customer, each)?;
    } else {
        connection.batch_execute(IN_ORDER)?;
        let pieces = bound(all(Asked::by(scope)), scope).load_iter::<Piece, PgRowByRowLoadingMode>(connection)?;
        list.beside(Latest::of(pieces, scope.redeemed), Assigned::customer, each)?;
    }
    Ok(connection.batch_execute(RESET)?)
}

/// To look into a page costs so many times what it costs to look into an index.
const LOOKED_AT: i64 = 3;

fn of_some(connection: &mut PgConnection, scope: &Scope<'_>, customers: &[&str]) -> QueryResult<Vec<Assigned>> {
    let pieces: Vec<Piece> = bound(some(Asked::by(scope)), scope).bind::<Array<Text>, _>(customers).load(connection)?;
    Latest::of(pieces.into_iter().map(Ok), scope.redeemed).collect()
}

fn bound(statement: String, scope: &Scope<'_>) -> BoxedSqlQuery<'static, Pg, SqlQuery> {
    diesel::sql_query(statement)
        .into_boxed()
        .bind::<Integer, _>(scope.namespace_id)
        .bind::<Integer, _>(scope.bank_id)
        .bind::<Text, _>(scope.channel.to_owned())
        .bind::<Integer, _>(scope.draws.0)
        .bind::<Integer, _>(scope.draws.1)
        .bind::<BigInt, _>(scope.left_out_of.unwrap_or(-1))
}

/// How many sheets there are in the scope: in so many places more a customer is looked for.
fn count_sheets(connection: &mut PgConnection, scope: &Scope<'_>) -> QueryResult<i64> {
    use super::schema::assignment_sheet::dsl;
    dsl::assignment_sheet
        .filter(dsl::namespace_id.eq(scope.namespace_id))
        .filter(dsl::bank_id.eq(scope.bank_id))
        .filter(dsl::channel.eq(scope.channel))
        .filter(dsl::draw.between(scope.draws.0, scope.draws.1))
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
    /// `None` where they were not asked for.
    outcomes: Option<Elements>,
    codes: Elements,
    /// The codes' places in the lot; `None` where they were not asked for.
    seqs: Option<Elements>,
}

impl QueryableByName<Pg> for Piece {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> deserialize::Result<Self> {
        let mut piece = Self {
            customer: column::<Text, _>(row, 0)?,
            draw: column::<Integer, _>(row, 1)?,
            lot_id: column::<Integer, _>(row, 2)?,
            customers: column::<Nullable<Array<Text>>, _>(row, 3)?,
            outcomes: column::<Nullable<Array<SmallInt>>, _>(row, 4)?,
            codes: column::<Array<Text>, _>(row, 5)?,
            seqs: column::<Nullable<Array<Integer>>, _>(row, 6)?,
        };
        if let Some(customers) = &mut piece.customers {
            customers.next()?;
        }
        Ok(piece)
    }
}

impl Piece {
    /// The assignment at hand; and on to the next. The second is false when there is none. `redeemed`: as in [`Scope`].
    fn take(&mut self, redeemed: Option<&Redeemed>) -> deserialize::Result<(Assigned, bool)> {
        let code = self.codes.next()?.ok_or("a page has more customers than codes")?;
        let outcome = match &mut self.outcomes {
            Some(outcomes) => {
                let outcome = outcomes.next()?.ok_or("a page has more customers than outcomes")?;
                Some(i16::try_from(number(outcome))?)
            }
            None => None,
        };
        let redeemed = match (redeemed, &mut self.seqs) {
            (None, _) => false,
            (Some(redeemed), Some(seqs)) => {
                let seq = seqs.next()?.ok_or("a page has more customers than places")?;
                redeemed.has(self.lot_id, number(seq))
            }
            (Some(_), None) if outcome == Some(LEFT_OUT) => false,
            (Some(_), None) => return Err("an assignment has no place".into()),
        };
        let assigned = Assigned {
            customer: std::mem::take(&mut self.customer),
            draw: self.draw,
            lot_id: self.lot_id,
            outcome,
            code: std::str::from_utf8(code)?.to_owned(),
            redeemed,
        };
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
struct Latest<'r, I: Iterator<Item = QueryResult<Piece>>> {
    pieces: Peekable<I>,
    redeemed: Option<&'r Redeemed>,
    /// Pieces that are begun.
    open: BinaryHeap<Piece>,
    /// The customer that came out last.
    last: Option<String>,
}

impl<'r, I: Iterator<Item = QueryResult<Piece>>> Latest<'r, I> {
    fn of(pieces: I, redeemed: Option<&'r Redeemed>) -> Self {
        Self { pieces: pieces.peekable(), redeemed, open: BinaryHeap::new(), last: None }
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
        let (assigned, more) = piece.take(self.redeemed).map_err(diesel::result::Error::DeserializationError)?;
        if !more {
            PeekMut::pop(piece);
        }
        Ok(Some(assigned))
    }
}

impl<I: Iterator<Item = QueryResult<Piece>>> Iterator for Latest<'_, I> {
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

    /// A page of a draw; each customer's code is named after both, and lies at a place of its own.
    fn page(draw: i32, customers: &[(&str, i32)]) -> Piece {
        let codes: Vec<String> = customers.iter().map(|(customer, _)| format!("{customer}/{draw}")).collect();
        let seqs: Vec<[u8; 4]> = customers.iter().map(|(_, seq)| seq.to_be_bytes()).collect();
        let mut rest = array(&customers.iter().map(|(customer, _)| customer.as_bytes()).collect::<Vec<_>>());
        rest.next().unwrap();
        Piece {
            customer: customers[0].0.to_owned(),
            draw,
            lot_id: 1,
            customers: Some(rest),
            outcomes: Some(array(&vec![&[0_u8, 2][..]; customers.len()])),
            codes: array(&codes.iter().map(String::as_bytes).collect::<Vec<_>>()),
            seqs: Some(array(&seqs.iter().map(<[u8; 4]>::as_slice).collect::<Vec<_>>())),
        }
    }

    /// Places of the lot that are redeemed.
    const REDEEMED: [i32; 4] = [10, 13, 22, 90];

    fn row(draw: i32, customer: &str) -> Piece {
        Piece { customers: None, ..page(draw, &[(customer, 90 + draw)]) }
    }

    #[track_caller]
    fn check(pieces: Vec<Piece>, expected: &[&str]) {
        let redeemed = Redeemed::of_lot(1, &REDEEMED);
        let latest: QueryResult<Vec<Assigned>> = Latest::of(pieces.into_iter().map(Ok), Some(&redeemed)).collect();
        let said: Vec<String> = latest
            .unwrap()
            .into_iter()
            .inspect(|assigned| assert_eq!((assigned.outcome, assigned.lot_id), (Some(2), 1)))
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
            page(1, &[("a", 10), ("c", 11), ("e", 12), ("z", 13)]),
            page(2, &[("b", 21), ("c", 22)]),
            row(3, "c"),
            page(2, &[("d", 23), ("e", 24)]),
            row(0, "f"),
            page(1, &[("zz", 90)]),
        ];
        let expected = ["a/1 redeemed", "b/2", "c/3", "d/2", "e/2", "f/0 redeemed", "z/1 redeemed", "zz/1 redeemed"];
        check(pieces, &expected);
        // One customer, and pieces that begin with the same one.
        let pieces = vec![row(1, "a"), row(3, "a"), row(2, "a"), page(4, &[("a", 9), ("b", 10)])];
        check(pieces, &["a/4", "b/4 redeemed"]);
    }

    /// A code whose place nobody knows might be redeemed.
    #[test]
    fn a_place_that_is_missing_is_an_error() {
        let redeemed = Redeemed::of_lot(1, &REDEEMED);
        let latest =
            |piece| Latest::of([Ok(piece)].into_iter(), Some(&redeemed)).collect::<QueryResult<Vec<Assigned>>>();
        assert!(latest(Piece { seqs: None, ..page(1, &[("a", 9)]) }).is_err());
        assert!(latest(Piece { seqs: Some(array(&[])), ..page(1, &[("a", 9)]) }).is_err());
        let left_out = Piece { seqs: None, outcomes: Some(array(&[&[0, 0]])), ..row(1, "a") };
        assert!(!latest(left_out).unwrap()[0].redeemed);
    }

    #[test]
    fn an_array_that_was_cut_is_an_error() {
        let latest = |piece| Latest::of([Ok(piece)].into_iter(), None).collect::<QueryResult<Vec<Assigned>>>();
        let mut cut = page(1, &[("a", 1), ("b", 2)]);
        cut.codes.bytes.pop();
        assert!(latest(cut).is_err());
        let mut few = page(1, &[("a", 1), ("b", 2)]);
        few.codes = array(&[b"a/1"]);
        assert!(latest(few).is_err());
    }
}
