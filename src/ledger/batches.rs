//! Batches as a command shows them, and `batch run`.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Desk, LedgerError};
use crate::config::Name;
use crate::outbound;
use crate::store::ledger::batches::{BatchFilter, ListedBatch};

/// One batch, in the order of its keys in JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Batch {
    /// Its id.
    pub id: i64,
    /// Its namespace.
    pub namespace: String,
    /// Its campaign.
    pub campaign: String,
    /// Its bank.
    pub bank: String,
    /// Its state.
    pub state: String,
    /// Whether it is a test send.
    pub proof: bool,
    /// The list's upload.
    pub upload_id: i64,
    /// The list's file name.
    pub list: String,
    /// The local date it runs for.
    pub business_date: String,
    /// When it became due.
    pub due_at: DateTime<Utc>,
    /// Why it waits, or what it last failed at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Codes needed, when last compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub need: Option<i64>,
    /// Codes in stock then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stock: Option<i64>,
    /// When windows were judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_at: Option<DateTime<Utc>>,
    /// The age of what was known about redemptions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redemptions_as_of: Option<DateTime<Utc>>,
    /// When its manifest appeared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exported_at: Option<DateTime<Utc>>,
    /// Who fetched its files, oldest first; only where one batch is shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fetched: Vec<Fetched>,
    /// The manifest; only where one batch is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<serde_json::Value>,
}

/// One download of one file of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fetched {
    /// The file's name.
    pub file: String,
    /// Who fetched it.
    pub user: String,
    /// When.
    pub at: DateTime<Utc>,
}

impl Batch {
    fn of(namespace: &str, listed: ListedBatch, whole: bool) -> Self {
        let manifest = listed.manifest.as_deref().filter(|_| whole);
        Self {
            id: listed.id,
            namespace: namespace.to_owned(),
            campaign: listed.campaign,
            bank: listed.bank,
            state: listed.state,
            proof: listed.proof,
            upload_id: listed.upload_id,
            list: listed.list_name,
            business_date: listed.business_date.to_string(),
            due_at: listed.due_at,
            waiting_for: listed.waiting_for,
            need: listed.need,
            stock: listed.stock,
            send_at: listed.send_at,
            redemptions_as_of: listed.redemptions_as_of,
            exported_at: listed.exported_at,
            fetched: Vec::new(),
            manifest: manifest.and_then(|manifest| serde_json::from_str(manifest).ok()),
        }
    }
}

/// What `batch run` set going.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Batches made of lists that were waiting for the schedule.
    pub made: Vec<i64>,
    /// Open batches that look again at once.
    pub nudged: Vec<i64>,
}

impl Desk<'_> {
    /// Batches, newest first.
    ///
    /// # Errors
    /// Any error of the store.
    pub fn batches(&self, filter: &BatchFilter<'_>) -> Result<Vec<Batch>, LedgerError> {
        let listed = self.store.list_batches(self.namespace_id, filter)?;
        let whole = filter.id.is_some();
        let mut batches: Vec<Batch> =
            listed.into_iter().map(|batch| Batch::of(self.namespace.name.as_str(), batch, whole)).collect();
        for batch in batches.iter_mut().filter(|_| whole) {
            let pickups = self.store.pickups(self.namespace_id, batch.id)?;
            let fetched =
                pickups.into_iter().map(|pickup| Fetched { file: pickup.file, user: pickup.user, at: pickup.at });
            batch.fetched = fetched.collect();
        }
        Ok(batches)
    }

    /// Makes the accepted lists of `campaign` due now, whatever its schedule says, and lets its waiting batches look
    /// again. The daemon does the rest.
    ///
    /// # Errors
    /// [`LedgerError::NotThere`] without such a campaign; the store.
    pub fn run_campaign(&self, campaign: &Name) -> Result<Run, LedgerError> {
        let missing =
            || LedgerError::NotThere { what: format!("campaign `{campaign}` in namespace `{}`", self.namespace.name) };
        self.namespace.campaigns.get(campaign).ok_or_else(missing)?;
        let made = outbound::make_due_now(self.store, self.namespace_id, self.namespace, campaign, self.now)?;
        let mut nudged = self.store.nudge_batches(self.namespace_id, campaign.as_str())?;
        nudged.retain(|id| !made.contains(id));
        nudged.sort_unstable();
        Ok(Run { made, nudged })
    }
}
