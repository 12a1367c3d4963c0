//! The ledger: what happened to a file, a code, a customer, and what an admin may do about it by hand.
//!
//! Asking changes nothing ([`history`], [`status`], [`rates`], [`contract`]). Acting ([`quarantine`], [`undo`], [`replay`],
//! [`import`], [`erase`], [`batches`]) goes through the same states as everything else and checks the state that it
//! leaves; a daemon may run meanwhile, and picks up what it is given by itself. Where a row and a file change together,
//! the order is such that the same command, given again after a crash, ends what it began.

pub mod batches;
pub mod contract;
pub mod erase;
mod error;
pub mod history;
pub mod import;
mod lists;
pub mod quarantine;
pub mod rates;
pub mod replay;
pub mod status;
mod steps;
pub mod undo;
pub mod uploads;
mod why;

pub use error::LedgerError;
pub use lists::ListReader;
pub use steps::{BatchRef, FileRef, Step};

use chrono::{DateTime, Utc};

use crate::config::{Name, Namespace, Settings};
use crate::spool::Layout;
use crate::store::Store;

/// One namespace as a command works on it.
#[derive(Debug)]
pub struct Desk<'a> {
    /// The store.
    pub store: &'a Store,
    /// The settings.
    pub settings: &'a Settings,
    /// The namespace.
    pub namespace: &'a Namespace,
    /// Its id in the store.
    pub namespace_id: i32,
    /// Where its files are.
    pub layout: Layout,
    /// When the command was given.
    pub now: DateTime<Utc>,
}

impl<'a> Desk<'a> {
    /// The desk of namespace `name`.
    ///
    /// # Errors
    /// [`LedgerError::NotThere`] when the configuration does not have it; any error of the store.
    pub fn open(
        store: &'a Store,
        settings: &'a Settings,
        name: &Name,
        now: DateTime<Utc>,
    ) -> Result<Self, LedgerError> {
        let namespace = settings
            .namespaces
            .get(name)
            .ok_or_else(|| LedgerError::NotThere { what: format!("namespace `{name}` in the configuration") })?;
        let namespace_id = store.namespace_id(name)?;
        let layout = Layout::new(&settings.state_dir, name);
        Ok(Self { store, settings, namespace, namespace_id, layout, now })
    }
}
