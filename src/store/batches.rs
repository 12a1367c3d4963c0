//! The `batch` table: which lists make a batch, who works on one, and how far it is.
//!
//! A claim is a lease with a fencing number, taken in a short transaction of its own. Every later change names the fence
//! it was claimed with and does nothing under another: [`StoreError::LeaseLost`].

use chrono::{DateTime, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Date, Integer, Nullable, Text, Timestamptz};

use super::schema::{batch, upload};
use super::{Connection, Store, StoreError};

/// An accepted recipients list that has no batch yet.
#[derive(Clone, Debug, PartialEq, Eq, Queryable)]
pub struct PendingList {
    /// Its upload.
    pub upload_id: i64,
    /// The campaign whose directory it was put in.
    pub campaign: String,
    /// Its file name.
    pub name: String,
    /// When it was complete and durable.
    pub received_at: DateTime<Utc>,
}

/// A batch to be made.
#[derive(Clone, Debug)]
pub struct NewBatch<'a> {
    /// Its campaign.
    pub campaign: &'a str,
    /// Its bank: name, audience, persistence, offer type, for a bank that no upload has made known yet.
    pub bank: &'a crate::config::Bank,
    /// The campaign's channel.
    pub channel: &'a str,
    /// Its recipients list.
    pub upload_id: i64,
    /// The local date of its firing or arrival.
    pub business_date: NaiveDate,
    /// The instant of its firing or arrival.
    pub due_at: DateTime<Utc>,
    /// Whether it is a test send.
    pub proof: bool,
}

/// How far a claimed batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was handed out yet.
    Due,
    /// Nothing was handed out yet, and the reason stands in the row.
    Waiting,
    /// Its assignments are recorded; its files are not all published.
    Assigned,
}

/// What names a claim in every later change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The namespace.
    pub namespace_id: i32,
    /// The batch.
    pub id: i64,
    /// The number it was claimed with.
    pub fence: i64,
}

/// A claimed batch as its row stands.
#[derive(Clone, Debug)]
pub struct ClaimedBatch {
    /// The claim.
    pub claim: Claim,
    /// How far it is.
    pub progress: Progress,
    /// Its campaign.
    pub campaign: String,
    /// Its channel.
    pub channel: String,
    /// Its bank's id.
    pub bank_id: i32,
    /// Its bank's name.
    pub bank: String,
    /// Whether customers keep the bank's codes.
    pub persistent: bool,
    /// Its recipients list.
    pub upload_id: i64,
    /// That list's file name.
    pub list_name: String,
    /// The local date of its firing or arrival.
    pub business_date: NaiveDate,
    /// Whether it is a test send.
    pub proof: bool,
    /// Set from `assigned` on: the instant at which windows were judged.
    pub send_at: Option<DateTime<Utc>>,
    /// Set from `assigned` on: when that was.
    pub assigned_at: Option<DateTime<Utc>>,
    /// The bank's draw number, from `assigned` on; none for a proof.
    pub draw: Option<i32>,
    /// The channel in its assignments, from `assigned` on; none for a proof.
    pub hold_channel: Option<String>,
    /// When the newest redemption file known then was received.
    pub redemptions_as_of: Option<DateTime<Utc>>,
    /// Need and stock when last compared.
    pub compared: Option<(i64, i64)>,
    /// The manifest, once its files are complete.
    pub manifest: Option<String>,
}

#[derive(QueryableByName)]
struct ClaimedRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = BigInt)]
    fence: i64,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Text)]
    campaign: String,
    #[diesel(sql_type = Text)]
    channel: String,
    #[diesel(sql_type = Integer)]
    bank_id: i32,
    #[diesel(sql_type = Text)]
    bank: String,
    #[diesel(sql_type = Bool)]
    persistent: bool,
    #[diesel(sql_type = BigInt)]
    upload_id: i64,
    #[diesel(sql_type = Text)]
    list_name: String,
    #[diesel(sql_type = Date)]
    business_date: NaiveDate,
    #[diesel(sql_type = Bool)]
    proof: bool,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    send_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    assigned_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Integer>)]
    draw: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    hold_channel: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    redemptions_as_of: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<BigInt>)]
    need: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    stock: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    manifest: Option<String>,
}

