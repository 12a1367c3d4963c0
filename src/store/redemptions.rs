//! Redemptions: insert-only, one row a code, whichever banks hold it.
//!
//! Codes come in byte order, and each counts where it stood first. They are looked up in the banks some thousand at a time,
//! in the order of the index; whether they were redeemed before stands with their places ([`super::redeemed`]). What is new
//! goes into `redemption` by COPY, and into its lots' counters at the very end ([`in_lots`]), so that lots are locked for a
//! moment only.
//!
//! A code that no bank holds is remembered, unless it differs from exactly one code only in ASCII case ([`other_case`]).

mod in_lots;
mod other_case;

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::sync_channel;

use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection as _;
use diesel::deserialize;
use diesel::pg::{CopyFormat, Pg};
use diesel::prelude::*;
use diesel::row::NamedRow;
use diesel::sql_types::{Array, BigInt, Integer, Text};

use self::in_lots::Lots;
pub use self::in_lots::{Lines, NobodysCodes, RedeemedInLot};
pub use self::other_case::NotedRedemption;
use super::by_place::column;
use super::citus::is_citus;
use super::copy::{BINARY_END, BINARY_HEADER, CopyError, Rows, lost};
use super::redeemed::{Marks, Place};
use super::schema::redemption;
use super::{Store, StoreError, Transaction};
use crate::sorter::run::{Run, RunRow};
use crate::sorter::{By, Sorted, Sorter, Tape};

/// So many codes are looked up at once.
const AT_ONCE: usize = 10_000;

/// The codes of a file, as they come.
#[derive(Debug)]
pub struct UnsortedRedemptions(Sorter);

/// The codes of a file in byte order, those of one code in the file's.
#[derive(Debug)]
pub struct Redemptions(Sorted);

impl UnsortedRedemptions {
    /// None yet. What does not fit into memory goes to `directory`.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self(Sorter::new(directory, By::Text))
    }

    /// Adds a code.
    ///
    /// # Errors
    /// What the disk says.
    pub fn add(&mut self, line: u64, code: &str) -> io::Result<()> {
        self.0.push(RunRow { number: line, group: 0, text: code })
    }

    /// The file is complete.
    ///
    /// # Errors
    /// What the disk says.
    pub fn end(self) -> io::Result<Redemptions> {
        Ok(Redemptions(self.0.sorted()?))
    }
}

/// Under what a file is applied.
#[derive(Clone, Copy, Debug)]
pub struct RedemptionTerms<'a> {
    /// Where there may be a second connection.
    pub store: &'a Store,
    /// The namespace, which must be locked alone.
    pub namespace_id: i32,
    /// The file's upload.
    pub upload_id: i64,
    /// When its codes count as redeemed.
    pub redeemed_at: DateTime<Utc>,
    /// Where rows go that do not fit into memory.
    pub directory: &'a Path,
    /// How many rows are noted at most.
    pub noted_most: i64,
}

/// What a redemption file did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedemptionCounts {
    /// Codes that were redeemed before, by an earlier file or, in another case, by this one.
    pub already: u64,
    /// Codes that no bank holds; remembered.
    pub unknown: u64,
    /// Codes that a bank holds and that are redeemed from now on.
    pub redeemed: u64,
}

/// What a redemption file did, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// In all. What is in none of the counts stood in the file before.
    pub counts: RedemptionCounts,
    /// Lot by lot, in the order of bank and id.
    pub lots: Vec<RedeemedInLot>,
    /// Codes that nobody had been given in any bank, lot by lot. Codes of the site's banks are never given to anybody, and do not
    /// count.
    pub nobodys: Vec<NobodysCodes>,
    /// Rows whose spelling no bank has, by line.
    pub noted: Vec<NotedRedemption>,
}

/// To be called before a file is read in the transaction: for as long as that takes, nothing is asked of the store.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn begin(connection: &mut Transaction) -> Result<(), StoreError> {
    Ok(connection.batch_execute("SET LOCAL idle_in_transaction_session_timeout = 0")?)
}

/// Redeems the codes of a file.
///
/// # Errors
/// Any [`StoreError`] of the statements, or of the disk.
pub fn apply(
    connection: &mut Transaction,
    terms: &RedemptionTerms<'_>,
    mut codes: Redemptions,
) -> Result<Applied, StoreError> {
    connection.batch_execute(THROUGH_INDEXES)?;
    let mut redeeming = Redeeming::begin(connection, terms)?;
    redeeming.redeem_all(connection, &mut codes.0, Repeats::Skipped)?;
    let mut noted = Vec::new();
    if redeeming.any_unknown {
        other_case::stage(connection, &redeeming.unknown)?;
        let mut respelled = other_case::find(connection, terms)?;
        redeeming.any_unknown = false;
        redeeming.redeem_all(connection, &mut respelled, Repeats::Counted)?;
        if redeeming.any_unknown {
            return Err(StoreError::Missing { what: "a code that was there in another case".to_owned() });
        }
        let (unknown, already) = other_case::remember(connection, terms)?;
        redeeming.counts.unknown += unknown;
        redeeming.counts.already += already;
        noted = other_case::noted(connection, terms.noted_most)?;
    }
    redeeming.marks.write(connection, terms.namespace_id)?;
    let (lots, nobodys) = redeeming.lots.count(connection)?;
    Ok(Applied { counts: redeeming.counts, lots, nobodys, noted })
}

