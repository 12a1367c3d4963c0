//! What a client with OpenSSH's `sftp` and GnuPG, and an admin with two files, go through: points 1 to 4.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::daemon::{Daemon, handed_out};
use crate::harness::gpg::Gpg;
use crate::harness::sftp::{Client, Collected};
use crate::harness::until;

const ACME: &str = r#"
timezone = "America/New_York"
[users.acme-feed]
role = "client"
public_keys = ["@acme-feed@"]
[users.acme-mail]
role = "campaigns"
public_keys = ["@acme-mail@"]
[banks.spring26]
offer_type = "percent_off"
proof_code = "SPRING-EXAMPLE"
[banks.shipping]
persistent = false
offer_type = "free_shipping"
[banks.walkin]
audience = "site"
persistent = false
[campaigns.winback]
bank = "spring26"
channel = "email"
schedule = "on-arrival"
[campaigns.texts]
bank = "shipping"
channel = "sms"
schedule = "*/1 * * * * *"
when_short = "partial"
"#;

fn acme() -> (Daemon, Client, Client) {
    let daemon = Daemon::serve(&[("acme", ACME)]);
    let (feed, mail) = (daemon.client("acme-feed"), daemon.client("acme-mail"));
    (daemon, feed, mail)
}

/// A report without what differs from run to run; every warning as its reason and how often.
fn essence(report: &Value) -> Value {
    let mut report = report.clone();
    let keys = report.as_object_mut().unwrap();
    for instant in ["received_at", "finished_at"] {
        let instant = keys.remove(instant).unwrap();
        instant.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    }
    for of_content in ["sha256", "bytes", "plaintext_bytes"] {
        assert!(keys.remove(of_content).is_some(), "{of_content}");
    }
    let warnings = keys["warnings"].as_array().unwrap();
    let short =
        warnings.iter().map(|warning| json!(format!("{} x{}", warning["reason"].as_str().unwrap(), warning["count"])));
    keys["warnings"] = short.collect();
    report
}

