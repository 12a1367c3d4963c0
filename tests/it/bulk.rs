//! The bulk paths, against naive models: files of several runs, lists that are joined as a whole, and everything at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use coupond::outbound::{KeyedDoors, Outbound};
use coupond::store::StoreError;
use coupond::store::batches::Claim;
use coupond::store::draw::{DrawTerms, Drawn};
use coupond::store::ledger::batches::BatchFilter;
use coupond::store::recipients::UnsortedRecipients;
use coupond::store::recorded::Recorded;
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use serde_json::Value;

use crate::harness::redeemed::WRONG_PLACES;
use crate::harness::until;
use crate::harness::workshop::{Workshop, acme};

const NAMESPACE: &str = r#"
new_banks = "create"
[banks.keep]
fallback_code = "STATIC"
[banks.apart]
persist_per = "channel"
[banks.once]
persistent = false
[campaigns.some]
bank = "keep"
channel = "email"
schedule = "on-arrival"
when_short = "partial"
[campaigns.static]
bank = "keep"
channel = "email"
schedule = "on-arrival"
when_short = "fallback"
[campaigns.mail]
bank = "apart"
channel = "email"
schedule = "on-arrival"
when_short = "partial"
[campaigns.text]
bank = "apart"
channel = "sms"
schedule = "on-arrival"
when_short = "partial"
[campaigns.daily]
bank = "once"
channel = "email"
schedule = "on-arrival"
when_short = "partial"
"#;

/// xorshift: the same numbers in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }
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

pub struct Bulk {
    pub shop: Workshop,
    outbound: Outbound,
    lists: usize,
}

impl Bulk {
    pub fn new() -> Self {
        let shop = Workshop::new(NAMESPACE);
        let doors = Arc::new(KeyedDoors {
            keyring: Arc::clone(&shop.inbound.keyring),
            live: shop.live.clone(),
            clock: shop.clock.clone(),
        });
        let outbound = Outbound::new(shop.store.clone(), shop.live.clone(), shop.clock.clone(), doors.clone(), doors);
        Self { shop, outbound, lists: 0 }
    }

    pub fn number(&self, query: &str) -> i64 {
        diesel::sql_query(query).get_result::<Number>(&mut self.shop.store.connection().unwrap()).unwrap().n
    }

    pub fn words(&self, query: &str) -> Vec<String> {
        let rows: Vec<Word> = diesel::sql_query(query).load(&mut self.shop.store.connection().unwrap()).unwrap();
        rows.into_iter().map(|row| row.t).collect()
    }

    pub fn sql(&self, statements: &str) {
        self.shop.store.connection().unwrap().batch_execute(statements).unwrap();
    }

    pub fn drop(&self, path: &str, content: &str) -> Value {
        let report = self.shop.drop(path, content);
        assert_eq!(report["status"], "applied", "{path}: {report:#}");
        report
    }

    /// Drops a list and runs its batch. Returns the batch.
    pub fn batch(&mut self, campaign: &str, customers: &[String]) -> i64 {
        self.lists += 1;
        let mut list = "place,customer_id\n".to_owned();
        for (place, customer) in customers.iter().enumerate() {
            writeln!(list, "{place},{customer}").unwrap();
        }
        let upload = self.drop(&format!("/recipients/{campaign}/list{}.csv", self.lists), &list);
        let _ = self.outbound.tick();
        let namespace = self.shop.store.namespace_id(&acme()).unwrap();
        let filter = BatchFilter { limit: 1000, ..BatchFilter::default() };
        let batches = self.shop.store.list_batches(namespace, &filter).unwrap();
        let made = batches.into_iter().find(|batch| Some(batch.upload_id) == upload["upload_id"].as_i64());
        made.expect("a batch of the list").id
    }

    /// Does what is due: batches, corrections.
    pub fn tick(&self) {
        let _ = self.outbound.tick();
    }

