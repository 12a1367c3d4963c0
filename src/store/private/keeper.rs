//! The thread that runs the server: it starts `postgres` itself (not `pg_ctl`), starts it again when it ends, stops it.
//!
//! ```text
//! starting -> ready -> restarting -> ready ...      any -> stopped, when asked
//! starting -> failed                                it never was ready and will not be
//! ```
//!
//! Should the daemon be killed, the kernel sends the server SIGINT: a clean, fast shutdown. The kernel watches the
//! *thread* that forked, so this thread lives exactly as long as the server may.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal};

use super::PrivateServerError;
use super::account::Account;
use super::directories::Directories;
use super::error::file;
use super::postmaster::{PidFile, clear};
use super::settings;

/// How often a running server is looked at, and a starting or stopping one.
const WATCH: Duration = Duration::from_millis(250);
const TICK: Duration = Duration::from_millis(10);
/// The pause before the server is started again: doubled each time, up to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Attempts until it is ready for the first time: few when the reason will not go away, many while backends of a killed
/// server still hold its memory.
const ATTEMPTS: (u32, u32) = (3, 40);
/// Recovery after a crash reads at most `max_wal_size` twice; this is far more than that takes.
const READY_WITHIN: Duration = Duration::from_secs(900);
/// Stopping: cleanly, then at once (with recovery at the next start), then by force.
const STOP: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(60)),
    (Signal::QUIT, Duration::from_secs(10)),
    (Signal::KILL, Duration::from_secs(5)),
];

/// What to run, and how.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) postgres: PathBuf,
    pub(super) directories: Directories,
    pub(super) durable: bool,
}

#[derive(Debug)]
enum Phase {
    Starting,
    Ready,
    Restarting,
    Stopped,
    Failed(Option<PrivateServerError>),
}

#[derive(Debug)]
struct State {
    stop: bool,
    phase: Phase,
    restarts: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The handle on the thread.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Keeper {
    /// Starts the server and waits until it is ready.
    pub(super) fn start(plan: Plan) -> Result<Self, PrivateServerError> {
        let state = State { stop: false, phase: Phase::Starting, restarts: 0 };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let program = plan.postgres.clone();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("private-postgres".into())
            .spawn(move || plan.run(&of_thread))
            .map_err(|source| PrivateServerError::Run { program, source })?;
        let keeper = Self { shared, thread: Some(thread) };
        keeper.shared.wait_until_started()?;
        Ok(keeper)
    }

    /// How often the server has come back after it ended by itself.
    pub(super) fn restarts(&self) -> u64 {
        self.shared.lock().restarts
    }

    /// Stops the server and waits until it has ended.
    pub(super) fn stop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the private PostgreSQL's keeper panicked; the kernel has told the server to end");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
        self.changed.notify_all();
    }

    fn wait_until_started(&self) -> Result<(), PrivateServerError> {
        let waiting = |state: &mut State| matches!(state.phase, Phase::Starting);
        let mut state = self.changed.wait_while(self.lock(), waiting).unwrap_or_else(PoisonError::into_inner);
        match &mut state.phase {
            Phase::Failed(error) => error.take().map_or(Ok(()), Err),
            _ => Ok(()),
        }
    }

    /// Waits for `time`, or until a stop is asked for; says whether it is.
    fn stop_within(&self, time: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), time, |state| !state.stop);
        waited.unwrap_or_else(PoisonError::into_inner).0.stop
    }
}

/// How one life of the server ended.
enum Ended {
    Asked,
    Alone { status: ExitStatus, was_ready: bool },
}

impl Plan {
    fn run(&self, shared: &Shared) {
        let mut failures = 0;
        let mut pause = BACK_OFF.0;
        let mut ever_ready = false;
        loop {
            let (status, was_ready) = match self.live(shared, ever_ready) {
                Ok(Ended::Asked) => return shared.enter(Phase::Stopped),
                Ok(Ended::Alone { status, was_ready }) => (status.to_string(), was_ready),
                Err(error) if ever_ready => {
                    tracing::error!(error = %error, source = ?std::error::Error::source(&error), "the private PostgreSQL cannot be started again");
                    ("no attempt".into(), false)
                }
                Err(error) => return shared.enter(Phase::Failed(Some(error))),
            };
            ever_ready |= was_ready;
            (failures, pause) = if was_ready { (1, BACK_OFF.0) } else { (failures + 1, (pause * 2).min(BACK_OFF.1)) };
            if !ever_ready && self.hopeless(failures) {
                return shared.enter(Phase::Failed(Some(self.failed(failures, status))));
            }
            if ever_ready {
                tracing::error!(%status, failures, log = %self.directories.log.display(), "the private PostgreSQL ended; starting it again");
                shared.enter(Phase::Restarting);
            }
            if shared.stop_within(pause) {
                return shared.enter(Phase::Stopped);
            }
        }
    }

