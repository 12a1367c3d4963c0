//! Looks at the store, and raises alerts.
//!
//! Each look is cheap: a few indexed statements per namespace. Nothing is kept in memory but when certificates were read
//! last; all that makes an alert come once is in the store.

mod batches;
mod files;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};

use super::feed::{Feed, Memory};
use super::kinds::{Alert, Change, LowStock, Severity};
use super::lapse::Ending;
use super::wording::Message;
use super::{certificates, forecast, ladder, lapse, template, wording};
use crate::bank::window;
use crate::clock::Clock;
use crate::config::{Audience, LiveSettings, MailSettings, Namespace};
use crate::digest::{Sha256, hexadecimal};
use crate::store::alerts::{self, LevelChange, Remembered};
use crate::store::banks::Stock;
use crate::store::mails::{self, NewMail};
use crate::store::{Store, StoreError};

/// How often the store is looked at.
const LOOK_EVERY: TimeDelta = TimeDelta::seconds(10);
/// How often certificates are read.
const CERTIFICATES_EVERY: TimeDelta = TimeDelta::hours(1);
/// How long a refused file or a waiting batch is remembered; longer than it is looked for.
const REMEMBERED: TimeDelta = TimeDelta::days(60);

/// Watches every namespace.
#[derive(Debug)]
pub struct Watch {
    store: Store,
    live: LiveSettings,
    clock: Clock,
    certificates_at: Mutex<Option<DateTime<Utc>>>,
}

/// One look at one namespace.
struct Look<'a> {
    store: &'a Store,
    mail: Option<&'a MailSettings>,
    namespace: &'a Namespace,
    namespace_id: i32,
    now: DateTime<Utc>,
}

impl Watch {
    /// A watch on `store`.
    #[must_use]
    pub fn new(store: Store, live: LiveSettings, clock: Clock) -> Self {
        Self { store, live, clock, certificates_at: Mutex::new(None) }
    }

    /// Looks at every namespace once. Returns when to look again.
    ///
    /// # Errors
    /// Any [`StoreError`]: what was not raised is raised at the next look.
    pub fn tick(&self, stopping: &dyn Fn() -> bool) -> Result<DateTime<Utc>, StoreError> {
        let settings = self.live.current();
        let now = self.clock.now();
        let read_certificates = self.certificates_are_due(now);
        for namespace in settings.namespaces.values() {
            if stopping() {
                break;
            }
            let look = Look {
                store: &self.store,
                mail: settings.mail.as_ref(),
                namespace,
                namespace_id: self.store.namespace_id(&namespace.name)?,
                now,
            };
            look.files()?;
            look.waiting()?;
            look.uncollected()?;
            look.stock()?;
            look.redemptions()?;
            if read_certificates {
                look.certificates()?;
                self.store.forget_alerts(look.namespace_id, now)?;
            }
        }
        if read_certificates && !stopping() {
            *self.certificates_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now + CERTIFICATES_EVERY);
        }
        Ok(now + LOOK_EVERY)
    }

    fn certificates_are_due(&self, now: DateTime<Utc>) -> bool {
        self.certificates_at.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|at| at <= now)
    }
}

