//! The daemon as a process: its directory, its configuration, its life, and what it left in store and spool.
//!
//! The kernel ends the daemon when the thread that started it ends, however that happens; the daemon's own PostgreSQL,
//! where it has one, ends with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::sql_types::Text;
use diesel::{Connection as _, PgConnection, QueryableByName, RunQueryDsl as _, sql_query};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::postgres::Database;
use super::redeemed::WRONG_PLACES;
use super::sftp::Client;
use super::until;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_coupond");

/// A daemon, running or not, with everything that is its own.
pub struct Daemon {
    directory: TempDir,
    database: Option<Database>,
    sftp_port: u16,
    http_port: u16,
    process: Option<Child>,
}

impl Daemon {
    /// A daemon with these namespaces (name and file) that runs on a database of its own.
    ///
    /// `@user@` in a file stands for the public key of that user, which is made on the way.
    pub fn serve(namespaces: &[(&str, &str)]) -> Self {
        let mut daemon = Self::prepare(namespaces);
        daemon.start();
        daemon
    }

    /// The same, not started yet.
    pub fn prepare(namespaces: &[(&str, &str)]) -> Self {
        Self::make(namespaces, Some(Database::new()))
    }

    /// The same with no database set up: it makes a private PostgreSQL.
    pub fn prepare_private(namespaces: &[(&str, &str)]) -> Self {
        Self::make(namespaces, None)
    }

    fn make(namespaces: &[(&str, &str)], database: Option<Database>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // PostgreSQL runs as a user of its own when the tests run as root, and must pass through.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let daemon = Self { directory, database, sftp_port: free_port(), http_port: free_port(), process: None };
        for name in ["namespaces", "keys", "desks"] {
            fs::create_dir(daemon.path(name)).unwrap();
        }
        let database = daemon.database.as_ref().map_or(String::new(), |database| format!("url = {:?}", database.url));
        daemon.write(
            "coupond.toml",
            &format!(
                "state_dir = \"state\"\n[sftp]\nlisten = [\"127.0.0.1:{}\"]\n[http]\nlisten = \"127.0.0.1:{}\"\n\
                 [database]\n{database}\n[spool]\nsettle_secs = 1\n[limits]\nlease_secs = 5\nfree_space_bytes = 0\n",
                daemon.sftp_port, daemon.http_port
            ),
        );
        for (name, file) in namespaces {
            daemon.configure(name, file);
        }
        daemon
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file in its directory.
    pub fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Writes a namespace's file; see [`Daemon::serve`] for `@user@`.
    pub fn configure(&self, namespace: &str, file: &str) {
        let mut text = String::new();
        for (index, part) in file.split('@').enumerate() {
            text.push_str(&if index % 2 == 1 { self.public_key(part) } else { part.to_owned() });
        }
        self.write(&format!("namespaces/{namespace}.toml"), &text);
    }

    fn public_key(&self, user: &str) -> String {
        let key = self.path("keys").join(user);
        if !key.exists() {
            let mut command = Command::new("ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-C", user, "-f"]).arg(&key);
            super::succeed(&mut command, "");
        }
        fs::read_to_string(key.with_extension("pub")).unwrap().trim().to_owned()
    }

    /// Starts it, and returns when it is ready.
    pub fn start(&mut self) {
        self.spawn("");
        self.wait_ready();
    }

