//! The `upload` table as far as receiving goes: from the first byte until a worker may claim it, and what the user who
//! sent a file sees of it. Each change names the state it leaves and says whether it found it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;

use super::schema::{bank, upload};
use super::{Store, StoreError};
use crate::config::Name;
use crate::spool::{Kind, Place};

/// How far an upload is, as the user who sent it can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A session writes it.
    Receiving,
    /// A session dropped; kept for resume.
    Partial,
    /// Closed under a temporary name.
    AwaitingRename,
    /// Complete; a worker may claim it any moment.
    Received,
    /// A worker has claimed it, or is through with it.
    Taken,
}

impl Stage {
    fn from_state(state: &str) -> Self {
        match state {
            "receiving" => Self::Receiving,
            "partial" => Self::Partial,
            "awaiting_rename" => Self::AwaitingRename,
            "received" => Self::Received,
            _ => Self::Taken,
        }
    }

    fn state(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Partial => "partial",
            Self::AwaitingRename => "awaiting_rename",
            Self::Received => "received",
            Self::Taken => "active",
        }
    }
}

const NOT_TAKEN: [&str; 4] = ["receiving", "partial", "awaiting_rename", "received"];
const GONE: [&str; 3] = ["removed", "purged", "discarded"];
/// Uploads whose file is still in the spool and no longer grows.
const KEPT: [&str; 6] = ["partial", "awaiting_rename", "received", "active", "deferred", "quarantined"];

/// One user's file name in one inbound directory.
#[derive(Clone, Copy, Debug)]
pub struct Spot<'a> {
    /// The namespace's id.
    pub namespace_id: i32,
    /// The SFTP user.
    pub user: &'a str,
    /// The directory.
    pub place: &'a Place,
    /// The file name.
    pub name: &'a str,
}

/// An upload as its sender sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub id: i64,
    /// Its file name.
    pub name: String,
    /// How far it is.
    pub stage: Stage,
    /// Who writes it.
    pub session: String,
    /// Its size; of one being received, what the row knows.
    pub bytes: i64,
    /// The time that the client gave it.
    pub modified_at: Option<DateTime<Utc>>,
    /// When it was first opened.
    pub created_at: DateTime<Utc>,
    /// When it was received.
    pub received_at: Option<DateTime<Utc>>,
}

type SentRow = (i64, String, String, String, i64, Option<DateTime<Utc>>, DateTime<Utc>, Option<DateTime<Utc>>);

impl From<SentRow> for Sent {
    fn from((id, name, state, session, bytes, modified_at, created_at, received_at): SentRow) -> Self {
        let stage = Stage::from_state(&state);
        Self { id, name, stage, session, bytes, modified_at, created_at, received_at }
    }
}

const SENT: (
    upload::id,
    upload::name,
    upload::state,
    upload::session,
    upload::bytes,
    upload::modified_at,
    upload::created_at,
    upload::received_at,
) = (
    upload::id,
    upload::name,
    upload::state,
    upload::session,
    upload::bytes,
    upload::modified_at,
    upload::created_at,
    upload::received_at,
);

/// What CLOSE found out about a file.
#[derive(Clone, Copy, Debug)]
pub struct Completed {
    /// Its size.
    pub bytes: i64,
    /// The time that the client gave it.
    pub modified_at: Option<DateTime<Utc>>,
    /// Now.
    pub at: DateTime<Utc>,
    /// The local date of `at` in the namespace's zone.
    pub business_date: NaiveDate,
}

/// What became of a rename.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renamed {
    /// Done; `complete`: it is now received and may be claimed. `replaced`: an upload whose file can go.
    Done {
        /// The upload's id.
        id: i64,
        /// Whether this rename made it received.
        complete: bool,
        /// The upload that it replaced.
        replaced: Option<i64>,
    },
    /// No such file.
    Missing,
    /// The file is not in a state that can be renamed.
    Source(Stage),
    /// There is a file of the new name, in this state.
    Target(Stage),
}

