//! What large draws pack into pages: whoever asks for a customer, a code, a lot or a draw finds it there. That batches keep
//! to the rules with packed assignments is checked in `bulk`, against a model.

use std::collections::HashMap;

use coupond::store::ledger::customers::Erased;
use coupond::store::suspicion::Counted;
use diesel::PgConnection;
use diesel::prelude::*;
use diesel_migrations::{FileBasedMigrations, MigrationHarness as _};

use crate::bulk::{Bulk, lines};
use crate::harness::workshop::acme;

const CUSTOMERS: usize = 6_000;

fn customers() -> Vec<String> {
    // Not in byte order in the list, and not all of one length.
    (0..CUSTOMERS).map(|n| format!("c{}", (n * 7919) % CUSTOMERS)).collect()
}

/// A bank with more codes than customers, and one batch, all of it packed. Returns the batch and who got what.
fn packed() -> (Bulk, i64, HashMap<String, String>) {
    let mut bulk = Bulk::new();
    bulk.drop("/coupons/keep/codes.csv", &lines((0..CUSTOMERS + 500).map(|n| format!("P-{n:05}"))));
    bulk.shop.wait(chrono::TimeDelta::minutes(10));
    let customers = customers();
    let batch = bulk.batch("some", &customers);
    let got = bulk.check_rows(batch, &customers, "all new");
    let got: HashMap<String, String> = got.into_iter().map(|(customer, (code, _))| (customer, code)).collect();
    assert_eq!(got.len(), CUSTOMERS);
    assert_eq!(bulk.number("SELECT count(*) AS n FROM assignment"), 0, "nothing row by row");
    assert_eq!(bulk.number("SELECT sum(customers)::bigint AS n FROM assignment_sheet"), 6_000);
    assert!(bulk.number("SELECT count(*) AS n FROM assignment_page") > 10);
    let unsorted =
        "SELECT count(*) AS n FROM assignment_page p WHERE customers <> ARRAY(SELECT unnest(customers) ORDER BY 1)
        OR seqs <> ARRAY(SELECT unnest(seqs) ORDER BY 1) OR first_customer <> customers[1] OR first_seq <> seqs[1]";
    assert_eq!(bulk.number(unsorted), 0);
    bulk.check_store("packed");
    (bulk, batch, got)
}

#[test]
fn a_customer_a_code_and_a_lot_are_found() {
    let (mut bulk, batch, got) = packed();
    let (namespace, store) = (bulk.shop.store.namespace_id(&acme()).unwrap(), bulk.shop.store.clone());
    for customer in ["c0", "c1", "c4711", "c999", "c5999"] {
        let given = store.given_to(namespace, customer).unwrap();
        let [given] = given.as_slice() else { panic!("{customer}: {given:?}") };
        assert_eq!((given.code.as_str(), given.batch_id, given.outcome), (got[customer].as_str(), batch, 1));
        let at = store.banked(namespace, std::slice::from_ref(&given.code)).unwrap();
        assert_eq!(store.given_code(namespace, &at[0]).unwrap().as_slice(), std::slice::from_ref(given), "{customer}");
    }
    for stranger in ["", "a", "c", "c00", "c4711 ", "d"] {
        assert_eq!(store.given_to(namespace, stranger).unwrap(), [], "{stranger}");
    }
    let free = (0..CUSTOMERS + 500).map(|n| format!("P-{n:05}")).find(|code| !got.values().any(|taken| taken == code));
    let at = store.banked(namespace, &[free.unwrap()]).unwrap();
    assert_eq!(store.given_code(namespace, &at[0]).unwrap(), [], "nobody has it");

    // Redeemed by who has it: no suspicion. And of the three one is a few's list's, which is looked up.
    let used: Vec<&String> = ["c1", "c2", "c77"].iter().map(|customer| &got[*customer]).collect();
    bulk.drop("/redemptions/used.csv", &lines(&used));
    let day = (bulk.shop.clock.now() - chrono::TimeDelta::days(1), bulk.shop.clock.now() + chrono::TimeDelta::days(1));
    assert_eq!(store.count_redeemed(namespace, Counted::Unassigned, day).unwrap(), []);
    assert_eq!(store.count_redeemed(namespace, Counted::All, day).unwrap()[0].count, 3);
    let given = store.given_and_redeemed(namespace).unwrap();
    assert_eq!((given[0].assigned, given[0].redeemed, given.len()), (6_000, 3, 1));
    let few: Vec<String> = ["c77", "c78", "x"].map(ToOwned::to_owned).to_vec();
    let few_got = {
        let batch = bulk.batch("some", &few);
        bulk.check_rows(batch, &few, "few")
    };
    assert_eq!(few_got["c78"], (got["c78"].clone(), "kept".to_owned()));
    assert_eq!(few_got["c77"].1, "replaced_redeemed");
    assert_eq!(few_got["x"].1, "new");
    // Everybody again: pages and rows are met together, and the latest counts.
    let customers: Vec<String> = customers().into_iter().rev().collect();
    let again = bulk.batch("some", &customers);
    let now = bulk.check_rows(again, &customers, "again");
    assert_eq!(now["c77"], (few_got["c77"].0.clone(), "kept".to_owned()));
    let replaced: Vec<&String> = now.iter().filter(|(_, got)| got.1 == "replaced_redeemed").map(|one| one.0).collect();
    assert_eq!(replaced.len(), 2, "{replaced:?}");
    assert!(
        now.iter().all(|(customer, (code, outcome))| outcome != "kept" || customer == "c77" || *code == got[customer])
    );
    bulk.check_store("again");
    bulk.check_rerun(batch, "the first");
    bulk.check_rerun(again, "the last");

    let upload = bulk.number("SELECT min(upload_id) AS n FROM lot");
    let voided = store.void_upload(namespace, upload, bulk.shop.clock.now()).unwrap();
    // Two customers and c77 have a second code out of the lot, and x its first.
    assert_eq!((voided[0].handed_out, voided[0].redeemed), (6_004, 0));
}

