//! Empties the outbox: claims what is due, hands it to the mail server, marks it as sent.
//!
//! A mail that the server refuses is tried again after 1, 2, 4, … minutes, at most 6 hours, for as long as its recipient is
//! in `notify`. When the server itself is in trouble all mails wait, 1, 2, 4, … minutes, at most 15: then one attempt shows
//! whether it is well again. How often it failed is kept in memory: a restart tries at once.

use chrono::{DateTime, TimeDelta, Utc};
use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message};

use super::server::Server;
use super::smtp::{Connector, Conversation, Timeouts, Trouble, With};
use crate::clock::Clock;
use crate::config::{LiveSettings, MailSettings, Namespace};
use crate::store::mails::ClaimedMail;
use crate::store::{Store, StoreError};

/// Longest pause of one mail.
const MAIL_PAUSE: TimeDelta = TimeDelta::hours(6);
/// Longest pause of the server.
const SERVER_PAUSE: TimeDelta = TimeDelta::minutes(15);
/// How long a mail is kept after it was sent.
const KEPT: TimeDelta = TimeDelta::days(30);
/// Mails of one namespace in a row, before the next has its turn.
const IN_A_ROW: usize = 50;
/// How often what is old is looked for.
const FORGET_EVERY: TimeDelta = TimeDelta::hours(1);

/// Sends what is due. One thread's: [`Mailer::tick`] blocks as long as the mail server does.
pub struct Mailer {
    store: Store,
    live: LiveSettings,
    clock: Clock,
    timeouts: Timeouts,
    connector: Connector,
    rest: Option<Rest>,
    forget_at: Option<DateTime<Utc>>,
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailer").finish_non_exhaustive()
    }
}

/// The server is left alone.
struct Rest {
    /// Which server: another one is tried at once.
    url: String,
    failures: i32,
    until: DateTime<Utc>,
}

/// What one attempt came to.
enum Sent {
    /// The outbox of this namespace has nothing that is due.
    Nothing,
    /// The next one may be tried.
    Next,
    /// Nothing can be sent now.
    Rest,
}

impl Mailer {
    /// A mailer on `store`.
    #[must_use]
    pub fn new(store: Store, live: LiveSettings, clock: Clock) -> Self {
        let (timeouts, connector) = (Timeouts::default(), Connector::default());
        Self { store, live, clock, timeouts, connector, rest: None, forget_at: None }
    }

    /// The same with other timeouts.
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Sends what is due. Returns when there will be something to do again, if the outbox holds anything.
    ///
    /// # Errors
    /// Any [`StoreError`]: what is due stays due. A mail server in trouble is no error.
    pub fn tick(&mut self, stopping: &dyn Fn() -> bool) -> Result<Option<DateTime<Utc>>, StoreError> {
        let settings = self.live.current();
        let Some(mail) = &settings.mail else { return Ok(None) };
        let now = self.clock.now();
        if let Some(rest) = self.rest.as_ref().filter(|rest| rest.url == mail.url && rest.until > now) {
            return Ok(Some(rest.until));
        }
        let mut conversation = None;
        let mut more = false;
        let mut result = Ok(());
        for namespace in settings.namespaces.values() {
            match self.send_some(mail, namespace, &mut conversation, stopping) {
                Ok(left) => more |= left,
                Err(error) => result = Err(error),
            }
            if result.is_err() || stopping() || self.rest.as_ref().is_some_and(|rest| rest.until > now) {
                break;
            }
        }
        if let Some(conversation) = conversation {
            Conversation::quit(conversation);
        }
        result?;
        self.next(settings.namespaces.values(), more)
    }

