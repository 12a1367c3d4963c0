//! What comes after an export: downloads, lists of customers who were not reached, suspicions, and the end of old files.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use coupond::inbound::report_suspicions;
use coupond::outbound::{Download, KeyedDoors, Outbound, collect};
use coupond::spool::retention::{self, Gone};
use coupond::store::pickups::Noted;
use serde_json::{Value, json};

use crate::harness::workshop::{Workshop, acme};

const ACME: &str = r#"
[banks.spring26]
[banks.once]
persistent = false
[banks.home]
audience = "site"
persistent = false
[campaigns.winback]
bank = "spring26"
channel = "email"
schedule = "on-arrival"
[campaigns.daily]
bank = "once"
channel = "email"
schedule = "on-arrival"
when_short = "partial"
"#;

struct Desk {
    shop: Workshop,
    outbound: Outbound,
}

impl Desk {
    fn new() -> Self {
        let shop = Workshop::new(ACME);
        let doors = Arc::new(KeyedDoors {
            keyring: Arc::clone(&shop.inbound.keyring),
            live: shop.live.clone(),
            clock: shop.clock.clone(),
        });
        let outbound = Outbound::new(shop.store.clone(), shop.live.clone(), shop.clock.clone(), doors.clone(), doors);
        Self { shop, outbound }
    }

    fn tick(&self) {
        self.shop.wait(TimeDelta::seconds(10));
        let _ = self.outbound.tick();
    }

    /// Makes a batch of `list`. Returns its number.
    fn batch(&self, campaign: &str, list: &str) -> i64 {
        let report = self.shop.drop(&format!("/recipients/{campaign}/list.csv"), list);
        assert_eq!(report["status"], "applied", "{report:#}");
        self.tick();
        let newest = self.files(campaign).iter().filter_map(|name| name.split('.').nth(1)?.parse().ok()).max();
        newest.unwrap()
    }

