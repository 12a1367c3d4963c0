//! The `upload` table from `received` on: claims, verdicts, reports. (Before that: `receiving`.)
//!
//! A claim is a lease with a fencing number, taken in a short transaction of its own. Whatever the work changes commits
//! only together with [`finish`], which checks the fence: a daemon that lost its lease changes nothing.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Bytea, Date, Integer, Nullable, Text, Timestamptz};

use super::schema::{batch, upload};
use super::{Store, StoreError, Transaction};
use crate::spool::Kind;

/// An upload that this daemon works on under a lease.
#[derive(Clone, Debug, QueryableByName)]
pub struct ClaimedUpload {
    /// Its namespace.
    #[diesel(sql_type = Integer)]
    pub namespace_id: i32,
    /// Its id.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// The fencing number of this claim.
    #[diesel(sql_type = BigInt)]
    pub fence: i64,
    /// `coupons`, `redemptions` or `recipients`.
    #[diesel(sql_type = Text)]
    pub kind: String,
    /// The bank or campaign that its directory names; empty: none.
    #[diesel(sql_type = Text)]
    pub target: String,
    /// Whether nothing is to be applied.
    #[diesel(sql_type = Bool)]
    pub dry_run: bool,
    /// File name as the client gave it.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// SFTP user; empty: dropped locally.
    #[diesel(sql_type = Text)]
    pub user_name: String,
    /// Size as received.
    #[diesel(sql_type = BigInt)]
    pub bytes: i64,
    /// When it was complete and durable.
    #[diesel(sql_type = Timestamptz)]
    pub received_at: DateTime<Utc>,
    /// The local date on which it was received.
    #[diesel(sql_type = Date)]
    pub business_date: NaiveDate,
    /// Claims so far, this one included.
    #[diesel(sql_type = Integer)]
    pub attempts: i32,
}

impl ClaimedUpload {
    /// The kind as a value; `None` only if the store holds a word that this version does not know.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Kind::parse(&self.kind)
    }
}

/// How an upload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its rows are in the store.
    Applied,
    /// The client must correct and resend.
    Rejected,
    /// An admin must act.
    Quarantined,
    /// It repeats an earlier upload.
    Duplicate,
    /// It came under `/check/`: reported, not applied.
    Checked,
}

impl Verdict {
    /// The word in reports and store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Rejected => "rejected",
            Self::Quarantined => "quarantined",
            Self::Duplicate => "duplicate",
            Self::Checked => "checked",
        }
    }

    /// The verdict that `text` names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Applied, Self::Rejected, Self::Quarantined, Self::Duplicate, Self::Checked]
            .into_iter()
            .find(|verdict| verdict.as_str() == text)
    }
}

