//! What is redeemed by place (`redeemed_block`), beside what is redeemed by code.

use chrono::TimeDelta;
use coupond::config::DatabaseSettings;
use coupond::store::Store;
use coupond::store::banks::{self, NamespaceLock};
use coupond::store::redemptions::{self, Applied, RedemptionTerms, UnsortedRedemptions};

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

/// Where no second connection is free the one that is there does all of it.
#[test]
fn codes_are_looked_up_over_one_connection_or_two() {
    let bulk = Bulk::new();
    bulk.drop("/coupons/keep/codes.csv", &lines((0..CODES).map(code)));
    let DatabaseSettings::Url(url) = bulk.shop.live.current().database.clone() else { panic!("a database of its own") };
    let scratch = tempfile::tempdir().unwrap();
    let redeem = |connections, codes: usize| {
        let store = Store::connect(&url, connections).unwrap();
        // There is a connection at hand, and where there may be two, another.
        let first = store.connection().unwrap();
        drop((connections > 1).then(|| store.connection().unwrap()));
        drop(first);
        let mut file = UnsortedRedemptions::new(scratch.path());
        (0..codes).for_each(|number| file.add(number as u64 + 1, &code(number)).unwrap());
        let file = file.end().unwrap();
        let (upload_id, redeemed_at) = (1, bulk.shop.clock.now());
        let terms = RedemptionTerms {
            store: &store,
            namespace_id: 1,
            upload_id,
            redeemed_at,
            directory: scratch.path(),
            noted_most: 10,
        };
        let applied = store.transaction(|transaction| {
            banks::lock_namespace(transaction, 1, NamespaceLock::Alone)?;
            redemptions::apply(transaction, &terms, file)
        });
        let Applied { counts, lots, .. } = applied.unwrap();
        assert_eq!(lots.iter().map(|lot| lot.redeemed).sum::<i64>() as u64, counts.redeemed);
        (counts.redeemed, counts.already, counts.unknown)
    };
    assert_eq!(redeem(1, 12_000), (12_000, 0, 0));
    assert_eq!(redeem(2, CODES + 2), (CODES as u64 - 12_000, 12_000, 2));
    assert_eq!(redeem(1, CODES + 3), (0, CODES as u64 + 2, 1));
    bulk.check_store("redeemed");
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