impl ClaimedRow {
    fn into_batch(self, namespace_id: i32) -> ClaimedBatch {
        ClaimedBatch {
            claim: Claim { namespace_id, id: self.id, fence: self.fence },
            progress: match self.state.as_str() {
                "due" => Progress::Due,
                "waiting" => Progress::Waiting,
                _ => Progress::Assigned,
            },
            campaign: self.campaign,
            channel: self.channel,
            bank_id: self.bank_id,
            bank: self.bank,
            persistent: self.persistent,
            upload_id: self.upload_id,
            list_name: self.list_name,
            business_date: self.business_date,
            proof: self.proof,
            send_at: self.send_at,
            assigned_at: self.assigned_at,
            draw: self.draw,
            hold_channel: self.hold_channel,
            redemptions_as_of: self.redemptions_as_of,
            compared: self.need.zip(self.stock),
            manifest: self.manifest,
        }
    }
}

/// The oldest open batch that nobody holds. Locked rows are skipped, so that several workers take different ones.
/// Until it is assigned, a batch comes after every older one of its bank that is worked on or could be: two workers must
/// not turn the order of lists around.
const CLAIM: &str = "
WITH pick AS (
    SELECT b.id FROM batch b
    WHERE b.namespace_id = $1 AND b.state IN ('due', 'waiting', 'assigned')
      AND (b.lease_until IS NULL OR b.lease_until <= $2) AND (b.retry_at IS NULL OR b.retry_at <= $2)
      AND (b.state = 'assigned' OR NOT EXISTS (
          SELECT FROM batch o WHERE o.namespace_id = $1 AND o.bank_id = b.bank_id AND o.state IN ('due', 'waiting')
            AND (o.business_date, o.id) < (b.business_date, b.id) AND (o.retry_at IS NULL OR o.retry_at <= $2)))
    ORDER BY b.business_date, b.id LIMIT 1 FOR UPDATE SKIP LOCKED)
UPDATE batch AS b SET fence = b.fence + 1, lease_until = $3, retry_at = NULL
FROM pick, bank k, upload u
WHERE b.namespace_id = $1 AND b.id = pick.id
  AND k.namespace_id = $1 AND k.id = b.bank_id AND u.namespace_id = $1 AND u.id = b.upload_id
RETURNING b.id, b.fence, b.state, b.campaign, b.channel, b.bank_id, k.name AS bank, k.persistent, b.upload_id,
    u.name AS list_name, b.business_date, b.proof, b.send_at, b.assigned_at, b.draw, b.hold_channel,
    b.redemptions_as_of, b.need, b.stock, b.manifest";

const CLAIMED: &str = "
SELECT b.id, b.fence, b.state, b.campaign, b.channel, b.bank_id, k.name AS bank, k.persistent, b.upload_id,
    u.name AS list_name, b.business_date, b.proof, b.send_at, b.assigned_at, b.draw, b.hold_channel,
    b.redemptions_as_of, b.need, b.stock, b.manifest
FROM batch b, bank k, upload u
WHERE b.namespace_id = $1 AND b.id = $2 AND b.fence = $3
  AND k.namespace_id = $1 AND k.id = b.bank_id AND u.namespace_id = $1 AND u.id = b.upload_id";

/// Ids count from 1 within the namespace; another daemon that makes a bank at the same moment wins, and is read next.
const KNOW_BANK: &str = "
INSERT INTO bank AS b (namespace_id, id, name, audience, persistent, offer_type, created_at)
SELECT $1, coalesce(max(o.id), 0) + 1, $2, $3, $4, $5, $6 FROM bank o WHERE o.namespace_id = $1
ON CONFLICT DO NOTHING";

