//! The validated settings of `coupond.toml`: every default filled in, every path absolute, every size and time with its unit.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Name, Namespace, User};

/// Everything the admin decided, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the configuration came from.
    pub file: PathBuf,
    /// The daemon's own directory: store, spool, keys, namespaces.
    pub state_dir: PathBuf,
    /// The SFTP endpoint.
    pub sftp: SftpSettings,
    /// Where the store is.
    pub database: DatabaseSettings,
    /// Where alerts are mailed; `None`: they are only logged, because the admin left the section out.
    pub mail: Option<MailSettings>,
    /// The daemon's own OpenPGP keys.
    pub openpgp: OpenpgpSettings,
    /// Where health and metrics are served.
    pub http: SocketAddr,
    /// Times of the spool.
    pub spool: SpoolSettings,
    /// Limits on everything from outside.
    pub limits: Limits,
    /// Every namespace by its name.
    pub namespaces: BTreeMap<Name, Namespace>,
}

impl Settings {
    /// The user called `user` and the namespace it belongs to. User names are unique across namespaces.
    #[must_use]
    pub fn user(&self, user: &str) -> Option<(&Namespace, &User)> {
        self.namespaces.values().find_map(|namespace| Some((namespace, namespace.users.get(user)?)))
    }
}

/// `[sftp]`
#[derive(Clone, Debug)]
pub struct SftpSettings {
    /// Addresses to listen on; at least one.
    pub listen: Vec<SocketAddr>,
    /// Host key files; empty: one made at first start under `state_dir/ssh`.
    pub host_keys: Vec<PathBuf>,
}

/// `[database]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseSettings {
    /// A PostgreSQL that the daemon starts itself under `state_dir`.
    Private,
    /// A server at this libpq URL.
    Url(String),
}

/// `[mail]`
#[derive(Clone, Debug)]
pub struct MailSettings {
    /// `smtp://` or `smtps://`, user name allowed, password not.
    pub url: String,
    /// The sender.
    pub from: String,
    /// File whose first line is the password.
    pub password_file: Option<PathBuf>,
}

/// `[openpgp]`
#[derive(Clone, Debug)]
pub struct OpenpgpSettings {
    /// Secret key files; empty: one made at first start under `state_dir/openpgp`.
    pub secret_keys: Vec<PathBuf>,
}

/// `[spool]`
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    /// How long a locally dropped file must be still before it is taken.
    pub settle: Duration,
    /// How long a name stays visible after CLOSE.
    pub linger: Duration,
    /// How long a partial file is kept for resume.
    pub partial_keep: Duration,
    /// How long originals are kept in the archive.
    pub archive_keep: Duration,
}

/// `[limits]`, design.md section 11. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest upload as received.
    pub upload_bytes: u64,
    /// Largest plaintext of one upload.
    pub plaintext_bytes: u64,
    /// Plaintext per byte of ciphertext, checked after the first 64 MiB of plaintext.
    pub plaintext_ratio: u64,
    /// Layers of OpenPGP and compression inside one another.
    pub nesting: usize,
    /// Longest row.
    pub row_bytes: usize,
    /// Longest code.
    pub code_bytes: usize,
    /// Longest `customer_id`.
    pub customer_id_bytes: usize,
    /// How many rejected rows refuse a whole file.
    pub reject: RejectLimit,
    /// Bytes that a namespace may keep in the spool.
    pub quota_bytes: u64,
    /// Free bytes that must remain on the file system.
    pub free_space_bytes: u64,
    /// Sessions in all.
    pub sessions: usize,
    /// Sessions per source address (IPv6: per /64).
    pub sessions_per_source: usize,
    /// Connections that have not logged in yet.
    pub sessions_before_login: usize,
    /// Time from connect to logged in.
    pub login_grace: Duration,
    /// Failed attempts per connection.
    pub login_attempts: usize,
    /// Idle time of a session, by SFTP requests.
    pub idle: Duration,
    /// Files open per session.
    pub open_files: usize,
    /// Directories open per session.
    pub open_directories: usize,
    /// How long a claim on an upload or a batch holds without renewal.
    pub lease: Duration,
}

/// A file is refused as a whole when either bound is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectLimit {
    /// Rejected rows.
    pub rows: u64,
    /// Rejected rows in percent of rows read, judged after 300 rows.
    pub percent: u8,
}
