//! What an admin asks and does by hand: as functions of the library, and as commands of the real binary.

use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use coupond::config::Name;
use coupond::ledger::history::Life;
use coupond::ledger::{Desk, LedgerError, ListReader};
use coupond::outbound::{KeyedDoors, Outbound};
use coupond::reason::Reason;
use coupond::store::pickups::NewPickup;
use serde_json::Value;

use crate::harness::workshop::{Workshop, acme};

const ACME: &str = r#"
timezone = "America/New_York"
[users.acme-feed]
role = "client"
password_hash = "$argon2id$v=19$m=65536,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$UjpJjnDMHgtZN0tnAmTtuMkyKcOwV0Zgzg3fGlRAe0Y"
[users.acme-mail]
role = "campaigns"
password_hash = "$argon2id$v=19$m=65536,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$UjpJjnDMHgtZN0tnAmTtuMkyKcOwV0Zgzg3fGlRAe0Y"
[banks.spring26]
low_stock = 100
[banks.autumn]
[banks.daily]
persistent = false
[campaigns.winback]
bank = "spring26"
[campaigns.daily]
bank = "daily"
[campaigns.nightly]
bank = "spring26"
schedule = "0 0 2 * * *"
[campaigns.rest]
bank = "autumn"
when_short = "partial"
"#;

/// The workshop with what the ledger needs.
struct Office {
    shop: Workshop,
    doors: KeyedDoors,
    outbound: Outbound,
}

impl Office {
    fn new() -> Self {
        let shop = Workshop::new(ACME);
        let doors = KeyedDoors {
            keyring: Arc::clone(&shop.inbound.keyring),
            live: shop.live.clone(),
            clock: shop.clock.clone(),
        };
        let outbound = Outbound::new(
            shop.store.clone(),
            shop.live.clone(),
            shop.clock.clone(),
            Arc::new(doors.clone()),
            Arc::new(doors.clone()),
        );
        Self { shop, doors, outbound }
    }

    fn with<T>(&self, ask: impl FnOnce(&Desk<'_>) -> T) -> T {
        let settings = self.shop.live.current();
        let desk = Desk::open(&self.shop.store, &settings, &acme(), self.shop.clock.now()).unwrap();
        ask(&desk)
    }

    /// Drops a file and returns its upload's id.
    fn drop(&self, path: &str, content: impl AsRef<[u8]>) -> i64 {
        self.shop.drop(path, content)["upload_id"].as_i64().unwrap()
    }

    /// Drops a list and lets its batch run.
    fn batch(&self, path: &str, list: &str) -> i64 {
        let id = self.drop(path, list);
        let _ = self.outbound.tick();
        id
    }

    fn code(&self, code: &str) -> Life {
        let reader = ListReader { lists: &self.doors, reading: &|_| {} };
        self.with(|desk| desk.code(code, Some(&reader)).unwrap())
    }

    fn customer(&self, id: &str) -> Life {
        let reader = ListReader { lists: &self.doors, reading: &|_| {} };
        self.with(|desk| desk.customer(id, Some(&reader)).unwrap())
    }

    fn state(&self, id: i64) -> String {
        self.with(|desk| desk.upload(id).unwrap().unwrap().state)
    }

    fn config(&self) -> PathBuf {
        self.shop.directory.path().join("coupond.toml")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        command().args(arguments).arg("--config").arg(self.config()).output().unwrap()
    }

    /// The output of a command that must succeed.
    #[track_caller]
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.says(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// Exit code and first line on standard error of a command that fails.
    fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), errors.lines().next().unwrap_or_default().to_owned())
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coupond"));
    command.env("COUPOND_LOG", "error").stdin(Stdio::null());
    command
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, LedgerError>, why: &str) {
    let error = result.unwrap_err();
    assert!(error.to_string().contains(why), "{error}");
}

/// What happened, where, why: without the time.
fn told(life: &Life) -> Vec<String> {
    let one = |step: &coupond::ledger::Step| {
        let batch = step.batch.as_ref().map_or_else(String::new, |batch| format!(" batch {}", batch.id));
        let file = step.file.as_ref().map_or_else(String::new, |file| {
            let line = file.line.map_or_else(String::new, |line| format!(":{line}"));
            format!(" {}{line}", file.name)
        });
        format!("{}{batch}{file}: {}", step.what, step.why)
    };
    life.steps.iter().map(one).collect()
}

