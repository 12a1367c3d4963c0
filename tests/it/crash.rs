//! Kill -9 at any moment and start again: point 7. Every file that a client got a CLOSE for is processed once, every
//! batch gives one set of files, and no code goes out twice.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::daemon::Daemon;
use crate::harness::gpg::Gpg;
use crate::harness::sftp::Client;
use crate::harness::until;

const ACME: &str = r#"
[users.acme-feed]
role = "client"
public_keys = ["@acme-feed@"]
[users.acme-mail]
role = "campaigns"
public_keys = ["@acme-mail@"]
[banks.spring26]
[banks.shipping]
persistent = false
[campaigns.winback]
bank = "spring26"
channel = "email"
schedule = "on-arrival"
when_short = "partial"
[campaigns.texts]
bank = "shipping"
channel = "sms"
schedule = "*/1 * * * * *"
when_short = "partial"
"#;

/// Runs `one` for every name, four at a time, each on a thread that outlives its daemon.
fn each<N: AsRef<str> + Clone + Send>(names: &[N], one: impl Fn(&str) + Sync) {
    let waiting = Mutex::new(names.to_vec());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(name) = { waiting.lock().unwrap().pop() } {
                    one(name.as_ref());
                }
            });
        }
    });
}

/// Uploads a file that the daemon aborts over: after it has been received, and maybe before that is answered.
#[track_caller]
fn put_and_abort(daemon: &mut Daemon, client: &Client, (name, content, directory): (&str, &str, &str), at: &str) {
    client.write(name, content);
    client.run(&[&format!("put {name} {directory}/")]);
    let status = daemon.wait_ended();
    assert_eq!(status.signal(), Some(6), "{at}: ended with {status}");
}

#[test]
fn between_the_durable_steps_of_an_upload() {
    each(&["inbound-claimed", "inbound-before-commit", "inbound-committed", "inbound-published"], |point| {
        let mut daemon = Daemon::prepare(&[("acme", ACME)]);
        daemon.spawn(&format!("{point}=return"));
        daemon.wait_ready();
        let feed = daemon.client("acme-feed");
        put_and_abort(&mut daemon, &feed, ("codes.csv", "A1\nA2\nA 3\nA4\n", "/coupons/spring26"), point);

        daemon.start();
        let report = feed.report("codes.csv");
        assert_eq!(
            (report["status"].as_str(), report["rows"]["accepted"].as_u64()),
            (Some("applied"), Some(3)),
            "{point}"
        );
        assert_eq!(feed.rejects(&report).len(), 1, "{point}");
        daemon.wait_idle();
        assert_eq!(daemon.count("SELECT count(*) FROM coupon"), 3, "{point}");
        assert_eq!(daemon.count("SELECT count(*) FROM lot"), 1, "{point}");
        daemon.verify_whole("acme");
    });
}

/// What is loaded onto a shelf of its own is there once when it was committed, and not at all before.
#[test]
fn between_the_durable_steps_of_a_large_upload() {
    each(&["inbound-before-commit", "inbound-committed"], |point| {
        let mut daemon = Daemon::prepare(&[("acme", ACME)]);
        daemon.spawn(&format!("{point}=return"));
        daemon.wait_ready();
        let feed = daemon.client("acme-feed");
        // With one that stands there twice, and would make the first run a little less than full.
        let codes = (0..250_000).fold("000000\n".to_owned(), |codes, number| codes + &format!("{number:06}\n"));
        put_and_abort(&mut daemon, &feed, ("codes.csv", &codes, "/coupons/spring26"), point);
        daemon.start();
        let report = feed.report("codes.csv");
        assert_eq!((&report["status"], &report["rows"]["accepted"]), (&"applied".into(), &250_000.into()), "{point}");
        daemon.wait_idle();
        assert_eq!(daemon.count("SELECT count(*) FROM coupon WHERE shelf <> 0"), 250_000, "{point}");
        assert_eq!(daemon.count("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'coupon%'"), 2);
        daemon.verify_whole("acme");
    });
}

