//! The private PostgreSQL: the store for whoever sets no `url` in `[database]`.
//!
//! It is the distribution's own `postgres`, run as a child of the daemon with its data under `<state_dir>/postgres`
//! ([`directories`]), reachable through one Unix socket in a directory that nobody else can enter, never over TCP, and
//! as durable as any: fsync stays on. On one state directory one process owns the server ([`ownership`]) and keeps it
//! running ([`keeper`]); others may use it.
//!
//! What happens when something dies: the server, it is started again and the store's connections reconnect; the owner,
//! the kernel tells the server to shut down, and whoever comes next waits for that ([`postmaster`]); both at once, the
//! next start recovers.
//!
//! Everything here blocks: call it before the runtime starts, or through `spawn_blocking`.

mod account;
mod binaries;
mod cluster;
mod directories;
mod error;
mod keeper;
mod ownership;
mod postmaster;
mod settings;

pub use error::PrivateServerError;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use directories::Directories;
use keeper::{Keeper, Plan};
use ownership::{Attachment, Ownership};

/// How a private PostgreSQL is started. The default is what users run.
#[derive(Clone, Debug)]
pub struct PrivateServerOptions {
    /// Whether a commit survives a power cut. Only tests say no.
    pub durable: bool,
    /// How long to wait for another owner of the same state directory to end, or to become ready.
    pub patience: Duration,
}

impl Default for PrivateServerOptions {
    fn default() -> Self {
        Self { durable: true, patience: Duration::from_secs(10) }
    }
}

/// A private PostgreSQL that runs, owned or joined. An owned one stops when this is dropped.
#[derive(Debug)]
pub struct PrivateServer {
    url: String,
    hold: Hold,
}

#[derive(Debug)]
enum Hold {
    // The fields are dropped in this order: the server has ended before its ownership is given up.
    Owner { keeper: Keeper, wait_for_attached: Duration, short_socket_directory: Option<PathBuf>, ownership: Ownership },
    Attached { _attachment: Attachment },
}

impl PrivateServer {
    /// Starts the server of `state_dir`, its cluster made at the first start, and waits until it is ready.
    ///
    /// # Errors
    /// Every [`PrivateServerError`]; after ten seconds [`PrivateServerError::InUse`] when another process owns it.
    pub fn start(state_dir: &Path) -> Result<Self, PrivateServerError> {
        Self::start_with(state_dir, &PrivateServerOptions::default())
    }

    /// [`PrivateServer::start`] with other options.
    ///
    /// # Errors
    /// As [`PrivateServer::start`].
    pub fn start_with(state_dir: &Path, options: &PrivateServerOptions) -> Result<Self, PrivateServerError> {
        let state_dir = directories::make_root(state_dir)?;
        let ownership = Ownership::take(&Directories::root_of(&state_dir), options.patience)?;
        Self::run(&state_dir, options, ownership, Duration::ZERO)
    }

    /// For a command that runs for a moment: joins the server of a running daemon, or starts it for as long as this
    /// value lives (and as others have joined it, up to a minute more).
    ///
    /// # Errors
    /// Every [`PrivateServerError`]
    pub fn attach_or_start(state_dir: &Path) -> Result<Self, PrivateServerError> {
        Self::attach_or_start_with(state_dir, &PrivateServerOptions::default())
    }

    /// [`PrivateServer::attach_or_start`] with other options.
    ///
    /// # Errors
    /// As [`PrivateServer::attach_or_start`].
    pub fn attach_or_start_with(state_dir: &Path, options: &PrivateServerOptions) -> Result<Self, PrivateServerError> {
        const LINGER: Duration = Duration::from_secs(60);
        const TICK: Duration = Duration::from_millis(50);
        let state_dir = directories::make_root(state_dir)?;
        let root = Directories::root_of(&state_dir);
        let deadline = Instant::now() + options.patience;
        loop {
            if let Some(ownership) = Ownership::try_take(&root)? {
                return Self::run(&state_dir, options, ownership, LINGER);
            }
            if let Some(attachment) = Attachment::try_join(&root)? {
                let url = url(&attachment.socket_directory, cluster::NAME);
                return Ok(Self { url, hold: Hold::Attached { _attachment: attachment } });
            }
            if Instant::now() >= deadline {
                let log = root.join("postgres.log");
                return Err(PrivateServerError::OwnerNotReady { holder: ownership::holder(&root), log });
            }
            std::thread::park_timeout(TICK);
        }
    }

    fn run(
        state_dir: &Path,
        options: &PrivateServerOptions,
        ownership: Ownership,
        wait_for_attached: Duration,
    ) -> Result<Self, PrivateServerError> {
        let directories = Directories::prepare(state_dir)?;
        let binaries = binaries::find(&directories.data, directories.data_major())?;
        if !directories.data.exists() {
            tracing::info!(data = %directories.data.display(), version = binaries.major, "making the private PostgreSQL's data");
            cluster::make(&directories, &binaries, options.durable)?;
        }
        let socket_directory = directories.socket_directory.clone();
        let keeper = Keeper::start(Plan { postgres: binaries.postgres, directories, durable: options.durable })?;
        cluster::ensure_database(&url(&socket_directory, "postgres"))?;
        let short_socket_directory = (!socket_directory.starts_with(state_dir)).then(|| socket_directory.clone());
        let hold = Hold::Owner { keeper, wait_for_attached, short_socket_directory, ownership };
        Ok(Self { url: url(&socket_directory, cluster::NAME), hold })
    }

    /// How to connect: libpq keywords, through the socket.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether this process runs the server, not another.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        matches!(self.hold, Hold::Owner { .. })
    }

    /// How often the server had to be started again because it ended by itself; 0 for one that another process owns.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        match &self.hold {
            Hold::Owner { keeper, .. } => keeper.restarts(),
            Hold::Attached { .. } => 0,
        }
    }

    /// Stops an owned server and waits until it has ended; leaves one that another process owns. Dropping does the same.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        if let Hold::Owner { keeper, wait_for_attached, short_socket_directory, ownership } = &mut self.hold {
            ownership.wait_for_attached(*wait_for_attached);
            keeper.stop();
            if let Some(directory) = short_socket_directory
                && let Err(error) = std::fs::remove_dir(&directory)
            {
                tracing::debug!(directory = %directory.display(), %error, "the socket directory stays");
            }
        }
    }
}

/// A libpq keyword string. The values are quoted, so that a directory may have any name.
fn url(socket_directory: &Path, database: &str) -> String {
    let host = socket_directory.display().to_string().replace('\\', "\\\\").replace('\'', "\\'");
    format!(
        "host='{host}' port=5432 user={} dbname={database} application_name=coupond connect_timeout=5",
        cluster::NAME
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_may_have_any_name() {
        let check = |directory: &str, expected: &str| {
            assert!(
                url(Path::new(directory), "d").starts_with(&format!("host='{expected}' port=5432 ")),
                "{directory}"
            );
        };
        check("/var/lib/coupond/postgres/pgsock", "/var/lib/coupond/postgres/pgsock");
        check("/a b/it's", "/a b/it\\'s");
        check("/back\\slash", "/back\\\\slash");
    }
}
