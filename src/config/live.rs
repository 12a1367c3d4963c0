//! The settings in force, swapped as a whole by a reload.

use std::sync::{Arc, PoisonError, RwLock};

use super::Settings;

/// A shared handle on the settings in force. A reader takes one snapshot per piece of work and keeps to it.
#[derive(Clone, Debug)]
pub struct LiveSettings(Arc<RwLock<Arc<Settings>>>);

impl LiveSettings {
    /// Starts with `settings`.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(settings))))
    }

    /// The settings in force now.
    #[must_use]
    pub fn current(&self) -> Arc<Settings> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts `settings` in force. Work that holds a snapshot goes on with that snapshot.
    pub fn replace(&self, settings: Settings) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}
