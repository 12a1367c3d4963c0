//! Large coupon files, which get a partition of their own: what comes out is what comes out of many small ones.

use std::collections::BTreeSet;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Text;
use serde_json::Value;

use crate::harness::postgres;
use crate::harness::redeemed::WRONG_PLACES;
use crate::harness::workshop::{Workshop, acme};

/// One code fills a hundred bytes, so that a first run is full with some 130,000 of them.
const FULL: usize = 135_000;

#[derive(QueryableByName)]
struct Word {
    #[diesel(sql_type = Text)]
    word: String,
}

struct Shop(Workshop);

impl Shop {
    fn new() -> Self {
        Self(Workshop::new("new_banks = \"create\"\n[banks.spring26]\n[banks.summer]\n"))
    }

    fn ask(&self, query: &str) -> Vec<String> {
        let rows: Vec<Word> = diesel::sql_query(format!("SELECT q::text AS word FROM ({query}) AS q (q)"))
            .load(&mut self.0.store.connection().unwrap())
            .unwrap();
        rows.into_iter().map(|row| row.word).collect()
    }

    fn sql(&self, statements: &str) {
        self.0.store.connection().unwrap().batch_execute(statements).unwrap();
    }

    fn drop(&self, path: &str, content: &str) -> Value {
        let report = self.0.drop(path, content);
        assert_eq!(report["status"], "applied", "{path}: {report:#}");
        report
    }

    /// Takes the next file for the namespace's first large one: each next shelf takes a file four times as large.
    fn forget_shelves(&self) {
        self.check();
        self.sql("UPDATE lot SET shelf = 0");
    }

    fn remember_shelves(&self) {
        self.sql(
            "UPDATE lot l SET shelf = c.shelf FROM (SELECT DISTINCT bank_id, lot_id, shelf FROM coupon) c
             WHERE c.bank_id = l.bank_id AND c.lot_id = l.id",
        );
    }

    fn undo(&self, report: &Value) {
        let (namespace, id) = (self.0.store.namespace_id(&acme()).unwrap(), report["upload_id"].as_i64().unwrap());
        self.0.store.void_upload(namespace, id, self.0.clock.now()).unwrap();
    }

    /// The lots with their shelf (0, or that there is one), size, and what was redeemed ahead; in the order of uploads.
    fn lots(&self) -> Vec<String> {
        let lots = self.ask(
            "SELECT format('%s shelf %s size %s redeemed %s', b.name, l.shelf <> 0, l.size, l.redeemed_ahead)
             FROM lot l JOIN bank b ON b.id = l.bank_id ORDER BY l.upload_id, l.id",
        );
        self.check();
        lots
    }

    /// Every lot's numbers are dense, every counter is a recount, each code is on its lot's shelf, and no bank has one twice.
    fn check(&self) {
        let wrong = self.ask(
            "SELECT (l.bank_id, l.id, l.size, l.redeemed_ahead, k) FROM lot l CROSS JOIN LATERAL (
                 SELECT count(*) AS codes, count(DISTINCT seq) AS seqs, min(seq) AS first, max(seq) AS last,
                     count(DISTINCT c.line) AS lines, count(*) FILTER (WHERE c.shelf <> l.shelf) AS elsewhere, count(r.code) AS redeemed
                 FROM coupon c LEFT JOIN redemption r USING (namespace_id, code)
                 WHERE c.bank_id = l.bank_id AND c.lot_id = l.id) k
             WHERE (k.codes, k.seqs, k.lines, k.first, k.last, k.elsewhere, k.redeemed)
                 <> (l.size, l.size, l.size, 0, l.size - 1, 0, l.redeemed_ahead)",
        );
        assert_eq!(wrong, Vec::<String>::new());
        assert_eq!(self.ask(WRONG_PLACES), ["0"]);
        let twice = "SELECT (bank_id, code) FROM coupon GROUP BY bank_id, code HAVING count(*) > 1";
        assert_eq!(self.ask(twice), Vec::<String>::new());
        let bare = "SELECT i.inhrelid::regclass FROM pg_inherits i WHERE i.inhparent = 'coupon'::regclass
             AND 2 <> (SELECT count(*) FROM pg_index x WHERE x.indrelid = i.inhrelid AND x.indisvalid)";
        assert_eq!(self.ask(bare), Vec::<String>::new(), "shelves without their two indexes");
        let left = "SELECT relname FROM pg_class WHERE relname LIKE 'coupon_loading%'";
        assert_eq!(self.ask(left), Vec::<String>::new());
    }
}