    /// The files of a batch with their bytes.
    fn files(&self, batch: i64) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        for campaign in fs::read_dir(self.shop.layout().root().join("assignments")).unwrap() {
            for file in fs::read_dir(campaign.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if name.contains(&format!(".{batch}.")) && !name.contains("corrections") {
                    files.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
        files
    }

    /// Makes the files of a batch again as if the daemon had been killed right after the draw.
    pub fn check_rerun(&self, batch: i64, context: &str) {
        let first = self.files(batch);
        assert!(first.len() >= 2, "{context}: {:?}", first.keys());
        first.keys().for_each(|path| fs::remove_file(path).unwrap());
        self.sql(&format!(
            "UPDATE batch SET state = 'assigned', manifest = NULL, exported_at = NULL, lease_until = NULL WHERE id = {batch}"
        ));
        let _ = self.outbound.tick();
        let again = self.files(batch);
        assert_eq!(first.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>(), "{context}");
        for (path, bytes) in &first {
            if path.extension().is_some_and(|extension| extension == "json") {
                continue;
            }
            let (one, other) = (String::from_utf8_lossy(bytes), String::from_utf8_lossy(&again[path]));
            let differs = one.lines().zip(other.lines()).find(|(one, other)| one != other);
            assert!(*bytes == again[path], "{context} {}: {differs:?}", path.display());
        }
    }

    /// Every row of the list once, in order; returns the code of each row that has one.
    pub fn check_rows(&self, batch: i64, customers: &[String], context: &str) -> HashMap<String, (String, String)> {
        let mut places = Vec::new();
        let mut got: HashMap<String, (String, String)> = HashMap::new();
        for (path, bytes) in self.files(batch) {
            if path.extension().is_none_or(|extension| extension != "csv") {
                continue;
            }
            let mut last = None;
            for line in String::from_utf8(bytes).unwrap().lines().skip(1) {
                let cells: Vec<&str> = line.split(',').collect();
                let place: usize = cells[0].parse().unwrap();
                assert!(last < Some(place), "{context}: out of order at {place}");
                last = Some(place);
                assert_eq!(cells[1], customers[place], "{context}");
                places.push(place);
                if let [_, _, _, code, _, outcome] = *cells.as_slice()
                    && outcome != "fallback"
                {
                    let now = (code.to_owned(), outcome.to_owned());
                    let before = got.insert(cells[1].to_owned(), now.clone());
                    assert!(before.is_none_or(|before| before == now), "{context}: two codes for {}", cells[1]);
                }
            }
        }
        places.sort_unstable();
        assert_eq!(places, (0..customers.len()).collect::<Vec<_>>(), "{context}");
        let hands: HashSet<&String> = got.values().map(|(code, _)| code).collect();
        assert_eq!(hands.len(), got.len(), "{context}: a code in two hands");
        got
    }

    /// Every counter equals a recount, numbers have no gap, no code is in two hands, none was redeemed before it was given.
    pub fn check_store(&self, context: &str) {
        let wrong = self.words(
            "SELECT format('bank %s lot %s: size %s next_seq %s ahead %s returns %s next_return %s redeemed %s; void %s',
                 l.bank_id, l.id, size, next_seq, redeemed_ahead, returns, next_return, returns_redeemed, voided_at) AS t
             FROM lot l WHERE l.voided_at IS NULL AND (
                (size, redeemed_ahead, returns, returns_redeemed) IS DISTINCT FROM (
                    (SELECT count(*)::int FROM coupon c WHERE c.bank_id = l.bank_id AND c.lot_id = l.id),
                    (SELECT count(*)::int FROM coupon c JOIN redemption r USING (namespace_id, code)
                     WHERE c.bank_id = l.bank_id AND c.lot_id = l.id AND c.seq >= l.next_seq),
                    (SELECT count(*)::int FROM returned t WHERE t.bank_id = l.bank_id AND t.lot_id = l.id),
                    (SELECT count(*)::int FROM returned t JOIN redemption r USING (namespace_id, code)
                     WHERE t.bank_id = l.bank_id AND t.lot_id = l.id AND t.place >= l.next_return))
             OR size <> (SELECT max(c.seq) + 1 FROM coupon c WHERE c.bank_id = l.bank_id AND c.lot_id = l.id)
             OR size <> (SELECT count(DISTINCT c.seq) FROM coupon c WHERE c.bank_id = l.bank_id AND c.lot_id = l.id)
             OR next_seq <> (SELECT coalesce(max(a.seq) + 1, 0) FROM assigned a
                             WHERE a.bank_id = l.bank_id AND a.lot_id = l.id)
             OR next_seq <> (SELECT count(*) FROM assigned a WHERE a.bank_id = l.bank_id AND a.lot_id = l.id AND a.turn = 0)
                    + (SELECT count(*) FROM coupon c JOIN redemption r USING (namespace_id, code)
                       WHERE c.bank_id = l.bank_id AND c.lot_id = l.id AND c.seq < l.next_seq AND NOT EXISTS (
                           SELECT FROM assigned a WHERE a.bank_id = l.bank_id AND a.lot_id = l.id AND a.seq = c.seq)))",
        );
        assert_eq!(wrong, Vec::<String>::new(), "{context}");
        let twice = "SELECT count(*) - count(DISTINCT (a.bank_id, a.code)) AS n FROM assigned a
             WHERE NOT EXISTS (SELECT FROM returned t
                 WHERE (a.bank_id, a.lot_id, a.seq, a.turn) = (t.bank_id, t.lot_id, t.seq, t.turn))";
        assert_eq!(self.number(twice), 0, "{context}: a code is in two hands");
        let redeemed = "SELECT count(*) AS n FROM assigned a JOIN redemption r USING (namespace_id, code)
             JOIN batch b ON b.id = a.batch_id WHERE r.redeemed_at < b.assigned_at";
        assert_eq!(self.number(redeemed), 0, "{context}: a redeemed code was handed out");
        assert_eq!(self.number(WRONG_PLACES), 0, "{context}: what is redeemed by place");
        let other = "SELECT count(*) AS n FROM coupon c JOIN assigned a USING (namespace_id, bank_id, lot_id, seq)
             WHERE c.code <> a.code";
        assert_eq!(self.number(other), 0, "{context}: an assignment with another's code");
    }
}

pub fn lines<T: AsRef<str>>(rows: impl IntoIterator<Item = T>) -> String {
    rows.into_iter().fold(String::new(), |mut all, row| {
        all.push_str(row.as_ref());
        all.push('\n');
        all
    })
}

fn minutes(count: i64) -> chrono::TimeDelta {
    chrono::TimeDelta::minutes(count)
}

/// What a batch exports out of the draw's own tables is what it exports out of the record, now and whatever happens later.
#[test]
fn a_rerun_out_of_the_record_writes_what_the_first_run_wrote() {
    let mut bulk = Bulk::new();
    let mut dice = Dice(7);
    let mut batches: Vec<(i64, String)> = Vec::new();
    let mut in_stock: Vec<String> = Vec::new();
    let mut sent: Vec<(i64, Vec<String>)> = Vec::new();
    for step in 0..14 {
        let large = step % 4 != 3;
        let bank = ["keep", "apart", "once"][step % 3];
        let size = if large { 9_000 } else { 2_500 };
        let until = ["", ".until-2026-11-26", ".until-2026-11-30", ".until-2027-06-30"][(step / 6 + 1) % 4];
        let fresh: Vec<String> = (0..size).map(|n| format!("{bank}-{step}-{:05}", (n * 7919) % size)).collect();
        if step % 2 == 0 {
            bulk.drop(&format!("/coupons/{bank}/codes{step}{until}.csv"), &lines(&fresh));
            in_stock.extend(fresh);
        }
        bulk.shop.wait(minutes(300));
        if step > 1 {
            let used: BTreeSet<&String> =
                (0..in_stock.len() / 40 + 1).map(|_| &in_stock[dice.roll(in_stock.len())]).collect();
            bulk.drop(&format!("/redemptions/used{step}.csv"), &lines(&used));
        }
        bulk.shop.wait(minutes(300));
        if let Some((batch, customers)) = sent.pop() {
            let back: BTreeSet<&String> = customers.iter().collect();
            let back: Vec<&String> = back.into_iter().filter(|_| dice.roll(3) == 0).collect();
            let back = format!("customer_id\n{}", lines(back));
            bulk.drop(&format!("/recipients/daily/list.{batch}.not-sent.csv"), &back);
        }
        for campaign in match bank {
            "keep" => ["some", "static"],
            "apart" => ["mail", "text"],
            _ => ["daily", "daily"],
        } {
            let length = if large { 10_500 + dice.roll(3_000) } else { 1 + dice.roll(2_000) };
            let customers: Vec<String> = (0..length).map(|_| format!("c{}", dice.roll(12_000))).collect();
            let context = format!("step {step} {campaign}");
            let batch = bulk.batch(campaign, &customers);
            let got = bulk.check_rows(batch, &customers, &context);
            bulk.check_store(&context);
            bulk.check_rerun(batch, &context);
            assert_eq!(bulk.check_rows(batch, &customers, &context), got, "{context}");
            if campaign == "daily" && !got.is_empty() {
                sent.push((batch, got.into_keys().collect()));
            }
            batches.push((batch, context));
        }
    }
    for (batch, context) in &batches {
        bulk.check_rerun(*batch, &format!("{context}, later"));
    }
    let outcomes = bulk.words("SELECT DISTINCT outcome || '/' || turn AS t FROM assigned ORDER BY 1");
    assert!(outcomes.len() >= 4, "{outcomes:?}");
}

/// Citus cannot be had here. What is asked of it beside the statements for one PostgreSQL runs on one too, and must come to
/// the same.
#[test]
fn the_statements_for_citus_come_to_the_same() {
    let story = |citus: bool| {
        let mut bulk = Bulk::new();
        if citus {
            bulk.sql(
                "INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
                 VALUES (99999, 'citus', 10, 11, false, '0')",
            );
            assert_eq!(bulk.number("SELECT count(*) AS n FROM pg_extension WHERE extname = 'citus'"), 1);
        }
        let mut reports = vec![
            bulk.drop("/redemptions/early.csv", "A2\nUNKNOWN\n"),
            bulk.drop("/coupons/a.until-2999-01-01.csv", "bank_name,code\nkeep,A1\nkeep,A2\nkeep,A3\nonce,A3\n"),
            bulk.drop(
                "/coupons/b.csv",
                "bank_name,code\nkeep,B1\nkeep,A1\nkeep,b2\nkeep,B1\nkeep,B3\nkeep,B4\nkeep,B5\nkeep,B6\n",
            ),
        ];
        let customers = ["c2", "c1", "c2", "c3", "c4"].map(str::to_owned);
        let first = bulk.batch("some", &customers);
        reports.push(bulk.drop("/redemptions/late.csv", "A1\nB2\na3\nUNKNOWN\nA3\n"));
        let second = bulk.batch("some", &["c3", "c1", "c4", "c5", "c2"].map(str::to_owned));
        bulk.check_store("citus");
        let rows: Vec<String> =
            reports.iter().map(|report| format!("{} {}", report["rows"], report["warnings"])).collect();
        let files = |batch| bulk.files(batch).into_values().map(|bytes| String::from_utf8(bytes).unwrap());
        let files: Vec<String> = files(first).chain(files(second)).filter(|file| !file.starts_with('{')).collect();
        (rows, files)
    };
    let (rows, files) = story(false);
    assert!(rows[2].contains("\"duplicate\":2") && rows[3].contains("\"duplicate\":2"), "{rows:?}");
    assert!(files.iter().any(|file| file.contains("replaced_redeemed")), "{files:?}");
    assert_eq!(story(true), (rows, files));
}

/// A file larger than one run: 12 MiB of codes. What a code's first line says counts, whichever run repeats it.
#[test]
fn coupons_of_several_runs() {
    let bulk = Bulk::new();
    let long = |number: usize| format!("{}{number:07}", "K".repeat(92));
    // Some are there already.
    let there: BTreeSet<usize> = (0..2_000).map(|n| n * 137).collect();
    bulk.drop("/coupons/keep/first.csv", &lines(there.iter().map(|n| long(*n))));
    let mut dice = Dice(11);
    let rows: Vec<(usize, &str, &str)> = (0..330_000)
        .map(|_| {
            let bank = ["keep", "keep", "keep", "apart", "made"][dice.roll(5)];
            (dice.roll(400_000), bank, ["", "2026-12-31", "2027-12-31"][dice.roll(3)])
        })
        .collect();
    let mut file = "code,bank_name,end_date\n".to_owned();
    for (code, bank, end) in &rows {
        writeln!(file, "{},{bank},{end}", long(*code)).unwrap();
    }
    assert!(rows.len() * 99 > (24 << 20) + 1000, "more than one run");
    let mut first: BTreeMap<(&str, usize), (usize, &str)> = BTreeMap::new();
    let mut duplicates: BTreeMap<usize, bool> = BTreeMap::new();
    for ((code, bank, end), line) in rows.iter().zip(2..) {
        let known = *bank == "keep" && there.contains(code);
        if known || first.contains_key(&(*bank, *code)) {
            duplicates.insert(line, known);
        } else {
            first.insert((*bank, *code), (line, end));
        }
    }
    let report = bulk.drop("/coupons/several.csv", &file);
    let counts = |name: &str| report["rows"][name].as_u64().unwrap();
    assert_eq!(counts("read"), rows.len() as u64);
    assert_eq!(counts("accepted"), first.len() as u64);
    assert_eq!(counts("duplicate"), duplicates.len() as u64);
    let warned = |reason: &str| {
        let warnings = report["warnings"].as_array().unwrap();
        let found = warnings.iter().find(|warning| warning["reason"] == reason);
        let found = found.unwrap_or_else(|| panic!("no {reason} in {report:#}"));
        (found["count"].as_u64().unwrap(), found["line"].as_u64())
    };
    let (in_file, in_bank) = (warned("DUPLICATE_IN_FILE"), warned("DUPLICATE_IN_BANK"));
    assert_eq!(in_file.0 + in_bank.0, duplicates.len() as u64);
    let listed = bulk.shop.rejects(&report);
    assert_eq!(listed.len(), duplicates.len().min(100_000));
    for row in &listed {
        let line: usize = row[0].parse().unwrap();
        assert!(duplicates.contains_key(&line), "line {line} is no duplicate");
        assert_eq!(row[3], long(rows[line - 2].0), "line {line}");
        assert!(row[1] == "DUPLICATE_IN_FILE" || duplicates[&line], "line {line} {}", row[1]);
    }
    let lowest =
        |reason: &str| listed.iter().filter(|row| row[1] == reason).map(|row| row[0].parse::<u64>().unwrap()).min();
    assert_eq!(in_file.1, lowest("DUPLICATE_IN_FILE"), "the first line");
    assert_eq!(in_bank.1, lowest("DUPLICATE_IN_BANK"), "the first line");
    let expected = first.iter().map(|((bank, code), (_, end))| format!("{bank} {code:07} {end}")).collect();
    check_stored(&bulk, &expected);
    bulk.check_store("several runs");

    redemptions_of_several_runs(&bulk, &mut dice, &long);
}

/// `bank code end_date` of all that `several.csv` brought.
#[track_caller]
fn check_stored(bulk: &Bulk, expected: &BTreeSet<String>) {
    let stored: BTreeSet<String> = bulk
        .words(
            "SELECT b.name || ' ' || right(c.code, 7) || ' ' || coalesce(l.end_date::text, '') AS t FROM coupon c
             JOIN bank b ON b.id = c.bank_id JOIN lot l ON l.bank_id = c.bank_id AND l.id = c.lot_id
             JOIN upload u ON u.id = l.upload_id WHERE u.name = 'several.csv'",
        )
        .into_iter()
        .collect();
    assert!(stored == *expected, "{:?}", stored.symmetric_difference(expected).take(5).collect::<Vec<_>>());
}

/// Exact, in other case, unknown, repeated across runs; and all of it a second time.
fn redemptions_of_several_runs(bulk: &Bulk, dice: &mut Dice, long: &dyn Fn(usize) -> String) {
    let mut used = String::new();
    let mut spellings: Vec<String> = Vec::new();
    for _ in 0..300_000 {
        let code = long(dice.roll(450_000));
        let code = if dice.roll(4) == 0 { code.to_ascii_lowercase() } else { code };
        used.push_str(&code);
        used.push('\n');
        spellings.push(code);
    }
    let known: HashSet<String> = bulk.words("SELECT DISTINCT code AS t FROM coupon").into_iter().collect();
    let (mut redeemed, mut unknown, mut again) = (HashSet::new(), HashSet::new(), 0);
    for spelling in &spellings {
        let upper = spelling.to_ascii_uppercase();
        let fresh = if known.contains(&upper) { redeemed.insert(upper) } else { unknown.insert(spelling.clone()) };
        again += u64::from(!fresh);
    }
    let report = bulk.drop("/redemptions/used.csv", &used);
    let rows = |report: &Value| {
        ["read", "accepted", "unknown", "duplicate"].map(|name| report["rows"][name].as_u64().unwrap())
    };
    assert_eq!(rows(&report), [spellings.len() as u64, redeemed.len() as u64, unknown.len() as u64, again]);
    bulk.check_store("redeemed");
    let before = bulk.number("SELECT count(*) AS n FROM redemption");
    let lots = "SELECT lot::text AS t FROM lot ORDER BY bank_id, id";
    let counters = bulk.words(lots);
    let report = bulk.drop("/redemptions/again.csv", &lines(spellings.iter().rev()));
    assert_eq!(rows(&report), [spellings.len() as u64, 0, 0, spellings.len() as u64], "a second time is a no-op");
    assert_eq!(bulk.number("SELECT count(*) AS n FROM redemption"), before);
    assert_eq!(bulk.words(lots), counters);
}

/// Thirty files of all kinds about the same codes and customers.
fn receive_all(bulk: &Bulk, dice: &mut Dice) -> Vec<(String, i64)> {
    let mut uploads: Vec<(String, i64)> = Vec::new();
    for round in 0..30 {
        let path = match round % 5 {
            0 | 1 => format!("/coupons/several{round}.csv"),
            2 => format!("/coupons/once/once{round}.csv"),
            3 => format!("/redemptions/used{round}.csv"),
            _ => format!("/recipients/{}/list{round}.csv", ["some", "daily", "static"][dice.roll(3)]),
        };
        let mut file = String::new();
        match round % 5 {
            0 | 1 => {
                file.push_str("bank_name,code\n");
                for _ in 0..400 {
                    let bank = ["keep", "once", "made-a", "made-b"][dice.roll(4)];
                    writeln!(file, "{bank},X{:04}", dice.roll(1_500)).unwrap();
                }
            }
            2 | 3 => (0..200).for_each(|_| writeln!(file, "X{:04}", dice.roll(1_500)).unwrap()),
            _ => {
                file.push_str("customer_id\n");
                (0..150).for_each(|_| writeln!(file, "c{}", dice.roll(400)).unwrap());
            }
        }
        uploads.push((path.clone(), bulk.shop.receive(&path, file)));
    }
    uploads
}

/// Coupons for the same banks (some of them made by the files), redemptions of the same codes and batches, all at once.
#[test]
fn coupons_redemptions_and_batches_at_once() {
    for (seed, undone) in [(3, false), (5, true), (9, true)] {
        let bulk = Bulk::new();
        let mut dice = Dice(seed);
        let uploads = receive_all(&bulk, &mut dice);
        std::thread::scope(|scope| {
            if undone {
                let ids: Vec<i64> = uploads.iter().map(|(_, id)| *id).collect();
                let (store, now) = (bulk.shop.store.clone(), bulk.shop.clock.now());
                let namespace = store.namespace_id(&acme()).unwrap();
                scope.spawn(move || {
                    let look = |id: &&i64| !store.void_upload(namespace, **id, now).unwrap().is_empty();
                    until("three of them undone", || (ids.iter().step_by(5).filter(look).count() > 2).then_some(()));
                });
            }
            for _ in 0..3 {
                scope.spawn(|| bulk.shop.inbound.process_waiting(&|| false).unwrap());
            }
            scope.spawn(|| {
                (0..10).for_each(|_| {
                    let _ = bulk.outbound.tick();
                });
            });
            scope.spawn(|| {
                (0..10).for_each(|_| {
                    let _ = bulk.outbound.tick();
                });
            });
        });
        for _ in 0..20 {
            bulk.shop.wait(chrono::TimeDelta::seconds(70));
            bulk.shop.inbound.process_waiting(&|| false).unwrap();
            let _ = bulk.outbound.tick();
        }
        let context = format!("seed {seed}");
        let mut accepted = 0;
        for (path, id) in &uploads {
            let report = bulk.shop.report(path, *id);
            assert_eq!(report["status"], "applied", "{context} {path}: {report:#}");
            let count = |name: &str| report["rows"][name].as_i64().unwrap();
            let sum = count("accepted") + count("duplicate") + count("unknown") + count("rejected");
            if !path.starts_with("/recipients") {
                assert_eq!(count("read"), sum, "{context} {path}");
            }
            if path.starts_with("/coupons") {
                accepted += count("accepted");
            }
        }
        let coupons = bulk.number("SELECT count(*) AS n FROM coupon");
        assert!(if undone { coupons < accepted } else { coupons == accepted }, "{context}: {coupons} of {accepted}");
        let open = bulk.words("SELECT state || coalesce(waiting_for, '') AS t FROM batch WHERE state <> 'exported'");
        assert_eq!(open, Vec::<String>::new(), "{context}");
        assert_eq!(bulk.number("SELECT count(*) AS n FROM batch"), 6, "{context}");
        bulk.check_store(&context);
        for batch in bulk.words("SELECT id::text AS t FROM batch") {
            bulk.check_rerun(batch.parse().unwrap(), &context);
        }
    }
}

/// Right after codes came back the planner knows nothing of them yet; neither redemptions nor the next not-sent list may
/// compare every code with every one that waits.
#[test]
fn codes_that_came_back_are_not_compared_with_every_code() {
    const CODES: usize = 36_000;
    let mut bulk = Bulk::new();
    bulk.sql(
        "ALTER TABLE returned SET (autovacuum_enabled = off); ALTER TABLE assignment SET (autovacuum_enabled = off)",
    );
    let codes: Vec<String> = (0..CODES).map(|n| format!("R{n:05}")).collect();
    bulk.drop("/coupons/once/codes.csv", &lines(&codes));
    let customers: Vec<String> = (0..CODES).map(|n| format!("c{n:05}")).collect();
    // Each batch is small enough that nobody counts anew what the bank handed out.
    let batches: Vec<_> = customers.chunks(CODES / 4).map(|part| (bulk.batch("daily", part), part)).collect();
    let start = std::time::Instant::now();
    for (batch, part) in batches {
        let list = format!("customer_id\n{}", lines(part));
        bulk.drop(&format!("/recipients/daily/list.{batch}.not-sent.csv"), &list);
    }
    let report = bulk.drop("/redemptions/used.csv", &lines(&codes));
    assert_eq!(report["rows"]["accepted"], CODES, "{report:#}");
    assert_eq!(bulk.shop.remaining("once"), 0);
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "took {:?}", start.elapsed());
    bulk.check_store("redeemed while they waited");
}

