//! What goes wrong around the flows: files that cannot be taken, directories that cannot be written, files that overtake
//! each other.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use chrono::TimeDelta;
use coupond::inbound::LocalDrops;
use coupond::outbound::{KeyedDoors, Outbound};
use coupond::spool::{Intent, Place, Reception, Sender};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::daemon::Daemon;
use crate::harness::until;
use crate::harness::workshop::{Workshop, acme};

const ACME: &str = r#"
[users.acme-feed]
role = "client"
password_hash = "$argon2id$v=19$m=65536,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$UjpJjnDMHgtZN0tnAmTtuMkyKcOwV0Zgzg3fGlRAe0Y"
[banks.spring26]
[campaigns.winback]
bank = "spring26"
"#;

#[test]
fn a_local_file_that_cannot_be_taken_holds_up_no_other() {
    let shop = Workshop::new(ACME);
    let settings = shop.live.current();
    let drop_directory = shop.layout().drop_directory(&Place::parse("coupons/spring26").unwrap());
    fs::write(drop_directory.join("a.csv"), "A1\n").unwrap();
    fs::write(drop_directory.join("b.csv"), "B1\n").unwrap();
    // Nothing can be moved over a directory, not even by root.
    fs::create_dir(shop.layout().incoming_file(1)).unwrap();
    let mut drops = LocalDrops::new(shop.inbound.metrics.clone());
    let mut look = || {
        shop.wait(TimeDelta::seconds(11));
        drops.take_ready(&shop.store, &settings, shop.clock.now()).unwrap()
    };
    look();
    assert_eq!(look(), 1, "b.csv");
    assert!(drop_directory.join("a.csv").exists() && !drop_directory.join("b.csv").exists());
    assert_eq!(look(), 1, "a.csv is tried again");
    shop.inbound.process_waiting(&|| false).unwrap();
    assert_eq!(shop.remaining("spring26"), 2);
    let namespace = shop.store.namespace_id(&acme()).unwrap();
    assert_eq!(shop.store.unfinished_drops(namespace).unwrap(), Vec::<i64>::new(), "no try leaves a row");
}

#[test]
fn a_local_file_that_is_never_taken_is_said_once_and_counted() {
    let daemon = Daemon::serve(&[("acme", ACME)]);
    let root = daemon.namespace("acme");
    fs::write(root.join("recipients/list.csv"), "customer_id\nc1\n").unwrap();
    fs::write(root.join("redemptions").join(format!("{}\n.csv", "n".repeat(60))), "A1\n").unwrap();
    let metric = |files: u32| {
        let shown = format!("coupond_local_files_left{{namespace=\"acme\"}} {files}\n");
        until(&shown, || daemon.http("/metrics")?.1.contains(&shown).then_some(()));
    };
    metric(2);
    fs::remove_file(root.join("recipients/list.csv")).unwrap();
    metric(1);
    let log = daemon.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("never takes it")).collect();
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told.iter().all(|line| line.contains("WARN") && !line.contains(&"n".repeat(41))), "{told:#?}");
    assert!(told.iter().any(|line| line.contains("campaign's directory")), "{told:#?}");
    assert_eq!(daemon.count("SELECT count(*) FROM upload"), 0);
}

#[test]
fn a_restart_of_the_database_is_no_storm_in_the_log() {
    let mut daemon = Daemon::prepare_private(&[("acme", ACME)]);
    daemon.start();
    let before = daemon.log().len();
    daemon.kill_database();
    until("the server is ready again", || daemon.log()[before..].contains("is ready").then_some(()));
    daemon.wait_ready();
    fs::write(daemon.namespace("acme").join("redemptions/used.csv"), "A1\n").unwrap();
    until("it works again", || (daemon.count("SELECT count(*) FROM redemption") == 1).then_some(()));
    let log = daemon.log();
    let complaints = |level: &str| log[before..].lines().filter(|line| line.trim_start().starts_with(level)).count();
    assert_eq!(complaints("ERROR"), 1, "the server ended, and nothing else:\n{}", &log[before..]);
    assert!(complaints("WARN") <= 3, "at most who was in the midst of a statement:\n{}", &log[before..]);
}

fn reception(shop: &Workshop) -> Reception {
    Reception::new(shop.live.clone(), shop.store.clone(), shop.clock.clone(), Arc::new(|| {})).unwrap()
}

