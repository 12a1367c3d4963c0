//! What comes back after an export: downloads, and lists of customers who were not reached.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use chrono::TimeDelta;
use coupond::outbound::{Download, KeyedDoors, Outbound, collect};
use coupond::store::pickups::Noted;
use serde_json::{Value, json};

use crate::harness::workshop::{Workshop, acme};

const ACME: &str = r#"
[banks.spring26]
[banks.once]
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
