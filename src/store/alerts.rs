//! The `alert` table (what has been said already), `stock_day` (how fast banks empty), and what alerts are derived from.
//!
//! A change of level is a compare-and-set in one transaction with the mails that it causes: of several daemons that see the
//! same thing, one raises the alert.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Nullable, Text, Timestamptz};

use super::schema::{alert, stock_day, upload};
use super::{Store, StoreError, Transaction};

/// What is remembered about one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// How bad it was; 0: well.
    pub level: i32,
    /// When that changed last.
    pub changed_at: DateTime<Utc>,
}

/// A subject's level is about to change.
#[derive(Clone, Copy, Debug)]
pub struct LevelChange<'a> {
    /// Its namespace.
    pub namespace_id: i32,
    /// What it is about.
    pub subject: &'a str,
    /// The level that was remembered; `None`: nothing was.
    pub from: Option<i32>,
    /// The new level.
    pub to: i32,
    /// When the row can go; `None`: kept.
    pub forget_at: Option<DateTime<Utc>>,
}

/// Changes the level if it still is what it was. Returns the number of the change, or `None` when another daemon was first.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn change_level(
    connection: &mut Transaction,
    change: &LevelChange<'_>,
    now: DateTime<Utc>,
) -> Result<Option<i32>, StoreError> {
    let Some(from) = change.from else {
        return Ok(diesel::insert_into(alert::table)
            .values((
                alert::namespace_id.eq(change.namespace_id),
                alert::subject.eq(change.subject),
                alert::level.eq(change.to),
                alert::changed_at.eq(now),
                alert::forget_at.eq(change.forget_at),
            ))
            .on_conflict_do_nothing()
            .returning(alert::instance)
            .get_result(connection)
            .optional()?);
    };
    Ok(diesel::update(alert::table)
        .filter(alert::namespace_id.eq(change.namespace_id))
        .filter(alert::subject.eq(change.subject))
        .filter(alert::level.eq(from))
        .set((
            alert::level.eq(change.to),
            alert::instance.eq(alert::instance + 1),
            alert::changed_at.eq(now),
            alert::forget_at.eq(change.forget_at),
        ))
        .returning(alert::instance)
        .get_result(connection)
        .optional()?)
}

/// A batch that waits and that nobody has been told about lately.
#[derive(Clone, Debug, QueryableByName)]
pub struct WaitingBatch {
    /// The batch.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// Its campaign.
    #[diesel(sql_type = Text)]
    pub campaign: String,
    /// The bank it draws from.
    #[diesel(sql_type = Text)]
    pub bank: String,
    /// Its recipients list.
    #[diesel(sql_type = Text)]
    pub list: String,
    /// When it became due.
    #[diesel(sql_type = Timestamptz)]
    pub due_at: DateTime<Utc>,
    /// Why it waits, with numbers.
    #[diesel(sql_type = Text)]
    pub waiting_for: String,
    /// How often people were told; `None`: never.
    #[diesel(sql_type = Nullable<Integer>)]
    pub said: Option<i32>,
}

/// An export that is not collected and that nobody has been told about.
#[derive(Clone, Debug, QueryableByName)]
pub struct UncollectedBatch {
    /// The batch.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// When its manifest appeared.
    #[diesel(sql_type = Timestamptz)]
    pub exported_at: DateTime<Utc>,
    /// The manifest, as JSON.
    #[diesel(sql_type = Text)]
    pub manifest: String,
}

