//! OpenPGP: from a file to verified rows, against `gpg --decrypt` that throws the plaintext away.
//!
//! The reading is the daemon's own (`plaintext::open` and `RecordReader`), in a process of its own: this program called
//! with [`READ`].

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use coupond::clock::Clock;
use coupond::config::{self, Require};
use coupond::openpgp::Keyring;
use coupond::plaintext::{RecordReader, Terms};

use crate::assignments::sha256;
use crate::codes::{letters, shuffled};
use crate::ground::{Ground, Key};
use crate::machine::{self, bash};
use crate::table::{Goal, Job, PEAK, Turn, turns};

/// The argument with which this program reads a file: a configuration and the file follow.
pub const READ: &str = "--read";

const CPU_OF_GPG: Goal = Goal { wall: None, cpu: Some(1.2), peak: Some(PEAK) };
const MEMORY_ONLY: Goal = Goal { wall: None, cpu: None, peak: Some(PEAK) };
/// How much more memory a file may take that is eight times as large: nothing but noise.
const FLAT: u64 = 8 << 20;

/// Every kind of message.
pub fn run(ground: &Ground, rounds: usize, jobs: &mut Vec<Job>) -> anyhow::Result<()> {
    let (large, slow) = (ground.size.message, ground.size.slow_message);
    let keys = Key::EVERY.map(|key| format!("{:?}", ground.gpg.secret_key(key).display().to_string())).join(", ");
    let file = ground.path("coupond.toml");
    std::fs::write(&file, format!("state_dir = \"none\"\n[sftp]\n[openpgp]\nsecret_keys = [{keys}]\n"))?;
    std::fs::create_dir_all(ground.path("namespaces"))?;
    for (what, key, options, bytes, goal) in [
        ("RSA, zlib (gpg's default)", Key::Rsa, "--compress-algo zlib", large, CPU_OF_GPG),
        ("Curve25519, zlib (gpg's default)", Key::Curve25519, "--compress-algo zlib", large, CPU_OF_GPG),
        ("RSA, zlib, armored", Key::Rsa, "--compress-algo zlib --armor", large, CPU_OF_GPG),
        ("RSA, not compressed", Key::Rsa, "--compress-algo none", large, MEMORY_ONLY),
        ("Curve25519, not compressed, armored", Key::Curve25519, "--compress-algo none --armor", large, MEMORY_ONLY),
        ("RSA, bzip2", Key::Rsa, "--compress-algo bzip2", slow, MEMORY_ONLY),
    ] {
        let mut job = Job::new(format!("{} MiB of codes, {what}", bytes >> 20), "gpg --decrypt >/dev/null", goal);
        let message = Message::new(ground, bytes, key, options)?;
        for round in 0..rounds {
            for turn in turns(round) {
                if turn == Turn::Ours {
                    job.ours.push(message.read(&file)?);
                } else {
                    let line = format!("{} --decrypt '{}' >/dev/null", ground.gpg.command(), message.sealed.display());
                    job.theirs.push(bash(&line, Path::new("/"))?.1);
                }
            }
        }
        if bytes == large && options == "--compress-algo zlib" && key == Key::Rsa {
            let little = Message::new(ground, large / 8, key, options)?;
            let (less, most) = (little.read(&file)?.peak, job.ours.iter().map(|cost| cost.peak).max().unwrap_or(0));
            let text = format!("an eighth of it: peak {} MiB", less >> 20);
            job.finding = Some((text, most < less + FLAT));
            std::fs::remove_file(&little.sealed)?;
        }
        std::fs::remove_file(&message.sealed)?;
        jobs.push(job);
    }
    Ok(())
}

/// An encrypted file, and what must be in it.
struct Message {
    sealed: PathBuf,
    rows: u64,
    sha256: String,
}

impl Message {
    /// Codes of 14 letters that look random.
    fn new(ground: &Ground, bytes: u64, key: Key, options: &str) -> anyhow::Result<Self> {
        const ROW: u64 = 15;
        let plain = ground.fresh("message");
        let rows = bytes / ROW;
        let mut out = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&plain)?);
        for row in 0..rows {
            let (first, second) = (shuffled(row), shuffled(row ^ 0x2AAA_AAAA_AAAA));
            out.write_all(&letters(first << 10 ^ second))?;
            out.write_all(letters(second << 10).get(..2).unwrap_or_default())?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
        let sealed = plain.with_extension("gpg");
        ground.gpg.encrypt(&plain, &sealed, key, options)?;
        let (sha256, _) = sha256(&plain)?;
        std::fs::remove_file(&plain)?;
        Ok(Self { sealed, rows, sha256 })
    }

    /// Reads it in a process of its own, and checks what that saw.
    fn read(&self, configuration: &Path) -> anyhow::Result<machine::Cost> {
        let program = std::env::current_exe()?;
        let (program, file, sealed) = (program.display(), configuration.display(), self.sealed.display());
        let (printed, mut cost) = bash(&format!("'{program}' {READ} '{file}' '{sealed}'"), Path::new("/"))?;
        let mut words = printed.split_whitespace();
        let (rows, sha256, peak) = (words.next(), words.next(), words.next());
        ensure!(rows == Some(&self.rows.to_string()) && sha256 == Some(&self.sha256), "read {printed}");
        cost.peak = peak.context("no peak")?.parse()?;
        Ok(cost)
    }
}

/// Reads a file to its verified end; prints rows, SHA-256 and peak memory.
pub fn read_main(arguments: &[PathBuf]) -> ExitCode {
    let [configuration, file] = arguments else { return ExitCode::FAILURE };
    match read(configuration, file) {
        Ok((rows, sha256)) => {
            println!("{rows} {sha256} {}", machine::peak(std::process::id()).unwrap_or(0));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read(configuration: &Path, file: &Path) -> anyhow::Result<(u64, String)> {
    let settings = config::load(configuration, std::iter::empty())?;
    let keys = &settings.openpgp.secret_keys;
    let keyring = Keyring::load_existing(keys, &settings.state_dir)?.context("no keys")?;
    let terms = Terms {
        keyring: Arc::new(keyring),
        require: Require::Encrypted,
        signers: Arc::from([]),
        limits: settings.limits,
        now: Clock::system().now(),
        asks_sha256: true,
    };
    let row_bytes = terms.limits.row_bytes;
    let plaintext = coupond::plaintext::open(std::fs::File::open(file)?, terms);
    let mut reader = RecordReader::new(plaintext, row_bytes);
    let mut rows = 0;
    while let Some(record) = reader.next_record()? {
        ensure!(record.problem().is_none() && record.len() == 1, "row {} is damaged", record.line());
        rows += 1;
    }
    let summary = reader.source().summary().context("no summary")?;
    let sha256 = summary.sha256.context("no hash")?;
    Ok((rows, sha256.iter().map(|byte| format!("{byte:02x}")).collect()))
}