/// Files too small for anybody to count anew: the planner takes the lots for a handful of codes. A redemption that no coupon
/// has is looked for among all codes of mixed case, and none of those may be compared with every redemption.
#[test]
fn one_unknown_redemption_among_codes_of_mixed_case() {
    const CODES: usize = 9_000;
    let bulk = Bulk::new();
    bulk.sql("ALTER TABLE lot SET (autovacuum_enabled = off); ALTER TABLE coupon_1_0 SET (autovacuum_enabled = off)");
    for file in 0..6 {
        let codes = (0..CODES).map(|n| format!("{file}Code{n:05}"));
        bulk.drop(&format!("/coupons/keep/codes{file}.csv"), &lines(codes));
    }
    let used: Vec<String> = (0..2 * CODES).map(|n| format!("{}Code{:05}", n % 2, n / 2)).collect();
    let other_case = ["2cODE00000".to_owned(), "nobody's".to_owned()];
    let start = std::time::Instant::now();
    let report = bulk.drop("/redemptions/used.csv", &lines(used.iter().chain(&other_case)));
    assert_eq!(report["rows"]["accepted"], 2 * CODES + 1, "{report:#}");
    assert_eq!(report["rows"]["unknown"], 1, "{report:#}");
    assert_eq!(bulk.shop.remaining("keep"), 4 * 9_000 - 1);
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "took {:?}", start.elapsed());
}

