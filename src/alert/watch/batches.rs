//! Batches that wait, and exports that nobody collects.

use chrono::TimeDelta;

use super::{Look, REMEMBERED};
use crate::alert::kinds::{Alert, Change};
use crate::alert::uncollected::{Uncollected, overdue};
use crate::store::StoreError;

/// How often it is said that a batch still waits: every working day begins with it.
const REMIND_EVERY: TimeDelta = TimeDelta::days(1);
/// How far back exports are looked for: who sets `collect_by` hears of the last nights only.
const LOOK_BACK: TimeDelta = TimeDelta::days(3);

impl Look<'_> {
    pub(super) fn waiting(&self) -> Result<(), StoreError> {
        for batch in self.store.waiting_batches(self.namespace_id, self.now - REMIND_EVERY)? {
            self.raise(&Change {
                subject: format!("batch_waiting/{}", batch.id),
                from: batch.said,
                to: batch.said.unwrap_or(0).saturating_add(1),
                alert: Some(Alert::BatchWaiting {
                    id: batch.id,
                    campaign: batch.campaign,
                    bank: batch.bank,
                    list: batch.list,
                    due_at: batch.due_at,
                    waiting_for: batch.waiting_for,
                    still: batch.said.is_some(),
                }),
                forget_at: Some(self.now + REMEMBERED),
            })?;
        }
        Ok(())
    }

    pub(super) fn uncollected(&self) -> Result<(), StoreError> {
        let timed =
            self.namespace.campaigns.values().filter_map(|campaign| Some((&campaign.name, campaign.collect_by?)));
        for (campaign, collect_by) in timed {
            let exports = self.store.uncollected_batches(self.namespace_id, campaign.as_str(), self.now - LOOK_BACK)?;
            for export in exports {
                let by = overdue(collect_by, self.namespace.timezone, export.exported_at, self.now);
                let Some(by) = by else { continue };
                let pickups = self.store.pickups(self.namespace_id, export.id)?;
                let fetched: Vec<_> = pickups.into_iter().map(|pickup| (pickup.file, pickup.at, pickup.user)).collect();
                let instants = (export.exported_at, by);
                let batch = Uncollected::new((export.id, campaign.as_str()), instants, &export.manifest, &fetched);
                self.raise(&batch.change(self.now))?;
            }
        }
        Ok(())
    }
}
