//! From a recipients list to an assignment file: due -> gate -> assign -> export -> deliver.
//!
//! ```text
//! batch:   due -> waiting -> due;  due or waiting -> assigned -> exported -> collected
//!
//! due        `due`      its list was accepted, and its campaign fired (or needs no firing)
//! waiting    `gate`     redemptions are stale, or stock is short; looks again every few seconds
//! assigned   `assign`   one transaction: codes handed out, counters moved, everything recorded
//! exported   `deliver`  its files are in `/assignments/<campaign>/`, the manifest last
//! collected  `collect`  the manifest and every file that it lists were fetched
//! ```
//! Several daemons may share a store and a spool. Who works on a batch holds a lease with a fencing number (`lease`);
//! every durable step checks it. Killed at any moment, the next run goes on from the state in the store:
//! - before `assigned` nothing has happened, and the draw is made anew;
//! - from `assigned` on, who got what is recorded and no further code is drawn. The files are written from the record and
//!   the list (`export`) out of sight; then their hashes are recorded as the manifest; only then is the first of them
//!   published. So a file that is published is never written again, even where encryption makes other bytes each time.
//!
//! From `assigned` until the batch is sent (or for a day), codes of the batch that are redeemed meanwhile are listed in a file of their own
//! (`corrections`), which is no part of the manifest.
//!
//! Points at which a test ends the process (feature `failpoints`): `outbound-before-assign`, `outbound-after-assign`,
//! `outbound-after-export`, `outbound-after-record`, `outbound-between-files`, `outbound-before-manifest`,
//! `outbound-after-manifest`.

mod assign;
mod collect;
mod corrections;
mod deliver;
mod doors;
mod due;
mod error;
mod export;
mod gate;
mod keyed;
mod lease;
mod lines;
mod manifest;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

pub use collect::{Download, collect};
pub use doors::{ListError, Lists, Seal, SealError, Sealed, Seals};
pub use due::make_due_now;
pub use error::{Act, OutboundError};
pub use keyed::KeyedDoors;

use crate::clock::Clock;
use crate::config::{LiveSettings, Name, Namespace, Settings};
use crate::spool::Layout;
use crate::store::answers::Answers;
use crate::store::batches::{Claim, ClaimedBatch, Progress};
use crate::store::{Changed, Store, StoreError};

/// How long until somebody looks for accepted lists again, if nobody wakes the flow earlier.
const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(2);
/// How long a batch is left alone whose turn comes as soon as other files are processed.
const AT_ONCE: TimeDelta = TimeDelta::milliseconds(250);
/// How long a waiting batch, or one that met a passing fault, is left alone.
const SOON: TimeDelta = TimeDelta::seconds(5);
/// How long a batch is left alone that an admin must see to.
const RARELY: TimeDelta = TimeDelta::minutes(5);

/// The outbound flow of one daemon.
#[derive(Clone)]
pub struct Outbound {
    store: Store,
    settings: LiveSettings,
    clock: Clock,
    lists: Arc<dyn Lists>,
    seals: Arc<dyn Seals>,
    stopping: Arc<AtomicBool>,
    /// Held while batches are made of lists: of two workers that try the same, one would use up a batch's number.
    making: Arc<Mutex<()>>,
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbound").finish_non_exhaustive()
    }
}

/// A claimed batch with all that a stage needs to know.
struct Job<'a> {
    settings: &'a Settings,
    namespace: &'a Namespace,
    layout: Layout,
    campaign: Name,
    batch: ClaimedBatch,
}

impl<'a> Job<'a> {
    fn new(settings: &'a Settings, namespace: &'a Namespace, batch: ClaimedBatch) -> Result<Self, OutboundError> {
        let campaign = Name::parse(&batch.campaign)
            .map_err(|_| OutboundError::NotConfigured { what: format!("campaign `{}`", batch.campaign) })?;
        let layout = Layout::new(&settings.state_dir, &namespace.name);
        Ok(Self { settings, namespace, layout, campaign, batch })
    }
}

/// What the assign stage came to.
enum Assigned {
    /// The batch is assigned; what everyone got, unless it is a proof.
    Done(Option<Box<Answers>>),
    /// Files that came before the list are still being processed.
    NotYet,
    /// The batch waits.
    Waits { reason: String, compared: Option<(i64, i64)> },
}

impl Outbound {
    /// A flow on `store`. Each thread that works in it takes two connections at a time.
    #[must_use]
    pub fn new(
        store: Store,
        settings: LiveSettings,
        clock: Clock,
        lists: Arc<dyn Lists>,
        seals: Arc<dyn Seals>,
    ) -> Self {
        Self { store, settings, clock, lists, seals, stopping: Arc::default(), making: Arc::default() }
    }

    /// Asks [`Outbound::tick`] to return after the batch at hand. Clones hear it too.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Both parts, one after the other: [`Outbound::run_due`] and [`Outbound::correct_due`].
    #[must_use]
    pub fn tick(&self) -> DateTime<Utc> {
        let wake = self.run_due();
        self.correct_due();
        wake
    }