#[test]
fn between_the_durable_steps_of_a_refusal_and_of_redemptions() {
    each(&["inbound-claimed", "inbound-committed", "inbound-published"], |point| {
        let mut daemon = Daemon::prepare(&[("acme", ACME)]);
        daemon.start();
        let feed = daemon.client("acme-feed");
        feed.send("codes.csv", "A1\nA2\nA3\n", "/coupons/spring26");
        assert!(daemon.stop().success());
        for (name, content, directory, status) in [
            ("used.csv", "A1\nA2\nNOBODY\n", "/redemptions", "applied"),
            ("bad.csv", "a;b\n1;2\n", "/coupons/spring26", "rejected"),
            ("torn.csv.gz", "\u{1f}", "/coupons/spring26", "rejected"),
        ] {
            daemon.spawn(&format!("{point}=return"));
            daemon.wait_ready();
            put_and_abort(&mut daemon, &feed, (name, content, directory), point);
            daemon.start();
            assert_eq!(feed.report(name)["status"], status, "{point} {name}");
            assert!(daemon.stop().success());
        }
        daemon.start();
        daemon.wait_idle();
        assert_eq!(daemon.count("SELECT count(*) FROM redemption"), 3, "{point}");
        daemon.verify_whole("acme");
    });
}

#[test]
fn between_the_durable_steps_of_a_batch() {
    let mailer = Gpg::new();
    let certificate = mailer.make_key("mailer@example.com");
    let points = [
        "outbound-before-assign",
        "outbound-after-assign",
        "outbound-after-export",
        "outbound-after-record",
        "outbound-between-files",
        "outbound-before-manifest",
        "outbound-after-manifest",
    ];
    each(&points, |point| {
        let mut daemon = Daemon::prepare(&[]);
        std::fs::create_dir(daemon.path("namespaces/keys")).unwrap();
        daemon.write("namespaces/keys/mailer.asc", &certificate);
        let sealed = "[campaigns.sealed]\nbank = \"spring26\"\nchannel = \"email\"\nschedule = \"on-arrival\"\n\
                      when_short = \"partial\"\nencrypt_to = \"keys/mailer.asc\"\n";
        daemon.configure("acme", &format!("{ACME}{sealed}"));
        daemon.start();
        let (feed, mail) = (daemon.client("acme-feed"), daemon.client("acme-mail"));
        feed.send("codes.csv", "A1\nA2\nA3\nA4\nA5\nA6\n", "/coupons/spring26");
        assert!(daemon.stop().success());

        // More customers than codes: a batch of two files and a manifest. The second is encrypted, which makes other bytes
        // each time, so that nothing that is out may be written again.
        for (campaign, customers, new) in [("winback", "c1\nc2\nc3\nc4\n", 4), ("sealed", "c3\nc4\nd1\nd2\nd3\n", 2)] {
            daemon.spawn(&format!("{point}=return"));
            daemon.wait_ready();
            let (name, content) = (format!("{campaign}.csv"), format!("customer_id\n{customers}"));
            put_and_abort(&mut daemon, &mail, (&name, &content, &format!("/recipients/{campaign}")), point);
            daemon.start();
            let collected = mail.collect(campaign, campaign);
            assert_eq!(collected.manifest["rows"]["new"], new, "{point}: {:#}", collected.manifest);
            daemon.wait_idle();
            daemon.verify_whole("acme");
            assert!(daemon.stop().success());
        }
        daemon.start();
        let sealed = mail.collect("sealed", "sealed");
        assert_eq!(sealed.files.len(), 2, "{point}");
        assert_eq!(daemon.count("SELECT count(*) FROM batch"), 2, "{point}");
        assert_eq!(daemon.count("SELECT count(*) FROM assignment"), 6, "{point}");
    });
}

