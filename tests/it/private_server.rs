//! The private PostgreSQL against the real one: start, restart, every kind of sudden death, who may use it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coupond::store::Store;
use coupond::store::private::{PrivateServer, PrivateServerError, PrivateServerOptions};
use diesel::prelude::*;
use diesel::sql_types::Text;
use rustix::process::{Pid, Signal, kill_process};

/// Names the state directory to the second process; see [`owner_process`].
const OWNED: &str = "COUPOND_TEST_OWNED_STATE_DIR";

/// A state directory that any account may reach, as `/var/lib/coupond` would be.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        Self(directory)
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn data(&self) -> PathBuf {
        self.state().join("postgres/pgdata")
    }

    /// The server's process id, as it says itself.
    fn pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        text.lines().next().unwrap().parse().unwrap()
    }

    fn start(&self) -> PrivateServer {
        PrivateServer::start_with(&self.state(), &quick()).unwrap()
    }

    fn refused(&self) -> String {
        let error = PrivateServer::start_with(&self.state(), &quick()).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error} {source}")
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn quick() -> PrivateServerOptions {
    PrivateServerOptions { durable: false, ..PrivateServerOptions::default() }
}

fn impatient() -> PrivateServerOptions {
    PrivateServerOptions { durable: false, patience: Duration::from_millis(100) }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[derive(QueryableByName)]
struct Value {
    #[diesel(sql_type = Text)]
    value: String,
}

fn try_ask(connection: &mut PgConnection, expression: &str) -> QueryResult<String> {
    let statement = format!("SELECT ({expression})::text AS value");
    diesel::sql_query(statement).get_result::<Value>(connection).map(|row| row.value)
}

fn connect(server: &PrivateServer) -> PgConnection {
    PgConnection::establish(server.url()).unwrap()
}

fn ask(server: &PrivateServer, expression: &str) -> String {
    try_ask(&mut connect(server), expression).unwrap()
}

fn run(server: &PrivateServer, statement: &str) {
    diesel::sql_query(statement).execute(&mut connect(server)).unwrap();
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Not a test by itself: the process that `Owner::spawn` starts from this same binary and kills.
#[test]
#[expect(clippy::print_stdout, reason = "the first process reads it from a pipe")]
fn owner_process() {
    let Some(state_dir) = std::env::var_os(OWNED) else { return };
    let server = PrivateServer::start_with(Path::new(&state_dir), &quick()).unwrap();
    println!("ready {}", server.url());
    std::io::stdin().lines().for_each(drop);
}

struct Owner(Child);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Owner {
    fn spawn(scratch: &Scratch) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["private_server::owner_process", "--exact", "--nocapture", "--test-threads=1"])
            .env(OWNED, scratch.state())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("ready host=")), "the owner did not start its server");
        Self(child)
    }

    fn kill(self) {
        drop(self);
    }
}

#[test]
fn the_data_outlive_a_stop() {
    let scratch = Scratch::new();
    let server = scratch.start();
    assert!(server.is_owner());
    Store::connect(server.url(), 1).unwrap().migrate().unwrap();
    run(&server, "CREATE TABLE kept AS SELECT 42 AS answer");
    server.stop();
    assert!(!scratch.data().join("postmaster.pid").exists(), "stopped cleanly");

    let server = scratch.start();
    assert_eq!(ask(&server, "SELECT answer FROM kept"), "42");
    assert_eq!(ask(&server, "current_user || ' ' || current_database()"), "coupond coupond");
    assert_eq!(server.restarts(), 0);
}

#[test]
fn what_users_run_is_durable_and_private() {
    let scratch = Scratch::new();
    let server = PrivateServer::start(&scratch.state()).unwrap();
    let setting = |name: &str| ask(&server, &format!("current_setting('{name}')"));
    for name in ["fsync", "full_page_writes", "synchronous_commit", "data_checksums"] {
        assert_eq!(setting(name), "on", "{name}");
    }
    assert_eq!(setting("server_encoding"), "UTF8");
    assert_eq!(setting("lc_collate"), "C");
    assert_eq!(setting("listen_addresses"), "");
    assert_eq!(tcp_listeners(scratch.pid()), Vec::<String>::new());

    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
    assert_eq!(mode(&scratch.data()), 0o700);
    assert_eq!(mode(&scratch.state().join("postgres/pgsock")), 0o700);
    assert_eq!(mode(&scratch.state().join("postgres/postgres.log")), 0o600);
    let open = if is_root() { 0o701 } else { 0o700 };
    assert_eq!(mode(&scratch.state()), open);
    assert_eq!(mode(&scratch.state().join("postgres")), open);
    if is_root() {
        assert_ne!(scratch.data().metadata().unwrap().uid(), 0);
        assert_eq!(scratch.state().metadata().unwrap().uid(), 0);
    }
}

