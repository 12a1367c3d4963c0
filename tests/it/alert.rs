//! Alerts from what happens in the store to what a real mail server took.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use coupond::alert::{Mailer, Timeouts, Watch};
use coupond::config::{DatabaseSettings, MailSettings, Settings};
use coupond::outbound::{Download, KeyedDoors, Outbound, collect};
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use serde_json::Value;

use crate::harness::mail_server::MailServer;
use crate::harness::workshop::{Workshop, acme};

const ACME: &str = r#"
timezone = "America/New_York"
notify = ["marketing@acme.example", "Shop <shop@acme.example>"]
[banks.spring26]
low_stock = 10
[banks.unused]
low_stock = 10
[campaigns.winback]
bank = "spring26"
channel = "email"
schedule = "on-arrival"
"#;

const FROM: &str = "coupond <alerts@coupond.example>";

/// Short enough for a test that waits for each of them.
const TIMEOUTS: Timeouts =
    Timeouts { connect: Duration::from_secs(3), answer: Duration::from_secs(2), delivery: Duration::from_secs(20) };

/// A workshop that is watched, and whose mails go to a server.
struct Rig {
    shop: Workshop,
    server: MailServer,
    watch: Watch,
    mailer: Mailer,
}

impl Rig {
    fn new(namespace: &str) -> Self {
        Self::on(MailServer::start(), namespace)
    }

    fn on(server: MailServer, namespace: &str) -> Self {
        let shop = Workshop::new(namespace);
        let url = format!("smtp://127.0.0.1:{}", server.port());
        let (watch, mailer) = (watch(&shop), mailer(&shop));
        let rig = Self { shop, server, watch, mailer };
        rig.send_to(&url, None);
        rig
    }

    fn configure(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = (*self.shop.live.current()).clone();
        change(&mut settings);
        self.shop.live.replace(settings);
    }

    fn send_to(&self, url: &str, password: Option<&str>) {
        let password_file: Option<PathBuf> = password.map(|password| {
            self.server.behave("password", &format!("{password}\nsecond line\n"));
            self.server.directory().join("password")
        });
        let mail = MailSettings { url: url.to_owned(), from: FROM.to_owned(), password_file };
        self.configure(|settings| settings.mail = Some(mail));
    }

    fn look(&self) {
        self.watch.tick(&|| false).unwrap();
    }

    fn send(&mut self) -> Option<DateTime<Utc>> {
        self.mailer.tick(&|| false).unwrap()
    }

    /// Looks, sends, and returns what came new.
    fn new_mails(&mut self) -> Vec<Value> {
        let before = self.server.mails().len();
        self.look();
        self.send();
        self.server.mails().split_off(before)
    }

    /// The subjects of what came new for the first recipient.
    fn new_subjects(&mut self) -> Vec<String> {
        let mails = self.new_mails();
        let first = mails.iter().filter(|mail| mail["to"] == "marketing@acme.example");
        first.map(|mail| mail["subject"].as_str().unwrap().replace("[coupond acme] ", "")).collect()
    }

    fn connection(&self) -> PgConnection {
        let DatabaseSettings::Url(url) = self.shop.live.current().database.clone() else { panic!("no url") };
        PgConnection::establish(&url).unwrap()
    }

    /// One text per row of the outbox.
    fn outbox(&self, columns: &str) -> Vec<String> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = diesel::sql_types::Text)]
            row: String,
        }
        let query = format!("SELECT concat_ws(' ', {columns}) AS row FROM mail ORDER BY id");
        let rows: Vec<Row> = diesel::sql_query(query).load(&mut self.connection()).unwrap();
        rows.into_iter().map(|row| row.row).collect()
    }

    fn outbound(&self) -> Outbound {
        let (live, clock) = (self.shop.live.clone(), self.shop.clock.clone());
        let keyring = self.shop.inbound.keyring.clone();
        let doors = Arc::new(KeyedDoors { keyring, live: live.clone(), clock: clock.clone() });
        Outbound::new(self.shop.store.clone(), live, clock, doors.clone(), doors)
    }

    /// Drops a list of `customers` and runs its batch.
    fn run_batch(&self, name: &str, customers: usize) {
        let list: String = (0..customers).map(|customer| format!("{name}-{customer}\n")).collect();
        let report = self.shop.drop(&format!("/recipients/winback/{name}.csv"), format!("customer_id\n{list}"));
        assert_eq!(report["status"], "applied", "{report:#}");
        let _ = self.outbound().tick();
    }
}

fn watch(shop: &Workshop) -> Watch {
    Watch::new(shop.store.clone(), shop.live.clone(), shop.clock.clone())
}

fn mailer(shop: &Workshop) -> Mailer {
    Mailer::new(shop.store.clone(), shop.live.clone(), shop.clock.clone()).with_timeouts(TIMEOUTS)
}

fn codes(prefix: &str, count: usize) -> String {
    let codes: String = (0..count).map(|code| format!("{prefix}{code}\n")).collect();
    format!("code\n{codes}")
}

fn recipients(mails: &[Value]) -> Vec<&str> {
    mails.iter().map(|mail| mail["envelope_to"][0].as_str().unwrap()).collect()
}