    fn files(&self, campaign: &str) -> BTreeSet<String> {
        let directory = self.shop.layout().root().join("assignments").join(campaign);
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn rows(&self, campaign: &str, name: &str) -> Vec<String> {
        let path = self.shop.layout().root().join("assignments").join(campaign).join(name);
        fs::read_to_string(path).unwrap().lines().skip(1).map(ToOwned::to_owned).collect()
    }

    /// The ledger says where a code came back from.
    fn knows_the_life_of(&self, code: &str, batch: i64) {
        let namespace = self.shop.store.namespace_id(&acme()).unwrap();
        let at = self.shop.store.banked(namespace, &[code.to_owned()]).unwrap().remove(0);
        let back = self.shop.store.returned_code(namespace, &at).unwrap();
        assert_eq!((back[0].batch_id, back[0].customer.as_str(), back[0].campaign.as_str()), (batch, "c1", "daily"));
        assert!(!self.shop.store.given_code(namespace, &at).unwrap().is_empty());
        self.shop.store.erase_customer(namespace, "c1", "erased-1").unwrap();
        assert_eq!(self.shop.store.returned_code(namespace, &at).unwrap()[0].customer, "erased-1");
        let lots = self.shop.store.void_upload(namespace, at.upload_id, self.shop.clock.now()).unwrap();
        let sum = |of: fn(&coupond::store::ledger::undo::VoidedLot) -> i64| lots.iter().map(of).sum::<i64>();
        assert_eq!((sum(|lot| lot.size), sum(|lot| lot.handed_out), sum(|lot| lot.redeemed)), (4, 3, 1));
    }

    fn suspicions(&self) -> usize {
        let settings = self.shop.live.current();
        report_suspicions(&self.shop.store, &settings, &settings.namespaces[&acme()], self.shop.clock.now()).unwrap()
    }

    fn suspicion(&self, date: &str) -> Vec<String> {
        let path = self.shop.layout().reports().join(format!("suspicion.{date}.csv"));
        fs::read_to_string(path).unwrap().lines().skip(1).map(ToOwned::to_owned).collect()
    }

    /// Deletes what is older than `days`.
    fn sweep(&self, days: u64) -> Gone {
        let namespace = self.shop.store.namespace_id(&acme()).unwrap();
        let keep = Duration::from_secs(days * 24 * 3600);
        retention::sweep(&self.shop.store, &self.shop.layout(), namespace, keep, self.shop.clock.now()).unwrap()
    }

    fn fetch(&self, path: &str) -> Noted {
        let (namespace, at) = (acme(), self.shop.clock.now());
        let download = Download { namespace: &namespace, path: path.as_bytes(), user: "mail", bytes: 7, at };
        collect(&self.shop.store, &download, true).unwrap()
    }
}

fn counts(report: &Value) -> [u64; 5] {
    ["read", "accepted", "rejected", "duplicate", "unknown"].map(|key| report["rows"][key].as_u64().unwrap())
}

fn warnings(report: &Value) -> Vec<&str> {
    report["warnings"].as_array().unwrap().iter().map(|warning| warning["reason"].as_str().unwrap()).collect()
}

#[test]
fn a_batch_is_collected_when_all_that_its_manifest_lists_was_fetched() {
    let desk = Desk::new();
    desk.shop.drop("/coupons/once/a.csv", "A1\n");
    let batch = desk.batch("daily", "customer_id\nc1\nc2\n");
    assert_eq!(desk.files("daily").len(), 3, "short: an unassigned file too");
    let path = |what: &str| format!("/assignments/daily/list.{batch}.{what}");
    assert_eq!(desk.fetch(&path("csv")), Noted::Pickup);
    assert_eq!(desk.fetch(&path("csv")), Noted::Pickup, "twice is recorded twice");
    assert_eq!(desk.fetch(&path("manifest.json")), Noted::Pickup);
    assert_eq!(desk.fetch(&format!("/assignments/winback/list.{batch}.unassigned.csv")), Noted::NoBatch);
    assert_eq!(desk.fetch("/assignments/daily/list.99.unassigned.csv"), Noted::NoBatch);
    assert_eq!(desk.fetch("/reports/list.csv.2.report.json"), Noted::NoBatch);
    assert_eq!(desk.fetch(&path("unassigned.csv")), Noted::Collected);
    assert_eq!(desk.fetch(&path("unassigned.csv")), Noted::Pickup);
    let namespace = desk.shop.store.namespace_id(&acme()).unwrap();
    let pickups = desk.shop.store.pickups(namespace, batch).unwrap();
    let files: Vec<&str> = pickups.iter().map(|pickup| pickup.file.split('.').nth(2).unwrap()).collect();
    assert_eq!(files, ["csv", "csv", "manifest", "unassigned", "unassigned"]);
    assert!(pickups.iter().all(|pickup| pickup.user == "mail" && pickup.bytes == 7));
}

#[test]
fn codes_of_customers_who_were_not_reached_come_back() {
    let desk = Desk::new();
    let list = "customer_id\nc1\nc2\nc3\nc4\n";
    desk.shop.drop("/coupons/once/a.csv", "A1\nA2\nA3\nA4\n");
    let batch = desk.batch("daily", list);
    let given = desk.rows("daily", &format!("list.{batch}.csv"));
    let code = |customer: usize| given[customer - 1].split(',').nth(2).unwrap().to_owned();
    desk.shop.drop("/redemptions/r.csv", code(4));
    assert_eq!(desk.shop.remaining("once"), 0);
    let path = format!("/recipients/daily/list.{batch}.not-sent.csv");

    let checked = desk.shop.drop(&format!("/check{path}"), list);
    assert_eq!((checked["status"].as_str(), counts(&checked)), (Some("checked"), [4, 3, 0, 1, 0]), "{checked:#}");
    assert_eq!(desk.shop.remaining("once"), 0);

    // c4's code was redeemed, c9 was never in the batch, c1 stands twice, one row has no id.
    let report = desk.shop.drop(&path, "customer_id,why\nc1,bounced\nc9,\nc1,\nc4,\n,\nc2,\n");
    assert_eq!(report["status"], "applied", "{report:#}");
    assert_eq!(counts(&report), [6, 2, 2, 2, 0]);
    assert_eq!(warnings(&report), ["ALREADY_REDEEMED", "REPEATED_CUSTOMER"]);
    assert_eq!(report["banks"], json!([{"bank": "once", "before": 0, "after": 2, "accepted": 2}]));
    let rejects = desk.shop.rejects(&report);
    let mut reasons: Vec<(&str, &str)> = rejects.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    reasons.sort_unstable();
    let listed =
        [("3", "NOT_IN_BATCH"), ("4", "REPEATED_CUSTOMER"), ("5", "ALREADY_REDEEMED"), ("6", "EMPTY_CUSTOMER_ID")];
    assert_eq!(reasons, listed);
    assert_eq!(desk.shop.remaining("once"), 2);

    // Again, under another name, with one more: the first come to nothing.
    let again = desk.shop.drop(&path.replace("list.", "more."), "customer_id\nc2\nc3\n");
    assert_eq!((counts(&again), warnings(&again)), ([2, 1, 0, 1, 0], vec!["ALREADY_RETURNED"]));
    assert_eq!(desk.shop.drop(&path, "customer_id\nc2\nc3\n")["status"], "duplicate");

    // What came back is handed out, once, in its order; and may come back once more.
    let next = desk.batch("daily", "customer_id\nc5\nc6\nc7\nc8\n");
    let given: Vec<String> = desk.rows("daily", &format!("list.{next}.csv"));
    assert_eq!(given.len(), 3, "{given:?}");
    let codes: BTreeSet<String> = given.iter().map(|row| row.split(',').nth(2).unwrap().to_owned()).collect();
    assert_eq!(codes, [code(1), code(2), code(3)].into());
    let third = desk.shop.drop(&format!("/recipients/daily/list.{next}.not-sent.csv"), "customer_id\nc5\n");
    assert_eq!((counts(&third), desk.shop.remaining("once")), ([1, 1, 0, 0, 0], 1));
    // A redeemed one leaves stock also from there.
    desk.shop.drop("/redemptions/r2.csv", given[0].split(',').nth(2).unwrap());
    assert_eq!(desk.shop.remaining("once"), 0);
    // A list that reported nobody makes no batch.
    desk.tick();
    assert_eq!(desk.files("daily").iter().filter(|name| name.ends_with("manifest.json")).count(), 2);
    desk.knows_the_life_of(&code(1), batch);
}

#[test]
fn a_code_that_came_back_into_an_undone_lot_may_be_uploaded_again() {
    let desk = Desk::new();
    let codes = "A1\nA2\nA3\n";
    let wrong = desk.shop.drop("/coupons/once/a.until-2026-12-01.csv", codes)["upload_id"].as_i64().unwrap();
    let batch = desk.batch("daily", "customer_id\nc1\nc2\n");
    let given = desk.rows("daily", &format!("list.{batch}.csv"));
    let code = |row: &str| row.split(',').nth(2).unwrap().to_owned();
    desk.shop.drop(&format!("/recipients/daily/list.{batch}.not-sent.csv"), "customer_id\nc1\n");
    assert_eq!(desk.shop.remaining("once"), 2);
    let namespace = desk.shop.store.namespace_id(&acme()).unwrap();
    desk.shop.store.void_upload(namespace, wrong, desk.shop.clock.now()).unwrap();
    assert_eq!(desk.shop.remaining("once"), 0);
    // The one that nobody had, and the one that came back; c2 keeps the third.
    let again = desk.shop.drop("/coupons/once/a.until-2026-12-31.csv", codes);
    assert_eq!((counts(&again), desk.shop.remaining("once")), ([3, 2, 0, 1, 0], 2), "{again:#}");
    assert_eq!(desk.shop.rejects(&again)[0][3], code(&given[1]));
    let next = desk.batch("daily", "customer_id\nc5\nc6\nc7\n");
    let handed: BTreeSet<String> =
        desk.rows("daily", &format!("list.{next}.csv")).iter().map(|row| code(row)).collect();
    assert_eq!(handed.len(), 2);
    assert!(handed.contains(&code(&given[0])) && !handed.contains(&code(&given[1])));
    // It comes back once more, and the list of the first batch has no effect on it.
    let path = |batch| format!("/recipients/daily/list.{batch}.not-sent.csv");
    let more = desk.shop.drop(&path(next), "customer_id\nc5\nc6\n");
    assert_eq!((counts(&more), desk.shop.remaining("once")), ([2, 2, 0, 0, 0], 2));
    let old = desk.shop.drop(&path(batch), "customer_id\nc1\n\n");
    assert_eq!(warnings(&old), ["EMPTY_LINES", "ALREADY_RETURNED"]);
    assert_eq!(desk.shop.remaining("once"), 2);
    // Its life has both lots.
    let settings = desk.shop.live.current();
    let ledger = coupond::ledger::Desk::open(&desk.shop.store, &settings, &acme(), desk.shop.clock.now()).unwrap();
    let life = ledger.code(&code(&given[0]), None).unwrap();
    let what: Vec<(&str, Option<i64>)> =
        life.steps.iter().map(|step| (step.what, step.batch.as_ref().map(|batch| batch.id))).collect();
    assert_eq!(what.iter().filter(|(what, _)| *what == "came back").count(), 2, "{what:?}");
    assert!(what.iter().any(|(_, id)| *id == Some(batch)) && what.iter().any(|(_, id)| *id == Some(next)), "{what:?}");
    assert_eq!(life.now[0].state, "in stock");
}

#[test]
fn a_persistent_bank_answers_and_keeps() {
    let desk = Desk::new();
    desk.shop.drop("/coupons/spring26/a.csv", "A1\nA2\n");
    let batch = desk.batch("winback", "customer_id\nc1\n");
    let path = format!("/recipients/winback/list.{batch}.not-sent.csv");
    let report = desk.shop.drop(&path, "customer_id\nc1\n");
    assert_eq!((report["status"].as_str(), counts(&report)), (Some("applied"), [1, 1, 0, 0, 0]), "{report:#}");
    assert_eq!(warnings(&report), ["HOLD_STAYS"]);
    assert_eq!(desk.shop.remaining("spring26"), 1);
}

#[track_caller]
fn refused(desk: &Desk, path: &str, reason: &str) {
    let report = desk.shop.drop(path, "customer_id\nc1\n");
    assert_eq!((report["status"].as_str(), report["refused"]["reason"].as_str()), (Some("rejected"), Some(reason)));
}

#[test]
fn a_not_sent_list_must_name_an_exported_batch_of_its_campaign() {
    let desk = Desk::new();
    desk.shop.drop("/coupons/once/a.csv", "A1\n");
    let batch = desk.batch("daily", "customer_id\nc1\n");
    refused(&desk, "/recipients/daily/list.99.not-sent.csv", "UNKNOWN_BATCH");
    refused(&desk, &format!("/recipients/winback/list.{batch}.not-sent.csv"), "UNKNOWN_BATCH");
    refused(&desk, "/recipients/daily/list.not-sent.csv", "BAD_NAME_TOKEN");
    let proof = desk.shop.drop("/recipients/daily/try.proof.csv", "customer_id\nc1\nc2\n");
    assert_eq!(proof["status"], "applied");
    desk.tick();
    refused(&desk, &format!("/recipients/daily/try.{}.not-sent.csv", batch + 1), "UNKNOWN_BATCH");
    assert_eq!(desk.shop.remaining("once"), 0);
}

fn numbered(prefix: &str, count: usize) -> String {
    (0..count).map(|number| format!("{prefix}{number}\n")).collect()
}

#[test]
fn what_nobody_should_have_redeemed_is_reported_once_a_day() {
    let desk = Desk::new();
    let coupons = desk.shop.drop("/coupons/once/a.csv", numbered("A", 300))["upload_id"].as_i64().unwrap();
    desk.shop.drop("/coupons/spring26/b.csv", "B1\nB2\n");
    desk.shop.drop("/coupons/home/h.csv", numbered("H", 500));
    let list: String = (0..250).map(|n| format!("c{n}\n")).collect();
    let batch = desk.batch("daily", &format!("customer_id\n{list}"));
    desk.batch("winback", "customer_id\nc1\n");
    desk.shop.wait(TimeDelta::hours(1));
    let rows = desk.rows("daily", &format!("list.{batch}.csv"));
    let given: Vec<&str> = rows.iter().map(|row| row.split(',').nth(2).unwrap()).collect();
    // Few codes that were given, and many of the site's, are nothing to speak of.
    let quiet = format!("{}\n{}", given[..50].join("\n"), numbered("H", 99));
    assert_eq!(desk.shop.drop("/redemptions/quiet.csv", quiet).get("suspicion"), None);
    // A hundred of 250 are; and two that nobody was given. X9 is unknown.
    let left: Vec<String> = (0..300).map(|n| format!("A{n}")).filter(|code| !given.contains(&code.as_str())).collect();
    let loud = format!("{}\nX9\n{}\n{}\n", given[50..150].join("\n"), left[0], left[1]);
    let report = desk.shop.drop("/redemptions/loud.csv", loud);
    let id = report["upload_id"].as_i64().unwrap();
    let row = |reason: &str, count: u32, first: u32, last: u32| {
        json!({"reason": reason, "bank": "once", "lot": 1, "coupons_upload": coupons, "count": count,
            "first_line": first, "last_line": last})
    };
    let expected = json!([row("REDEEMED_UNASSIGNED", 2, 102, 103), row("REDEMPTION_BURST", 102, 1, 103)]);
    assert_eq!(report["suspicion"], expected, "{report:#}");
    desk.shop.wait(TimeDelta::minutes(1));
    let late = desk.shop.drop("/coupons/spring26/late.csv", "X9\nX8\n")["upload_id"].as_i64().unwrap();

    assert_eq!(desk.suspicions(), 0, "the day is not over");
    desk.shop.wait(TimeDelta::hours(12));
    // A file that was received yesterday and has no verdict yet is waited for.
    let namespace = desk.shop.store.namespace_id(&acme()).unwrap();
    assert!(!desk.shop.store.is_open_before(namespace, desk.shop.clock.now()).unwrap());
    assert_eq!(desk.suspicions(), 1);
    assert_eq!(desk.suspicions(), 0, "once");
    assert_eq!(
        desk.suspicion("2026-11-25"),
        [
            format!("REDEEMED_UNASSIGNED,once,1,{coupons},{id},2,102,103"),
            format!("REDEEMED_BEFORE_UPLOAD,spring26,4,{late},{id},1,101,101"),
            format!("REDEMPTION_BURST,once,1,{coupons},{},50,1,50", id - 1),
            format!("REDEMPTION_BURST,once,1,{coupons},{id},102,1,103"),
        ]
    );
    // A quiet day makes no report.
    desk.shop.wait(TimeDelta::days(1));
    assert_eq!(desk.suspicions(), 0);
    assert!(!desk.shop.layout().reports().join("suspicion.2026-11-26.csv").exists());
}

#[test]
fn old_files_go_and_what_is_needed_stays() {
    let desk = Desk::new();
    let names = |directory: std::path::PathBuf| fs::read_dir(directory).unwrap().count();
    desk.shop.drop("/coupons/once/a.csv", "A1\nA2\n");
    desk.shop.drop("/redemptions/r.csv", "Z1,2\n");
    desk.shop.drop("/coupons/once/bad.csv.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03cut");
    let batch = desk.batch("daily", "customer_id\nc1\n");
    // A list that waits for stock, and a file whose verdict is not made.
    let waiting = desk.shop.drop("/recipients/winback/w.csv", "customer_id\nc1\n")["upload_id"].clone();
    desk.tick();
    let received = desk.shop.receive("/coupons/once/later.csv", "A9\n");
    assert_eq!((names(desk.shop.layout().archive()), names(desk.shop.layout().quarantine())), (4, 1));
    assert_eq!(desk.sweep(3), Gone::default());
    desk.shop.wait(TimeDelta::days(1));
    // Kept for no time at all: the originals go, but not the list that corrections may need.
    assert_eq!(desk.sweep(0), Gone { originals: 2, reports: 8, assignments: 0 });
    desk.shop.wait(TimeDelta::days(2));
    assert_eq!(desk.sweep(3), Gone { originals: 1, reports: 0, assignments: 2 });
    assert!(desk.files("daily").is_empty(), "the files of batch {batch}");
    assert_eq!(desk.sweep(3), Gone::default());
    let left = desk.shop.layout().archive();
    assert_eq!((names(left.clone()), names(desk.shop.layout().quarantine())), (1, 1));
    assert!(left.join(waiting.to_string()).exists(), "its batch is not exported");
    assert!(desk.shop.layout().incoming_file(received).exists());
    assert_eq!(names(desk.shop.layout().reports()), 2, "a quarantined file's report stays with it");
    // The list is still there when stock comes.
    desk.shop.drop("/coupons/spring26/b.csv", "B1\n");
    desk.tick();
    assert!(desk.files("winback").iter().any(|name| name.ends_with("manifest.json")));
}
