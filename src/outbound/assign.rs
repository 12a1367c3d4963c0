//! The assign stage: gate, then one transaction that hands out the codes.

use std::ops::ControlFlow;

use chrono::{DateTime, Utc};

use super::gate::{self, Freshness};
use super::{Assigned, Job, ListError, Outbound, OutboundError};
use crate::bank::{stock, window};
use crate::config::{Bank, PersistPer, WhenShort};
use crate::reason::Reason;
use crate::recipients::Columns;
use crate::spool::durable;
use crate::store::batches::Progress;
use crate::store::draw::{DrawTerms, Drawn};
use crate::store::recipients::{Recipients, UnsortedRecipients};

/// What stands in the record of a customer who gets the fallback code instead of one of the bank's.
pub(super) const FALLBACK: &str = "FALLBACK";

impl Outbound {
    /// Due or waiting to assigned, or the reason to wait.
    pub(super) fn assign(&self, job: &Job<'_>) -> Result<Assigned, OutboundError> {
        let now = self.clock.now();
        let claim = job.batch.claim;
        let send_at = send_at(job, now);
        if job.batch.proof {
            self.store.assign_proof(claim, now, send_at)?;
            return Ok(Assigned::Done(None));
        }
        let bank = job.bank()?;
        // A redemption file that came before the list may be larger than the list and take longer.
        if self.store.earlier_files_undecided(claim.namespace_id, claim.id)? {
            return Ok(Assigned::NotYet);
        }
        let as_of = self.store.redemptions_as_of(claim.namespace_id)?;
        match gate::freshness(&job.namespace.redemptions, job.batch.persistent, as_of, now, job.namespace.timezone) {
            Freshness::Fresh => {}
            Freshness::Stale => {
                let (batch, campaign) = (claim.id, job.campaign.as_str());
                tracing::warn!(namespace = %job.namespace.name, campaign, batch, "redemptions are stale; going on");
            }
            Freshness::Wait => return Ok(stale(as_of)),
        }
        // One instant for the whole batch, however long it takes and whatever date it is when it is done.
        let open_on = window::open_on(send_at, job.namespace.timezone);
        if job.batch.progress == Progress::Waiting {
            let in_stock = stock::remaining(&self.store.lots(claim.namespace_id, job.batch.bank_id)?, open_on);
            if let Some((need, stock)) =
                job.batch.compared.filter(|_| !gate::worth_a_look(job.batch.compared, in_stock, claim.fence))
            {
                return Ok(short(bank, need, stock));
            }
        }
        let list = self.load(job)?;
        fail::fail_point!("outbound-before-assign", |_| std::process::abort());
        let terms = DrawTerms {
            claim,
            bank_id: job.batch.bank_id,
            persistent: job.batch.persistent,
            hold_channel: hold_channel(job, bank),
            assigned_at: now,
            send_at,
            open_on,
            short_reason: short_reason(job, bank)?,
        };
        match self.store.draw(list, &terms, &job.layout.prepared())? {
            Drawn::Short { need, stock } => Ok(short(bank, need, stock)),
            Drawn::Assigned { draw, need, stock, answers } => {
                let (batch, campaign) = (claim.id, job.campaign.as_str());
                tracing::info!(namespace = %job.namespace.name, campaign, batch, draw, need, stock, "assigned a batch");
                Ok(Assigned::Done(Some(answers)))
            }
        }
    }

    /// Puts the list's customers in order.
    pub(super) fn load(&self, job: &Job<'_>) -> Result<Recipients, OutboundError> {
        let prepared = job.layout.prepared();
        durable::make_directory(&prepared).map_err(job.disk())?;
        let (mut list, mut added) = (UnsortedRecipients::new(&prepared), Ok(()));
        self.read_customers(job, &mut |customer| {
            added = list.add(customer);
            if added.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        added.and_then(|()| list.end()).map_err(job.disk())
    }

    /// Calls `each` for the customer of every row of the list that counts, until it breaks. A row that does not was rejected,
    /// and reported, when the list was accepted.
    pub(super) fn read_customers(
        &self,
        job: &Job<'_>,
        each: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(), OutboundError> {
        let longest = job.settings.limits.customer_id_bytes;
        let (mut columns, mut refused): (Option<Columns>, _) = (None, None);
        self.read_list(job, &mut |row| match &columns {
            Some(columns) => columns.customer(row).map_or(ControlFlow::Continue(()), &mut *each),
            None => match Columns::read(row, longest) {
                Ok(header) => {
                    columns = Some(header);
                    ControlFlow::Continue(())
                }
                Err(finding) => {
                    refused = Some(finding);
                    ControlFlow::Break(())
                }
            },
        })?;
        refused.map_or(Ok(()), |finding| Err(ListError::Refused(finding).into()))
    }
}

/// When a batch that starts at `now` is sent: a code must be in its window then, not only when it is handed out.
fn send_at(job: &Job<'_>, now: DateTime<Utc>) -> DateTime<Utc> {
    let planned = job.namespace.campaigns.get(&job.campaign).and_then(|campaign| campaign.send_at);
    planned.map_or(now, |time| window::next_local(time, job.namespace.timezone, now))
}

fn short(bank: &Bank, need: i64, stock: i64) -> Assigned {
    let reason = format!("{need} codes needed, {stock} left in `{}`", bank.name);
    Assigned::Waits { reason, compared: Some((need, stock)) }
}

fn stale(as_of: Option<DateTime<Utc>>) -> Assigned {
    let reason = match as_of {
        Some(as_of) => format!("a newer redemption file than that of {}", as_of.format("%Y-%m-%d %H:%M:%SZ")),
        None => "a first redemption file".to_owned(),
    };
    Assigned::Waits { reason, compared: None }
}

fn hold_channel<'a>(job: &'a Job<'_>, bank: &Bank) -> &'a str {
    match bank.persist_per {
        PersistPer::Channel if job.batch.persistent => &job.batch.channel,
        _ => "",
    }
}

/// What is written down for a customer for whom no code is left, if the campaign does not wait.
fn short_reason(job: &Job<'_>, bank: &Bank) -> Result<Option<&'static str>, OutboundError> {
    let campaign = job
        .namespace
        .campaigns
        .get(&job.campaign)
        .ok_or_else(|| OutboundError::NotConfigured { what: format!("campaign `{}`", job.campaign) })?;
    match campaign.when_short {
        WhenShort::Wait => Ok(None),
        WhenShort::Partial => Ok(Some(Reason::ShortStock.as_str())),
        WhenShort::Fallback if bank.fallback_code.is_some() => Ok(Some(FALLBACK)),
        WhenShort::Fallback => {
            Err(OutboundError::NotConfigured { what: format!("`fallback_code` of bank `{}`", bank.name) })
        }
    }
}
