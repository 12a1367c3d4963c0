//! `coupond serve`: the daemon.

use std::process::ExitCode;

use crate::config::Settings;
use crate::{daemon, telemetry};

/// Runs the daemon until it is asked to stop.
pub(super) fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    telemetry::init()?;
    let outcome = daemon::serve(settings)?;
    Ok(ExitCode::from(outcome.exit_code()))
}
