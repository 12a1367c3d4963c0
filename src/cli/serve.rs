//! `coupond serve`: the daemon.

use std::process::ExitCode;

use rustix::fs::Mode;
use rustix::process::umask;

use crate::config::Settings;
use crate::{daemon, telemetry};

/// Runs the daemon until it is asked to stop.
pub(super) fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    // Nothing that the daemon makes is for others on the machine; the group may be let in.
    let inherited = umask(Mode::RWXO);
    umask(inherited | Mode::RWXO | Mode::WGRP);
    telemetry::init()?;
    let outcome = daemon::serve(settings)?;
    Ok(ExitCode::from(outcome.exit_code()))
}
