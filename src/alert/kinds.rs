//! Every alert that exists, how bad it is, and what it is about. What it says stands in [`super::wording`].

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};

use super::certificates::Stage;
use super::forecast::Outlook;
use super::refusal::Refusal;
use super::uncollected::Uncollected;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Notice,
    /// Will hurt if nobody acts.
    Warning,
    /// Hurts now: somebody must act.
    Error,
}

impl Severity {
    /// The word in mails.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something that somebody must hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alert {
    /// A bank reached a rung of the ladder.
    LowStock(LowStock),
    /// A bank will be empty soon.
    EmptySoon {
        /// The bank.
        bank: String,
        /// What remains.
        remaining: u64,
        /// When it is empty.
        outlook: Outlook,
    },
    /// Codes are about to lapse that nobody was given.
    Lapsing {
        /// The bank.
        bank: String,
        /// Their end date.
        end_date: NaiveDate,
        /// Codes with that end date.
        size: u64,
        /// Of these, codes that can still be handed out.
        remaining: u64,
    },
    /// No redemption file came by its time.
    RedemptionsLate {
        /// The day.
        date: NaiveDate,
        /// Its local time.
        expected_by: NaiveTime,
        /// When the newest one came.
        newest: Option<DateTime<Utc>>,
    },
    /// It came after all.
    RedemptionsArrived {
        /// The day.
        date: NaiveDate,
        /// Its local time.
        expected_by: NaiveTime,
        /// How late it was.
        late_by: TimeDelta,
    },
    /// A batch waits.
    BatchWaiting {
        /// The batch.
        id: i64,
        /// Its campaign.
        campaign: String,
        /// The bank it draws from.
        bank: String,
        /// The name of its recipients list.
        list: String,
        /// When it became due.
        due_at: DateTime<Utc>,
        /// Why it waits, with numbers.
        waiting_for: String,
        /// Whether it was said before.
        still: bool,
    },
    /// An export was not collected by its time.
    NotCollected(Uncollected),
    /// A file was refused.
    FileRefused(FileRefused),
    /// More files were refused than are mailed one by one.
    FilesRefused(FilesRefused),
    /// A certificate is about to expire, or cannot be used any more.
    CertificateExpiring {
        /// Which one.
        fingerprint: String,
        /// What for.
        uses: Vec<String>,
        /// How far it is.
        stage: Stage,
        /// When it expires, where it says so.
        expires: Option<DateTime<Utc>>,
    },
}

/// A bank reached a rung of the ladder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowStock {
    /// The bank.
    pub bank: String,
    /// What remains.
    pub remaining: u64,
    /// T of the ladder; 0: none is configured.
    pub threshold: u64,
    /// Campaigns that use it; none: it is the site's.
    pub campaigns: Vec<String>,
    /// When it is empty, if it goes on like that.
    pub outlook: Option<Outlook>,
}

/// A file was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRefused {
    /// The upload.
    pub id: i64,
    /// Its file name.
    pub name: String,
    /// `coupons`, `redemptions` or `recipients`.
    pub kind: String,
    /// The bank or campaign that its directory names; empty: none.
    pub target: String,
    /// SFTP user; empty: dropped locally.
    pub user: String,
    /// Whether an admin must act; else the client corrects and resends.
    pub quarantined: bool,
    /// When it was complete.
    pub received_at: DateTime<Utc>,
    /// Why, and its first rejected rows.
    pub refusal: Refusal,
    /// Whether those that follow are counted in one mail.
    pub last_for_now: bool,
}

/// More files were refused than are mailed one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesRefused {
    /// When the first of them was looked at.
    pub since: DateTime<Utc>,
    /// How many.
    pub files: u64,
    /// What they have in common, largest group first.
    pub groups: Vec<RefusedGroup>,
}

/// Refused files that have something in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedGroup {
    /// How many.
    pub files: u64,
    /// Their state: `rejected`, `quarantined`, or what became of them since.
    pub state: String,
    /// `coupons`, `redemptions` or `recipients`.
    pub kind: String,
    /// The bank or campaign that their directory names; empty: none.
    pub target: String,
    /// SFTP user; empty: dropped locally.
    pub user: String,
}

impl Alert {
    /// The stable word in logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::LowStock(_) => "low_stock",
            Self::EmptySoon { .. } => "empty_soon",
            Self::Lapsing { .. } => "lapsing",
            Self::RedemptionsLate { .. } => "redemptions_late",
            Self::RedemptionsArrived { .. } => "redemptions_arrived",
            Self::BatchWaiting { .. } => "batch_waiting",
            Self::NotCollected(_) => "not_collected",
            Self::FileRefused(_) => "file_refused",
            Self::FilesRefused(_) => "files_refused",
            Self::CertificateExpiring { .. } => "certificate_expiring",
        }
    }

    /// How bad it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::RedemptionsArrived { .. } => Severity::Notice,
            Self::LowStock(low) if low.remaining == 0 => Severity::Error,
            Self::FileRefused(file) if file.quarantined => Severity::Error,
            Self::FilesRefused(files) if files.groups.iter().any(|group| group.state == "quarantined") => {
                Severity::Error
            }
            Self::CertificateExpiring { stage: Stage::Unusable, .. } => Severity::Error,
            Self::BatchWaiting { .. } => Severity::Error,
            Self::LowStock(_)
            | Self::EmptySoon { .. }
            | Self::Lapsing { .. }
            | Self::RedemptionsLate { .. }
            | Self::NotCollected(_)
            | Self::FileRefused(_)
            | Self::FilesRefused(_)
            | Self::CertificateExpiring { .. } => Severity::Warning,
        }
    }
}

/// A subject's level changes; sometimes that is worth an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it is about, such as `low_stock/spring26`.
    pub subject: String,
    /// The level that was remembered; `None`: nothing was.
    pub from: Option<i32>,
    /// The new level; 0: well.
    pub to: i32,
    /// What is to be said.
    pub alert: Option<Alert>,
    /// When the subject can be forgotten; `None`: it can come up again.
    pub forget_at: Option<DateTime<Utc>>,
}
