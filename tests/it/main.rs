//! Everything that needs real parts: PostgreSQL, SFTP clients, GnuPG, the daemon itself. One binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

mod catalogue;
mod commands;
#[cfg(feature = "failpoints")]
mod crash;
mod harness;
mod inbound;
mod local_drop;
mod refusals;
mod reload;
mod second_client;
mod story;
mod walls;
