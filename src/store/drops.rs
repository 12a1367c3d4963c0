//! Upload rows of files that were dropped locally: `receiving` under the session `local`, then `received`.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;

use super::schema::upload;
use super::{Store, StoreError};

/// The session of rows whose bytes never came over SFTP.
const LOCAL: &str = "local";

/// A local file about to be taken.
#[derive(Clone, Copy, Debug)]
pub struct NewDrop<'a> {
    /// `coupons`, `redemptions` or `recipients`.
    pub kind: &'a str,
    /// The bank or campaign that its directory names; empty: none.
    pub target: &'a str,
    /// Whether it lies under `/check/`.
    pub dry_run: bool,
    /// Its name.
    pub name: &'a str,
    /// Its size.
    pub bytes: i64,
}

impl Store {
    /// A row in state `receiving` for a local file.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn begin_drop(&self, namespace_id: i32, drop: &NewDrop<'_>, now: DateTime<Utc>) -> Result<i64, StoreError> {
        let mut connection = self.connection()?;
        Ok(diesel::insert_into(upload::table)
            .values((
                upload::namespace_id.eq(namespace_id),
                upload::kind.eq(drop.kind),
                upload::target.eq(drop.target),
                upload::dry_run.eq(drop.dry_run),
                upload::name.eq(drop.name),
                upload::user_name.eq(""),
                upload::state.eq("receiving"),
                upload::session.eq(LOCAL),
                upload::bytes.eq(drop.bytes),
                upload::created_at.eq(now),
            ))
            .returning(upload::id)
            .get_result(&mut connection)?)
    }

    /// receiving -> received: the file is in the spool. `false`: the row is not ours any more.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn complete_drop(
        &self,
        namespace_id: i32,
        id: i64,
        now: DateTime<Utc>,
        business_date: NaiveDate,
    ) -> Result<bool, StoreError> {
        let mut connection = self.connection()?;
        let completed: Option<i64> = diesel::update(upload::table)
            .filter(upload::namespace_id.eq(namespace_id))
            .filter(upload::id.eq(id))
            .filter(upload::state.eq("receiving"))
            .filter(upload::session.eq(LOCAL))
            .set((upload::state.eq("received"), upload::received_at.eq(now), upload::business_date.eq(business_date)))
            .returning(upload::id)
            .get_result(&mut connection)
            .optional()?;
        Ok(completed.is_some())
    }

    /// Rows that a crash left between row and file.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn unfinished_drops(&self, namespace_id: i32) -> Result<Vec<i64>, StoreError> {
        let mut connection = self.connection()?;
        Ok(upload::table
            .filter(upload::namespace_id.eq(namespace_id))
            .filter(upload::state.eq("receiving"))
            .filter(upload::session.eq(LOCAL))
            .select(upload::id)
            .load(&mut connection)?)
    }

    /// receiving -> removed: the file never left its place.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn forget_drop(&self, namespace_id: i32, id: i64) -> Result<(), StoreError> {
        let mut connection = self.connection()?;
        diesel::update(upload::table)
            .filter(upload::namespace_id.eq(namespace_id))
            .filter(upload::id.eq(id))
            .filter(upload::state.eq("receiving"))
            .filter(upload::session.eq(LOCAL))
            .set(upload::state.eq("removed"))
            .execute(&mut connection)?;
        Ok(())
    }
}
