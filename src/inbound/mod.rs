//! From a received file to its verdict: claim, open, parse, validate, apply, report.
//!
//! ```text
//! receiving -> received -> active -> applied | rejected | quarantined | duplicate | checked
//! receiving -> partial -> receiving | purged        receiving -> awaiting_rename -> received
//! active -> deferred -> active                      quarantined -> received | discarded
//! ```
//! What happens to a file is decided by one transaction: either its rows, its verdict and its report are in the store, or
//! nothing is. The report is written before that and published after it; the file moves last ([`crate::spool`]). A crash
//! at any moment leaves an upload that is claimed again when its lease lapses, or a verdict that is published again.
//!
//! Failpoints: `inbound-claimed`, `inbound-before-commit`, `inbound-committed`, `inbound-published`.

mod apply;
mod error;
mod kinds;
mod lease;
mod mended;
mod receive_local;
mod report;
mod series;
mod suspicion;
mod tally;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use crate::clock::Clock;
use crate::config::{Limits, LiveSettings, Name, Namespace, Settings};
use crate::doorbell::Doorbell;
use crate::error_chain::chain;
use crate::openpgp::{Certificate, Keyring};
use crate::plaintext::{self, RecordReader, Terms};
use crate::reason::{Finding, Reason};
use crate::spool::{FileName, Kind, Layout, Place, PreparedReport, tree};
use crate::store::uploads::{self, ClaimedUpload, Finish, FinishedUpload, Verdict};
use crate::store::{Changed, Store, StoreError};
use crate::telemetry::Metrics;

use apply::Rows;
pub use error::{InboundError, RetryCause};
pub use receive_local::{LocalDrops, made_banks, recover_drops};
use report::{Content, Ending};
pub use suspicion::{SuspicionError, report_suspicions};
use tally::Tally;

/// After so many tries that nobody but the daemon is at fault for, an admin looks. A try that a kill or a restart of the
/// store ended counts too, so there must be room for bystanders.
const ATTEMPTS_MOST: i32 = 20;

/// The inbound flow, shared by its workers.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// The store.
    pub store: Store,
    /// The settings in force.
    pub live: LiveSettings,
    /// The daemon's own keys.
    pub keyring: Arc<Keyring>,
    /// The time.
    pub clock: Clock,
    /// Rung after every verdict: batches may go on.
    pub applied: Doorbell,
    /// What is counted.
    pub metrics: Metrics,
}

/// One upload and all that its stages need to know.
#[derive(Debug)]
pub struct Work<'a> {
    /// The store.
    pub store: &'a Store,
    /// Its row.
    pub claimed: &'a ClaimedUpload,
    /// Its namespace.
    pub namespace: &'a Namespace,
    /// The limits in force.
    pub limits: &'a Limits,
    /// Where its namespace's files are.
    pub layout: &'a Layout,
    /// Where it was put.
    pub place: Place,
    /// What its name says.
    pub file_name: FileName,
    /// When this try began: the instant of everything it decides.
    pub now: DateTime<Utc>,
}

impl Work<'_> {
    /// The local date: the smallest end date whose window is still open.
    fn today(&self) -> NaiveDate {
        self.now.with_timezone(&self.namespace.timezone).date_naive()
    }
}

impl Inbound {
    /// Processes whatever waits in any namespace, one upload after the other until `stopping`, and publishes what a crash
    /// left unpublished. Returns when the next one is due, if that is known.
    ///
    /// # Errors
    /// When the store cannot be asked; nothing is lost, ask again.
    pub fn process_waiting(&self, stopping: &dyn Fn() -> bool) -> Result<Option<DateTime<Utc>>, StoreError> {
        let settings = self.live.current();
        let mut next: Option<DateTime<Utc>> = None;
        for namespace in settings.namespaces.values() {
            let namespace_id = self.store.namespace_id(&namespace.name)?;
            self.publish_unpublished(&settings, &namespace.name)?;
            while !stopping() {
                let now = self.clock.now();
                let lease = TimeDelta::from_std(settings.limits.lease).unwrap_or(TimeDelta::MAX);
                let Some(claimed) = self.store.claim_upload(namespace_id, now, now + lease)? else { break };
                fail::fail_point!("inbound-claimed", |_| std::process::abort());
                self.process_claimed(&settings, namespace, &claimed)?;
            }
            next = [next, self.store.next_upload_retry(namespace_id)?].into_iter().flatten().min();
        }
        Ok(next)
    }