/// A draw has its bank to itself for as long as a million customers take; the next list of the bank, and all others that
/// fire with it, become batches meanwhile.
#[test]
fn a_draw_keeps_no_list_from_becoming_a_batch() {
    let bulk = Bulk::new();
    bulk.drop("/coupons/keep/codes.csv", "A1\nA2\n");
    bulk.drop("/recipients/some/first.csv", "customer_id\nc1\n");
    let made = |bulk: &Bulk| bulk.number("SELECT count(*) AS n FROM batch");
    let mut other = bulk.shop.store.connection().unwrap();
    other.batch_execute("BEGIN; SELECT FROM lot FOR UPDATE").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| bulk.outbound.tick());
        let waits = "SELECT count(*) AS n FROM pg_locks WHERE NOT granted AND pid IN (
            SELECT pid FROM pg_stat_activity WHERE datname = current_database())";
        until("the first draw at the lots", || (bulk.number(waits) == 1).then_some(()));
        bulk.drop("/recipients/some/second.csv", "customer_id\nc2\n");
        scope.spawn(|| bulk.outbound.tick());
        until("a batch or another wait", || (made(&bulk) == 2 || bulk.number(waits) == 2).then_some(()));
        let made = made(&bulk);
        other.batch_execute("ROLLBACK").unwrap();
        assert_eq!(made, 2);
    });
}

