//! Entry point: parse, run, say once what failed, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use coupond::cli::{self, Cli};

fn main() -> ExitCode {
    Cli::parse().run().unwrap_or_else(|error| cli::failed(&error))
}
