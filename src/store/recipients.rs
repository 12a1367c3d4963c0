//! A batch's recipients in a temporary table of one connection: loaded once, drawn for, then read back with what each got.
//!
//! After a draw what everyone got lies in the draw's own temporary tables, and nothing is joined again. In a later run, after
//! a crash, it is found in the record; both give the same. Nothing of it outlives the connection's use: a list that is
//! needed again is loaded again.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use chrono::NaiveDate;
use diesel::connection::SimpleConnection as _;
use diesel::pg::PgRowByRowLoadingMode;
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::{BigInt, Date, Integer, Nullable, SmallInt, Text};

use super::copy::{Rows, write_row};
use super::draw::Fresh;
use super::run::{Run, RunRow};
use super::{Connection, Store, StoreError};

mod table {
    diesel::table! {
        recipient (ordinal) {
            ordinal -> BigInt,
            customer -> Text,
        }
    }
}
use table::recipient;

/// Sorts and hashes of a batch in memory: its biggest ones take some hundred bytes a recipient, and spill beyond this.
/// Compiling the statements costs more than it saves: they spend their time in joins and indexes.
const PREPARE: &str = "
RESET enable_nestloop;
SET work_mem = '128MB';
SET jit = off;
DROP TABLE IF EXISTS pg_temp.recipient, pg_temp.held, pg_temp.repeated, pg_temp.given, pg_temp.corrected;
CREATE TEMPORARY TABLE recipient (ordinal bigint NOT NULL, customer text COLLATE \"C\" NOT NULL);";

const CLEAN_UP: &str = "
RESET work_mem; RESET jit; RESET enable_nestloop;
DROP TABLE IF EXISTS pg_temp.recipient, pg_temp.held, pg_temp.repeated, pg_temp.given, pg_temp.corrected;";

/// From here on a list is joined as a whole. Right after a large upload the planner may still take the bank for a handful
/// of codes, and would look each customer up in it one by one, for hours.
const LARGE_LIST: i64 = 10_000;

/// A connection that holds one batch's recipients.
pub struct Recipients {
    pub(super) connection: Connection,
    /// Rows of the list.
    pub(super) listed: i64,
    /// What the draw left to read, if it was made in this run.
    pub(super) fresh: Option<Box<Fresh>>,
}

/// Takes recipients in the list's order, and hands them on in runs that are sorted by customer.
pub struct Sink {
    run: Run,
    next: u64,
    /// Runs on their way to the store; `None`: those were all.
    full: SyncSender<Option<Run>>,
    /// Runs that the store has taken, to be filled again.
    emptied: Receiver<Run>,
}

impl Sink {
    /// Adds the next recipient. Breaks when the store takes no more.
    pub fn add(&mut self, customer: &str) -> ControlFlow<()> {
        self.run.push(RunRow { number: self.next, group: 0, text: customer });
        self.next += 1;
        if self.run.is_full() { self.hand_over() } else { ControlFlow::Continue(()) }
    }

    fn hand_over(&mut self) -> ControlFlow<()> {
        self.run.sort();
        let run = std::mem::take(&mut self.run);
        if self.full.send(Some(run)).is_err() {
            return ControlFlow::Break(());
        }
        self.run = self.emptied.try_recv().unwrap_or_default();
        ControlFlow::Continue(())
    }

    fn end(mut self) {
        if self.hand_over().is_continue() {
            // Nobody takes it where the store failed; then that is the answer.
            drop(self.full.send(None));
        }
    }
}

/// Copies runs as they come.
fn copy(
    connection: &mut Connection,
    runs: &Receiver<Option<Run>>,
    emptied: &SyncSender<Run>,
) -> Result<i64, LoadStopped> {
    let rows = Rows::new(|copy: &mut dyn Write| {
        loop {
            match runs.recv() {
                Ok(Some(mut run)) => {
                    run.copy_to(copy, |row, rows| write_row(row.number, row.text, rows))
                        .map_err(|error| LoadStopped::Store(connection_lost(&error)))?;
                    run.clear();
                    // Whoever reads may have another at hand.
                    drop(emptied.try_send(run));
                }
                Ok(None) => return Ok(()),
                Err(_) => return Err(LoadStopped::Broken),
            }
        }
    });
    let copied = diesel::copy_from(recipient::table)
        .from_raw_data((recipient::ordinal, recipient::customer), |copy: &mut dyn Write| rows.feed(copy))
        .execute(&mut **connection);
    let listed = copied.as_ref().ok().and_then(|rows| i64::try_from(*rows).ok()).unwrap_or_default();
    rows.end(copied).map(|()| listed)
}

/// The list broke off, or the connection did.
enum LoadStopped {
    Broken,
    Store(StoreError),
}

impl From<StoreError> for LoadStopped {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What one recipient got, in the list's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// Its place in the list, from 0, counting accepted rows.
    pub ordinal: i64,
    /// The code; `None`: no code of the bank.
    pub code: Option<GotCode>,
    /// Why the customer got no code of the bank.
    pub reason: Option<String>,
}

/// A code that a recipient got or kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GotCode {
    /// The code.
    pub code: String,
    /// The end date of its lot.
    pub end_date: Option<NaiveDate>,
    /// The outcome stored with it, where this batch assigned it; `None`: it was kept.
    pub outcome: Option<i16>,
}