/// However a draw ends, the connection's next user finds it as new: no setting, no temporary table. Nor is anything left on disk.
#[test]
fn a_draw_leaves_nothing_behind() {
    const CUSTOMERS: usize = 12_000;
    let bulk = Bulk::new();
    bulk.drop("/coupons/keep/codes.csv", "A1\nA2\n");
    let url = bulk.shop.live.current().database.clone();
    let coupond::config::DatabaseSettings::Url(url) = url else { panic!("a database of its own") };
    let store = coupond::store::Store::connect(&url, 1).unwrap();
    let namespace_id = bulk.shop.store.namespace_id(&acme()).unwrap();
    let bank_id = i32::try_from(bulk.number("SELECT id::bigint AS n FROM bank WHERE name = 'keep'")).unwrap();
    let terms = |fence: i64, short_reason| DrawTerms {
        claim: Claim { namespace_id, id: 77, fence },
        bank_id,
        persistent: true,
        hold_channel: "",
        assigned_at: bulk.shop.clock.now(),
        send_at: bulk.shop.clock.now(),
        open_on: bulk.shop.clock.now().date_naive(),
        short_reason,
    };
    let scratch = tempfile::tempdir().unwrap();
    for ending in 0..4 {
        let mut list = UnsortedRecipients::new(scratch.path());
        for customer in 0..CUSTOMERS {
            list.add(&format!("c{}", customer / 2)).unwrap();
        }
        let list = list.end().unwrap();
        match ending {
            0 => drop(list),
            // There is no such batch: written, and rolled back.
            1 => {
                let drawn = store.draw(list, &terms(1, Some("SHORT_STOCK")), scratch.path());
                assert!(matches!(drawn, Err(StoreError::LeaseLost { .. })), "{drawn:?}");
            }
            2 => {
                let drawn = store.draw(list, &terms(1, None), scratch.path());
                assert!(matches!(drawn, Ok(Drawn::Short { need: 6_000, stock: 2 })), "{drawn:?}");
            }
            // Nobody is in the record.
            _ => {
                let batch_id = 77;
                let what = Recorded { namespace_id, bank_id, batch_id, draw: 0, persistent: true, hold_channel: "" };
                let recorded = store.recorded(list, &what, scratch.path());
                assert!(matches!(recorded, Err(StoreError::Missing { .. })), "{recorded:?}");
            }
        }
        let words = |query: &str| -> Vec<String> {
            let rows: Vec<Word> = diesel::sql_query(query).load(&mut store.connection().unwrap()).unwrap();
            rows.into_iter().map(|row| row.t).collect()
        };
        let left = words("SELECT relname::text AS t FROM pg_class WHERE relnamespace = pg_my_temp_schema()");
        assert_eq!(left, Vec::<String>::new(), "{ending}");
        let set = words(
            "SELECT name AS t FROM pg_settings WHERE source = 'session' AND name !~ '^(client_|DateStyle|TimeZone)'",
        );
        assert_eq!(set, Vec::<String>::new(), "{ending}");
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "{ending}");
    }
    bulk.check_store("nothing was drawn");
    assert_eq!(bulk.shop.remaining("keep"), 2);
}

