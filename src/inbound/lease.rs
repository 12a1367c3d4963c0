//! Holds a claim while the work runs: a thread renews the lease until the work ends or the lease is lost.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use chrono::TimeDelta;

use crate::clock::Clock;
use crate::store::Store;
use crate::store::uploads::ClaimedUpload;

/// Renews a lease until it is dropped.
#[derive(Debug)]
pub struct Lease {
    stop: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Lease {
    /// Starts renewing at a third of `length`.
    #[must_use]
    pub fn hold(store: Store, clock: Clock, claimed: ClaimedUpload, length: Duration) -> Self {
        let (stop, stopped) = mpsc::channel();
        let keeper = thread::spawn(move || {
            while stopped.recv_timeout(length / 3) == Err(RecvTimeoutError::Timeout) {
                let until = clock.now() + TimeDelta::from_std(length).unwrap_or(TimeDelta::MAX);
                match store.renew_upload(&claimed, until) {
                    Ok(true) => {}
                    // The commit checks the fence, so there is nothing to undo here.
                    Ok(false) => {
                        tracing::warn!(upload.id = claimed.id, "Another daemon has taken the upload over");
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(upload.id = claimed.id, error = %crate::error_chain::chain(&error), "Failed to renew a lease");
                    }
                }
            }
        });
        Self { stop: Some(stop), keeper: Some(keeper) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            // It only ever waits for the channel or for one statement.
            let _ = keeper.join();
        }
    }
}