#[test]
fn while_a_close_is_not_answered() {
    each(&["reception::synced", "reception::committed"], |point| {
        let mut daemon = Daemon::prepare(&[("acme", ACME)]);
        daemon.spawn(&format!("{point}=sleep(60000)"));
        daemon.wait_ready();
        let feed = daemon.client("acme-feed");
        feed.write("codes.csv", "A1\nA2\n");
        std::thread::scope(|scope| {
            let client = scope.spawn(|| feed.run(&["put codes.csv /coupons/spring26/"]));
            let incoming = daemon.namespace("acme").join(".spool/incoming/1");
            until("all bytes are there", || (std::fs::metadata(&incoming).ok()?.len() == 6).then_some(()));
            if point == "reception::committed" {
                let received = "SELECT count(*) FROM upload WHERE received_at IS NOT NULL";
                until("the row is committed", || (daemon.count(received) == 1).then_some(()));
            }
            daemon.kill();
            assert!(!client.join().unwrap().ok, "{point}: nobody said OK");
        });
        daemon.start();
        // The client does what clients do: it sends the file again.
        feed.does(&["put codes.csv /coupons/spring26/"]);
        daemon.wait_idle();
        let states: Vec<String> = daemon
            .rows("SELECT state FROM upload ORDER BY id")
            .iter()
            .map(|row| row["state"].as_str().unwrap().to_owned())
            .collect();
        let expected: &[&str] = if point == "reception::synced" { &["applied"] } else { &["applied", "duplicate"] };
        assert_eq!(states, expected, "{point}");
        assert_eq!(daemon.count("SELECT count(*) FROM coupon"), 2, "{point}");
        daemon.verify_whole("acme");
    });
}

/// A step of a reception that the daemon dies at, the commands that bring it there, and what the uploads are once the
/// client has sent its file again.
struct Death<'a> {
    point: &'a str,
    /// What is there already, from a session that was cut off before.
    before: Option<&'a str>,
    commands: &'a [&'a str],
    states: &'a [&'a str],
}

const PUT: &str = "put codes.csv /coupons/spring26/codes.csv";
const PUT_PART: &str = "put codes.csv /coupons/spring26/codes.csv.part";
const RENAME: &str = "rename /coupons/spring26/codes.csv.part /coupons/spring26/codes.csv";

#[test]
fn between_the_durable_steps_of_a_reception() {
    let death = |point, commands, states| Death { point, before: None, commands, states };
    let resumed = |point, commands| Death { point, before: Some("reception::synced"), commands, states: &["applied"] };
    let deaths = [
        death("reception::begun", &[PUT], &["removed", "applied"]),
        death("reception::placed", &[PUT], &["applied"]),
        death("reception::data-synced", &[PUT], &["applied"]),
        death("reception::synced", &[PUT], &["applied"]),
        death("reception::committed", &[PUT], &["applied", "duplicate"]),
        resumed("reception::resumed", &[PUT]),
        resumed("reception::resumed", &["reput more.csv /coupons/spring26/codes.csv"]),
        resumed("reception::synced", &["reput more.csv /coupons/spring26/codes.csv"]),
        // Nobody has renamed it: it is kept, and is not what was sent again.
        death("reception::committed", &[PUT_PART], &["awaiting_rename", "applied"]),
        death("reception::renamed", &[PUT_PART, RENAME], &["applied", "duplicate"]),
        death("reception::removed", &[PUT_PART, "rm /coupons/spring26/codes.csv.part"], &["removed", "applied"]),
    ];
    each(&(0..deaths.len()).map(|place| place.to_string()).collect::<Vec<_>>(), |place| {
        dies_and_comes_back(&deaths[place.parse::<usize>().unwrap()]);
    });
}

