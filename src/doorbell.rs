//! Tells waiting workers that there may be something to do. A ring that nobody waits for is kept for the next wait.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A shared bell.
#[derive(Clone, Debug, Default)]
pub struct Doorbell(Arc<(Mutex<u64>, Condvar)>);

impl Doorbell {
    /// Wakes everybody who waits.
    pub fn ring(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.1.notify_all();
    }

    /// How often it has rung: what [`Doorbell::wait`] wants to know. Ask before looking for work.
    #[must_use]
    pub fn rings(&self) -> u64 {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it has rung since `rings` was asked, or `most` has passed.
    pub fn wait(&self, rings: u64, most: Duration) {
        let guard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.0.1.wait_timeout_while(guard, most, |now| *now == rings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_before_the_wait_counts() {
        let bell = Doorbell::default();
        let rings = bell.rings();
        bell.ring();
        bell.wait(rings, Duration::from_secs(3600));
        assert_eq!(bell.rings(), rings + 1);
    }
}