#[test]
fn an_upload_that_never_got_a_file_is_not_shown() {
    let shop = Workshop::new(ACME);
    let sender = Sender { namespace: acme(), user: "acme-feed".into() };
    let place = Place::parse("redemptions").unwrap();
    let create = Intent { create: true, truncate: true, exclusive: false };
    let first = reception(&shop);

    fs::remove_dir(shop.layout().incoming()).unwrap();
    fs::write(shop.layout().incoming(), "in the way").unwrap();
    assert!(first.open(&sender, &place, "full.csv", create).is_err());
    assert_eq!(first.find(&sender, &place, "full.csv").unwrap(), None);

    // A crash of the store may take a row, and give its number again.
    fs::remove_file(shop.layout().incoming()).unwrap();
    fs::create_dir(shop.layout().incoming()).unwrap();
    fs::write(shop.layout().incoming_file(2), "left over").unwrap();
    let receiving = first.open(&sender, &place, "again.csv", create).unwrap();
    assert_eq!((receiving.id(), receiving.size()), (2, 0));
    first.abandon(receiving).unwrap();

    // Killed between row and file: the file is not there, the process's mark is, and nobody locks it.
    let receiving = first.open(&sender, &place, "killed.csv", create).unwrap();
    fs::remove_file(shop.layout().incoming_file(receiving.id())).unwrap();
    drop((receiving, first));
    let namespace = shop.store.namespace_id(&acme()).unwrap();
    let left = shop.store.unfinished_receiving(namespace).unwrap();
    let killed = left.iter().find(|sent| sent.name == "killed.csv").unwrap();
    let token = killed.session.split('/').next().unwrap().to_owned();
    fs::write(shop.live.current().state_dir.join("sessions").join(token), "").unwrap();
    let second = reception(&shop);
    second.recover().unwrap();
    assert_eq!(second.find(&sender, &place, "killed.csv").unwrap(), None);
}

#[test]
fn a_batch_waits_for_redemptions_that_came_before_its_list() {
    let shop = Workshop::new(ACME);
    let doors = Arc::new(KeyedDoors {
        keyring: Arc::clone(&shop.inbound.keyring),
        live: shop.live.clone(),
        clock: shop.clock.clone(),
    });
    let outbound = Outbound::new(shop.store.clone(), shop.live.clone(), shop.clock.clone(), doors.clone(), doors);
    let assigned = |list: &str| {
        let path = shop.layout().assignments(&coupond::config::Name::parse("winback").unwrap()).join(list);
        fs::read_to_string(path).ok()
    };
    shop.drop("/coupons/spring26/a.csv", "A1\nA2\n");
    shop.drop("/recipients/winback/monday.csv", "customer_id\nc1\n");
    let _ = outbound.tick();
    let first = assigned("monday.1.csv").unwrap();
    assert!(first.contains("c1,spring26,A1,,new"), "{first}");

    // A worker is still busy with the redemptions when the list, which came after them, is through.
    shop.receive("/redemptions/used.csv", "A1\n");
    let namespace = shop.store.namespace_id(&acme()).unwrap();
    let now = shop.clock.now();
    assert!(shop.store.claim_upload(namespace, now, now + TimeDelta::seconds(60)).unwrap().is_some());
    shop.wait(TimeDelta::seconds(1));
    shop.drop("/recipients/winback/tuesday.csv", "customer_id\nc1\n\n");
    let again = outbound.tick();
    assert_eq!(assigned("tuesday.2.csv"), None);
    assert!(again <= shop.clock.now() + TimeDelta::seconds(1), "it looks again soon");

    shop.wait(TimeDelta::seconds(61));
    shop.inbound.process_waiting(&|| false).unwrap();
    let _ = outbound.tick();
    let second = assigned("tuesday.2.csv").unwrap();
    assert!(second.contains("c1,spring26,A2,,replaced_redeemed"), "{second}");
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let directory = tempfile::Builder::new().prefix("coupond-demo-test").tempdir_in("/tmp").unwrap();
    // PostgreSQL may run as another user below it.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_coupond"))
        .arg("demo")
        .env("TMPDIR", directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(told.any(|line| line.unwrap().starts_with(" 2  ")), "the daemon runs");
    kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    assert!(!demo.wait().unwrap().success());
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}
