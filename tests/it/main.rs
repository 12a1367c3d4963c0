//! Everything that needs real parts: PostgreSQL, SFTP clients, GnuPG, the daemon itself. One binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

mod faults;
mod harness;

mod alert;
mod batch_rules;
mod bulk;
mod catalogue;
mod commands;
mod commands_ledger;
mod config;
#[cfg(feature = "failpoints")]
mod crash;
mod dependencies;
mod inbound;
mod lifecycle;
mod local_drop;
mod openpgp;
mod outbound;
mod pickups;
mod private_server;
mod redeemed;
mod refusals;
mod reload;
mod second_client;
mod sftp_endpoint;
mod sheets;
mod shelves;
mod story;
mod tidy;
mod walls;
