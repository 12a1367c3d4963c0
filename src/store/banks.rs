//! The `bank` and `lot` tables: which banks there are, and what remains in them.
//!
//! Locks, always in this order, so that no two effects wait for each other: the namespace (coupons share it, redemptions
//! have it alone), then banks by id (coupons and draws), then lots by bank and id (redemptions and draws).

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Date, Integer, Nullable, Text, Timestamptz};

use super::{Store, StoreError, Transaction};
use crate::config::{Bank, Namespace};

/// A bank as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct KnownBank {
    /// Counts from 1 within the namespace.
    #[diesel(sql_type = Integer)]
    pub id: i32,
    /// Its name.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// `communicate` or `site`.
    #[diesel(sql_type = Text)]
    pub audience: String,
    /// Whether a customer keeps the code held.
    #[diesel(sql_type = Bool)]
    pub persistent: bool,
    /// A memory aid.
    #[diesel(sql_type = Text)]
    pub offer_type: String,
}

/// What remains in one bank with one end date.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Stock {
    /// The bank.
    #[diesel(sql_type = Text)]
    pub bank: String,
    /// Last day of the window; `None`: never ends, or the bank has no lot.
    #[diesel(sql_type = Nullable<Date>)]
    pub end_date: Option<NaiveDate>,
    /// Codes ever added.
    #[diesel(sql_type = BigInt)]
    pub size: i64,
    /// Of these, codes that were void before anybody was given them.
    #[diesel(sql_type = BigInt)]
    pub void: i64,
    /// Codes handed out, or skipped because they were redeemed; what came back is in stock again.
    #[diesel(sql_type = BigInt)]
    pub handed_out: i64,
    /// Codes that can still be handed out; 0 once the window is over.
    #[diesel(sql_type = BigInt)]
    pub remaining: i64,
    /// Whether the window is open.
    #[diesel(sql_type = Bool)]
    pub open: bool,
}

/// Codes of the lot `l` that are neither handed out nor redeemed: of those never handed out, and of those that came back.
/// While its window is open and it is not void, that is what remains. The one place where counts in SQL get it from.
pub(super) const WAITING: &str =
    "(l.size - l.next_seq - l.redeemed_ahead + l.returns - l.next_return - l.returns_redeemed)";

/// A declared bank differs from what its codes were handed out under.
#[derive(Debug, thiserror::Error)]
#[error(
    "use bank `{bank}` with `{key} = {configured}`: it has codes that were handed out under `{key} = {stored}`; \
     declare a new bank instead"
)]
pub struct BankChanged {
    /// The bank.
    pub bank: String,
    /// The key in its configuration.
    pub key: &'static str,
    /// What the configuration says now.
    pub configured: String,
    /// What the store holds.
    pub stored: String,
}

impl Store {
    /// Makes the declared banks of `namespace` known to the store. Returns what cannot be changed any more.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements.
    pub fn ensure_banks(&self, namespace: &Namespace, now: DateTime<Utc>) -> Result<Vec<BankChanged>, StoreError> {
        let namespace_id = self.namespace_id(&namespace.name)?;
        let mut changed = Vec::new();
        for bank in namespace.banks.values() {
            let mut connection = self.connection()?;
            let known = connection.transaction(|connection| ensure(connection, namespace_id, bank, now))?;
            let differs = |key, configured: String, stored: String| BankChanged {
                bank: bank.name.to_string(),
                key,
                configured,
                stored,
            };
            if known.persistent != bank.persistent {
                changed.push(differs("persistent", bank.persistent.to_string(), known.persistent.to_string()));
            }
            if known.audience != bank.audience.as_str() {
                changed.push(differs("audience", bank.audience.as_str().to_owned(), known.audience.clone()));
            }
        }
        Ok(changed)
    }

    /// Every bank of the namespace, by name.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn banks(&self, namespace_id: i32) -> Result<Vec<KnownBank>, StoreError> {
        every(&mut *self.connection()?, namespace_id)
    }

    /// Stock per bank and end date, earliest end date first, none last. `open_from` is the smallest end date whose
    /// window is still open.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn stock(&self, namespace_id: i32, open_from: NaiveDate) -> Result<Vec<Stock>, StoreError> {
        let mut connection = self.connection()?;
        Ok(diesel::sql_query(format!(
            "SELECT b.name AS bank, l.end_date, coalesce(sum(l.size), 0)::bigint AS size, \
                 coalesce(sum(l.size - l.next_seq) FILTER (WHERE l.voided_at IS NOT NULL), 0)::bigint AS void, \
                 coalesce(sum(l.size - l.redeemed_ahead - {WAITING}), 0)::bigint AS handed_out, \
                 coalesce(sum{WAITING} FILTER (WHERE l.voided_at IS NULL \
                     AND (l.end_date IS NULL OR l.end_date >= $2)), 0)::bigint AS remaining, \
                 (l.end_date IS NULL OR l.end_date >= $2) AS open \
             FROM bank AS b LEFT JOIN lot AS l ON l.namespace_id = b.namespace_id AND l.bank_id = b.id \
             WHERE b.namespace_id = $1 GROUP BY b.name, l.end_date ORDER BY b.name, l.end_date NULLS LAST",
        ))
        .bind::<Integer, _>(namespace_id)
        .bind::<Date, _>(open_from)
        .load(&mut connection)?)
    }
}

