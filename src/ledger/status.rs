//! How a namespace stands: its feeds, its queues, what waits and why, what comes next, what runs low.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::batches::Batch;
use super::{Desk, LedgerError};
use crate::config::{Audience, Schedule};
use crate::schedule::first_firing;
use crate::spool::Kind;
use crate::store::ledger::batches::BatchFilter;

/// A namespace at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The namespace.
    pub namespace: String,
    /// A line per kind of file.
    pub feeds: Vec<Feed>,
    /// Uploads without a last word, by state.
    pub queues: Vec<Queue>,
    /// Batches that are not exported.
    pub batches: Vec<Batch>,
    /// When each campaign runs next.
    pub campaigns: Vec<Next>,
    /// What each bank has left.
    pub banks: Vec<Level>,
}

/// The last file of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Feed {
    /// The kind.
    pub kind: &'static str,
    /// Its last file; none: never one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<LastFile>,
    /// When the newest one that was applied was received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<DateTime<Utc>>,
    /// Whether the newest applied one is older than the namespace allows.
    pub stale: bool,
}

/// A file with its verdict.
#[derive(Clone, Debug, Serialize)]
pub struct LastFile {
    /// Its upload.
    pub upload_id: i64,
    /// Its name.
    pub name: String,
    /// Its verdict.
    pub state: String,
    /// When it was complete.
    pub received_at: Option<DateTime<Utc>>,
}

/// Uploads in one state.
#[derive(Clone, Debug, Serialize)]
pub struct Queue {
    /// The state.
    pub state: String,
    /// How many.
    pub uploads: i64,
    /// When the oldest began.
    pub oldest: DateTime<Utc>,
}

/// When a campaign runs next.
#[derive(Clone, Debug, Serialize)]
pub struct Next {
    /// The campaign.
    pub campaign: String,
    /// Its schedule.
    pub schedule: String,
    /// The next firing; none: on arrival, or never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// Accepted lists that wait for it.
    pub lists: Vec<String>,
}

/// What a bank has left.
#[derive(Clone, Debug, Serialize)]
pub struct Level {
    /// The bank.
    pub bank: String,
    /// Codes that can be handed out.
    pub remaining: i64,
    /// Where its alerts begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low_stock: Option<u64>,
    /// Whether it is at or below that, or empty while a campaign uses it.
    pub low: bool,
}

impl Desk<'_> {
    /// How the namespace stands.
    ///
    /// # Errors
    /// Any error of the store.
    pub fn status(&self) -> Result<Status, LedgerError> {
        let queues = self.store.queues(self.namespace_id)?;
        Ok(Status {
            namespace: self.namespace.name.to_string(),
            feeds: self.feeds()?,
            queues: queues
                .into_iter()
                .map(|queue| Queue { state: queue.state, uploads: queue.uploads, oldest: queue.oldest })
                .collect(),
            batches: self.batches(&BatchFilter { open: true, limit: 1_000, ..BatchFilter::default() })?,
            campaigns: self.campaigns()?,
            banks: self.levels()?,
        })
    }

    fn feeds(&self) -> Result<Vec<Feed>, LedgerError> {
        let mut last = self.store.last_files(self.namespace_id)?;
        let max_age = self.namespace.redemptions.max_age.and_then(|age| TimeDelta::from_std(age).ok());
        let feed = |kind: Kind| {
            let found = last.iter().position(|file| file.kind == kind.as_str()).map(|place| last.swap_remove(place));
            let applied_at = found.as_ref().and_then(|file| file.applied_at);
            let too_old = |max_age| applied_at.is_none_or(|at| self.now.signed_duration_since(at) > max_age);
            Feed {
                kind: kind.as_str(),
                stale: kind == Kind::Redemptions && max_age.is_some_and(too_old),
                applied_at,
                last: found.map(|file| LastFile {
                    upload_id: file.upload_id,
                    name: file.name,
                    state: file.state,
                    received_at: file.received_at,
                }),
            }
        };
        Ok(Kind::EVERY.map(feed).into())
    }

    fn campaigns(&self) -> Result<Vec<Next>, LedgerError> {
        let pending = self.store.pending_lists(self.namespace_id)?;
        let next = self.namespace.campaigns.values().map(|campaign| {
            let (schedule, firing) = match &campaign.schedule {
                Schedule::OnArrival => ("on-arrival".to_owned(), None),
                Schedule::Cron(cron) => (cron.to_string(), first_firing(cron, self.namespace.timezone, self.now)),
            };
            let lists = pending.iter().filter(|list| list.campaign == campaign.name.as_str());
            Next {
                campaign: campaign.name.to_string(),
                schedule,
                at: firing.map(|firing| firing.at),
                lists: lists.map(|list| list.name.clone()).collect(),
            }
        });
        Ok(next.collect())
    }

    fn levels(&self) -> Result<Vec<Level>, LedgerError> {
        let today = crate::bank::window::open_on(self.now, self.namespace.timezone);
        let mut levels: Vec<Level> = Vec::new();
        for stock in self.store.stock(self.namespace_id, today)? {
            match levels.last_mut() {
                Some(level) if level.bank == stock.bank => level.remaining += stock.remaining,
                _ => levels.push(Level { bank: stock.bank, remaining: stock.remaining, low_stock: None, low: false }),
            }
        }
        for level in &mut levels {
            let bank = self.namespace.banks.get(level.bank.as_str());
            let used = self.namespace.campaigns.values().any(|campaign| campaign.bank.as_str() == level.bank);
            let for_customers = bank.is_some_and(|bank| bank.audience == Audience::Communicate);
            level.low_stock = bank.and_then(|bank| bank.low_stock);
            let at_most = |threshold| u64::try_from(level.remaining).unwrap_or(0) <= threshold;
            level.low = level.low_stock.is_some_and(at_most) || (used && for_customers && level.remaining == 0);
        }
        Ok(levels)
    }
}
