//! Connections to the store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use diesel::pg::PgConnection;
use diesel::r2d2::{ConnectionManager, HandleError, Pool, PooledConnection};
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::Text;
use diesel::{Connection as _, QueryableByName, RunQueryDsl as _};
use diesel_migrations::MigrationHarness as _;

use crate::config::Name;

/// A connection that may have a transaction open: what the store's functions work in.
pub type Transaction = PgConnection;

/// A connection out of the pool.
pub type Connection = PooledConnection<ConnectionManager<PgConnection>>;

/// The store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection to be had; trying again later is right.
    #[error("reach the store")]
    Unavailable(#[source] diesel::r2d2::PoolError),
    /// The statement failed.
    #[error("run a statement in the store")]
    Statement(#[from] DieselError),
    /// The schema could not be brought up to date.
    #[error("bring the store's schema up to date: {0}")]
    Migration(String),
    /// Another daemon took the work over while this one was at it.
    #[error("keep the lease on {what} {id}: another daemon has taken it over")]
    LeaseLost {
        /// `upload` or `batch`.
        what: &'static str,
        /// Its id.
        id: i64,
    },
    /// Rows that do not fit into memory could not be kept on disk.
    #[error("keep rows on disk")]
    Disk(#[from] std::io::Error),
    /// A row that this code relies on is not there.
    #[error("find {what} in the store")]
    Missing {
        /// What was looked for.
        what: String,
    },
}

impl StoreError {
    /// Whether no connection is to be had. The store has said so in the log: once, until it answers again.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Whether the same call may succeed later without anybody acting: connection lost, server starting or read-only,
    /// deadlock, time-out.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Disk(_) => true,
            Self::Statement(error) => match error {
                DieselError::DatabaseError(kind, _) => matches!(
                    kind,
                    DatabaseErrorKind::ClosedConnection
                        | DatabaseErrorKind::UnableToSendCommand
                        | DatabaseErrorKind::SerializationFailure
                        | DatabaseErrorKind::ReadOnlyTransaction
                        | DatabaseErrorKind::Unknown
                ),
                // A commit that failed, and then its rollback too: the connection went away in between.
                DieselError::RollbackErrorOnCommit { .. }
                | DieselError::BrokenTransactionManager
                | DieselError::RollbackTransaction => true,
                _ => false,
            },
            Self::Migration(_) | Self::LeaseLost { .. } | Self::Missing { .. } => false,
        }
    }
}

/// Who ended a transaction.
enum Ended<E> {
    Work(E),
    Statement(DieselError),
}

impl<E> From<DieselError> for Ended<E> {
    fn from(error: DieselError) -> Self {
        Self::Statement(error)
    }
}

impl<E: From<StoreError>> Ended<E> {
    fn into_caller(self) -> E {
        match self {
            Self::Work(error) => error,
            Self::Statement(error) => StoreError::from(error).into(),
        }
    }
}

/// A shared handle on the store.
#[derive(Clone)]
pub struct Store {
    pool: Pool<ConnectionManager<PgConnection>>,
    namespaces: Arc<RwLock<BTreeMap<Name, i32>>>,
    /// Whether somebody got no connection since the last who did: what is said of that is said once.
    is_away: Arc<AtomicBool>,
}

/// What single connections fail with while the server restarts is no news: who gets none in the end says so.
#[derive(Debug)]
struct Quiet;

impl HandleError<diesel::r2d2::Error> for Quiet {
    fn handle_error(&self, error: diesel::r2d2::Error) {
        tracing::debug!(%error, "a connection to the store failed");
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

fn encoding(connection: &mut PgConnection) -> Result<String, StoreError> {
    #[derive(QueryableByName)]
    struct Setting {
        #[diesel(sql_type = Text)]
        encoding: String,
    }
    let setting: Setting =
        diesel::sql_query("SELECT current_setting('server_encoding') AS encoding").get_result(connection)?;
    Ok(setting.encoding)
}

impl Store {
    /// Connects to the libpq URL or keyword string `url` with at most `connections` connections.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when no connection is to be had within ten seconds.
    pub fn connect(url: &str, connections: u32) -> Result<Self, StoreError> {
        let pool = Pool::builder()
            .max_size(connections)
            .min_idle(Some(1))
            .connection_timeout(Duration::from_secs(10))
            .error_handler(Box::new(Quiet))
            .build(ConnectionManager::new(url))
            .map_err(StoreError::Unavailable)?;
        Ok(Self { pool, namespaces: Arc::default(), is_away: Arc::default() })
    }

    /// A connection, waiting for a free one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]
    pub fn connection(&self) -> Result<Connection, StoreError> {
        match self.pool.get() {
            Ok(connection) => {
                if self.is_away.swap(false, Ordering::Relaxed) {
                    tracing::info!("The store answers again");
                }
                Ok(connection)
            }
            Err(error) => {
                if !self.is_away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "The store does not answer; what needs it waits or is refused until it does");
                }
                Err(StoreError::Unavailable(error))
            }
        }
    }

    /// A second connection for work that has one: `None`, without waiting, where none is free. Who waited for it could wait for
    /// others who do the same.
    pub(super) fn spare_connection(&self) -> Option<Connection> {
        self.pool.try_get()
    }

    /// Runs `work` in one transaction: committed when it returns `Ok`, rolled back on `Err`.
    ///
    /// # Errors
    /// What `work` says, or why the transaction could not begin or commit.
    pub fn transaction<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&mut Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = self.connection()?;
        connection.transaction(|transaction| work(transaction).map_err(Ended::Work)).map_err(Ended::into_caller)
    }

    /// Brings the schema up to date. Several daemons may call it at once: one works, the others wait.
    ///
    /// # Errors
    /// [`StoreError::Migration`] with the migration's own words, or when the database is not in UTF-8: the daemon relies on the
    /// order that its bytes have.
    pub fn migrate(&self) -> Result<Vec<String>, StoreError> {
        let mut connection = self.connection()?;
        let encoding = encoding(&mut connection)?;
        if encoding != "UTF8" {
            return Err(StoreError::Migration(format!(
                "the database is in {encoding}; make one with CREATE DATABASE .. ENCODING 'UTF8' TEMPLATE template0"
            )));
        }
        super::namespaces::lock_migrations(&mut connection)?;
        let applied = connection
            .run_pending_migrations(super::MIGRATIONS)
            .map(|versions| versions.iter().map(ToString::to_string).collect())
            .map_err(|error| StoreError::Migration(error.to_string()));
        super::namespaces::unlock_migrations(&mut connection)?;
        applied
    }

    /// Makes every configured namespace known to the store, and their ids to [`Store::namespace_id`].
    ///
    /// # Errors
    /// Any [`StoreError`] of the statement.
    pub fn ensure_namespaces<'a>(&self, names: impl Iterator<Item = &'a Name>) -> Result<(), StoreError> {
        let mut connection = self.connection()?;
        for name in names {
            let id = super::namespaces::ensure(&mut connection, name)?;
            self.namespaces.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), id);
        }
        Ok(())
    }

    /// The id of a namespace made known by [`Store::ensure_namespaces`].
    ///
    /// # Errors
    /// [`StoreError::Missing`] for any other name.
    pub fn namespace_id(&self, name: &Name) -> Result<i32, StoreError> {
        self.namespaces
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .copied()
            .ok_or_else(|| StoreError::Missing { what: format!("namespace `{name}`") })
    }
}
