//! The corrections of a batch: `<stem>.<batch>.corrections.csv`, which lists customers whose code was redeemed after the
//! batch was assigned and before it is sent: until the campaign's `send_at`, or for a day where it has none.
//!
//! Whenever redemptions have come, the rows are found anew; with more than before, the file is written as a whole, in the
//! list's order, and takes the old one's place in one rename. Killed before its row says so, it is written again.

use std::collections::HashMap;
use std::ops::ControlFlow;

use chrono::SecondsFormat;

use super::export::OutFile;
use super::{Job, Outbound, OutboundError, RARELY};
use crate::config::{Namespace, Settings};
use crate::spool::{durable, publish};
use crate::store::StoreError;
use crate::store::corrections::{Redeemed, RedeemedSince, Uncorrected};

impl Outbound {
    /// Brings the corrections of the namespace's recent batches up to date.
    pub(super) fn correct(
        &self,
        settings: &Settings,
        namespace: &Namespace,
        namespace_id: i32,
    ) -> Result<(), StoreError> {
        for uncorrected in self.store.uncorrected(namespace_id, self.clock.now())? {
            let claim = uncorrected.claim;
            match self.correct_one(settings, namespace, &uncorrected) {
                // A worker took it over in between: it is looked at again.
                Ok(()) | Err(OutboundError::Store(StoreError::LeaseLost { .. })) => {}
                // What ails the store ails the next batch too; what ails this one's files need not.
                Err(OutboundError::Store(error)) if error.is_transient() && !matches!(error, StoreError::Disk(_)) => {
                    return Err(error);
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(namespace = %namespace.name, batch = claim.id, error, "failed to list a batch's corrections");
                    self.store.put_correction_off(claim, self.clock.now() + RARELY)?;
                }
            }
        }
        Ok(())
    }

    fn correct_one(
        &self,
        settings: &Settings,
        namespace: &Namespace,
        uncorrected: &Uncorrected,
    ) -> Result<(), OutboundError> {
        let job = Job::new(settings, namespace, self.store.claimed_batch(uncorrected.claim)?)?;
        self.store.correct(&job.batch, uncorrected.seen, |redeemed, published| {
            let count = match redeemed {
                Redeemed::Few(redeemed) if redeemed.is_empty() => return Ok(published),
                Redeemed::Few(redeemed) => {
                    let rows = self.in_order(&job, redeemed)?;
                    if i64::try_from(rows.len()).is_ok_and(|count| count <= published) {
                        return Ok(published);
                    }
                    self.publish_corrections(&job, rows.into_iter().map(Ok), published)?
                }
                Redeemed::Many => {
                    let list = self.load(&job)?;
                    let rows = self.store.redeemed_since(&job.batch, list, &job.layout.prepared())?;
                    self.publish_corrections(&job, rows, published)?
                }
            };
            if count > published {
                let (campaign, batch) = (job.campaign.as_str(), job.batch.claim.id);
                tracing::info!(namespace = %namespace.name, campaign, batch, rows = count, "corrected a batch");
            }
            Ok::<_, OutboundError>(count.max(published))
        })?;
        Ok(())
    }

    /// Those on the batch's list, once each, as they stand there. (Others hold a code of the bank as well.)
    fn in_order(&self, job: &Job<'_>, redeemed: Vec<RedeemedSince>) -> Result<Vec<RedeemedSince>, OutboundError> {
        let mut left: HashMap<String, RedeemedSince> =
            redeemed.into_iter().map(|row| (row.customer.clone(), row)).collect();
        let mut rows = Vec::new();
        self.read_customers(job, &mut |customer| {
            rows.extend(left.remove(customer));
            if left.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(rows)
    }

    /// Writes the rows, which are in the list's order, and publishes the file if it has more of them than `published`. Returns
    /// how many there are.
    fn publish_corrections(
        &self,
        job: &Job<'_>,
        rows: impl Iterator<Item = Result<RedeemedSince, StoreError>>,
        published: i64,
    ) -> Result<i64, OutboundError> {
        durable::make_directory(&job.layout.prepared()).map_err(job.disk())?;
        let seal = self.seal(job)?;
        let mut file = OutFile::create(job, seal.as_deref(), "corrections.csv")?;
        file.write(["customer_id", "bank_name", "code", "redeemed_at"].into_iter(), &[])?;
        let mut count = 0;
        for row in rows {
            let row = row?;
            let at = row.redeemed_at.to_rfc3339_opts(SecondsFormat::Secs, true);
            file.write([row.customer.as_str(), &job.batch.bank, &row.code, &at].into_iter(), &[])?;
            count += 1;
        }
        if i64::try_from(count).is_ok_and(|count| count <= published) {
            let unfinished = job.prepared_path(&file.name);
            drop(file);
            durable::remove_if_there(&unfinished).map_err(job.disk())?;
            return Ok(published);
        }
        let listed = file.finish(count)?;
        let prepared = job.prepared_path(&listed.name);
        publish(&prepared, &job.layout.assignments(&job.campaign), &listed.name).map_err(job.disk())?;
        fail::fail_point!("outbound-corrections-published", |_| std::process::abort());
        Ok(i64::try_from(count).unwrap_or(i64::MAX))
    }
}
