//! The rules for batches, from files that clients drop to what stands in assignment files: one test for each rule that a
//! change could break without anybody noticing.

use std::fs;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use coupond::bank::window;
use coupond::outbound::{KeyedDoors, Outbound};
use coupond::store::ledger::batches::{BatchFilter, ListedBatch};
use rustix::process::Signal;

use crate::harness::daemon::Daemon;
use crate::harness::until;
use crate::harness::workshop::{Workshop, acme};

/// A workshop whose batches run when they are told to.
struct Scene {
    shop: Workshop,
    outbound: Outbound,
}

impl Scene {
    fn new(namespace: &str) -> Self {
        let shop = Workshop::new(namespace);
        let doors = Arc::new(KeyedDoors {
            keyring: Arc::clone(&shop.inbound.keyring),
            live: shop.live.clone(),
            clock: shop.clock.clone(),
        });
        let outbound = Outbound::new(shop.store.clone(), shop.live.clone(), shop.clock.clone(), doors.clone(), doors);
        Self { shop, outbound }
    }

    fn at(&self, instant: DateTime<Utc>) {
        self.shop.wait(instant - self.shop.clock.now());
    }

    fn drop(&self, path: &str, content: &str) -> i64 {
        let report = self.shop.drop(path, content);
        assert_eq!(report["status"], "applied", "{path}: {report:#}");
        report["upload_id"].as_i64().unwrap()
    }

    /// Drops a list of these customers (separated by blanks), runs its batch, and returns `customer code outcome` of every row;
    /// `customer reason` of those who got no code; nothing while it waits.
    fn batch(&self, campaign: &str, customers: &str) -> Vec<String> {
        let list = format!("customer_id\n{}\n", customers.replace(' ', "\n"));
        let upload = self.drop(&format!("/recipients/{campaign}/list{}.csv", self.uploads()), &list);
        self.tick();
        self.rows(campaign, upload)
    }

    fn uploads(&self) -> usize {
        fs::read_dir(self.shop.layout().archive()).map_or(0, Iterator::count)
    }

    fn tick(&self) {
        let _ = self.outbound.tick();
    }

    fn batches(&self) -> Vec<ListedBatch> {
        let namespace = self.shop.store.namespace_id(&acme()).unwrap();
        self.shop.store.list_batches(namespace, &BatchFilter { limit: 100, ..BatchFilter::default() }).unwrap()
    }

    fn rows(&self, campaign: &str, upload: i64) -> Vec<String> {
        let directory = self.shop.layout().root().join("assignments").join(campaign);
        let batch = self.batches().into_iter().find(|batch| batch.upload_id == upload).unwrap();
        let mut rows = Vec::new();
        for extension in ["csv", "unassigned.csv"] {
            let stem = batch.list_name.split('.').next().unwrap();
            let Ok(text) = fs::read_to_string(directory.join(format!("{stem}.{}.{extension}", batch.id))) else {
                continue;
            };
            rows.extend(text.lines().skip(1).map(|line| {
                let cells: Vec<&str> = line.split(',').collect();
                match *cells.as_slice() {
                    [customer, _, code, _, outcome] => format!("{customer} {code} {outcome}"),
                    _ => cells.join(" "),
                }
            }));
        }
        rows
    }

    fn remaining(&self, bank: &str) -> i64 {
        let settings = self.shop.live.current();
        let open_on = window::open_on(self.shop.clock.now(), settings.namespaces[&acme()].timezone);
        let stock = self.shop.store.stock(self.shop.store.namespace_id(&acme()).unwrap(), open_on).unwrap();
        stock.iter().filter(|stock| stock.bank == bank).map(|stock| stock.remaining).sum()
    }
}

