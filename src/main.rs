//! Entry point: parse, run, say once what failed, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use coupond::cli::{self, Cli};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::failed(&error),
    }
}
