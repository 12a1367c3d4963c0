//! Whether the store can be worked with, for `/readyz`.

use diesel_migrations::MigrationHarness as _;

use super::{Store, StoreError};

impl Store {
    /// Whether the schema is the one that this binary was built with: no migration is pending.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the store cannot be reached, [`StoreError::Migration`] when it does not tell.
    pub fn schema_is_current(&self) -> Result<bool, StoreError> {
        let mut connection = self.connection()?;
        connection
            .has_pending_migration(super::MIGRATIONS)
            .map(|pending| !pending)
            .map_err(|error| StoreError::Migration(error.to_string()))
    }
}
