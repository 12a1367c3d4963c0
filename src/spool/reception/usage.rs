//! How many bytes a namespace has in the spool: what the store knows to lie there still, and what this process writes.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::{Store, StoreError};

/// One namespace's bytes. Another daemon's unfinished uploads count from the moment they are finished.
#[derive(Debug, Default)]
pub(super) struct Usage {
    still: AtomicU64,
    growing: AtomicU64,
}

impl Usage {
    /// Asks the store again. Done at every OPEN, so that what was archived or added elsewhere is seen soon.
    pub(super) fn measure(&self, store: &Store, namespace_id: i32) -> Result<(), StoreError> {
        self.still.store(store.bytes_in_spool(namespace_id)?, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn total(&self) -> u64 {
        self.still.load(Ordering::Relaxed).saturating_add(self.growing.load(Ordering::Relaxed))
    }

    pub(super) fn grow(&self, bytes: u64) {
        self.growing.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn shrink(&self, bytes: u64) {
        let less = |growing: u64| Some(growing.saturating_sub(bytes));
        let _ = self.growing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// `bytes` of a file no longer grow, but stay.
    pub(super) fn settle(&self, bytes: u64) {
        self.still.fetch_add(bytes, Ordering::Relaxed);
    }
}
