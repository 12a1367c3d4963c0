//! The `mail` table: the outbox of alerts, one row a recipient.
//!
//! ```text
//! waiting --claim--> claimed --sent--> sent
//!    ^                  |----withdrawn--> withdrawn
//!    +------failed------+   (or the lease lapses: whoever had it is gone)
//! ```
//! A claim is a lease with a fencing number, taken in a short transaction of its own; the conversation with the mail
//! server runs outside any. Rows are written in the transaction that remembers the alert ([`super::alerts`]).

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Nullable, Text, Timestamptz};

use super::schema::mail;
use super::{Store, StoreError, Transaction};

/// A mail to be written into the outbox.
#[derive(Clone, Debug, Insertable)]
#[diesel(table_name = mail)]
pub struct NewMail<'a> {
    /// Its namespace.
    pub namespace_id: i32,
    /// The alert's subject and instance.
    pub alert_key: &'a str,
    /// One address.
    pub recipient: &'a str,
    /// The same in every attempt.
    pub message_id: &'a str,
    /// Its subject line.
    pub subject: &'a str,
    /// Its text part.
    pub text_body: &'a str,
    /// Its HTML part.
    pub html_body: &'a str,
    /// Its Date.
    pub created_at: DateTime<Utc>,
}

/// A mail that this daemon sends under a lease.
#[derive(Clone, Debug, QueryableByName)]
pub struct ClaimedMail {
    /// Its namespace.
    #[diesel(sql_type = Integer)]
    pub namespace_id: i32,
    /// Its id.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// The fencing number of this claim.
    #[diesel(sql_type = BigInt)]
    pub fence: i64,
    /// Attempts so far, this one included.
    #[diesel(sql_type = Integer)]
    pub attempts: i32,
    /// The alert's subject and instance.
    #[diesel(sql_type = Text)]
    pub alert_key: String,
    /// One address.
    #[diesel(sql_type = Text)]
    pub recipient: String,
    /// The same in every attempt.
    #[diesel(sql_type = Text)]
    pub message_id: String,
    /// Its subject line.
    #[diesel(sql_type = Text)]
    pub subject: String,
    /// Its text part.
    #[diesel(sql_type = Text)]
    pub text_body: String,
    /// Its HTML part.
    #[diesel(sql_type = Text)]
    pub html_body: String,
    /// Its Date.
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
}

/// Writes mails into the outbox, inside the transaction that remembers their alert. One that is there already is left
/// as it is.
///
/// # Errors
/// Any [`StoreError`] of the statement.
pub fn put(connection: &mut Transaction, mails: &[NewMail<'_>]) -> Result<(), StoreError> {
    diesel::insert_into(mail::table).values(mails).on_conflict_do_nothing().execute(connection)?;
    Ok(())
}

impl Store {
    /// waiting | claimed with a lapsed lease -> claimed: the oldest such mail of the namespace, if any.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn claim_mail(
        &self,
        namespace_id: i32,
        now: DateTime<Utc>,
        lease_until: DateTime<Utc>,
    ) -> Result<Option<ClaimedMail>, StoreError> {
        let mut connection = self.connection()?;
        Ok(diesel::sql_query(
            "UPDATE mail SET fence = fence + 1, attempts = attempts + 1, lease_until = $3 \
             WHERE namespace_id = $1 AND id = ( \
                 SELECT id FROM mail WHERE namespace_id = $1 AND sent_at IS NULL AND withdrawn_at IS NULL \
                     AND (retry_at IS NULL OR retry_at <= $2) AND (lease_until IS NULL OR lease_until < $2) \
                 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) \
             RETURNING namespace_id, id, fence, attempts, alert_key, recipient, message_id, subject, text_body, \
                 html_body, created_at",
        )
        .bind::<Integer, _>(namespace_id)
        .bind::<Timestamptz, _>(now)
        .bind::<Timestamptz, _>(lease_until)
        .get_result(&mut connection)
        .optional()?)
    }

    /// claimed -> sent: the mail server has taken it over. `false`: the lease was lost meanwhile.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn mail_sent(&self, claimed: &ClaimedMail, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let mut connection = self.connection()?;
        let sent: Option<i64> = diesel::update(held(claimed))
            .set((
                mail::sent_at.eq(now),
                mail::lease_until.eq(None::<DateTime<Utc>>),
                mail::retry_at.eq(None::<DateTime<Utc>>),
                mail::last_error.eq(None::<String>),
            ))
            .returning(mail::id)
            .get_result(&mut connection)
            .optional()?;
        Ok(sent.is_some())
    }

    /// claimed -> waiting: tried again at `retry_at`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn mail_failed(&self, claimed: &ClaimedMail, error: &str, retry_at: DateTime<Utc>) -> Result<(), StoreError> {
        let mut connection = self.connection()?;
        diesel::update(held(claimed))
            .set((mail::retry_at.eq(retry_at), mail::last_error.eq(error), mail::lease_until.eq(None::<DateTime<Utc>>)))
            .execute(&mut connection)?;
        Ok(())
    }

    /// claimed -> withdrawn: its recipient is not to be told any more.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn withdraw_mail(&self, claimed: &ClaimedMail, now: DateTime<Utc>) -> Result<(), StoreError> {
        let mut connection = self.connection()?;
        diesel::update(held(claimed))
            .set((mail::withdrawn_at.eq(now), mail::lease_until.eq(None::<DateTime<Utc>>)))
            .execute(&mut connection)?;
        Ok(())
    }

    /// When the next mail of the namespace can be claimed, seen from `now`; `None`: the outbox is empty.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn next_mail(&self, namespace_id: i32, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, StoreError> {
        #[derive(QueryableByName)]
        struct Next {
            #[diesel(sql_type = Nullable<Timestamptz>)]
            at: Option<DateTime<Utc>>,
        }
        let mut connection = self.connection()?;
        let next: Next = diesel::sql_query(
            "SELECT min(greatest(retry_at, lease_until, $2)) AS at FROM mail \
             WHERE namespace_id = $1 AND sent_at IS NULL AND withdrawn_at IS NULL",
        )
        .bind::<Integer, _>(namespace_id)
        .bind::<Timestamptz, _>(now)
        .get_result(&mut connection)?;
        Ok(next.at)
    }

    /// Forgets mails that were sent or withdrawn before `before`.
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn forget_mails(&self, namespace_id: i32, before: DateTime<Utc>) -> Result<(), StoreError> {
        let mut connection = self.connection()?;
        diesel::sql_query("DELETE FROM mail WHERE namespace_id = $1 AND (sent_at < $2 OR withdrawn_at < $2)")
            .bind::<Integer, _>(namespace_id)
            .bind::<Timestamptz, _>(before)
            .execute(&mut connection)?;
        Ok(())
    }
}

/// The mail, as long as the claim still stands.
#[diesel::dsl::auto_type(no_type_alias)]
fn held<'a>(claimed: &'a ClaimedMail) -> _ {
    let namespace_id: i32 = claimed.namespace_id;
    let id: i64 = claimed.id;
    let fence: i64 = claimed.fence;
    mail::table
        .filter(mail::namespace_id.eq(namespace_id))
        .filter(mail::id.eq(id))
        .filter(mail::fence.eq(fence))
        .filter(mail::sent_at.is_null())
}
