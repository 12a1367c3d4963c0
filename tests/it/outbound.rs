//! The outbound flow on a real PostgreSQL: what customers get, what the counters say, what a rerun writes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use coupond::bank::hold::{Hold, decide};
use coupond::bank::outcome::Outcome;
use coupond::bank::window;
use coupond::clock::Clock;
use coupond::config::*;
use coupond::outbound::{self, ListError, Lists, Outbound, Seal, SealError, Sealed, Seals};
use coupond::reason::Reason;
use coupond::recipients::Row;
use coupond::store::banks::{self, NamespaceLock};
use coupond::store::redemptions::{self, RedemptionTerms, UnsortedRedemptions};
use coupond::store::{Store, StoreError, returns};
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use tempfile::TempDir;

use crate::harness::redeemed::{WRONG_PLACES, mark_places};

// ---- a throwaway server -------------------------------------------------------------------------------------------

struct Server {
    child: Child,
    directory: TempDir,
}

fn postgres_bin() -> PathBuf {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    versions.retain(|bin| bin.join("initdb").exists());
    versions.sort();
    versions.pop().expect("PostgreSQL's server binaries are needed")
}

/// PostgreSQL refuses to run as root: then it runs as the owner of its directory, an ordinary user.
fn as_ordinary_user(command: &mut Command, directory: &Path) {
    if rustix::process::geteuid().is_root() {
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd
            .lines()
            .find(|line| line.starts_with("postgres:"))
            .or_else(|| passwd.lines().find(|line| line.starts_with("nobody:")));
        let fields: Vec<&str> = line.expect("an ordinary user").split(':').collect();
        let (user, group) = (fields[2].parse().unwrap(), fields[3].parse().unwrap());
        std::os::unix::fs::chown(directory, Some(user), Some(group)).unwrap();
        command.uid(user).gid(group);
    }
    command.current_dir(directory).stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("coupond-pg").tempdir_in("/tmp").unwrap();
        let (bin, data) = (postgres_bin(), directory.path().join("data"));
        let mut initdb = Command::new(bin.join("initdb"));
        initdb.args(["--no-sync", "-A", "trust", "-U", "coupond", "-E", "UTF8", "--locale=C", "-D"]).arg(&data);
        as_ordinary_user(&mut initdb, directory.path());
        assert!(initdb.status().unwrap().success());
        let mut postgres = Command::new(bin.join("postgres"));
        postgres.arg("-D").arg(&data).arg("-k").arg(directory.path());
        postgres.args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=40"]);
        as_ordinary_user(&mut postgres, directory.path());
        let child = postgres.spawn().unwrap();
        let server = Self { child, directory };
        let deadline = Instant::now() + Duration::from_secs(30);
        while PgConnection::establish(&server.url()).is_err() {
            assert!(Instant::now() < deadline, "the server does not start");
            std::thread::yield_now();
        }
        server
    }

    fn url(&self) -> String {
        format!("host={} user=coupond dbname=postgres", self.directory.path().display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::QUIT)
            .unwrap();
        self.child.wait().unwrap();
    }
}

// ---- a namespace with two banks and some campaigns ----------------------------------------------------------------

struct PlainLists;

struct Record {
    line: u64,
    fields: csv::StringRecord,
}

impl Row for Record {
    fn line(&self) -> u64 {
        self.line
    }
    fn width(&self) -> usize {
        self.fields.len()
    }
    fn field(&self, index: usize) -> Option<&str> {
        self.fields.get(index)
    }
    fn problem(&self) -> Option<Reason> {
        None
    }
}