    /// Publishes verdicts of `name` whose report is not in `/reports/` yet.
    fn publish_unpublished(&self, settings: &Settings, name: &Name) -> Result<(), StoreError> {
        let namespace_id = self.store.namespace_id(name)?;
        for finished in self.store.unreported_uploads(namespace_id)? {
            self.publish(namespace_id, &Layout::new(&settings.state_dir, name), &finished)?;
        }
        Ok(())
    }

    fn process_claimed(
        &self,
        settings: &Settings,
        namespace: &Namespace,
        claimed: &ClaimedUpload,
    ) -> Result<(), StoreError> {
        let lease = lease::Lease::hold(self.store.clone(), self.clock.clone(), claimed.clone(), settings.limits.lease);
        // A panic is a bug of ours, and ends this try at this upload only.
        let finished = catch_unwind(AssertUnwindSafe(|| self.process(settings, namespace, claimed)));
        drop(lease);
        match finished {
            Ok(Ok(finished)) => {
                let layout = Layout::new(&settings.state_dir, &namespace.name);
                self.count(namespace, claimed, &finished);
                self.publish(claimed.namespace_id, &layout, &finished)?;
                self.applied.ring();
                if let Err(error) = self.refresh_statistics(claimed, &finished) {
                    tracing::warn!(upload.id = claimed.id, error = %chain(&error), "Failed to refresh the statistics");
                }
                Ok(())
            }
            Ok(Err(RetryCause::Store(StoreError::LeaseLost { .. }))) => Ok(()),
            Ok(Err(cause)) => {
                tracing::warn!(upload.id = claimed.id, error = %chain(&cause), "Failed to process an upload, will try again");
                self.defer(claimed)
            }
            Err(_) => {
                tracing::error!(upload.id = claimed.id, "Processing an upload panicked, will try again");
                self.defer(claimed)
            }
        }
    }

    fn refresh_statistics(&self, claimed: &ClaimedUpload, finished: &FinishedUpload) -> Result<(), StoreError> {
        let changed = match claimed.kind() {
            Some(Kind::Coupons) => Changed::Coupons,
            Some(Kind::Redemptions) => Changed::Redemptions,
            Some(Kind::Recipients) | None => return Ok(()),
        };
        let applied = finished.state == Verdict::Applied.as_str();
        // A guess by size is good enough here, and needs no count to be carried along: a row has ten bytes or more.
        let rows = if applied { u64::try_from(claimed.bytes / 10).unwrap_or_default() } else { 0 };
        self.store.refresh_statistics(claimed.namespace_id, changed, rows)
    }

    fn count(&self, namespace: &Namespace, claimed: &ClaimedUpload, finished: &FinishedUpload) {
        let (Some(kind), Some(verdict)) = (claimed.kind(), Verdict::parse(&finished.state)) else { return };
        self.metrics.upload(&namespace.name, kind, verdict.as_str());
    }

    fn defer(&self, claimed: &ClaimedUpload) -> Result<(), StoreError> {
        let wait = TimeDelta::seconds(2_i64.saturating_pow(claimed.attempts.clamp(1, 6).unsigned_abs()));
        self.store.defer_upload(claimed, self.clock.now() + wait)
    }