fn code(number: usize) -> String {
    format!("{}{number:07}", "K".repeat(92))
}

/// In an order of their own: what comes sorted proves little.
fn file(numbers: impl DoubleEndedIterator<Item = usize>) -> String {
    numbers.rev().fold(String::new(), |file, number| file + &code(number) + "\n")
}

#[test]
fn a_large_file_gets_a_shelf_of_its_own() {
    let shop = Shop::new();
    shop.drop("/redemptions/early.csv", &format!("{}\n{}\n", code(5), code(FULL + 7)));
    let report = shop.drop("/coupons/spring26/one.csv", &file(0..FULL));
    assert_eq!(report["rows"]["accepted"], FULL);
    assert_eq!(shop.lots(), [format!("spring26 shelf t size {FULL} redeemed 1")]);

    // A small one goes where the small ones go; what is on the other shelf is known.
    let report = shop.drop("/coupons/spring26/small.csv", &file(FULL - 10..FULL + 10));
    assert_eq!((&report["rows"]["accepted"], &report["rows"]["duplicate"]), (&10.into(), &10.into()), "{report:#}");
    assert_eq!(shop.lots()[1], "spring26 shelf f size 10 redeemed 1");

    // Another large one, some of whose codes lie on either shelf, and none in its own bank only.
    shop.forget_shelves();
    let report = shop.drop("/coupons/spring26/two.csv", &file(FULL - 1_000..2 * FULL));
    shop.remember_shelves();
    let added = FULL - 10;
    assert_eq!(
        (&report["rows"]["accepted"], &report["rows"]["duplicate"]),
        (&added.into(), &1_010.into()),
        "{report:#}"
    );
    assert_eq!(shop.lots()[2], format!("spring26 shelf t size {added} redeemed 0"));
    let listed: BTreeSet<String> = shop.0.rejects(&report).into_iter().map(|mut cells| cells.remove(3)).collect();
    assert_eq!(listed, (FULL - 1_000..FULL + 10).map(code).collect());
    // The line with which a code's life begins is still its line.
    let lines =
        format!("SELECT line FROM coupon WHERE code IN ('{}', '{}') ORDER BY 1", code(2 * FULL - 1), code(FULL + 10));
    assert_eq!(shop.ask(&lines), ["1".to_owned(), (FULL - 10).to_string()]);

    // The same codes for another bank are no duplicates, what was undone and is none of them is no hindrance, and a
    // redemption takes a code out wherever it lies.
    shop.undo(&shop.drop("/coupons/summer/undone.csv", "UNDONE\n"));
    shop.forget_shelves();
    shop.drop("/coupons/summer/three.csv", &file(0..FULL + 10));
    shop.remember_shelves();
    let redeemed = shop.drop("/redemptions/late.csv", &format!("{}\n{}\n", code(1), code(2 * FULL - 1)));
    assert_eq!(redeemed["rows"]["unknown"], 0, "{redeemed:#}");
    let lots = shop.lots();
    assert_eq!(lots[0], format!("spring26 shelf t size {FULL} redeemed 2"));
    assert_eq!(lots[2], format!("spring26 shelf t size {added} redeemed 1"));
    assert_eq!(lots[4], format!("summer shelf t size {} redeemed 3", FULL + 10));
}