#[track_caller]
fn dies_and_comes_back(death: &Death<'_>) {
    let Death { point, before, commands, states } = death;
    let mut daemon = Daemon::prepare(&[("acme", ACME)]);
    let feed = daemon.client("acme-feed");
    feed.write("codes.csv", "A1\nA2\n");
    feed.write("more.csv", "A1\nA2\nA3\n");
    let mut dies_at = |point: &str, commands: &[&str]| {
        daemon.spawn(&format!("{point}=return"));
        daemon.wait_ready();
        assert!(!feed.run(commands).ok, "{point} {commands:?}: nobody said OK");
        assert_eq!(daemon.wait_ended().signal(), Some(6), "{point} {commands:?}");
    };
    if let Some(before) = before {
        dies_at(before, &[PUT]);
    }
    dies_at(point, commands);

    daemon.start();
    let root = daemon.namespace("acme").join(".spool/incoming");
    for row in daemon.rows("SELECT id, state, bytes FROM upload WHERE state IN ('partial', 'awaiting_rename')") {
        let there = std::fs::metadata(root.join(row["id"].to_string())).unwrap().len();
        assert_eq!(row["bytes"].as_u64(), Some(there), "{point}: {row}");
    }
    assert_eq!(daemon.count("SELECT count(*) FROM upload WHERE state = 'receiving'"), 0, "{point}");
    feed.does(&[PUT]);
    daemon.wait_idle();
    let rows = daemon.rows("SELECT state FROM upload ORDER BY id");
    let found: Vec<&str> = rows.iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(&found, states, "{point} {commands:?}");
    assert_eq!(daemon.count("SELECT count(*) FROM coupon"), 2, "{point} {commands:?}");
    daemon.verify_whole("acme");
}

#[test]
fn between_the_durable_steps_of_a_local_file() {
    each(&["drops::begun", "drops::moved"], |point| {
        let mut daemon = Daemon::prepare(&[("acme", ACME)]);
        daemon.spawn(&format!("{point}=return"));
        daemon.wait_ready();
        let dropped = daemon.namespace("acme").join("coupons/spring26/codes.csv");
        std::fs::write(&dropped, "A1\nA2\n").unwrap();
        assert_eq!(daemon.wait_ended().signal(), Some(6), "{point}");
        daemon.start();
        assert_eq!(daemon.client("acme-feed").report("codes.csv")["status"], "applied", "{point}");
        daemon.wait_idle();
        assert!(!dropped.exists(), "{point}");
        assert_eq!(daemon.count("SELECT count(*) FROM upload WHERE state <> 'removed'"), 1, "{point}");
        assert_eq!(daemon.count("SELECT count(*) FROM coupon"), 2, "{point}");
        daemon.verify_whole("acme");
    });
}

#[test]
fn between_the_durable_steps_of_a_not_sent_list_and_of_corrections() {
    let points = [
        "inbound-claimed",
        "inbound-before-commit",
        "inbound-committed",
        "inbound-published",
        "outbound-corrections-published",
    ];
    each(&points, |point| {
        let mut daemon = Daemon::prepare(&[("acme", ACME)]);
        daemon.start();
        let (feed, mail) = (daemon.client("acme-feed"), daemon.client("acme-mail"));
        feed.send("codes.csv", "A1\nA2\nA3\n", "/coupons/shipping");
        mail.put("list.csv", "customer_id\nc1\nc2\nc3\n", "/recipients/texts");
        let collected = mail.collect("texts", "list");
        let batch = collected.manifest["batch"].as_i64().unwrap();
        assert!(daemon.stop().success());
        daemon.spawn(&format!("{point}=return"));
        daemon.wait_ready();
        let not_sent = format!("list.{batch}.not-sent.csv");
        if point == "outbound-corrections-published" {
            mail.send(&not_sent, "customer_id\nc1\n", "/recipients/texts");
            feed.put("used.csv", collected.code("c2"), "/redemptions");
            assert_eq!(daemon.wait_ended().signal(), Some(6), "{point}");
        } else {
            put_and_abort(&mut daemon, &mail, (&not_sent, "customer_id\nc1\n", "/recipients/texts"), point);
        }
        daemon.start();
        let report = mail.report(&not_sent);
        assert_eq!((&report["status"], &report["rows"]["accepted"]), (&"applied".into(), &1.into()), "{point}");
        feed.put("used-again.csv", format!("{}\n", collected.code("c2")), "/redemptions");
        let corrections = mail.wait_for("/assignments/texts", &format!("list.{batch}."), ".corrections.csv");
        until("the corrections are recorded", || {
            (daemon.count("SELECT sum(corrections) FROM batch") == 1).then_some(())
        });
        let listed = mail.get(&format!("/assignments/texts/{corrections}"));
        assert_eq!(String::from_utf8(listed).unwrap().lines().count(), 2, "{point}: c2 once");
        daemon.wait_idle();
        assert_eq!(daemon.count("SELECT count(*) FROM returned"), 1, "{point}: it came back once");
        assert_eq!(daemon.count("SELECT returns - next_return FROM lot"), 1, "{point}");
        daemon.verify_whole("acme");
    });
}