#[test]
fn uploads_are_listed_and_shown() {
    let office = Office::new();
    office.drop("/coupons/spring26/a.csv", "code\nA1\nA2\n");
    office.drop("/redemptions/used.csv", "A1\nzz\n");
    office.drop("/check/coupons/b.csv", "bank_name;code\nspring26;B1\n");
    office.drop("/coupons/b.csv", "bank_name;code\nspring26;B1\n");
    let expected = "\
id  place                     name      size  received                 state     why
4   acme/coupons              b.csv     27 B  2026-11-25 07:00:00 EST  rejected  BAD_COLUMN_DELIMITER
3   acme/check/coupons        b.csv     27 B  2026-11-25 07:00:00 EST  rejected  BAD_COLUMN_DELIMITER
2   acme/redemptions          used.csv  6 B   2026-11-25 07:00:00 EST  applied
1   acme/coupons/spring26     a.csv     11 B  2026-11-25 07:00:00 EST  applied
";
    let listed = office.says(&["uploads"]);
    assert_eq!(listed.replace("acme/coupons/spring26  ", "acme/coupons/spring26     ").lines().count(), 5);
    let narrow =
        |text: &str| text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    assert_eq!(narrow(&listed), narrow(expected));
    let ids = |arguments: &[&str]| {
        office
            .json(arguments)
            .as_array()
            .unwrap()
            .iter()
            .map(|upload| upload["id"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&["uploads", "list", "--kind", "redemptions"]), [2]);
    assert_eq!(ids(&["uploads", "list", "--state", "rejected", "--limit", "1"]), [4]);
    assert_eq!(ids(&["uploads", "list", "--namespace", "acme", "--state", "quarantined"]), [] as [i64; 0]);
    let shown = office.says(&["uploads", "show", "2"]);
    let shown: Vec<&str> = shown.lines().filter(|line| !line.starts_with("report: ")).collect();
    assert_eq!(
        shown,
        [
            "upload 2: used.csv in /redemptions/ of acme",
            "put there locally, received 2026-11-25 07:00:00 EST, 6 B",
            "state: applied",
            "rows: 2 read, 1 accepted, 0 rejected, 0 duplicate, 1 unknown",
            "bank spring26: 2 before, 1 after",
            "warning: REDEEMED_UNASSIGNED: codes were redeemed that nobody had been given",
            "warning: UNKNOWN_CODE: no bank has the code; it is remembered",
        ]
    );
    assert_eq!(office.json(&["uploads", "show", "4"])["report"]["refused"]["reason"], "BAD_COLUMN_DELIMITER");
    assert_eq!(office.fails(&["uploads", "show", "9"]), (1, "error: failed to find upload 9".to_owned()));
    assert_eq!(office.fails(&["uploads", "list", "--state", "lost"]).0, 2);
    assert_eq!(office.fails(&["uploads", "list", "--limit", "0"]).0, 2);
    assert_eq!(office.fails(&["uploads", "--namespace", "nobody"]).0, 1);
}

const DAMAGED: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03cut";

#[test]
fn a_quarantined_upload_is_released_or_discarded() {
    let office = Office::new();
    let id = office.drop("/coupons/spring26/a.csv.gz", DAMAGED);
    let (incoming, quarantine) = (office.shop.layout().incoming_file(id), office.shop.layout().quarantine());
    assert_eq!(office.json(&["quarantine"])[0]["reason"], "GZIP_DAMAGED");
    // The cause is mended: here the file itself, so that the second verdict differs.
    fs::write(quarantine.join(id.to_string()), "code\nA1\n").unwrap();
    assert!(office.says(&["quarantine", "release", &id.to_string()]).contains("is received"));
    assert_eq!((office.state(id).as_str(), incoming.exists()), ("received", true));
    refused(office.with(|desk| desk.release(id)), "it is `received`, not `quarantined`");
    office.shop.inbound.process_waiting(&|| false).unwrap();
    assert_eq!((office.state(id).as_str(), office.shop.remaining("spring26")), ("applied", 1));
    assert_eq!(office.shop.report("a.csv.gz", id)["status"], "applied", "the new report stands in the old one's place");

    let other = office.drop("/coupons/spring26/b.csv.gz", [DAMAGED, b"x"].concat());
    assert_eq!(office.says(&["quarantine", "discard", &other.to_string()]), format!("upload {other} is discarded\n"));
    assert_eq!(office.state(other), "discarded");
    assert!(office.shop.layout().archive().join(other.to_string()).exists());
    assert!(!quarantine.join(other.to_string()).exists());
    refused(office.with(|desk| desk.discard(other)), "it is `discarded`");
    refused(office.with(|desk| desk.release(other)), "it is `discarded`");
    refused(office.with(|desk| desk.release(99)), "find upload 99");
    assert_eq!(office.says(&["quarantine", "list"]), "no uploads\n");
}

#[test]
fn a_decision_that_a_crash_interrupted_is_given_again() {
    let office = Office::new();
    let id = office.drop("/coupons/spring26/a.csv.gz", DAMAGED);
    let quarantined = office.shop.layout().quarantine().join(id.to_string());
    // Released: the file had moved, the row had not.
    fs::rename(&quarantined, office.shop.layout().incoming_file(id)).unwrap();
    office.with(|desk| desk.release(id)).unwrap();
    office.shop.inbound.process_waiting(&|| false).unwrap();
    assert_eq!(office.state(id), "quarantined");
    // Discarded: the row had changed, the file had not moved.
    let namespace = office.shop.store.namespace_id(&acme()).unwrap();
    assert!(office.shop.store.discard_upload(namespace, id).unwrap());
    office.with(|desk| desk.discard(id)).unwrap();
    assert!(office.shop.layout().archive().join(id.to_string()).exists() && !quarantined.exists());
    // A file that is gone is not released.
    let gone = office.drop("/coupons/spring26/b.csv.gz", [DAMAGED, b"x"].concat());
    fs::remove_file(office.shop.layout().quarantine().join(gone.to_string())).unwrap();
    refused(office.with(|desk| desk.release(gone)), "its file is neither");
    assert_eq!(office.state(gone), "quarantined");
}

#[test]
fn an_upload_is_undone_once() {
    let office = Office::new();
    let id = office
        .drop("/coupons/all.csv", "bank_name,code\nspring26,A1\nspring26,A2\nspring26,A3\nspring26,A4\nautumn,B1\n");
    office.drop("/coupons/spring26/more.csv", "code\nM1\n");
    let used = office.drop("/redemptions/used.csv", "A2\n");
    office.batch("/recipients/winback/list.csv", "customer_id\nalice\n");
    let lots = office.says(&["uploads", "undo", &id.to_string()]);
    assert_eq!(
        lots.lines().collect::<Vec<_>>(),
        [
            "autumn: 1 of 1 codes are void, 0 handed out, 0 redeemed",
            "spring26: 2 of 4 codes are void, 1 handed out, 1 redeemed",
            "codes that were handed out stay with the customers who have them",
            "void codes come in as new ones when they are sent again; `uploads replay 1` sends them again",
        ]
    );
    assert_eq!((office.shop.remaining("spring26"), office.shop.remaining("autumn")), (1, 0));
    let banks = office.json(&["banks"]);
    let spring: Vec<_> = banks.as_array().unwrap().iter().filter(|line| line["bank"] == "spring26").collect();
    let shown = (spring[0]["remaining"].as_i64(), spring[0]["size"].as_i64());
    assert_eq!(shown, (Some(1), Some(2)), "what was taken back is not counted: {banks:#}");
    refused(office.with(|desk| desk.undo(id)), "it was undone on");
    refused(office.with(|desk| desk.undo(used)), "a redemption cannot be taken back");
    let nothing = office.drop("/coupons/spring26/again.csv", "code\nA1\n");
    refused(office.with(|desk| desk.undo(nothing)), "it brought none");
    let bad = office.drop("/coupons/autumn/bad.csv", "");
    refused(office.with(|desk| desk.undo(bad)), "it is `rejected`");
    // The next batch draws from what was not undone, and alice keeps her code.
    office.shop.wait(TimeDelta::hours(1));
    office.batch("/recipients/winback/second.csv", "customer_id\nalice\nbob\n");
    let alice = office.customer("alice");
    assert_eq!((alice.now[0].code.as_str(), alice.steps.last().unwrap().what), ("A1", "kept"));
    assert_eq!(office.customer("bob").now[0].code, "M1");
    let void: Vec<String> = office.code("A3").now.iter().map(|at| format!("{} {}", at.bank, at.state)).collect();
    assert_eq!(void, ["spring26 void"]);
}

#[test]
fn void_codes_come_again_with_the_right_end_date() {
    let office = Office::new();
    let codes = "code\nA1\nA2\nA3\nA4\n";
    let wrong = office.drop("/coupons/spring26/codes.until-2026-12-01.csv", codes);
    office.drop("/redemptions/used.csv", "A4\n");
    office.batch("/recipients/winback/list.csv", "customer_id\nalice\n");
    office.with(|desk| desk.undo(wrong)).unwrap();
    let right = office.shop.drop("/coupons/spring26/codes.until-2026-12-31.csv", codes);
    let counts = (right["status"].as_str(), right["rows"]["accepted"].as_i64(), right["rows"]["duplicate"].as_i64());
    assert_eq!(counts, (Some("applied"), Some(3), Some(1)), "alice has A1: {right:#}");
    assert_eq!((office.shop.remaining("spring26"), office.code("A2").now[0].end_date), (2, "2026-12-31".parse().ok()));
    assert_eq!((office.code("A1").now[0].state, office.code("A4").now[0].state), ("held", "redeemed"));
    assert_eq!(office.shop.drop("/coupons/spring26/again.csv", codes)["status"], "duplicate");
    // Undone by mistake: replayed, its codes are there again.
    let right = right["upload_id"].as_i64().unwrap();
    office.with(|desk| desk.undo(right)).unwrap();
    assert_eq!(office.shop.remaining("spring26"), 0);
    office.with(|desk| desk.replay(right, &mut |_| {})).unwrap();
    office.shop.inbound.process_waiting(&|| false).unwrap();
    assert_eq!(office.shop.remaining("spring26"), 2);
    office.shop.wait(TimeDelta::hours(1));
    office.batch("/recipients/winback/more.csv", "customer_id\nalice\nbob\ncarol\n");
    let held = ["alice", "bob", "carol"].map(|customer| office.customer(customer).now[0].code.clone());
    assert_eq!(held, ["A1", "A2", "A3"]);
}

/// A command of its own, which the test below starts and kills.
#[cfg(feature = "failpoints")]
#[test]
fn a_command_that_is_killed() {
    let Ok(config) = std::env::var("LEDGER_TEST_CONFIG") else { return };
    let _scenario = fail::FailScenario::setup();
    let settings = coupond::config::load(std::path::Path::new(&config), std::iter::empty()).unwrap();
    let coupond::config::DatabaseSettings::Url(url) = &settings.database else { panic!("a server is named") };
    let store = coupond::store::Store::connect(url, 2).unwrap();
    store.ensure_namespaces(settings.namespaces.keys()).unwrap();
    let desk = Desk::open(&store, &settings, &acme(), crate::harness::workshop::noon()).unwrap();
    let file = std::env::var("LEDGER_TEST_FILE").unwrap();
    match std::env::var("LEDGER_TEST_ID").unwrap().parse() {
        Ok(id) if file == "discard" => desk.discard(id).unwrap(),
        Ok(id) => desk.release(id).unwrap(),
        Err(_) => {
            let place = coupond::spool::Place::parse("coupons/spring26").unwrap();
            desk.import(&place, "codes.csv", std::path::Path::new(&file), &mut |_| {}).unwrap();
        }
    }
}

#[cfg(feature = "failpoints")]
#[test]
fn killed_between_any_two_durable_steps_nothing_is_lost() {
    use std::os::unix::process::ExitStatusExt as _;
    let office = Office::new();
    let kill = |point: &str, id: &str, file: &str| {
        let killed = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "commands_ledger::a_command_that_is_killed"])
            .env("LEDGER_TEST_CONFIG", office.config())
            .env("LEDGER_TEST_ID", id)
            .env("LEDGER_TEST_FILE", file)
            .env("FAILPOINTS", format!("ledger-{point}=return"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(killed.signal(), Some(6), "{point}: the command was not killed");
    };
    let restart = || {
        coupond::inbound::recover_drops(&office.shop.store, &office.shop.live.current(), office.shop.clock.now())
            .unwrap();
        office.shop.inbound.process_waiting(&|| false).unwrap();
    };
    let file = office.shop.directory.path().join("codes.csv");
    fs::write(&file, "code\nA1\n").unwrap();
    let file = file.to_str().unwrap();
    // Before its content was in place: as if it had never been given.
    for (id, point) in [(1, "begun"), (2, "copied")] {
        kill(point, "", file);
        restart();
        assert_eq!((office.state(id).as_str(), office.shop.remaining("spring26")), ("removed", 0), "{point}");
        assert_eq!(fs::read_dir(office.shop.layout().prepared()).unwrap().count(), 0, "{point}");
    }
    // After: it is received.
    kill("placed", "", file);
    assert_eq!(office.state(3), "receiving");
    restart();
    assert_eq!((office.state(3).as_str(), office.shop.remaining("spring26")), ("applied", 1));
    // A decision about a quarantined upload is given again.
    let id = office.drop("/coupons/spring26/a.csv.gz", DAMAGED);
    kill("moved", &id.to_string(), "release");
    restart();
    assert_eq!(office.state(id), "quarantined");
    office.with(|desk| desk.release(id)).unwrap();
    restart();
    kill("discarded", &id.to_string(), "discard");
    assert!(office.shop.layout().quarantine().join(id.to_string()).exists());
    office.with(|desk| desk.discard(id)).unwrap();
    assert!(office.shop.layout().archive().join(id.to_string()).exists());
}

#[test]
fn a_refused_upload_is_replayed_after_its_cause_was_mended() {
    let office = Office::new();
    let id = office.drop("/coupons/all.csv", "bank_name,code\nwinter,W1\nwinter,W2\n");
    assert_eq!(office.state(id), "rejected");
    let file = office.shop.directory.path().join("namespaces/acme.toml");
    fs::write(&file, format!("{ACME}\n[banks.winter]\n")).unwrap();
    let settings = coupond::config::load(&office.config(), std::iter::empty()).unwrap();
    office.shop.store.ensure_banks(&settings.namespaces[&acme()], office.shop.clock.now()).unwrap();
    office.shop.live.replace(settings);
    assert!(office.says(&["uploads", "replay", &id.to_string()]).starts_with(&format!("upload {} is a copy", id + 1)));
    office.shop.inbound.process_waiting(&|| false).unwrap();
    assert_eq!((office.state(id + 1).as_str(), office.shop.remaining("winter")), ("applied", 2));
    assert_eq!(office.state(id), "rejected", "what happened stays as it was");
    assert!(office.shop.layout().archive().join(id.to_string()).exists());
    refused(office.with(|desk| desk.replay(id + 1, &mut |_| {})), "it was applied");
    // Once it is applied, the same content is a repeat.
    let third = office.with(|desk| desk.replay(id, &mut |_| {})).unwrap();
    office.shop.inbound.process_waiting(&|| false).unwrap();
    assert_eq!(office.state(third), "duplicate");
    refused(office.with(|desk| desk.replay(third, &mut |_| {})), "was applied before");
    let damaged = office.drop("/coupons/spring26/a.csv.gz", DAMAGED);
    refused(office.with(|desk| desk.replay(damaged, &mut |_| {})), "quarantine release");
    fs::remove_file(office.shop.layout().archive().join(id.to_string())).unwrap();
    refused(office.with(|desk| desk.replay(id, &mut |_| {})), "archive_days");
}

#[test]
fn a_campaign_runs_when_it_is_told_to() {
    let office = Office::new();
    office.drop("/coupons/spring26/a.csv", "code\nA1\nA2\n");
    office.batch("/recipients/nightly/list.csv", "customer_id\nalice\nbob\n");
    assert_eq!(office.says(&["batch"]), "no batches\n");
    let status = office.json(&["status"]);
    assert_eq!(status[0]["campaigns"][1]["lists"][0], "list.csv", "{status:#}");
    let run = office.with(|desk| desk.run_campaign(&Name::parse("nightly").unwrap())).unwrap();
    assert_eq!((run.made.len(), run.nudged.len()), (1, 0));
    let id = run.made[0];
    assert_eq!(office.with(|desk| desk.run_campaign(&Name::parse("nightly").unwrap())).unwrap().nudged, [id]);
    let _ = office.outbound.tick();
    let shown = office.says(&["batch", "show", &id.to_string()]);
    let lines: Vec<&str> = shown.lines().filter(|line| !line.starts_with("file: ")).collect();
    assert_eq!(
        lines,
        [
            format!("batch {id}: campaign nightly of acme, bank spring26"),
            "list: list.csv (upload 2)".to_owned(),
            "due: 2026-11-25 07:00:00 EST, business date 2026-11-25".to_owned(),
            "state: exported".to_owned(),
            "codes: 2 needed, 2 in stock".to_owned(),
            "end dates judged at 2026-11-25 07:00:00 EST; newest redemption file: never".to_owned(),
            "exported: 2026-11-25 07:00:00 EST".to_owned(),
            "rows: 2 new".to_owned(),
        ]
    );
    assert!(shown.contains(&format!("file: list.{id}.csv, SHA-256 ")));
    let file = format!("list.{id}.csv");
    let (user, at) = ("acme-mail", office.shop.clock.now());
    let pickup = NewPickup { campaign: "nightly", batch_id: id, file: &file, user, bytes: 1, at };
    let namespace = office.shop.store.namespace_id(&acme()).unwrap();
    office.shop.store.note_pickup(namespace, &pickup, false, |_, _| true).unwrap();
    let shown = office.says(&["batch", "show", &id.to_string()]);
    assert!(shown.contains("state: collected\n"), "{shown}");
    assert!(shown.ends_with(&format!("fetched: {file} by acme-mail, 2026-11-25 07:00:00 EST\n")), "{shown}");
    // Its firing at 02:00 does not make a second one.
    office.shop.wait(TimeDelta::days(1));
    let _ = office.outbound.tick();
    assert_eq!(office.json(&["batch", "list", "--campaign", "nightly"]).as_array().unwrap().len(), 1);
    assert!(office.says(&["batch", "run", "nightly"]).starts_with("nothing to run"));
    assert_eq!(office.fails(&["batch", "run", "nobody"]).0, 1);
}

#[test]
fn a_waiting_batch_says_why() {
    let office = Office::new();
    office.batch("/recipients/winback/list.csv", "customer_id\nalice\nbob\n");
    let waiting = office.json(&["batch", "list", "--state", "waiting"]);
    assert_eq!(waiting[0]["waiting_for"], "2 codes needed, 0 left in `spring26`");
    let status = office.says(&["status"]);
    assert!(
        status.contains("  batch        1 of winback is waiting: 2 codes needed, 0 left in `spring26`\n"),
        "{status}"
    );
    assert!(status.contains("  bank         spring26: 0 remain, LOW (alerts from 100 on)\n"), "{status}");
    assert!(status.contains("  coupons      no file yet\n"), "{status}");
    assert!(status.contains("  recipients   list.csv (applied, upload 1, 2026-11-25 07:00:00 EST)\n"), "{status}");
    office.drop("/coupons/spring26/a.csv", "code\nA1\nA2\n");
    assert!(office.says(&["batch", "run", "winback"]).starts_with("looks again now: batch 1\n"));
    let _ = office.outbound.tick();
    assert_eq!(office.json(&["batch", "show", "1"])["state"], "exported");
}

#[test]
fn a_life_says_which_check_failed() {
    let office = Office::new();
    office.drop("/coupons/spring26/a.until-2026-11-25.csv", "code\nA1\nA2\n");
    office.drop("/coupons/spring26/b.csv", "code\nB1\nB2\nB3\n");
    office.batch("/recipients/winback/one.csv", "customer_id\nalice\nbob\n");
    office.shop.wait(TimeDelta::minutes(10));
    office.batch("/recipients/winback/two.csv", "name,customer_id\nBob,bob\nAlice,alice\nAlice,alice\n");
    office.shop.wait(TimeDelta::minutes(10));
    office.drop("/redemptions/used.csv", "coupon\nA1\n");
    office.shop.wait(TimeDelta::days(1));
    office.batch("/recipients/winback/three.csv", "customer_id\nalice\nbob\n");
    let alice = office.customer("alice");
    assert_eq!(
        told(&alice),
        [
            "new batch 1 one.csv:2: held no code of `spring26`",
            "kept batch 2 two.csv:3: not redeemed by then, and could be handed out until 2026-11-25",
            "redeemed used.csv:2: the next batch gives another code",
            "lapsed: its end date was 2026-11-25; it is not handed out or kept any more",
            "replaced_redeemed batch 3 three.csv:2: the code held, A1, was redeemed (upload 5, used.csv, line 2)",
        ]
    );
    assert_eq!((alice.now.len(), alice.now[0].code.as_str(), alice.now[0].state), (1, "B1", "held"));
    assert_eq!(
        told(&office.customer("bob")).last().unwrap(),
        "replaced_lapsed batch 3 three.csv:3: the code held, A2, had lapsed: it could be handed out until 2026-11-25 only"
    );
    assert_eq!(
        told(&office.code("A2")),
        [
            "uploaded a.until-2026-11-25.csv:3: until 2026-11-25; place 2 of 2 in lot 1",
            "new batch 1 one.csv:3: held no code of `spring26`",
            "kept batch 2 two.csv:2: not redeemed by then, and could be handed out until 2026-11-25",
            "lapsed: its end date was 2026-11-25; it is not handed out or kept any more",
            "replaced batch 3 three.csv:3: by B2: the code held, A2, had lapsed: it could be handed out until 2026-11-25 only",
        ]
    );
    let redeemed = office.code("a1");
    assert_eq!((redeemed.other_spellings.as_slice(), redeemed.now[0].state), (&["A1".to_owned()][..], "redeemed"));
    assert_eq!((office.code("B3").now[0].state, office.code("B1").now[0].state), ("in stock", "held"));
    refused(office.with(|desk| desk.code("ZZ", None)), "find the code in namespace `acme`");
    // Without the lists nothing is claimed about them.
    fs::remove_file(office.shop.layout().archive().join("4")).unwrap();
    assert_eq!(office.customer("alice").unknown_batches, [2]);
    let quick = office.with(|desk| desk.customer("alice", None)).unwrap();
    assert_eq!((quick.unknown_batches.as_slice(), quick.steps.len()), (&[2][..], 4));
}

#[test]
fn rates_of_each_month_per_bank_lot_and_campaign() {
    let office = Office::new();
    assert_eq!(office.says(&["banks", "--rates"]), "no codes were handed out yet\n");
    office.drop("/coupons/spring26/a.until-2026-12-24.csv", "code\nA1\nA2\n");
    office.drop("/coupons/spring26/b.csv", "code\nB1\nB2\nB3\n");
    office.drop("/coupons/autumn/a.csv", "code\nC1\nC2\nC3\n");
    office.batch("/recipients/winback/one.csv", "customer_id\nc1\nc2\nc3\n");
    office.batch("/recipients/rest/one.csv", "customer_id\nc1\nc2\n");
    // c1 redeems one and gets another in the month that begins at 05:00 UTC; c2 keeps its own and is not counted again.
    office.drop("/redemptions/one.csv", "A1\nB3\nNOBODYS\n");
    office.shop.wait("2026-12-01T05:00:00Z".parse::<DateTime<Utc>>().unwrap() - office.shop.clock.now());
    office.batch("/recipients/winback/two.csv", "customer_id\nc1\nc2\n");
    // Redeemed in December, handed out in November.
    office.drop("/redemptions/two.csv", "C1\n");
    let rates: Vec<String> = office
        .json(&["banks", "--rates"])
        .as_array()
        .unwrap()
        .iter()
        .map(|rate| {
            let text = |key: &str| rate[key].as_str().unwrap_or("-").to_owned();
            format!(
                "{} {} {} {} {} {} {} {}",
                text("month"),
                text("bank"),
                rate["lot"],
                text("end_date"),
                text("campaign"),
                rate["assigned"],
                rate["redeemed"],
                rate["share"]
            )
        })
        .collect();
    assert_eq!(
        rates,
        [
            "2026-11 autumn 3 - rest 2 1 0.5",
            "2026-11 spring26 1 2026-12-24 winback 2 1 0.5",
            "2026-11 spring26 2 - winback 1 0 0.0",
            "2026-12 spring26 2 - winback 1 0 0.0",
        ]
    );
    assert_eq!(
        office.says(&["banks", "--rates", "--namespace", "acme"]).lines().collect::<Vec<_>>(),
        [
            "month    bank           lot                   campaign  assigned  redeemed  share",
            "2026-11  acme/autumn    all                   all       2         1         50.0 %",
            "2026-11  acme/autumn    3                     rest      2         1         50.0 %",
            "2026-11  acme/spring26  all                   all       3         1         33.3 %",
            "2026-11  acme/spring26  1 (until 2026-12-24)  winback   2         1         50.0 %",
            "2026-11  acme/spring26  2                     winback   1         0         0.0 %",
            "2026-12  acme/spring26  all                   all       1         0         0.0 %",
            "2026-12  acme/spring26  2                     winback   1         0         0.0 %",
        ]
    );
}

#[test]
fn who_was_left_out_is_told_too() {
    let office = Office::new();
    office.drop("/coupons/autumn/a.csv", "code\nA1\n");
    office.batch("/recipients/rest/list.csv", "customer_id\nalice\nbob\n");
    let bob = office.customer("bob");
    assert_eq!(told(&bob), ["left out batch 1 list.csv:3: SHORT_STOCK: 2 codes were needed and `autumn` had 1"]);
    assert!(bob.now.is_empty());
    let expected = "\
holds A1 of autumn, no end date
when                     what  code       customer  where                                  why
2026-11-25 07:00:00 EST  new   autumn/A1  alice     batch 1 of rest, upload 2 list.csv     held no code of `autumn`
";
    let drawn = office.says(&["customer", "alice", "--namespace", "acme", "--quick"]);
    let narrow = |text: &str| text.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>();
    assert_eq!(narrow(&drawn), narrow(expected), "{drawn}");
    let code = office.json(&["code", "A1", "--namespace", "acme"]);
    assert_eq!(code["steps"][1]["file"]["line"], 2, "{code:#}");
    let drawn = office.says(&["code", "A1", "--namespace", "acme"]);
    assert!(drawn.starts_with("A1 in autumn: held by alice, no end date\n"), "{drawn}");
}

#[test]
fn a_code_that_came_back_has_several_turns() {
    let office = Office::new();
    let codes = office.drop("/coupons/daily/a.csv", "code\nD1\nD2\n");
    office.batch("/recipients/daily/one.csv", "customer_id\nalice\nbob\n");
    office.shop.wait(TimeDelta::minutes(10));
    office.drop("/recipients/daily/one.1.not-sent.csv", "customer_id\nalice\n");
    assert_eq!(office.code("D1").now[0].state, "in stock");
    assert!(office.customer("alice").now.is_empty());
    office.shop.wait(TimeDelta::minutes(10));
    office.batch("/recipients/daily/two.csv", "customer_id\nbob\n");
    // Handed out three times, once in vain.
    let rates = office.with(|desk| desk.rates().unwrap());
    assert_eq!(rates.iter().map(|rate| (rate.assigned, rate.redeemed)).collect::<Vec<_>>(), [(2, 0)]);
    assert_eq!(
        told(&office.code("D1")),
        [
            "uploaded a.csv:2: without end date; place 1 of 2 in lot 1",
            "new batch 1 one.csv:2: `daily` gives a new code in every batch",
            "came back batch 1 one.1.not-sent.csv: the customer was not reached: in stock again",
            "new batch 2 two.csv:2: `daily` gives a new code in every batch",
        ]
    );
    let bob = office.customer("bob");
    assert_eq!(bob.now.iter().map(|held| held.code.as_str()).collect::<Vec<_>>(), ["D2", "D1"]);
    assert_eq!(office.code("D2").now[0].state, "held", "a bank that gives a new code each time replaces none");
    office.with(|desk| desk.erase("alice")).unwrap();
    assert!(office.code("D1").steps.iter().all(|step| step.customer.as_deref() != Some("alice")));
    office.drop("/recipients/daily/two.2.not-sent.csv", "customer_id\nbob\n");
    let lots = office.with(|desk| desk.undo(codes)).unwrap();
    let counts = (lots[0].added, lots[0].voided, lots[0].handed_out, lots[0].redeemed);
    assert_eq!((counts, office.shop.remaining("daily")), ((2, 1, 1, 0), 0));
}

#[test]
fn an_erased_customer_leaves_the_counts() {
    let office = Office::new();
    office.drop("/coupons/spring26/a.csv", "code\nA1\nA2\nA3\n");
    office.drop("/coupons/autumn/a.csv", "code\nB1\n");
    office.batch("/recipients/winback/one.csv", "customer_id\nalice\nbob\n");
    office.batch("/recipients/rest/one.csv", "customer_id\nbob\nalice\n");
    let before = office.json(&["batch"]);
    let (code, error) = office.fails(&["customer", "alice", "--namespace", "acme", "--erase"]);
    assert!(code == 1 && error.contains("add `--yes`"), "{error}");
    assert_eq!(office.fails(&["customer", "alice", "--namespace", "acme", "--yes"]).0, 2);
    let erased = office.json(&["customer", "alice", "--namespace", "acme", "--erase", "--yes"]);
    assert_eq!((erased["assignments"].as_i64(), erased["left_out"].as_i64()), (Some(1), Some(1)), "{erased:#}");
    refused(office.with(|desk| desk.customer("alice", None)), "find the customer");
    refused(office.with(|desk| desk.erase("alice")), "find the customer");
    let token = erased["token"].as_str().unwrap();
    assert_eq!(office.code("A1").now[0].customer.as_deref(), Some(token));
    assert_eq!(office.customer(token).steps.len(), 2);
    assert_eq!((office.json(&["batch"]), office.shop.remaining("spring26")), (before, 1));
    // The code stays taken, bob keeps his, and the id is a new customer from now on.
    office.shop.wait(TimeDelta::hours(1));
    office.batch("/recipients/winback/two.csv", "customer_id\nbob\nalice\n");
    assert_eq!(office.customer("bob").steps.iter().filter(|step| step.what == "kept").count(), 1);
    assert_eq!(office.customer("alice").now[0].code, "A3");
}

#[test]
fn a_batch_is_corrected_without_an_erased_customer() {
    let office = Office::new();
    office.drop("/coupons/spring26/a.csv", "code\nA1\nA2\n");
    office.batch("/recipients/winback/one.csv", "customer_id\nalice\nbob\n");
    let file = office.shop.layout().assignments(&Name::parse("winback").unwrap()).join("one.1.corrections.csv");
    let redeem = |name: &str, code: &str| {
        office.shop.wait(TimeDelta::minutes(10));
        office.drop(&format!("/redemptions/{name}"), code);
        let _ = office.outbound.tick();
        let text = fs::read_to_string(&file).unwrap();
        text.lines().skip(1).map(|line| line.split(',').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(redeem("one.csv", "A1\n"), ["alice"]);
    office.with(|desk| desk.erase("alice")).unwrap();
    assert_eq!(redeem("two.csv", "A2\n"), ["bob"]);
}

#[test]
fn nobody_is_erased_while_a_batch_is_being_exported() {
    let office = Office::new();
    office.drop("/coupons/spring26/a.csv", "code\nA1\n");
    office.batch("/recipients/winback/one.csv", "customer_id\nalice\n");
    // A second batch stops between assignment and export: its directory is in the way.
    let blocked = office.shop.layout().assignments(&Name::parse("winback").unwrap());
    fs::rename(&blocked, blocked.with_extension("aside")).unwrap();
    fs::write(&blocked, "").unwrap();
    office.shop.wait(TimeDelta::hours(1));
    office.batch("/recipients/winback/two.csv", "customer_id\nalice\n\n");
    assert_eq!(office.json(&["batch", "show", "2"])["state"], "assigned");
    refused(office.with(|desk| desk.erase("alice")), "batch 2 is being exported");
    fs::remove_file(&blocked).unwrap();
    fs::rename(blocked.with_extension("aside"), &blocked).unwrap();
    office.shop.wait(TimeDelta::hours(1));
    let _ = office.outbound.tick();
    assert_eq!(office.json(&["batch", "show", "2"])["state"], "exported");
    assert_eq!(office.with(|desk| desk.erase("alice")).unwrap().assignments, 1);
}

#[test]
fn a_file_is_imported_without_a_daemon() {
    let office = Office::new();
    let file = |name: &str, content: &str| {
        let path = office.shop.directory.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let codes = file("codes.csv", "code\nA1\nA 2\n");
    let import = |more: &[&str]| office.run(&[&["import"], more, &["--namespace", "acme"]].concat());
    let trial = import(&["coupons", &codes, "--bank", "spring26", "--check"]);
    assert!(
        trial.status.success() && String::from_utf8_lossy(&trial.stdout).starts_with("upload 1: codes.csv checked\n")
    );
    assert_eq!(office.shop.remaining("spring26"), 0);
    let done = import(&["coupons", &codes, "--bank", "spring26", "--until", "2099-12-31"]);
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(
        said.lines().take(3).collect::<Vec<_>>(),
        [
            "upload 2: codes.until-2099-12-31.csv applied",
            "rows: 2 read, 1 accepted, 1 rejected, 0 duplicate, 0 unknown",
            "bank spring26: 0 before, 1 after",
        ]
    );
    assert_eq!(office.json(&["banks"])[2]["end_date"], "2099-12-31");
    assert!(import(&["coupons", &codes, "--bank", "spring26"]).status.success(), "a duplicate is no error");
    assert_eq!(office.state(3), "duplicate");
    // Refused: exit 1, with the reason.
    let wrong = file("wrong.csv", "bank_name;code\nspring26;A1\n");
    let refused = import(&["coupons", &wrong]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stdout).contains("why: BAD_COLUMN_DELIMITER: "));
    let list = file("list.csv", "customer_id\nalice\n");
    let listed = import(&["recipients", &list, "--campaign", "winback", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!((listed["state"].as_str(), listed["target"].as_str()), (Some("applied"), Some("winback")));
    // What cannot be: nothing is received.
    for (more, code, why) in [
        (&["recipients", &list][..], 2, "say for which campaign"),
        (&["recipients", &list, "--campaign", "nobody"], 1, "has no campaign `nobody`"),
        (&["coupons", &codes, "--bank", "nobody"], 1, "has no bank `nobody`; there is autumn, daily, spring26"),
        (&["redemptions", &codes, "--bank", "spring26"], 2, "redemptions hold for every bank"),
        (&["redemptions", &codes, "--until", "2099-12-31"], 2, "only coupons have an end date"),
        (&["coupons", &codes, "--until", "soon"], 2, "write the date as YYYY-MM-DD"),
        (&["coupons", "/nowhere/codes.csv"], 1, "import `/nowhere/codes.csv`"),
        (&["coupons", "/"], 1, "must be UTF-8"),
    ] {
        let output = import(more);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && errors.contains(why), "{more:?}: {errors}");
    }
    assert_eq!(office.json(&["uploads"]).as_array().unwrap().len(), 5);
    assert_eq!(fs::read_dir(office.shop.layout().incoming()).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(&codes).unwrap(), "code\nA1\nA 2\n", "the file stays where it is");
}

/// A running daemon on the workshop's store; ends with the test.
struct Daemon(Child);

impl Daemon {
    fn start(office: &Office) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = fs::read_to_string(office.config()).unwrap();
        fs::write(
            office.config(),
            text.replace("[http]\nlisten = \"127.0.0.1:0\"", &format!("[http]\nlisten = \"127.0.0.1:{port}\"")),
        )
        .unwrap();
        let mut child =
            command().arg("serve").arg("--config").arg(office.config()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = child.try_wait().unwrap() {
                let errors = std::io::read_to_string(child.stderr.take().unwrap().take(10_000)).unwrap();
                panic!("the daemon ended with {status}: {errors}");
            }
            assert!(Instant::now() < deadline, "the daemon did not start");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Self(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_running_daemon_does_the_work() {
    let office = Office::new();
    let damaged = office.drop("/coupons/spring26/a.csv.gz", DAMAGED);
    fs::write(office.shop.layout().quarantine().join(damaged.to_string()), "code\nQ1\n").unwrap();
    let _daemon = Daemon::start(&office);
    assert!(office.says(&["status"]).starts_with("daemon: runs\n"));
    let path = office.shop.directory.path().join("codes.csv");
    fs::write(&path, "code\nA1\nA2\n").unwrap();
    let imported =
        office.json(&["import", "coupons", path.to_str().unwrap(), "--namespace", "acme", "--bank", "spring26"]);
    assert_eq!(imported["state"], "applied", "{imported:#}");
    office.says(&["quarantine", "release", &damaged.to_string()]);
    let list = office.shop.directory.path().join("list.csv");
    fs::write(&list, "customer_id\nalice\n").unwrap();
    office.says(&["import", "recipients", list.to_str().unwrap(), "--namespace", "acme", "--campaign", "nightly"]);
    assert!(office.says(&["batch", "run", "nightly"]).starts_with("due now: batch 1\n"));
    let deadline = Instant::now() + Duration::from_secs(60);
    while office.state(damaged) != "applied" || office.json(&["batch", "show", "1"])["state"] != "exported" {
        assert!(Instant::now() < deadline, "{} {}", office.state(damaged), office.says(&["batch"]));
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert_eq!(office.shop.remaining("spring26"), 2);
}

#[test]
fn a_contract_is_written_from_the_settings() {
    let office = Office::new();
    let contract = office.says(&["contract", "acme"]);
    for line in [
        "# File contract: acme",
        "Dates and times are those of America/New_York.",
        "| `acme-feed` | coupons, redemptions | password | anywhere |",
        "| `/coupons/spring26/` | in | codes for `spring26` |",
        "| `/assignments/nightly/` | out | assignment files |",
        "| file as sent | 4 GiB |",
        "| `spring26` | customers, by campaign | keeps a code until it is redeemed or ends | `other` |",
        "| `rest` | `autumn` | email | when a list arrives | the first rows get one, the others are listed | `.csv` |",
        "| `nightly` | `spring26` | email | `0 0 2 * * *` (cron with seconds) | waits for a refill | `.csv` |",
        "Encryption is welcome and not required. The certificate is `/openpgp/coupond.asc`.",
    ] {
        assert!(contract.lines().any(|there| there == line), "{line} in {contract}");
    }
    for reason in Reason::EVERY {
        assert!(contract.contains(&format!("| `{reason}` | {} |", reason.means())), "{reason}");
    }
    assert_eq!(office.fails(&["contract", "nobody"]).0, 1);
}

#[test]
fn keys_are_listed_exported_and_made() {
    let office = Office::new();
    let listed = office.json(&["keys"]);
    let fingerprint = office.shop.inbound.keyring.fingerprints().remove(0);
    assert_eq!(listed[0]["fingerprint"], fingerprint.as_str());
    assert!(office.says(&["keys", "export"]).starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----"));
    let (code, error) = office.fails(&["keys", "export", "--host"]);
    assert!(code == 1 && error.contains("at its first start"), "{error}");
    let file = office.shop.directory.path().join("2027.key");
    let made = office.says(&["keys", "generate", file.to_str().unwrap()]);
    assert!(made.contains("put it first in `secret_keys`"));
    assert_eq!(
        fs::metadata(&file).map(|made| std::os::unix::fs::PermissionsExt::mode(&made.permissions()) & 0o777).unwrap(),
        0o600
    );
    assert_eq!(office.fails(&["keys", "generate", file.to_str().unwrap()]).0, 1, "a key is never overwritten");
}

#[test]
fn a_wrong_configuration_is_78_and_every_command_has_examples() {
    let office = Office::new();
    fs::write(office.config(), "state_dir = 7\n").unwrap();
    for arguments in [
        &["status"][..],
        &["uploads"],
        &["quarantine"],
        &["batch"],
        &["code", "A", "--namespace", "acme"],
        &["customer", "a", "--namespace", "acme"],
        &["keys"],
        &["contract", "acme"],
        &["import", "coupons", "a.csv", "--namespace", "acme"],
    ] {
        assert_eq!(office.fails(arguments).0, 78, "{arguments:?}");
        let help = command().args([arguments[0], "--help"]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains("Examples:\n"), "{help}");
    }
}