impl Lists for PlainLists {
    fn read(
        &self,
        _: &Namespace,
        file: &Path,
        each: &mut dyn FnMut(&dyn Row) -> ControlFlow<()>,
    ) -> Result<(), ListError> {
        let file = fs::File::open(file).map_err(ListError::Disk)?;
        let reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file);
        for (fields, line) in reader.into_records().zip(1..) {
            if each(&Record { line, fields: fields.unwrap() }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// Other bytes each time, as encryption gives.
#[derive(Clone)]
struct Scrambler(Arc<AtomicU8>);

struct Scrambled<'a>(Box<dyn Write + Send + Sync + 'a>, u8);

impl Seals for Scrambler {
    fn prepare(&self, _: &Path) -> Result<Box<dyn Seal>, SealError> {
        Ok(Box::new(self.clone()))
    }
}

impl Seal for Scrambler {
    fn start<'a>(&'a self, sink: Box<dyn Write + Send + Sync + 'a>) -> Result<Box<dyn Sealed + 'a>, SealError> {
        let mut scrambled = Scrambled(sink, self.0.fetch_add(1, Ordering::Relaxed));
        scrambled.0.write_all(&[scrambled.1]).map_err(SealError::Write)?;
        Ok(Box::new(scrambled))
    }
}

impl Write for Scrambled<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let scrambled: Vec<u8> = bytes.iter().map(|byte| byte ^ self.1).collect();
        self.0.write(&scrambled)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Sealed for Scrambled<'_> {
    fn finish(mut self: Box<Self>) -> Result<(), SealError> {
        self.0.write_all(b"end").map_err(SealError::Write)
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn bank(text: &str, persistent: bool, persist_per: PersistPer) -> (Name, Bank) {
    let bank = Bank {
        name: name(text),
        audience: Audience::Communicate,
        persistent,
        persist_per,
        offer_type: OfferType::Other,
        low_stock: None,
        proof_code: "PROOF-SPRING".to_owned(),
        fallback_code: Some("STATIC10".to_owned()),
    };
    (name(text), bank)
}

fn campaign(text: &str, bank: &str, channel: Channel, when_short: WhenShort) -> (Name, Campaign) {
    let encrypt_to = (text == "sealed").then(|| PathBuf::from("mailer.asc"));
    let schedule = match text {
        "nightly" => Schedule::Cron(Box::new("0 0 2 * * *".parse().unwrap())),
        _ => Schedule::OnArrival,
    };
    let send_at = (text == "morning").then(|| chrono::NaiveTime::from_hms_opt(9, 0, 0).unwrap());
    let (name_, bank) = (name(text), name(bank));
    let campaign = Campaign { name: name_, bank, channel, schedule, send_at, collect_by: None, when_short, encrypt_to };
    (name(text), campaign)
}

fn settings(state_dir: &Path) -> Settings {
    let namespace = Namespace {
        name: name("acme"),
        timezone: "America/New_York".parse().unwrap(),
        notify: vec![],
        exchange: false,
        may_delete_collected: false,
        new_banks: NewBanks::Reject,
        users: BTreeMap::new(),
        openpgp: NamespaceOpenpgp { require: Require::None, signers: vec![] },
        banks: BTreeMap::from([
            bank("spring", true, PersistPer::Customer),
            bank("once", false, PersistPer::Customer),
            bank("apart", true, PersistPer::Channel),
        ]),
        campaigns: BTreeMap::from([
            campaign("wait", "spring", Channel::Email, WhenShort::Wait),
            campaign("partial", "spring", Channel::Email, WhenShort::Partial),
            campaign("fallback", "spring", Channel::Sms, WhenShort::Fallback),
            campaign("nightly", "spring", Channel::Email, WhenShort::Wait),
            campaign("sealed", "spring", Channel::Email, WhenShort::Partial),
            campaign("morning", "spring", Channel::Email, WhenShort::Partial),
            campaign("once", "once", Channel::Email, WhenShort::Wait),
            campaign("apart-email", "apart", Channel::Email, WhenShort::Wait),
            campaign("apart-sms", "apart", Channel::Sms, WhenShort::Wait),
        ]),
        redemptions: RedemptionFeed::default(),
    };
    let hour = Duration::from_secs(3600);
    Settings {
        file: PathBuf::new(),
        state_dir: state_dir.to_owned(),
        sftp: SftpSettings { listen: vec![], host_keys: vec![] },
        database: DatabaseSettings::Private,
        mail: None,
        openpgp: OpenpgpSettings { secret_keys: vec![] },
        http: "127.0.0.1:0".parse().unwrap(),
        spool: SpoolSettings { settle: hour, linger: hour, partial_keep: hour, archive_keep: hour },
        limits: Limits {
            upload_bytes: 1 << 30,
            plaintext_bytes: 1 << 30,
            plaintext_ratio: 1000,
            nesting: 8,
            row_bytes: 65536,
            code_bytes: 99,
            customer_id_bytes: 320,
            reject: RejectLimit { rows: 10_000, percent: 10 },
            quota_bytes: 1 << 30,
            free_space_bytes: 0,
            sessions: 1,
            sessions_per_source: 1,
            sessions_before_login: 1,
            login_grace: hour,
            login_attempts: 1,
            idle: hour,
            open_files: 1,
            open_directories: 1,
            lease: Duration::from_secs(60),
        },
        namespaces: BTreeMap::from([(name("acme"), namespace)]),
    }
}

struct World {
    outbound: Outbound,
    live: LiveSettings,
    store: Store,
    clock: Clock,
    state: TempDir,
    uploads: i64,
    _server: Server,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

#[derive(QueryableByName)]
struct Word {
    #[diesel(sql_type = Text)]
    t: String,
}

const BANKS: [&str; 3] = ["spring", "once", "apart"];

impl World {
    fn new() -> Self {
        let server = Server::start();
        let state = tempfile::tempdir().unwrap();
        let store = Store::connect(&server.url(), 12).unwrap();
        store.migrate().unwrap();
        store.ensure_namespaces([&name("acme")].into_iter()).unwrap();
        let clock = Clock::manual("2026-03-02T15:00:00Z".parse().unwrap());
        let live = LiveSettings::new(settings(state.path()));
        let seals = Arc::new(Scrambler(Arc::new(AtomicU8::new(1))));
        let outbound = Outbound::new(store.clone(), live.clone(), clock.clone(), Arc::new(PlainLists), seals);
        let world = Self { outbound, live, store, clock, state, uploads: 0, _server: server };
        fs::create_dir_all(world.spool("archive")).unwrap();
        for (bank, persistent) in BANKS.into_iter().zip([true, false, true]) {
            world.sql(&format!(
                "INSERT INTO bank (namespace_id, id, name, audience, persistent, offer_type, created_at)
                 SELECT 1, coalesce(max(id), 0) + 1, '{bank}', 'communicate', {persistent}, 'other', now() FROM bank"
            ));
        }
        world
    }

    fn spool(&self, directory: &str) -> PathBuf {
        self.state.path().join("namespaces/acme/.spool").join(directory)
    }

    fn sql(&self, statements: &str) {
        self.store.connection().unwrap().batch_execute(statements).unwrap();
    }

    fn number(&self, query: &str) -> i64 {
        diesel::sql_query(query).get_result::<Number>(&mut self.store.connection().unwrap()).unwrap().n
    }

    fn word(&self, query: &str) -> String {
        diesel::sql_query(query).get_result::<Word>(&mut self.store.connection().unwrap()).unwrap().t
    }

    fn upload(&mut self, kind: &str, target: &str, name: &str) -> i64 {
        self.uploads += 1;
        let (id, now) = (self.uploads, self.clock.now());
        self.sql(&format!(
            "INSERT INTO upload (namespace_id, id, kind, target, dry_run, name, user_name, state, session, created_at,
                received_at, finished_at)
             VALUES (1, {id}, '{kind}', '{target}', false, '{name}', '', 'applied', '', '{now}', '{now}', '{now}')"
        ));
        id
    }

    /// Codes as an applied coupons upload leaves them, known redemptions counted.
    fn lot(&mut self, bank: &str, end_date: Option<&str>, codes: &[String]) {
        let upload = self.upload("coupons", bank, "codes.csv");
        let end_date = end_date.map_or("NULL".to_owned(), |date| format!("'{date}'"));
        let (size, now) = (codes.len(), self.clock.now());
        self.sql(&format!(
            "WITH b AS (UPDATE bank SET lots = lots + 1 WHERE name = '{bank}' RETURNING id, lots)
             INSERT INTO lot (namespace_id, bank_id, id, upload_id, end_date, offer_type, size, letter_case, created_at)
             SELECT 1, id, lots, {upload}, {end_date}, 'other', {size}, 'upper', '{now}' FROM b"
        ));
        let codes = codes.join("','");
        self.sql(&format!(
            "INSERT INTO coupon SELECT 1, id, lots, (k.n - 1)::int, k.n + 1, k.code
             FROM bank, unnest(ARRAY['{codes}']) WITH ORDINALITY AS k (code, n) WHERE name = '{bank}'"
        ));
        self.sql(
            "UPDATE lot l SET redeemed_ahead = (SELECT count(*) FROM coupon c JOIN redemption r USING (namespace_id, code)
                WHERE c.bank_id = l.bank_id AND c.lot_id = l.id AND c.seq >= l.next_seq)",
        );
        self.sql(&mark_places());
    }

    /// What an applied redemptions upload does.
    fn redeem(&mut self, codes: &[&str]) {
        let upload = self.upload("redemptions", "", "redeemed.csv");
        redeem(&self.store, upload, self.clock.now(), codes);
    }

    /// What an applied not-sent list does. Returns the lines that came to nothing.
    fn not_sent(&mut self, campaign: &str, batch: i64, customers: &[String]) -> Vec<(i64, returns::Found)> {
        let upload = self.upload("recipients", campaign, "list.not-sent.csv");
        give_back(&self.store, (upload, campaign), self.clock.now(), batch, customers).1
    }

    fn remaining(&self, bank: &str, open_on: NaiveDate) -> i64 {
        self.store.stock(1, open_on).unwrap().iter().filter(|row| row.bank == bank).map(|row| row.remaining).sum()
    }

    fn list(&mut self, campaign: &str, name: &str, content: &str) -> i64 {
        let id = self.upload("recipients", campaign, name);
        fs::write(self.spool("archive").join(id.to_string()), content).unwrap();
        id
    }

    /// One list, run at once. Returns the assignment file's rows without the header.
    fn run(&mut self, campaign: &str, content: &str) -> Vec<String> {
        let upload = self.list(campaign, "list.csv", content);
        self.tick();
        self.rows(campaign, upload, "csv").unwrap_or_default()
    }

    fn tick(&self) {
        self.clock.advance(TimeDelta::seconds(10));
        let _ = self.outbound.tick();
        self.check_counters();
    }

    fn batch_of(&self, upload: i64) -> i64 {
        self.number(&format!("SELECT id AS n FROM batch WHERE upload_id = {upload}"))
    }

    fn state_of(&self, upload: i64) -> String {
        self.word(&format!("SELECT state AS t FROM batch WHERE upload_id = {upload}"))
    }

    fn path(&self, campaign: &str, upload: i64, extension: &str) -> PathBuf {
        let stem = self.word(&format!("SELECT split_part(name, '.', 1) AS t FROM upload WHERE id = {upload}"));
        let directory = self.state.path().join("namespaces/acme/assignments").join(campaign);
        directory.join(format!("{stem}.{}.{extension}", self.batch_of(upload)))
    }

    fn rows(&self, campaign: &str, upload: i64, extension: &str) -> Option<Vec<String>> {
        let text = fs::read_to_string(self.path(campaign, upload, extension)).ok()?;
        Some(text.lines().skip(1).map(ToOwned::to_owned).collect())
    }

    fn manifest(&self, campaign: &str, upload: i64) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path(campaign, upload, "manifest.json")).unwrap()).unwrap()
    }

    /// Every counter equals a recount, and no code was given twice or after its redemption was known.
    fn check_counters(&self) {
        assert_eq!(
            self.number(
                "SELECT count(*) AS n FROM lot l WHERE
                    (next_seq, redeemed_ahead, returns, next_return, returns_redeemed) IS DISTINCT FROM (
                        (SELECT coalesce(max(a.seq) + 1, 0)::int FROM assigned a
                         WHERE a.bank_id = l.bank_id AND a.lot_id = l.id),
                        (SELECT count(*)::int FROM coupon c JOIN redemption r USING (namespace_id, code)
                         WHERE c.bank_id = l.bank_id AND c.lot_id = l.id AND c.seq >= l.next_seq),
                        (SELECT count(*)::int FROM returned t WHERE t.bank_id = l.bank_id AND t.lot_id = l.id),
                        (SELECT coalesce(max(t.place) + 1, 0)::int FROM returned t JOIN assigned a
                            ON (a.bank_id, a.lot_id, a.seq, a.turn) = (t.bank_id, t.lot_id, t.seq, t.turn + 1)
                         WHERE t.bank_id = l.bank_id AND t.lot_id = l.id),
                        (SELECT count(*)::int FROM returned t JOIN redemption r USING (namespace_id, code)
                         WHERE t.bank_id = l.bank_id AND t.lot_id = l.id AND t.place >= l.next_return))"
            ),
            0,
            "a lot's counters differ from a recount"
        );
        assert_eq!(self.number(WRONG_PLACES), 0, "what is redeemed by place differs from what is by code");
        assert_eq!(
            self.number(
                "SELECT count(*) - count(DISTINCT (a.bank_id, a.code)) AS n FROM assigned a
                 WHERE NOT EXISTS (SELECT FROM returned t
                    WHERE (a.bank_id, a.lot_id, a.seq, a.turn) = (t.bank_id, t.lot_id, t.seq, t.turn))"
            ),
            0,
            "a code is in two hands"
        );
    }
}