fn at(spot: &Spot<'_>) -> diesel::helper_types::IntoBoxed<'static, upload::table, diesel::pg::Pg> {
    upload::table
        .filter(upload::namespace_id.eq(spot.namespace_id))
        .filter(upload::kind.eq(spot.place.kind.as_str()))
        .filter(upload::target.eq(target(spot.place).to_owned()))
        .filter(upload::dry_run.eq(spot.place.dry_run))
        .filter(upload::user_name.eq(spot.user.to_owned()))
        .into_boxed()
}

fn target(place: &Place) -> &str {
    place.target.as_ref().map_or("", Name::as_str)
}

impl Store {
    /// The newest upload at `spot` that its user still sees: not taken yet, or received after `linger_from`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn sent(&self, spot: &Spot<'_>, linger_from: DateTime<Utc>) -> Result<Option<Sent>, StoreError> {
        let row: Option<SentRow> = at(spot)
            .filter(upload::name.eq(spot.name))
            .filter(
                upload::state
                    .eq_any(NOT_TAKEN)
                    .or(upload::state.ne_all(GONE).and(upload::received_at.gt(linger_from)).assume_not_null()),
            )
            .order(upload::id.desc())
            .select(SENT)
            .first(&mut self.connection()?)
            .optional()?;
        Ok(row.map(Sent::from))
    }

    /// Like [`Store::sent`] for every name in the directory of `spot` (whose own name is not looked at), by name.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn sent_files(&self, spot: &Spot<'_>, linger_from: DateTime<Utc>, most: i64) -> Result<Vec<Sent>, StoreError> {
        let rows: Vec<SentRow> = at(spot)
            .filter(
                upload::state
                    .eq_any(NOT_TAKEN)
                    .or(upload::state.ne_all(GONE).and(upload::received_at.gt(linger_from)).assume_not_null()),
            )
            .order((upload::name.asc(), upload::id.desc()))
            .limit(most)
            .select(SENT)
            .load(&mut self.connection()?)?;
        let mut files: Vec<Sent> = rows.into_iter().map(Sent::from).collect();
        files.dedup_by(|later, earlier| later.name == earlier.name);
        Ok(files)
    }

    /// A new row in `receiving`. Its commit need not be durable: an upload counts from its CLOSE on.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn begin_receiving(&self, spot: &Spot<'_>, session: &str, now: DateTime<Utc>) -> Result<i64, StoreError> {
        let mut connection = self.connection()?;
        Ok(connection.transaction(|connection| {
            diesel::sql_query("SET LOCAL synchronous_commit = off").execute(connection)?;
            diesel::insert_into(upload::table)
                .values((
                    upload::namespace_id.eq(spot.namespace_id),
                    upload::kind.eq(spot.place.kind.as_str()),
                    upload::target.eq(target(spot.place)),
                    upload::dry_run.eq(spot.place.dry_run),
                    upload::name.eq(spot.name),
                    upload::user_name.eq(spot.user),
                    upload::state.eq(Stage::Receiving.state()),
                    upload::session.eq(session),
                    upload::created_at.eq(now),
                ))
                .returning(upload::id)
                .get_result(connection)
        })?)
    }

    /// `receiving`, `partial` or `awaiting_rename` -> `receiving`, of another session.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn resume_receiving(&self, namespace_id: i32, found: &Sent, session: &str) -> Result<bool, StoreError> {
        let row: Option<i64> = diesel::update(upload::table)
            .filter(upload::namespace_id.eq(namespace_id).and(upload::id.eq(found.id)))
            .filter(upload::state.eq(found.stage.state()).and(upload::session.eq(&found.session)))
            .set((upload::state.eq(Stage::Receiving.state()), upload::session.eq(session)))
            .returning(upload::id)
            .get_result(&mut self.connection()?)
            .optional()?;
        Ok(row.is_some())
    }

    /// `receiving` -> `received`, or `awaiting_rename` under a temporary name. False: another session has it now.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn complete_receiving(
        &self,
        namespace_id: i32,
        (id, session): (i64, &str),
        temporary: bool,
        completed: &Completed,
    ) -> Result<bool, StoreError> {
        let to = if temporary { Stage::AwaitingRename } else { Stage::Received };
        let received = (!temporary).then_some((completed.at, completed.business_date));
        let row: Option<i64> = diesel::update(upload::table)
            .filter(upload::namespace_id.eq(namespace_id).and(upload::id.eq(id)))
            .filter(upload::state.eq(Stage::Receiving.state()).and(upload::session.eq(session)))
            .set((
                upload::state.eq(to.state()),
                upload::bytes.eq(completed.bytes),
                upload::written_at.eq(completed.at),
                upload::modified_at.eq(completed.modified_at),
                upload::received_at.eq(received.map(|(at, _)| at)),
                upload::business_date.eq(received.map(|(_, date)| date)),
            ))
            .returning(upload::id)
            .get_result(&mut self.connection()?)
            .optional()?;
        Ok(row.is_some())
    }

    /// Whether upload `id` was removed or purged; `None`: there is no such row.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn is_upload_gone(&self, namespace_id: i32, id: i64) -> Result<Option<bool>, StoreError> {
        Ok(upload::table
            .filter(upload::namespace_id.eq(namespace_id).and(upload::id.eq(id)))
            .select(upload::state.eq_any(GONE))
            .first(&mut self.connection()?)
            .optional()?)
    }

    /// `receiving` -> `partial` (or `removed`, when it is not worth keeping): the session ended at `at`. False: another session has it now.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn abandon_receiving(
        &self,
        namespace_id: i32,
        (id, session): (i64, &str),
        (bytes, keep): (i64, bool),
        at: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let row: Option<i64> = diesel::update(upload::table)
            .filter(upload::namespace_id.eq(namespace_id).and(upload::id.eq(id)))
            .filter(upload::state.eq(Stage::Receiving.state()).and(upload::session.eq(session)))
            .set((
                upload::state.eq(if keep { "partial" } else { "removed" }),
                upload::bytes.eq(bytes),
                upload::written_at.eq(at),
            ))
            .returning(upload::id)
            .get_result(&mut self.connection()?)
            .optional()?;
        Ok(row.is_some())
    }

    /// `partial`, `awaiting_rename`, `received` or `receiving` -> `removed`. False: it is in another state than found.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn remove_sent(&self, namespace_id: i32, found: &Sent) -> Result<bool, StoreError> {
        let row: Option<i64> = diesel::update(upload::table)
            .filter(upload::namespace_id.eq(namespace_id).and(upload::id.eq(found.id)))
            .filter(upload::state.eq(found.stage.state()).and(upload::session.eq(&found.session)))
            .filter(upload::state.eq_any(NOT_TAKEN))
            .set(upload::state.eq("removed"))
            .returning(upload::id)
            .get_result(&mut self.connection()?)
            .optional()?;
        Ok(row.is_some())
    }

    /// The time that the client gives an upload. Touches no state.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn touch_sent(&self, namespace_id: i32, id: i64, modified_at: DateTime<Utc>) -> Result<(), StoreError> {
        diesel::update(upload::table)
            .filter(upload::namespace_id.eq(namespace_id).and(upload::id.eq(id)))
            .set(upload::modified_at.eq(modified_at))
            .execute(&mut self.connection()?)?;
        Ok(())
    }

    /// Moves an upload that is not taken to another name or directory. `temporary` is about the new name: out of a
    /// temporary name it becomes `received`, into one it waits again.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements.
    pub fn rename_sent(
        &self,
        from: &Spot<'_>,
        to: &Spot<'_>,
        (replace, temporary): (bool, bool),
        (at, business_date): (DateTime<Utc>, NaiveDate),
    ) -> Result<Renamed, StoreError> {
        let mut connection = self.connection()?;
        Ok(connection.transaction(|connection| -> QueryResult<Renamed> {
            let Some(source) = newest_not_taken(connection, from)? else {
                return Ok(Renamed::Missing);
            };
            if !matches!(source.stage, Stage::AwaitingRename | Stage::Received) {
                return Ok(Renamed::Source(source.stage));
            }
            // One that a worker has claimed meanwhile is not replaced: the new file is a new upload beside it.
            let existing = newest_not_taken(connection, to)?
                .filter(|existing| existing.id != source.id && existing.stage != Stage::Taken);
            if let Some(existing) = &existing {
                if !replace || existing.stage == Stage::Receiving {
                    return Ok(Renamed::Target(existing.stage));
                }
                diesel::update(upload::table)
                    .filter(upload::namespace_id.eq(to.namespace_id).and(upload::id.eq(existing.id)))
                    .set(upload::state.eq("removed"))
                    .execute(connection)?;
            }
            let complete = !temporary && source.stage == Stage::AwaitingRename;
            let received = match (temporary, complete) {
                (true, _) => None,
                (false, true) => Some((at, business_date)),
                (false, false) => source.received_at.map(|received_at| (received_at, business_date)),
            };
            diesel::update(upload::table)
                .filter(upload::namespace_id.eq(from.namespace_id).and(upload::id.eq(source.id)))
                .set((
                    upload::kind.eq(to.place.kind.as_str()),
                    upload::target.eq(target(to.place)),
                    upload::dry_run.eq(to.place.dry_run),
                    upload::name.eq(to.name),
                    upload::state.eq(if temporary { Stage::AwaitingRename } else { Stage::Received }.state()),
                    upload::received_at.eq(received.map(|(at, _)| at)),
                    upload::business_date.eq(received.map(|(_, date)| date)),
                ))
                .execute(connection)?;
            Ok(Renamed::Done { id: source.id, complete: !temporary, replaced: existing.map(|row| row.id) })
        })?)
    }

    /// Ids and sessions of everything in `receiving`, and ids in `partial`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn unfinished_receiving(&self, namespace_id: i32) -> Result<Vec<Sent>, StoreError> {
        let rows: Vec<SentRow> = upload::table
            .filter(upload::namespace_id.eq(namespace_id))
            .filter(upload::state.eq_any(["receiving", "partial"]))
            .select(SENT)
            .load(&mut self.connection()?)?;
        Ok(rows.into_iter().map(Sent::from).collect())
    }

    /// `partial` and `awaiting_rename` that nobody has written since `cutoff` -> `purged`; their ids.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn purge_unfinished(&self, namespace_id: i32, cutoff: DateTime<Utc>) -> Result<Vec<i64>, StoreError> {
        Ok(diesel::update(upload::table)
            .filter(upload::namespace_id.eq(namespace_id))
            .filter(upload::state.eq_any(["partial", "awaiting_rename"]))
            .filter(upload::created_at.lt(cutoff))
            .filter(upload::written_at.is_null().or(upload::written_at.lt(cutoff).assume_not_null()))
            .set(upload::state.eq("purged"))
            .returning(upload::id)
            .get_results(&mut self.connection()?)?)
    }

    /// Those of `ids` that are uploads, and whether their file must stay: every state but removed and purged, which last.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn keep_their_files(&self, namespace_id: i32, ids: &[i64]) -> Result<BTreeMap<i64, bool>, StoreError> {
        let rows: Vec<(i64, bool)> = upload::table
            .filter(upload::namespace_id.eq(namespace_id).and(upload::id.eq_any(ids)))
            .select((upload::id, upload::state.ne_all(["removed", "purged"])))
            .load(&mut self.connection()?)?;
        Ok(rows.into_iter().collect())
    }

    /// Bytes of uploads that lie in the spool and no longer grow.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn bytes_in_spool(&self, namespace_id: i32) -> Result<u64, StoreError> {
        let sizes: Vec<i64> = upload::table
            .filter(upload::namespace_id.eq(namespace_id))
            .filter(upload::state.eq_any(KEPT))
            .select(upload::bytes)
            .load(&mut self.connection()?)?;
        Ok(sizes.into_iter().map(|size| u64::try_from(size).unwrap_or(0)).sum())
    }

    /// Names of every bank that the store knows, declared or made by an upload.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn bank_names(&self, namespace_id: i32) -> Result<BTreeSet<Name>, StoreError> {
        let names: Vec<String> =
            bank::table.filter(bank::namespace_id.eq(namespace_id)).select(bank::name).load(&mut self.connection()?)?;
        Ok(names.iter().filter_map(|name| Name::parse(name).ok()).collect())
    }

    /// The kinds of the uploads `ids`, as far as they exist.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn upload_kinds(&self, namespace_id: i32, ids: &[i64]) -> Result<BTreeMap<i64, Kind>, StoreError> {
        let rows: Vec<(i64, String)> = upload::table
            .filter(upload::namespace_id.eq(namespace_id).and(upload::id.eq_any(ids)))
            .select((upload::id, upload::kind))
            .load(&mut self.connection()?)?;
        Ok(rows.into_iter().filter_map(|(id, kind)| Some((id, Kind::parse(&kind)?))).collect())
    }
}

fn newest_not_taken(connection: &mut PgConnection, spot: &Spot<'_>) -> QueryResult<Option<Sent>> {
    let id: Option<i64> = at(spot)
        .filter(upload::name.eq(spot.name))
        .filter(upload::state.eq_any(NOT_TAKEN))
        .order(upload::id.desc())
        .select(upload::id)
        .first(connection)
        .optional()?;
    let Some(id) = id else { return Ok(None) };
    // Locked only now, and looked at again: a worker may have claimed it between the two statements.
    let row: Option<SentRow> = upload::table
        .filter(upload::namespace_id.eq(spot.namespace_id).and(upload::id.eq(id)))
        .for_update()
        .select(SENT)
        .first(connection)
        .optional()?;
    Ok(row.map(Sent::from))
}
