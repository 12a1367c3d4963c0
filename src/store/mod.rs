//! The only module that speaks SQL: the pool, the schema, and one file per group of tables.
//!
//! Calls block; from async code they go through `tokio::task::spawn_blocking`. Every statement names `namespace_id`, so
//! that the store runs unchanged on Citus; counts come from `RETURNING`, never from the affected-row number.

pub mod alerts;
pub mod answers;
mod assigned;
pub mod banks;
pub mod batches;
mod by_place;
mod citus;
mod copy;
pub mod corrections;
pub mod coupons;
pub mod draw;
pub mod drops;
mod hand_out;
mod health;
pub mod ledger;
pub mod mails;
mod meets;
mod namespaces;
mod needs;
pub mod pickups;
mod pool;
pub mod private;
mod receiving;
pub mod recipients;
pub mod recorded;
mod redeemed;
pub mod redemptions;
pub mod refusals;
pub mod retention;
pub mod returns;
pub mod schema;
mod sheets;
mod shelves;
mod statistics;
pub mod suspicion;
pub mod uploads;

pub use pool::{Connection, Store, StoreError, Transaction};
pub use receiving::{Completed, Renamed, Sent, Spot, Stage};
pub use statistics::Changed;

use diesel_migrations::{EmbeddedMigrations, embed_migrations};

/// The migrations, embedded in the binary.
pub const MIGRATIONS: EmbeddedMigrations = embed_migrations!();