impl Look<'_> {
    /// Low stock, empty soon, about to lapse.
    fn stock(&self) -> Result<(), StoreError> {
        let zone = self.namespace.timezone;
        let open_on = window::open_on(self.now, zone);
        let today = self.now.with_timezone(&zone).date_naive();
        let stock = self.store.stock(self.namespace_id, open_on)?;
        let banks = Totals::by_bank(&stock);
        let days = self.days(today, &banks)?;
        let ladder = self.store.remembered_alerts(self.namespace_id, "low_stock/")?;
        let soon = self.store.remembered_alerts(self.namespace_id, "empty_soon/")?;
        for (bank, totals) in &banks {
            let Some(campaigns) = self.used_by(bank) else { continue };
            let none = BTreeMap::new();
            let outlook =
                forecast::outlook(totals.remaining, totals.handed_out, today, days.get(bank).unwrap_or(&none));
            let level = level(&soon, &format!("empty_soon/{bank}"));
            self.raise_if(forecast::judge(bank, totals.remaining, outlook.as_ref(), today, level))?;
            if let Some(threshold) = self.threshold(bank) {
                let low = LowStock { bank: bank.clone(), remaining: totals.remaining, threshold, campaigns, outlook };
                self.raise_if(ladder::judge(low, totals.size, level_of_bank(&ladder, bank)))?;
            }
        }
        self.lapsing(&stock, open_on)
    }

    fn lapsing(&self, stock: &[Stock], open_on: NaiveDate) -> Result<(), StoreError> {
        let remembered = self.store.remembered_alerts(self.namespace_id, "lapsing/")?;
        for stock in stock {
            let Some(end_date) = stock.end_date else { continue };
            let ending = Ending {
                bank: stock.bank.clone(),
                end_date,
                size: count(stock.size),
                remaining: count(stock.remaining),
            };
            self.raise_if(lapse::judge(&ending, open_on, level(&remembered, &ending.subject())))?;
        }
        Ok(())
    }

    /// How far each bank had been handed out when each of the last days began.
    fn days(
        &self,
        today: NaiveDate,
        banks: &BTreeMap<String, Totals>,
    ) -> Result<BTreeMap<String, BTreeMap<NaiveDate, i64>>, StoreError> {
        let handed_out = banks.iter().map(|(bank, totals)| (bank.clone(), totals.handed_out)).collect();
        let forget_before = today.checked_sub_days(Days::new(2 * forecast::NIGHTS)).unwrap_or(today);
        self.store.stock_days(self.namespace_id, today, &handed_out, forget_before)
    }

    /// The campaigns that use a bank; none for a bank of the site, which is always in use. `None`: nobody uses it, so
    /// nobody misses its codes.
    fn used_by(&self, bank: &str) -> Option<Vec<String>> {
        let campaigns = self.namespace.campaigns.values().filter(|campaign| campaign.bank.as_str() == bank);
        let campaigns: Vec<_> = campaigns.map(|campaign| campaign.name.to_string()).collect();
        let site = self.namespace.banks.get(bank).is_some_and(|bank| bank.audience == Audience::Site);
        (site || !campaigns.is_empty()).then_some(campaigns)
    }

    fn threshold(&self, bank: &str) -> Option<u64> {
        self.namespace.banks.get(bank)?.low_stock
    }

    fn redemptions(&self) -> Result<(), StoreError> {
        let settings = &self.namespace.redemptions;
        let Some(expected_by) = settings.expected_by else { return Ok(()) };
        let remembered = self.store.remembered_alerts(self.namespace_id, "redemptions_late/")?;
        let memory: Memory = remembered
            .into_iter()
            .map(|(subject, remembered)| (subject, (remembered.level, remembered.changed_at)))
            .collect();
        let arrivals = self.store.redemption_arrivals(self.namespace_id, Feed::look_back(self.now))?;
        let newest = self.store.newest_redemptions(self.namespace_id)?;
        // No setting is longer than six hours.
        let grace = TimeDelta::from_std(settings.grace).unwrap_or_default();
        let (skipped, zone) = (&settings.skipped, self.namespace.timezone);
        let feed = Feed { expected_by, grace, skipped, zone, arrivals: &arrivals, newest };
        feed.judge(&memory, self.now).iter().try_for_each(|change| self.raise(change))
    }

    fn certificates(&self) -> Result<(), StoreError> {
        let remembered = self.store.remembered_alerts(self.namespace_id, "certificate_expiring/")?;
        for (fingerprint, used) in certificates::used(self.namespace, self.now) {
            let level = level(&remembered, &format!("certificate_expiring/{fingerprint}"));
            self.raise_if(certificates::judge(&fingerprint, &used, level))?;
        }
        Ok(())
    }

    fn raise_if(&self, change: Option<Change>) -> Result<(), StoreError> {
        change.map_or(Ok(()), |change| self.raise(&change))
    }

    /// Remembers the change, writes the mails, then logs; all of it only if no other daemon was first.
    fn raise(&self, change: &Change) -> Result<(), StoreError> {
        let message = change.alert.as_ref().map(|alert| wording::say(alert, self.namespace.timezone));
        let level = LevelChange {
            namespace_id: self.namespace_id,
            subject: &change.subject,
            from: change.from,
            to: change.to,
            forget_at: change.forget_at,
        };
        let first = self.store.transaction(|transaction| {
            let Some(instance) = alerts::change_level(transaction, &level, self.now)? else { return Ok(false) };
            if let (Some(alert), Some(message), Some(mail)) = (&change.alert, &message, self.mail) {
                let key = format!("{}#{instance}", change.subject);
                self.put_mails(transaction, mail, &key, alert.severity(), message)?;
            }
            Ok::<_, StoreError>(true)
        })?;
        if let (true, Some(alert), Some(message)) = (first, &change.alert, &message) {
            self.log(alert, &change.subject, &message.headline);
        }
        Ok(())
    }

    fn put_mails(
        &self,
        transaction: &mut crate::store::Transaction,
        mail: &MailSettings,
        key: &str,
        severity: Severity,
        message: &Message,
    ) -> Result<(), StoreError> {
        let when = wording::local(self.now, self.namespace.timezone);
        let rendered = template::render(message, severity, self.namespace.name.as_str(), &when);
        let ids: Vec<_> = self.namespace.notify.iter().map(|recipient| self.message_id(mail, key, recipient)).collect();
        let recipients = self.namespace.notify.iter().zip(&ids);
        let rows: Vec<_> = recipients
            .map(|(recipient, message_id)| NewMail {
                namespace_id: self.namespace_id,
                alert_key: key,
                recipient,
                message_id,
                subject: &rendered.subject,
                text_body: &rendered.text,
                html_body: &rendered.html,
                created_at: self.now,
            })
            .collect();
        mails::put(transaction, &rows)
    }

    /// Not made of ids: a new store counts from 1 again, and servers drop what they take for a copy.
    fn message_id(&self, mail: &MailSettings, key: &str, recipient: &str) -> String {
        let mut hash = Sha256::default();
        for part in [self.namespace.name.as_str(), key, recipient, &self.now.to_rfc3339()] {
            hash.update(part.as_bytes());
            hash.update(&[0]);
        }
        let id: String = hexadecimal(&hash.finish()).chars().take(32).collect();
        let domain = mail.from.rsplit('@').next().unwrap_or_default().trim_end_matches('>');
        format!("<{id}@{domain}>")
    }

    fn log(&self, alert: &Alert, subject: &str, headline: &str) {
        let (kind, namespace) = (alert.kind(), &self.namespace.name);
        match alert.severity() {
            Severity::Notice => tracing::info!(alert.kind = kind, alert.subject = subject, %namespace, "{headline}"),
            Severity::Warning => tracing::warn!(alert.kind = kind, alert.subject = subject, %namespace, "{headline}"),
            Severity::Error => tracing::error!(alert.kind = kind, alert.subject = subject, %namespace, "{headline}"),
        }
    }
}

/// A bank's stock, all end dates together.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    size: u64,
    handed_out: i64,
    remaining: u64,
}

impl Totals {
    fn by_bank(stock: &[Stock]) -> BTreeMap<String, Self> {
        let mut banks: BTreeMap<String, Self> = BTreeMap::new();
        for stock in stock {
            let totals = banks.entry(stock.bank.clone()).or_default();
            totals.size += count(stock.size);
            totals.handed_out += stock.handed_out;
            totals.remaining += count(stock.remaining);
        }
        banks
    }
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn level(remembered: &BTreeMap<String, Remembered>, subject: &str) -> Option<i32> {
    remembered.get(subject).map(|remembered| remembered.level)
}

fn level_of_bank(remembered: &BTreeMap<String, Remembered>, bank: &str) -> Option<i32> {
    level(remembered, &format!("low_stock/{bank}"))
}