#[test]
fn a_refused_file_is_mailed_once_to_each_without_its_codes() {
    let mut rig = Rig::new(ACME);
    rig.shop.drop("/coupons/all.csv", "code,bank_name\nspring26,SECRET-1\nspring26,SECRET-2\n");
    let mails = rig.new_mails();
    assert_eq!(recipients(&mails), ["marketing@acme.example", "shop@acme.example"]);
    let mail = &mails[0];
    assert_eq!(mail["subject"], "[coupond acme] rejected: all.csv");
    assert_eq!(
        (&mail["from"], &mail["to"]),
        (&"coupond <alerts@coupond.example>".into(), &"marketing@acme.example".into())
    );
    assert_eq!((&mail["type"], &mail["auto_submitted"]), (&"multipart/alternative".into(), &"auto-generated".into()));
    assert_eq!(mails[1]["to"], "Shop <shop@acme.example>");
    assert_ne!(mail["message_id"], mails[1]["message_id"]);
    let text = mail["text"].as_str().unwrap();
    assert!(text.contains("line 2: BAD_BANK_NAME:") && text.contains("2026-11-25 07:00 America/New_York"), "{text}");
    assert!(mail["html"].as_str().unwrap().contains("<li"), "{mail:#}");
    assert!(!mail.to_string().contains("SECRET"), "{mail:#}");
    assert!(rig.new_mails().is_empty());
    assert_eq!(rig.outbox("attempts, sent_at IS NOT NULL"), ["1 t", "1 t"]);
    // What was only checked, and what was applied, is nobody's trouble.
    rig.shop.drop("/check/coupons/all.csv", "code,bank_name\nspring26,SECRET-1\n");
    rig.shop.drop("/coupons/unused/a.csv", "code\nA1\n");
    assert!(rig.new_mails().is_empty());
    rig.shop.drop("/coupons/unused/a.csv.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03broken");
    assert_eq!(rig.new_subjects(), ["quarantined: a.csv.gz"]);
}

#[test]
fn the_first_ten_rejected_rows_stand_in_the_mail_without_their_values() {
    let mut rig = Rig::new(ACME);
    rig.configure(|settings| settings.limits.reject.rows = 14);
    // Past the reject limit in rows, past it in percent, and quarantined half-way: all of them name rows.
    let broken = |good: usize, bad: usize| {
        let good: String = (0..good).map(|code| format!("GOOD-{code}\n")).collect();
        let bad: String = (0..bad).map(|code| format!("SECRET {code}\n")).collect();
        format!("code\n{bad}{good}")
    };
    for (name, content, verdict, rejected, listed) in [
        ("rows.csv", broken(400, 20), "rejected", 15, 10),
        ("all.csv", broken(0, 3), "rejected", 3, 3),
        ("few.csv", broken(97, 14), "", 14, 0),
    ] {
        let report = rig.shop.drop(&format!("/coupons/spring26/{name}"), content);
        assert_eq!(report["rows"]["rejected"], rejected, "{report:#}");
        assert_eq!(report["first_rejects"].as_array().unwrap().len(), 10.min(rejected), "{report:#}");
        let mails = rig.new_mails();
        let Some(mail) = mails.first() else {
            assert!(verdict.is_empty() && report["status"] == "applied", "{report:#}");
            continue;
        };
        assert_eq!(mail["subject"], format!("[coupond acme] {verdict}: {name}"));
        let text = mail["text"].as_str().unwrap();
        let lines =
            text.lines().filter(|line| line.starts_with("  - line ") && line.contains("BAD_CHARACTER: character 7"));
        let rows: Vec<&str> = lines.map(|line| line.split(':').next().unwrap()).collect();
        let expected: Vec<String> = (2..2 + listed).map(|line| format!("  - line {line}")).collect();
        assert_eq!(rows, expected, "{text}");
        let id = &report["upload_id"];
        assert!(text.contains(&format!("{rejected}; listed in /reports/{name}.{id}.rejects.csv")), "{text}");
        assert!(!mail.to_string().contains("SECRET") && !report.to_string().contains("SECRET"), "{mail:#}");
    }
    rig.configure(|settings| settings.limits.reject.rows = 10_000);
    let report = rig.shop.drop("/coupons/spring26/percent.csv", broken(270, 31));
    assert_eq!(report["refused"]["reason"], "TOO_MANY_REJECTED");
    let mails = rig.new_mails();
    assert_eq!(mails[0]["text"].as_str().unwrap().matches("  - line ").count(), 10, "{:#}", mails[0]);
}

/// How many files each of `mails` stands for, and how many there are of either kind.
fn refusals(mails: &[Value]) -> (usize, usize, u64) {
    let mails: Vec<&Value> = mails.iter().filter(|mail| mail["to"] == "marketing@acme.example").collect();
    let (mut single, mut counting, mut files) = (0, 0, 0);
    for mail in mails {
        let subject = mail["subject"].as_str().unwrap().trim_start_matches("[coupond acme] ");
        match subject.split_once(" more file") {
            Some((count, _)) => {
                counting += 1;
                files += count.replace(',', "").parse::<u64>().unwrap();
            }
            None => {
                single += 1;
                files += 1;
            }
        }
    }
    (single, counting, files)
}

