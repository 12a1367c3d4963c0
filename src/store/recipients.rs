//! A batch's recipients in a temporary table of one connection: loaded once, drawn for, then read back with what each got.
//!
//! Nothing of it outlives the connection's use: a list that is needed again is loaded again.

use std::io::{self, Write};
use std::ops::ControlFlow;

use chrono::NaiveDate;
use diesel::connection::SimpleConnection as _;
use diesel::pg::PgRowByRowLoadingMode;
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::{BigInt, Date, Integer, Nullable, SmallInt, Text};

use super::copy::{Rows, escape};
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
SET work_mem = '128MB';
SET jit = off;
DROP TABLE IF EXISTS pg_temp.recipient;
CREATE TEMPORARY TABLE recipient (ordinal bigint NOT NULL, customer text COLLATE \"C\" NOT NULL);";

const CLEAN_UP: &str = "DROP TABLE IF EXISTS pg_temp.recipient; RESET work_mem; RESET jit; RESET enable_nestloop;";

/// From here on a list is joined as a whole. Right after a large upload the planner may still take the bank for a handful
/// of codes, and would look each customer up in it one by one, for hours.
const LARGE_LIST: usize = 10_000;

/// A connection that holds one batch's recipients.
pub struct Recipients {
    pub(super) connection: Connection,
}

/// Takes recipients in the list's order.
pub struct Sink<'a> {
    copy: &'a mut dyn Write,
    rows: Vec<u8>,
    next: i64,
    failed: Option<io::Error>,
}

/// Rows that are handed to the connection at once: every hand-over is a call into libpq.
const ROWS_BYTES: usize = 64 * 1024;

impl Sink<'_> {
    /// Adds the next recipient. Breaks when the store takes no more.
    pub fn add(&mut self, customer: &str) -> ControlFlow<()> {
        write_row(&mut self.rows, self.next, customer);
        self.next += 1;
        if self.rows.len() < ROWS_BYTES { ControlFlow::Continue(()) } else { self.hand_over() }
    }

    fn hand_over(&mut self) -> ControlFlow<()> {
        let written = self.copy.write_all(&self.rows);
        self.rows.clear();
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

/// One row in COPY's text form.
fn write_row(rows: &mut Vec<u8>, ordinal: i64, customer: &str) {
    rows.extend_from_slice(ordinal.to_string().as_bytes());
    rows.push(b'\t');
    escape(customer.as_bytes(), rows);
    rows.push(b'\n');
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
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Got {
    /// Its place in the list, from 0, counting accepted rows.
    #[diesel(sql_type = BigInt)]
    pub ordinal: i64,
    /// The draw of the code held; equal to the batch's own draw: a code of this batch.
    #[diesel(sql_type = Nullable<Integer>)]
    pub draw: Option<i32>,
    /// The outcome stored with the code.
    #[diesel(sql_type = Nullable<SmallInt>)]
    pub outcome: Option<i16>,
    /// The code.
    #[diesel(sql_type = Nullable<Text>)]
    pub code: Option<String>,
    /// The end date of the code's lot.
    #[diesel(sql_type = Nullable<Date>)]
    pub end_date: Option<NaiveDate>,
    /// Why the customer got no code of the bank.
    #[diesel(sql_type = Nullable<Text>)]
    pub reason: Option<String>,
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
const GOT: &str = "
SELECT DISTINCT ON (r.ordinal) r.ordinal, a.draw, a.outcome, a.code, l.end_date, u.reason
FROM recipient r
LEFT JOIN (SELECT s.customer, s.draw, s.outcome, s.code, s.lot_id FROM assignment s
           WHERE s.namespace_id = $1 AND s.bank_id = $2 AND s.channel = $3 AND s.draw BETWEEN $4 AND $5) a
    ON a.customer = r.customer
LEFT JOIN (SELECT o.id, o.end_date FROM lot o WHERE o.namespace_id = $1 AND o.bank_id = $2) l ON l.id = a.lot_id
LEFT JOIN (SELECT n.customer, n.reason FROM unassigned n WHERE n.namespace_id = $1 AND n.batch_id = $6) u
    ON u.customer = r.customer
ORDER BY r.ordinal, a.draw DESC";

impl Store {
    /// A connection with an empty table for one batch's recipients.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements.
    pub fn recipients(&self) -> Result<Recipients, StoreError> {
        let mut connection = self.connection()?;
        connection.batch_execute(PREPARE)?;
        Ok(Recipients { connection })
    }
}

impl Recipients {
    /// Loads what `fill` adds, and nothing when it breaks: `Ok(false)`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the copy.
    pub fn load(&mut self, fill: impl FnOnce(&mut Sink<'_>) -> ControlFlow<()>) -> Result<bool, StoreError> {
        let rows = Rows::new(|copy: &mut dyn Write| {
            let mut sink = Sink { copy, rows: Vec::new(), next: 0, failed: None };
            let mut ended = fill(&mut sink);
            if ended.is_continue() {
                ended = sink.hand_over();
            }
            match (sink.failed, ended) {
                (Some(error), _) => Err(LoadStopped::Store(connection_lost(&error))),
                (None, ControlFlow::Break(())) => Err(LoadStopped::Broken),
                (None, ControlFlow::Continue(())) => Ok(()),
            }
        });
        let copied = diesel::copy_from(recipient::table)
            .from_raw_data((recipient::ordinal, recipient::customer), |copy: &mut dyn Write| rows.feed(copy))
            .execute(&mut *self.connection);
        let loaded = copied.as_ref().copied().unwrap_or_default();
        match rows.end(copied) {
            Ok(()) => {}
            Err(LoadStopped::Broken) => return Ok(false),
            Err(LoadStopped::Store(error)) => return Err(error),
        }
        self.connection.batch_execute("ANALYZE pg_temp.recipient")?;
        if loaded > LARGE_LIST {
            self.connection.batch_execute("SET enable_nestloop = off")?;
        }
        Ok(true)
    }

    /// Reads what everyone got, in the list's order, one row at a time: memory stays flat.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement; each item may bring one too.
    pub fn got(
        &mut self,
        recorded: &Recorded<'_>,
    ) -> Result<impl Iterator<Item = Result<Got, StoreError>> + use<'_>, StoreError> {
        let oldest = if recorded.persistent { 0 } else { recorded.draw };
        Ok(diesel::sql_query(GOT)
            .bind::<Integer, _>(recorded.namespace_id)
            .bind::<Integer, _>(recorded.bank_id)
            .bind::<Text, _>(recorded.hold_channel.to_owned())
            .bind::<Integer, _>(oldest)
            .bind::<Integer, _>(recorded.draw)
            .bind::<BigInt, _>(recorded.batch_id)
            .load_iter::<Got, PgRowByRowLoadingMode>(&mut *self.connection)?
            .map(|got| got.map_err(StoreError::from)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(customer: &str, expected: &str) {
        let mut copy = Vec::new();
        write_row(&mut copy, 3, customer);
        assert_eq!(String::from_utf8(copy).unwrap(), format!("3\t{expected}\n"));
    }

    #[test]
    fn copy_rows() {
        check("c1", "c1");
        check("", "");
        check("a\\b", "a\\\\b");
        check("\\N", "\\\\N");
        check("a\\\\", "a\\\\\\\\");
        check("a\tb\nc\r", "a\\tb\\nc\\r");
    }
}
