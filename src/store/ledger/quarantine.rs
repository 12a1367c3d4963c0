//! What an admin decides about a quarantined upload: `quarantined -> received | discarded`.

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use crate::store::schema::upload;
use crate::store::{Store, StoreError};

impl Store {
    /// quarantined -> received, as if it had just come: no attempts, no verdict. `false`: it is in another state, or its
    /// verdict is not published yet (its file may still move).
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn release_upload(&self, namespace_id: i32, id: i64) -> Result<bool, StoreError> {
        let nothing = None::<DateTime<Utc>>;
        let released: Option<i64> = diesel::update(upload::table)
            .filter(upload::namespace_id.eq(namespace_id).and(upload::id.eq(id)))
            .filter(upload::state.eq("quarantined").and(upload::reported_at.is_not_null()))
            .set((
                upload::state.eq("received"),
                upload::attempts.eq(0),
                upload::retry_at.eq(nothing),
                upload::sha256.eq(None::<Vec<u8>>),
                upload::report.eq(None::<String>),
                upload::finished_at.eq(nothing),
                upload::reported_at.eq(nothing),
            ))
            .returning(upload::id)
            .get_result(&mut self.connection()?)
            .optional()?;
        Ok(released.is_some())
    }

    /// quarantined -> discarded. `false`: it is in another state, or its verdict is not published yet.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn discard_upload(&self, namespace_id: i32, id: i64) -> Result<bool, StoreError> {
        let discarded: Option<i64> = diesel::update(upload::table)
            .filter(upload::namespace_id.eq(namespace_id).and(upload::id.eq(id)))
            .filter(upload::state.eq("quarantined").and(upload::reported_at.is_not_null()))
            .set(upload::state.eq("discarded"))
            .returning(upload::id)
            .get_result(&mut self.connection()?)
            .optional()?;
        Ok(discarded.is_some())
    }
}