#[test]
fn a_flood_of_bad_files_is_ten_mails_and_one_that_counts_the_rest() {
    let mut rig = Rig::new(ACME);
    let bad = |rig: &Rig, number: usize| {
        let (directory, content) = match number % 3 {
            0 => ("/redemptions", format!("A;{number}\n").into_bytes()),
            1 => ("/coupons/spring26", format!("bank_name;code\n{number}").into_bytes()),
            _ => ("/coupons/spring26", [b"\x1f\x8b\x08\x00broken".as_slice(), number.to_string().as_bytes()].concat()),
        };
        rig.shop.receive(&format!("{directory}/{number}.csv"), content);
    };
    (0..500).for_each(|number| bad(&rig, number));
    rig.shop.inbound.process_waiting(&|| false).unwrap();
    // Two daemons look, at the same time, as often as it takes.
    for _ in 0..6 {
        thread::scope(|scope| {
            scope.spawn(|| watch(&rig.shop).tick(&|| false).unwrap());
            scope.spawn(|| watch(&rig.shop).tick(&|| false).unwrap());
        });
        rig.shop.wait(TimeDelta::seconds(10));
    }
    rig.send();
    let mails = rig.server.mails();
    assert_eq!(refusals(&mails), (10, 0, 10));
    let last = mails.iter().rfind(|mail| mail["to"] == "marketing@acme.example").unwrap()["text"].as_str().unwrap();
    assert!(last.contains("Those that follow are counted in one mail."), "{last}");
    // One more, half an hour later; nothing before the hour is over, even for a daemon that has just started.
    rig.shop.wait(TimeDelta::minutes(30));
    bad(&rig, 500);
    rig.shop.inbound.process_waiting(&|| false).unwrap();
    rig.watch = watch(&rig.shop);
    assert!(rig.new_mails().is_empty());
    rig.shop.wait(TimeDelta::minutes(30));
    let mails = rig.new_mails();
    assert_eq!(refusals(&mails), (0, 1, 491));
    let text = mails[0]["text"].as_str().unwrap();
    for line in [
        "164 files quarantined in /coupons/spring26/ from a local file",
        "164 files rejected in /coupons/spring26/ from a local file",
        "163 files rejected in /redemptions/ from a local file",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.contains("coupond uploads list --state rejected"), "{text}");
    assert_eq!(refusals(&rig.server.mails()), (10, 1, 501), "they add up");
    assert!(rig.new_mails().is_empty());
    // The next hour has its own ten.
    (501..512).for_each(|number| bad(&rig, number));
    rig.shop.inbound.process_waiting(&|| false).unwrap();
    assert_eq!(refusals(&rig.new_mails()), (10, 0, 10));
    rig.shop.wait(TimeDelta::hours(1));
    assert_eq!(refusals(&rig.new_mails()), (0, 1, 1));
    assert_eq!(rig.outbox("alert_key").iter().filter(|key| key.starts_with("refusal_mails#")).count(), 4);
}

#[test]
fn the_ladder_from_a_full_bank_to_an_empty_one_and_back() {
    let mut rig = Rig::new(ACME);
    // Nothing has run out where there never was anything.
    assert!(rig.new_subjects().is_empty());
    rig.shop.drop("/coupons/unused/a.csv", "code\nU1\n");
    rig.shop.drop("/coupons/spring26/a.csv", codes("A", 20));
    assert!(rig.new_subjects().is_empty());
    let mut redeem = |name: &str, range: std::ops::Range<usize>| {
        let used: String = range.map(|code| format!("A{code}\n")).collect();
        rig.shop.drop(&format!("/redemptions/{name}.csv"), used);
        rig.new_subjects()
    };
    assert_eq!(redeem("1", 0..9), [""; 0]);
    assert_eq!(redeem("2", 9..10), ["spring26 has 10 codes left"]);
    assert_eq!(redeem("3", 10..11), [""; 0]);
    assert_eq!(redeem("4", 11..19), ["spring26 has 1 code left"]);
    assert_eq!(redeem("5", 19..20), ["spring26 is empty"]);
    rig.shop.drop("/coupons/spring26/b.csv", codes("B", 8));
    assert!(rig.new_subjects().is_empty());
    rig.run_batch("list", 4);
    assert_eq!(rig.new_subjects(), ["spring26 has 4 codes left"]);
    assert_eq!(rig.outbox("alert_key").last().unwrap(), "low_stock/spring26#5");
}

#[test]
fn a_bank_of_the_site_is_watched_though_no_campaign_uses_it() {
    let mut rig = Rig::new(&format!("{ACME}[banks.home]\naudience = \"site\"\npersistent = false\nlow_stock = 2\n"));
    rig.shop.drop("/coupons/home/a.csv", codes("H", 5));
    assert!(rig.new_subjects().is_empty());
    rig.shop.drop("/redemptions/1.csv", "H0\nH1\nH2\n");
    let mails = rig.new_mails();
    assert_eq!(mails[0]["subject"], "[coupond acme] home has 2 codes left");
    let text = mails[0]["text"].as_str().unwrap();
    assert!(text.lines().any(|line| line.starts_with("  Used by:") && line.ends_with(" the site")), "{text}");
    // The one of nobody is not: nobody misses its codes.
    rig.shop.drop("/coupons/unused/a.csv", codes("U", 20));
    let used: String = (0..20).map(|code| format!("U{code}\n")).collect();
    rig.shop.drop("/redemptions/2.csv", used);
    assert!(rig.new_subjects().is_empty());
}

