//! The lifecycle in a process of its own: real signals, a real notification socket, real exit codes.
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::time::Duration;

use coupond::lifecycle::{AnyError, Lifecycle};
use rustix::process::{Pid, Signal, kill_process};

/// Says what the second process does; see [`daemon_process`].
const STORY: &str = "COUPOND_TEST_LIFECYCLE_STORY";

/// Not a test by itself: the process that `Daemon::spawn` starts from this same binary.
#[test]
#[expect(clippy::exit, reason = "the test harness has its own exit codes: leave past it")]
fn daemon_process() {
    let Ok(story) = std::env::var(STORY) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let code = runtime.block_on(daemon(&story));
    runtime.shutdown_timeout(Duration::ZERO);
    std::process::exit(40 + i32::from(code));
}

#[expect(clippy::panic, reason = "a part that panics is one of the stories")]
async fn daemon(story: &str) -> u8 {
    let mut lifecycle = Lifecycle::new(Duration::from_secs(if story == "overdue" { 0 } else { 60 })).unwrap();
    let (soft, hard) = (lifecycle.soft_stop(), lifecycle.hard_stop());
    if story == "slow start" {
        sd_notify::notify(&[sd_notify::NotifyState::Status("starting")]).unwrap();
        return u8::from(lifecycle.starting(std::future::pending::<()>()).await.is_some());
    }
    let story = story.to_owned();
    let part = story.clone();
    lifecycle.spawn("part", async move {
        match part.as_str() {
            "panics" => panic!("on purpose"),
            "fails" => return Err(AnyError::from("on purpose")),
            "ends" => return Ok(()),
            "holds on" | "overdue" => hard.cancelled().await,
            _ => soft.cancelled().await,
        }
        Ok(())
    });
    let mut reloads = 0;
    let reload = || {
        reloads += 1;
        let refused = reloads == 2;
        async move { if refused { Err(AnyError::from("line 3: unknown key")) } else { Ok(()) } }
    };
    lifecycle.run(reload, || story != "sick").await.exit_code()
}

struct Daemon {
    child: Child,
    socket: UnixDatagram,
    _directory: tempfile::TempDir,
}

impl Daemon {
    fn spawn(story: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["lifecycle::daemon_process", "--exact", "--nocapture", "--test-threads=1"])
            .env(STORY, story)
            .env("NOTIFY_SOCKET", path)
            .env("WATCHDOG_USEC", "300000")
            .env("RUST_BACKTRACE", "0")
            .spawn()
            .unwrap();
        Self { child, socket, _directory: directory }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The next message that is not the watchdog's.
    fn hears(&self, expected: &str) {
        let heard = std::iter::repeat_with(|| self.message()).find(|message| message != "WATCHDOG=1\n").unwrap();
        assert!(heard.starts_with(expected), "{heard:?} instead of {expected:?}");
    }

    fn message(&self) -> String {
        let mut buffer = [0; 1024];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer.get(..length).unwrap().to_vec()).unwrap()
    }

    fn ends_with(mut self, code: i32) {
        assert_eq!(self.child.wait().unwrap().code(), Some(40 + code));
    }
}

#[test]
fn a_signal_stops_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let daemon = Daemon::spawn("serves");
        daemon.hears("READY=1\n");
        daemon.signal(signal);
        daemon.hears("STOPPING=1\n");
        daemon.ends_with(0);
    }
}

#[test]
fn a_second_signal_or_the_time_stops_hard() {
    let daemon = Daemon::spawn("holds on");
    daemon.hears("READY=1\n");
    daemon.signal(Signal::TERM);
    daemon.hears("STOPPING=1\n");
    daemon.signal(Signal::TERM);
    daemon.ends_with(0);

    let daemon = Daemon::spawn("overdue");
    daemon.hears("READY=1\n");
    daemon.signal(Signal::TERM);
    daemon.hears("STOPPING=1\n");
    daemon.ends_with(0);
}

#[test]
fn a_part_that_ends_by_itself_ends_the_daemon() {
    for story in ["panics", "fails", "ends"] {
        let daemon = Daemon::spawn(story);
        daemon.hears("READY=1\n");
        daemon.hears("STOPPING=1\n");
        daemon.ends_with(1);
    }
}

#[test]
fn a_reload_is_told_with_its_time_and_a_refused_one_changes_nothing() {
    let daemon = Daemon::spawn("serves");
    daemon.hears("READY=1\nSTATUS=serving\n");
    for status in ["STATUS=serving\n", "STATUS=serving; the last reload was refused"] {
        daemon.signal(Signal::HUP);
        daemon.hears("RELOADING=1\nMONOTONIC_USEC=");
        daemon.hears(&format!("READY=1\n{status}"));
    }
    daemon.signal(Signal::TERM);
    daemon.hears("STOPPING=1\n");
    daemon.ends_with(0);
}

#[test]
fn the_watchdog_is_fed_only_while_healthy() {
    let daemon = Daemon::spawn("serves");
    assert!(daemon.message().starts_with("READY=1"));
    for _ in 0..3 {
        assert_eq!(daemon.message(), "WATCHDOG=1\n");
    }
    daemon.signal(Signal::TERM);
    daemon.hears("STOPPING=1\n");
    daemon.ends_with(0);

    let daemon = Daemon::spawn("sick");
    assert!(daemon.message().starts_with("READY=1"));
    daemon.socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    assert!(daemon.socket.recv(&mut [0; 64]).is_err(), "nothing is said for longer than the watchdog's time");
    daemon.signal(Signal::TERM);
    daemon.hears("STOPPING=1\n");
    daemon.ends_with(0);
}

#[test]
fn a_slow_start_can_be_stopped() {
    let daemon = Daemon::spawn("slow start");
    daemon.hears("STATUS=starting\n");
    daemon.signal(Signal::TERM);
    daemon.ends_with(0);
}