#[test]
fn corrections_name_packed_customers() {
    let (bulk, batch, got) = packed();
    bulk.shop.wait(chrono::TimeDelta::minutes(10));
    bulk.drop("/redemptions/used.csv", &lines([&got["c5"], &got["c5999"]]));
    bulk.tick();
    let directory = bulk.shop.layout().root().join("assignments/some");
    let mut corrections: Vec<String> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(&format!(".{batch}.corrections")))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let corrections = corrections.pop().expect("a corrections file");
    let rows: Vec<&str> = corrections.lines().skip(1).collect();
    assert_eq!(rows.len(), 2, "{corrections}");
    for customer in ["c5", "c5999"] {
        assert!(
            rows.iter().any(|row| row.contains(&format!("{customer},")) && row.contains(&got[customer])),
            "{rows:?}"
        );
    }
}

#[test]
fn a_packed_customer_is_erased() {
    let (mut bulk, batch, got) = packed();
    let (namespace, store) = (bulk.shop.store.namespace_id(&acme()).unwrap(), bulk.shop.store.clone());
    let ends = bulk.words(
        "SELECT customers[1] AS t FROM assignment_page UNION ALL SELECT customers[cardinality(customers)] FROM assignment_page",
    );
    let erased: Vec<&str> = ends.iter().map(String::as_str).step_by(7).chain(["c3000"]).collect();
    for (n, customer) in erased.iter().enumerate() {
        let done = store.erase_customer(namespace, customer, &format!("erased-{n}")).unwrap();
        assert_eq!(done, Erased::Done { assignments: 1, left_out: 0 }, "{customer}");
        assert_eq!(store.given_to(namespace, customer).unwrap(), []);
        let token = store.given_to(namespace, &format!("erased-{n}")).unwrap();
        assert_eq!((token.len(), token[0].code.as_str()), (1, got[*customer].as_str()));
    }
    let left = "SELECT count(*) AS n FROM assignment_page WHERE first_customer <> customers[1]";
    assert_eq!(bulk.number(left), 0);
    let packed = bulk.number("SELECT sum(customers)::bigint AS n FROM assignment_sheet");
    assert_eq!(packed, 6_000 - i64::try_from(erased.len()).unwrap());
    bulk.check_store("erased");
    let customers: Vec<String> = customers().into_iter().rev().collect();
    let again = bulk.batch("some", &customers);
    let now = bulk.check_rows(again, &customers, "again");
    for (customer, (code, outcome)) in &now {
        let (is_new, was_erased) = (outcome == "new", erased.contains(&customer.as_str()));
        assert!(is_new == was_erased && (is_new || *code == got[customer]), "{customer} {outcome}");
    }
    assert!(batch < again);
}

/// The counters of a lot that say less than what was handed out, as after a restored table: the draw stops.
#[test]
fn a_place_that_a_page_has_is_not_handed_out_again() {
    let (mut bulk, _, _) = packed();
    for next in [0, 5_999] {
        bulk.sql(&format!("UPDATE lot SET next_seq = {next}"));
        for more in [6_400 - next, 2] {
            let strangers: Vec<String> = (0..more).map(|n| format!("s{next}-{more}-{n}")).collect();
            let batch = bulk.batch("some", &strangers);
            assert_eq!(bulk.number(&format!("SELECT count(*) AS n FROM assigned WHERE batch_id = {batch}")), 0);
            let state = bulk.words(&format!("SELECT state AS t FROM batch WHERE id = {batch}"));
            assert_ne!(state, ["assigned"]);
            bulk.sql(&format!("DELETE FROM batch WHERE id = {batch}"));
        }
    }
}

#[test]
fn pages_become_rows_when_the_schema_goes_back() {
    let (bulk, _, got) = packed();
    let coupond::config::DatabaseSettings::Url(url) = bulk.shop.live.current().database.clone() else {
        panic!("a database of its own")
    };
    let mut connection = PgConnection::establish(&url).unwrap();
    let migrations = FileBasedMigrations::from_path(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    while bulk.number("SELECT count(to_regclass('assignment_page')) AS n") > 0 {
        connection.revert_last_migration(migrations.clone()).unwrap();
    }
    assert_eq!(bulk.number("SELECT count(*) AS n FROM assignment"), 6_000);
    let code = bulk.words("SELECT code AS t FROM assignment WHERE customer = 'c42'");
    assert_eq!(code, [got["c42"].clone()]);
    connection.run_pending_migrations(migrations).unwrap();
    bulk.check_store("as rows");
}