/// The listening TCP sockets of a process, by their line in `/proc/net`.
fn tcp_listeners(pid: i32) -> Vec<String> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = descriptors.map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap_or_default());
    let open: Vec<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    assert!(open.iter().any(|link| link.starts_with("socket:")), "its Unix socket at least must be seen: {open:?}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let of_process = |line: &&str| {
        let inode = line.split_whitespace().nth(9).unwrap();
        open.contains(&format!("socket:[{inode}]"))
    };
    lines.filter(of_process).map(str::to_owned).collect()
}

#[test]
fn a_killed_server_comes_back_and_the_store_reconnects() {
    let scratch = Scratch::new();
    let server = scratch.start();
    let store = Store::connect(server.url(), 2).unwrap();
    store.migrate().unwrap();
    let before = scratch.pid();
    kill(before);
    eventually("the store answers again", || {
        store.schema_is_current().is_ok_and(|current| current) && server.restarts() == 1
    });
    assert_ne!(scratch.pid(), before);
    server.stop();
    assert!(!scratch.data().join("postmaster.pid").exists());
}

#[test]
fn a_killed_owner_takes_its_server_along() {
    let scratch = Scratch::new();
    let owner = Owner::spawn(&scratch);
    owner.kill();
    eventually("the server has ended cleanly", || !scratch.data().join("postmaster.pid").exists());
    scratch.start();
}

#[test]
fn the_next_owner_starts_at_once() {
    let scratch = Scratch::new();
    // The owner alone, then both at the same moment.
    for both in [false, true] {
        let owner = Owner::spawn(&scratch);
        let server_pid = scratch.pid();
        if both {
            kill(server_pid);
        }
        owner.kill();
        let began = Instant::now();
        let server = scratch.start();
        assert_ne!(scratch.pid(), server_pid);
        assert_eq!(ask(&server, "1"), "1");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}, both killed: {both}", began.elapsed());
    }
}

/// A process that has nothing to do with PostgreSQL; ends with the test, however that goes.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_lock_file_that_names_a_stranger_does_not_stop_it() {
    let scratch = Scratch::new();
    scratch.start().stop();
    // PostgreSQL believes the file when a process of its own user has that id.
    let data = scratch.data().metadata().unwrap();
    let mut command = Command::new("sleep");
    command.arg("600");
    if is_root() {
        command.uid(data.uid()).gid(data.gid());
    }
    let mut stranger = Stranger(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let socket_lock = scratch.state().join("postgres/pgsock/.s.PGSQL.5432.lock");
    let text = format!("{}\n{}\n1790000000\n5432\n\n\n", stranger.0.id(), scratch.data().display());
    for (pid_file, lock_file) in
        [(Some(text.as_str()), Some(text.as_str())), (Some(""), None), (None, Some("rubbish\n"))]
    {
        for (path, content) in [(scratch.data().join("postmaster.pid"), pid_file), (socket_lock.clone(), lock_file)] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
                std::os::unix::fs::chown(&path, Some(data.uid()), Some(data.gid())).unwrap();
            }
        }
        let server = scratch.start();
        assert_eq!(ask(&server, "1"), "1");
        assert!(stranger.0.try_wait().unwrap().is_none(), "the stranger lives");
    }
}

#[test]
fn a_second_owner_is_told_who_the_first_is() {
    let scratch = Scratch::new();
    let server = scratch.start();
    let error = PrivateServer::start_with(&scratch.state(), &impatient()).unwrap_err();
    assert!(matches!(error, PrivateServerError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&format!("process {} owns", std::process::id())), "{error}");
    assert_eq!(ask(&server, "1"), "1");
}