    fn next<'a>(
        &mut self,
        namespaces: impl Iterator<Item = &'a Namespace>,
        more: bool,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let now = self.clock.now();
        if let Some(rest) = self.rest.as_ref().filter(|rest| rest.until > now) {
            return Ok(Some(rest.until));
        }
        let forget = self.forget_at.is_none_or(|at| at <= now);
        let mut next = more.then_some(now);
        for namespace in namespaces {
            let namespace_id = self.store.namespace_id(&namespace.name)?;
            if forget {
                self.store.forget_mails(namespace_id, now - KEPT)?;
            }
            next = next.into_iter().chain(self.store.next_mail(namespace_id, now)?).min();
        }
        if forget {
            self.forget_at = Some(now + FORGET_EVERY);
        }
        Ok(next)
    }

    /// Sends some of the mails of one namespace. Says whether there may be more.
    fn send_some(
        &mut self,
        mail: &MailSettings,
        namespace: &Namespace,
        conversation: &mut Option<Conversation>,
        stopping: &dyn Fn() -> bool,
    ) -> Result<bool, StoreError> {
        for _ in 0..IN_A_ROW {
            if stopping() {
                return Ok(false);
            }
            match self.send_next(mail, namespace, conversation)? {
                Sent::Next => {}
                Sent::Nothing | Sent::Rest => return Ok(false),
            }
        }
        Ok(true)
    }

    fn send_next(
        &mut self,
        mail: &MailSettings,
        namespace: &Namespace,
        conversation: &mut Option<Conversation>,
    ) -> Result<Sent, StoreError> {
        let namespace_id = self.store.namespace_id(&namespace.name)?;
        let now = self.clock.now();
        let lease = TimeDelta::from_std(self.timeouts.longest()).unwrap_or(MAIL_PAUSE);
        let Some(claimed) = self.store.claim_mail(namespace_id, now, now + lease)? else { return Ok(Sent::Nothing) };
        if !namespace.notify.contains(&claimed.recipient) {
            self.store.withdraw_mail(&claimed, now)?;
            tracing::info!(mail.id = claimed.id, namespace = %namespace.name, "Withdrew a mail whose recipient is not notified any more");
            return Ok(Sent::Next);
        }
        fail::fail_point!("mail-claimed", |_| std::process::abort());
        let sent = self.send(mail, &claimed, conversation);
        // Who speaks on after trouble would have to know what the server made of it.
        if sent.is_err() {
            *conversation = None;
        }
        match sent {
            Ok(()) => {
                self.rest = None;
                self.sent(&claimed, namespace)?;
                Ok(Sent::Next)
            }
            Err(trouble) => self.failed(&claimed, namespace, mail, &trouble),
        }
    }

    fn send(
        &mut self,
        mail: &MailSettings,
        claimed: &ClaimedMail,
        conversation: &mut Option<Conversation>,
    ) -> Result<(), Trouble> {
        let from: Mailbox = mail
            .from
            .parse()
            .map_err(|_| Trouble::server("read `from` in `[mail]`: it is not a mail address", true))?;
        let (to, message) = compose(&from, claimed)?;
        let talk = match conversation {
            Some(talk) => talk,
            None => {
                let server = Server::parse(&mail.url, mail.password_file.is_some())
                    .ok_or_else(|| Trouble::server("read `url` in `[mail]`: it names no server", true))?;
                let (password, hello) = (mail.password_file.as_deref(), from.email.domain());
                let opened = self.connector.connect(&server, password, hello, self.timeouts)?;
                conversation.insert(opened)
            }
        };
        talk.deliver(&from.email, &to, &message)
    }

    fn sent(&self, claimed: &ClaimedMail, namespace: &Namespace) -> Result<(), StoreError> {
        fail::fail_point!("mail-before-mark", |_| std::process::abort());
        let marked = self.store.mail_sent(claimed, self.clock.now())?;
        fail::fail_point!("mail-marked", |_| std::process::abort());
        if marked {
            tracing::info!(mail.id = claimed.id, namespace = %namespace.name, alert = claimed.alert_key, "Sent a mail");
        } else {
            tracing::error!(
                mail.id = claimed.id, namespace = %namespace.name,
                "Sent a mail too late to be the only one: another daemon had taken it over",
            );
        }
        Ok(())
    }

    fn failed(
        &mut self,
        claimed: &ClaimedMail,
        namespace: &Namespace,
        mail: &MailSettings,
        trouble: &Trouble,
    ) -> Result<Sent, StoreError> {
        let now = self.clock.now();
        let server = trouble.with != With::Mail;
        let pause = if server {
            let failures = self.rest.take().filter(|rest| rest.url == mail.url).map_or(0, |rest| rest.failures) + 1;
            let pause = pause(failures, SERVER_PAUSE);
            self.rest = Some(Rest { url: mail.url.clone(), failures, until: now + pause });
            pause
        } else {
            self.rest = None;
            pause(claimed.attempts, MAIL_PAUSE)
        };
        // The server's pause holds for every mail; this one need not wait longer than the others.
        let retry_at = if trouble.with == With::Server { now } else { now + pause };
        self.store.mail_failed(claimed, &trouble.whole, retry_at)?;
        let (id, namespace, minutes) = (claimed.id, &namespace.name, pause.num_minutes());
        match (trouble.with, trouble.lasting) {
            (With::Answer, _) => tracing::error!(
                mail.id = id, %namespace, error = trouble.told, retry.minutes = minutes,
                "Cannot tell whether the mail server took a mail over; a copy will have the same Message-ID",
            ),
            (With::Server, true) => tracing::error!(
                error = trouble.told,
                retry.minutes = minutes,
                "The mail server takes no mails from here",
            ),
            (With::Server, false) => {
                tracing::warn!(error = trouble.told, retry.minutes = minutes, "Cannot reach the mail server");
            }
            (With::Mail, true) => tracing::error!(
                mail.id = id, %namespace, error = trouble.told, attempts = claimed.attempts, retry.minutes = minutes,
                "The mail server refuses a mail; see whether the address in `notify` is right",
            ),
            (With::Mail, false) => tracing::warn!(
                mail.id = id, %namespace, error = trouble.told, attempts = claimed.attempts, retry.minutes = minutes,
                "The mail server does not take a mail now",
            ),
        }
        Ok(if server { Sent::Rest } else { Sent::Next })
    }
}

