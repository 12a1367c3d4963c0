//! `coupond migrate`: the schema, brought up to date. `serve` does the same at its start.

use std::io::Write;

use crate::config::Settings;
use crate::daemon::{self, Ownership};

/// Brings the schema up to date.
pub(super) fn run(settings: &Settings, out: &mut impl Write) -> anyhow::Result<()> {
    let (_server, _store) = daemon::open_store(settings, Ownership::Command)?;
    writeln!(out, "the schema is up to date")?;
    Ok(())
}