fn ensure(
    connection: &mut Transaction,
    namespace_id: i32,
    bank: &Bank,
    now: DateTime<Utc>,
) -> Result<KnownBank, StoreError> {
    if let Some(known) = find(connection, namespace_id, bank.name.as_str())? {
        // Until its first code nothing was promised under the old settings.
        return Ok(diesel::sql_query(
            "UPDATE bank SET audience = CASE lots WHEN 0 THEN $3 ELSE audience END, \
                 persistent = CASE lots WHEN 0 THEN $4 ELSE persistent END, offer_type = $5 \
             WHERE namespace_id = $1 AND id = $2 RETURNING id, name, audience, persistent, offer_type",
        )
        .bind::<Integer, _>(namespace_id)
        .bind::<Integer, _>(known.id)
        .bind::<Text, _>(bank.audience.as_str())
        .bind::<Bool, _>(bank.persistent)
        .bind::<Text, _>(bank.offer_type.as_str())
        .get_result(connection)?);
    }
    let new = NewBank {
        name: bank.name.as_str(),
        audience: bank.audience.as_str(),
        persistent: bank.persistent,
        offer_type: bank.offer_type.as_str(),
        created_by_upload: None,
    };
    create(connection, namespace_id, &new, now)
}

/// Every bank of the namespace, by name.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn every(connection: &mut Transaction, namespace_id: i32) -> Result<Vec<KnownBank>, StoreError> {
    Ok(diesel::sql_query(
        "SELECT id, name, audience, persistent, offer_type FROM bank WHERE namespace_id = $1 ORDER BY name",
    )
    .bind::<Integer, _>(namespace_id)
    .load(connection)?)
}

/// The bank called `name`, if there is one.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn find(connection: &mut Transaction, namespace_id: i32, name: &str) -> Result<Option<KnownBank>, StoreError> {
    Ok(diesel::sql_query(
        "SELECT id, name, audience, persistent, offer_type FROM bank WHERE namespace_id = $1 AND name = $2",
    )
    .bind::<Integer, _>(namespace_id)
    .bind::<Text, _>(name)
    .get_result(connection)
    .optional()?)
}

/// A bank to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewBank<'a> {
    /// Its name.
    pub name: &'a str,
    /// `communicate` or `site`.
    pub audience: &'a str,
    /// Whether a customer keeps the code held.
    pub persistent: bool,
    /// A memory aid.
    pub offer_type: &'a str,
    /// The upload that named it first; `None`: declared.
    pub created_by_upload: Option<i64>,
}

/// Makes a bank. Ids count from 1 within the namespace; two daemons that make one at once do it one after the other.
///
/// # Errors
/// Any [`StoreError`] of the statements; a unique violation when another has just made it: look again.
pub fn create(
    connection: &mut Transaction,
    namespace_id: i32,
    bank: &NewBank<'_>,
    now: DateTime<Utc>,
) -> Result<KnownBank, StoreError> {
    Ok(diesel::sql_query(
        "INSERT INTO bank AS b (namespace_id, id, name, audience, persistent, offer_type, created_by_upload, created_at) \
         SELECT $1, coalesce(max(id), 0) + 1, $2, $3, $4, $5, $6, $7 FROM bank WHERE namespace_id = $1 \
         RETURNING b.id, b.name, b.audience, b.persistent, b.offer_type",
    )
    .bind::<Integer, _>(namespace_id)
    .bind::<Text, _>(bank.name)
    .bind::<Text, _>(bank.audience)
    .bind::<Bool, _>(bank.persistent)
    .bind::<Text, _>(bank.offer_type)
    .bind::<Nullable<BigInt>, _>(bank.created_by_upload)
    .bind::<Timestamptz, _>(now)
    .get_result(connection)?)
}

/// How two effects on one namespace exclude each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceLock {
    /// Coupons: several at once, but none beside redemptions.
    Shared,
    /// Redemptions and recipients: alone.
    Alone,
}

/// Locks the namespace until the transaction ends. Without it, a code uploaded and redeemed at the same moment would be
/// counted as stock for ever: neither transaction sees the other's row.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn lock_namespace(connection: &mut Transaction, namespace_id: i32, lock: NamespaceLock) -> Result<(), StoreError> {
    let statement = match lock {
        NamespaceLock::Shared => "SELECT id FROM namespace WHERE id = $1 FOR SHARE",
        NamespaceLock::Alone => "SELECT id FROM namespace WHERE id = $1 FOR NO KEY UPDATE",
    };
    diesel::sql_query(statement).bind::<Integer, _>(namespace_id).execute(connection)?;
    Ok(())
}

/// Locks banks, by id, until the transaction ends.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn lock_banks(connection: &mut Transaction, namespace_id: i32, ids: &[i32]) -> Result<(), StoreError> {
    diesel::sql_query("SELECT id FROM bank WHERE namespace_id = $1 AND id = ANY($2) ORDER BY id FOR NO KEY UPDATE")
        .bind::<Integer, _>(namespace_id)
        .bind::<Array<Integer>, _>(ids)
        .execute(connection)?;
    Ok(())
}

/// What remains per bank: the predicate of counts, alerts, preflight and draw. Banks without lots remain 0.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn remaining(
    connection: &mut Transaction,
    namespace_id: i32,
    open_from: NaiveDate,
) -> Result<Vec<(i32, i64)>, StoreError> {
    #[derive(QueryableByName)]
    struct Remaining {
        #[diesel(sql_type = Integer)]
        bank_id: i32,
        #[diesel(sql_type = BigInt)]
        remaining: i64,
    }
    let remaining: Vec<Remaining> = diesel::sql_query(format!(
        "SELECT l.bank_id, sum{WAITING}::bigint AS remaining FROM lot AS l \
         WHERE l.namespace_id = $1 AND l.voided_at IS NULL AND (l.end_date IS NULL OR l.end_date >= $2) \
         GROUP BY l.bank_id",
    ))
    .bind::<Integer, _>(namespace_id)
    .bind::<Date, _>(open_from)
    .load(connection)?;
    Ok(remaining.into_iter().map(|row| (row.bank_id, row.remaining)).collect())
}