#[test]
fn a_waiting_batch_says_its_numbers_and_once_a_day_again() {
    let mut rig = Rig::new(ACME);
    rig.shop.drop("/coupons/spring26/a.csv", codes("A", 40));
    rig.run_batch("list", 41);
    let mails = rig.new_mails();
    assert_eq!(mails.len(), 2, "{mails:#?}");
    let text = mails[0]["text"].as_str().unwrap();
    assert!(text.starts_with("Batch 1 of campaign winback waits: 41 codes needed, 40 left in `spring26`."), "{text}");
    rig.shop.wait(TimeDelta::seconds(10));
    let _ = rig.outbound().tick();
    assert!(rig.new_mails().is_empty());
    // The numbers of a reminder are those of that day.
    for (day, left, still) in [(1, 40, "41 codes needed, 40 left"), (2, 39, "41 codes needed, 39 left")] {
        if left < 40 {
            rig.shop.drop("/redemptions/used.csv", "A0\n");
        }
        rig.shop.wait(TimeDelta::hours(24) - TimeDelta::seconds(20));
        let _ = rig.outbound().tick();
        assert!(rig.new_mails().is_empty(), "day {day}: not yet");
        rig.shop.wait(TimeDelta::seconds(20));
        let mails = rig.new_mails();
        assert_eq!(mails.len(), 2, "day {day}: {mails:#?}");
        assert_eq!(mails[0]["subject"], "[coupond acme] batch 1 of winback still waits");
        let text = mails[0]["text"].as_str().unwrap();
        assert!(
            text.starts_with(&format!("Batch 1 of campaign winback still waits: {still} in `spring26`.")),
            "{text}"
        );
        assert!(rig.new_mails().is_empty(), "day {day}: once, whoever looks");
    }
    // It goes on: nobody is reminded any more.
    rig.shop.drop("/coupons/spring26/b.csv", codes("B", 60));
    let _ = rig.outbound().tick();
    rig.shop.wait(TimeDelta::days(2));
    let subjects = rig.new_subjects();
    assert!(!subjects.iter().any(|subject| subject.contains("waits")), "{subjects:?}");
}

#[test]
fn an_export_that_nobody_collects_is_mailed_once() {
    let collect_by = ACME.replace("on-arrival\"", "on-arrival\"\nwhen_short = \"partial\"\ncollect_by = \"06:00\"");
    let mut rig = Rig::new(&collect_by.replace("low_stock = 10\n", ""));
    rig.shop.drop("/coupons/spring26/a.csv", codes("A", 40));
    // Wednesday 07:00 in New York: there is time until Thursday 06:00.
    for name in ["none", "some", "all", "short"] {
        rig.run_batch(name, if name == "short" { 32 } else { 3 });
    }
    let names = |stem: &str, batch: i64| {
        let directory = rig.shop.layout().root().join("assignments/winback");
        let names =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(&format!("{stem}.{batch}."))).collect();
        names.sort();
        names
    };
    let fetch = |file: &str| {
        let path = format!("/assignments/winback/{file}");
        let (namespace, at) = (acme(), rig.shop.clock.now());
        let download = Download { namespace: &namespace, path: path.as_bytes(), user: "acme-mail", bytes: 7, at };
        collect(&rig.shop.store, &download, true).unwrap();
    };
    assert_eq!(names("short", 4), ["short.4.csv", "short.4.manifest.json", "short.4.unassigned.csv"]);
    fetch("some.2.csv");
    names("all", 3).iter().for_each(|name| fetch(name));
    fetch("short.4.csv");
    fetch("short.4.manifest.json");
    rig.shop.wait(TimeDelta::hours(23));
    assert!(rig.new_subjects().is_empty(), "its time has come, and a download may not be written down yet");
    rig.shop.wait(TimeDelta::minutes(1));
    let mails = rig.new_mails();
    let mails: Vec<&Value> = mails.iter().filter(|mail| mail["to"] == "marketing@acme.example").collect();
    let subjects: Vec<&str> = mails.iter().map(|mail| mail["subject"].as_str().unwrap()).collect();
    assert_eq!(subjects, [1, 2, 4].map(|batch| format!("[coupond acme] batch {batch} of winback was not collected")));
    let said = |mail: &Value, words: &[&str]| {
        let text = mail["text"].as_str().unwrap();
        words.iter().for_each(|word| assert!(text.contains(word), "{word}: {text}"));
    };
    said(mails[0], &["by 2026-11-26 06:00 America/New_York: none of its files was fetched."]);
    said(mails[0], &["none.1.csv", "none.1.manifest.json"]);
    said(
        mails[1],
        &["1 of its 2 files were fetched.", "some.2.csv by acme-mail, 2026-11-25 07:00", "some.2.manifest.json"],
    );
    said(mails[2], &["2 of its 3 files were fetched.", "short.4.unassigned.csv"]);
    assert!(rig.new_mails().is_empty());
    rig.shop.wait(TimeDelta::days(2));
    assert!(rig.new_mails().is_empty(), "once a batch");
}

