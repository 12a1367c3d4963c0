//! The SFTP endpoint against real clients (OpenSSH's `sftp`, russh-sftp, and packets made by hand) on a real PostgreSQL.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test that fails may panic")]

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use chrono::{DateTime, TimeDelta, Utc};
use coupond::clock::Clock;
use coupond::config::{
    Audience, Bank, Campaign, Channel, DatabaseSettings, Limits, LiveSettings, Name, Namespace, NamespaceOpenpgp,
    NewBanks, OfferType, OpenpgpSettings, PersistPer, RedemptionFeed, RejectLimit, Require, Role, Schedule, Settings,
    SftpSettings, SpoolSettings, User, WhenShort,
};
use coupond::sftp::{Endpoint, Parts, Pickup, host_keys};
use coupond::spool::{Intent, Kind, Layout, Place, Reception, Sender};
use coupond::store::Store;
use coupond::store::schema::upload;
use coupond::telemetry::Metrics;
use diesel::{Connection as _, prelude::*};
use tokio_util::sync::CancellationToken;

// ---------------------------------------------------------------------------------------------------------------------
// PostgreSQL

struct Postgres {
    directory: tempfile::TempDir,
    server: Child,
    databases: AtomicUsize,
}

fn binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.exists()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}

/// PostgreSQL refuses to run as root: then it runs as `postgres` or `nobody`.
fn unprivileged(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(binary(program));
    command.env("LC_ALL", "C").current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
    if rustix::process::geteuid().is_root() {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        let user = ["postgres", "nobody"]
            .iter()
            .find_map(|user| passwd.lines().find(|line| line.starts_with(&format!("{user}:"))))
            .unwrap();
        let ids: Vec<u32> = user.split(':').skip(2).take(2).map(|id| id.parse().unwrap()).collect();
        std::os::unix::fs::chown(directory, Some(ids[0]), Some(ids[1])).unwrap();
        command.uid(ids[0]).gid(ids[1]);
    }
    command
}