impl Store {
    /// Accepted recipients lists without a batch, oldest first.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn pending_lists(&self, namespace_id: i32) -> Result<Vec<PendingList>, StoreError> {
        let batched = batch::table
            .filter(batch::namespace_id.eq(namespace_id))
            .filter(batch::upload_id.eq(upload::id))
            .select(batch::id);
        Ok(upload::table
            .filter(upload::namespace_id.eq(namespace_id))
            .filter(upload::kind.eq("recipients"))
            .filter(upload::state.eq("applied"))
            .filter(upload::dry_run.eq(false))
            .filter(upload::returns_batch.is_null())
            .filter(diesel::dsl::not(diesel::dsl::exists(batched)))
            .order((upload::received_at, upload::id))
            .select((
                upload::id,
                upload::target,
                upload::name,
                diesel::dsl::sql::<Timestamptz>("coalesce(received_at, created_at)"),
            ))
            .load(&mut self.connection()?)?)
    }

    /// Makes a batch; `None` when its list has one already.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statements.
    pub fn make_batch(
        &self,
        namespace_id: i32,
        new: &NewBatch<'_>,
        now: DateTime<Utc>,
    ) -> Result<Option<i64>, StoreError> {
        let mut connection = self.connection()?;
        let bank_id = know_bank(&mut connection, namespace_id, new.bank, now)?;
        Ok(diesel::insert_into(batch::table)
            .values((
                batch::namespace_id.eq(namespace_id),
                batch::campaign.eq(new.campaign),
                batch::bank_id.eq(bank_id),
                batch::channel.eq(new.channel),
                batch::upload_id.eq(new.upload_id),
                batch::business_date.eq(new.business_date),
                batch::proof.eq(new.proof),
                batch::state.eq("due"),
                batch::due_at.eq(new.due_at),
                batch::created_at.eq(now),
            ))
            .on_conflict_do_nothing()
            .returning(batch::id)
            .get_result(&mut connection)
            .optional()?)
    }

    /// Claims the oldest open batch of the namespace that nobody holds and that is not put off beyond `now`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn claim_batch(
        &self,
        namespace_id: i32,
        now: DateTime<Utc>,
        lease_until: DateTime<Utc>,
    ) -> Result<Option<ClaimedBatch>, StoreError> {
        let row: Option<ClaimedRow> = diesel::sql_query(CLAIM)
            .bind::<Integer, _>(namespace_id)
            .bind::<Timestamptz, _>(now)
            .bind::<Timestamptz, _>(lease_until)
            .get_result(&mut self.connection()?)
            .optional()?;
        Ok(row.map(|row| row.into_batch(namespace_id)))
    }

    /// The claimed batch as its row stands now.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], or any other of the statement.
    pub fn claimed_batch(&self, claim: Claim) -> Result<ClaimedBatch, StoreError> {
        let row: Option<ClaimedRow> = diesel::sql_query(CLAIMED)
            .bind::<Integer, _>(claim.namespace_id)
            .bind::<BigInt, _>(claim.id)
            .bind::<BigInt, _>(claim.fence)
            .get_result(&mut self.connection()?)
            .optional()?;
        row.map(|row| row.into_batch(claim.namespace_id)).ok_or(StoreError::LeaseLost { what: "batch", id: claim.id })
    }

    /// Holds the claim until `lease_until`.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], or any other of the statement.
    pub fn renew_batch(&self, claim: Claim, lease_until: DateTime<Utc>) -> Result<(), StoreError> {
        let changed = diesel::update(held(claim))
            .set(batch::lease_until.eq(lease_until))
            .returning(batch::id)
            .get_result::<i64>(&mut self.connection()?);
        kept(claim, changed)
    }

    /// Due or waiting to waiting, with the reason in words and numbers; gives the claim up.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], or any other of the statement.
    pub fn batch_waits(
        &self,
        claim: Claim,
        waiting_for: &str,
        compared: Option<(i64, i64)>,
        retry_at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let changed = diesel::update(held(claim).filter(batch::state.eq_any(["due", "waiting"])))
            .set((
                batch::state.eq("waiting"),
                batch::waiting_for.eq(waiting_for),
                batch::need.eq(compared.map(|(need, _)| need)),
                batch::stock.eq(compared.map(|(_, stock)| stock)),
                batch::retry_at.eq(retry_at),
                batch::lease_until.eq(None::<DateTime<Utc>>),
            ))
            .returning(batch::id)
            .get_result::<i64>(&mut self.connection()?);
        kept(claim, changed)
    }

    /// Leaves the batch in its state, says why, and gives the claim up until `retry_at`.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], or any other of the statement.
    pub fn put_batch_off(&self, claim: Claim, why: &str, retry_at: DateTime<Utc>) -> Result<(), StoreError> {
        let changed = diesel::update(held(claim))
            .set((
                batch::waiting_for.eq(why),
                batch::retry_at.eq(retry_at),
                batch::lease_until.eq(None::<DateTime<Utc>>),
            ))
            .returning(batch::id)
            .get_result::<i64>(&mut self.connection()?);
        kept(claim, changed)
    }

    /// Due or waiting to assigned, for a proof: nothing is drawn.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], or any other of the statements.
    pub fn assign_proof(&self, claim: Claim, now: DateTime<Utc>, send_at: DateTime<Utc>) -> Result<(), StoreError> {
        let mut connection = self.connection()?;
        let as_of = redemptions_as_of(&mut connection, claim.namespace_id)?;
        let changed = diesel::update(held(claim).filter(batch::state.eq_any(["due", "waiting"])))
            .set((
                batch::state.eq("assigned"),
                batch::send_at.eq(send_at),
                batch::assigned_at.eq(now),
                batch::redemptions_as_of.eq(as_of),
                batch::waiting_for.eq(None::<String>),
            ))
            .returning(batch::id)
            .get_result::<i64>(&mut connection);
        kept(claim, changed)
    }

    /// Records the manifest of an assigned batch whose files are complete and not yet published.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], or any other of the statement.
    pub fn record_manifest(&self, claim: Claim, manifest: &str) -> Result<(), StoreError> {
        let changed = diesel::update(held(claim).filter(batch::state.eq("assigned")))
            .set(batch::manifest.eq(manifest))
            .returning(batch::id)
            .get_result::<i64>(&mut self.connection()?);
        kept(claim, changed)
    }

    /// Assigned to exported: the manifest has appeared.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], or any other of the statement.
    pub fn batch_exported(&self, claim: Claim, now: DateTime<Utc>) -> Result<(), StoreError> {
        let changed = diesel::update(held(claim).filter(batch::state.eq("assigned")))
            .set((
                batch::state.eq("exported"),
                batch::exported_at.eq(now),
                batch::waiting_for.eq(None::<String>),
                batch::lease_until.eq(None::<DateTime<Utc>>),
            ))
            .returning(batch::id)
            .get_result::<i64>(&mut self.connection()?);
        kept(claim, changed)
    }

    /// When the next open batch may be claimed: its put-off or another's lease ends. `None` when no batch is open.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn next_batch_at(&self, namespace_id: i32) -> Result<Option<DateTime<Utc>>, StoreError> {
        let at = diesel::dsl::sql::<Timestamptz>("coalesce(greatest(lease_until, retry_at), created_at)");
        Ok(batch::table
            .filter(batch::namespace_id.eq(namespace_id))
            .filter(batch::state.eq_any(["due", "waiting", "assigned"]))
            .select(at)
            .order(diesel::dsl::sql::<Timestamptz>("1"))
            .first(&mut self.connection()?)
            .optional()?)
    }

    /// When the newest applied redemption file of the namespace was received.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn redemptions_as_of(&self, namespace_id: i32) -> Result<Option<DateTime<Utc>>, StoreError> {
        Ok(redemptions_as_of(&mut *self.connection()?, namespace_id)?)
    }
}