#[test]
fn the_last_nights_say_when_it_is_empty() {
    let mut rig = Rig::new(ACME);
    rig.shop.drop("/coupons/spring26/a.csv", codes("A", 110));
    // Wednesday to Saturday, ten a night.
    for night in 0..4 {
        assert!(rig.new_subjects().is_empty(), "{night}");
        rig.run_batch(&format!("night-{night}"), 10);
        assert!(rig.new_subjects().is_empty(), "{night}");
        rig.shop.wait(TimeDelta::days(1));
    }
    // Sunday: 70 are left; tonight is still to come, so Saturday's batch takes the last.
    assert_eq!(rig.new_subjects(), ["spring26 will be empty on Saturday 2026-12-05"]);
    let text = rig.server.mails()[0]["text"].as_str().unwrap().to_owned();
    assert!(
        text.contains("At the rate of the last 4 nights (about 10 a night)") && text.contains("70 codes remain."),
        "{text}"
    );
    rig.run_batch("night-4", 10);
    assert!(rig.new_subjects().is_empty());
}

#[test]
fn stock_that_lapses_within_a_week_is_mailed_once() {
    let mut rig = Rig::new(ACME);
    rig.shop.drop("/coupons/unused/a.until-2026-12-04.csv", codes("A", 1500));
    rig.shop.drop("/coupons/unused/b.until-2026-12-05.csv", codes("B", 3));
    assert!(rig.new_subjects().is_empty());
    // Midnight in New York is 05:00 UTC.
    rig.shop.wait(TimeDelta::hours(40));
    assert!(rig.new_subjects().is_empty());
    rig.shop.wait(TimeDelta::hours(1));
    assert_eq!(rig.new_subjects(), ["1,500 codes in unused lapse on Friday 2026-12-04"]);
    assert!(rig.new_subjects().is_empty());
    rig.shop.wait(TimeDelta::days(1));
    assert_eq!(rig.new_subjects(), ["3 codes in unused lapse on Saturday 2026-12-05"]);
}

#[test]
fn a_late_redemption_file_and_its_arrival() {
    let mut rig = Rig::new(&format!("{ACME}[redemptions]\nexpected_by = \"06:00\"\n"));
    // Noon UTC is 07:00 there: today's time is over, but nobody watched.
    assert!(rig.new_subjects().is_empty());
    rig.shop.wait(TimeDelta::hours(23));
    assert!(rig.new_subjects().is_empty());
    rig.shop.wait(TimeDelta::minutes(15));
    assert_eq!(rig.new_subjects(), ["no redemption file for 2026-11-26"]);
    assert!(rig.new_subjects().is_empty());
    rig.shop.wait(TimeDelta::minutes(115));
    // A file that is only checked is no file; one that is refused neither.
    rig.shop.drop("/check/redemptions/used.csv", "A1\n");
    rig.shop.drop("/redemptions/broken.csv", "A1;B2\nA2;B3\n");
    assert_eq!(rig.new_subjects(), ["rejected: broken.csv"]);
    rig.shop.drop("/redemptions/used.csv", "");
    assert_eq!(rig.new_subjects(), ["the redemption file for 2026-11-26 arrived 2 h 10 min late"]);
    rig.shop.wait(TimeDelta::hours(20));
    rig.shop.drop("/redemptions/used.csv", "A1\n");
    rig.shop.wait(TimeDelta::hours(4));
    assert!(rig.new_subjects().is_empty());
}

#[test]
fn no_redemption_file_is_missed_on_a_skipped_day() {
    let feed = "[redemptions]\nexpected_by = \"06:00\"\ngrace = \"30m\"\nskip_days = [\"sat\"]\nskip_dates = [\"2026-11-26\"]\n";
    let mut rig = Rig::new(&format!("{ACME}{feed}"));
    // Wednesday 07:00 in New York; Thursday is Thanksgiving.
    assert!(rig.new_subjects().is_empty());
    rig.shop.wait(TimeDelta::hours(47));
    assert!(rig.new_subjects().is_empty(), "Friday, within the grace");
    rig.shop.wait(TimeDelta::minutes(29));
    assert!(rig.new_subjects().is_empty(), "Friday, within the grace");
    rig.shop.wait(TimeDelta::minutes(1));
    assert_eq!(rig.new_subjects(), ["no redemption file for 2026-11-27"]);
    rig.shop.wait(TimeDelta::days(1));
    assert!(rig.new_subjects().is_empty(), "Saturday");
    rig.shop.wait(TimeDelta::days(1));
    assert_eq!(rig.new_subjects(), ["no redemption file for 2026-11-29"]);
}

