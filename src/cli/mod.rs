//! The command line: one thin file per command. The only module that prints.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 78 wrong configuration (`EX_CONFIG`).

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, ConfigError, Settings};
use crate::openpgp::KeyringError;
use crate::sftp::host_keys::HostKeyError;

mod banks;
mod batch;
mod check;
mod code;
mod contract;
mod customer;
mod demo;
mod desk;
mod import;
mod keys;
mod migrate;
mod quarantine;
mod rates;
mod serve;
mod status;
mod uploads;

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const BAD_CONFIGURATION: u8 = 78;

/// Options that do not go together, where that hangs on more than their names.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUsage(String);

const SERVE_EXAMPLES: &str = "Examples:
  coupond serve --config /etc/coupond/coupond.toml
  COUPOND_LOG=coupond::sftp=debug,info coupond serve

SIGHUP takes over a changed configuration, SIGTERM stops. Exit codes: 0 stopped, 1 failed, 78 wrong configuration.";
const CHECK_EXAMPLES: &str = "Examples:
  coupond check --config /etc/coupond/coupond.toml && systemctl reload coupond

Every problem is a line `file:line:column: what is wrong`. Exit code 78 where there is one.";
const DEMO_EXAMPLES: &str = "Examples:
  coupond demo              everything it makes is gone in the end
  coupond demo --keep       and then try it by hand";
const MIGRATE_EXAMPLES: &str = "Examples:
  coupond migrate --config /etc/coupond/coupond.toml

`serve` does the same when it starts; this is for a database whose daemon may not change tables.";

/// Hosts an SFTP endpoint for coupon work: codes and redemptions in, assignment files out.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ConfigFile),
    /// Validate the configuration; change nothing
    #[command(after_help = CHECK_EXAMPLES)]
    Check(ConfigFile),
    /// Play the whole story on sample data, with no set-up
    #[command(after_help = DEMO_EXAMPLES)]
    Demo {
        /// Leave the daemon running at the end, and say how to try it by hand
        #[arg(long)]
        keep: bool,
    },
    /// Bring the schema of the store up to date
    #[command(after_help = MIGRATE_EXAMPLES)]
    Migrate(ConfigFile),
    Banks(banks::Banks),
    Status(status::StatusCommand),
    Uploads(uploads::Uploads),
    Quarantine(quarantine::Quarantine),
    Batch(batch::BatchCommand),
    Code(code::CodeCommand),
    Customer(customer::CustomerCommand),
    Import(import::Import),
    Keys(keys::Keys),
    Contract(contract::Contract),
}

/// The option that every command with a configuration has.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The main configuration file; `namespaces/*.toml` are read beside it
    #[arg(
        id = "config",
        long = "config",
        value_name = "FILE",
        default_value = "/etc/coupond/coupond.toml",
        global = true
    )]
    file: std::path::PathBuf,
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// What the command failed at; [`failed`] makes an exit code of it.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut out = io::stdout();
        match self.command {
            Command::Serve(config) => return serve::run(config.load()?),
            Command::Check(config) => check::run(&config.load()?, &mut out)?,
            Command::Demo { keep } => demo::run(keep, &mut out)?,
            Command::Migrate(config) => migrate::run(&config.load()?, &mut out)?,
            Command::Banks(command) => banks::run(&command, &mut out)?,
            Command::Status(command) => status::run(&command, &mut out)?,
            Command::Uploads(command) => uploads::run(&command, &mut out)?,
            Command::Quarantine(command) => quarantine::run(&command, &mut out)?,
            Command::Batch(command) => batch::run(&command, &mut out)?,
            Command::Code(command) => code::run(&command, &mut out)?,
            Command::Customer(command) => customer::run(&command, &mut out)?,
            Command::Import(command) => return import::run(&command, &mut out),
            Command::Keys(command) => keys::run(&command, &mut out)?,
            Command::Contract(command) => contract::run(&command, &mut out)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl ConfigFile {
    fn load(&self) -> Result<Settings, ConfigError> {
        config::load(&self.file, config::variables())
    }
}

/// Says on standard error what failed and why, and chooses the exit code.
#[must_use]
pub fn failed(error: &anyhow::Error) -> ExitCode {
    // What fails with nothing around it is writing the answer; whoever reads it may have seen enough (`| head`).
    let answering = error.downcast_ref::<io::Error>().filter(|_| error.chain().count() == 1);
    if answering.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    // With standard error gone there is nobody left to tell.
    let mut err = io::stderr().lock();
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        let _ = writeln!(err, "{error}");
        return ExitCode::from(BAD_CONFIGURATION);
    }
    if let Some(usage) = error.downcast_ref::<WrongUsage>() {
        let _ = writeln!(err, "error: failed to {usage}\n\nFor more information, try '--help'.");
        return ExitCode::from(WRONG_USAGE);
    }
    let what = if answering.is_some() { "write the answer: " } else { "" };
    let _ = writeln!(err, "error: failed to {what}{error}");
    let is_configuration = names_a_bad_key(error);
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Libraries wrap an error into another that says the same.
        if !said.ends_with(&cause) {
            let _ = writeln!(err, "  because: {cause}");
            said = cause;
        }
    }
    ExitCode::from(if is_configuration { BAD_CONFIGURATION } else { FAILED })
}

/// Whether a key file that the configuration names is none: no start will help.
fn names_a_bad_key(error: &anyhow::Error) -> bool {
    use KeyringError::{CannotDecrypt, NotASecretKey, Passphrase};
    let host_key = error.downcast_ref::<HostKeyError>();
    let secret_key = error.downcast_ref::<KeyringError>();
    matches!(host_key, Some(HostKeyError::Content { .. }))
        || matches!(secret_key, Some(CannotDecrypt { .. } | NotASecretKey { .. } | Passphrase { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }
}