pub(super) fn redemptions_as_of(
    connection: &mut PgConnection,
    namespace_id: i32,
) -> QueryResult<Option<DateTime<Utc>>> {
    upload::table
        .filter(upload::namespace_id.eq(namespace_id))
        .filter(upload::kind.eq("redemptions"))
        .filter(upload::state.eq("applied"))
        .filter(upload::dry_run.eq(false))
        .select(diesel::dsl::max(upload::received_at))
        .first(connection)
}

type Held = diesel::helper_types::Filter<
    diesel::helper_types::Filter<
        diesel::helper_types::Filter<batch::table, diesel::dsl::Eq<batch::namespace_id, i32>>,
        diesel::dsl::Eq<batch::id, i64>,
    >,
    diesel::dsl::Eq<batch::fence, i64>,
>;

fn held(claim: Claim) -> Held {
    batch::table
        .filter(batch::namespace_id.eq(claim.namespace_id))
        .filter(batch::id.eq(claim.id))
        .filter(batch::fence.eq(claim.fence))
}

/// An update that found no row: the batch was claimed again, or has left the state.
pub(super) fn kept(claim: Claim, changed: QueryResult<i64>) -> Result<(), StoreError> {
    match changed.optional()? {
        Some(_) => Ok(()),
        None => Err(StoreError::LeaseLost { what: "batch", id: claim.id }),
    }
}

fn know_bank(
    connection: &mut Connection,
    namespace_id: i32,
    bank: &crate::config::Bank,
    now: DateTime<Utc>,
) -> Result<i32, StoreError> {
    use super::schema::bank as table;
    let name = bank.name.as_str();
    let known =
        table::table.filter(table::namespace_id.eq(namespace_id)).filter(table::name.eq(name)).select(table::id);
    // Twice, because a bank of another name may have taken the same new id.
    for _ in 0..5 {
        if let Some(id) = known.first(connection).optional()? {
            return Ok(id);
        }
        diesel::sql_query(KNOW_BANK)
            .bind::<Integer, _>(namespace_id)
            .bind::<Text, _>(name)
            .bind::<Text, _>(bank.audience.as_str())
            .bind::<Bool, _>(bank.persistent)
            .bind::<Text, _>(bank.offer_type.as_str())
            .bind::<Timestamptz, _>(now)
            .execute(connection)?;
    }
    Err(StoreError::Missing { what: format!("bank `{name}`") })
}
