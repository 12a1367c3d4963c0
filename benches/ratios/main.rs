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
mod openpgp;
mod openssh;
mod pipeline;
mod redemptions;
mod scale;
mod sftp;
mod size;
mod sshd;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::ground::Ground;
use crate::size::{FULL, SMALL, Size, TINY};
use crate::table::{Goal, Job, PEAK, render};

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

const SUBJECTS: [(&str, Subject); 6] = [
    ("sftp", sftp::run),
    ("openpgp", openpgp::run),
    ("coupons", coupons::run),
    ("redemptions", redemptions::run),
    ("batch", batch::run),
    ("scale", scale::run),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_ref().and_then(|first| first.to_str()) {
        Some(sshd::REAP) => return sshd::reap(arguments),
        Some(openpgp::READ) => return openpgp::read_main(&arguments.map(PathBuf::from).collect::<Vec<_>>()),
        _ => {}
    }
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
    machine::heed_interrupts()?;
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
    jobs.extend(memory(&jobs));
    println!("Size {}, rounds {rounds}.\n\n- {machine}\n{}\n", size.name, versions());
    println!("{}", render(&jobs));
    outcome
}

/// The most memory that the daemon had in any job.
fn memory(jobs: &[Job]) -> Option<Job> {
    let (most, job) = jobs.iter().filter_map(|job| Some((job.peak()?, job))).max_by_key(|(peak, _)| *peak)?;
    let mut row = Job::new("memory, over all of these", "", Goal::default());
    row.finding = Some((format!("at most {} MiB ({}); peak ≤ {} MiB", most >> 20, job.name, PEAK >> 20), most <= PEAK));
    Some(row)
}

fn versions() -> String {
    let (program, source) = (daemon::PROGRAM, env!("CARGO_MANIFEST_DIR"));
    let all = [
        ("coupond", format!("echo $('{program}' --version) $(git -C '{source}' rev-parse --short HEAD 2>/dev/null)")),
        ("OpenSSH", "ssh -V 2>&1".to_owned()),
        ("GnuPG", "gpg --version".to_owned()),
        ("PostgreSQL", "psql --version".to_owned()),
        ("rustc", "rustc --version".to_owned()),
    ];
    let lines = all.map(|(name, script)| format!("- {name}: {}", machine::first_line(&script)));
    lines.join("\n")
}
