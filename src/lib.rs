//! coupond hosts its own SFTP endpoint for coupon work.
//!
//! Two flows run through it. **Inbound**: a client drops a file; [`sftp`] receives it durably into the [`spool`];
//! [`inbound`] opens, parses, validates and applies it to the banks in the [`store`] and answers with a report.
//! **Outbound**: a recipients list makes a batch due; [`outbound`] compares need with stock, assigns codes by the rules
//! of [`bank`] and exports the assignment file that the campaign system collects.
//!
//! Around them: [`config`] (what the admin wrote, checked), [`plaintext`] (from a file as received to verified rows),
//! [`openpgp`] (the only user of the OpenPGP library), [`reason`] (every reason a report can give),
//! [`recipients`] (which rows of a list count, for both flows), [`schedule`] (when a campaign's batches are due), [`clock`],
//! [`digest`] (SHA-256).
//! [`alert`] (what people must hear of, by mail and log), [`ledger`] (what an admin asks and does by hand), [`cli`] (the commands).

pub mod alert;
pub mod bank;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod digest;
pub mod doorbell;
pub mod error_chain;
pub mod http;
pub mod inbound;
pub mod ledger;
pub mod lifecycle;
pub mod openpgp;
pub mod outbound;
pub mod plaintext;
pub mod reason;
pub mod recipients;
pub mod schedule;
pub mod sftp;
pub mod sorter;
pub mod spool;
pub mod store;
pub mod telemetry;
