//! What is redeemed by place (`redeemed_block`), beside what is redeemed by code.

use chrono::TimeDelta;

use crate::bulk::{Bulk, lines};
use crate::harness::redeemed::{WRONG_PLACES, mark_places};

/// More than a block.
const CODES: usize = 33_000;

fn code(number: usize) -> String {
    format!("B-{number:05}")
}

/// A bank in which every third code is redeemed, others were when they came, and one was twice.
fn redeemed() -> Bulk {
    let bulk = Bulk::new();
    bulk.drop("/redemptions/early.csv", &lines([code(5), code(CODES - 3), code(CODES + 1)]));
    bulk.drop("/coupons/keep/codes.csv", &lines((0..CODES).map(code)));
    assert_eq!(bulk.number("SELECT redeemed_ahead::bigint AS n FROM lot"), 2);
    let report = bulk.drop("/redemptions/third.csv", &lines((0..CODES).step_by(3).map(code)));
    assert_eq!(report["rows"]["duplicate"], 1, "{report:#}");
    bulk.drop("/redemptions/more.csv", &lines([code(3), code(4), code(CODES + 2)]));
    bulk
}

#[test]
fn places_say_what_codes_say() {
    let bulk = redeemed();
    assert_eq!(bulk.number(WRONG_PLACES), 0);
    let blocks = "SELECT count(*) AS n FROM redeemed_block";
    assert_eq!(bulk.number(blocks), 2);
    // The same file again does nothing, and what is known already is counted.
    let report = bulk.drop("/redemptions/again.csv", &lines([code(0), code(5), code(1), code(CODES + 2)]));
    assert_eq!((&report["rows"]["accepted"], &report["rows"]["duplicate"]), (&1.into(), &3.into()), "{report:#}");
    assert_eq!(bulk.number(WRONG_PLACES), 0);
    // Small lots, by two banks and two end dates in one file, some of their codes redeemed before they came.
    let rows = "code,bank_name,end_date\nB-33001,keep,2030-01-01\nB-33002,once,2030-01-01\nB-33003,keep,2031-01-01\nB-00001,once,\n";
    bulk.drop("/coupons/mixed.csv", rows);
    assert_eq!(bulk.number(WRONG_PLACES), 0);
    assert_eq!(bulk.number("SELECT sum(redeemed_ahead)::bigint AS n FROM lot WHERE size < 10"), 3);
}

/// The migration finds in an older store what the daemon would have written.
#[test]
fn the_migration_marks_the_same_places() {
    let bulk = redeemed();
    let all = "SELECT format('%s %s %s', lot_id, block, md5(bits)) AS t FROM redeemed_block ORDER BY 1";
    let written = bulk.words(all);
    bulk.sql(&mark_places());
    assert_eq!(bulk.words(all), written);
}

/// Places that were lost would let redeemed codes out.
#[test]
fn a_draw_stops_where_places_and_counters_differ() {
    let mut bulk = redeemed();
    bulk.shop.wait(TimeDelta::minutes(10));
    bulk.sql(
        "CREATE TABLE kept AS SELECT * FROM redeemed_block WHERE block = 1; DELETE FROM redeemed_block WHERE block = 1",
    );
    let customers: Vec<String> = (0..10).map(|number| format!("c{number}")).collect();
    let batch = bulk.batch("some", &customers);
    assert_eq!(bulk.number("SELECT count(*) AS n FROM assigned"), 0);
    bulk.sql("INSERT INTO redeemed_block SELECT * FROM kept; DROP TABLE kept");
    bulk.shop.wait(TimeDelta::minutes(10));
    bulk.tick();
    let got = bulk.check_rows(batch, &customers, "restored");
    assert_eq!(got.len(), customers.len());
    bulk.check_store("restored");
}