impl Store {
    /// received | deferred | active with a lapsed lease -> active: the oldest such upload of the namespace, if any.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn claim_upload(
        &self,
        namespace_id: i32,
        now: DateTime<Utc>,
        lease_until: DateTime<Utc>,
    ) -> Result<Option<ClaimedUpload>, StoreError> {
        let mut connection = self.connection()?;
        let claimed = diesel::sql_query(
            "UPDATE upload SET state = 'active', fence = fence + 1, attempts = attempts + 1, lease_until = $3, \
             retry_at = NULL \
             WHERE namespace_id = $1 AND id = ( \
                 SELECT id FROM upload WHERE namespace_id = $1 AND (state = 'received' \
                     OR (state = 'deferred' AND retry_at <= $2) OR (state = 'active' AND lease_until < $2)) \
                 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) \
             RETURNING namespace_id, id, fence, kind, target, dry_run, name, user_name, bytes, received_at, \
                 business_date, attempts",
        )
        .bind::<Integer, _>(namespace_id)
        .bind::<Timestamptz, _>(now)
        .bind::<Timestamptz, _>(lease_until)
        .get_result(&mut connection)
        .optional()?;
        Ok(claimed)
    }

    /// Holds the claim for longer. `false`: the lease is lost, stop working.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn renew_upload(&self, claimed: &ClaimedUpload, lease_until: DateTime<Utc>) -> Result<bool, StoreError> {
        let mut connection = self.connection()?;
        let renewed: Option<i64> = diesel::update(upload::table)
            .filter(upload::namespace_id.eq(claimed.namespace_id))
            .filter(upload::id.eq(claimed.id))
            .filter(upload::fence.eq(claimed.fence))
            .filter(upload::state.eq("active"))
            .set(upload::lease_until.eq(lease_until))
            .returning(upload::id)
            .get_result(&mut connection)
            .optional()?;
        Ok(renewed.is_some())
    }

    /// active -> deferred: nobody has to act, it is tried again at `retry_at`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn defer_upload(&self, claimed: &ClaimedUpload, retry_at: DateTime<Utc>) -> Result<(), StoreError> {
        let mut connection = self.connection()?;
        diesel::update(upload::table)
            .filter(upload::namespace_id.eq(claimed.namespace_id))
            .filter(upload::id.eq(claimed.id))
            .filter(upload::fence.eq(claimed.fence))
            .filter(upload::state.eq("active"))
            .set((upload::state.eq("deferred"), upload::retry_at.eq(retry_at)))
            .execute(&mut connection)?;
        Ok(())
    }

    /// When the next deferred upload of the namespace is to be tried, or the next lease lapses.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn next_upload_retry(&self, namespace_id: i32) -> Result<Option<DateTime<Utc>>, StoreError> {
        #[derive(QueryableByName)]
        struct Next {
            #[diesel(sql_type = Nullable<Timestamptz>)]
            at: Option<DateTime<Utc>>,
        }
        let mut connection = self.connection()?;
        let next: Next = diesel::sql_query(
            "SELECT min(CASE state WHEN 'deferred' THEN retry_at ELSE lease_until END) AS at FROM upload \
             WHERE namespace_id = $1 AND state IN ('deferred', 'active')",
        )
        .bind::<Integer, _>(namespace_id)
        .get_result(&mut connection)?;
        Ok(next.at)
    }

    /// Uploads whose verdict is committed but whose report is not yet in `/reports/`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn unreported_uploads(&self, namespace_id: i32) -> Result<Vec<FinishedUpload>, StoreError> {
        let mut connection = self.connection()?;
        Ok(diesel::sql_query(
            "SELECT id, name, state, report FROM upload \
             WHERE namespace_id = $1 AND finished_at IS NOT NULL AND reported_at IS NULL AND report IS NOT NULL \
             ORDER BY id LIMIT 1000",
        )
        .bind::<Integer, _>(namespace_id)
        .load(&mut connection)?)
    }

    /// The report of an upload, if it has one.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn upload_report(&self, namespace_id: i32, id: i64) -> Result<Option<String>, StoreError> {
        let mut connection = self.connection()?;
        let report: Option<Option<String>> = upload::table
            .filter(upload::namespace_id.eq(namespace_id))
            .filter(upload::id.eq(id))
            .select(upload::report)
            .first(&mut connection)
            .optional()?;
        Ok(report.flatten())
    }

    /// Whether coupons or redemptions that were received before the batch was due have no verdict yet.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn earlier_files_undecided(&self, namespace_id: i32, batch_id: i64) -> Result<bool, StoreError> {
        let due_at = batch::table
            .filter(batch::namespace_id.eq(namespace_id).and(batch::id.eq(batch_id)))
            .select(batch::due_at)
            .first::<DateTime<Utc>>(&mut self.connection()?)?;
        let undecided = upload::table
            .filter(upload::namespace_id.eq(namespace_id))
            .filter(upload::kind.eq_any(["coupons", "redemptions"]).and(upload::dry_run.eq(false)))
            .filter(upload::state.eq_any(["received", "active", "deferred"]))
            .filter(upload::received_at.le(due_at));
        Ok(diesel::select(diesel::dsl::exists(undecided)).get_result(&mut self.connection()?)?)
    }

    /// Remembers that the report of an upload is in `/reports/`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn upload_reported(&self, namespace_id: i32, id: i64, now: DateTime<Utc>) -> Result<(), StoreError> {
        let mut connection = self.connection()?;
        diesel::update(upload::table)
            .filter(upload::namespace_id.eq(namespace_id))
            .filter(upload::id.eq(id))
            .set(upload::reported_at.eq(now))
            .execute(&mut connection)?;
        Ok(())
    }
}