/// The planner knows little of tables just made: nothing may be looked up without an index. And what costs so much by decree would
/// be compiled each time, a dozen codes too.
const THROUGH_INDEXES: &str =
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_memoize = off; SET LOCAL jit = off; SET LOCAL work_mem = '64MB'";

/// PostgreSQL does not see that the two connections wait for each other, should somebody change the tables at this moment: then the file
/// is tried again.
const NO_LONG_WAIT: &str = "SET LOCAL lock_timeout = '10s'";

/// A file while it is applied.
struct Redeeming<'a> {
    terms: &'a RedemptionTerms<'a>,
    look_up: &'static str,
    marks: Marks,
    lots: Lots,
    /// Codes that no bank has.
    unknown: Tape,
    any_unknown: bool,
    counts: RedemptionCounts,
}

/// Where each code lies, in the order of the codes.
const LOOKED_UP: &str = "
SELECT c.nth, k.bank_id, k.lot_id, k.seq FROM unnest($2) WITH ORDINALITY AS c (code, nth)
CROSS JOIN LATERAL (SELECT x.bank_id, x.lot_id, x.seq FROM coupon AS x
    WHERE x.namespace_id = $1 AND x.code = c.code OFFSET 0) AS k";
const JOINED: &str = "
SELECT c.nth, k.bank_id, k.lot_id, k.seq FROM unnest($2) WITH ORDINALITY AS c (code, nth)
JOIN (SELECT x.code, x.bank_id, x.lot_id, x.seq FROM coupon AS x WHERE x.namespace_id = $1) AS k ON k.code = c.code
ORDER BY c.nth";

impl<'a> Redeeming<'a> {
    fn begin(connection: &mut Transaction, terms: &'a RedemptionTerms<'a>) -> Result<Self, StoreError> {
        Ok(Self {
            terms,
            look_up: if is_citus(connection)? { JOINED } else { LOOKED_UP },
            marks: Marks::default(),
            lots: Lots::begin(connection, terms)?,
            unknown: Tape::new(terms.directory),
            any_unknown: false,
            counts: RedemptionCounts::default(),
        })
    }

    /// Redeems codes in byte order. Of many, the next are looked up while those before are redeemed, over a connection of their
    /// own where one is to be had: nobody else adds codes meanwhile.
    fn redeem_all(
        &mut self,
        connection: &mut Transaction,
        codes: &mut Sorted,
        repeats: Repeats,
    ) -> Result<(), StoreError> {
        let mut codes = InParts { codes, repeats, last: String::new() };
        let Some(first) = codes.next()? else { return Ok(()) };
        let (namespace_id, look_up) = (self.terms.namespace_id, self.look_up);
        let spare = first.is_full().then(|| self.terms.store.spare_connection());
        let Some(mut other) = spare.flatten() else {
            let mut next = Some(first);
            while let Some(some) = next {
                let found = find(connection, namespace_id, look_up, &some)?;
                self.redeem_some(connection, &some, &found)?;
                next = codes.next()?;
            }
            return Ok(());
        };
        std::thread::scope(|scope| {
            let (sender, looked_up) = sync_channel(1);
            let looking_up = scope.spawn(move || {
                let mut next = Some(first);
                while let Some(some) = next {
                    let found = other.transaction(|other| {
                        other.batch_execute(THROUGH_INDEXES)?;
                        other.batch_execute(NO_LONG_WAIT)?;
                        find(other, namespace_id, look_up, &some)
                    })?;
                    // Whoever redeems them may have stopped.
                    if sender.send((some, found)).is_err() {
                        break;
                    }
                    next = codes.next()?;
                }
                Ok::<(), StoreError>(())
            });
            let redeemed =
                looked_up.into_iter().try_for_each(|(some, found)| self.redeem_some(connection, &some, &found));
            let all_looked_up = looking_up.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            redeemed.and(all_looked_up)
        })
    }

