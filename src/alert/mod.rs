//! Alerts: which exist, when each is raised, what it says, and how it reaches people.
//!
//! ```text
//! Watch   look at the store -> judge each thing against what is remembered of it -> remember, mail and log in one go
//! Mailer  outbox -> claim -> mail server says 250 -> sent
//! ```
//! [`kinds`] lists the alerts. The judges are pure: [`ladder`] (low stock), [`forecast`] (empty soon), [`lapse`] (codes about
//! to lapse), [`feed`] (redemptions late), [`uncollected`] (exports that nobody fetched), [`certificates`], [`refusal`] (what a
//! mail says about a refused file).
//! [`wording`] says an alert, [`template`] gives it the form of a mail. The store remembers a level per subject in `alert`:
//! an alert is raised where the level rises, once, however many daemons look; mails go into the `mail` table in the same
//! transaction, one row a recipient. The two workers are threads of their own: nothing here can hold up a batch or an
//! upload. Without `[mail]` (or without `notify`) alerts are only logged.
//!
//! **Never twice, and what that rests on.** A mail is claimed under a lease that is longer than any conversation with the
//! server can take, and marked as sent right after the server's 250, under the fence of the claim. One gap is left that no
//! sender can close: if the daemon dies between the 250 and the mark, or the server takes the message over and its answer is
//! lost, the mail is sent again. So a mail has the same Message-ID in every attempt, by which servers and readers
//! recognise the copy (points at which a test ends the process: `mail-claimed`, `mail-accepted`, `mail-before-mark`,
//! `mail-marked`); and the server's last answer is awaited for ten minutes, as RFC 5321 (4.5.3.2.6) asks for this reason.

pub mod certificates;
pub mod feed;
pub mod forecast;
pub mod kinds;
pub mod ladder;
pub mod lapse;
mod mailer;
pub mod refusal;
mod server;
mod smtp;
pub mod template;
pub mod uncollected;
mod watch;
pub mod wording;

pub use mailer::Mailer;
pub use smtp::Timeouts;
pub use watch::Watch;