fn spelling(dice: &mut Dice) -> String {
    let text = ["ab", "cd", "x1", "77", "abc"][dice.roll(5)];
    let cased = |letter: char, upper| if upper { letter.to_ascii_uppercase() } else { letter };
    match dice.roll(4) {
        0 => text.to_owned(),
        1 => text.to_ascii_uppercase(),
        _ => text.chars().map(|letter| cased(letter, dice.roll(2) == 0)).collect(),
    }
}

/// Spellings of a handful of codes in three banks: which code each one stands for, and what is counted.
#[test]
fn redemptions_of_few_codes_in_many_spellings() {
    let bulk = Bulk::new();
    let mut dice = Dice(21);
    for round in 0..10 {
        bulk.sql("TRUNCATE coupon, redemption, returned, assignment, lot; UPDATE bank SET lots = 0");
        let mut held: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let mut known: BTreeSet<String> = BTreeSet::new();
        let mut redeemed: BTreeSet<String> = BTreeSet::new();
        for step in 0..6 {
            let context = format!("round {round} step {step}");
            bulk.shop.wait(minutes(1));
            if step % 3 == 0 {
                let rows: Vec<(&str, String)> = (0..1 + dice.roll(5))
                    .map(|_| (["keep", "apart", "once"][dice.roll(3)], spelling(&mut dice)))
                    .collect();
                let all = lines(rows.iter().map(|(bank, code)| format!("{bank},{code}")));
                // A line of its own, so that no file repeats another.
                let file = format!("bank_name,code\n{all}keep,own-{round}-{step}\n");
                bulk.drop(&format!("/coupons/c{round}-{step}.csv"), &file);
                held.entry("keep").or_default().insert(format!("own-{round}-{step}"));
                for (bank, code) in rows {
                    held.entry(bank).or_default().insert(code.clone());
                    known.insert(code);
                }
                continue;
            }
            let spellings: Vec<String> = (0..dice.roll(9)).map(|_| spelling(&mut dice)).collect();
            let (mut accepted, mut unknown, mut seen) = (0, 1, BTreeSet::new());
            for spelling in &spellings {
                let alike: Vec<&String> = known.iter().filter(|code| code.eq_ignore_ascii_case(spelling)).collect();
                let target = match *alike.as_slice() {
                    _ if known.contains(spelling) => spelling,
                    [one] => one,
                    _ => spelling,
                };
                if !redeemed.contains(target) && seen.insert(target.clone()) {
                    *(if known.contains(target) { &mut accepted } else { &mut unknown }) += 1;
                }
            }
            redeemed.extend(seen);
            let file = format!("{}own?{round}-{step}\n", lines(&spellings));
            let report = bulk.drop(&format!("/redemptions/r{round}-{step}.csv"), &file);
            let read = spellings.len() as u64 + 1;
            let counts =
                ["read", "accepted", "unknown", "duplicate"].map(|name| report["rows"][name].as_u64().unwrap());
            assert_eq!(
                counts,
                [read, accepted, unknown, read - accepted - unknown],
                "{context} {known:?} {spellings:?}"
            );
            for (bank, codes) in &held {
                let left = codes.iter().filter(|code| !redeemed.contains(*code)).count();
                assert_eq!(bulk.shop.remaining(bank), left as i64, "{context} {bank} {codes:?} {redeemed:?}");
            }
            bulk.check_store(&context);
        }
    }
}