#[test]
fn a_certificate_about_to_expire() {
    let home = tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").unwrap();
    let gpg = |arguments: &[&str]| {
        let mut command = Command::new("gpg");
        command.args(["--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback", "--homedir"]);
        command.arg(home.path()).args(["--faked-system-time", "20261101T000000"]).args(arguments);
        let output = command.stderr(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        output.stdout
    };
    gpg(&["--quick-generate-key", "mailer", "default", "default", "50d"]);
    let certificate = home.path().join("mailer.asc");
    std::fs::write(&certificate, gpg(&["--armor", "--export"])).unwrap();
    drop(Command::new("gpgconf").arg("--homedir").arg(home.path()).args(["--kill", "all"]).status());
    let mut rig = Rig::new(ACME);
    rig.configure(|settings| {
        let namespace = settings.namespaces.get_mut(&acme()).unwrap();
        for campaign in namespace.campaigns.values_mut() {
            campaign.encrypt_to = Some(certificate.clone());
        }
    });
    let mut words = Vec::new();
    for _ in 0..30 {
        words.extend(
            rig.new_subjects()
                .iter()
                .map(|subject| subject.split_once("expire").map_or("cannot", |(_, rest)| rest).to_owned()),
        );
        rig.shop.wait(TimeDelta::days(1));
    }
    assert_eq!(words, ["s within a month", "s within a week", "cannot"]);
    let first = rig.server.mails()[0]["text"].as_str().unwrap().to_owned();
    assert!(
        first.contains("campaign `winback` encrypts its assignment files to it") && first.contains("2026-12-2"),
        "{first}"
    );
}

#[test]
fn without_a_mail_server_nothing_is_written() {
    let mut rig = Rig::new(ACME);
    rig.configure(|settings| settings.mail = None);
    rig.shop.drop("/coupons/spring26/a.csv", "bank_name;code\n");
    rig.look();
    assert_eq!(rig.send(), None);
    assert!(rig.outbox("id").is_empty());
    // What was only logged stays said.
    rig.send_to(&format!("smtp://127.0.0.1:{}", rig.server.port()), None);
    assert!(rig.new_mails().is_empty());
}

#[test]
fn mails_wait_for_a_server_that_is_down() {
    let mut rig = Rig::new(ACME);
    rig.server.kill();
    rig.shop.drop("/coupons/spring26/a.csv", "bank_name;code\n");
    rig.look();
    for minutes in [1, 2, 4, 8, 15, 15] {
        let now = rig.shop.clock.now();
        assert_eq!(rig.send(), Some(now + TimeDelta::minutes(minutes)), "{minutes}");
        // Before that it is left alone.
        rig.shop.wait(TimeDelta::seconds(59));
        assert_eq!(rig.send(), Some(now + TimeDelta::minutes(minutes)));
        rig.shop.wait(TimeDelta::minutes(minutes) - TimeDelta::seconds(59));
    }
    assert!(rig.outbox("last_error")[0].contains("Connection refused"), "{:?}", rig.outbox("last_error"));
    rig.server.start_again();
    assert_eq!(rig.send(), None);
    assert_eq!(recipients(&rig.server.mails()), ["marketing@acme.example", "shop@acme.example"]);
    // Another daemon, or the same one after a restart, finds nothing to do.
    assert_eq!(mailer(&rig.shop).tick(&|| false).unwrap(), None);
    rig.server.kill();
    rig.server.start_again();
    rig.send();
    assert_eq!(rig.server.mails().len(), 2);
}

#[test]
fn a_refused_recipient_holds_up_nobody_else() {
    let mut rig = Rig::new(&ACME.replace("[\"marketing@", "[\"nobody@acme.example\", \"marketing@"));
    rig.shop.drop("/coupons/spring26/a.csv", "bank_name;code\n");
    assert_eq!(recipients(&rig.new_mails()), ["marketing@acme.example", "shop@acme.example"]);
    let mut last = TimeDelta::zero();
    for minutes in [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360] {
        let now = rig.shop.clock.now();
        let next = rig.send().unwrap();
        assert_eq!(next - now, TimeDelta::minutes(minutes), "after {last}");
        last = next - now;
        rig.shop.wait(last);
        rig.send();
    }
    assert!(rig.outbox("last_error")[0].contains("550"), "{:?}", rig.outbox("last_error"));
    // The admin corrects the address: who is not notified any more is left in peace.
    rig.configure(|settings| {
        let namespace = settings.namespaces.get_mut(&acme()).unwrap();
        namespace.notify.retain(|address| !address.starts_with("nobody"));
    });
    rig.shop.wait(last);
    assert_eq!(rig.send(), None);
    assert_eq!(rig.outbox("withdrawn_at IS NOT NULL"), ["t", "f", "f"]);
    assert_eq!(rig.server.mails().len(), 2);
    // In the end the outbox is empty.
    rig.shop.wait(TimeDelta::days(31));
    rig.send();
    assert!(rig.outbox("id").is_empty());
}

#[test]
fn a_slow_server_gets_each_mail_once() {
    let mut rig = Rig::new(ACME);
    rig.server.behave("delay", "3");
    rig.shop.drop("/coupons/spring26/a.csv", "bank_name;code\n");
    // Longer than any other answer may take.
    assert!(TIMEOUTS.answer < Duration::from_secs(3));
    assert_eq!(rig.new_mails().len(), 2);
    assert_eq!(rig.outbox("attempts, sent_at IS NOT NULL"), ["1 t", "1 t"]);
}

#[test]
fn a_copy_after_a_lost_answer_has_the_same_message_id() {
    let mut rig = Rig::new(ACME);
    rig.server.behave("silent", "");
    rig.mailer = mailer(&rig.shop).with_timeouts(Timeouts { delivery: Duration::from_secs(1), ..TIMEOUTS });
    rig.shop.drop("/coupons/spring26/a.csv", "bank_name;code\n");
    assert_eq!(rig.new_mails().len(), 1);
    rig.shop.wait(TimeDelta::minutes(1));
    rig.send();
    let mails = rig.server.mails();
    assert_eq!(recipients(&mails), ["marketing@acme.example", "marketing@acme.example", "shop@acme.example"]);
    assert_eq!(mails[0]["message_id"], mails[1]["message_id"]);
    assert_eq!(mails[0]["date"], mails[1]["date"]);
    assert_ne!(mails[0]["message_id"], mails[2]["message_id"]);
}

/// A daemon of its own, which the test below starts and kills.
#[cfg(feature = "failpoints")]
#[test]
fn a_mailer_that_is_killed() {
    let Ok(directory) = std::env::var("MAILER_TEST_DIRECTORY") else { return };
    let _scenario = fail::FailScenario::setup();
    let file = PathBuf::from(directory).join("coupond.toml");
    let url = std::env::var("MAILER_TEST_URL").unwrap();
    let mail = [("COUPOND_MAIL__URL".to_owned(), url), ("COUPOND_MAIL__FROM".to_owned(), FROM.to_owned())];
    let settings = coupond::config::load(&file, mail.into_iter()).unwrap();
    let DatabaseSettings::Url(url) = settings.database.clone() else { panic!("no url") };
    let store = coupond::store::Store::connect(&url, 4).unwrap();
    store.ensure_namespaces(settings.namespaces.keys()).unwrap();
    let clock = coupond::clock::Clock::manual(std::env::var("MAILER_TEST_NOW").unwrap().parse().unwrap());
    let live = coupond::config::LiveSettings::new(settings);
    let _ = Mailer::new(store, live, clock).with_timeouts(TIMEOUTS).tick(&|| false).unwrap();
}

/// Never lost; twice only where the server had taken it and nobody could write that down, and then as the same message.
#[cfg(feature = "failpoints")]
#[test]
fn killed_between_the_servers_250_and_the_mark() {
    use std::os::unix::process::ExitStatusExt as _;
    for (point, copies) in [("mail-claimed", 1), ("mail-accepted", 2), ("mail-before-mark", 2), ("mail-marked", 1)] {
        let mut rig = Rig::new(ACME);
        rig.shop.drop("/coupons/spring26/a.csv", "bank_name;code\n");
        rig.look();
        let killed = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "alert::a_mailer_that_is_killed"])
            .env("MAILER_TEST_DIRECTORY", rig.shop.directory.path())
            .env("MAILER_TEST_URL", format!("smtp://127.0.0.1:{}", rig.server.port()))
            .env("MAILER_TEST_NOW", rig.shop.clock.now().to_rfc3339())
            .env("FAILPOINTS", format!("{point}=return"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(killed.signal(), Some(6), "{point}: the daemon was not killed");
        let first = |rig: &Rig| -> Vec<Value> {
            let mails = rig.server.mails();
            mails.into_iter().filter(|mail| mail["to"] == "marketing@acme.example").collect()
        };
        assert_eq!(first(&rig).len(), usize::from(point != "mail-claimed"), "{point}");
        // Another daemon looks at once: the dead one's claim stands, and holds up nobody else.
        rig.look();
        rig.send();
        assert_eq!(first(&rig).len(), usize::from(point != "mail-claimed"), "{point}");
        assert_eq!(rig.server.mails().len(), first(&rig).len() + 1, "{point}: the other recipient has it");
        for _ in 0..3 {
            rig.shop.wait(TimeDelta::hours(1));
            rig.send();
        }
        let mails = first(&rig);
        assert_eq!(mails.len(), copies, "{point}");
        for copy in &mails {
            assert_eq!((&copy["message_id"], &copy["date"]), (&mails[0]["message_id"], &mails[0]["date"]), "{point}");
            assert_eq!(copy["text"], mails[0]["text"], "{point}");
        }
        assert_eq!(rig.server.mails().len(), copies + 1, "{point}");
        assert_eq!(rig.outbox("sent_at IS NOT NULL"), ["t", "t"], "{point}");
    }
}

#[test]
fn several_daemons_say_and_send_everything_once() {
    let rig = Rig::new(ACME);
    for file in 0..10 {
        rig.shop.drop(&format!("/coupons/spring26/{file}.csv"), format!("bank_name;code\n{file}"));
    }
    let start = Barrier::new(3);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let (watch, mut mailer) = (watch(&rig.shop), mailer(&rig.shop));
                start.wait();
                watch.tick(&|| false).unwrap();
                let _ = mailer.tick(&|| false).unwrap();
            });
        }
    });
    let mut mailer = mailer(&rig.shop);
    let _ = mailer.tick(&|| false).unwrap();
    let mut ids: Vec<_> = rig.server.mails().iter().map(|mail| mail["message_id"].to_string()).collect();
    ids.sort();
    assert_eq!(ids.len(), 20);
    ids.dedup();
    assert_eq!(ids.len(), 20);
    assert!(rig.outbox("attempts").iter().all(|attempts| attempts == "1"));
}

