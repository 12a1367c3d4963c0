//! Everything that needs real parts: PostgreSQL, SFTP clients, GnuPG, the daemon itself. One binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

mod harness;

mod config;
mod dependencies;
mod inbound;
mod lifecycle;
mod openpgp;
mod outbound;
mod pickups;
mod private_server;
mod sftp_endpoint;
mod tidy;
