//! The SFTP endpoint: accepts connections ([`listener`]), logs users in ([`auth`]), and answers SFTP version 3 on each
//! channel ([`session`], [`channel`], [`engine`]). russh carries SSH; nothing else in the crate knows it.
//!
//! What a request may do is decided in one order, whatever the request: the path is cleaned once ([`path`]), placed in
//! the user's tree ([`tree`]), looked up in one table ([`permissions`]), and only then done: inbound files by
//! [`crate::spool::Reception`], files on disk beneath a directory handle ([`jail`]).
//!
//! Nothing is kept here across a restart but the host key ([`host_keys`]). A session that ends, however it ends, leaves
//! partial files that its user may resume. One connection's panic ends that connection.

mod auth;
mod channel;
mod engine;
mod entry;
mod handles;
pub mod host_keys;
mod jail;
mod listener;
mod packet;
mod path;
mod permissions;
mod session;
mod stream;
mod tree;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use host_keys::{HostKeyError, HostKeys};

use crate::clock::Clock;
use crate::config::{LiveSettings, Name};
use crate::spool::Reception;
use crate::store::Store;
use crate::telemetry::Metrics;

/// A finished download of an outbound file: read to its end, then closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pickup {
    /// The user's namespace.
    pub namespace: Name,
    /// The user.
    pub user: String,
    /// The path as the user sees it.
    pub path: Vec<u8>,
    /// Its size.
    pub bytes: u64,
}

/// Called for every finished download. Must not block.
pub type Collected = Arc<dyn Fn(&Pickup) + Send + Sync>;

/// What an endpoint is made of.
pub struct Parts {
    /// Settings; listen addresses are read once, everything else as it changes.
    pub live: LiveSettings,
    /// The store.
    pub store: Store,
    /// Receives uploads.
    pub reception: Arc<Reception>,
    /// The clock of what clients are shown; timers run on the machine's own.
    pub clock: Clock,
    /// The host keys.
    pub host_keys: HostKeys,
    /// Told about every finished download.
    pub collected: Collected,
    /// What is counted.
    pub metrics: Metrics,
    /// How long a stop waits for sessions that have files open.
    pub drain: Duration,
}

/// The endpoint cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("listen for SFTP on {address}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// What every session shares.
struct Shared {
    live: LiveSettings,
    store: Store,
    reception: Arc<Reception>,
    clock: Clock,
    collected: Collected,
    metrics: Metrics,
    passwords: auth::Passwords,
    started: DateTime<Utc>,
    stopping: AtomicBool,
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// An endpoint that listens, and accepts once [`Endpoint::run`] is called.
pub struct Endpoint {
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
    ssh: Arc<russh::server::Config>,
    drain: Duration,
}

impl Endpoint {
    /// Binds every listen address of the settings in force.
    ///
    /// # Errors
    /// [`ListenError`] with the first address that cannot be bound.
    pub async fn bind(parts: Parts) -> Result<Self, ListenError> {
        let settings = parts.live.current();
        let mut listeners = Vec::new();
        for address in settings.sftp.listen.iter().copied() {
            let listener = TcpListener::bind(address).await;
            listeners.push(listener.map_err(|source| ListenError { address, source })?);
        }
        let ssh = Arc::new(session::ssh_config(parts.host_keys, &settings.limits));
        let shared = Arc::new(Shared {
            started: parts.clock.now(),
            live: parts.live,
            store: parts.store,
            reception: parts.reception,
            clock: parts.clock,
            collected: parts.collected,
            metrics: parts.metrics,
            passwords: auth::Passwords::new(),
            stopping: AtomicBool::new(false),
        });
        Ok(Self { listeners, shared, ssh, drain: parts.drain })
    }

    /// The addresses it listens on; a port 0 in the settings has become a real one.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until `stop`. Then takes no connection and no new upload, waits up to `drain` for sessions that have files
    /// open, ends the rest, and returns when every interrupted upload is kept as a partial file.
    pub async fn run(self, stop: CancellationToken) {
        listener::run(self.listeners, self.shared, self.ssh, (stop, self.drain)).await;
    }
}
