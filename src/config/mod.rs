//! Configuration: TOML as the admin wrote it ([`raw`]) becomes [`Settings`] that need no further judging.
//!
//! A file is read strictly: an unknown key, a wrong type or a value that makes no sense is an error that names the file,
//! the line, the key and what to do. A bad file never falls back to defaults.

mod live;
mod name;
mod namespace;
mod settings;

pub use live::LiveSettings;
pub use name::{InvalidName, Name};
pub use namespace::{
    Audience, Bank, Campaign, Channel, Namespace, NamespaceOpenpgp, NewBanks, OfferType, PersistPer, RedemptionFeed,
    Require, Role, Schedule, User, WhenShort, WhenStale,
};
pub use settings::{
    DatabaseSettings, Limits, MailSettings, OpenpgpSettings, RejectLimit, Settings, SftpSettings, SpoolSettings,
};