fn redeem(store: &Store, upload_id: i64, redeemed_at: DateTime<Utc>, codes: &[&str]) {
    let scratch = tempfile::tempdir().unwrap();
    let mut all = UnsortedRedemptions::new(scratch.path());
    for (line, code) in (1..).zip(codes) {
        all.add(line, code).unwrap();
    }
    let all = all.end().unwrap();
    let terms = RedemptionTerms {
        store,
        namespace_id: 1,
        upload_id,
        redeemed_at,
        directory: scratch.path(),
        noted_most: i64::MAX,
    };
    store
        .transaction(|transaction| {
            banks::lock_namespace(transaction, 1, NamespaceLock::Alone)?;
            redemptions::apply(transaction, &terms, all)?;
            Ok::<(), StoreError>(())
        })
        .unwrap();
}

fn give_back(
    store: &Store,
    (upload, campaign): (i64, &str),
    at: DateTime<Utc>,
    batch: i64,
    customers: &[String],
) -> (i64, Vec<(i64, returns::Found)>) {
    store
        .transaction(|transaction| {
            returns::stage(transaction, |sink| {
                let mut rows = Vec::new();
                for (customer, line) in customers.iter().zip(2..) {
                    returns::write_row(line, customer, &mut rows).unwrap();
                }
                sink.write_all(&rows).unwrap();
                Ok::<(), StoreError>(())
            })?;
            banks::lock_namespace(transaction, 1, NamespaceLock::Alone)?;
            let batch = returns::exported_batch(transaction, 1, campaign, batch)?.unwrap();
            banks::lock_banks(transaction, 1, &[batch.bank_id])?;
            returns::judge(transaction, 1, &batch)?;
            let idle = returns::without_effect(transaction)?;
            returns::mark(transaction, 1, upload, batch.id)?;
            let came = if batch.persistent { 0 } else { returns::apply(transaction, 1, &batch, upload, at)? };
            Ok::<_, StoreError>((came, idle.into_iter().map(|row| (row.line, row.found)).collect()))
        })
        .unwrap()
}