    /// One upload, all stages. What it decides is committed when it returns `Ok`.
    fn process(
        &self,
        settings: &Settings,
        namespace: &Namespace,
        claimed: &ClaimedUpload,
    ) -> Result<FinishedUpload, RetryCause> {
        let layout = Layout::new(&settings.state_dir, &namespace.name);
        let Some(kind) = claimed.kind() else {
            return Err(StoreError::Missing { what: format!("kind `{}`", claimed.kind) }.into());
        };
        let work = Work {
            store: &self.store,
            claimed,
            namespace,
            limits: &settings.limits,
            layout: &layout,
            place: Place { kind, target: Name::parse(&claimed.target).ok(), dry_run: claimed.dry_run },
            file_name: FileName::default(),
            now: self.clock.now(),
        };
        let prepared = PreparedReport::new(&layout, claimed.id);
        let mut tally = Tally::new(prepared.begin_rejects()?, settings.limits.reject);
        if claimed.attempts > ATTEMPTS_MOST {
            let message = "the daemon failed to process the file several times; its log says why";
            let finding = Finding::file(Reason::ProcessingFailed, message);
            return self.conclude(&work, &prepared, tally, None, &Ending::Refused(Verdict::Quarantined, finding));
        }
        let work = match FileName::parse(&claimed.name) {
            Ok(file_name) => Work { file_name, ..work },
            Err(finding) => {
                return self.conclude(&work, &prepared, tally, None, &Ending::Refused(Verdict::Rejected, finding));
            }
        };
        let mut rows = match self.open(&work) {
            Ok(rows) => rows,
            Err(error) => return self.conclude(&work, &prepared, tally, None, &stopped(&work, error)?),
        };
        match self.apply(&work, &prepared, &mut rows, &mut tally) {
            Ok(finished) => Ok(finished),
            Err(error) => {
                let ending = stopped(&work, error)?;
                let content = content(&rows);
                self.conclude(&work, &prepared, tally, content, &ending)
            }
        }
    }

    fn open(&self, work: &Work<'_>) -> Result<Rows, InboundError> {
        let file = std::fs::File::open(work.layout.incoming_file(work.claimed.id))?;
        let mut signers = Vec::new();
        for path in &work.namespace.openpgp.signers {
            let loaded = Certificate::load(path).map_err(|error| RetryCause::Certificate(error.into()));
            signers.extend(loaded.map_err(InboundError::Retry)?);
        }
        let terms = Terms {
            keyring: Arc::clone(&self.keyring),
            require: work.namespace.openpgp.require,
            signers: signers.into(),
            limits: work.limits.clone(),
            now: work.now,
            asks_sha256: true,
        };
        let columns = || match work.file_name.rejects_of {
            Some(earlier) => {
                Ok(report::columns(self.store.upload_report(work.claimed.namespace_id, earlier)?.as_deref()))
            }
            None => Ok(None),
        };
        let source = mended::source(plaintext::open(file, terms), work.limits.row_bytes, columns)?;
        Ok(RecordReader::new(source, work.limits.row_bytes))
    }

    /// The one transaction. Dry runs, repeats and refusals leave it by an error, so that it is rolled back.
    fn apply(
        &self,
        work: &Work<'_>,
        prepared: &PreparedReport<'_>,
        rows: &mut Rows,
        tally: &mut Tally,
    ) -> Result<FinishedUpload, InboundError> {
        let finished = self.store.transaction(|transaction| {
            let effect = apply::apply(transaction, work, rows, tally)?;
            if work.claimed.dry_run {
                return Err(InboundError::DryRun(Box::new(effect)));
            }
            let content = content(rows);
            let ending = Ending::Effect(Verdict::Applied, effect);
            let now = self.clock.now();
            let report = write_report(work, prepared, tally, content, &ending, now)?;
            let sha256 = content.map(|content| content.sha256);
            let finish = Finish { verdict: Verdict::Applied, sha256, report: &report, now };
            uploads::finish(transaction, work.claimed, &finish)?;
            fail::fail_point!("inbound-before-commit", |_| std::process::abort());
            Ok::<_, InboundError>(finished(work, Verdict::Applied, report))
        })?;
        self.metrics.rows_applied(&work.namespace.name, work.place.kind, tally.rows.accepted);
        Ok(finished)
    }