#[test]
fn what_cannot_have_a_shelf_goes_where_all_else_goes() {
    let shop = Shop::new();
    // Half of what another has is too little; a bank that the file makes; a code twice, far apart; one that was undone.
    shop.drop("/coupons/spring26/codes.csv", &file(0..FULL));
    shop.sql("UPDATE lot SET size = 1000000");
    shop.drop("/coupons/summer/few.csv", &file(0..FULL));
    shop.sql(&format!("UPDATE lot SET size = {FULL}"));
    assert_eq!(shop.lots()[1], format!("summer shelf f size {FULL} redeemed 0"));
    let rows = |bank: &str, numbers: std::ops::Range<usize>| {
        numbers.fold(String::new(), |rows, number| rows + &code(number) + "," + bank + "\n")
    };
    let made = format!("code,bank_name\n{}{}", rows("summer", FULL..2 * FULL), rows("made", 0..10));
    let report = shop.drop("/coupons/made.csv", &made);
    assert_eq!(report["rows"]["accepted"], FULL + 10, "{report:#}");
    assert_eq!(
        shop.lots()[2..],
        [format!("summer shelf f size {FULL} redeemed 0"), "made shelf f size 10 redeemed 0".into()]
    );
    let repeated = format!("{}{}", file(100..102), file(0..2 * FULL));
    let report = shop.drop("/coupons/made/twice.csv", &repeated);
    assert_eq!((&report["rows"]["accepted"], &report["rows"]["duplicate"]), (&(2 * FULL - 10).into(), &12.into()));
    assert_eq!(shop.lots()[4], format!("made shelf f size {} redeemed 0", 2 * FULL - 10));
    // The server found the repeats, and has said nothing of codes in a log that others read.
    let log = postgres::log();
    assert!(log.contains("ready to accept connections") && !log.contains(&"K".repeat(92)));
}

/// A code of an undone upload comes back as any other, in a large file too.
#[test]
fn a_large_file_with_codes_of_an_undone_upload() {
    let shop = Shop::new();
    shop.undo(&shop.drop("/coupons/spring26/wrong.csv", &file(0..100)));
    let report = shop.drop("/coupons/spring26/right.csv", &file(0..FULL));
    assert_eq!(report["rows"]["accepted"], FULL, "{report:#}");
    let left = "SELECT count(*) FROM coupon c JOIN lot l ON (l.bank_id, l.id) = (c.bank_id, c.lot_id) WHERE l.voided_at IS NOT NULL";
    assert_eq!(shop.ask(left), ["0"]);
    assert_eq!(shop.ask("SELECT size FROM lot WHERE voided_at IS NULL"), [FULL.to_string()]);
}

/// Rows of several lots are mixed in the file; each lot lies together all the same, and a draw reads few pages.
#[test]
fn lots_of_a_large_file_lie_together() {
    let shop = Shop::new();
    let rows = (0..FULL).fold("code,end_date\n".to_owned(), |rows, number| {
        rows + &code(number) + if number % 5 == 0 { ",2027-01-01\n" } else { ",2028-01-01\n" }
    });
    // So many redemptions, as far as the planner knows, that those of the codes are looked up and not gone through.
    shop.drop("/redemptions/early.csv", &format!("{}\n{}\n", code(5), code(6)));
    shop.sql("UPDATE pg_class SET reltuples = 1e9 WHERE relname = 'redemption'");
    shop.drop("/coupons/spring26/mixed.csv", &rows);
    assert_eq!(shop.lots().len(), 2);
    assert_eq!(shop.ask("SELECT redeemed_ahead FROM lot"), ["1", "1"]);
    let pages = "SELECT max(pages) <= 40 FROM (
         SELECT count(DISTINCT (c.ctid::text::point)[0]) AS pages FROM coupon c
         WHERE c.seq < 26000 GROUP BY c.lot_id, c.seq / 1000) p";
    assert_eq!(shop.ask(pages), ["true"]);
}

/// While one large file is loaded another does not wait for it.
#[test]
fn two_large_files_at_once() {
    let shop = Shop::new();
    let mut other = shop.0.store.connection().unwrap();
    // As whoever loads a shelf holds it.
    other.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(x'007368656c766573'::bigint)").unwrap();
    shop.drop("/coupons/spring26/one.csv", &file(0..FULL));
    assert_eq!(shop.lots(), [format!("spring26 shelf f size {FULL} redeemed 0")]);
    other.batch_execute("COMMIT").unwrap();
    shop.drop("/coupons/summer/two.csv", &file(0..FULL));
    assert_eq!(shop.lots()[1], format!("summer shelf t size {FULL} redeemed 0"));
}

/// A dry run leaves no table behind, and its report is that of the real run.
#[test]
fn a_dry_run_of_a_large_file() {
    let shop = Shop::new();
    let report = shop.0.drop("/check/coupons/spring26/one.csv", file(0..FULL));
    assert_eq!((&report["status"], &report["rows"]["accepted"]), (&"checked".into(), &FULL.into()), "{report:#}");
    assert_eq!(shop.lots(), Vec::<String>::new());
    assert_eq!(shop.ask("SELECT count(*) FROM pg_inherits WHERE inhparent = 'coupon'::regclass"), ["1"]);
}
