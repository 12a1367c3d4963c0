//! Holds the claim on a batch while somebody works on it.
//!
//! A thread of its own renews it: a draw for millions takes longer than a lease, inside one statement. When the renewal
//! fails the work is not disturbed: every durable step checks the fence by itself.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use chrono::TimeDelta;

use crate::clock::Clock;
use crate::store::Store;
use crate::store::batches::Claim;

/// A claim that is renewed until this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    stop: Option<Sender<()>>,
    renewer: Option<JoinHandle<()>>,
}

impl Lease {
    pub(super) fn hold(store: Store, clock: Clock, claim: Claim, length: Duration) -> Self {
        let (stop, stopped) = channel();
        let renewer = Builder::new().name("batch-lease".to_owned()).spawn(move || {
            let length_of_claim = TimeDelta::from_std(length).unwrap_or(TimeDelta::MAX);
            while stopped.recv_timeout(length / 3) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = store.renew_batch(claim, clock.now() + length_of_claim) {
                    tracing::warn!(
                        batch = claim.id,
                        error = &error as &dyn std::error::Error,
                        "failed to renew a lease"
                    );
                }
            }
        });
        // Without the thread the lease runs out by itself, and the fence stops whoever is too slow.
        Self { stop: Some(stop), renewer: renewer.ok() }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(renewer) = self.renewer.take() {
            drop(renewer.join());
        }
    }
}
