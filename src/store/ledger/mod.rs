//! What an admin asks the store about and changes in it by hand: uploads, quarantine, batches, codes, customers.
//!
//! Every change is one guarded statement or transaction that names the state it leaves, so that a command and a running
//! daemon never undo each other's work. Nothing here is on a hot path.

pub mod batches;
pub mod customers;
pub mod life;
pub mod quarantine;
pub mod rates;
pub mod status;
pub mod undo;
pub mod uploads;
