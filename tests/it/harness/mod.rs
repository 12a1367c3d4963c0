//! What the tests stand on. Everything it starts ends with the test process, and everything it writes is removed.

pub mod daemon;
pub mod gpg;
pub mod mail_server;
pub mod postgres;
pub mod redeemed;
pub mod second_client;
pub mod sftp;
pub mod workshop;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything on this small scale may take, on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until `look` finds what it looks for.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "did not see within {} seconds: {what}", PATIENCE.as_secs());
        std::thread::park_timeout(Duration::from_millis(25));
    }
}

/// Runs a program with `input`, however it ends. It is ended itself when it takes too long.
pub fn run(command: &mut Command, input: &str) -> Output {
    let mut limited = Command::new("timeout");
    limited.args(["-k", "1", &PATIENCE.as_secs().to_string()]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        limited.env(name, value.unwrap_or_default());
    }
    if let Some(directory) = command.get_current_dir() {
        limited.current_dir(directory);
    }
    let piped = limited.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    // A program that ends before it has read everything says why in its output.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Runs a program that must succeed; answers with its standard output.
#[track_caller]
pub fn succeed(command: &mut Command, input: &str) -> Vec<u8> {
    let output = run(command, input);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    output.stdout
}
