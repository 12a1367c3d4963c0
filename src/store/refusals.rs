//! Refused files, as far as telling people goes. Each has a row in `alert` under `file_refused/`:
//!
//! ```text
//! level 1: mailed     level 2: held, for the mail that counts what was too much     level 3: counted in such a mail
//! ```
//! One row, `refusal_mails`, is locked by whoever decides which of the three it is: so several daemons together keep to the
//! limit, and each held file is counted once.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Timestamptz};

use super::alerts::LevelChange;
use super::schema::alert;
use super::{Store, StoreError, Transaction};

/// The row that is locked; how often its level changed numbers the mails that count.
pub const LOCK: &str = "refusal_mails";
/// The level of a file that was mailed.
pub const MAILED: i32 = 1;
/// The level of a file that is held.
pub const HELD: i32 = 2;
const COUNTED: i32 = 3;

/// A file that was refused and that nobody has been told about.
#[derive(Clone, Debug, QueryableByName)]
pub struct RefusedUpload {
    /// The upload.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// Its file name.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// `coupons`, `redemptions` or `recipients`.
    #[diesel(sql_type = Text)]
    pub kind: String,
    /// The bank or campaign that its directory names; empty: none.
    #[diesel(sql_type = Text)]
    pub target: String,
    /// SFTP user; empty: dropped locally.
    #[diesel(sql_type = Text)]
    pub user_name: String,
    /// `rejected` or `quarantined`.
    #[diesel(sql_type = Text)]
    pub state: String,
    /// When it was complete.
    #[diesel(sql_type = Timestamptz)]
    pub received_at: DateTime<Utc>,
    /// The report, as JSON.
    #[diesel(sql_type = Text)]
    pub report: String,
}

/// Held files that have something in common.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct HeldGroup {
    /// How many.
    #[diesel(sql_type = BigInt)]
    pub files: i64,
    /// `rejected`, `quarantined`, or what became of them since.
    #[diesel(sql_type = Text)]
    pub state: String,
    /// `coupons`, `redemptions` or `recipients`.
    #[diesel(sql_type = Text)]
    pub kind: String,
    /// The bank or campaign that their directory names; empty: none.
    #[diesel(sql_type = Text)]
    pub target: String,
    /// SFTP user; empty: dropped locally.
    #[diesel(sql_type = Text)]
    pub user_name: String,
}

/// How many refused files were mailed since `since`. Until the transaction ends, nobody else decides about another.
///
/// # Errors
/// Any [`StoreError`] of the statements.
pub fn mailed_since(
    transaction: &mut Transaction,
    namespace_id: i32,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<i64, StoreError> {
    lock(transaction, namespace_id, now)?;
    Ok(alert::table
        .filter(alert::namespace_id.eq(namespace_id))
        .filter(alert::level.eq(MAILED))
        .filter(alert::changed_at.gt(since))
        .filter(alert::subject.like("file_refused/%"))
        .count()
        .get_result(transaction)?)
}

/// Marks every held file as counted; returns their uploads, and the change that numbers the mail about them.
///
/// # Errors
/// Any [`StoreError`] of the statements.
pub fn take_held(
    transaction: &mut Transaction,
    namespace_id: i32,
    now: DateTime<Utc>,
) -> Result<(Vec<i64>, LevelChange<'static>), StoreError> {
    let level = lock(transaction, namespace_id, now)?;
    let subjects: Vec<String> = diesel::update(alert::table)
        .filter(alert::namespace_id.eq(namespace_id))
        .filter(alert::level.eq(HELD))
        .filter(alert::subject.like("file_refused/%"))
        .set(alert::level.eq(COUNTED))
        .returning(alert::subject)
        .get_results(transaction)?;
    let uploads = subjects.iter().filter_map(|subject| subject.split_once('/')?.1.parse().ok()).collect();
    let change = LevelChange { namespace_id, subject: LOCK, from: Some(level), to: level, forget_at: None };
    Ok((uploads, change))
}

/// What `uploads` have in common, largest group first.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn groups(transaction: &mut Transaction, namespace_id: i32, uploads: &[i64]) -> Result<Vec<HeldGroup>, StoreError> {
    Ok(diesel::sql_query(
        "SELECT count(*) AS files, u.state, u.kind, u.target, u.user_name FROM upload AS u \
         WHERE u.namespace_id = $1 AND u.id = ANY($2) \
         GROUP BY u.state, u.kind, u.target, u.user_name ORDER BY 1 DESC, 2, 3, 4, 5",
    )
    .bind::<Integer, _>(namespace_id)
    .bind::<Array<BigInt>, _>(uploads)
    .load(transaction)?)
}

fn lock(transaction: &mut Transaction, namespace_id: i32, now: DateTime<Utc>) -> Result<i32, StoreError> {
    diesel::insert_into(alert::table)
        .values((
            alert::namespace_id.eq(namespace_id),
            alert::subject.eq(LOCK),
            alert::level.eq(0),
            alert::changed_at.eq(now),
        ))
        .on_conflict_do_nothing()
        .execute(transaction)?;
    Ok(alert::table
        .filter(alert::namespace_id.eq(namespace_id))
        .filter(alert::subject.eq(LOCK))
        .select(alert::level)
        .for_update()
        .first(transaction)?)
}

impl Store {
    /// Files refused since `since` that have no row under `file_refused/`, oldest first. Files that were only checked
    /// are nobody's trouble.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn refused_uploads(&self, namespace_id: i32, since: DateTime<Utc>) -> Result<Vec<RefusedUpload>, StoreError> {
        let mut connection = self.connection()?;
        Ok(diesel::sql_query(
            "SELECT u.id, u.name, u.kind, u.target, u.user_name, u.state, \
                 coalesce(u.received_at, u.created_at) AS received_at, coalesce(u.report, '{}') AS report \
             FROM upload AS u WHERE u.namespace_id = $1 AND u.state IN ('rejected', 'quarantined') \
                 AND NOT u.dry_run AND u.finished_at >= $2 \
                 AND NOT EXISTS (SELECT FROM alert AS a WHERE a.namespace_id = $1 \
                     AND a.subject = 'file_refused/' || u.id) \
             ORDER BY u.finished_at, u.id LIMIT 100",
        )
        .bind::<Integer, _>(namespace_id)
        .bind::<Timestamptz, _>(since)
        .load(&mut connection)?)
    }

    /// Since when the file is held that is held longest; `None`: none is.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn held_since(&self, namespace_id: i32) -> Result<Option<DateTime<Utc>>, StoreError> {
        #[derive(QueryableByName)]
        struct Oldest {
            #[diesel(sql_type = Nullable<Timestamptz>)]
            at: Option<DateTime<Utc>>,
        }
        let oldest: Oldest = diesel::sql_query(
            "SELECT min(a.changed_at) AS at FROM alert AS a \
             WHERE a.namespace_id = $1 AND a.level = $2 AND a.subject LIKE 'file_refused/%'",
        )
        .bind::<Integer, _>(namespace_id)
        .bind::<Integer, _>(HELD)
        .get_result(&mut self.connection()?)?;
        Ok(oldest.at)
    }
}