/// 1, 2, 4, … minutes for the first, second, third failure, at most `most`.
fn pause(failures: i32, most: TimeDelta) -> TimeDelta {
    let doublings = u32::try_from(failures.clamp(1, 20) - 1).unwrap_or(0);
    TimeDelta::minutes(1 << doublings).min(most)
}

/// RFC 3834: so that nobody's absence is answered to a daemon.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// The recipient's address and the message.
fn compose(from: &Mailbox, claimed: &ClaimedMail) -> Result<(Address, Vec<u8>), Trouble> {
    let to: Mailbox =
        claimed.recipient.parse().map_err(|_| Trouble::mail("the address in `notify` is not a mail address"))?;
    let address = to.email.clone();
    let part = |kind, body: &str| SinglePart::builder().header(kind).body(body.to_owned());
    let message = Message::builder()
        .from(from.clone())
        .to(to)
        .subject(&claimed.subject)
        .date(claimed.created_at.into())
        .message_id(Some(claimed.message_id.clone()))
        .header(AutoSubmitted)
        .multipart(
            MultiPart::alternative()
                .singlepart(part(ContentType::TEXT_PLAIN, &claimed.text_body))
                .singlepart(part(ContentType::TEXT_HTML, &claimed.html_body)),
        )
        .map_err(|error| Trouble::mail(format!("compose the mail: {error}")))?;
    Ok((address, message.formatted()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        for (failures, minutes) in [(0, 1), (1, 1), (2, 2), (5, 16), (9, 256), (10, 360), (i32::MAX, 360)] {
            assert_eq!(pause(failures, MAIL_PAUSE), TimeDelta::minutes(minutes), "{failures}");
        }
        assert_eq!(pause(7, SERVER_PAUSE), SERVER_PAUSE);
    }
}
