//! Configuration: TOML as the admin wrote it becomes [`Settings`] that need no further judging.
//!
//! A file is read strictly: an unknown key, a wrong type or a value that makes no sense is an error that names the file,
//! the line, the key and what to do. A bad file never falls back to defaults.

mod environment;
mod feed;
mod judge;
mod keys;
mod live;
mod load;
mod name;
mod namespace;
mod openssh;
mod problem;
mod raw;
mod restart;
mod sections;
mod settings;
mod source;
mod values;

pub use environment::variables;
pub use feed::{RedemptionFeed, SkippedDays, WhenStale};
pub use keys::{Key, Shape};
pub use live::LiveSettings;
pub use load::{load, main_keys, namespace_keys};
pub use name::{InvalidName, Name};
pub use namespace::{
    Audience, Bank, Campaign, Channel, Namespace, NamespaceOpenpgp, NewBanks, OfferType, PersistPer, Require, Role,
    Schedule, User, WhenShort,
};
pub use problem::{ConfigError, Origin, Problem};
pub use restart::needs_restart;
pub use settings::{
    DatabaseSettings, Limits, MailSettings, OpenpgpSettings, RejectLimit, Settings, SftpSettings, SpoolSettings,
};