    /// Starts the server and stays with it until it ends.
    fn live(&self, shared: &Shared, again: bool) -> Result<Ended, PrivateServerError> {
        clear(&self.directories.data, &self.directories.socket_directory)?;
        let mut child = self.spawn()?;
        let deadline = Instant::now() + READY_WITHIN;
        let mut ready = false;
        loop {
            if shared.stop_within(if ready { WATCH } else { TICK }) {
                end(&mut child);
                return Ok(Ended::Asked);
            }
            let program = || self.postgres.clone();
            let exited = child.try_wait().map_err(|source| PrivateServerError::Run { program: program(), source })?;
            if let Some(status) = exited {
                return Ok(Ended::Alone { status, was_ready: ready });
            }
            if !ready && self.is_ready(&child) {
                ready = true;
                tracing::info!(pid = child.id(), again, "the private PostgreSQL is ready");
                shared.lock().restarts += u64::from(again);
                shared.enter(Phase::Ready);
            }
            if !ready && Instant::now() > deadline {
                end(&mut child);
            }
        }
    }

    fn is_ready(&self, child: &Child) -> bool {
        PidFile::read(&self.directories.data)
            .is_some_and(|file| file.ready && u32::try_from(file.pid) == Ok(child.id()))
    }

    fn hopeless(&self, failures: u32) -> bool {
        let tail = self.directories.log_tail();
        let passes = ["shared memory", "lock file", "starting up"].iter().any(|words| tail.contains(words));
        failures >= if passes { ATTEMPTS.1 } else { ATTEMPTS.0 }
    }

    fn failed(&self, attempts: u32, status: String) -> PrivateServerError {
        PrivateServerError::Start {
            program: self.postgres.clone(),
            attempts,
            status,
            log: self.directories.log.clone(),
            tail: self.directories.log_tail(),
        }
    }

    #[expect(unsafe_code, reason = "between fork and exec the child must ask the kernel for a signal when we die")]
    fn spawn(&self) -> Result<Child, PrivateServerError> {
        let log = self.directories.open_log()?;
        let errors = log.try_clone().map_err(file("open", &self.directories.log))?;
        let mut command = Command::new(&self.postgres);
        command.args(self.arguments()).stdin(Stdio::null()).stdout(log).stderr(errors);
        as_account(&mut command, &self.directories.account);
        // A ^C in a terminal goes to the whole group: the daemon decides when its server stops.
        command.process_group(0);
        let parent = getpid();
        // SAFETY: the closure only makes three system calls through rustix, which allocate nothing and take no lock, as
        // is required between fork and exec. It runs after the change of user, which would clear the death signal.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::INT))?;
                // The parent may have died before the line above.
                if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
            });
        }
        command.spawn().map_err(|source| PrivateServerError::Run { program: self.postgres.clone(), source })
    }

    /// Everything is set on the command line, so that nothing is to be edited on disk.
    fn arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments = vec!["-D".into(), self.directories.data.clone().into_os_string()];
        arguments.extend(["-k".into(), self.directories.socket_directory.clone().into_os_string()]);
        for setting in settings::of(settings::memory(), self.durable) {
            arguments.extend(["-c".into(), setting.into()]);
        }
        arguments
    }
}

/// Makes `command` run as the account, in nobody's way: no settings of ours in its environment (libpq's PG*, systemd's
/// notification socket, which PostgreSQL would answer itself; secrets), no directory held busy.
pub(super) fn as_account(command: &mut Command, account: &Account) {
    command.env_clear().env("LC_ALL", "C").current_dir("/");
    for kept in ["PATH", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    if account.other {
        command.uid(account.uid).gid(account.gid);
    }
}

/// Ends our own child: not yet waited for, so its process id cannot be anybody else's.
fn end(child: &mut Child) {
    let pid = Pid::from_child(child);
    for (signal, patience) in STOP {
        if let Err(error) = kill_process(pid, signal) {
            tracing::error!(%error, "cannot signal the private PostgreSQL");
        }
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            match child.try_wait() {
                Ok(None) => std::thread::park_timeout(TICK),
                Ok(Some(status)) => return tracing::info!(%status, "the private PostgreSQL has ended"),
                Err(error) => return tracing::error!(%error, "cannot wait for the private PostgreSQL"),
            }
        }
        tracing::warn!(?signal, "the private PostgreSQL does not end");
    }
}