    fn redeem_some(&mut self, connection: &mut Transaction, some: &Run, found: &[Found]) -> Result<(), StoreError> {
        self.marks.know(connection, self.terms.namespace_id, found.iter().map(|found| found.place))?;
        let (mut rest, mut new) = (found, Vec::with_capacity(some.rows().len()));
        for (nth, row) in (1..).zip(some.rows()) {
            let (here, behind) = rest.split_at(rest.iter().take_while(|found| found.nth == nth).count());
            rest = behind;
            let places: Vec<Place> = here.iter().map(|found| found.place).collect();
            if places.is_empty() {
                self.unknown.write(row)?;
                self.any_unknown = true;
            } else if self.is_redeemed(&places)? {
                self.counts.already += 1;
            } else {
                places.iter().try_for_each(|place| self.marks.mark(*place))?;
                self.lots.redeem(row.number, &places)?;
                new.push(row);
            }
        }
        if !rest.is_empty() {
            return Err(StoreError::Missing { what: "places in the order of the codes".to_owned() });
        }
        self.counts.redeemed += new.len() as u64;
        copy(connection, self.terms, &new)
    }

    fn is_redeemed(&self, places: &[Place]) -> Result<bool, StoreError> {
        for place in places {
            if self.marks.has(*place)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Codes in byte order, some thousand at a time.
struct InParts<'a> {
    codes: &'a mut Sorted,
    repeats: Repeats,
    last: String,
}

impl InParts<'_> {
    /// `None` behind the last.
    fn next(&mut self) -> Result<Option<Run>, StoreError> {
        let mut some = Run::of(AT_ONCE);
        while !some.is_full()
            && let Some(row) = self.codes.next_row()?
        {
            if self.repeats == Repeats::Skipped && row.text == self.last {
                continue;
            }
            row.text.clone_into(&mut self.last);
            some.push(row);
        }
        Ok(Some(some).filter(|some| !some.is_empty()))
    }
}

/// What happens to a code that stands several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeats {
    /// It counts where it stood first.
    Skipped,
    /// From the second on it is redeemed already.
    Counted,
}

/// Where a code lies; which code, from 1.
struct Found {
    nth: i64,
    place: Place,
}

impl QueryableByName<Pg> for Found {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> deserialize::Result<Self> {
        let place = Place {
            bank_id: column::<Integer, _>(row, 1)?,
            lot_id: column::<Integer, _>(row, 2)?,
            seq: column::<Integer, _>(row, 3)?,
        };
        Ok(Self { nth: column::<BigInt, _>(row, 0)?, place })
    }
}

/// Where these codes lie.
fn find(
    connection: &mut Transaction,
    namespace_id: i32,
    look_up: &'static str,
    some: &Run,
) -> Result<Vec<Found>, StoreError> {
    let codes: Vec<&str> = some.rows().map(|row| row.text).collect();
    Ok(diesel::sql_query(look_up).bind::<Integer, _>(namespace_id).bind::<Array<Text>, _>(&codes).load(connection)?)
}

/// Inserts redemptions: of line and code each.
fn copy(connection: &mut Transaction, terms: &RedemptionTerms<'_>, new: &[RunRow<'_>]) -> Result<(), StoreError> {
    if new.is_empty() {
        return Ok(());
    }
    let missing = || StoreError::Missing { what: "room for a redemption".to_owned() };
    // Microseconds since the beginning of 2000.
    let at = terms.redeemed_at.timestamp_micros() - 946_684_800_000_000;
    let mut front = Vec::from(5_i16.to_be_bytes());
    let mut column = |bytes: &[u8], length: i32| {
        front.extend_from_slice(&length.to_be_bytes());
        front.extend_from_slice(bytes);
    };
    column(&terms.namespace_id.to_be_bytes(), 4);
    column(&terms.upload_id.to_be_bytes(), 8);
    column(&at.to_be_bytes(), 8);
    let mut binary = Vec::from(BINARY_HEADER);
    for row in new {
        binary.extend_from_slice(&front);
        binary.extend_from_slice(&8_i32.to_be_bytes());
        binary.extend_from_slice(&i64::try_from(row.number).map_err(|_| missing())?.to_be_bytes());
        binary.extend_from_slice(&i32::try_from(row.text.len()).map_err(|_| missing())?.to_be_bytes());
        binary.extend_from_slice(row.text.as_bytes());
    }
    binary.extend_from_slice(&BINARY_END);
    let rows = Rows::new(|sink: &mut dyn Write| sink.write_all(&binary).map_err(|error| lost(&error)));
    let columns =
        (redemption::namespace_id, redemption::upload_id, redemption::redeemed_at, redemption::line, redemption::code);
    let copied: Result<usize, CopyError> = diesel::copy_from(redemption::table)
        .from_raw_data(columns, |sink: &mut dyn Write| rows.feed(sink))
        .with_format(CopyFormat::Binary)
        .execute(connection);
    let written = copied.as_ref().map_or(0, |rows| *rows);
    rows.end(copied)?;
    if written == new.len() {
        return Ok(());
    }
    Err(StoreError::Missing { what: format!("{} redemptions (wrote {written})", new.len()) })
}
