//! What `postmaster.pid` says, and the end of a server that a killed owner left behind.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::PrivateServerError;
use super::error::file;

/// How long a server may take to end cleanly, then how long after it was told to end at once.
const CLEAN_END: Duration = Duration::from_secs(60);
const HARD_END: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(20);
/// Lies beside the socket and names the server, like `postmaster.pid`.
const SOCKET_LOCK: &str = ".s.PGSQL.5432.lock";

/// The parts of `postmaster.pid` that count here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PidFile {
    pub(super) pid: i32,
    pub(super) socket_directory: Option<PathBuf>,
    /// A stale file says so too: believe it only together with the process id.
    pub(super) ready: bool,
}

impl PidFile {
    pub(super) fn path(data: &Path) -> PathBuf {
        data.join("postmaster.pid")
    }

    /// The file in the data directory; `None` when there is none, or nothing in it yet.
    pub(super) fn read(data: &Path) -> Option<Self> {
        Self::parse(&read_start(&Self::path(data)).ok()?)
    }

    /// Line 1 is the process id (negative for a single-user server), line 5 the socket directory, line 8 the status.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse::<i32>().ok()?.checked_abs()?;
        let socket_directory = lines.nth(3).map(str::trim).filter(|line| !line.is_empty()).map(PathBuf::from);
        let ready = lines.nth(2).is_some_and(|line| line.trim() == "ready");
        Some(Self { pid, socket_directory, ready })
    }
}

/// The first 4 KiB of a small file. The database user could plant a link or a pipe in its directory; root, reading there,
/// neither follows the one nor waits for the other.
pub(super) fn read_start(path: &Path) -> std::io::Result<String> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut file = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let mut buffer = [0; 4096];
    let length = file.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
}

/// Whether `pid` is a living server of this data directory. A zombie has neither a program nor a directory.
pub(super) fn serves(pid: i32, data: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let program = std::fs::read_link(process.join("exe"));
    let directory = std::fs::read_link(process.join("cwd"));
    matches!((program, directory), (Ok(program), Ok(directory))
        if program.to_string_lossy().contains("postgres") && directory == data)
}

/// Makes way for a new server: ends an orphan, and removes lock files that name a process which is none of ours.
///
/// Only the holder of the instance lock may call this. Without it a recycled process id (usual in containers, where the
/// server is always process 7) keeps PostgreSQL from starting for ever, and so does a zombie that nobody reaps.
///
/// A lock file whose process is dead stays: PostgreSQL removes it, after it has seen by the shared memory named there
/// that no backend of the old server lives on.
pub(super) fn clear(data: &Path, socket_directory: &Path) -> Result<(), PrivateServerError> {
    if let Some(left) = PidFile::read(data).filter(|left| serves(left.pid, data)) {
        tracing::warn!(pid = left.pid, "ending the private PostgreSQL that a killed owner left behind");
        end(left.pid, data, &[(Signal::INT, CLEAN_END), (Signal::QUIT, HARD_END)])?;
    }
    for path in [PidFile::path(data), socket_directory.join(SOCKET_LOCK)] {
        if !names_a_foreigner(&path) {
            continue;
        }
        for survivor in survivors(data) {
            end(survivor, data, &[(Signal::QUIT, HARD_END)])?;
        }
        tracing::warn!(path = %path.display(), "removing a lock file that names a process which is not PostgreSQL");
        std::fs::remove_file(&path).map_err(file("remove", &path))?;
    }
    Ok(())
}

/// Whether PostgreSQL would take the lock file for that of a living server (or stumble over its content) for ever.
fn names_a_foreigner(lock: &Path) -> bool {
    match read_start(lock) {
        Ok(text) => PidFile::parse(&text).is_none_or(|left| PathBuf::from(format!("/proc/{}", left.pid)).exists()),
        Err(_) => false,
    }
}

/// Backends that outlived their postmaster; they end by themselves once they notice.
fn survivors(data: &Path) -> Vec<i32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| serves(*pid, data))
        .collect()
}

/// Signals a process that is not our child, so that nobody here can wait on it, until it serves `data` no more.
fn end(pid: i32, data: &Path, steps: &[(Signal, Duration)]) -> Result<(), PrivateServerError> {
    let Some(process) = Pid::from_raw(pid) else { return Ok(()) };
    for (signal, patience) in steps {
        let deadline = Instant::now() + *patience;
        // It may end between the look and the signal: then there is nothing to signal, which is what we want.
        if serves(pid, data) && kill_process(process, *signal).is_err() && serves(pid, data) {
            return Err(PrivateServerError::Orphan { pid });
        }
        while Instant::now() < deadline {
            if !serves(pid, data) {
                return Ok(());
            }
            std::thread::park_timeout(TICK);
        }
    }
    Err(PrivateServerError::Orphan { pid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_file_is_read_by_line() {
        let whole = "4711\n/s/postgres/pgdata\n1790000000\n5432\n/s/postgres/pgsock\n\n  5432001    163840\nready   \n";
        let check = |text: &str, expected: Option<(i32, Option<&str>, bool)>| {
            let read = PidFile::parse(text);
            let expected = expected.map(|(pid, socket, ready)| PidFile {
                pid,
                socket_directory: socket.map(PathBuf::from),
                ready,
            });
            assert_eq!(read, expected, "{text:?}");
        };
        check(whole, Some((4711, Some("/s/postgres/pgsock"), true)));
        check(&whole.replace("ready   ", "starting"), Some((4711, Some("/s/postgres/pgsock"), false)));
        check("-12\n/s/postgres/pgdata\n", Some((12, None, false)));
        check("4711", Some((4711, None, false)));
        check("", None);
        check("rubbish\n", None);
        check("99999999999\n", None);
    }
}
