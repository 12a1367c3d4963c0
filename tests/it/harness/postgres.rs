//! One throwaway PostgreSQL per test process, one database per test, copied from a migrated template.
//!
//! A shell watches over the server and holds the reading end of a pipe: however the test process ends, the pipe closes,
//! and the shell ends the server and removes its directory. fsync is off: nothing here has to survive anything.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use coupond::store::Store;
use diesel::connection::SimpleConnection as _;
use diesel::sql_types::Text;
use diesel::{Connection as _, PgConnection, QueryableByName, RunQueryDsl as _, sql_query};

const WATCH: &str = r#"
set -eu
trap '' INT TERM HUP
initdb -D "$1/data" -U coupond --auth=trust -E UTF8 --locale=C --no-sync >"$1/initdb.log" 2>&1
postgres -D "$1/data" -k "$1" -c listen_addresses= -c fsync=off -c full_page_writes=off -c max_connections=200 \
    -c shared_buffers=64MB -c autovacuum_naptime=2 >"$1/postgres.log" 2>&1 &
server=$!
until psql -h "$1" -U coupond -d postgres -qc 'select 1' >/dev/null 2>&1; do kill -0 $server; done
echo ready
cat >/dev/null
kill -QUIT $server; wait $server || true
rm -rf "$1"
"#;

struct Server {
    directory: PathBuf,
    _watched: ChildStdin,
}

/// A database of its own, with the schema.
pub struct Database {
    /// How to reach it.
    pub url: String,
}

impl Database {
    /// A fresh one.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        admin(&format!("CREATE DATABASE {name} TEMPLATE migrated STRATEGY wal_log"));
        Self { url: url(&name) }
    }

    /// A fresh one without any table.
    pub fn empty() -> Self {
        Self::without_tables("STRATEGY wal_log")
    }

    /// A fresh one that keeps text in this encoding.
    pub fn in_encoding(encoding: &str) -> Self {
        Self::without_tables(&format!("ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"))
    }

    fn without_tables(terms: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("empty_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        admin(&format!("CREATE DATABASE {name} {terms}"));
        Self { url: url(&name) }
    }

    /// A connection for a test's own questions.
    pub fn connection(&self) -> PgConnection {
        PgConnection::establish(&self.url).unwrap()
    }

    /// The tables that it has.
    pub fn tables(&self) -> Vec<String> {
        #[derive(QueryableByName)]
        struct Table {
            #[diesel(sql_type = Text)]
            name: String,
        }
        let query = "SELECT tablename::text AS name FROM pg_tables WHERE schemaname = 'public'";
        let found: Vec<Table> = sql_query(query).load(&mut self.connection()).unwrap();
        found.into_iter().map(|table| table.name).collect()
    }

    /// A store on it.
    pub fn store(&self) -> Store {
        Store::connect(&self.url, 8).unwrap()
    }
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(start)
}

/// What the server has said so far.
pub fn log() -> String {
    fs::read_to_string(server().directory.join("postgres.log")).unwrap()
}

fn url(database: &str) -> String {
    format!("postgresql://coupond@/{database}?host={}", server().directory.display())
}

fn admin(statement: &str) {
    PgConnection::establish(&url("postgres")).unwrap().batch_execute(statement).unwrap();
}

fn start() -> Server {
    let directory = std::env::temp_dir().join(format!("coupond-tests-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let binaries = binaries();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap_or_default());
    let root = fs::metadata("/proc/self").map(|me| std::os::unix::fs::MetadataExt::uid(&me)).unwrap() == 0;
    // PostgreSQL refuses to run as root.
    let mut command = if root {
        assert!(Command::new("chown").arg("postgres").arg(&directory).status().unwrap().success());
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "bash"]);
        command
    } else {
        Command::new("bash")
    };
    #[expect(clippy::zombie_processes, reason = "it outlives this process: it cleans up behind it")]
    let mut watcher = command
        .args(["-c", WATCH, "watch"])
        .arg(&directory)
        .env("PATH", path)
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(watcher.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "PostgreSQL did not start; see {}", directory.display());
    let server = Server { directory, _watched: watcher.stdin.take().unwrap() };
    let at = |database: &str| format!("postgresql://coupond@/{database}?host={}", server.directory.display());
    PgConnection::establish(&at("postgres")).unwrap().batch_execute("CREATE DATABASE migrated").unwrap();
    let migrated = Store::connect(&at("migrated"), 1).unwrap();
    migrated.migrate().unwrap();
    server
}

fn binaries() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    found.retain(|directory| directory.join("initdb").exists());
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from("/usr/bin"))
}
