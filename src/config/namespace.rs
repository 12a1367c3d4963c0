//! The validated settings of one namespace: `namespaces/<name>.toml`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::NaiveTime;
use chrono_tz::Tz;
use ipnet::IpNet;

use super::{Name, RedemptionFeed};

/// One brand: its users, directories, keys, banks, campaigns.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// The file's stem.
    pub name: Name,
    /// The zone of end dates, schedules and deadlines.
    pub timezone: Tz,
    /// Mail addresses for alerts.
    pub notify: Vec<String>,
    /// Whether `/exchange/` exists.
    pub exchange: bool,
    /// Whether users may delete from `/assignments` and `/reports`.
    pub may_delete_collected: bool,
    /// What happens to a `bank_name` that the configuration does not declare.
    pub new_banks: NewBanks,
    /// SFTP users by name.
    pub users: BTreeMap<String, User>,
    /// What inbound files must be.
    pub openpgp: NamespaceOpenpgp,
    /// Declared banks by name.
    pub banks: BTreeMap<Name, Bank>,
    /// Campaigns by name.
    pub campaigns: BTreeMap<Name, Campaign>,
    /// The daily redemption file.
    pub redemptions: RedemptionFeed,
}

/// What a `bank_name` that nobody declared does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewBanks {
    /// The row is rejected.
    Reject,
    /// The bank is created: persistent, communicate, other.
    Create,
}

/// One SFTP user.
#[derive(Clone, Debug)]
pub struct User {
    /// What it sees.
    pub role: Role,
    /// OpenSSH public keys, one line each.
    pub public_keys: Vec<String>,
    /// Argon2 hash in PHC form. With `public_keys` too, either one lets the user in.
    pub password_hash: Option<String>,
    /// Networks it may come from; empty: any.
    pub allow_from: Vec<IpNet>,
}

/// What a user sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Coupons, redemptions, their checks and reports.
    Client,
    /// Recipients, assignments, their checks and reports.
    Campaigns,
    /// Everything.
    All,
}

/// `[openpgp]` of a namespace.
#[derive(Clone, Debug)]
pub struct NamespaceOpenpgp {
    /// The least that an inbound file must be.
    pub require: Require,
    /// Certificates whose signatures count.
    pub signers: Vec<PathBuf>,
}

/// The least that an inbound file must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Require {
    /// Plain files are fine.
    None,
    /// Encrypted to the daemon.
    Encrypted,
    /// Encrypted, and signed by one of `signers`.
    Signed,
}

/// A declared bank.
#[derive(Clone, Debug)]
pub struct Bank {
    /// Its name.
    pub name: Name,
    /// Who gets its codes.
    pub audience: Audience,
    /// Whether a customer keeps the code held.
    pub persistent: bool,
    /// What makes two holds different.
    pub persist_per: PersistPer,
    /// A memory aid.
    pub offer_type: OfferType,
    /// Alert below this many remaining codes.
    pub low_stock: Option<u64>,
    /// What a proof send shows; default `PROOF-<BANK>`.
    pub proof_code: String,
    /// The static code of `when_short = "fallback"`.
    pub fallback_code: Option<String>,
}

/// Who gets a bank's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Known customers, by campaign.
    Communicate,
    /// Anonymous visitors: never persistent, no batches.
    Site,
}

impl Audience {
    /// The word in configuration and store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Communicate => "communicate",
            Self::Site => "site",
        }
    }
}

/// What makes two holds in one bank different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersistPer {
    /// One hold per customer.
    Customer,
    /// One hold per customer and channel.
    Channel,
}

/// A memory aid on banks and lots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OfferType {
    /// `free_shipping`
    FreeShipping,
    /// `percent_off`
    PercentOff,
    /// `amount_off`
    AmountOff,
    /// `bogo`
    Bogo,
    /// `other`
    Other,
}

impl OfferType {
    /// Every offer type.
    pub const EVERY: [Self; 5] = [Self::FreeShipping, Self::PercentOff, Self::AmountOff, Self::Bogo, Self::Other];

    /// The word in files, configuration and store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FreeShipping => "free_shipping",
            Self::PercentOff => "percent_off",
            Self::AmountOff => "amount_off",
            Self::Bogo => "bogo",
            Self::Other => "other",
        }
    }

    /// The offer type that `text` names exactly.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::EVERY.into_iter().find(|offer| offer.as_str() == text)
    }
}

/// Channel + bank + schedule.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Its name.
    pub name: Name,
    /// The bank its codes come from; declared in the same namespace, audience communicate.
    pub bank: Name,
    /// How the customer is reached.
    pub channel: Channel,
    /// When its batches run.
    pub schedule: Schedule,
    /// Local time at which the sender sends: end dates are judged at the first such time from a batch's start on. `None`: at
    /// the start.
    pub send_at: Option<NaiveTime>,
    /// Local time by which an export is to be collected: the first such time from its export on. `None`: whenever.
    pub collect_by: Option<NaiveTime>,
    /// What happens when stock is short.
    pub when_short: WhenShort,
    /// Certificate that assignment files are encrypted to.
    pub encrypt_to: Option<PathBuf>,
}

/// How the customer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// E-mail.
    Email,
    /// SMS or MMS.
    Sms,
}

impl Channel {
    /// The word in configuration and store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Sms => "sms",
        }
    }
}

/// When a campaign's batches run.
#[derive(Clone, Debug)]
pub enum Schedule {
    /// As soon as a recipients list is accepted.
    OnArrival,
    /// At these local times, in the namespace's zone.
    Cron(Box<cron::Schedule>),
}

/// What a batch does when stock is short of need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenShort {
    /// Nothing is handed out; it goes on by itself after a refill.
    Wait,
    /// In the file's order; the rest is unassigned.
    Partial,
    /// The rest gets the bank's `fallback_code`.
    Fallback,
}