#[test]
fn others_join_a_running_server() {
    let scratch = Scratch::new();
    let server = scratch.start();
    let joined = PrivateServer::attach_or_start_with(&scratch.state(), &quick()).unwrap();
    assert!(!joined.is_owner());
    assert_eq!(joined.url(), server.url());
    joined.stop();
    assert_eq!(ask(&server, "1"), "1");
}

#[test]
fn a_command_that_started_the_server_waits_for_one_that_joined() {
    let scratch = Scratch::new();
    let first = PrivateServer::attach_or_start_with(&scratch.state(), &quick()).unwrap();
    let second = PrivateServer::attach_or_start_with(&scratch.state(), &quick()).unwrap();
    assert!(first.is_owner() && !second.is_owner());
    let mut connection = connect(&second);
    let stopping = std::thread::spawn(move || first.stop());
    for _ in 0..20 {
        std::thread::park_timeout(Duration::from_millis(10));
        assert_eq!(try_ask(&mut connection, "1").unwrap(), "1");
    }
    assert!(!stopping.is_finished());
    second.stop();
    stopping.join().unwrap();
    assert!(!scratch.data().join("postmaster.pid").exists());

    let third = PrivateServer::attach_or_start_with(&scratch.state(), &quick()).unwrap();
    assert!(third.is_owner());
}

#[test]
fn a_long_path_gets_a_short_socket() {
    for name in ["long".repeat(30), "a,comma".into()] {
        let scratch = Scratch::new();
        let state_dir = scratch.0.path().join(name);
        let server = PrivateServer::start_with(&state_dir, &quick()).unwrap();
        assert_eq!(ask(&server, "1"), "1");
        let joined = PrivateServer::attach_or_start_with(&state_dir, &quick()).unwrap();
        assert_eq!(joined.url(), server.url());
        let host = server.url().split('\'').nth(1).unwrap().to_owned();
        assert!(!host.starts_with(state_dir.to_str().unwrap()), "{host}");
        assert_eq!(Path::new(&host).metadata().unwrap().mode() & 0o777, 0o700);
        server.stop();
        assert!(!Path::new(&host).exists(), "{host} is left behind");
    }
}

#[test]
fn a_half_made_cluster_is_made_anew() {
    let scratch = Scratch::new();
    let half = scratch.state().join("postgres/pgdata.new/base");
    std::fs::create_dir_all(half).unwrap();
    let server = scratch.start();
    assert_eq!(ask(&server, "1"), "1");
    assert!(!scratch.state().join("postgres/pgdata.new").exists());
}

#[test]
fn a_start_that_fails_says_why() {
    let scratch = Scratch::new();
    scratch.start().stop();
    let configuration = scratch.data().join("postgresql.conf");
    let good = std::fs::read(&configuration).unwrap();
    std::fs::write(&configuration, "no_such_setting = 1\n").unwrap();
    let words = scratch.refused();
    assert!(words.contains("3 attempts") && words.contains("no_such_setting"), "{words}");
    assert!(words.contains("postgres/postgres.log"), "{words}");
    std::fs::write(&configuration, good).unwrap();

    std::fs::write(scratch.data().join("PG_VERSION"), "9\n").unwrap();
    let words = scratch.refused();
    assert!(words.contains("was made by PostgreSQL 9, installed is"), "{words}");
}

#[test]
fn root_opens_the_state_directory_and_nothing_in_it() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let secret = scratch.state().join("openpgp");
    std::fs::create_dir_all(&secret).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(scratch.state(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let server = scratch.start();
    assert_eq!(secret.metadata().unwrap().mode() & 0o777, 0o750);
    server.stop();

    let closed = scratch.0.path();
    std::fs::set_permissions(closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let words = scratch.refused();
    let expected = format!("it may not pass through `{}` (mode 0700); run `chmod o+x`", closed.display());
    assert!(words.contains(&expected), "{words}");
}

#[test]
fn readiness_follows_the_schema_and_the_server() {
    let scratch = Scratch::new();
    let server = scratch.start();
    let store = Store::connect(server.url(), 1).unwrap();
    let check = coupond::http::store_check(store.clone());
    assert_eq!(check(), Err("the schema is not up to date: run `coupond migrate`".into()));
    store.migrate().unwrap();
    assert_eq!(check(), Ok(()));
    server.stop();
    assert!(check().unwrap_err().starts_with("failed to "));
}