/// A row of [`RECORDED`].
#[derive(QueryableByName)]
struct RecordedRow {
    #[diesel(sql_type = BigInt)]
    ordinal: i64,
    #[diesel(sql_type = Nullable<Integer>)]
    draw: Option<i32>,
    #[diesel(sql_type = Nullable<SmallInt>)]
    outcome: Option<i16>,
    #[diesel(sql_type = Nullable<Text>)]
    code: Option<String>,
    #[diesel(sql_type = Nullable<Date>)]
    end_date: Option<NaiveDate>,
    #[diesel(sql_type = Nullable<Text>)]
    reason: Option<String>,
}

impl RecordedRow {
    fn got(self, own_draw: i32) -> Got {
        let (draw, end_date) = (self.draw, self.end_date);
        let outcome = self.outcome.filter(|_| draw == Some(own_draw));
        let code = self.code.map(|code| GotCode { code, end_date, outcome });
        Got { ordinal: self.ordinal, code, reason: self.reason }
    }
}

/// A row of [`fresh`].
#[derive(QueryableByName)]
struct FreshRow {
    #[diesel(sql_type = BigInt)]
    ordinal: i64,
    #[diesel(sql_type = SmallInt)]
    outcome: i16,
    #[diesel(sql_type = Nullable<Integer>)]
    lot_id: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    code: Option<String>,
}

impl FreshRow {
    fn got(self, fresh: &Fresh) -> Got {
        let outcome = Some(self.outcome).filter(|outcome| *outcome > 0);
        let end_date = self.lot_id.and_then(|lot| fresh.end_dates.get(&lot).copied()).flatten();
        let reason = if self.code.is_none() { fresh.reason.clone() } else { None };
        let code = self.code.map(|code| GotCode { code, end_date, outcome });
        Got { ordinal: self.ordinal, code, reason }
    }
}

/// Which batch's results to read.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    /// The namespace.
    pub namespace_id: i32,
    /// The bank.
    pub bank_id: i32,
    /// The batch.
    pub batch_id: i64,
    /// The batch's draw.
    pub draw: i32,
    /// Whether codes of earlier draws are kept.
    pub persistent: bool,
    /// The channel in its assignments.
    pub hold_channel: &'a str,
}

/// The distributed tables stand in subqueries, which Citus plans apart and PostgreSQL flattens.
const RECORDED: &str = "
SELECT DISTINCT ON (r.ordinal) r.ordinal, a.draw, a.outcome, a.code, l.end_date, u.reason
FROM recipient r
LEFT JOIN (SELECT s.customer, s.draw, s.outcome, s.code, s.lot_id FROM assignment s
           WHERE s.namespace_id = $1 AND s.bank_id = $2 AND s.channel = $3 AND s.draw BETWEEN $4 AND $5) a
    ON a.customer = r.customer
LEFT JOIN (SELECT o.id, o.end_date FROM lot o WHERE o.namespace_id = $1 AND o.bank_id = $2) l ON l.id = a.lot_id
LEFT JOIN (SELECT n.customer, n.reason FROM unassigned n WHERE n.namespace_id = $1 AND n.batch_id = $6) u
    ON u.customer = r.customer
ORDER BY r.ordinal, a.draw DESC";