#[test]
fn a_mail_whose_sender_died_is_sent_when_its_lease_is_over() {
    let mut rig = Rig::new(ACME);
    rig.shop.drop("/coupons/spring26/a.csv", "bank_name;code\n");
    rig.look();
    let now = rig.shop.clock.now();
    let dead = rig.shop.store.claim_mail(1, now, now + TimeDelta::minutes(5)).unwrap().unwrap();
    assert_eq!(rig.send(), Some(now + TimeDelta::minutes(5)));
    assert_eq!(recipients(&rig.server.mails()), ["shop@acme.example"]);
    rig.shop.wait(TimeDelta::minutes(6));
    assert_eq!(rig.send(), None);
    assert_eq!(rig.server.mails().len(), 2);
    // Should it have been asleep only: its claim is void.
    assert!(!rig.shop.store.mail_sent(&dead, now).unwrap());
}

#[test]
fn the_url_says_how_the_connection_is_protected() {
    let mut rig = Rig::on(MailServer::start_with_tls(false), ACME);
    let port = rig.server.port();
    rig.shop.drop("/coupons/spring26/a.csv", "bank_name;code\n");
    let mut send_over = |url: &str, password: Option<&str>| {
        rig.connection().batch_execute("TRUNCATE mail; TRUNCATE alert").unwrap();
        rig.send_to(url, password);
        let mails = rig.new_mails();
        mails.first().map_or_else(|| Err(rig.outbox("last_error")[0].clone()), |mail| Ok(mail.clone()))
    };
    // Where it is offered TLS is used; nobody vouches for the server, as nobody vouches for the offer.
    let mail = send_over(&format!("smtp://127.0.0.1:{port}"), None).unwrap();
    assert_eq!((&mail["tls"], &mail["helo"]), (&true.into(), &"coupond.example".into()));
    let unknown = send_over(&format!("smtp://127.0.0.1:{port}/?tls=required"), None).unwrap_err();
    assert!(unknown.contains("certificate verify failed"), "{unknown}");
    // A password goes only to the server that is meant.
    let unknown = send_over(&format!("smtp://alerts@127.0.0.1:{port}"), Some("opensesame")).unwrap_err();
    assert!(unknown.contains("certificate verify failed"), "{unknown}");
    let plain = MailServer::start();
    let refusal = send_over(&format!("smtp://alerts@127.0.0.1:{}", plain.port()), Some("opensesame")).unwrap_err();
    assert!(refusal.contains("STARTTLS is not supported"), "{refusal}");
    let no_file = send_over(&format!("smtp://alerts@127.0.0.1:{port}"), Some("")).unwrap_err();
    assert!(no_file.contains("first line is empty"), "{no_file}");
}

