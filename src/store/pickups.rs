//! The `pickup` table: who fetched which file of a batch, and when. With the last of the files that its manifest lists, the
//! batch goes from `exported` to `collected`.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::schema::{batch, pickup};
use super::{Store, StoreError, Transaction};

/// A finished download to be written down.
#[derive(Clone, Copy, Debug)]
pub struct NewPickup<'a> {
    /// The campaign in whose directory the file stands.
    pub campaign: &'a str,
    /// The batch that its name names.
    pub batch_id: i64,
    /// Its name.
    pub file: &'a str,
    /// Who fetched it.
    pub user: &'a str,
    /// Its size.
    pub bytes: u64,
    /// When.
    pub at: DateTime<Utc>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// The campaign has no such batch: nothing was written down.
    NoBatch,
    /// Written down.
    Pickup,
    /// Written down, and it was the last that was missing: the batch is collected.
    Collected,
    /// It is the last that was missing, but the batch is not `exported` yet: nothing was written down, come again. Its files
    /// appear a moment before its row says so.
    TooEarly,
}

/// A download as it was written down.
#[derive(Clone, Debug, PartialEq, Eq, Queryable)]
pub struct Pickup {
    /// The file's name.
    pub file: String,
    /// Who fetched it.
    pub user: String,
    /// Its size then.
    pub bytes: i64,
    /// When.
    pub at: DateTime<Utc>,
}

impl Store {
    /// Writes a download down. `complete` says whether the names fetched so far are all that a recorded manifest asks for.
    /// With `patient`, one that completes a batch too early is left for another try.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements; nothing was written down then.
    pub fn note_pickup(
        &self,
        namespace_id: i32,
        new: &NewPickup<'_>,
        patient: bool,
        complete: impl FnOnce(&str, &BTreeSet<String>) -> bool,
    ) -> Result<Noted, StoreError> {
        self.transaction(|transaction| {
            // Locked, so that of two last files fetched at once the second sees the first.
            let found: Option<(String, Option<String>)> = batch::table
                .filter(batch::namespace_id.eq(namespace_id))
                .filter(batch::id.eq(new.batch_id))
                .filter(batch::campaign.eq(new.campaign))
                .select((batch::state, batch::manifest))
                .for_no_key_update()
                .first(transaction)
                .optional()?;
            let Some((state, manifest)) = found else { return Ok(Noted::NoBatch) };
            let mut fetched = fetched(transaction, namespace_id, new.batch_id)?;
            fetched.insert(new.file.to_owned());
            let complete = manifest.is_some_and(|manifest| complete(&manifest, &fetched));
            if complete && patient && state == "assigned" {
                return Ok(Noted::TooEarly);
            }
            insert(transaction, namespace_id, new)?;
            if !complete || state != "exported" {
                return Ok(Noted::Pickup);
            }
            diesel::update(
                batch::table.filter(batch::namespace_id.eq(namespace_id)).filter(batch::id.eq(new.batch_id)),
            )
            .set((batch::state.eq("collected"), batch::collected_at.eq(new.at)))
            .execute(transaction)?;
            Ok(Noted::Collected)
        })
    }

    /// Every download of a batch's files, oldest first.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn pickups(&self, namespace_id: i32, batch_id: i64) -> Result<Vec<Pickup>, StoreError> {
        Ok(pickup::table
            .filter(pickup::namespace_id.eq(namespace_id))
            .filter(pickup::batch_id.eq(batch_id))
            .order((pickup::fetched_at, pickup::id))
            .select((pickup::file, pickup::user_name, pickup::bytes, pickup::fetched_at))
            .load(&mut self.connection()?)?)
    }
}

fn fetched(transaction: &mut Transaction, namespace_id: i32, batch_id: i64) -> QueryResult<BTreeSet<String>> {
    let names: Vec<String> = pickup::table
        .filter(pickup::namespace_id.eq(namespace_id))
        .filter(pickup::batch_id.eq(batch_id))
        .select(pickup::file)
        .distinct()
        .load(transaction)?;
    Ok(names.into_iter().collect())
}

fn insert(transaction: &mut Transaction, namespace_id: i32, new: &NewPickup<'_>) -> QueryResult<()> {
    diesel::insert_into(pickup::table)
        .values((
            pickup::namespace_id.eq(namespace_id),
            pickup::batch_id.eq(new.batch_id),
            pickup::file.eq(new.file),
            pickup::user_name.eq(new.user),
            pickup::bytes.eq(i64::try_from(new.bytes).unwrap_or(i64::MAX)),
            pickup::fetched_at.eq(new.at),
        ))
        .execute(transaction)?;
    Ok(())
}
