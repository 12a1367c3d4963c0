//! Entry point: parse, run, say once what failed, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use coupond::cli::{self, Cli};

fn main() -> ExitCode {
    // Arms what the environment variable FAILPOINTS names; tests end the process at such points.
    #[cfg(feature = "failpoints")]
    let _armed = fail::FailScenario::setup();
    Cli::parse().run().unwrap_or_else(|error| cli::failed(&error))
}