/// Trust is the process's: so this test is run in a process that trusts the server's certificate.
#[test]
fn a_trusted_server_gets_the_password() {
    if std::env::var_os("SSL_CERT_FILE").is_none_or(|file| !PathBuf::from(file).ends_with("trusted.pem")) {
        let directory = tempfile::tempdir().unwrap();
        let trusted = directory.path().join("trusted.pem");
        let again = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "alert::a_trusted_server_gets_the_password"])
            .env("SSL_CERT_FILE", &trusted)
            .output()
            .unwrap();
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
        return;
    }
    for (smtps, scheme) in [(true, "smtps"), (false, "smtp")] {
        let mut rig = Rig::on(MailServer::start_with_tls(smtps), ACME);
        std::fs::copy(rig.server.directory().join("cert.pem"), std::env::var_os("SSL_CERT_FILE").unwrap()).unwrap();
        let url = format!("{scheme}://alerts%40coupond.example@localhost:{}", rig.server.port());
        rig.shop.drop("/coupons/spring26/a.csv", "bank_name;code\n");
        rig.send_to(&url, Some("wrong"));
        assert!(rig.new_mails().is_empty());
        assert!(
            rig.outbox("last_error")[0].starts_with("log in: permanent error (535)"),
            "{:?}",
            rig.outbox("last_error")
        );
        rig.send_to(&url, Some("opensesame"));
        rig.shop.wait(TimeDelta::minutes(1));
        let mail = rig.new_mails().remove(0);
        assert_eq!((&mail["tls"], &mail["user"]), (&true.into(), &"alerts@coupond.example".into()));
    }
}

#[test]
fn a_server_that_says_nothing_is_left() {
    let mut rig = Rig::new(ACME);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    rig.shop.drop("/coupons/spring26/a.csv", "bank_name;code\n");
    rig.look();
    for (scheme, error) in [("smtp", "connect:"), ("smtps", "connect: no answer within 3 s")] {
        rig.send_to(&format!("{scheme}://127.0.0.1:{port}"), None);
        let began = Instant::now();
        rig.send();
        assert!(began.elapsed() < Duration::from_secs(10));
        assert!(rig.outbox("last_error")[0].starts_with(error), "{:?}", rig.outbox("last_error"));
    }
    // One connection may be left behind, not one an attempt.
    rig.shop.wait(TimeDelta::minutes(20));
    rig.send();
    assert!(rig.outbox("last_error")[0].contains("still open"), "{:?}", rig.outbox("last_error"));
    // When it ends, mails go their way.
    drop(silent);
    rig.send_to(&format!("smtp://127.0.0.1:{}", rig.server.port()), None);
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.server.mails().len() < 2 {
        assert!(Instant::now() < deadline, "{:?}", rig.outbox("last_error"));
        rig.shop.wait(TimeDelta::minutes(20));
        rig.send();
    }
}