    /// Makes batches of the lists that are due and works until none can be claimed. Blocks; several threads and daemons
    /// may do so at once. Returns when to call again at the latest; a list accepted or a bank refilled is a reason to call
    /// at once.
    #[must_use]
    pub fn run_due(&self) -> DateTime<Utc> {
        let settings = self.settings.current();
        let mut wake = self.clock.now() + LOOK_AGAIN;
        for namespace in settings.namespaces.values() {
            match self.tick_namespace(&settings, namespace) {
                Ok(Some(next)) => wake = wake.min(next),
                Ok(None) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(namespace = %namespace.name, error, "failed to look for batches; trying again");
                }
            }
        }
        wake
    }

    /// Brings the corrections of recent batches up to date. Apart from [`Outbound::run_due`], so that a nightly batch never
    /// waits for them.
    pub fn correct_due(&self) {
        let settings = self.settings.current();
        for namespace in settings.namespaces.values() {
            let corrected = self
                .store
                .namespace_id(&namespace.name)
                .and_then(|namespace_id| self.correct(&settings, namespace, namespace_id));
            if let Err(error) = corrected {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(namespace = %namespace.name, error, "failed to look for corrections; trying again");
            }
        }
    }

    fn tick_namespace(&self, settings: &Settings, namespace: &Namespace) -> Result<Option<DateTime<Utc>>, StoreError> {
        let namespace_id = self.store.namespace_id(&namespace.name)?;
        let firing = {
            let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            due::make_due(&self.store, namespace_id, namespace, self.clock.now())?
        };
        let lease = TimeDelta::from_std(settings.limits.lease).unwrap_or(TimeDelta::MAX);
        while !self.stopping.load(Ordering::Relaxed) {
            let now = self.clock.now();
            let Some(batch) = self.store.claim_batch(namespace_id, now, now + lease)? else { break };
            self.work(settings, namespace, batch);
        }
        // A batch that comes after another of its bank is open, and not to be had: not worth a look each moment.
        let soonest = self.clock.now() + AT_ONCE;
        let open = self.store.next_batch_at(namespace_id)?.map(|at| at.max(soonest));
        Ok(firing.into_iter().chain(open).min())
    }

    /// Works on one claimed batch and leaves it in the state it came to.
    fn work(&self, settings: &Settings, namespace: &Namespace, batch: ClaimedBatch) {
        let claim = batch.claim;
        let lease = lease::Lease::hold(self.store.clone(), self.clock.clone(), claim, settings.limits.lease);
        let left = match self.run(settings, namespace, batch) {
            Ok(()) => Ok(()),
            Err(error) => self.put_off(namespace, claim, &error),
        };
        drop(lease);
        if let Err(error) = left {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(namespace = %namespace.name, batch = claim.id, error, "failed to put a batch off");
        }
    }

    /// The stages in order.
    fn run(&self, settings: &Settings, namespace: &Namespace, batch: ClaimedBatch) -> Result<(), OutboundError> {
        let mut job = Job::new(settings, namespace, batch)?;
        let mut answers = None;
        if job.batch.progress != Progress::Assigned {
            match self.assign(&job)? {
                Assigned::NotYet => {
                    let (why, again) = ("files that came before its list", self.clock.now() + AT_ONCE);
                    return Ok(self.store.put_batch_off(job.batch.claim, why, again)?);
                }
                Assigned::Waits { reason, compared } => return self.wait(&job, &reason, compared),
                Assigned::Done(drawn) => answers = drawn,
            }
            fail::fail_point!("outbound-after-assign", |_| std::process::abort());
            job.batch = self.store.claimed_batch(job.batch.claim)?;
        }
        if !self.deliver_recorded(&job)? {
            let exported = self.export(&job, answers)?;
            fail::fail_point!("outbound-after-export", |_| std::process::abort());
            self.deliver(&job, exported)?;
        }
        self.store.batch_exported(job.batch.claim, self.clock.now())?;
        let (batch, campaign) = (job.batch.claim.id, job.campaign.as_str());
        tracing::info!(namespace = %namespace.name, campaign, batch, "exported a batch");
        let drawn = job.batch.compared.map_or(0, |(need, _)| u64::try_from(need).unwrap_or_default());
        if let Err(error) = self.store.refresh_statistics(job.batch.claim.namespace_id, Changed::Assignments, drawn) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(namespace = %namespace.name, batch, error, "failed to refresh the statistics after a batch");
        }
        Ok(())
    }

    fn wait(&self, job: &Job<'_>, reason: &str, compared: Option<(i64, i64)>) -> Result<(), OutboundError> {
        let (batch, campaign) = (job.batch.claim.id, job.campaign.as_str());
        if job.batch.progress == Progress::Due {
            tracing::warn!(namespace = %job.namespace.name, campaign, batch, reason, "a batch waits");
        }
        Ok(self.store.batch_waits(job.batch.claim, reason, compared, self.clock.now() + SOON)?)
    }

    fn put_off(&self, namespace: &Namespace, claim: Claim, error: &OutboundError) -> Result<(), StoreError> {
        let (batch, chain) = (claim.id, error as &dyn std::error::Error);
        let later = match error.act() {
            Act::LetGo => {
                tracing::warn!(namespace = %namespace.name, batch, error = chain, "let a batch go");
                return Ok(());
            }
            Act::Retry => {
                tracing::warn!(namespace = %namespace.name, batch, error = chain, "put a batch off");
                SOON
            }
            Act::Admin => {
                tracing::error!(namespace = %namespace.name, batch, error = chain, "a batch needs an admin");
                RARELY
            }
        };
        self.store.put_batch_off(claim, &error.to_string(), self.clock.now() + later)
    }
}

/// A file name's stem: up to the first dot, short enough for what is added to it.
fn stem(name: &str) -> String {
    const LONGEST: usize = 180;
    let stem = name.split('.').next().unwrap_or_default();
    let mut short = String::new();
    for character in stem.chars() {
        if short.len() + character.len_utf8() > LONGEST {
            break;
        }
        short.push(character);
    }
    if short.is_empty() { "list".to_owned() } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: &str) {
        assert_eq!(stem(name), expected);
    }

    #[test]
    fn stems() {
        check("list.csv", "list");
        check("list.proof.csv.gz", "list");
        check("list", "list");
        check(".csv", "list");
        check(&format!("{}.csv", "ü".repeat(120)), &"ü".repeat(90));
    }
}