impl Store {
    /// What is remembered under `prefix`, by subject.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn remembered_alerts(
        &self,
        namespace_id: i32,
        prefix: &str,
    ) -> Result<BTreeMap<String, Remembered>, StoreError> {
        let mut connection = self.connection()?;
        // Byte order (the column's collation): `0` is the byte after `/`, with which every prefix ends.
        let rows: Vec<(String, i32, DateTime<Utc>)> = alert::table
            .filter(alert::namespace_id.eq(namespace_id))
            .filter(alert::subject.ge(prefix))
            .filter(alert::subject.lt(format!("{}0", prefix.trim_end_matches('/'))))
            .select((alert::subject, alert::level, alert::changed_at))
            .load(&mut connection)?;
        Ok(rows.into_iter().map(|(subject, level, changed_at)| (subject, Remembered { level, changed_at })).collect())
    }

    /// Forgets subjects that cannot come up again.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn forget_alerts(&self, namespace_id: i32, now: DateTime<Utc>) -> Result<(), StoreError> {
        let mut connection = self.connection()?;
        diesel::delete(alert::table)
            .filter(alert::namespace_id.eq(namespace_id))
            .filter(alert::forget_at.lt(now))
            .execute(&mut connection)?;
        Ok(())
    }

    /// Batches that wait and whose row under `batch_waiting/` is missing or was changed at `before` or earlier, oldest first.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn waiting_batches(&self, namespace_id: i32, before: DateTime<Utc>) -> Result<Vec<WaitingBatch>, StoreError> {
        let mut connection = self.connection()?;
        Ok(diesel::sql_query(
            "SELECT b.id, b.campaign, k.name AS bank, u.name AS list, b.due_at, \
                 coalesce(b.waiting_for, '') AS waiting_for, s.level AS said \
             FROM batch AS b JOIN bank AS k ON k.namespace_id = b.namespace_id AND k.id = b.bank_id \
             JOIN upload AS u ON u.namespace_id = b.namespace_id AND u.id = b.upload_id \
             LEFT JOIN (SELECT a.subject, a.level, a.changed_at FROM alert AS a WHERE a.namespace_id = $1) AS s \
                 ON s.subject = 'batch_waiting/' || b.id \
             WHERE b.namespace_id = $1 AND b.state = 'waiting' AND (s.subject IS NULL OR s.changed_at <= $2) \
             ORDER BY b.id LIMIT 100",
        )
        .bind::<Integer, _>(namespace_id)
        .bind::<Timestamptz, _>(before)
        .load(&mut connection)?)
    }

    /// Exports of a campaign since `since` that are not collected and have no row under `not_collected/`, oldest first.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn uncollected_batches(
        &self,
        namespace_id: i32,
        campaign: &str,
        since: DateTime<Utc>,
    ) -> Result<Vec<UncollectedBatch>, StoreError> {
        let mut connection = self.connection()?;
        Ok(diesel::sql_query(
            "SELECT b.id, b.exported_at, coalesce(b.manifest, '') AS manifest FROM batch AS b \
             WHERE b.namespace_id = $1 AND b.state = 'exported' AND b.exported_at >= $3 AND b.campaign = $2 \
                 AND NOT EXISTS (SELECT FROM alert AS a WHERE a.namespace_id = $1 \
                     AND a.subject = 'not_collected/' || b.id) \
             ORDER BY b.exported_at, b.id LIMIT 1000",
        )
        .bind::<Integer, _>(namespace_id)
        .bind::<Text, _>(campaign)
        .bind::<Timestamptz, _>(since)
        .load(&mut connection)?)
    }

    /// When redemption files were received since `since`, oldest first: those applied, and those on their way.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn redemption_arrivals(
        &self,
        namespace_id: i32,
        since: DateTime<Utc>,
    ) -> Result<Vec<DateTime<Utc>>, StoreError> {
        let mut connection = self.connection()?;
        let arrivals: Vec<Option<DateTime<Utc>>> = upload::table
            .filter(upload::namespace_id.eq(namespace_id))
            .filter(upload::kind.eq("redemptions"))
            .filter(upload::dry_run.eq(false))
            .filter(upload::state.eq_any(["received", "active", "deferred", "applied"]))
            .filter(upload::received_at.ge(since))
            .order(upload::received_at)
            .select(upload::received_at)
            .load(&mut connection)?;
        Ok(arrivals.into_iter().flatten().collect())
    }

    /// When the newest applied redemption file was received.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn newest_redemptions(&self, namespace_id: i32) -> Result<Option<DateTime<Utc>>, StoreError> {
        let mut connection = self.connection()?;
        Ok(upload::table
            .filter(upload::namespace_id.eq(namespace_id))
            .filter(upload::kind.eq("redemptions"))
            .filter(upload::dry_run.eq(false))
            .filter(upload::state.eq("applied"))
            .select(diesel::dsl::max(upload::received_at))
            .first(&mut connection)?)
    }

    /// Remembers how far each bank had been handed out when `day` began, if this is the first look of that day, and
    /// forgets days before `forget_before`. Returns every remembered day's count by bank.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements.
    pub fn stock_days(
        &self,
        namespace_id: i32,
        day: NaiveDate,
        handed_out: &BTreeMap<String, i64>,
        forget_before: NaiveDate,
    ) -> Result<BTreeMap<String, BTreeMap<NaiveDate, i64>>, StoreError> {
        let mut connection = self.connection()?;
        let mut days = remembered_days(&mut connection, namespace_id)?;
        let known = |days: &BTreeMap<String, BTreeMap<NaiveDate, i64>>, bank: &String| {
            days.get(bank).is_some_and(|days| days.contains_key(&day))
        };
        let new: Vec<_> = handed_out
            .iter()
            .filter(|(bank, _)| !known(&days, bank))
            .map(|(bank, handed_out)| {
                (
                    stock_day::namespace_id.eq(namespace_id),
                    stock_day::bank.eq(bank),
                    stock_day::day.eq(day),
                    stock_day::handed_out.eq(handed_out),
                )
            })
            .collect();
        if !new.is_empty() {
            diesel::insert_into(stock_day::table).values(new).on_conflict_do_nothing().execute(&mut connection)?;
            diesel::delete(stock_day::table)
                .filter(stock_day::namespace_id.eq(namespace_id))
                .filter(stock_day::day.lt(forget_before))
                .execute(&mut connection)?;
            days = remembered_days(&mut connection, namespace_id)?;
        }
        Ok(days)
    }
}

fn remembered_days(
    connection: &mut Transaction,
    namespace_id: i32,
) -> Result<BTreeMap<String, BTreeMap<NaiveDate, i64>>, StoreError> {
    let rows: Vec<(String, NaiveDate, i64)> = stock_day::table
        .filter(stock_day::namespace_id.eq(namespace_id))
        .select((stock_day::bank, stock_day::day, stock_day::handed_out))
        .load(connection)?;
    let mut days: BTreeMap<String, BTreeMap<NaiveDate, i64>> = BTreeMap::new();
    for (bank, day, handed_out) in rows {
        days.entry(bank).or_default().insert(day, handed_out);
    }
    Ok(days)
}