/// `bank end_date size remaining` of every lot, as `coupond banks` tells it.
fn stock(daemon: &Daemon) -> Vec<String> {
    let output = daemon.command(&["banks", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lots: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lots = lots.as_array().unwrap().iter().filter(|lot| lot["size"] != 0);
    lots.map(|lot| {
        let (bank, end) = (lot["bank"].as_str().unwrap(), lot["end_date"].as_str().unwrap_or("-"));
        format!("{bank} {end} {} {}", lot["size"], lot["remaining"])
    })
    .collect()
}

fn recipients(customers: &[&str]) -> String {
    customers
        .iter()
        .fold("customer_id,first_name\n".to_owned(), |list, customer| format!("{list}{customer},N {customer}\n"))
}

fn codes(collected: &Collected) -> BTreeSet<String> {
    collected.lines().iter().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect()
}

/// The client takes the daemon's certificate over SFTP into its own GnuPG.
fn gnupg_of(client: &Client) -> Gpg {
    let gpg = Gpg::new();
    gpg.import(&client.get("/openpgp/coupond.asc"));
    gpg
}

#[test]
fn a_daemon_with_no_database_set_up() {
    let mut daemon = Daemon::prepare_private(&[("acme", ACME)]);
    daemon.start();
    let (feed, mail) = (daemon.client("acme-feed"), daemon.client("acme-mail"));
    let certificate = feed.get("/openpgp/coupond.asc");
    let gpg = gnupg_of(&feed);
    let report = feed.send("codes.csv.pgp", gpg.encrypt("bank_name,code\nspring26,A1\nspring26,A2\n", &[]), "/coupons");
    assert_eq!(report["status"], "applied", "{report:#}");
    mail.put("monday.csv", recipients(&["c1"]), "/recipients/winback");
    let monday = mail.collect("winback", "monday");
    assert_eq!(monday.outcomes(), [("new".to_owned(), 1)].into());
    assert_eq!(stock(&daemon), ["spring26 - 2 1"]);

    // The whole state outlives a kill -9 and an orderly stop.
    daemon.kill();
    daemon.start();
    assert_eq!(feed.get("/openpgp/coupond.asc"), certificate, "the keys are made once");
    assert!(daemon.stop().success());
    assert!(!daemon.log().contains("A1"), "codes are never logged");
    daemon.start();
    mail.put("tuesday.csv", recipients(&["c1", "c2"]), "/recipients/winback");
    let tuesday = mail.collect("winback", "tuesday");
    assert_eq!(tuesday.code("c1"), monday.code("c1"));
    assert_eq!(stock(&daemon), ["spring26 - 2 0"]);
    assert_eq!(daemon.http("/healthz").unwrap().0, 200);
    assert!(daemon.http("/metrics").unwrap().1.contains("coupond_"));
}

#[test]
fn coupons_encrypted_with_bank_name_and_single_columns() {
    let (daemon, feed, _) = acme();
    let gpg = gnupg_of(&feed);
    let several = "bank_name,code\nspring26,A1\nspring26,A2\nshipping,S1\nwalkin,W1\n";
    let report = feed.send("codes.csv.pgp", gpg.encrypt(several, &[]), "/coupons");
    assert_eq!(
        essence(&report),
        json!({
            "status": "applied", "upload_id": 1, "namespace": "acme", "user": "acme-feed", "kind": "coupons",
            "name": "codes.csv.pgp", "dry_run": false, "header": true, "columns": ["bank_name", "code"],
            "rows": {"read": 4, "accepted": 4, "rejected": 0, "duplicate": 0, "unknown": 0},
            "banks": [
                {"bank": "shipping", "before": 0, "after": 1, "accepted": 1},
                {"bank": "spring26", "before": 0, "after": 2, "accepted": 2},
                {"bank": "walkin", "before": 0, "after": 1, "accepted": 1},
            ],
            "warnings": [],
        })
    );
    assert_eq!(feed.rejects(&report), Vec::<Vec<String>>::new());

    let one_column = feed.send("more.csv", "B1\nA2\nB 2\n", "/coupons/spring26");
    assert_eq!(
        essence(&one_column),
        json!({
            "status": "applied", "upload_id": 2, "namespace": "acme", "user": "acme-feed", "kind": "coupons",
            "bank": "spring26", "name": "more.csv", "dry_run": false, "header": false,
            "rows": {"read": 3, "accepted": 1, "rejected": 1, "duplicate": 1, "unknown": 0},
            "banks": [{"bank": "spring26", "before": 2, "after": 3, "accepted": 1}],
            "first_rejects": [{
                "line": 3, "reason": "BAD_CHARACTER",
                "message": "character 2 of the code is a blank; a code is printable ASCII without blanks and without , ; | \"",
            }],
            "warnings": ["DUPLICATE_IN_BANK x1"],
        })
    );
    let rejects = feed.rejects(&one_column);
    let lines: Vec<_> = rejects.iter().map(|row| (row[0].as_str(), row[1].as_str(), row[3].as_str())).collect();
    assert_eq!(
        lines.iter().copied().collect::<BTreeSet<_>>(),
        [("2", "DUPLICATE_IN_BANK", "A2"), ("3", "BAD_CHARACTER", "B 2")].into()
    );

    let dated = feed.send("early.until-2099-06-30.csv", "coupon_code\r\nE1\r\nE2\r\n", "/coupons/spring26");
    assert_eq!(essence(&dated)["warnings"], json!(["CRLF x3"]), "{dated:#}");
    let repeated = feed.send("again.csv", "B1\nA2\nB 2\n", "/coupons/spring26");
    assert_eq!((&repeated["status"], &repeated["repeats_upload"]), (&json!("duplicate"), &json!(2)));
    let checked = feed.send("dry.csv", "X1\n", "/check/coupons/spring26");
    assert_eq!((&checked["status"], &checked["banks"][0]["after"]), (&json!("checked"), &json!(6)));

    assert_eq!(stock(&daemon), ["shipping - 1 1", "spring26 2099-06-30 2 2", "spring26 - 3 3", "walkin - 1 1",]);
    assert_eq!(feed.list("/reports").len(), 10, "a report and a rejects file for every upload");
    daemon.wait_idle();
    daemon.verify_whole("acme");
}

/// Stock with several end dates, and the first list: what ends first goes out first.
fn monday(feed: &Client, mail: &Client) -> Collected {
    feed.send("always.csv", "N1\nN2\nN3\nN4\nN5\n", "/coupons/spring26");
    feed.send("late.until-2099-06-30.csv", "L1\nL2\n", "/coupons/spring26");
    feed.send("soon.until-2098-06-30.csv", "S1\nS2\n", "/coupons/spring26");
    // This lot's window is long over: it must never be handed out.
    let lapsed = feed.send("past.until-2020-01-31.csv", "P1\nP2\nP3\n", "/coupons/spring26");
    assert_eq!(essence(&lapsed)["warnings"], json!(["END_DATE_PASSED x1"]), "{lapsed:#}");

    let five = ["c1", "c2", "c3", "c4", "c5"];
    mail.put("monday.csv", recipients(&five), "/recipients/winback");
    let monday = mail.collect("winback", "monday");
    assert_eq!(monday.outcomes(), [("new".to_owned(), 5)].into());
    let text = String::from_utf8(monday.assignments().to_vec()).unwrap();
    assert_eq!(text.lines().next(), Some("customer_id,first_name,bank_name,code,end_date,outcome"));
    assert!(text.lines().nth(1).unwrap().starts_with("c1,N c1,spring26,"), "{text}");
    let ends: Vec<String> =
        monday.lines().iter().map(|line| line.split(' ').nth(3).unwrap_or("-").to_owned()).collect();
    assert_eq!(ends, ["2098-06-30", "2098-06-30", "2099-06-30", "2099-06-30", "-"], "{:?}", monday.lines());
    assert_eq!(monday.customers(), five, "in the recipients' order");
    assert_eq!(
        manifest(&monday),
        json!({
            "batch": 1, "namespace": "acme", "campaign": "winback", "bank": "spring26", "recipients": "monday.csv",
            "upload_id": 5, "files": ["monday.1.csv"], "redemptions_as_of": null,
        })
    );
    monday
}

/// Redemptions plain, CRLF and armored, with a code that nobody knows, and one that was never assigned: that one is
/// answered.
fn redeem(feed: &Client, monday: &Collected) -> &'static str {
    let never = ["N1", "N2", "N3", "N4", "N5"].into_iter().find(|code| !codes(monday).contains(*code)).unwrap();
    let plain = feed.send("used-1.csv", format!("{}\nNOBODY-KNOWS\n", monday.code("c1")), "/redemptions");
    assert_eq!(plain["rows"], json!({"read": 2, "accepted": 1, "rejected": 0, "duplicate": 0, "unknown": 1}));
    assert_eq!(essence(&plain)["warnings"], json!(["UNKNOWN_CODE x1"]));
    let crlf = feed.send("used-2.csv", format!("code\r\n{}\r\n{never}\r\n", monday.code("c2")), "/redemptions");
    assert_eq!(crlf["banks"], json!([{"bank": "spring26", "before": 4, "after": 3, "accepted": 2, "unassigned": 1}]));
    let gpg = gnupg_of(feed);
    let armored = gpg.encrypt(format!("{}\n", monday.code("c3")), &["--armor"]);
    assert!(armored.starts_with(b"-----BEGIN PGP MESSAGE-----"));
    assert_eq!(feed.send("used-3.csv.asc", armored, "/redemptions")["status"], "applied");
    never
}

#[test]
fn batches_keep_replace_and_draw_in_the_order_of_end_dates() {
    let (daemon, feed, mail) = acme();
    let monday = monday(&feed, &mail);
    let never = redeem(&feed, &monday);

    // Three codes are left for four needs: the batch waits, and goes on by itself after a refill.
    mail.put("tuesday.csv", recipients(&["c5", "c4", "c3", "c2", "c1", "c6"]), "/recipients/winback");
    assert_eq!(mail.report("tuesday.csv")["status"], "applied");
    until("the batch waits", || {
        (daemon.count("SELECT count(*) FROM batch WHERE state = 'waiting'") == 1).then_some(())
    });
    let mut files = mail.list("/assignments/winback");
    files.retain(|name| !name.contains(".corrections."));
    assert_eq!(files.len(), 2, "nothing of a batch that waits");
    feed.send("refill.until-2097-06-30.csv", "R1\nR2\n", "/coupons/spring26");
    let tuesday = mail.collect("winback", "tuesday");
    assert_eq!(
        tuesday.outcomes(),
        [("kept".to_owned(), 2), ("new".to_owned(), 1), ("replaced_redeemed".to_owned(), 3)].into()
    );
    for customer in ["c4", "c5"] {
        assert_eq!(tuesday.code(customer), monday.code(customer));
    }
    for customer in ["c1", "c2", "c3"] {
        assert_ne!(tuesday.code(customer), monday.code(customer));
    }
    let drawn: BTreeSet<String> = codes(&tuesday).difference(&codes(&monday)).cloned().collect();
    assert_eq!(drawn.len(), 4);
    assert!(drawn.contains("R1") && drawn.contains("R2"), "the refill ends first: {drawn:?}");
    assert!(!drawn.contains(never), "a redeemed code is never handed out");
    assert!(!tuesday.manifest["redemptions_as_of"].is_null());

    // The same list again changes nothing for anybody.
    mail.put("wednesday.csv", recipients(&["c1", "c2", "c3", "c4", "c5", "c6"]), "/recipients/winback");
    let wednesday = mail.collect("winback", "wednesday");
    assert_eq!(wednesday.outcomes(), [("kept".to_owned(), 6)].into());
    assert_eq!(codes(&wednesday), codes(&tuesday));
    assert_eq!(
        stock(&daemon),
        [
            "spring26 2020-01-31 3 0",
            "spring26 2097-06-30 2 0",
            "spring26 2098-06-30 2 0",
            "spring26 2099-06-30 2 0",
            "spring26 - 5 1",
        ]
    );
    // What the store keeps: a row for each code that was handed out, none for one that was kept.
    let rows = daemon.rows(
        "SELECT batch_id, draw, outcome, array_agg(customer ORDER BY customer) AS customers, \
         count(*) FILTER (WHERE code LIKE 'P%') AS lapsed FROM assignment GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
    );
    assert_eq!(
        rows,
        [
            json!({"batch_id": 1, "draw": 1, "outcome": 1, "customers": ["c1", "c2", "c3", "c4", "c5"], "lapsed": 0}),
            json!({"batch_id": 2, "draw": 2, "outcome": 1, "customers": ["c6"], "lapsed": 0}),
            json!({"batch_id": 2, "draw": 2, "outcome": 2, "customers": ["c1", "c2", "c3"], "lapsed": 0}),
        ]
    );
    daemon.wait_idle();
    daemon.verify_whole("acme");
}

#[test]
fn a_lot_that_lapses_is_replaced() {
    let (daemon, feed, mail) = acme();
    feed.send("soon.until-2098-06-30.csv", "S1\nS2\n", "/coupons/spring26");
    feed.send("later.csv", "L1\nL2\nL3\n", "/coupons/spring26");
    mail.put("monday.csv", recipients(&["c1", "c2", "c3"]), "/recipients/winback");
    let monday = mail.collect("winback", "monday");
    // Time passes for the first lot only.
    daemon.execute("UPDATE lot SET end_date = '2020-01-31' WHERE end_date IS NOT NULL");
    mail.put("tuesday.csv", recipients(&["c1", "c2", "c3", "c4"]), "/recipients/winback");
    until("the batch waits", || {
        (daemon.count("SELECT count(*) FROM batch WHERE state = 'waiting'") == 1).then_some(())
    });
    feed.send("refill.csv", "R1\nR2\n", "/coupons/spring26");
    let tuesday = mail.collect("winback", "tuesday");
    assert_eq!(
        tuesday.outcomes(),
        [("kept".to_owned(), 1), ("new".to_owned(), 1), ("replaced_lapsed".to_owned(), 2)].into()
    );
    assert_eq!(tuesday.code("c3"), monday.code("c3"));
    assert!(codes(&tuesday).iter().all(|code| !code.starts_with('S')));
    daemon.wait_idle();
    daemon.verify_whole("acme");
}

#[test]
fn scheduled_campaigns_give_new_codes_each_time() {
    let (daemon, feed, mail) = acme();
    let stock: String = (0..7).map(|number| format!("S{number}\n")).collect();
    feed.send("ship.csv", stock, "/coupons/shipping");
    let mut given = BTreeSet::new();
    for day in ["monday", "tuesday"] {
        // A customer twice in one list gets one code.
        mail.put(
            &format!("{day}.csv"),
            format!("customer_id,day\nc1,{day}\nc2,{day}\nc1,{day}\n"),
            "/recipients/texts",
        );
        let collected = mail.collect("texts", day);
        assert_eq!(collected.manifest["rows"]["new"], 3, "{:#}", collected.manifest);
        let lines = collected.lines();
        assert_eq!(lines[0], lines[2]);
        assert!(given.is_disjoint(&codes(&collected)), "a new code each time");
        given.extend(codes(&collected));
        assert_eq!(given.len(), codes(&collected).len() * if day == "monday" { 1 } else { 2 });
    }
    // Three codes are left for five customers: in the file's order, the rest is told why.
    mail.put("friday.csv", recipients(&["d1", "d2", "d3", "d4", "d5"]), "/recipients/texts");
    let friday = mail.collect("texts", "friday");
    assert_eq!(friday.outcomes(), [("new".to_owned(), 3), ("unassigned".to_owned(), 2)].into());
    assert_eq!(friday.customers(), ["d1", "d2", "d3"]);
    let (name, left) = friday.files.iter().find(|(name, _)| name.contains(".unassigned.")).unwrap();
    assert!(name.starts_with("friday.3.unassigned.csv"), "{name}");
    let left = String::from_utf8(left.clone()).unwrap();
    let left: Vec<&str> = left.lines().collect();
    assert_eq!(left[0], "customer_id,first_name,reason");
    assert_eq!((left[1], left[2]), ("d4,N d4,SHORT_STOCK", "d5,N d5,SHORT_STOCK"));
    daemon.wait_idle();
    daemon.verify_whole("acme");
}

#[test]
fn a_batch_is_collected_once_all_of_it_was_downloaded() {
    let (daemon, feed, mail) = acme();
    feed.send("some.csv", "A1\nA2\n", "/coupons/shipping");
    mail.put("monday.csv", recipients(&["c1", "c2", "c3"]), "/recipients/texts");
    let manifest = mail.wait_for("/assignments/texts", "monday.", ".manifest.json");
    let pickups = || {
        let rows = daemon.rows(
            "SELECT p.file, p.user_name, p.bytes, p.fetched_at BETWEEN b.exported_at - interval '1 minute' AND now() AS lately \
             FROM pickup p JOIN batch b ON b.id = p.batch_id ORDER BY p.id",
        );
        assert!(rows.iter().all(|row| row["user_name"] == "acme-mail" && row["lately"] == true), "{rows:#?}");
        rows.iter()
            .map(|row| (row["file"].as_str().unwrap().to_owned(), row["bytes"].as_u64().unwrap()))
            .collect::<Vec<_>>()
    };
    let state = || daemon.rows("SELECT state FROM batch")[0]["state"].as_str().unwrap().to_owned();
    let recorded = |count: usize| until("the downloads are recorded", || (pickups().len() == count).then_some(()));
    // A listing, a look at the sizes, and the first bytes only are no download.
    mail.does(&["ls -l /assignments/texts"]);
    let expected = ["monday.1.csv", "monday.1.unassigned.csv", &manifest];
    let sizes: Vec<u64> =
        expected[..2].iter().map(|name| mail.get(&format!("/assignments/texts/{name}")).len() as u64).collect();
    recorded(2);
    assert_eq!(pickups(), [(expected[0].to_owned(), sizes[0]), (expected[1].to_owned(), sizes[1])]);
    assert_eq!(state(), "exported");
    let size = mail.get(&format!("/assignments/texts/{manifest}")).len() as u64;
    until("the batch is collected", || (state() == "collected").then_some(()));
    assert_eq!(pickups()[2], (manifest.clone(), size));
    assert_eq!(daemon.count("SELECT count(*) FROM batch WHERE collected_at IS NOT NULL"), 1);
    // Another download is another row, and changes nothing else.
    mail.get("/assignments/texts/monday.1.csv");
    recorded(4);
    assert_eq!(state(), "collected");
    let shown = daemon.command(&["batch", "show", "1", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["fetched"].as_array().unwrap().len(), 4, "{shown:#}");
    assert_eq!(shown["fetched"][0]["user"], "acme-mail");
}

#[test]
fn proofs_draw_nothing() {
    let (daemon, feed, mail) = acme();
    feed.send("some.csv", "A1\nA2\n", "/coupons/spring26");
    mail.put("look.proof.csv", recipients(&["t1", "t2", "t3"]), "/recipients/winback");
    let look = mail.collect("winback", "look");
    assert_eq!(look.lines(), ["t1 SPRING-EXAMPLE proof", "t2 SPRING-EXAMPLE proof", "t3 SPRING-EXAMPLE proof"]);
    mail.put("sms.proof.csv", recipients(&["t1"]), "/recipients/texts");
    assert_eq!(mail.collect("texts", "sms").lines(), ["t1 PROOF-SHIPPING proof"]);
    assert_eq!(stock(&daemon), ["spring26 - 2 2"]);
    assert_eq!(daemon.count("SELECT count(*) FROM assignment"), 0);
    daemon.wait_idle();
    daemon.verify_whole("acme");
}

#[test]
fn assignment_files_are_encrypted_to_the_campaign_and_signed() {
    let mailer = Gpg::new();
    let certificate = mailer.make_key("mailer@example.com");
    let mut daemon = Daemon::prepare(&[]);
    std::fs::create_dir(daemon.path("namespaces/keys")).unwrap();
    daemon.write("namespaces/keys/mailer.asc", &certificate);
    let sealed = format!(
        "{ACME}\n[campaigns.sealed]\nbank = \"spring26\"\nchannel = \"email\"\n\
                          schedule = \"on-arrival\"\nwhen_short = \"partial\"\nencrypt_to = \"keys/mailer.asc\"\n"
    );
    daemon.configure("acme", &sealed);
    daemon.start();
    let (feed, mail) = (daemon.client("acme-feed"), daemon.client("acme-mail"));
    feed.send("some.csv", "A1\nA2\n", "/coupons/spring26");
    mail.put("monday.csv", recipients(&["c1", "c2", "c3"]), "/recipients/sealed");
    let monday = mail.collect("sealed", "monday");
    assert_eq!(monday.files.keys().collect::<Vec<_>>(), ["monday.1.csv.pgp", "monday.1.unassigned.csv.pgp"]);
    mailer.import(&mail.get("/openpgp/coupond.asc"));
    let opened = mailer.decrypt(monday.assignments());
    let rows = handed_out(&opened.content);
    assert_eq!(rows.iter().map(|(customer, _, _)| customer.as_str()).collect::<Vec<_>>(), ["c1", "c2"]);
    let left = mailer.decrypt(&monday.files["monday.1.unassigned.csv.pgp"]);
    assert_eq!(String::from_utf8(left.content).unwrap(), "customer_id,first_name,reason\nc3,N c3,SHORT_STOCK\n");
    for status in [opened.status, left.status] {
        assert!(status.contains("GOODSIG") && status.contains("DECRYPTION_OKAY"), "{status}");
    }
    daemon.wait_idle();
    daemon.verify_whole("acme");
}

/// The manifest without times, hashes and counts (which [`Client::collect`] has held against the files).
fn manifest(collected: &Collected) -> Value {
    let mut manifest = collected.manifest.clone();
    let keys = manifest.as_object_mut().unwrap();
    for key in ["rows", "business_date", "send_at", "created_at"] {
        assert!(keys.remove(key).is_some(), "{key}");
    }
    let files = keys["files"].as_array().unwrap().iter().map(|file| file["name"].clone()).collect();
    keys["files"] = files;
    manifest
}
