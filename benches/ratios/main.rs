//! coupond measured side by side with what a user would use instead, in one run, as ratios. See `benches/README.md`.
//!
//! A figure counts only if what was done was checked in the same run; a failed check fails the run.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table goes to the terminal")]

mod assignments;
mod batch;
mod client;
mod codes;
mod coupons;
mod daemon;
mod database;
mod ground;
mod machine;
mod openssh;
mod pipeline;
mod redemptions;
mod size;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::ground::Ground;
use crate::size::{FULL, SMALL, Size, TINY};
use crate::table::{Job, render};

/// Measures coupond against OpenSSH, GnuPG and SQL, and prints ratios
#[derive(Debug, Parser)]
struct Options {
    /// full: what the goals are about; small: minutes; tiny: only to see that everything runs
    #[arg(long, default_value = "small", value_parser = ["full", "small", "tiny"])]
    size: String,
    /// Only these subjects, by name; may be repeated
    #[arg(long, value_name = "NAME", value_parser = SUBJECTS.map(|(name, _)| name))]
    only: Vec<String>,
    /// Rounds of each job; the table shows medians
    #[arg(long)]
    rounds: Option<usize>,
    /// Where the data go for the time of the run
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

type Subject = fn(&Ground, usize, &mut Vec<Job>) -> anyhow::Result<()>;

const SUBJECTS: [(&str, Subject); 3] =
    [("coupons", coupons::run), ("redemptions", redemptions::run), ("batch", batch::run)];

fn main() -> ExitCode {
    let options = Options::parse();
    if !options.bench {
        // `cargo test --all-targets` runs this program too.
        println!("run it with `cargo bench --bench ratios`");
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let size: Size = match options.size.as_str() {
        "full" => FULL,
        "tiny" => TINY,
        _ => SMALL,
    };
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let machine = machine::describe();
    let ground = Ground::new(&parent, size)?;
    let rounds = options.rounds.unwrap_or(size.rounds).max(1);
    let mut jobs = Vec::new();
    let mut outcome = Ok(());
    for (name, subject) in SUBJECTS {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            eprintln!("{name} ...");
            let before = jobs.len();
            outcome = subject(&ground, rounds, &mut jobs);
            for job in jobs.iter().skip(before) {
                eprintln!("  {}", job.said());
            }
            if outcome.is_err() {
                break;
            }
        }
    }
    println!("Size {}, rounds {rounds}.\n\n- {machine}\n{}\n", size.name, versions());
    println!("{}", render(&jobs));
    outcome
}

fn versions() -> String {
    let program = daemon::PROGRAM;
    let all = [
        ("coupond", format!("'{program}' --version; git rev-parse --short HEAD 2>/dev/null || true")),
        ("OpenSSH", "ssh -V 2>&1".to_owned()),
        ("GnuPG", "gpg --version".to_owned()),
        ("PostgreSQL", "psql --version".to_owned()),
        ("rustc", "rustc --version".to_owned()),
    ];
    let lines = all.map(|(name, script)| format!("- {name}: {}", machine::first_line(&script)));
    lines.join("\n")
}