#[test]
fn a_number_that_is_given_again() {
    // What is left where a crash of the database lost the row of an upload that nobody had closed.
    let daemon = Daemon::serve(&[("acme", ACME)]);
    let left = daemon.namespace("acme").join(".spool/incoming/1");
    std::fs::write(&left, "THIS-WAS-ANOTHER-CLIENT\n").unwrap();
    let feed = daemon.client("acme-feed");
    let report = feed.send("codes.csv", "A1\nA2\n", "/coupons/spring26");
    assert_eq!((report["upload_id"].as_u64(), report["rows"]["accepted"].as_u64()), (Some(1), Some(2)), "{report:#}");
    assert_eq!(daemon.count("SELECT count(*) FROM coupon WHERE code NOT LIKE 'A%'"), 0);
    daemon.wait_idle();
    daemon.verify_whole("acme");
}

/// Numbers that one seed determines.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    }
}

/// What one client does until it is told to stop: file after file, each again and again until its CLOSE is answered.
struct Sender<'a> {
    client: Client,
    stop: &'a AtomicBool,
    acknowledged: &'a Mutex<BTreeMap<String, u32>>,
}

impl Sender<'_> {
    fn work(&self, mut file: impl FnMut(u64) -> (String, String, String)) {
        for number in 0.. {
            let (name, content, directory) = file(number);
            self.client.write(&name, content);
            for tries in 1.. {
                if self.client.run(&[&format!("put {name} {directory}/")]).ok {
                    self.acknowledged.lock().unwrap().insert(name, tries);
                    break;
                }
                assert!(tries < 600, "{name} is never received");
                std::thread::park_timeout(Duration::from_millis(50));
            }
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

#[test]
fn at_random_moments() {
    with_a_seed(|dice| {
        let mut daemon = Daemon::prepare(&[("acme", ACME)]);
        daemon.start();
        kill_at_random_moments(&mut daemon, dice, |daemon, dice| {
            std::thread::park_timeout(Duration::from_millis(50 + dice.roll(2000)));
            daemon.kill();
            // Sometimes it dies before it has come up.
            if dice.roll(4) == 0 {
                daemon.spawn("");
                std::thread::park_timeout(Duration::from_millis(dice.roll(400)));
                daemon.kill();
            }
            daemon.start();
        });
    });
}

#[test]
fn at_random_moments_together_with_its_own_postgresql() {
    with_a_seed(|dice| {
        let mut daemon = Daemon::prepare_private(&[("acme", ACME)]);
        daemon.start();
        kill_at_random_moments(&mut daemon, dice, |daemon, dice| {
            std::thread::park_timeout(Duration::from_millis(50 + dice.roll(2000)));
            let which = dice.roll(3);
            if which > 0 {
                daemon.kill_database();
            }
            if which == 1 {
                // The daemon itself brings it back.
                daemon.wait_ready();
            } else {
                daemon.kill();
                daemon.start();
            }
        });
    });
}

/// Runs `work` with a seed of its own, which is shown with a failure, to run the same again.
fn with_a_seed(work: impl FnOnce(&mut Dice)) {
    let given = std::env::var("COUPOND_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| RandomState::new().build_hasher().finish()) | 1;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut Dice(seed))));
    if let Err(panic) = outcome {
        std::panic::panic_any(format!("COUPOND_TEST_SEED={seed}: {}", text(&*panic)));
    }
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let owned = panic.downcast_ref::<String>().cloned();
    owned.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

const KILLS: u64 = 10;

/// Four clients send files for as long as `kill` does its work; in the end everything must be there once.
fn kill_at_random_moments(daemon: &mut Daemon, dice: &mut Dice, kill: impl Fn(&mut Daemon, &mut Dice)) {
    let seed = dice.0;
    let stop = AtomicBool::new(false);
    let acknowledged = Mutex::new(BTreeMap::new());
    let sender = |user: &str, desk: &str| {
        let client = daemon.client(user);
        let desk = client.desk.join(desk);
        std::fs::create_dir_all(&desk).unwrap();
        Sender { client: Client { desk, ..client }, stop: &stop, acknowledged: &acknowledged }
    };
    let (coupons, redemptions) = (sender("acme-feed", "one"), sender("acme-feed", "two"));
    let (winback, texts) = (sender("acme-mail", "one"), sender("acme-mail", "two"));
    std::thread::scope(|scope| {
        scope.spawn(|| coupons.work(codes));
        scope.spawn(|| redemptions.work(|number| used(number, seed)));
        scope.spawn(|| winback.work(|number| list("winback", number, seed)));
        scope.spawn(|| texts.work(|number| list("texts", number, seed)));
        // The clients must hear that it is over even when a kill does not go as it should.
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..KILLS {
                kill(daemon, dice);
            }
        }));
        // On a busy machine few files get through between two kills.
        let enough = || (acknowledged.lock().unwrap().len() >= 8).then_some(());
        let sent = killed.and_then(|()| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| until("eight files are received", enough)))
        });
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = sent {
            std::panic::resume_unwind(panic);
        }
    });
    daemon.wait_idle();
    let acknowledged = acknowledged.into_inner().unwrap();
    let mut applied: BTreeMap<String, u64> = BTreeMap::new();
    // A kill between an upload's row and its file leaves a row that nobody was told of; it is forgotten.
    let told_of = "SELECT name, state FROM upload WHERE state <> 'removed' OR received_at IS NOT NULL ORDER BY id";
    for upload in daemon.rows(told_of) {
        let (name, state) = (upload["name"].as_str().unwrap().to_owned(), upload["state"].as_str().unwrap());
        assert!(["applied", "duplicate"].contains(&state), "{upload}");
        *applied.entry(name).or_default() += u64::from(state == "applied");
    }
    assert!(acknowledged.keys().eq(applied.keys()), "{acknowledged:?}\n{applied:?}");
    assert!(applied.values().all(|times| *times == 1), "every file once: {applied:?}");
    let lists = applied.keys().filter(|name| name.starts_with("winback") || name.starts_with("texts")).count();
    assert_eq!(daemon.count("SELECT count(*) FROM batch WHERE state = 'exported'"), lists as i64);
    let expected = applied.keys().filter(|name| name.starts_with("codes")).count() as i64 * 400;
    assert_eq!(daemon.count("SELECT count(*) FROM coupon"), expected);
    daemon.verify_whole("acme");
    assert!(daemon.stop().success());
}

fn codes(number: u64) -> (String, String, String) {
    let rows = (0..200).map(|row| format!("spring26,K{number}-{row}\nshipping,K{number}-{row}\n")).collect::<String>();
    (format!("codes-{number}.csv"), format!("bank_name,code\n{rows}"), "/coupons".to_owned())
}

/// Codes that are assigned, that wait, that are not uploaded yet, and one that nobody will ever know.
fn used(number: u64, seed: u64) -> (String, String, String) {
    let mut dice = Dice(seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let rows = (0..20).map(|_| format!("K{}-{}\n", dice.roll(number + 2), dice.roll(200))).collect::<String>();
    (format!("used-{number}.csv"), format!("UNKNOWN-{number}\n{rows}"), "/redemptions".to_owned())
}

fn list(campaign: &str, number: u64, seed: u64) -> (String, String, String) {
    let mut dice = Dice(seed ^ (number + 7).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let rows = (0..30).map(|_| format!("c{},{number}\n", dice.roll(90))).collect::<String>();
    (format!("{campaign}-{number}.csv"), format!("customer_id,list\n{rows}"), format!("/recipients/{campaign}"))
}