fn codes(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

// ---- the story ----------------------------------------------------------------------------------------------------

#[test]
fn customers_keep_their_code_until_it_is_redeemed_or_lapses() {
    let mut world = World::new();
    world.lot("spring", None, &codes("LATE", 20));
    world.lot("spring", Some("2026-03-04"), &codes("SOON", 3));
    world.redeem(&["SOON1", "LATE1"]);
    let list = "email,customer_id\na@x, c1 \n\"b,b\",c2\nagain,c1\nnobody, \n=1+1,c3\n";
    // Earliest end date first; a redeemed code is passed over; twice in the list is one code; blanks are trimmed to know
    // the customer and left in the file; a row without id was rejected; a formula stays.
    assert_eq!(
        world.run("wait", list),
        [
            "a@x, c1 ,spring,SOON0,2026-03-04,new",
            "\"b,b\",c2,spring,SOON2,2026-03-04,new",
            "again,c1,spring,SOON0,2026-03-04,new",
            "=1+1,c3,spring,LATE0,,new",
        ]
    );
    world.redeem(&["LATE0"]);
    assert_eq!(
        world.run("partial", "customer_id\nc3\nc1\nc4\n"),
        ["c3,spring,LATE2,,replaced_redeemed", "c1,spring,SOON0,2026-03-04,kept", "c4,spring,LATE3,,new"]
    );
    // The window ends with the local midnight after 4 March in New York.
    world.clock.advance("2026-03-05T04:59:00Z".parse::<DateTime<Utc>>().unwrap() - world.clock.now());
    assert_eq!(world.run("wait", "customer_id\nc1\n"), ["c1,spring,SOON0,2026-03-04,kept"]);
    world.clock.advance(TimeDelta::minutes(1));
    assert_eq!(
        world.run("wait", "customer_id\nc1\nc2\n"),
        ["c1,spring,LATE4,,replaced_lapsed", "c2,spring,LATE5,,replaced_lapsed"]
    );

    // A bank that is not persistent: a new code in every batch, one a customer.
    world.lot("once", None, &codes("ONCE", 9));
    assert_eq!(
        world.run("once", "customer_id\nc1\nc2\nc1\n"),
        ["c1,once,ONCE0,,new", "c2,once,ONCE1,,new", "c1,once,ONCE0,,new"]
    );
    assert_eq!(world.run("once", "customer_id\nc1\n"), ["c1,once,ONCE2,,new"]);

    // A bank that persists per channel.
    world.lot("apart", None, &codes("APART", 9));
    assert_eq!(world.run("apart-email", "customer_id\nc1\n"), ["c1,apart,APART0,,new"]);
    assert_eq!(world.run("apart-sms", "customer_id\nc1\n"), ["c1,apart,APART1,,new"]);
    assert_eq!(world.run("apart-email", "customer_id\nc1\n"), ["c1,apart,APART0,,kept"]);
}

/// New York is at UTC-5 until 8 March 2026.
#[test]
fn windows_are_judged_when_the_batch_is_sent() {
    let mut world = World::new();
    world.lot("spring", Some("2026-03-02"), &codes("TODAY", 2));
    world.lot("spring", Some("2026-03-03"), &codes("TOMORROW", 4));
    world.lot("spring", None, &codes("EVER", 2));
    // At 10:00 local time on 2 March the next 09:00 is tomorrow's: codes whose last day is today are dead by then.
    assert_eq!(world.run("partial", "customer_id\nheld\n"), ["held,spring,TODAY0,2026-03-02,new"]);
    let list = "customer_id\nheld\nc1\nc2\nc3\nc4\nc5\nc6\n";
    let upload = world.list("morning", "list.csv", list);
    world.tick();
    let started = world.clock.now();
    assert_eq!(
        world.rows("morning", upload, "csv").unwrap(),
        [
            "held,spring,TOMORROW3,2026-03-03,replaced_lapsed",
            "c1,spring,TOMORROW0,2026-03-03,new",
            "c2,spring,TOMORROW1,2026-03-03,new",
            "c3,spring,TOMORROW2,2026-03-03,new",
            "c4,spring,EVER0,,new",
            "c5,spring,EVER1,,new",
        ]
    );
    // Nor do they count as stock.
    assert_eq!(world.rows("morning", upload, "unassigned.csv").unwrap(), ["c6,SHORT_STOCK"]);
    assert_eq!(world.number(&format!("SELECT stock AS n FROM batch WHERE upload_id = {upload}")), 6);
    let manifest = world.manifest("morning", upload);
    assert_eq!(manifest["send_at"], "2026-03-03T14:00:00Z");
    assert_eq!(manifest["created_at"], started.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
    assert_eq!(
        world.number(&format!(
            "SELECT extract(epoch FROM assigned_at)::bigint AS n FROM batch WHERE upload_id = {upload}"
        )),
        started.timestamp()
    );
    // A batch that is sent at once, in the same minute, still hands out what is good today.
    assert_eq!(world.run("partial", "customer_id\nc7\n"), ["c7,spring,TODAY1,2026-03-02,new"]);
    let proof = world.list("morning", "list.proof.csv", "customer_id\nc1\n");
    world.tick();
    assert_eq!(world.manifest("morning", proof)["send_at"], "2026-03-03T14:00:00Z");
}

#[test]
fn a_batch_over_midnight_has_one_instant_for_all_its_rows() {
    for (campaign, send_at, code) in
        [("partial", "2026-03-03T04:59:00Z", "TODAY"), ("morning", "2026-03-03T14:00:00Z", "TOMORROW")]
    {
        let mut world = World::new();
        world.lot("spring", Some("2026-03-02"), &codes("TODAY", 50));
        world.lot("spring", Some("2026-03-03"), &codes("TOMORROW", 50));
        // 23:59 in New York; the clock is past midnight before the first customer has been read.
        world.clock.advance("2026-03-03T04:58:50Z".parse::<DateTime<Utc>>().unwrap() - world.clock.now());
        let lists = Arc::new(SlowLists(world.clock.clone()));
        let seals = Arc::new(Scrambler(Arc::new(AtomicU8::new(1))));
        world.outbound = Outbound::new(world.store.clone(), world.live.clone(), world.clock.clone(), lists, seals);
        let rows: String = (0..40).map(|row| format!("c{row}\n")).collect();
        let upload = world.list(campaign, "list.csv", &format!("customer_id\n{rows}"));
        world.tick();
        assert!(world.clock.now() > "2026-03-03T05:00:00Z".parse::<DateTime<Utc>>().unwrap());
        let rows = world.rows(campaign, upload, "csv").unwrap();
        assert_eq!(rows.len(), 40);
        let code = format!(",spring,{code}");
        assert!(rows.iter().all(|row| row.contains(&code)), "{rows:#?}");
        assert_eq!(world.manifest(campaign, upload)["send_at"], send_at, "{campaign}");
    }
}

/// Lists of which each row takes a few seconds.
struct SlowLists(Clock);

impl Lists for SlowLists {
    fn read(
        &self,
        namespace: &Namespace,
        file: &Path,
        each: &mut dyn FnMut(&dyn Row) -> ControlFlow<()>,
    ) -> Result<(), ListError> {
        PlainLists.read(namespace, file, &mut |row| {
            self.0.advance(TimeDelta::milliseconds(1600));
            each(row)
        })
    }
}

#[test]
fn a_short_bank_waits_serves_a_part_or_falls_back() {
    let mut world = World::new();
    world.lot("spring", None, &codes("S", 3));
    let list = "customer_id,n\nc1,1\nc2,2\nc3,3\nc4,4\nc4,5\n";
    let waiting = world.list("wait", "big.csv", list);
    world.tick();
    assert_eq!(world.state_of(waiting), "waiting");
    assert_eq!(
        world.word("SELECT waiting_for || need || stock AS t FROM batch"),
        "4 codes needed, 3 left in `spring`43"
    );
    assert_eq!(world.number("SELECT count(*) AS n FROM assignment"), 0);
    // It looks again without loading the list while nothing has changed.
    world.tick();
    assert_eq!(world.state_of(waiting), "waiting");
    world.lot("spring", None, &codes("T", 1));
    world.tick();
    assert_eq!(world.state_of(waiting), "exported");
    assert_eq!(world.rows("wait", waiting, "csv").unwrap().len(), 5);

    world.lot("spring", None, &codes("U", 1));
    world.redeem(&["S1"]);
    let partial = world.list("partial", "part.csv", "customer_id,n\nc1,1\nc2,2\nc5,3\nc5,4\nc6,5\n");
    world.tick();
    assert_eq!(
        world.rows("partial", partial, "csv").unwrap(),
        ["c1,1,spring,S0,,kept", "c2,2,spring,U0,,replaced_redeemed"]
    );
    assert_eq!(
        world.rows("partial", partial, "unassigned.csv").unwrap(),
        ["c5,3,SHORT_STOCK", "c5,4,SHORT_STOCK", "c6,5,SHORT_STOCK"]
    );
    let manifest = world.manifest("partial", partial);
    assert_eq!(manifest["rows"]["unassigned"], 3);
    assert_eq!(manifest["rows"]["kept"], 1);
    assert_eq!(manifest["files"][1]["name"], format!("part.{}.unassigned.csv", world.batch_of(partial)));
    assert_eq!(manifest["bank"], "spring");
    assert_eq!(manifest["redemptions_as_of"], "2026-03-02T15:00:30Z");

    assert_eq!(world.run("fallback", "customer_id\nc7\nc1\n"), ["c7,spring,STATIC10,,fallback", "c1,spring,S0,,kept"]);

    let drawn = world.number("SELECT sum(draws)::bigint AS n FROM bank");
    let proof = world.list("wait", "test.proof.csv", "customer_id\nc1\nc9\n");
    world.tick();
    assert_eq!(
        world.rows("wait", proof, "csv").unwrap(),
        ["c1,spring,PROOF-SPRING,,proof", "c9,spring,PROOF-SPRING,,proof"]
    );
    assert_eq!(world.number("SELECT sum(draws)::bigint AS n FROM bank"), drawn);
    assert_eq!(world.manifest("wait", proof)["rows"]["proof"], 2);
}

/// Lists of which each is moved to the archive just before it is opened where it was found: its verdict was published.
struct SettlingLists;

impl Lists for SettlingLists {
    fn read(
        &self,
        namespace: &Namespace,
        file: &Path,
        each: &mut dyn FnMut(&dyn Row) -> ControlFlow<()>,
    ) -> Result<(), ListError> {
        let spool = file.parent().unwrap().parent().unwrap();
        let _ = fs::rename(file, spool.join("archive").join(file.file_name().unwrap()));
        PlainLists.read(namespace, file, each)
    }
}

#[test]
fn a_list_may_move_to_the_archive_while_it_is_looked_for() {
    let mut world = World::new();
    let seals = Arc::new(Scrambler(Arc::new(AtomicU8::new(1))));
    world.outbound =
        Outbound::new(world.store.clone(), world.live.clone(), world.clock.clone(), Arc::new(SettlingLists), seals);
    world.lot("spring", None, &codes("S", 3));
    let upload = world.list("wait", "list.csv", "customer_id\nc1\n");
    fs::create_dir_all(world.spool("incoming")).unwrap();
    let incoming = world.spool("incoming").join(upload.to_string());
    fs::rename(world.spool("archive").join(upload.to_string()), incoming).unwrap();
    world.tick();
    assert_eq!(world.state_of(upload), "exported");
}

#[test]
fn a_list_waits_for_its_firing_and_for_fresh_redemptions() {
    let mut world = World::new();
    world.lot("spring", None, &codes("S", 9));
    let list = world.list("nightly", "list.csv", "customer_id\nc1\n");
    world.tick();
    assert_eq!(world.number("SELECT count(*) AS n FROM batch"), 0);
    let mut settings = (*world.live.current()).clone();
    let namespace = settings.namespaces.get_mut("acme").unwrap();
    namespace.redemptions.max_age = Some(Duration::from_secs(3600));
    namespace.redemptions.when_stale = WhenStale::Wait;
    world.live.replace(settings);
    // 02:00 in New York on 3 March; the daemon looks three days later.
    world.clock.advance(TimeDelta::days(3));
    world.tick();
    assert_eq!(world.state_of(list), "waiting");
    assert_eq!(world.word("SELECT business_date::text || due_at AS t FROM batch"), "2026-03-032026-03-03 07:00:00+00");
    world.redeem(&[]);
    world.tick();
    assert_eq!(world.state_of(list), "exported");
    world.clock.advance(TimeDelta::days(3));
    world.tick();
    assert_eq!(world.number("SELECT count(*) AS n FROM batch"), 1);
}

#[test]
fn stale_redemptions_hold_up_only_persistent_banks_that_wait() {
    for (campaign, when_stale, state) in [
        ("wait", WhenStale::Warn, "exported"),
        ("wait", WhenStale::Wait, "waiting"),
        ("once", WhenStale::Wait, "exported"),
    ] {
        let mut world = World::new();
        world.lot("spring", None, &codes("S", 9));
        world.lot("once", None, &codes("O", 9));
        let mut settings = (*world.live.current()).clone();
        let namespace = settings.namespaces.get_mut("acme").unwrap();
        namespace.redemptions.max_age = Some(Duration::from_secs(3600));
        namespace.redemptions.when_stale = when_stale;
        world.live.replace(settings);
        world.redeem(&[]);
        let as_of = world.clock.now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let fresh = world.list(campaign, "fresh.csv", "customer_id\nc1\n");
        world.tick();
        assert_eq!(world.state_of(fresh), "exported", "{campaign} {when_stale:?}");
        world.clock.advance(TimeDelta::hours(1));
        let stale = world.list(campaign, "stale.csv", "customer_id\nc1\nc2\n");
        // A test send draws nothing, so it need not wait for anything.
        let proof = world.list(campaign, "look.proof.csv", "customer_id\nc1\n");
        world.tick();
        assert_eq!(world.state_of(stale), state, "{campaign} {when_stale:?}");
        assert_eq!(world.state_of(proof), "exported", "{campaign} {when_stale:?}");
        if state == "exported" {
            assert_eq!(world.manifest(campaign, stale)["redemptions_as_of"], as_of.as_str());
            continue;
        }
        assert_eq!(world.number("SELECT count(*) AS n FROM assignment"), 1, "nothing was handed out");
        assert!(
            world.word("SELECT waiting_for AS t FROM batch WHERE state = 'waiting'").contains("newer redemption file")
        );
        world.redeem(&["S0"]);
        world.tick();
        let rows = world.rows(campaign, stale, "csv").unwrap();
        assert_eq!(rows, ["c1,spring,S1,,replaced_redeemed", "c2,spring,S2,,new"], "what it waited for counts");
    }
}

#[test]
fn a_batch_waits_for_files_that_came_before_its_list() {
    for (kind, target, goes_on) in
        [("redemptions", "", false), ("coupons", "spring", false), ("recipients", "wait", true)]
    {
        let mut world = World::new();
        world.lot("spring", None, &codes("S", 9));
        let earlier = world.upload(kind, target, "earlier.csv");
        world.sql(&format!("UPDATE upload SET state = 'active', finished_at = NULL WHERE id = {earlier}"));
        let list = world.list("wait", "list.csv", "customer_id\nc1\n");
        world.clock.advance(TimeDelta::seconds(1));
        let later = world.upload(kind, target, "later.csv");
        world.sql(&format!("UPDATE upload SET state = 'active', finished_at = NULL WHERE id = {later}"));
        world.tick();
        assert_eq!(world.state_of(list), if goes_on { "exported" } else { "due" }, "{kind}");
        world.sql(&format!("UPDATE upload SET state = 'rejected', finished_at = now() WHERE id = {earlier}"));
        world.tick();
        assert_eq!(world.state_of(list), "exported", "{kind}: what came later is not waited for");
    }
}

#[test]
fn a_rerun_writes_the_same_bytes_and_draws_nothing() {
    let mut world = World::new();
    world.lot("spring", None, &codes("S", 6));
    world.run("partial", "customer_id\nc1\nc2\n");
    world.redeem(&["S1"]);
    let list = "customer_id\nc1\nc2\nc3\nc4\nc5\nc6\nc7\n";
    for campaign in ["partial", "sealed"] {
        let upload = world.list(campaign, "list.csv", list);
        world.tick();
        let directory = world.path(campaign, upload, "x").parent().unwrap().to_owned();
        let published = snapshot(&directory);
        let drawn = world.number("SELECT count(*) AS n FROM assignment");
        // Later batches move holds on; what this one gave stands.
        world.redeem(&["S2", "S0"]);
        world.lot("spring", None, &codes(&format!("T-{campaign}-"), 3));
        world.run("fallback", "customer_id\nc1\nc3\n");
        let later = world.number("SELECT count(*) AS n FROM assignment");
        assert!(later > drawn || campaign == "sealed");
        let again = format!("UPDATE batch SET state = 'assigned', manifest = NULL WHERE upload_id = {upload}");
        let recorded = format!("UPDATE batch SET state = 'assigned' WHERE upload_id = {upload}");
        for name in published.keys().filter(|name| name.starts_with(&format!("list.{}.", world.batch_of(upload)))) {
            // Killed before this file was published: with the record made, and for plain files also without.
            for statement in [Some(&recorded), (campaign == "partial").then_some(&again)].into_iter().flatten() {
                let published = snapshot(&directory);
                fs::remove_file(directory.join(name)).unwrap();
                world.sql(statement);
                world.tick();
                let after = snapshot(&directory);
                if campaign == "partial" || name.ends_with("manifest.json") {
                    assert!(after == published, "{campaign} {name}");
                }
                for (other, bytes) in &after {
                    let manifest = world.manifest(campaign, upload);
                    let listed = manifest["files"].as_array().unwrap().iter().find(|file| file["name"] == **other);
                    if let Some(listed) = listed {
                        assert_eq!(listed["bytes"], bytes.len() as u64, "{campaign} {other}");
                        assert!(other == name || published[other] == *bytes, "{other} was written again");
                    }
                }
            }
        }
        assert_eq!(world.number("SELECT count(*) AS n FROM assignment"), later);
        assert_eq!(fs::read_dir(world.spool("prepared")).unwrap().count(), 0);
    }
}

fn snapshot(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

#[test]
fn two_workers_keep_the_order_of_lists() {
    let mut world = World::new();
    world.lot("spring", None, &codes("S", 3));
    world.lot("once", None, &codes("D", 3));
    let lists = ["wait", "partial", "once"].map(|campaign| world.list(campaign, "list.csv", "customer_id\nc1\n"));
    let (store, now) = (world.store.clone(), world.clock.now());
    let settings = world.live.current();
    let namespace = &settings.namespaces["acme"];
    for campaign in ["wait", "partial", "once"] {
        outbound::make_due_now(&world.store, 1, namespace, &namespace.campaigns[campaign].name, now).unwrap();
    }
    let [first, second, other] = lists.map(|upload| world.batch_of(upload));
    let claim = || store.claim_batch(1, now, now + TimeDelta::minutes(1)).unwrap().map(|batch| batch.claim);
    let held = claim().unwrap();
    assert_eq!(held.id, first);
    assert_eq!(claim().unwrap().id, other, "the second list of the bank comes after the first");
    assert_eq!(claim().map(|claim| claim.id), None);
    // Put off, the first no longer stands in the way.
    store.put_batch_off(held, "later", now + TimeDelta::minutes(5)).unwrap();
    assert_eq!(claim().unwrap().id, second);
}

#[test]
fn batches_at_once_never_share_a_code() {
    let mut world = World::new();
    world.lot("spring", Some("2026-06-01"), &codes("A", 300));
    world.lot("spring", None, &codes("B", 700));
    let mut uploads = Vec::new();
    for batch in 0..6 {
        let rows: String = (0..150).map(|row| format!("c{}\n", batch * 100 + row)).collect();
        // Two campaigns of one bank.
        let campaign = ["wait", "partial"][batch % 2];
        uploads.push((campaign, world.list(campaign, "list.csv", &format!("customer_id\n{rows}"))));
    }
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let outbound = world.outbound.clone();
            scope.spawn(move || outbound.tick());
        }
    });
    world.check_counters();
    let mut held: HashMap<String, String> = HashMap::new();
    let mut holders: HashMap<String, String> = HashMap::new();
    for (campaign, upload) in uploads {
        assert_eq!(world.state_of(upload), "exported");
        for row in world.rows(campaign, upload, "csv").unwrap() {
            let cells: Vec<&str> = row.split(',').collect();
            let (customer, code) = (cells[0].to_owned(), cells[2].to_owned());
            assert_eq!(held.entry(customer.clone()).or_insert_with(|| code.clone()), &code);
            assert_eq!(holders.entry(code).or_insert_with(|| customer.clone()), &customer);
        }
    }
    assert_eq!(held.len(), 650);
}