    /// Starts it with these failpoints armed. It may end before it is ready.
    pub fn spawn(&mut self, failpoints: &str) {
        assert!(self.process.is_none(), "it runs already");
        let log = fs::File::options().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let daemon = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", PROGRAM, "serve", "--config"])
            .arg(self.path("coupond.toml"))
            .env("FAILPOINTS", failpoints)
            .env("COUPOND_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(daemon);
    }

    /// Waits until it says that it is ready.
    pub fn wait_ready(&mut self) {
        until("the daemon is ready", || {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended with {}:\n{}", ended.unwrap(), self.log());
            (self.http("/readyz")?.0 == 200).then_some(())
        });
    }

    /// One GET: status and body.
    pub fn http(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        for line in BufReader::new(stream.take(1 << 20)).split(b'\n') {
            answer.push_str(std::str::from_utf8(&line.ok()?).ok()?);
            answer.push('\n');
        }
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// Its process id.
    pub fn id(&self) -> i32 {
        self.process.as_ref().unwrap().id().try_into().unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(self.id()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// kill -9
    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Waits until it has ended by itself.
    pub fn wait_ended(&mut self) -> ExitStatus {
        let status = until("the daemon ends by itself", || self.process.as_mut().unwrap().try_wait().unwrap());
        self.process = None;
        status
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait_ended()
    }

    /// Runs another command of the program with this daemon's configuration.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("--config").arg(self.path("coupond.toml"));
        super::run(&mut command, "")
    }

    /// A user's SFTP client, with a directory of its own.
    pub fn client(&self, user: &str) -> Client {
        let desk = self.path("desks").join(user);
        fs::create_dir_all(&desk).unwrap();
        Client { user: user.to_owned(), key: self.path("keys").join(user), port: self.sftp_port, desk }
    }

    /// The port it serves SFTP on.
    pub fn sftp_port(&self) -> u16 {
        self.sftp_port
    }

    /// The directory of a namespace.
    pub fn namespace(&self, name: &str) -> PathBuf {
        self.path("state/namespaces").join(name)
    }

    /// The rows of a query, as JSON.
    #[track_caller]
    pub fn rows(&self, query: &str) -> Vec<Value> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Text)]
            row: String,
        }
        let wrapped = format!("SELECT row_to_json(answer)::text AS row FROM ({query}) answer");
        let rows: Vec<Row> = sql_query(wrapped).load(&mut self.connection()).unwrap();
        rows.iter().map(|row| serde_json::from_str(&row.row).unwrap()).collect()
    }

    /// The single number that a query answers with.
    #[track_caller]
    pub fn count(&self, query: &str) -> i64 {
        let rows = self.rows(&format!("SELECT ({query})::bigint AS n"));
        rows[0]["n"].as_i64().unwrap()
    }

    /// Changes the store behind the daemon's back.
    pub fn execute(&self, statement: &str) {
        self.connection().batch_execute(statement).unwrap();
    }

    fn connection(&self) -> PgConnection {
        if let Some(database) = &self.database {
            return database.connection();
        }
        until("the private PostgreSQL answers", || {
            let socket = find(&self.path("state"), ".s.PGSQL.5432")?;
            let url = format!("host='{}' user=coupond dbname=coupond", socket.parent()?.display());
            PgConnection::establish(&url).ok()
        })
    }

    /// kill -9 of the private PostgreSQL, where one runs.
    pub fn kill_database(&self) {
        let mark = find(&self.path("state"), "postmaster.pid").and_then(|mark| fs::read_to_string(mark).ok());
        let id = mark.and_then(|mark| mark.lines().next()?.trim().parse().ok());
        if let Some(id) = id.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
        }
    }

    /// Waits until nothing is left to do: every upload that was received has its report, every batch its files.
    #[track_caller]
    pub fn wait_idle(&self) {
        let open = "SELECT 'upload' AS what, id, state, attempts::text || ' tries' AS more, retry_at, lease_until FROM upload \
                    WHERE state IN ('received', 'active', 'deferred') OR finished_at IS NOT NULL AND reported_at IS NULL \
                    UNION ALL SELECT 'batch', id, state, waiting_for, retry_at, lease_until FROM batch \
                    WHERE state IN ('due', 'assigned') \
                    UNION ALL SELECT 'list', id, state, name, NULL, NULL FROM upload u \
                    WHERE kind = 'recipients' AND state = 'applied' AND NOT dry_run AND returns_batch IS NULL AND NOT EXISTS \
                    (SELECT FROM batch b WHERE b.namespace_id = u.namespace_id AND b.upload_id = u.id)";
        let start = Instant::now();
        loop {
            let left = self.rows(open);
            if left.is_empty() {
                return;
            }
            assert!(start.elapsed() < super::PATIENCE, "still not processed: {left:#?}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Holds store and spool against each other, and the store against itself. The daemon must be idle.
    #[track_caller]
    pub fn verify_whole(&self, namespace: &str) {
        self.verify_reports(namespace);
        self.verify_lots();
        self.verify_batches(namespace);
    }

    /// One report for every upload with a verdict, none without, and the original where the verdict sends it.
    #[track_caller]
    fn verify_reports(&self, namespace: &str) {
        let root = self.namespace(namespace);
        let mut expected = BTreeSet::new();
        for upload in self.rows("SELECT id, name, state FROM upload WHERE finished_at IS NOT NULL ORDER BY id") {
            let stem = format!("{}.{}", upload["name"].as_str().unwrap(), upload["id"]);
            expected.insert(format!("{stem}.report.json"));
            expected.insert(format!("{stem}.rejects.csv"));
            let kept = if upload["state"] == "quarantined" { "quarantine" } else { "archive" };
            assert!(root.join(".spool").join(kept).join(upload["id"].to_string()).exists(), "lost: {upload}");
        }
        assert_eq!(names(&root.join("reports")), expected, "reports");
        assert_eq!(names(&root.join(".spool/prepared")), BTreeSet::new(), "left half-way");
        let rows = self.rows("SELECT id, name, state, bytes FROM upload ORDER BY id");
        let unfinished = ["receiving", "partial", "awaiting_rename", "received", "active", "deferred"];
        for left in names(&root.join(".spool/incoming")) {
            let row = rows.iter().find(|row| row["id"].as_i64().is_some_and(|id| id.to_string() == left));
            // A row is begun without waiting for the disk: when the database is killed, a file that nobody closed may lose
            // its row, and is removed when it is old.
            if row.is_none() && self.database.is_none() {
                continue;
            }
            let state = row.and_then(|row| row["state"].as_str()).unwrap_or("unknown");
            assert!(unfinished.contains(&state), "left behind in .spool/incoming: {left}, {row:?}");
        }
    }

    /// The counters of every lot say what counting says, and no code was handed out twice.
    #[track_caller]
    fn verify_lots(&self) {
        let wrong = self.rows(
            "SELECT * FROM (SELECT l.namespace_id, l.bank_id, l.id, l.size, l.next_seq, l.redeemed_ahead, \
             (SELECT count(*) FROM coupon c WHERE (c.namespace_id, c.bank_id, c.lot_id) = (l.namespace_id, l.bank_id, l.id)) AS codes, \
             (SELECT count(DISTINCT seq) FROM coupon c WHERE (c.namespace_id, c.bank_id, c.lot_id) = (l.namespace_id, l.bank_id, l.id) \
                AND c.seq BETWEEN 0 AND l.size - 1) AS places, \
             (SELECT count(*) FROM coupon c JOIN redemption r USING (namespace_id, code) \
                WHERE (c.namespace_id, c.bank_id, c.lot_id) = (l.namespace_id, l.bank_id, l.id) AND c.seq >= l.next_seq) AS redeemed, \
             (SELECT max(seq) FROM assigned a WHERE (a.namespace_id, a.bank_id, a.lot_id) = (l.namespace_id, l.bank_id, l.id)) AS last \
             FROM lot l) counted WHERE size <> codes OR size <> places OR redeemed_ahead <> redeemed OR last >= next_seq",
        );
        assert_eq!(wrong, Vec::<Value>::new(), "lots whose counters are wrong");
        assert_eq!(self.count(WRONG_PLACES), 0, "what is redeemed by place");
        let twice = self.rows(
            "SELECT code, count(*) FROM assigned GROUP BY namespace_id, bank_id, code HAVING count(*) > 1 \
             UNION ALL SELECT a.code, 0 FROM assigned a LEFT JOIN coupon c \
             USING (namespace_id, bank_id, lot_id, seq) WHERE a.code IS DISTINCT FROM c.code",
        );
        assert_eq!(twice, Vec::<Value>::new(), "codes that were handed out twice, or as another");
    }

    /// Every batch has one set of files, whole, as its manifest says; and nothing else lies with them.
    #[track_caller]
    fn verify_batches(&self, namespace: &str) {
        let root = self.namespace(namespace).join("assignments");
        let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut customers_by_code: BTreeMap<(String, String), String> = BTreeMap::new();
        for batch in
            self.rows("SELECT id, campaign, manifest, proof FROM batch WHERE state IN ('exported', 'collected')")
        {
            let campaign = batch["campaign"].as_str().unwrap();
            let recorded: Value = serde_json::from_str(batch["manifest"].as_str().unwrap()).unwrap();
            let of_campaign = expected.entry(campaign.to_owned()).or_default();
            let stem = recorded["recipients"].as_str().unwrap().split('.').next().unwrap();
            let manifest = format!("{stem}.{}.manifest.json", batch["id"]);
            let published: Value =
                serde_json::from_slice(&fs::read(root.join(campaign).join(&manifest)).unwrap()).unwrap();
            assert_eq!(published, recorded);
            of_campaign.insert(manifest);
            for file in published["files"].as_array().unwrap() {
                let name = file["name"].as_str().unwrap();
                let content = fs::read(root.join(campaign).join(name)).unwrap();
                verify_listed(file, &content);
                of_campaign.insert(name.to_owned());
                if name.ends_with(".csv") && !name.ends_with(".unassigned.csv") && batch["proof"] == false {
                    for (customer, bank, code) in handed_out(&content) {
                        let first = customers_by_code.entry((bank, code.clone())).or_insert_with(|| customer.clone());
                        assert_eq!(*first, customer, "`{code}` went to two customers");
                    }
                }
            }
        }
        for (campaign, expected) in expected {
            // What was redeemed since is no part of what was exported.
            let mut found = names(&root.join(&campaign));
            found.retain(|name| !name.contains(".corrections.csv"));
            assert_eq!(found, expected, "files of campaign `{campaign}`");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let private = self.database.is_none();
            let _ = process.kill();
            let _ = process.wait();
            if private {
                wait_private_server(&self.directory.path().join("state"));
            }
        }
        if std::thread::panicking() {
            let log = self.log();
            let last: Vec<&str> = log.lines().rev().take(40).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            let _ = writeln!(std::io::stderr(), "--- the daemon's last lines:\n{}\n---", last.join("\n"));
        }
    }
}

/// The private PostgreSQL ends by itself after its daemon was killed; its directory can be removed then.
fn wait_private_server(state: &Path) {
    let mark = find(state, "postmaster.pid");
    let start = Instant::now();
    while mark.as_ref().is_some_and(|mark| mark.exists()) && start.elapsed() < Duration::from_secs(20) {
        std::thread::park_timeout(Duration::from_millis(25));
    }
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(directory).ok()?.flatten() {
        if entry.file_name() == name {
            return Some(entry.path());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && entry.file_name() != "namespaces"
            && let Some(found) = find(&entry.path(), name)
        {
            return Some(found);
        }
    }
    None
}

/// The names in a directory.
#[track_caller]
pub fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Holds a file against what a manifest says of it.
#[track_caller]
pub fn verify_listed(listed: &Value, content: &[u8]) {
    let digest = Sha256::digest(content).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    assert_eq!(listed["sha256"].as_str(), Some(digest.as_str()), "{listed}");
    assert_eq!(listed["bytes"].as_u64(), Some(content.len() as u64), "{listed}");
    if listed["name"].as_str().unwrap().ends_with(".csv") {
        let rows = csv::Reader::from_reader(content).records().count();
        assert_eq!(listed["rows"].as_u64(), Some(rows as u64), "{listed}");
    }
}

/// Customer, bank and code of every row of an assignment file.
pub fn handed_out(content: &[u8]) -> Vec<(String, String, String)> {
    let mut reader = csv::Reader::from_reader(content);
    let headers = reader.headers().unwrap().clone();
    let column = |name: &str| headers.iter().position(|header| header == name).unwrap();
    let (customer, bank, code) = (column("customer_id"), column("bank_name"), column("code"));
    let records = reader.records().map(Result::unwrap);
    records.map(|row| (row[customer].to_owned(), row[bank].to_owned(), row[code].to_owned())).collect()
}

/// A port that nothing listens on, below those that the kernel gives to outgoing connections; no two in this process.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + (std::process::id().wrapping_mul(97) + step) % 20_000;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
