//! The one owner of the process's life: signals, the tasks that must not end, the soft and the hard stop, and what the
//! service manager is told.
//!
//! ```text
//! running --signal, or a task ended by itself--> soft: take nothing new, finish what is in flight
//! soft    --second signal, or time is up-------> hard: drop what is in flight; the store rolls back
//! hard    --third signal, or time is up--------> gone: leave with whatever is still there
//! ```
//!
//! A task given to [`Lifecycle::spawn`] runs until the stop: one that returns, fails or panics before stops the daemon
//! with a non-zero exit code, so that the service manager starts it whole again. Nothing is kept on disk.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Any error, with its chain.
pub type AnyError = Box<dyn Error + Send + Sync>;

/// How long tasks may take to let go after the hard stop.
const HARD_STOP: Duration = Duration::from_secs(5);

/// How the daemon ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was asked to stop, and everything in flight was finished or let go.
    Stopped,
    /// It was asked to stop, and this many tasks did not let go in time.
    Abandoned(usize),
    /// This task ended by itself.
    TaskEnded(&'static str),
}

impl Outcome {
    /// The process's exit code: 0 only for a clean stop.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Abandoned(_) | Self::TaskEnded(_) => 1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    Soft,
    Hard,
    Gone,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Signal,
    TaskEnded,
    TimeIsUp,
}

impl Stage {
    fn after(self, event: Event) -> Self {
        match (self, event) {
            (Self::Running, Event::Signal | Event::TaskEnded) => Self::Soft,
            (Self::Soft, Event::Signal | Event::TimeIsUp) => Self::Hard,
            (Self::Hard, Event::Signal | Event::TimeIsUp) => Self::Gone,
            (same, _) => same,
        }
    }
}

/// The signals that ask for a stop, caught from the moment this is made.
#[derive(Debug)]
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    async fn next(&mut self) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "asked to stop");
    }
}

/// The process's life, from start to stop.
#[derive(Debug)]
pub struct Lifecycle {
    soft: CancellationToken,
    hard: CancellationToken,
    tracker: TaskTracker,
    stop_signals: StopSignals,
    hangup: Signal,
    soft_stop: Duration,
    report_end: mpsc::UnboundedSender<&'static str>,
    ended: mpsc::UnboundedReceiver<&'static str>,
}

impl Lifecycle {
    /// Catches the signals from now on. What is in flight gets `soft_stop` to finish.
    ///
    /// # Errors
    /// When the signals cannot be caught.
    pub fn new(soft_stop: Duration) -> std::io::Result<Self> {
        let stop_signals =
            StopSignals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        let (report_end, ended) = mpsc::unbounded_channel();
        Ok(Self {
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
            tracker: TaskTracker::new(),
            stop_signals,
            hangup: signal(SignalKind::hangup())?,
            soft_stop,
            report_end,
            ended,
        })
    }

    /// Cancelled when nothing new may begin.
    #[must_use]
    pub fn soft_stop(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// Cancelled when what is in flight must be let go.
    #[must_use]
    pub fn hard_stop(&self) -> CancellationToken {
        self.hard.clone()
    }

    /// Counts the tasks that a stop waits for. Tasks spawned here directly may end at any time: sessions, uploads.
    #[must_use]
    pub fn tracker(&self) -> TaskTracker {
        self.tracker.clone()
    }

    /// Runs a part of the daemon that ends only after [`Lifecycle::soft_stop`].
    pub fn spawn<F, E>(&self, name: &'static str, part: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<AnyError> + Send + 'static,
    {
        let (soft, report_end) = (self.soft.clone(), self.report_end.clone());
        self.tracker.spawn(async move {
            let failed = match tokio::spawn(part).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(chain(error.into().as_ref())),
                Err(panic) => Some(chain(&panic)),
            };
            match &failed {
                Some(error) => tracing::error!(part = name, %error, "a part of the daemon failed"),
                None if !soft.is_cancelled() => tracing::error!(part = name, "a part of the daemon ended by itself"),
                None => return tracing::debug!(part = name, "ended"),
            }
            // The receiver goes only with the lifecycle itself.
            let _ = report_end.send(name);
        });
    }

    /// Does a step of the start, which may take long; `None` when a stop was asked for meanwhile.
    pub async fn starting<T>(&mut self, step: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = step => Some(done),
            () = self.stop_signals.next() => None,
        }
    }