    /// Commits a verdict that has no other effect.
    fn conclude(
        &self,
        work: &Work<'_>,
        prepared: &PreparedReport<'_>,
        mut tally: Tally,
        content: Option<Content>,
        ending: &Ending,
    ) -> Result<FinishedUpload, RetryCause> {
        let verdict = ending.verdict();
        let now = self.clock.now();
        let report = write_report(work, prepared, &mut tally, content, ending, now)?;
        let sha256 = content.map(|content| content.sha256);
        let finish = Finish { verdict, sha256, report: &report, now };
        self.store.transaction(|transaction| uploads::finish(transaction, work.claimed, &finish))?;
        Ok(finished(work, verdict, report))
    }

    /// Publishes a committed verdict: the report, then the file's place, then the row. Every step may be repeated.
    fn publish(&self, namespace_id: i32, layout: &Layout, finished: &FinishedUpload) -> Result<(), StoreError> {
        fail::fail_point!("inbound-committed", |_| std::process::abort());
        let Some(verdict) = Verdict::parse(&finished.state) else { return Ok(()) };
        let published = PreparedReport::new(layout, finished.id)
            .publish(&finished.name, &finished.report)
            .and_then(|()| tree::settle(layout, finished.id, verdict));
        if let Err(error) = published {
            tracing::error!(upload.id = finished.id, error = %chain(&error), "Failed to publish a report, will try again");
            return Ok(());
        }
        fail::fail_point!("inbound-published", |_| std::process::abort());
        self.store.upload_reported(namespace_id, finished.id, self.clock.now())?;
        tracing::info!(upload.id = finished.id, upload.verdict = finished.state, "Answered an upload");
        Ok(())
    }
}

/// How an upload ends that had no effect.
fn stopped(work: &Work<'_>, error: InboundError) -> Result<Ending, RetryCause> {
    let dry_run = work.claimed.dry_run;
    match error {
        InboundError::Retry(cause) => Err(cause),
        InboundError::DryRun(effect) => Ok(Ending::Effect(Verdict::Checked, *effect)),
        InboundError::Repeat(earlier) if dry_run => Ok(Ending::Repeat(Verdict::Checked, earlier)),
        InboundError::Repeat(earlier) => Ok(Ending::Repeat(Verdict::Duplicate, earlier)),
        InboundError::Quarantine(finding) if !dry_run => Ok(Ending::Refused(Verdict::Quarantined, finding)),
        // Nothing hangs on a file that is only checked: no admin needs to look.
        InboundError::Quarantine(finding) | InboundError::Reject(finding) => {
            Ok(Ending::Refused(Verdict::Rejected, finding))
        }
    }
}

fn content(rows: &Rows) -> Option<Content> {
    let summary = rows.source().summary()?;
    Some(Content { sha256: summary.sha256?, bytes: summary.plaintext_bytes })
}

fn write_report(
    work: &Work<'_>,
    prepared: &PreparedReport<'_>,
    tally: &mut Tally,
    content: Option<Content>,
    ending: &Ending,
    now: DateTime<Utc>,
) -> Result<String, std::io::Error> {
    let mut counted = tally.finish()?;
    // Counted while reading, before it was known that nothing comes of them.
    if !matches!(ending, Ending::Effect(..)) {
        counted.rows.accepted = 0;
    }
    let report = report::render(work, ending, content, counted, now)?;
    prepared.write_report(&report)?;
    Ok(report)
}

fn finished(work: &Work<'_>, verdict: Verdict, report: String) -> FinishedUpload {
    FinishedUpload { id: work.claimed.id, name: work.claimed.name.clone(), state: verdict.as_str().to_owned(), report }
}

/// What the reader of records says about one row.
fn row_problem(reason: Reason, line: u64) -> Finding {
    let message = match reason {
        Reason::UnbalancedQuote => "a quote is opened and never closed; close it or double it",
        Reason::RowTooLong => "the row is longer than the limit",
        other => other.means(),
    };
    Finding::line(reason, line, message)
}