#[test]
fn a_lost_claim_changes_nothing() {
    let mut world = World::new();
    world.lot("spring", None, &codes("S", 3));
    let upload = world.list("wait", "list.csv", "customer_id\nc1\n");
    let now = world.clock.now();
    // Somebody holds it: nobody else takes it before the lease ends.
    world.sql(&format!(
        "INSERT INTO batch (namespace_id, campaign, bank_id, channel, upload_id, business_date, proof, state, due_at, created_at)
         VALUES (1, 'wait', 1, 'email', {upload}, '2026-03-02', false, 'due', '{now}', '{now}')"
    ));
    let stale = world.store.claim_batch(1, now, now + TimeDelta::seconds(60)).unwrap().unwrap();
    world.tick();
    assert_eq!(world.state_of(upload), "due");
    world.clock.advance(TimeDelta::seconds(60));
    world.tick();
    assert_eq!(world.state_of(upload), "exported");
    assert!(world.store.renew_batch(stale.claim, now).is_err());
    assert!(world.store.batch_waits(stale.claim, "", None, now).is_err());
    assert!(world.store.record_manifest(stale.claim, "").is_err());
    assert!(world.store.batch_exported(stale.claim, now).is_err());
}

// ---- killed between any two durable steps -------------------------------------------------------------------------

/// A daemon of its own, which the test below starts and kills.
#[cfg(feature = "failpoints")]
#[test]
fn a_daemon_that_is_killed() {
    let Ok(url) = std::env::var("OUTBOUND_TEST_URL") else { return };
    let _scenario = fail::FailScenario::setup();
    let state = PathBuf::from(std::env::var("OUTBOUND_TEST_STATE").unwrap());
    let clock = Clock::manual(std::env::var("OUTBOUND_TEST_NOW").unwrap().parse().unwrap());
    let store = Store::connect(&url, 4).unwrap();
    store.ensure_namespaces([&name("acme")].into_iter()).unwrap();
    let seals = Arc::new(Scrambler(Arc::new(AtomicU8::new(100))));
    let _ = Outbound::new(store, LiveSettings::new(settings(&state)), clock, Arc::new(PlainLists), seals).tick();
}