/// An upload whose verdict is committed.
#[derive(Clone, Debug, QueryableByName)]
pub struct FinishedUpload {
    /// Its id.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// Its file name.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// The verdict's word.
    #[diesel(sql_type = Text)]
    pub state: String,
    /// The report, as JSON.
    #[diesel(sql_type = Text)]
    pub report: String,
}

/// What a verdict leaves in the row.
#[derive(Clone, Debug)]
pub struct Finish<'a> {
    /// The verdict.
    pub verdict: Verdict,
    /// SHA-256 of the plaintext, where it was read to its end.
    pub sha256: Option<[u8; 32]>,
    /// The report, as JSON.
    pub report: &'a str,
    /// When.
    pub now: DateTime<Utc>,
}

/// active -> a verdict, inside the transaction that holds its effect, if the claim still stands.
///
/// # Errors
/// [`StoreError::LeaseLost`] when another daemon has taken the upload over: roll back.
pub fn finish(connection: &mut Transaction, claimed: &ClaimedUpload, finish: &Finish<'_>) -> Result<(), StoreError> {
    let finished: Option<i64> = diesel::update(upload::table)
        .filter(upload::namespace_id.eq(claimed.namespace_id))
        .filter(upload::id.eq(claimed.id))
        .filter(upload::fence.eq(claimed.fence))
        .filter(upload::state.eq("active"))
        .set((
            upload::state.eq(finish.verdict.as_str()),
            upload::sha256.eq(finish.sha256.map(|hash| hash.to_vec())),
            upload::report.eq(finish.report),
            upload::finished_at.eq(finish.now),
            upload::lease_until.eq(None::<DateTime<Utc>>),
        ))
        .returning(upload::id)
        .get_result(connection)
        .optional()?;
    finished.map(|_| ()).ok_or(StoreError::LeaseLost { what: "upload", id: claimed.id })
}

/// Names of uploads of `kind` that came since `since`, applied or repeated; dry runs and refused ones did not come.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn names_that_came(
    connection: &mut Transaction,
    namespace_id: i32,
    kind: &str,
    since: DateTime<Utc>,
) -> Result<Vec<String>, StoreError> {
    Ok(upload::table
        .filter(upload::namespace_id.eq(namespace_id).and(upload::kind.eq(kind)))
        .filter(upload::state.eq_any(["applied", "duplicate"]).and(upload::dry_run.eq(false)))
        .filter(upload::received_at.gt(since).assume_not_null())
        .select(upload::name)
        .load(connection)?)
}

/// The applied upload with the same content at the same place, if any; `on` narrows to one business date, and a not-sent
/// list repeats only one about the same batch.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn repeated(
    connection: &mut Transaction,
    claimed: &ClaimedUpload,
    sha256: &[u8; 32],
    on: Option<NaiveDate>,
    returns_batch: Option<i64>,
) -> Result<Option<i64>, StoreError> {
    #[derive(QueryableByName)]
    struct Earlier {
        #[diesel(sql_type = BigInt)]
        id: i64,
    }
    let earlier: Option<Earlier> = diesel::sql_query(
        "SELECT id FROM upload WHERE namespace_id = $1 AND kind = $2 AND target = $3 AND sha256 = $4 \
         AND state = 'applied' AND id <> $5 AND ($6 IS NULL OR business_date = $6) \
         AND returns_batch IS NOT DISTINCT FROM $7 ORDER BY id LIMIT 1",
    )
    .bind::<Integer, _>(claimed.namespace_id)
    .bind::<Text, _>(&claimed.kind)
    .bind::<Text, _>(&claimed.target)
    .bind::<Bytea, _>(sha256.to_vec())
    .bind::<BigInt, _>(claimed.id)
    .bind::<Nullable<Date>, _>(on)
    .bind::<Nullable<BigInt>, _>(returns_batch)
    .get_result(connection)
    .optional()?;
    Ok(earlier.map(|earlier| earlier.id))
}