/// What everyone got, out of the draw's own tables: kept codes, new ones, and who is left over from $1 on.
fn fresh(repeated: bool) -> String {
    let got = "
    SELECT h.ordinal, h.customer, h.outcome, h.lot_id, h.code FROM held h WHERE h.outcome = 0
    UNION ALL
    SELECT v.ordinal, v.customer, v.outcome, v.lot_id, v.code FROM given v
    UNION ALL
    SELECT h.ordinal, h.customer, h.outcome, NULL, NULL FROM held h WHERE h.outcome > 0 AND h.ordinal >= $1";
    if !repeated {
        return format!("SELECT g.ordinal, g.outcome, g.lot_id, g.code FROM ({got}) g ORDER BY g.ordinal");
    }
    format!(
        "WITH g AS MATERIALIZED ({got}) \
         SELECT g.ordinal, g.outcome, g.lot_id, g.code FROM g \
         UNION ALL \
         SELECT p.ordinal, g.outcome, g.lot_id, g.code FROM repeated p JOIN g ON g.customer = p.customer \
         ORDER BY ordinal"
    )
}

impl Store {
    /// A connection with an empty table for one batch's recipients.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements.
    pub fn recipients(&self) -> Result<Recipients, StoreError> {
        let mut connection = self.connection()?;
        connection.batch_execute(PREPARE)?;
        Ok(Recipients { connection, listed: 0, fresh: None })
    }
}

impl Recipients {
    /// Loads what `fill` adds, and nothing when it breaks: `Ok(false)`. The next run is read and sorted while the store takes
    /// the one before.
    ///
    /// # Errors
    /// Any [`StoreError`] of the copy.
    pub fn load(&mut self, fill: impl FnOnce(&mut Sink) -> ControlFlow<()>) -> Result<bool, StoreError> {
        let connection = &mut self.connection;
        let loaded = std::thread::scope(|scope| {
            let ((full, runs), (empty, emptied)) = (sync_channel(0), sync_channel(1));
            let copying = scope.spawn(move || copy(connection, &runs, &empty));
            let mut sink = Sink { run: Run::default(), next: 0, full, emptied };
            match fill(&mut sink) {
                ControlFlow::Continue(()) => sink.end(),
                ControlFlow::Break(()) => drop(sink),
            }
            copying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        self.listed = match loaded {
            Ok(listed) => listed,
            Err(LoadStopped::Broken) => return Ok(false),
            Err(LoadStopped::Store(error)) => return Err(error),
        };
        self.connection.batch_execute("ANALYZE pg_temp.recipient")?;
        if self.is_large() {
            self.connection.batch_execute("SET enable_nestloop = off")?;
        }
        Ok(true)
    }

    /// Whether the list is joined as a whole.
    pub(super) fn is_large(&self) -> bool {
        self.listed > LARGE_LIST
    }

    /// Reads what everyone got, in the list's order, one row at a time: memory stays flat.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement; each item may bring one too.
    pub fn got(
        &mut self,
        recorded: &Recorded<'_>,
    ) -> Result<Box<dyn Iterator<Item = Result<Got, StoreError>> + '_>, StoreError> {
        if let Some(drawn) = &self.fresh {
            let rows = diesel::sql_query(fresh(drawn.repeated > 0))
                .bind::<BigInt, _>(drawn.left_over_from)
                .load_iter::<FreshRow, PgRowByRowLoadingMode>(&mut *self.connection)?;
            return Ok(Box::new(rows.map(move |row| Ok(row?.got(drawn)))));
        }
        let oldest = if recorded.persistent { 0 } else { recorded.draw };
        let own_draw = recorded.draw;
        let rows = diesel::sql_query(RECORDED)
            .bind::<Integer, _>(recorded.namespace_id)
            .bind::<Integer, _>(recorded.bank_id)
            .bind::<Text, _>(recorded.hold_channel.to_owned())
            .bind::<Integer, _>(oldest)
            .bind::<Integer, _>(recorded.draw)
            .bind::<BigInt, _>(recorded.batch_id)
            .load_iter::<RecordedRow, PgRowByRowLoadingMode>(&mut *self.connection)?;
        Ok(Box::new(rows.map(move |row| Ok(row?.got(own_draw)))))
    }
}

fn connection_lost(error: &io::Error) -> StoreError {
    StoreError::Statement(DieselError::DatabaseError(DatabaseErrorKind::ClosedConnection, Box::new(error.to_string())))
}

impl Drop for Recipients {
    fn drop(&mut self) {
        // A connection that cannot do this is broken, and the pool drops it.
        drop(self.connection.batch_execute(CLEAN_UP));
    }
}

impl std::fmt::Debug for Recipients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recipients").finish_non_exhaustive()
    }
}