#[cfg(feature = "failpoints")]
#[test]
fn killed_between_any_two_durable_steps_it_goes_on() {
    use std::os::unix::process::ExitStatusExt as _;
    let mut world = World::new();
    world.lot("spring", None, &codes("S", 200));
    let points = [
        "before-assign",
        "after-assign",
        "after-export",
        "after-record",
        "between-files",
        "before-manifest",
        "after-manifest",
    ];
    for (round, point) in points.into_iter().enumerate() {
        for campaign in ["partial", "sealed"] {
            let customers: Vec<String> = (0..5).map(|n| format!("c{}", round * 3 + n)).collect();
            let upload = world.list(campaign, "list.csv", &format!("customer_id\n{}\n", customers.join("\n")));
            let killed = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "outbound::a_daemon_that_is_killed"])
                .env("OUTBOUND_TEST_URL", world._server.url())
                .env("OUTBOUND_TEST_STATE", world.state.path())
                .env("OUTBOUND_TEST_NOW", world.clock.now().to_rfc3339())
                .env("FAILPOINTS", format!("outbound-{point}=return"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert_eq!(killed.signal(), Some(6), "{point}: the daemon was not killed");
            let drawn = world.number("SELECT count(*) AS n FROM assignment");
            let directory = world.path(campaign, upload, "x").parent().unwrap().to_owned();
            let before = if directory.exists() { snapshot(&directory) } else { BTreeMap::new() };
            // The dead daemon's lease must run out first.
            world.tick();
            assert_ne!(world.state_of(upload), "exported", "{point}");
            world.clock.advance(TimeDelta::seconds(60));
            world.tick();
            assert_eq!(world.state_of(upload), "exported", "{point}");
            if point != "before-assign" {
                assert_eq!(world.number("SELECT count(*) AS n FROM assignment"), drawn, "{point}");
            }
            let after = snapshot(&directory);
            for (name, bytes) in before {
                assert!(after[&name] == bytes, "{point}: {name} was written again");
            }
            let manifest = world.manifest(campaign, upload);
            assert_eq!(manifest["files"][0]["rows"], 5);
            let listed = manifest["files"][0]["name"].as_str().unwrap();
            assert_eq!(manifest["files"][0]["bytes"], after[listed].len() as u64);
            assert_eq!(fs::read_dir(world.spool("prepared")).unwrap().count(), 0, "{point}");
        }
    }
    assert_eq!(world.number("SELECT count(*) AS n FROM assignment"), 6 * 3 + 5);
}

// ---- the store against a naive model ------------------------------------------------------------------------------

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[derive(Default)]
struct Model {
    /// End date, codes that came back, and codes that were never handed out, each in order.
    lots: Vec<(Option<NaiveDate>, Vec<String>, Vec<String>)>,
    ends: HashMap<String, Option<NaiveDate>>,
    redeemed: BTreeSet<String>,
    holds: HashMap<String, String>,
    waiting: Vec<(i64, Vec<String>)>,
}

impl Model {
    /// The next code, with its lot and whether it comes from the lot's fresh codes.
    fn next_code(&mut self, open_on: NaiveDate) -> Option<((usize, bool), String)> {
        let mut best: Option<(bool, Option<NaiveDate>, usize, bool, usize)> = None;
        for (lot, (end, came_back, fresh)) in self.lots.iter().enumerate() {
            for (is_fresh, codes) in [(false, came_back), (true, fresh)] {
                let open = end.is_none_or(|end| end >= open_on);
                let free = codes.iter().position(|code| !self.redeemed.contains(code));
                if let (true, Some(place)) = (open, free) {
                    let candidate = (end.is_none(), *end, lot, is_fresh, place);
                    best = Some(best.map_or(candidate, |best| best.min(candidate)));
                }
            }
        }
        let (_, _, lot, is_fresh, place) = best?;
        let (_, came_back, fresh) = &mut self.lots[lot];
        Some(((lot, is_fresh), if is_fresh { fresh.remove(place) } else { came_back.remove(place) }))
    }

    /// Codes for customers in the list's order, as far as they go. Within one lot's part the first code goes to the first
    /// customer by name.
    fn hand_out(&mut self, needers: &[String], open_on: NaiveDate) -> HashMap<String, String> {
        let drawn: Vec<_> = needers.iter().map_while(|customer| Some((customer, self.next_code(open_on)?))).collect();
        let mut got = HashMap::new();
        for part in drawn.chunk_by(|(_, (one, _)), (_, (other, _))| one == other) {
            let mut customers: Vec<&String> = part.iter().map(|(customer, _)| *customer).collect();
            customers.sort();
            got.extend(customers.into_iter().cloned().zip(part.iter().map(|(_, (_, code))| code.clone())));
        }
        got
    }

    fn stock(&self, open_on: NaiveDate) -> usize {
        let open = self.lots.iter().filter(|(end, ..)| end.is_none_or(|end| end >= open_on));
        open.flat_map(|(_, came_back, fresh)| came_back.iter().chain(fresh))
            .filter(|code| !self.redeemed.contains(*code))
            .count()
    }

    /// The rows of the assignment file and of the unassigned file; `None`: it waits.
    fn batch(
        &mut self,
        when_short: WhenShort,
        list: &[String],
        open_on: NaiveDate,
    ) -> Option<(Vec<String>, Vec<String>)> {
        let outcome = |model: &Self, customer: &String| {
            decide(
                model
                    .holds
                    .get(customer)
                    .map(|code| Hold { redeemed: model.redeemed.contains(code), end_date: model.ends[code] }),
                open_on,
            )
        };
        let mut seen: HashMap<String, Option<Outcome>> = HashMap::new();
        let mut needers = Vec::new();
        for customer in list {
            if !seen.contains_key(customer) {
                let decided = outcome(self, customer);
                seen.insert(customer.clone(), Some(decided));
                if decided != Outcome::Kept {
                    needers.push(customer.clone());
                }
            }
        }
        if when_short == WhenShort::Wait && needers.len() > self.stock(open_on) {
            return None;
        }
        let got = self.hand_out(&needers, open_on);
        for customer in needers.iter().filter(|customer| !got.contains_key(*customer)) {
            seen.insert(customer.clone(), (when_short == WhenShort::Fallback).then_some(Outcome::Fallback));
        }
        self.holds.extend(got);
        let (mut rows, mut unassigned) = (Vec::new(), Vec::new());
        for customer in list {
            let got = seen[customer];
            match got {
                None => unassigned.push(format!("{customer},SHORT_STOCK")),
                Some(Outcome::Fallback) => rows.push(format!("{customer},spring,STATIC10,,fallback")),
                Some(outcome) => {
                    let code = &self.holds[customer];
                    let end = self.ends[code].map(|end| end.to_string()).unwrap_or_default();
                    rows.push(format!("{customer},spring,{code},{end},{outcome}"));
                }
            }
        }
        Some((rows, unassigned))
    }
}

#[test]
fn the_store_does_what_a_naive_model_does() {
    for seed in [1, 2, 3] {
        let mut world = World::new();
        let mut model = Model::default();
        let mut dice = Dice(seed);
        let mut all_codes: Vec<String> = Vec::new();
        for step in 0..120 {
            let context = format!("seed {seed} step {step}");
            match dice.roll(10) {
                0 | 1 => {
                    let today = world.clock.now().date_naive();
                    let end = (dice.roll(3) > 0).then(|| today + TimeDelta::days(dice.roll(12) as i64 - 1));
                    let codes = codes(&format!("L{step}-"), 1 + dice.roll(25) as usize);
                    world.lot("spring", end.map(|end| end.to_string()).as_deref(), &codes);
                    model.ends.extend(codes.iter().map(|code| (code.clone(), end)));
                    all_codes.extend(codes.iter().cloned());
                    model.lots.push((end, vec![], codes));
                }
                2 | 3 if !all_codes.is_empty() => {
                    let redeemed: Vec<String> = (0..dice.roll(8))
                        .map(|_| all_codes[dice.roll(all_codes.len() as u64) as usize].clone())
                        .collect();
                    world.redeem(&redeemed.iter().map(String::as_str).collect::<Vec<_>>());
                    model.redeemed.extend(redeemed);
                }
                4 => world.clock.advance(TimeDelta::hours(dice.roll(60) as i64)),
                _ => {
                    let (campaign, when_short) = match dice.roll(4) {
                        0 => ("wait", WhenShort::Wait),
                        1 => ("partial", WhenShort::Partial),
                        2 => ("morning", WhenShort::Partial),
                        _ => ("fallback", WhenShort::Fallback),
                    };
                    let list: Vec<String> = (0..dice.roll(30)).map(|_| format!("c{}", dice.roll(60))).collect();
                    let upload = world.list(campaign, "list.csv", &format!("customer_id\n{}\n", list.join("\n")));
                    world.tick();
                    let open_on = window::open_on(world.clock.now(), "America/New_York".parse().unwrap());
                    for (upload, list) in std::mem::take(&mut model.waiting) {
                        check_batch(&world, &mut model, ("wait", WhenShort::Wait), (upload, list), open_on, &context);
                    }
                    let open_on = if campaign == "morning" { morning(world.clock.now()) } else { open_on };
                    check_batch(&world, &mut model, (campaign, when_short), (upload, list), open_on, &context);
                    // What is counted is what can be drawn.
                    assert_eq!(world.remaining("spring", open_on), model.stock(open_on) as i64, "{context}");
                }
            }
        }
        assert!(world.number("SELECT count(DISTINCT outcome) AS n FROM assignment") == 3);
    }
}