fn instant(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// A code is kept, handed out and counted until the last second of its end date where the namespace is, and not a second
/// longer; whatever the clocks do that night.
#[track_caller]
fn check_window(zone: &str, end_date: &str, end: &str) {
    let scene = Scene::new(&format!(
        "timezone = \"{zone}\"\n[banks.b]\n[campaigns.c]\nbank = \"b\"\nchannel = \"email\"\nschedule = \"on-arrival\"\n\
         when_short = \"partial\"\n"
    ));
    let context = format!("{zone} {end_date}");
    scene.at(instant(end) - TimeDelta::hours(30));
    scene.drop(&format!("/coupons/b/codes.until-{end_date}.csv"), "A1\nA2\nA3\n");
    assert_eq!(scene.batch("c", "holder"), ["holder A1 new"], "{context}");
    scene.at(instant(end) - TimeDelta::seconds(1));
    assert_eq!(scene.remaining("b"), 2, "{context}");
    assert_eq!(scene.batch("c", "holder other"), ["holder A1 kept", "other A2 new"], "{context}");
    scene.at(instant(end));
    assert_eq!(scene.remaining("b"), 0, "{context}");
    assert_eq!(scene.batch("c", "holder third"), ["holder SHORT_STOCK", "third SHORT_STOCK"], "{context}");
    scene.drop("/coupons/b/more.csv", "B1\nB2\n");
    assert_eq!(scene.batch("c", "holder later"), ["holder B1 replaced_lapsed", "later B2 new"], "{context}");
}

#[test]
fn windows_end_with_the_local_midnight() {
    // Without summer time, east and west.
    check_window("UTC", "2026-03-08", "2026-03-09T00:00:00Z");
    check_window("Asia/Kathmandu", "2026-03-08", "2026-03-08T18:15:00Z");
    check_window("America/Phoenix", "2026-03-08", "2026-03-09T07:00:00Z");
    // The day on which the clocks go forward has 23 hours, the one on which they go back has 25.
    check_window("America/New_York", "2026-03-08", "2026-03-09T04:00:00Z");
    check_window("America/New_York", "2026-11-01", "2026-11-02T05:00:00Z");
    check_window("Europe/Berlin", "2026-03-29", "2026-03-29T22:00:00Z");
    check_window("Europe/Berlin", "2026-10-25", "2026-10-25T23:00:00Z");
    // The day before either.
    check_window("Europe/Berlin", "2026-03-28", "2026-03-28T23:00:00Z");
    check_window("Europe/Berlin", "2026-10-24", "2026-10-24T22:00:00Z");
    // Midnight is jumped over; midnight comes twice.
    check_window("Africa/Cairo", "2026-04-23", "2026-04-23T22:00:00Z");
    check_window("America/Havana", "2026-10-31", "2026-11-01T04:00:00Z");
}

const TWO_BANKS: &str = r#"
[banks.keep]
[banks.once]
persistent = false
[banks.home]
audience = "site"
persistent = false
[campaigns.mail]
bank = "keep"
channel = "email"
schedule = "on-arrival"
when_short = "partial"
[campaigns.text]
bank = "keep"
channel = "sms"
schedule = "on-arrival"
[campaigns.daily]
bank = "once"
channel = "email"
schedule = "on-arrival"
when_short = "partial"
"#;

/// Whoever redeems the code of one bank cannot use that of the other: the shop knows a code, not a bank.
#[test]
fn a_code_of_two_banks_is_redeemed_in_both() {
    let scene = Scene::new(TWO_BANKS);
    scene.drop("/coupons/all.csv", "bank_name,code\nkeep,X1\nkeep,K2\nonce,X1\nonce,X2\nonce,X3\nhome,X2\n");
    assert_eq!(scene.batch("daily", "c1"), ["c1 X1 new"]);
    // Neither bank takes a code out of the other by handing it out.
    assert_eq!(scene.batch("mail", "c9"), ["c9 K2 new"], "by code, not by line");
    assert_eq!(scene.remaining("keep"), 1);
    scene.drop("/redemptions/used.csv", "X1\nX2\n");
    assert_eq!((scene.remaining("keep"), scene.remaining("once"), scene.remaining("home")), (0, 1, 0));
    assert_eq!(scene.batch("mail", "c9 c2"), ["c9 K2 kept", "c2 SHORT_STOCK"]);
    assert_eq!(scene.batch("daily", "c1 c2"), ["c1 X3 new", "c2 SHORT_STOCK"]);
}

/// What was undone is not handed out any more, and stays with whoever has it.
#[test]
fn a_void_lot_gives_nothing_and_takes_nothing_away() {
    let scene = Scene::new(TWO_BANKS);
    let undone = scene.drop("/coupons/keep/first.until-2026-12-24.csv", "A1\nA2\nA3\n");
    scene.drop("/coupons/keep/second.csv", "B1\nB2\n");
    assert_eq!(scene.batch("mail", "c1"), ["c1 A1 new"]);
    let namespace = scene.shop.store.namespace_id(&acme()).unwrap();
    scene.shop.store.void_upload(namespace, undone, scene.shop.clock.now()).unwrap();
    assert_eq!(scene.remaining("keep"), 2);
    assert_eq!(scene.batch("mail", "c1 c2 c3 c4"), ["c1 A1 kept", "c2 B1 new", "c3 B2 new", "c4 SHORT_STOCK"]);
    // Redeemed or lapsed it is replaced like any other.
    scene.drop("/redemptions/used.csv", "A1\n");
    scene.drop("/coupons/keep/third.csv", "C1\n");
    assert_eq!(scene.batch("mail", "c1 c5"), ["c1 C1 replaced_redeemed", "c5 SHORT_STOCK"]);
}

#[test]
fn the_bank_of_the_site_takes_no_batch() {
    let scene = Scene::new(TWO_BANKS);
    scene.drop("/coupons/home/codes.csv", "H1\nH2\nH3\n");
    scene.drop("/redemptions/used.csv", "H1\n");
    assert_eq!(scene.remaining("home"), 2, "uploads, redemptions and counts work");
    // A campaign on it is refused when the configuration is read; one that came by another way makes no batch.
    let mut settings = (*scene.shop.live.current()).clone();
    let namespace = settings.namespaces.get_mut(&acme()).unwrap();
    let home = namespace.banks.keys().find(|name| name.as_str() == "home").unwrap().clone();
    namespace.campaigns.values_mut().for_each(|campaign| campaign.bank = home.clone());
    scene.shop.live.replace(settings);
    scene.drop("/recipients/mail/list.csv", "customer_id\nc1\n");
    scene.tick();
    assert!(scene.batches().is_empty());
    assert_eq!(scene.remaining("home"), 2);
}

/// The same list on the same day is an accident; on the next day it is the next send, and who holds a code keeps it.
#[test]
fn a_list_that_repeats_is_a_batch_from_the_next_day_on() {
    let scene = Scene::new(TWO_BANKS);
    scene.drop("/coupons/keep/codes.csv", "A1\nA2\nA3\n");
    scene.drop("/coupons/once/codes.csv", "B1\nB2\nB3\nB4\n");
    for (campaign, second) in [("mail", ["c1 A1 kept", "c2 A2 kept"]), ("daily", ["c1 B3 new", "c2 B4 new"])] {
        let (path, list) = (format!("/recipients/{campaign}/list.csv"), "customer_id\nc1\nc2\n");
        let made = || scene.batches().len();
        scene.drop(&path, list);
        scene.tick();
        let before = made();
        for name in [path.clone(), format!("/recipients/{campaign}/renamed.csv")] {
            assert_eq!(scene.shop.drop(&name, list)["status"], "duplicate", "{name}");
        }
        scene.tick();
        assert_eq!(made(), before, "{campaign}: no second batch on the same day");
        scene.shop.wait(TimeDelta::days(1));
        let again = scene.drop(&path, list);
        scene.tick();
        assert_eq!(scene.rows(campaign, again), second);
        assert_eq!(made(), before + 1);
    }
    assert_eq!((scene.remaining("keep"), scene.remaining("once")), (1, 0));
}

/// Two channels of one bank that persists per customer: the same code in both, whichever batch comes first.
#[test]
fn two_campaigns_of_a_bank_share_a_customers_code() {
    let scene = Scene::new(TWO_BANKS);
    scene.drop("/coupons/keep/codes.csv", "A1\nA2\nA3\n");
    assert_eq!(scene.batch("mail", "c1 c2"), ["c1 A1 new", "c2 A2 new"]);
    assert_eq!(scene.batch("text", "c2 c3"), ["c2 A2 kept", "c3 A3 new"]);
    assert_eq!(scene.batch("mail", "c3 c1"), ["c3 A3 kept", "c1 A1 kept"]);
}

const CHANGED: &str =
    "[users.acme-feed]\nrole = \"client\"\npublic_keys = [\"@acme-feed@\"]\n[banks.keep]\npersistent = ";

/// A bank that hands out codes for keeps cannot become one that does not: customers were promised something.
#[test]
fn a_changed_persistence_is_refused_at_reload_and_at_start() {
    let mut daemon = Daemon::serve(&[("acme", &format!("{CHANGED}true\n"))]);
    daemon.configure("acme", &format!("{CHANGED}false\n"));
    let reload = |daemon: &Daemon, words: &str| {
        let from = daemon.log().len();
        daemon.signal(Signal::HUP);
        until(words, || {
            daemon
                .log()
                .get(from..)
                .unwrap_or_default()
                .lines()
                .find(|line| line.contains(words))
                .map(ToOwned::to_owned)
        })
    };
    let stored =
        |daemon: &Daemon| daemon.rows("SELECT persistent FROM bank WHERE name = 'keep'")[0]["persistent"] == true;
    // Until its first code it may change as it likes.
    reload(&daemon, "Took over the new configuration");
    assert!(!stored(&daemon));
    daemon.configure("acme", &format!("{CHANGED}true\n"));
    reload(&daemon, "Took over the new configuration");
    daemon.client("acme-feed").send("codes.csv", "A1\nA2\n", "/coupons/keep");
    daemon.configure("acme", &format!("{CHANGED}false\n"));
    let line = reload(&daemon, "handed out under `persistent = true`");
    assert!(line.contains("use bank `keep` with `persistent = false`") && line.contains("new bank"), "{line}");
    assert!(stored(&daemon));
    assert_eq!(daemon.client("acme-feed").send("more.csv", "A3\n", "/coupons/keep")["status"], "applied");
    // Nor does a restart let it through.
    daemon.stop();
    daemon.spawn("");
    assert!(!daemon.wait_ended().success());
    assert!(daemon.log().contains("handed out under `persistent = true`"));
    daemon.configure("acme", &format!("{CHANGED}true\n"));
    daemon.start();
    assert!(stored(&daemon));
}