impl Postgres {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("coupond-pg").tempdir().unwrap();
        let data = directory.path().join("data");
        let made = unprivileged("initdb", directory.path())
            .args(["-U", "coupond", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .status()
            .unwrap();
        assert!(made.success());
        let server = unprivileged("postgres", directory.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200", "-k"])
            .arg(directory.path())
            .arg("-D")
            .arg(&data)
            .spawn()
            .unwrap();
        let postgres = Self { directory, server, databases: AtomicUsize::new(0) };
        until("PostgreSQL is up", || PgConnection::establish(&postgres.url("postgres")).is_ok());
        postgres
    }

    /// One server for all tests that run at the same time; the last one stops it.
    fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Mutex<Weak<Postgres>>> = OnceLock::new();
        let mut shared = SHARED.get_or_init(Mutex::default).lock().unwrap();
        shared.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Self::start());
            *shared = Arc::downgrade(&started);
            started
        })
    }

    fn url(&self, database: &str) -> String {
        format!("host={} user=coupond dbname={database}", self.directory.path().display())
    }

    fn store(&self) -> Store {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::establish(&self.url("postgres")).unwrap();
        diesel::sql_query(format!("CREATE DATABASE {name}")).execute(&mut connection).unwrap();
        let store = Store::connect(&self.url(&name), 8).unwrap();
        store.migrate().unwrap();
        store
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.server);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let _ = self.server.wait();
    }
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited a minute until {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The endpoint and its world

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn limits() -> Limits {
    Limits {
        upload_bytes: 64 << 20,
        plaintext_bytes: 1 << 30,
        plaintext_ratio: 1000,
        nesting: 8,
        row_bytes: 65_536,
        code_bytes: 99,
        customer_id_bytes: 320,
        reject: RejectLimit { rows: 10_000, percent: 10 },
        quota_bytes: 1 << 30,
        free_space_bytes: 0,
        sessions: 100,
        sessions_per_source: 50,
        sessions_before_login: 50,
        login_grace: Duration::from_secs(30),
        login_attempts: 6,
        idle: Duration::from_secs(900),
        open_files: 64,
        open_directories: 8,
        lease: Duration::from_secs(60),
    }
}

struct World {
    runtime: tokio::runtime::Runtime,
    live: LiveSettings,
    store: Store,
    reception: Arc<Reception>,
    clock: Clock,
    address: SocketAddr,
    stop: CancellationToken,
    wakes: Arc<AtomicUsize>,
    pickups: Arc<Mutex<Vec<Pickup>>>,
    served: Option<tokio::task::JoinHandle<()>>,
    directory: tempfile::TempDir,
    _postgres: Arc<Postgres>,
}

fn user(role: Role, key: &str) -> User {
    User { role, public_keys: vec![key.to_owned()], password_hash: None, allow_from: Vec::new() }
}

fn namespace(of: &str, users: BTreeMap<String, User>) -> Namespace {
    let bank = |text: &str, audience| Bank {
        name: name(text),
        audience,
        persistent: audience == Audience::Communicate,
        persist_per: PersistPer::Customer,
        offer_type: OfferType::Other,
        low_stock: None,
        proof_code: "PROOF".into(),
        fallback_code: None,
    };
    let campaign = Campaign {
        name: name("winback"),
        bank: name("spring26"),
        channel: Channel::Email,
        schedule: Schedule::OnArrival,
        send_at: None,
        collect_by: None,
        when_short: WhenShort::Wait,
        encrypt_to: None,
    };
    Namespace {
        name: name(of),
        timezone: chrono_tz::America::New_York,
        notify: Vec::new(),
        exchange: true,
        may_delete_collected: of == "other",
        new_banks: NewBanks::Reject,
        users,
        openpgp: NamespaceOpenpgp { require: Require::None, signers: Vec::new() },
        banks: BTreeMap::from([
            (name("spring26"), bank("spring26", Audience::Communicate)),
            (name("web"), bank("web", Audience::Site)),
        ]),
        campaigns: BTreeMap::from([(name("winback"), campaign)]),
        redemptions: RedemptionFeed::default(),
    }
}

fn settings(directory: &Path) -> Settings {
    let key = std::fs::read_to_string(directory.join("key.pub")).unwrap();
    let acme = BTreeMap::from([
        ("acme-feed".to_owned(), user(Role::Client, &key)),
        ("acme-feed2".to_owned(), user(Role::Client, &key)),
        ("acme-mail".to_owned(), user(Role::Campaigns, &key)),
        ("acme-all".to_owned(), user(Role::All, &key)),
    ]);
    let other = BTreeMap::from([("other-all".to_owned(), user(Role::All, &key))]);
    Settings {
        file: directory.join("coupond.toml"),
        state_dir: directory.join("state"),
        sftp: SftpSettings { listen: vec!["127.0.0.1:0".parse().unwrap()], host_keys: Vec::new() },
        database: DatabaseSettings::Private,
        mail: None,
        openpgp: OpenpgpSettings { secret_keys: Vec::new() },
        http: "127.0.0.1:0".parse().unwrap(),
        spool: SpoolSettings {
            settle: Duration::from_secs(10),
            linger: Duration::from_secs(120),
            partial_keep: Duration::from_secs(48 * 3600),
            archive_keep: Duration::from_secs(30 * 86_400),
        },
        limits: limits(),
        namespaces: BTreeMap::from([
            (name("acme"), namespace("acme", acme)),
            (name("other"), namespace("other", other)),
        ]),
    }
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let postgres = Postgres::shared();
        let store = postgres.store();
        let directory = tempfile::Builder::new().prefix("coupond-sftp").tempdir().unwrap();
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(directory.path().join("key"))
            .status()
            .unwrap();
        assert!(made.success());
        let mut settings = settings(directory.path());
        change(&mut settings);
        store.ensure_namespaces(settings.namespaces.keys()).unwrap();
        let keys = host_keys::load_or_create(&[], &settings.state_dir).unwrap();
        let live = LiveSettings::new(settings);
        let clock = Clock::manual(Clock::system().now());
        let (wakes, pickups) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let woken = Arc::clone(&wakes);
        let wake = Arc::new(move || {
            woken.fetch_add(1, Ordering::Relaxed);
        });
        let reception = Arc::new(Reception::new(live.clone(), store.clone(), clock.clone(), wake).unwrap());
        let seen = Arc::clone(&pickups);
        let parts = Parts {
            live: live.clone(),
            store: store.clone(),
            reception: Arc::clone(&reception),
            clock: clock.clone(),
            host_keys: keys,
            collected: Arc::new(move |pickup: &Pickup| seen.lock().unwrap().push(pickup.clone())),
            metrics: Metrics::new(|| None),
            drain: Duration::from_secs(20),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let endpoint = runtime.block_on(Endpoint::bind(parts)).unwrap();
        let address = endpoint.local_addresses()[0];
        let stop = CancellationToken::new();
        let served = Some(runtime.spawn(endpoint.run(stop.clone())));
        Self {
            runtime,
            live,
            store,
            reception,
            clock,
            address,
            stop,
            wakes,
            pickups,
            served,
            directory,
            _postgres: postgres,
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn write(&self, file: &str, content: &[u8]) -> PathBuf {
        let path = self.path(file);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn layout(&self, namespace: &str) -> Layout {
        Layout::new(&self.live.current().state_dir, &name(namespace))
    }

    fn options(&self) -> Vec<String> {
        let mut options = vec!["-q".into(), "-F".into(), "/dev/null".into(), "-i".into()];
        options.push(self.path("key").display().to_string());
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "BatchMode=yes",
        ] {
            options.extend(["-o".to_owned(), option.to_owned()]);
        }
        options
    }

    /// Runs OpenSSH's client. A leading `-` on a line lets it go on after an error.
    fn sftp(&self, user: &str, batch: &str) -> Output {
        let mut child = Command::new("sftp")
            .args(self.options())
            .args(["-P", &self.address.port().to_string(), "-b", "-"])
            .arg(format!("{user}@{}", self.address.ip()))
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    #[track_caller]
    fn good(&self, user: &str, batch: &str) -> String {
        let output = self.sftp(user, batch);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{batch}\n{error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn bad(&self, user: &str, batch: &str) -> String {
        let output = self.sftp(user, batch);
        assert!(!output.status.success(), "{batch} should fail: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Name, state and size of every upload, in order.
    fn uploads(&self) -> Vec<(String, String, i64)> {
        upload::table
            .order(upload::id)
            .select((upload::name, upload::state, upload::bytes))
            .load(&mut self.store.connection().unwrap())
            .unwrap()
    }

    fn ids(&self) -> Vec<i64> {
        upload::table.order(upload::id).select(upload::id).load(&mut self.store.connection().unwrap()).unwrap()
    }

    fn set_state(&self, id: i64, state: &str) {
        diesel::update(upload::table.filter(upload::id.eq(id)))
            .set(upload::state.eq(state))
            .execute(&mut self.store.connection().unwrap())
            .unwrap();
    }

    #[track_caller]
    fn expect(&self, expected: &[(&str, &str, i64)]) {
        let found = self.uploads();
        let found: Vec<_> = found.iter().map(|(name, state, bytes)| (name.as_str(), state.as_str(), *bytes)).collect();
        assert_eq!(found, expected);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(served) = self.served.take() {
            let ended = self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), served).await });
            if !std::thread::panicking() {
                ended.expect("the endpoint stops").expect("without a panic");
            }
        }
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

// ---------------------------------------------------------------------------------------------------------------------
// A client that speaks raw packets

struct Anyone;

impl russh::client::Handler for Anyone {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &russh::keys::PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

type Connection = russh::client::Handle<Anyone>;

async fn connect(world: &World, user: &str) -> Connection {
    let config = Arc::new(russh::client::Config::default());
    let mut connection = russh::client::connect(config, world.address, Anyone).await.unwrap();
    let key = russh::keys::load_secret_key(world.path("key"), None).unwrap();
    let key = russh::keys::PrivateKeyWithHashAlg::new(Arc::new(key), None);
    assert!(connection.authenticate_publickey(user, key).await.unwrap().success());
    connection
}

struct Raw {
    channel: russh::Channel<russh::client::Msg>,
    received: BytesMut,
    connection: Connection,
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn request(kind: u8, id: u32, parts: &[&[u8]]) -> Vec<u8> {
    string(&[&[kind][..], &id.to_be_bytes(), &parts.concat()].concat())
}

fn init() -> Vec<u8> {
    string(&[1, 0, 0, 0, 3])
}

/// Read 1, write 2, append 4, create 8, truncate 16, exclusive 32.
fn open(id: u32, path: &str, flags: u32) -> Vec<u8> {
    request(3, id, &[&string(path.as_bytes()), &flags.to_be_bytes(), &[0; 4]])
}

impl Raw {
    async fn bare(world: &World, user: &str) -> Self {
        let connection = connect(world, user).await;
        let channel = connection.channel_open_session().await.unwrap();
        channel.request_subsystem(true, "sftp").await.unwrap();
        Self { channel, received: BytesMut::new(), connection }
    }

    async fn new(world: &World, user: &str) -> Self {
        let mut raw = Self::bare(world, user).await;
        raw.send(&init()).await;
        assert_eq!(raw.reply().await.unwrap().0, 2);
        raw
    }

    async fn send(&self, packets: &[u8]) {
        self.channel.data_bytes(packets.to_vec()).await.unwrap();
    }

    /// Type, id and the rest of the next reply; `None` when the server ended the channel.
    async fn reply(&mut self) -> Option<(u8, u32, Bytes)> {
        loop {
            if let Some(head) = self.received.first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if self.received.len() >= 4 + length {
                    self.received.advance(4);
                    let mut packet = self.received.split_to(length).freeze();
                    let (kind, id) = (packet.get_u8(), packet.get_u32());
                    return Some((kind, id, packet));
                }
            }
            let waited = tokio::time::timeout(Duration::from_secs(60), self.channel.wait()).await;
            match waited.expect("a reply within a minute") {
                Some(russh::ChannelMsg::Data { data }) => self.received.extend_from_slice(&data),
                Some(_) => {}
                None => return None,
            }
        }
    }

    async fn handle(&mut self, path: &str, flags: u32) -> Vec<u8> {
        self.send(&open(77, path, flags)).await;
        let (kind, id, mut rest) = self.reply().await.unwrap();
        assert_eq!((kind, id), (102, 77), "{}", rest.escape_ascii());
        rest.advance(4);
        rest.to_vec()
    }

    /// Sends one request and returns the status code and text of its answer.
    async fn status(&mut self, packet: &[u8], id: u32) -> (u32, String) {
        self.send(packet).await;
        let (kind, found, mut rest) = self.reply().await.unwrap();
        assert_eq!((kind, found), (101, id));
        let code = rest.get_u32();
        let length = rest.get_u32() as usize;
        (code, String::from_utf8(rest.split_to(length).to_vec()).unwrap())
    }

    async fn drop_connection(self) {
        self.connection.disconnect(russh::Disconnect::ByApplication, "", "").await.unwrap();
    }
}

fn write(id: u32, handle: &[u8], offset: u64, data: &[u8]) -> Vec<u8> {
    request(6, id, &[&string(handle), &offset.to_be_bytes(), &string(data)])
}

fn close(id: u32, handle: &[u8]) -> Vec<u8> {
    request(4, id, &[&string(handle)])
}

// ---------------------------------------------------------------------------------------------------------------------
// OpenSSH's client

#[test]
fn openssh_puts_and_the_file_is_received_durably() {
    let world = World::new();
    let content = noise(1_000_000);
    world.write("codes.csv", &content);
    world.good("acme-feed", "put -p codes.csv /coupons/spring26/codes.csv\n");
    world.expect(&[("codes.csv", "received", 1_000_000)]);
    assert_eq!(std::fs::read(world.layout("acme").incoming_file(world.ids()[0])).unwrap(), content);
    assert!(world.wakes.load(Ordering::Relaxed) >= 1);
    let listing = world.good("acme-feed", "ls -l /coupons/spring26\n");
    assert!(listing.contains("1000000") && listing.contains("codes.csv"), "{listing}");
    // Where it went, by whom, and the local date are in the row.
    let row: (String, String, bool, String, Option<chrono::NaiveDate>) = upload::table
        .select((upload::kind, upload::target, upload::dry_run, upload::user_name, upload::business_date))
        .first(&mut world.store.connection().unwrap())
        .unwrap();
    let local = world.clock.now().with_timezone(&chrono_tz::America::New_York).date_naive();
    assert_eq!(row, ("coupons".into(), "spring26".into(), false, "acme-feed".into(), Some(local)));
    world.good(
        "acme-feed",
        "put codes.csv /check/coupons/c.csv\nput codes.csv /redemptions/r.csv\nput codes.csv /coupons/\n",
    );
    world.good(
        "acme-mail",
        "put codes.csv /recipients/winback/list.csv\nput codes.csv /check/recipients/winback/l.csv\n",
    );
    assert_eq!(world.uploads().iter().filter(|(_, state, _)| state == "received").count(), 6);
}

#[test]
fn roles_and_namespaces_are_walls() {
    let world = World::new();
    world.write("a.csv", b"x\n");
    world.good("acme-feed", "put a.csv /coupons/spring26/mine.csv\n");
    let root = |user: &str| {
        let mut names: Vec<String> = world
            .good(user, "ls -1 /\n")
            .lines()
            .filter(|line| !line.starts_with("sftp>"))
            .map(|line| line.trim_start_matches('/').trim().to_owned())
            .collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(root("acme-feed"), "check coupons exchange openpgp redemptions reports");
    assert_eq!(root("acme-mail"), "assignments check openpgp recipients reports");
    assert_eq!(root("other-all"), "assignments check coupons exchange openpgp recipients redemptions reports");
    for (user, batch) in [
        ("acme-mail", "ls /coupons/spring26\n"),
        ("acme-mail", "put a.csv /coupons/spring26/b.csv\n"),
        ("acme-mail", "put a.csv /exchange/b.csv\n"),
        ("acme-feed", "put a.csv /recipients/winback/b.csv\n"),
        ("acme-feed", "put a.csv /coupons/nobank/b.csv\n"),
        ("acme-feed", "put a.csv /reports/b.csv\n"),
        ("acme-feed", "put a.csv /b.csv\n"),
        ("acme-feed", "mkdir /coupons/new\n"),
        ("acme-feed", "rmdir /coupons/spring26\n"),
        ("acme-feed", "rm /coupons/spring26/theirs.csv\n"),
        ("acme-feed", "get /coupons/spring26/mine.csv /dev/null\n"),
        ("acme-feed", "get /../../../etc/passwd /dev/null\n"),
        ("acme-feed", "get /exchange/../../../etc/passwd /dev/null\n"),
        ("acme-feed", "ln -s /etc/passwd /exchange/link\n"),
        ("acme-feed", "rename /coupons/spring26/mine.csv /exchange/mine.csv\n"),
        ("acme-feed", "rename /coupons/spring26/mine.csv /recipients/winback/mine.csv\n"),
        ("other-all", "get /.spool/incoming/1 /dev/null\n"),
    ] {
        world.bad(user, batch);
    }
    // Another user of the same role and namespace, and another namespace, see nothing of it.
    for user in ["acme-feed2", "other-all"] {
        assert!(!world.good(user, "ls /coupons/spring26\n").contains("mine.csv"));
        world.bad(user, "rm /coupons/spring26/mine.csv\n");
    }
    world.expect(&[("mine.csv", "received", 2)]);
    world.good("acme-feed", "rm /coupons/spring26/mine.csv\n");
    world.expect(&[("mine.csv", "removed", 2)]);
    assert!(!world.layout("acme").incoming_file(world.ids()[0]).exists());
}

#[test]
fn links_put_there_locally_are_not_followed() {
    let world = World::new();
    let secret = world.write("secret", b"secret");
    for directory in [world.layout("acme").exchange(), world.layout("acme").assignments(&name("winback"))] {
        std::fs::create_dir_all(&directory).unwrap();
        std::os::unix::fs::symlink(&secret, directory.join("file.csv")).unwrap();
        std::os::unix::fs::symlink(world.directory.path(), directory.join("dir")).unwrap();
    }
    for path in
        ["/exchange/file.csv", "/exchange/dir/secret", "/assignments/winback/file.csv", "/assignments/winback/dir"]
    {
        world.bad("acme-all", &format!("get {path} got\n"));
        assert!(!world.path("got").exists());
    }
    assert!(!world.good("acme-all", "ls /exchange\n").contains("file.csv"));
    world.write("a", b"overwritten");
    world.bad("acme-all", "put a /exchange/file.csv\n");
    world.bad("acme-all", "put a /exchange/dir/new\n");
    assert_eq!(std::fs::read(&secret).unwrap(), b"secret");
}

#[test]
fn outbound_files_are_collected_and_reports_shown_by_kind() {
    let world = World::new();
    world.write("a.csv", b"x\n");
    world.good("acme-feed", "put a.csv /coupons/a.csv\n");
    world.good("acme-mail", "put a.csv /recipients/winback/l.csv\n");
    let ids = world.ids();
    let (reports, assignments) = (world.layout("acme").reports(), world.layout("acme").assignments(&name("winback")));
    std::fs::create_dir_all(&reports).unwrap();
    std::fs::create_dir_all(&assignments).unwrap();
    let (coupons, recipients) = (format!("a.csv.{}.report.json", ids[0]), format!("l.csv.{}.rejects.csv", ids[1]));
    for report in [&coupons, &recipients, &"foreign.txt".to_owned()] {
        std::fs::write(reports.join(report), "{}").unwrap();
    }
    let content = noise(3_000_000);
    std::fs::write(assignments.join("l.1.csv"), &content).unwrap();
    for (user, sees) in [("acme-feed", [true, false]), ("acme-mail", [false, true]), ("acme-all", [true, true])] {
        let listing = world.good(user, "ls -1 /reports\n");
        for (report, seen) in [&coupons, &recipients].into_iter().zip(sees) {
            assert_eq!(listing.contains(report.as_str()), seen, "{user} {report}");
            let get = world.sftp(user, &format!("get /reports/{report} got.report\n"));
            assert_eq!(get.status.success(), seen, "{user} {report}");
        }
    }
    world.good("acme-mail", "get -p /assignments/winback/l.1.csv got.csv\n");
    assert_eq!(std::fs::read(world.path("got.csv")).unwrap(), content);
    let pickups = world.pickups.lock().unwrap().clone();
    let last = pickups.last().unwrap();
    assert_eq!(
        (last.user.as_str(), last.path.as_slice(), last.bytes),
        ("acme-mail", b"/assignments/winback/l.1.csv".as_slice(), 3_000_000)
    );
    world.bad("acme-mail", "rm /assignments/winback/l.1.csv\n");
    assert!(assignments.join("l.1.csv").exists());
    let theirs = world.layout("other").assignments(&name("winback"));
    std::fs::create_dir_all(&theirs).unwrap();
    std::fs::write(theirs.join("l.1.csv"), "x").unwrap();
    world.good("other-all", "rm /assignments/winback/l.1.csv\n");
    assert!(!theirs.join("l.1.csv").exists());
}

#[test]
fn temporary_names_wait_for_their_rename() {
    let world = World::new();
    world.write("a.csv", b"first\n");
    world.write("b.csv", b"second one\n");
    world.good("acme-feed", "put a.csv /redemptions/r.csv.filepart\n");
    world.expect(&[("r.csv.filepart", "awaiting_rename", 6)]);
    assert_eq!(world.wakes.load(Ordering::Relaxed), 0);
    world.good("acme-feed", "rename /redemptions/r.csv.filepart /redemptions/r.csv\n");
    world.expect(&[("r.csv", "received", 6)]);
    assert_eq!(world.wakes.load(Ordering::Relaxed), 1);
    // The client's `rename` is posix-rename where the server has it: it replaces what nobody has taken.
    world.good("acme-feed", "put b.csv /redemptions/.in.r.csv\nrename /redemptions/.in.r.csv /redemptions/r.csv\n");
    world.expect(&[("r.csv", "removed", 6), ("r.csv", "received", 11)]);
    assert!(!world.layout("acme").incoming_file(world.ids()[0]).exists());
    // The plain one of version 3 does not.
    world.good("acme-feed", "put a.csv /redemptions/r2.csv.tmp\n");
    let error = world.bad("acme-feed", "rename -l /redemptions/r2.csv.tmp /redemptions/r.csv\n");
    assert!(error.contains("Failure"), "{error}");
    // Taken: it stays what it is; the same name again is a new upload.
    world.set_state(world.ids()[1], "active");
    world.bad("acme-feed", "rename /redemptions/r.csv /redemptions/x.csv\n");
    world.bad("acme-feed", "rm /redemptions/r.csv\n");
    world.good("acme-feed", "rename -l /redemptions/r2.csv.tmp /redemptions/r.csv\nput b.csv /redemptions/r.csv\n");
    world.expect(&[
        ("r.csv", "removed", 6),
        ("r.csv", "active", 11),
        ("r.csv", "received", 6),
        ("r.csv", "received", 11),
    ]);
}

#[test]
fn a_name_lingers_after_its_file_was_processed() {
    let world = World::new();
    world.write("a.csv", b"x\n");
    world.good("acme-feed", "put a.csv /coupons/a.csv\n");
    world.set_state(world.ids()[0], "applied");
    assert!(world.good("acme-feed", "ls -l /coupons/a.csv\n").contains("a.csv"));
    world.clock.advance(TimeDelta::seconds(121));
    world.bad("acme-feed", "ls -l /coupons/a.csv\n");
    assert!(!world.good("acme-feed", "ls /coupons\n").contains("a.csv"));
}

#[test]
fn exchange_is_a_plain_file_system() {
    let world = World::new();
    let content = noise(700_000);
    world.write("a.bin", &content);
    world.good(
        "acme-feed",
        "mkdir /exchange/d\nput a.bin /exchange/d/a.bin\nchmod 7755 /exchange/d/a.bin\nrename /exchange/d/a.bin /exchange/b.bin\nrmdir /exchange/d\nget /exchange/b.bin got.bin\ndf /exchange\n",
    );
    assert_eq!(std::fs::read(world.path("got.bin")).unwrap(), content);
    use std::os::unix::fs::MetadataExt as _;
    let mode = std::fs::metadata(world.layout("acme").exchange().join("b.bin")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o755);
    world.good("acme-feed2", "rm /exchange/b.bin\n");
    world.bad("acme-feed", "rmdir /exchange\n");
    world.bad("acme-feed", "ls /exchange/b.bin\n");
}

#[test]
fn an_interrupted_upload_is_resumed() {
    let world = World::new();
    let content = noise(2_000_000);
    world.write("big.csv", &content);
    world.runtime.block_on(async {
        let mut raw = Raw::new(&world, "acme-feed").await;
        let handle = raw.handle("/coupons/spring26/big.csv", 2 | 8 | 16).await;
        for (id, chunk) in (0u32..).zip(content[..1_000_000].chunks(100_000)) {
            assert_eq!(raw.status(&write(id, &handle, u64::from(id) * 100_000, chunk), id).await.0, 0);
        }
        // A pipelined WRITE further on: what follows the gap must not count when the session drops.
        assert_eq!(raw.status(&write(50, &handle, 1_500_000, b"far"), 50).await.0, 0);
        raw.drop_connection().await;
    });
    until("the upload is partial", || world.uploads()[0].1 == "partial");
    world.expect(&[("big.csv", "partial", 1_000_000)]);
    assert!(world.good("acme-feed", "ls -l /coupons/spring26\n").contains("1000000"));
    assert!(!world.good("acme-feed2", "ls -l /coupons/spring26\n").contains("big.csv"));
    world.bad("acme-feed", "rename /coupons/spring26/big.csv /coupons/spring26/x.csv\n");
    world.good("acme-feed", "reput big.csv /coupons/spring26/big.csv\n");
    world.expect(&[("big.csv", "received", 2_000_000)]);
    assert_eq!(std::fs::read(world.layout("acme").incoming_file(world.ids()[0])).unwrap(), content);
}

// ---------------------------------------------------------------------------------------------------------------------
// Uploads, packet by packet

#[test]
fn a_gap_keeps_a_file_from_being_received() {
    let world = World::new();
    world.runtime.block_on(async {
        let mut raw = Raw::new(&world, "acme-feed").await;
        let handle = raw.handle("/coupons/gap.csv", 2 | 8 | 16).await;
        assert_eq!(raw.status(&write(1, &handle, 0, b"0123"), 1).await.0, 0);
        assert_eq!(raw.status(&write(2, &handle, 8, b"89"), 2).await.0, 0);
        let (code, text) = raw.status(&close(3, &handle), 3).await;
        assert_eq!(code, 4);
        assert!(text.contains("gap after byte 4"), "{text}");
        assert_eq!(raw.status(&close(4, &handle), 4).await.0, 4);
    });
    world.expect(&[("gap.csv", "partial", 4)]);
}

#[test]
fn out_of_order_writes_are_whole_in_the_end() {
    let world = World::new();
    world.runtime.block_on(async {
        let mut raw = Raw::new(&world, "acme-feed").await;
        let handle = raw.handle("/coupons/o.csv", 2 | 8 | 16).await;
        let packets = [write(1, &handle, 4, b"4567"), write(2, &handle, 0, b"0123"), close(3, &handle)];
        raw.send(&packets.concat()).await;
        for id in 1..=3 {
            let (kind, found, mut rest) = raw.reply().await.unwrap();
            assert_eq!((kind, found, rest.get_u32()), (101, id, 0));
        }
    });
    world.expect(&[("o.csv", "received", 8)]);
    assert_eq!(std::fs::read(world.layout("acme").incoming_file(world.ids()[0])).unwrap(), b"01234567");
}

#[test]
fn a_later_session_takes_an_upload_over() {
    let world = World::new();
    world.runtime.block_on(async {
        let mut first = Raw::new(&world, "acme-feed").await;
        let old = first.handle("/coupons/t.csv", 2 | 8 | 16).await;
        assert_eq!(first.status(&write(1, &old, 0, b"old "), 1).await.0, 0);
        let mut second = Raw::new(&world, "acme-feed").await;
        let new = second.handle("/coupons/t.csv", 2 | 8).await;
        assert_eq!(second.status(&write(1, &new, 4, b"new"), 1).await.0, 0);
        let (code, text) = first.status(&write(2, &old, 4, b"xxx"), 2).await;
        assert_eq!(code, 4);
        assert!(text.contains("another session"), "{text}");
        assert_eq!(first.status(&close(3, &old), 3).await.0, 4);
        assert_eq!(second.status(&close(4, &new), 4).await.0, 0);
        let _ = (first, second);
    });
    world.expect(&[("t.csv", "received", 7)]);
    assert_eq!(std::fs::read(world.layout("acme").incoming_file(world.ids()[0])).unwrap(), b"old new");
}

#[test]
fn open_flags_mean_what_they_say() {
    let world = World::new();
    world.runtime.block_on(async {
        let mut raw = Raw::new(&world, "acme-feed").await;
        assert_eq!(raw.status(&open(1, "/coupons/a.csv", 2), 1).await.0, 2, "no CREAT");
        let handle = raw.handle("/coupons/a.csv", 1 | 2 | 8 | 32).await;
        assert_eq!(raw.status(&open(2, "/coupons/a.csv", 2 | 8 | 32), 2).await.0, 4, "EXCL");
        assert_eq!(raw.status(&write(3, &handle, 0, b"abc"), 3).await.0, 0);
        let read = request(5, 4, &[&string(&handle), &[0; 8], &10u32.to_be_bytes()]);
        assert_eq!(raw.status(&read, 4).await.0, 3, "no reading back");
        assert_eq!(raw.status(&close(5, &handle), 5).await.0, 0);
        assert_eq!(raw.status(&open(6, "/coupons/a.csv", 2 | 8 | 32), 6).await.0, 4, "EXCL");
        let (code, text) = raw.status(&open(7, "/coupons/a.csv", 2 | 4 | 8), 7).await;
        assert_eq!(code, 4);
        assert!(text.contains("upload"), "{text}");
        let long = format!("/coupons/{}", "n".repeat(201));
        let (code, text) = raw.status(&open(8, &long, 2 | 8 | 16), 8).await;
        assert_eq!(code, 4);
        assert!(text.contains("200 bytes"), "{text}");
        for (id, path) in [(9, "/coupons/a\nb"), (10, "/coupons/\u{85}")] {
            assert_eq!(raw.status(&open(id, path, 2 | 8 | 16), id).await.0, 4);
        }
        let raw_name = request(3, 11, &[&string(b"/coupons/\xff"), &26u32.to_be_bytes(), &[0; 4]]);
        assert_eq!(raw.status(&raw_name, 11).await.0, 4, "not UTF-8");
    });
    world.expect(&[("a.csv", "received", 3)]);
}

#[test]
fn limits_hold_while_writing() {
    let world = World::with(|settings| {
        settings.limits.upload_bytes = 1000;
        settings.limits.quota_bytes = 2500;
        settings.limits.open_files = 3;
    });
    world.runtime.block_on(async {
        let mut raw = Raw::new(&world, "acme-feed").await;
        let handle = raw.handle("/coupons/a.csv", 2 | 8 | 16).await;
        let (code, text) = raw.status(&write(1, &handle, 0, &[b'x'; 1001]), 1).await;
        assert_eq!(code, 4);
        assert!(text.contains("1000 bytes"), "{text}");
        assert_eq!(raw.status(&write(2, &handle, 0, b"x"), 2).await.0, 4, "sticky");
        assert_eq!(raw.status(&close(3, &handle), 3).await.0, 4);
        for file in ["b", "c"] {
            let handle = raw.handle(&format!("/coupons/{file}.csv"), 2 | 8 | 16).await;
            assert_eq!(raw.status(&write(4, &handle, 0, &[b'x'; 1000]), 4).await.0, 0);
            assert_eq!(raw.status(&close(5, &handle), 5).await.0, 0);
        }
        let handle = raw.handle("/coupons/d.csv", 2 | 8 | 16).await;
        let (code, text) = raw.status(&write(6, &handle, 0, &[b'x'; 1000]), 6).await;
        assert_eq!(code, 4);
        assert!(text.contains("quota"), "{text}");
        let exchange = raw.handle("/exchange/e", 2 | 8 | 16).await;
        assert_eq!(raw.status(&write(7, &exchange, 0, &[b'x'; 900]), 7).await.0, 4, "the quota is one");
        raw.handle("/coupons/f.csv", 2 | 8 | 16).await;
        let (code, text) = raw.status(&open(8, "/coupons/g.csv", 26), 8).await;
        assert_eq!(code, 4);
        assert!(text.contains("too many open files"), "{text}");
    });
    assert_eq!(world.uploads()[0], ("a.csv".into(), "removed".into(), 0));
    // The session ends after its client has gone.
    until("what was refused is gone", || std::fs::read_dir(world.layout("acme").incoming()).unwrap().count() == 3);
}

#[test]
fn what_dead_processes_left_is_recovered() {
    let world = World::new();
    let sender = Sender { namespace: name("acme"), user: "acme-feed".into() };
    let place = Place { kind: Kind::Coupons, target: None, dry_run: false };
    let intent = Intent { create: true, truncate: true, exclusive: false };
    let reception =
        || Reception::new(world.live.clone(), world.store.clone(), world.clock.clone(), Arc::new(|| {})).unwrap();
    let dead = reception();
    let mut receiving = dead.open(&sender, &place, "dead.csv", intent).unwrap();
    receiving.write(0, b"some bytes").unwrap();
    drop((receiving, dead));
    let mut alive = world.reception.open(&sender, &place, "alive.csv", intent).unwrap();
    alive.write(0, b"more").unwrap();
    std::fs::write(world.layout("acme").incoming_file(4711), "stray").unwrap();
    let next = reception();
    assert_eq!(next.recover().unwrap(), 1);
    world.expect(&[("dead.csv", "partial", 10), ("alive.csv", "receiving", 0)]);
    assert!(world.layout("acme").incoming_file(4711).exists(), "young strays stay");
    world.clock.advance(TimeDelta::hours(49));
    next.recover().unwrap();
    assert!(!world.layout("acme").incoming_file(4711).exists());
    assert_eq!(next.purge_partial().unwrap(), 1);
    world.expect(&[("dead.csv", "purged", 10), ("alive.csv", "receiving", 0)]);
    assert!(!world.layout("acme").incoming_file(world.ids()[0]).exists());
    world.reception.close(&sender, alive).unwrap();
    world.expect(&[("dead.csv", "purged", 10), ("alive.csv", "received", 4)]);
}

#[test]
fn a_close_that_fails_says_why() {
    let world = World::new();
    let sender = Sender { namespace: name("acme"), user: "acme-feed".into() };
    let place = Place { kind: Kind::Coupons, target: None, dry_run: false };
    let intent = Intent { create: true, truncate: true, exclusive: false };
    let open = |name| world.reception.open(&sender, &place, name, intent).unwrap();
    let said = |receiving| world.reception.close(&sender, receiving).unwrap_err().to_string();

    let first = open("a.csv");
    let second = open("a.csv");
    assert_eq!(said(first), "another session has taken this upload over, or removed it");
    world.reception.close(&sender, second).unwrap();
    let removed = open("b.csv");
    world.reception.remove(&sender, &place, "b.csv").unwrap();
    assert_eq!(said(removed), "the file was removed while it was being uploaded");
    // What a crash of the database can do to a row that nobody has closed.
    let lost = open("c.csv");
    let id = lost.id();
    diesel::delete(upload::table.filter(upload::id.eq(id))).execute(&mut *world.store.connection().unwrap()).unwrap();
    assert_eq!(said(lost), "the server has lost track of this upload; send the whole file again");
}

#[test]
fn a_slow_upload_that_is_resumed_each_day_is_not_purged() {
    let world = World::new();
    let sender = Sender { namespace: name("acme"), user: "acme-feed".into() };
    let place = Place { kind: Kind::Coupons, target: None, dry_run: false };
    let intent = |truncate| Intent { create: true, truncate, exclusive: false };
    for day in 0..4_u64 {
        let mut receiving = world.reception.open(&sender, &place, "slow.csv", intent(day == 0)).unwrap();
        receiving.write(day, b"A").unwrap();
        world.reception.abandon(receiving).unwrap();
        world.clock.advance(TimeDelta::hours(24));
        assert_eq!(world.reception.purge_partial().unwrap(), 0, "day {day}");
    }
    let receiving = world.reception.open(&sender, &place, ".part.tmp", intent(true)).unwrap();
    world.reception.close(&sender, receiving).unwrap();
    world.clock.advance(TimeDelta::hours(25));
    assert_eq!(world.reception.purge_partial().unwrap(), 1, "48 hours after the last write");
    world.expect(&[("slow.csv", "purged", 4), (".part.tmp", "awaiting_rename", 0)]);
    world.clock.advance(TimeDelta::hours(25));
    assert_eq!(world.reception.purge_partial().unwrap(), 1, "and what was never renamed");
}

// ---------------------------------------------------------------------------------------------------------------------
// The protocol under stress

#[test]
fn thousands_of_reads_ahead_neither_stall_nor_mix() {
    let world = World::new();
    let exchange = world.layout("acme").exchange();
    std::fs::create_dir_all(&exchange).unwrap();
    const READ: usize = 8192;
    const READS: u32 = 4000;
    let content = noise(READ * READS as usize);
    std::fs::write(exchange.join("big"), &content).unwrap();
    world.runtime.block_on(async {
        let mut raw = Raw::new(&world, "acme-feed").await;
        let handle = raw.handle("/exchange/big", 1).await;
        let mut ahead = Vec::new();
        for id in 0..READS {
            let offset = u64::from(id) * READ as u64;
            ahead.extend(request(5, id, &[&string(&handle), &offset.to_be_bytes(), &(READ as u32).to_be_bytes()]));
        }
        ahead.extend(close(READS, &handle));
        raw.send(&ahead).await;
        raw.channel.eof().await.unwrap();
        for id in 0..READS {
            let (kind, found, rest) = raw.reply().await.unwrap();
            assert_eq!((kind, found), (103, id));
            assert_eq!(&rest[4..], &content[id as usize * READ..][..READ], "{id}");
        }
        assert_eq!(raw.reply().await.unwrap().0, 101);
        assert!(raw.reply().await.is_none(), "the half-closed channel ends");
    });
}

#[test]
fn small_windows_and_key_exchanges_lose_nothing() {
    let world = World::new();
    let exchange = world.layout("acme").exchange();
    std::fs::create_dir_all(&exchange).unwrap();
    let content = noise(12 << 20);
    std::fs::write(exchange.join("big"), &content).unwrap();
    world.write("up", &content);
    world.good("acme-feed", "get /exchange/big got\nput up /exchange/up\n");
    let mut options = world.options();
    options.extend(["-o".into(), "RekeyLimit=256K".into(), "-R".into(), "256".into(), "-B".into(), "200000".into()]);
    let mut child = Command::new("sftp")
        .args(options)
        .args(["-P", &world.address.port().to_string(), "-b", "-"])
        .arg(format!("acme-feed@{}", world.address.ip()))
        .current_dir(world.directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"get /exchange/big got2\nput up /exchange/up2\n").unwrap();
    assert!(child.wait().unwrap().success());
    for file in ["got", "got2"] {
        assert!(std::fs::read(world.path(file)).unwrap() == content, "{file}");
    }
    for file in ["up", "up2"] {
        assert!(std::fs::read(exchange.join(file)).unwrap() == content, "{file}");
    }
}

#[test]
fn hostile_packets_are_answered_or_end_their_session() {
    let world = World::new();
    world.runtime.block_on(async {
        let mut raw = Raw::new(&world, "acme-feed").await;
        assert_eq!(raw.status(&request(5, 11, &[&[0, 0]]), 11).await.0, 5, "cut READ");
        assert_eq!(raw.status(&request(17, 12, &[&u32::MAX.to_be_bytes()]), 12).await.0, 5, "length beyond the packet");
        assert_eq!(raw.status(&request(200, 13, &[&string(b"hardlink@openssh.com")]), 13).await.0, 8);
        assert_eq!(raw.status(&request(99, 14, &[]), 14).await.0, 8, "unknown type");
        assert_eq!(raw.status(&close(15, b"short"), 15).await.0, 4);
        assert_eq!(raw.status(&close(16, &[0; 300]), 16).await.0, 4);
        assert_eq!(raw.status(&request(18, 17, &[&string(b"/exchange/none"), &string(b"/exchange/x")]), 17).await.0, 2);
        assert_eq!(raw.status(&request(20, 18, &[&string(b"a"), &string(b"b")]), 18).await.0, 3, "SYMLINK");
        for (id, packets) in
            [(1, [&u32::MAX.to_be_bytes()[..], &[3; 100]].concat()), (2, [0; 4].to_vec()), (3, string(&[5]))]
        {
            let mut raw = Raw::new(&world, "acme-feed").await;
            raw.send(&packets).await;
            assert!(raw.reply().await.is_none(), "{id}");
        }
        let mut raw = Raw::bare(&world, "acme-feed").await;
        raw.send(&open(1, "/", 1)).await;
        assert!(raw.reply().await.is_none(), "before INIT");
    });
    world.good("acme-feed", "ls /\n");
}

#[test]
fn extensions_answer() {
    let world = World::new();
    world.runtime.block_on(async {
        let mut raw = Raw::new(&world, "acme-feed").await;
        raw.send(&request(200, 1, &[&string(b"limits@openssh.com")])).await;
        let (kind, id, mut rest) = raw.reply().await.unwrap();
        assert_eq!((kind, id), (201, 1));
        assert_eq!([rest.get_u64(), rest.get_u64(), rest.get_u64(), rest.get_u64()], [262_144, 261_120, 261_120, 64]);
        for (id, extension, argument, expected) in [
            (2, "home-directory", "", "/"),
            (3, "expand-path@openssh.com", "~/coupons/../reports", "/reports"),
            (4, "expand-path@openssh.com", "coupons", "/coupons"),
        ] {
            raw.send(&request(200, id, &[&string(extension.as_bytes()), &string(argument.as_bytes())])).await;
            let (kind, found, rest) = raw.reply().await.unwrap();
            assert_eq!((kind, found), (104, id));
            assert_eq!(&rest[8..8 + expected.len()], expected.as_bytes());
        }
        raw.send(&request(200, 5, &[&string(b"statvfs@openssh.com"), &string(b"/coupons")])).await;
        let (kind, _, mut rest) = raw.reply().await.unwrap();
        assert_eq!((kind, rest.len()), (201, 88));
        let (block, fragment, blocks) = (rest.get_u64(), rest.get_u64(), rest.get_u64());
        assert!(block > 0 && fragment * blocks <= 1 << 30);
        let handle = raw.handle("/coupons/a.csv", 26).await;
        assert_eq!(raw.status(&request(200, 6, &[&string(b"fsync@openssh.com"), &string(&handle)]), 6).await.0, 0);
        let times = [&8u32.to_be_bytes()[..], &5u32.to_be_bytes(), &1_700_000_000u32.to_be_bytes()].concat();
        assert_eq!(raw.status(&request(10, 7, &[&string(&handle), &times]), 7).await.0, 0, "FSETSTAT");
        assert_eq!(raw.status(&close(8, &handle), 8).await.0, 0);
        let path = string(b"/coupons/a.csv");
        assert_eq!(
            raw.status(&request(200, 9, &[&string(b"lsetstat@openssh.com"), &path, &[0, 0, 0, 4, 0, 0, 1, 0xa4]]), 9)
                .await
                .0,
            0
        );
    });
    let modified: Option<DateTime<Utc>> =
        upload::table.select(upload::modified_at).first(&mut world.store.connection().unwrap()).unwrap();
    assert_eq!(modified.unwrap().timestamp(), 1_700_000_000);
}

// ---------------------------------------------------------------------------------------------------------------------
// SSH

#[test]
fn only_sftp_is_offered() {
    let world = World::new();
    let ssh = |arguments: &[&str]| {
        Command::new("ssh")
            .args(world.options())
            .args(["-p", &world.address.port().to_string()])
            .arg("acme-feed@127.0.0.1")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    assert!(!ssh(&["id"]).status.success());
    assert!(!ssh(&[]).status.success());
    world.runtime.block_on(async {
        let connection = connect(&world, "acme-feed").await;
        assert!(connection.channel_open_direct_tcpip("127.0.0.1", 22, "127.0.0.1", 1).await.is_err());
        let mut channels = Vec::new();
        for _ in 0..4 {
            channels.push(connection.channel_open_session().await.unwrap());
        }
        assert!(connection.channel_open_session().await.is_err());
        channels[0].request_subsystem(true, "sftp").await.unwrap();
        assert!(matches!(channels[0].wait().await, Some(russh::ChannelMsg::Success)));
        channels[0].request_subsystem(true, "sftp").await.unwrap();
        assert!(matches!(channels[0].wait().await, Some(russh::ChannelMsg::Failure)));
    });
}

#[test]
fn channels_come_and_go() {
    let world = World::new();
    world.runtime.block_on(async {
        let mut connection = Some(connect(&world, "acme-feed").await);
        for round in 0..10 {
            let open = connection.take().unwrap();
            let channel = open.channel_open_session().await.unwrap();
            channel.request_subsystem(true, "sftp").await.unwrap();
            let mut raw = Raw { channel, received: BytesMut::new(), connection: open };
            raw.send(&init()).await;
            assert_eq!(raw.reply().await.unwrap().0, 2, "{round}");
            raw.handle(&format!("/coupons/{round}.csv"), 26).await;
            // Half of them end by EOF, half by CLOSE.
            if round % 2 == 0 {
                raw.channel.eof().await.unwrap();
                assert!(raw.reply().await.is_none());
            } else {
                raw.channel.close().await.unwrap();
            }
            connection = Some(raw.connection);
        }
        drop(connection);
    });
    until("all are partial", || world.uploads().iter().all(|(_, state, _)| state == "partial"));
    assert_eq!(world.uploads().len(), 10);
}

#[test]
fn a_panic_ends_one_connection() {
    let world = World::with(|settings| {
        let users = &mut settings.namespaces.get_mut("acme").unwrap().users;
        let panics = users["acme-feed"].clone();
        users.insert("panics".into(), panics);
    });
    world.runtime.block_on(async {
        let mut honest = Raw::new(&world, "acme-feed").await;
        let handle = honest.handle("/coupons/honest.csv", 26).await;
        let mut other = Raw::new(&world, "panics").await;
        other.handle("/coupons/partial.csv", 26).await;
        fail::cfg("sftp::answer", "panic").unwrap();
        other.send(&request(17, 1, &[&string(b"/")])).await;
        assert!(other.reply().await.is_none());
        fail::remove("sftp::answer");
        assert_eq!(honest.status(&write(1, &handle, 0, b"x"), 1).await.0, 0);
        assert_eq!(honest.status(&close(2, &handle), 2).await.0, 0);
    });
    until("the other upload is partial", || world.uploads()[1].1 == "partial");
    world.expect(&[("honest.csv", "received", 1), ("partial.csv", "partial", 0)]);
}

#[test]
fn logins_are_decided_on_what_is_proven() {
    use argon2::password_hash::PasswordHasher as _;
    let hash = argon2::Argon2::default().hash_password(b"correct").unwrap().to_string();
    let world = World::with(|settings| {
        let users = &mut settings.namespaces.get_mut("acme").unwrap().users;
        let user = |hash: Option<&str>, from: &str| User {
            role: Role::Client,
            public_keys: Vec::new(),
            password_hash: hash.map(str::to_owned),
            allow_from: if from.is_empty() { Vec::new() } else { vec![from.parse().unwrap()] },
        };
        users.insert("with-password".into(), user(Some(&hash), ""));
        users.insert("from-here".into(), user(Some(&hash), "127.0.0.0/8"));
        users.insert("from-there".into(), user(Some(&hash), "192.0.2.0/24"));
        users.insert("with-nothing".into(), user(None, ""));
    });
    let login = |user: &str, password: &str| {
        world.runtime.block_on(async {
            let config = Arc::new(russh::client::Config::default());
            let mut connection = russh::client::connect(config, world.address, Anyone).await.unwrap();
            connection.authenticate_password(user, password).await.unwrap().success()
        })
    };
    assert!(login("with-password", "correct"));
    assert!(login("from-here", "correct"));
    for (user, password) in [
        ("with-password", "wrong"),
        ("with-password", ""),
        ("from-there", "correct"),
        ("with-nothing", ""),
        ("nobody", "correct"),
        ("acme-feed", "correct"),
        ("", ""),
    ] {
        assert!(!login(user, password), "{user}");
    }
    world.bad("with-password", "ls /\n");
    // A reload takes effect at once: for logins, and for sessions that are open.
    let mut raw = world.runtime.block_on(Raw::new(&world, "acme-feed"));
    let mut settings = (*world.live.current()).clone();
    settings.namespaces.get_mut("acme").unwrap().users.remove("acme-feed");
    world.live.replace(settings);
    world.bad("acme-feed", "ls /\n");
    assert!(world.runtime.block_on(raw.reply()).is_none());
}

#[test]
fn connections_are_limited_and_time_out() {
    let world = World::with(|settings| {
        settings.limits.login_grace = Duration::from_millis(600);
        settings.limits.sessions_per_source = 3;
    });
    use std::io::Read as _;
    let silent: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(world.address).unwrap()).collect();
    let mut refused = std::net::TcpStream::connect(world.address).unwrap();
    let mut banner = [0; 17];
    assert!(matches!(refused.read(&mut banner), Ok(0) | Err(_)), "the fourth gets nothing");
    for mut stream in silent {
        stream.read_exact(&mut banner).unwrap();
        assert_eq!(&banner, b"SSH-2.0-coupond\r\n");
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(matches!(stream.read(&mut banner), Ok(0)), "ended by the grace time");
    }
    until("there is room again", || world.sftp("acme-feed", "ls /\n").status.success());
}

#[test]
fn idle_sessions_end_by_their_requests() {
    let world = World::with(|settings| settings.limits.idle = Duration::from_millis(600));
    world.runtime.block_on(async {
        let mut raw = Raw::new(&world, "acme-feed").await;
        raw.handle("/coupons/idle.csv", 26).await;
        assert!(raw.reply().await.is_none());
    });
    until("the upload is partial", || world.uploads()[0].1 == "partial");
}

#[test]
fn a_stop_lets_open_uploads_finish() {
    let mut world = World::new();
    world.runtime.block_on(async {
        let mut raw = Raw::new(&world, "acme-feed").await;
        let handle = raw.handle("/coupons/last.csv", 26).await;
        world.stop.cancel();
        let begun = Instant::now();
        while raw.status(&open(1, "/coupons/new.csv", 26), 1).await.0 != 4 {
            assert!(begun.elapsed() < Duration::from_secs(20), "no new uploads after a stop");
            tokio::task::yield_now().await;
        }
        assert_eq!(raw.status(&write(2, &handle, 0, b"x"), 2).await.0, 0);
        assert_eq!(raw.status(&close(3, &handle), 3).await.0, 0);
        assert!(tokio::net::TcpStream::connect(world.address).await.is_err());
        let _ = raw;
    });
    let served = world.served.take().unwrap();
    world.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), served).await.unwrap().unwrap() });
    assert_eq!(world.uploads()[0], ("last.csv".into(), "received".into(), 1));
}

#[test]
fn strong_algorithms_only() {
    let world = World::new();
    let debug = Command::new("ssh")
        .args(world.options().into_iter().filter(|option| option != "-q"))
        .args(["-vv", "-p", &world.address.port().to_string(), "acme-feed@127.0.0.1", "-s", "sftp"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&debug.stderr).into_owned();
    let offers: HashMap<&str, &str> = text
        .split("peer server KEXINIT proposal")
        .nth(1)
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("debug2: ")?.split_once(": "))
        .collect();
    assert_eq!(
        offers["KEX algorithms"].trim(),
        "mlkem768x25519-sha256,curve25519-sha256,curve25519-sha256@libssh.org,ext-info-s,kex-strict-s-v00@openssh.com"
    );
    assert_eq!(
        offers["ciphers stoc"].trim(),
        "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com"
    );
    assert_eq!(offers["compression stoc"].trim(), "none");
    assert_eq!(offers["host key algorithms"].trim(), "ssh-ed25519");
    assert!(!text.contains("server-sig-algs=<ssh-rsa") && !text.contains(",ssh-rsa"), "{text}");
    assert!(debug.status.success(), "exit-status 0 after EOF: {text}");
}

// ---------------------------------------------------------------------------------------------------------------------
// russh-sftp's client

#[test]
fn a_second_client_agrees() {
    use russh_sftp::protocol::OpenFlags;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = World::new();
    let exchange = world.layout("acme").exchange();
    std::fs::create_dir_all(exchange.join("many")).unwrap();
    for file in 0..350 {
        std::fs::write(exchange.join(format!("many/file-{file:04}")), "x").unwrap();
    }
    let content = noise(1_500_000);
    world.runtime.block_on(async {
        let connection = connect(&world, "acme-feed").await;
        let channel = connection.channel_open_session().await.unwrap();
        channel.request_subsystem(true, "sftp").await.unwrap();
        let sftp = russh_sftp::client::SftpSession::new(channel.into_stream()).await.unwrap();
        assert_eq!(sftp.canonicalize(".").await.unwrap(), "/");
        let mut names: Vec<String> =
            sftp.read_dir("/exchange/many").await.unwrap().map(|entry| entry.file_name()).collect();
        names.sort();
        assert_eq!(names.len(), 350);
        assert_eq!(names[349], "file-0349");
        let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::WRITE;
        let mut file = sftp.open_with_flags("/exchange/a", flags | OpenFlags::READ).await.unwrap();
        file.write_all(&content).await.unwrap();
        file.shutdown().await.unwrap();
        let mut file = sftp.open("/exchange/a").await.unwrap();
        let mut found = Vec::new();
        file.read_to_end(&mut found).await.unwrap();
        assert!(found == content);
        sftp.rename("/exchange/a", "/exchange/b").await.unwrap();
        assert!(sftp.rename("/exchange/b", "/exchange/many/file-0000").await.is_err());
        assert_eq!(sftp.metadata("/exchange/b").await.unwrap().size, Some(1_500_000));
        sftp.remove_file("/exchange/b").await.unwrap();
        assert!(!sftp.try_exists("/exchange/b").await.unwrap());
        sftp.create_dir("/exchange/d").await.unwrap();
        sftp.remove_dir("/exchange/d").await.unwrap();
        let mut file = sftp.open_with_flags("/coupons/web/second.csv", flags).await.unwrap();
        file.write_all(&content).await.unwrap();
        file.shutdown().await.unwrap();
        assert_eq!(sftp.metadata("/coupons/web/second.csv").await.unwrap().size, Some(1_500_000));
        assert!(sftp.read("/coupons/web/second.csv").await.is_err());
    });
    world.expect(&[("second.csv", "received", 1_500_000)]);
}