/// The local date of the next 09:00 in New York.
fn morning(now: DateTime<Utc>) -> NaiveDate {
    let local = now.with_timezone(&chrono_tz::America::New_York).naive_local();
    if local.format("%T").to_string().as_str() <= "09:00:00" { local.date() } else { local.date().succ_opt().unwrap() }
}

fn check_batch(
    world: &World,
    model: &mut Model,
    (campaign, when_short): (&str, WhenShort),
    (upload, list): (i64, Vec<String>),
    open_on: NaiveDate,
    context: &str,
) {
    match model.batch(when_short, &list, open_on) {
        None => {
            assert_eq!(world.state_of(upload), "waiting", "{context}");
            model.waiting.push((upload, list));
        }
        Some((rows, unassigned)) => {
            assert_eq!(world.state_of(upload), "exported", "{context}");
            assert_eq!(world.rows(campaign, upload, "csv").unwrap(), rows, "{context}");
            let left = world.rows(campaign, upload, "unassigned.csv").unwrap_or_default();
            assert_eq!(left, unassigned, "{context}");
        }
    }
}

/// A bank that is not persistent, its model, and what was sent.
struct Once {
    world: World,
    model: Model,
    /// The lots' prefixes: a code is `<lot>-<place in the lot>`.
    prefixes: Vec<String>,
    all_codes: Vec<String>,
    /// Batches with what each customer got.
    sent: Vec<(i64, Vec<(String, String)>)>,
    came_back: BTreeSet<(i64, String)>,
}

fn customers(dice: &mut Dice, most: u64) -> Vec<String> {
    (0..1 + dice.roll(most)).map(|_| format!("c{}", dice.roll(30))).collect()
}

impl Once {
    fn lot(&mut self, step: i32, dice: &mut Dice) {
        let today = self.world.clock.now().date_naive();
        let end = (dice.roll(3) > 0).then(|| today + TimeDelta::days(dice.roll(20) as i64 - 1));
        let codes = codes(&format!("L{step}-"), 1 + dice.roll(25) as usize);
        self.world.lot("once", end.map(|end| end.to_string()).as_deref(), &codes);
        self.prefixes.push(format!("L{step}"));
        self.all_codes.extend(codes.iter().cloned());
        self.model.lots.push((end, vec![], codes));
    }

    fn redeem(&mut self, dice: &mut Dice) {
        let redeemed: Vec<String> = (0..dice.roll(6))
            .map(|_| self.all_codes[dice.roll(self.all_codes.len() as u64) as usize].clone())
            .collect();
        self.world.redeem(&redeemed.iter().map(String::as_str).collect::<Vec<_>>());
        self.model.redeemed.extend(redeemed);
    }

    fn not_sent(&mut self, dice: &mut Dice, context: &str) {
        let (batch, got) = &self.sent[dice.roll(self.sent.len() as u64) as usize];
        let listed = customers(dice, 12);
        let idle = self.world.not_sent("once", *batch, &listed);
        let idle: BTreeSet<i64> = idle.into_iter().map(|(line, _)| line).collect();
        let mut returned: Vec<(usize, usize, String)> = Vec::new();
        for (customer, line) in listed.iter().zip(2..) {
            let code = got.iter().find(|(who, _)| who == customer).map(|(_, code)| code.clone());
            let code = code.filter(|code| !self.model.redeemed.contains(code));
            let fresh = code.filter(|_| self.came_back.insert((*batch, customer.clone())));
            assert_eq!(fresh.is_none(), idle.contains(&line), "{context} line {line}");
            returned.extend(fresh.map(|code| {
                let (prefix, place) = code.split_once('-').unwrap();
                let lot = self.prefixes.iter().position(|known| known == prefix).unwrap();
                (lot, place.parse().unwrap(), code)
            }));
        }
        returned.sort();
        for (lot, _, code) in returned {
            self.model.lots[lot].1.push(code);
        }
        self.world.check_counters();
    }

    fn draw(&mut self, dice: &mut Dice, context: &str) {
        let list = customers(dice, 20);
        let upload = self.world.list("once", "list.csv", &format!("customer_id\n{}\n", list.join("\n")));
        self.world.tick();
        self.model.waiting.push((upload, list));
        for (upload, list) in std::mem::take(&mut self.model.waiting) {
            let mut distinct = list.clone();
            let mut seen = BTreeSet::new();
            distinct.retain(|customer| seen.insert(customer.clone()));
            if distinct.len() > self.model.stock(self.open_on()) {
                assert_eq!(self.world.state_of(upload), "waiting", "{context}");
                self.model.waiting.push((upload, list));
                continue;
            }
            let open_on = self.open_on();
            let got: Vec<(String, String)> = self.model.hand_out(&distinct, open_on).into_iter().collect();
            assert_eq!(got.len(), distinct.len());
            let rows = self.world.rows("once", upload, "csv").unwrap_or_default();
            let code_of = |customer: &String| &got.iter().find(|(who, _)| who == customer).unwrap().1;
            let found: Vec<String> =
                rows.iter().map(|row| row.split(',').map(ToOwned::to_owned).nth(2).unwrap()).collect();
            assert_eq!(found, list.iter().map(|c| code_of(c).clone()).collect::<Vec<_>>(), "{context}");
            self.sent.push((self.world.batch_of(upload), got));
        }
    }

    fn open_on(&self) -> NaiveDate {
        window::open_on(self.world.clock.now(), "America/New_York".parse().unwrap())
    }
}

#[test]
fn codes_come_back_to_stock_as_in_a_naive_model() {
    let mut turns = 0;
    for seed in [4, 5] {
        let (world, model) = (World::new(), Model::default());
        let (prefixes, all_codes, sent, came_back) = Default::default();
        let mut once = Once { world, model, prefixes, all_codes, sent, came_back };
        let mut dice = Dice(seed);
        for step in 0..120 {
            let context = format!("seed {seed} step {step}");
            match dice.roll(12) {
                0 | 1 => once.lot(step, &mut dice),
                2 | 3 if !once.all_codes.is_empty() => once.redeem(&mut dice),
                4 => once.world.clock.advance(TimeDelta::hours(dice.roll(40) as i64)),
                5..=8 if !once.sent.is_empty() => once.not_sent(&mut dice, &context),
                _ => once.draw(&mut dice, &context),
            }
            let open_on = once.open_on();
            assert_eq!(once.world.remaining("once", open_on), once.model.stock(open_on) as i64, "{context}");
        }
        turns = turns.max(once.world.number("SELECT max(turn)::bigint AS n FROM assignment"));
    }
    assert!(turns > 1, "no code came back twice");
}

#[test]
fn returns_draws_and_redemptions_at_once() {
    let mut world = World::new();
    world.lot("once", None, &codes("A", 200));
    let list =
        |from: usize| format!("customer_id\n{}\n", (from..from + 50).map(|n| format!("c{n}\n")).collect::<String>());
    let first: Vec<i64> = (0..3).map(|round| world.list("once", "list.csv", &list(round * 50))).collect();
    world.tick();
    let batches: Vec<i64> = first.iter().map(|upload| world.batch_of(*upload)).collect();
    for round in 3..6 {
        world.list("once", "list.csv", &list(round * 50));
    }
    let (redeemed, not_sent): (Vec<i64>, Vec<i64>) =
        (0..3).map(|_| (world.upload("redemptions", "", "r.csv"), world.upload("recipients", "once", "n.csv"))).unzip();
    let (store, at) = (world.store.clone(), world.clock.now());
    std::thread::scope(|scope| {
        scope.spawn(|| world.outbound.tick());
        scope.spawn(|| world.outbound.tick());
        scope.spawn(|| {
            for (upload, from) in redeemed.iter().zip([0, 60, 120]) {
                let codes: Vec<String> = (from..from + 40).map(|n| format!("A{n}")).collect();
                redeem(&store, *upload, at, &codes.iter().map(String::as_str).collect::<Vec<_>>());
            }
        });
        scope.spawn(|| {
            for ((upload, batch), round) in not_sent.iter().zip(&batches).zip(0..) {
                let customers: Vec<String> = (round * 50..round * 50 + 30).map(|n| format!("c{n}")).collect();
                give_back(&store, (*upload, "once"), at, *batch, &customers);
            }
        });
    });
    world.tick();
    assert_eq!(
        world.number(
            "SELECT count(*) AS n FROM assignment a JOIN redemption r USING (namespace_id, code) WHERE a.turn > 0"
        ),
        world.number(
            "SELECT count(*) AS n FROM assignment a JOIN redemption r USING (namespace_id, code)
            JOIN returned t ON (t.bank_id, t.lot_id, t.seq, t.turn + 1) = (a.bank_id, a.lot_id, a.seq, a.turn)"
        ),
    );
}