    /// Tells the service manager that the daemon serves, and stays until it has stopped.
    ///
    /// `reload` reads the configuration anew; when it fails, everything stays as it was. The watchdog is only fed while
    /// `healthy` says so.
    pub async fn run<R, F>(mut self, mut reload: R, healthy: impl Fn() -> bool) -> Outcome
    where
        R: FnMut() -> F,
        F: Future<Output = Result<(), AnyError>>,
    {
        notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
        let mut watchdog = sd_notify::watchdog_enabled().map(watchdog_interval).map(tokio::time::interval);
        let mut stage = Stage::Running;
        let mut deadline = Instant::now();
        let mut culprit = None;
        loop {
            let event = tokio::select! {
                () = self.stop_signals.next() => Event::Signal,
                Some(name) = self.ended.recv() => {
                    culprit.get_or_insert(name);
                    Event::TaskEnded
                }
                () = tokio::time::sleep_until(deadline), if stage > Stage::Running => Event::TimeIsUp,
                () = self.tracker.wait(), if stage > Stage::Running => break,
                _ = self.hangup.recv(), if stage == Stage::Running => {
                    reload_once(&mut reload).await;
                    continue;
                }
                () = tick(&mut watchdog) => {
                    feed(&healthy);
                    continue;
                }
            };
            let next = stage.after(event);
            if next != stage {
                stage = next;
                deadline = Instant::now() + self.enter(stage);
            }
            if stage == Stage::Gone {
                break;
            }
        }
        // A part that failed during the stop has spoken before its task was over.
        culprit = culprit.or_else(|| self.ended.try_recv().ok());
        culprit.map_or_else(|| left(self.tracker.len()), Outcome::TaskEnded)
    }

    /// Does what a stage begins with, and says how long it may last.
    fn enter(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Running => {}
            Stage::Soft => {
                notify(&[NotifyState::Stopping, NotifyState::Status("finishing what is in flight")]);
                self.soft.cancel();
                self.tracker.close();
                return self.soft_stop;
            }
            Stage::Hard => {
                tracing::warn!(tasks = self.tracker.len(), "letting go of what is in flight");
                self.hard.cancel();
            }
            Stage::Gone => tracing::error!(tasks = self.tracker.len(), "leaving with tasks that do not end"),
        }
        HARD_STOP
    }
}

fn left(tasks: usize) -> Outcome {
    if tasks == 0 { Outcome::Stopped } else { Outcome::Abandoned(tasks) }
}

/// `Type=notify-reload` wants the time of the reload's begin, and READY again when it is over, however it went.
async fn reload_once<R, F>(reload: &mut R)
where
    R: FnMut() -> F,
    F: Future<Output = Result<(), AnyError>>,
{
    match NotifyState::monotonic_usec_now() {
        Ok(begin) => notify(&[NotifyState::Reloading, begin]),
        Err(error) => tracing::warn!(%error, "cannot tell the time of the reload"),
    }
    let status = match reload().await {
        Ok(()) => {
            tracing::info!("configuration reloaded");
            "serving"
        }
        Err(error) => {
            tracing::error!(error = %chain(error.as_ref()), "the configuration stays as it was: cannot reload it");
            "serving; the last reload was refused, see the log"
        }
    };
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

fn feed(healthy: &impl Fn() -> bool) {
    if healthy() {
        notify(&[NotifyState::Watchdog]);
    } else {
        tracing::error!("not healthy: the watchdog is not fed");
    }
}

/// The next time to feed the watchdog; never when there is none.
async fn tick(watchdog: &mut Option<tokio::time::Interval>) {
    match watchdog {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

/// Thrice within the time after which the service manager would act.
fn watchdog_interval(limit: Duration) -> Duration {
    (limit / 3).max(Duration::from_millis(1))
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// An error with everything below it, for a log line.
fn chain(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        below = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_only_go_forward() {
        let check = |stage: Stage, event: Event, expected: Stage| {
            assert_eq!(stage.after(event), expected, "{stage:?} {event:?}");
        };
        check(Stage::Running, Event::Signal, Stage::Soft);
        check(Stage::Running, Event::TaskEnded, Stage::Soft);
        check(Stage::Running, Event::TimeIsUp, Stage::Running);
        check(Stage::Soft, Event::Signal, Stage::Hard);
        check(Stage::Soft, Event::TaskEnded, Stage::Soft);
        check(Stage::Soft, Event::TimeIsUp, Stage::Hard);
        check(Stage::Hard, Event::Signal, Stage::Gone);
        check(Stage::Hard, Event::TaskEnded, Stage::Hard);
        check(Stage::Hard, Event::TimeIsUp, Stage::Gone);
    }

    #[test]
    fn only_a_clean_stop_is_success() {
        let check = |outcome: Outcome, expected| assert_eq!(outcome.exit_code(), expected, "{outcome:?}");
        check(left(0), 0);
        check(left(2), 1);
        check(Outcome::TaskEnded("sftp"), 1);
    }

    #[test]
    fn the_watchdog_is_fed_thrice() {
        let check = |limit, expected| assert_eq!(watchdog_interval(limit), expected);
        check(Duration::from_secs(30), Duration::from_secs(10));
        check(Duration::ZERO, Duration::from_millis(1));
    }

    #[test]
    fn a_chain_names_every_cause() {
        let below = std::io::Error::other("no such bank");
        let above = std::io::Error::other(below);
        assert_eq!(chain(&above), "no such bank");
        let error = crate::store::private::PrivateServerError::File {
            doing: "open",
            path: "/x".into(),
            source: std::io::Error::other("shut"),
        };
        assert_eq!(chain(&error), "open `/x`: shut");
    }
}