#[test]
fn a_persistent_bank_keeps_the_hold_of_who_was_not_reached() {
    let mut world = World::new();
    world.lot("spring", None, &codes("S", 3));
    let upload = world.list("wait", "list.csv", "customer_id\nc1\nc2\n");
    world.tick();
    let batch = world.batch_of(upload);
    let listed = ["c1", "c9", "c1"].map(str::to_owned);
    assert_eq!(world.not_sent("wait", batch, &listed), [(3, returns::Found::Stranger), (4, returns::Found::Repeated)]);
    assert_eq!(world.number("SELECT count(*) AS n FROM returned"), 0);
    assert_eq!(world.run("wait", "customer_id\nc1\n"), ["c1,spring,S0,,kept"]);
}

// ---- what is redeemed after a batch was assigned --------------------------------------------------------------------

#[test]
fn a_redeemed_code_is_kept_back_even_where_a_counter_is_wrong() {
    let mut world = World::new();
    world.lot("spring", None, &codes("S", 3));
    world.redeem(&["S0"]);
    world.sql("UPDATE lot SET redeemed_ahead = 0");
    let upload = world.list("wait", "list.csv", "customer_id\nc1\n");
    let _ = world.outbound.tick();
    assert_eq!(world.number("SELECT count(*) AS n FROM assignment"), 0, "the draw stops, and an admin is told");
    assert_eq!(world.state_of(upload), "due");
}

/// So is one that came back and was redeemed while it waited.
#[test]
fn a_redeemed_code_that_came_back_is_kept_back_even_where_its_place_was_lost() {
    let mut world = World::new();
    world.lot("once", None, &codes("S", 9));
    let upload = world.list("once", "list.csv", "customer_id\nc1\nc2\nc3\n");
    world.tick();
    let batch = world.batch_of(upload);
    let listed = ["c1", "c2", "c3"].map(str::to_owned);
    assert_eq!(world.not_sent("once", batch, &listed), []);
    world.redeem(&["S2"]);
    assert_eq!(world.number("SELECT returns_redeemed::bigint AS n FROM lot"), 1);
    world.sql("DELETE FROM redeemed_block");
    let upload = world.list("once", "again.csv", "customer_id\nc4\nc5\nc6\n");
    world.clock.advance(TimeDelta::days(1));
    let _ = world.outbound.tick();
    assert_eq!(world.number("SELECT count(*) AS n FROM assignment"), 3, "the draw stops");
    assert_eq!(world.state_of(upload), "due");
}

#[test]
fn corrections_beyond_memory_are_in_the_lists_order_too() {
    let mut world = World::new();
    let codes = codes("S", 50_020);
    world.lot("spring", None, &codes);
    // Backwards, and the first customer twice.
    let customers: Vec<String> = (0..50_010).rev().chain([50_009]).map(|number| format!("c{number}")).collect();
    let upload = world.list("wait", "list.csv", &format!("customer_id\n{}\n", customers.join("\n")));
    world.tick();
    let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
    world.redeem(&codes);
    world.tick();
    let rows = world.rows("wait", upload, "corrections.csv").unwrap();
    let listed: Vec<&str> = rows.iter().map(|row| row.split(',').next().unwrap()).collect();
    assert_eq!(listed.len(), 50_010);
    assert!(
        listed.iter().zip(&customers).all(|(listed, customer)| listed == customer),
        "each once, in the list's order"
    );
}

#[test]
fn codes_redeemed_after_the_assignment_are_listed() {
    let mut world = World::new();
    world.lot("spring", None, &codes("S", 9));
    world.run("wait", "customer_id\nc1\nc2\nc9\n");
    world.redeem(&["S8"]);
    let upload = world.list("wait", "list.csv", "x,customer_id\n1,c3\n2, c2\n3,c1\n4,c2\n");
    world.tick();
    let batch = world.batch_of(upload);
    assert_eq!(world.rows("wait", upload, "corrections.csv"), None, "what was redeemed before is in no list");
    // c9 holds a code of the bank and is not on this list; S7 was never handed out.
    world.redeem(&["S2", "S7"]);
    world.tick();
    assert_eq!(world.rows("wait", upload, "corrections.csv"), None);
    world.clock.advance(TimeDelta::hours(2));
    world.redeem(&["S1"]);
    world.tick();
    let first = world.rows("wait", upload, "corrections.csv").unwrap();
    assert_eq!(first.len(), 1);
    assert!(first[0].starts_with("c2,spring,S1,2026-03-02T17:"), "{first:?}");
    world.redeem(&["S0", "S3"]);
    world.tick();
    let rows = world.rows("wait", upload, "corrections.csv").unwrap();
    let customers: Vec<&str> = rows.iter().map(|row| row.split(',').next().unwrap()).collect();
    assert_eq!(customers, ["c3", "c2", "c1"], "a whole file, in the list's order, each once");
    let text = fs::read_to_string(world.path("wait", upload, "corrections.csv")).unwrap();
    assert!(text.starts_with("customer_id,bank_name,code,redeemed_at\n"));
    // c1 and c2 were given new codes since; the old batch's list stays what it was.
    world.run("wait", "customer_id\nc1\nc2\n");
    world.redeem(&[]);
    world.tick();
    assert_eq!(world.rows("wait", upload, "corrections.csv").unwrap(), rows);
    assert_eq!(world.number(&format!("SELECT corrections AS n FROM batch WHERE id = {batch}")), 3);
    assert_eq!(fs::read_dir(world.spool("prepared")).unwrap().count(), 0);
}

#[test]
fn corrections_run_until_the_batch_is_sent() {
    let mut world = World::new();
    world.lot("spring", None, &codes("S", 9));
    // Made at 10:00 in New York, to be sent at 09:00: 23 hours later.
    let upload = world.list("morning", "list.csv", "customer_id\nc1\nc2\nc3\n");
    world.tick();
    let until = "2026-03-03T14:00:00Z".parse::<DateTime<Utc>>().unwrap();
    world.clock.advance(until - world.clock.now());
    world.redeem(&["S0"]);
    world.clock.advance(TimeDelta::seconds(1));
    world.redeem(&["S1"]);
    world.tick();
    let rows = world.rows("morning", upload, "corrections.csv").unwrap();
    assert_eq!(rows, ["c1,spring,S0,2026-03-03T14:00:00Z"], "S1 came after it was sent");
    // Long before a day has passed nobody looks any more, but a file that came in time and is applied late still counts.
    let namespace_id = 1;
    world.clock.advance(TimeDelta::hours(23));
    world.redeem(&[]);
    assert_eq!(world.store.uncorrected(namespace_id, world.clock.now()).unwrap().len(), 1);
    world.clock.advance(TimeDelta::hours(2));
    assert_eq!(world.store.uncorrected(namespace_id, world.clock.now()).unwrap().len(), 0);
    let batch = world.batch_of(upload);
    let known = world.store.known_batches(namespace_id, &[batch]).unwrap();
    assert_eq!(known[&batch].corrected_until, until + TimeDelta::hours(24), "the list is kept as long");
}

#[test]
fn corrections_end_after_a_day_and_are_encrypted_as_the_batch_is() {
    let mut world = World::new();
    world.lot("spring", None, &codes("S", 9));
    let sealed = world.list("sealed", "list.csv", "customer_id\nc1\nc2\n");
    world.tick();
    world.clock.advance(TimeDelta::hours(23));
    world.redeem(&["S0"]);
    world.tick();
    let path = world.path("sealed", sealed, "corrections.csv.pgp");
    let bytes = fs::read(&path).unwrap();
    assert!(!bytes.starts_with(b"customer_id") && bytes.ends_with(b"end"));
    assert!(!world.path("sealed", sealed, "corrections.csv").exists());
    world.clock.advance(TimeDelta::hours(2));
    world.redeem(&["S1"]);
    world.tick();
    assert_eq!(fs::read(&path).unwrap(), bytes, "not written again");
    // A list that cannot be read any more is told, and left alone for a while.
    let broken = world.list("wait", "list.csv", "customer_id\nc5\n");
    world.tick();
    fs::remove_file(world.spool("archive").join(broken.to_string())).unwrap();
    world.redeem(&["S2"]);
    world.tick();
    assert_eq!(world.number("SELECT count(*) AS n FROM batch WHERE retry_at IS NOT NULL"), 1);
}
