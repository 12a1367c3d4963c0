//! Uploads of every kind, from received to verdict, against a real store.

use serde_json::{Value, json};

use crate::harness::workshop::Workshop;

const ACME: &str = r#"
[banks.spring26]
[banks.autumn]
[banks.home]
audience = "site"
persistent = false
[campaigns.winback]
bank = "spring26"
channel = "email"
schedule = "on-arrival"
"#;

fn counts(report: &Value) -> [u64; 5] {
    ["read", "accepted", "rejected", "duplicate", "unknown"].map(|key| report["rows"][key].as_u64().unwrap())
}

fn warnings(report: &Value) -> Vec<&str> {
    report["warnings"].as_array().unwrap().iter().map(|warning| warning["reason"].as_str().unwrap()).collect()
}

#[test]
fn coupons_for_several_banks() {
    let acme = Workshop::new(ACME);
    let report = acme.drop("/coupons/all.csv", "Bank_Name,Coupon Code\nspring26,A1\nspring26,A2\nautumn,A1\nhome,S1\n");
    assert_eq!(report["status"], "applied", "{report:#}");
    assert_eq!(counts(&report), [4, 4, 0, 0, 0]);
    assert_eq!(
        report["banks"],
        json!([
            {"bank": "autumn", "before": 0, "after": 1, "accepted": 1},
            {"bank": "home", "before": 0, "after": 1, "accepted": 1},
            {"bank": "spring26", "before": 0, "after": 2, "accepted": 2},
        ])
    );
    assert_eq!(acme.remaining("spring26"), 2);
    assert!(acme.rejects(&report).is_empty());
}

#[test]
fn one_column_without_header_and_an_end_date_in_the_name() {
    let acme = Workshop::new(ACME);
    let report = acme.drop("/coupons/spring26/a.until-2026-12-31.csv", "A1\r\nA2\r\n");
    assert_eq!((report["status"].as_str(), report["header"].as_bool()), (Some("applied"), Some(false)));
    assert_eq!(warnings(&report), ["CRLF"]);
    let passed = acme.drop("/coupons/spring26/b.until-2026-11-24.csv", "B1\nB2\n");
    assert_eq!(warnings(&passed), ["END_DATE_PASSED"]);
    assert_eq!(passed["banks"], json!([{"bank": "spring26", "before": 2, "after": 2, "accepted": 2}]));
    assert_eq!(acme.drop("/coupons/spring26/c.until-2026-11-25.csv", "C1\n")["banks"][0]["after"], 3);
}

#[test]
fn a_header_that_nobody_knows_is_not_handed_out() {
    for header in ["codes", "voucher_code", "PromoCode"] {
        refused("/coupons/spring26/a.csv", format!("{header}\nA1\nA2\n"), "rejected", "MISSING_COLUMN");
    }
    let acme = Workshop::new(ACME);
    // A row `code` above it says that it is a code after all.
    assert_eq!(acme.drop("/coupons/spring26/a.csv", "code\nvoucher\n")["rows"]["accepted"], 1);
    let odd = acme.drop("/coupons/spring26/b.csv", "kupon\nB1\nB2\nB3\n");
    assert_eq!((odd["rows"]["accepted"].as_u64(), warnings(&odd)), (Some(4), vec!["FIRST_ROW_DIFFERS"]));
    assert_eq!(odd["warnings"][0]["line"], 1);
    let words = acme.drop("/coupons/spring26/c.csv", "ALPHA\nBRAVO\nCHARLIE\nDELTA\n");
    assert_eq!(warnings(&words), Vec::<&str>::new());
    // Behind two byte order marks there is still a header.
    let marked = acme.drop("/coupons/spring26/d.csv", "\u{feff}\u{feff}code\nD1\n");
    assert_eq!((marked["header"].as_bool(), warnings(&marked)), (Some(true), vec!["BOM"]), "{marked:#}");
}

#[test]
fn duplicates_are_skipped_counted_and_listed() {
    let acme = Workshop::new(ACME);
    acme.drop("/coupons/spring26/a.csv", "code\nA1\nA2\n");
    let report = acme.drop("/coupons/spring26/b.csv", "code\nB1\nA2\nB1\nB2\n");
    assert_eq!(counts(&report), [4, 2, 0, 2, 0]);
    assert_eq!(warnings(&report), ["DUPLICATE_IN_FILE", "DUPLICATE_IN_BANK"]);
    let mut rejects = acme.rejects(&report);
    rejects.sort();
    assert_eq!(
        rejects.iter().map(|row| (row[0].as_str(), row[1].as_str(), row[3].as_str())).collect::<Vec<_>>(),
        [("3", "DUPLICATE_IN_BANK", "A2"), ("4", "DUPLICATE_IN_FILE", "B1")]
    );
    assert_eq!(acme.remaining("spring26"), 4);
}

#[test]
fn one_code_with_two_end_dates_belongs_to_the_first_line() {
    let acme = Workshop::new(ACME);
    let file = "code,end_date\nA1,2026-12-31\nA1,2027-12-31\nA2,2027-12-31\nB1,\n";
    let report = acme.drop("/coupons/spring26/a.csv", file);
    assert_eq!(counts(&report), [4, 3, 0, 1, 0]);
    acme.wait(chrono::TimeDelta::days(60));
    assert_eq!(acme.remaining("spring26"), 2, "A1 ended with the year");
    let more = acme.drop("/coupons/all.csv", "bank_name,code\nautumn,A1\nspring26,B2\nspring26,A1\nautumn,B1\n");
    assert_eq!(counts(&more), [4, 3, 0, 1, 0]);
    assert_eq!((acme.remaining("spring26"), acme.remaining("autumn")), (3, 2));
}

#[test]
fn a_rejects_file_is_mended_and_dropped_again_as_it_is() {
    let acme = Workshop::new(ACME);
    let file = "note,bank_name,code\nx,spring26,A1\ny,spring26,A 2\nz,nowhere,A3\n";
    let report = acme.drop("/coupons/all.rows-3.csv", file);
    assert_eq!(counts(&report), [3, 1, 2, 0, 0]);
    let name = format!("all.rows-3.csv.{}.rejects.csv", report["upload_id"]);
    let rejects = std::fs::read_to_string(acme.layout().reports().join(&name)).unwrap();
    let mended = rejects.replace("A 2", "A2").replace("nowhere,A3", "autumn,A3");
    let again = acme.drop(&format!("/coupons/{name}"), mended.clone());
    assert_eq!((again["status"].as_str(), counts(&again)), (Some("applied"), [2, 2, 0, 0, 0]), "{again:#}");
    assert_eq!((acme.remaining("spring26"), acme.remaining("autumn")), (2, 1));
    // Without its name nobody knows what its columns were.
    let lost = acme.drop("/coupons/mended.csv", mended.replace("A2", "A9"));
    assert_eq!(lost["refused"]["reason"], "MISSING_COLUMN");
    // A file without header has values of one column.
    let report = acme.drop("/coupons/spring26/one.csv", "B1\nB 2\n");
    let name = format!("one.csv.{}.rejects.csv", report["upload_id"]);
    let again = acme.drop(&format!("/coupons/spring26/{name}"), "line,reason,message,value\r\n2,BAD_CHARACTER,,B2\r\n");
    assert_eq!(counts(&again), [1, 1, 0, 0, 0], "{again:#}");
}

#[test]
fn swapped_columns_put_no_code_into_a_message() {
    let acme = Workshop::new(ACME);
    let report = acme.drop("/coupons/a.csv", "code,bank_name\nspring26,SECRET-1\n");
    assert_eq!(report["refused"]["reason"], "BAD_BANK_NAME", "{report:#}");
    assert!(!report.to_string().contains("SECRET"), "{report:#}");
    let lower = acme.drop("/coupons/b.csv", "code,bank_name\nspring26,secret-1\n");
    assert_eq!(lower["refused"]["reason"], "UNKNOWN_BANK", "{lower:#}");
    assert!(!lower.to_string().contains("secret"), "{lower:#}");
}

#[test]
fn codes_of_the_site_are_nobodys_and_not_suspicious() {
    let acme = Workshop::new(ACME);
    acme.drop("/coupons/all.csv", "bank_name,code\nhome,S1\nhome,S2\nautumn,A1\n");
    let site = acme.drop("/redemptions/site.csv", "S1\n");
    assert_eq!(warnings(&site), Vec::<&str>::new());
    assert_eq!(site["banks"], json!([{"bank": "home", "before": 2, "after": 1, "accepted": 1}]));
    let both = acme.drop("/redemptions/both.csv", "S2\nA1\n");
    assert_eq!((warnings(&both), both["warnings"][0]["count"].as_u64()), (vec!["REDEEMED_UNASSIGNED"], Some(1)));
}

#[test]
fn codes_that_a_spreadsheet_spoilt_are_warned_of() {
    let acme = Workshop::new(ACME);
    let mut file: String = (0..30).map(|number| format!("{:08}\n", 55_000_000 + number)).collect();
    file.push_str("1234\n1.2E+10\nSALE-O1\nsale-01\n");
    let report = acme.drop("/coupons/spring26/a.csv", file);
    assert_eq!(warnings(&report), ["SPREADSHEET_NUMBER", "ZEROS_CUT", "LOOKALIKE_CODES"]);
    assert_eq!(report["warnings"][1]["line"], 31);
    assert_eq!(report["rows"]["accepted"], 34);
}

#[test]
fn bad_rows_are_rejected_and_the_rest_applied() {
    let acme = Workshop::new(ACME);
    let report = acme.drop(
        "/coupons/all.csv",
        "bank_name,code,end_date\nspring26,A1,\nspring26,,\nnowhere,A2,\nspring26,A 3,\nspring26,A4,31.12.2026\n\
         spring26,A5\n\"spring26,A6,\nspring26,A7,2026-12-31\n",
    );
    assert_eq!(report["status"], "applied", "{report:#}");
    assert_eq!(counts(&report), [8, 2, 6, 0, 0]);
    let rejects = acme.rejects(&report);
    assert_eq!(
        rejects.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect::<Vec<_>>(),
        [
            ("3", "EMPTY_CODE"),
            ("4", "UNKNOWN_BANK"),
            ("5", "BAD_CHARACTER"),
            ("6", "BAD_END_DATE"),
            ("7", "WRONG_COLUMN_COUNT"),
            ("8", "UNBALANCED_QUOTE"),
        ]
    );
    assert_eq!(rejects[2][3], "spring26,A 3,");
}

#[test]
fn a_redemption_takes_codes_out_of_every_bank() {
    let acme = Workshop::new(ACME);
    acme.drop("/coupons/all.csv", "bank_name,code\nspring26,A1\nspring26,A2\nautumn,A1\nautumn,mIx\n");
    let report = acme.drop("/redemptions/used.csv", "A1\nzz\na2\nA1\nMIX\n");
    assert_eq!(report["status"], "applied", "{report:#}");
    assert_eq!(counts(&report), [5, 3, 0, 1, 1]);
    assert_eq!(
        report["banks"],
        json!([
            {"bank": "autumn", "before": 2, "after": 0, "accepted": 2, "unassigned": 2},
            {"bank": "spring26", "before": 2, "after": 0, "accepted": 2, "unassigned": 2},
        ])
    );
    assert_eq!(warnings(&report), ["DUPLICATE_IN_FILE", "REDEEMED_UNASSIGNED", "UNKNOWN_CODE", "CASE_DIFFERS"]);
    // Twice is a no-op, and what was unknown comes in as redeemed.
    let again = acme.drop("/redemptions/again.csv", "coupon\nA1\nzz\n");
    assert_eq!(counts(&again), [2, 0, 0, 2, 0]);
    let late = acme.drop("/coupons/spring26/late.csv", "zz\nZ2\n");
    assert_eq!(warnings(&late), ["ALREADY_REDEEMED"]);
    assert_eq!(acme.remaining("spring26"), 1);
}

#[test]
fn several_codes_that_differ_in_case_only_are_ambiguous() {
    let acme = Workshop::new(ACME);
    acme.drop("/coupons/spring26/a.csv", "code\nab1\nAB1\n");
    let report = acme.drop("/redemptions/used.csv", "Ab1\n");
    assert_eq!(warnings(&report), ["AMBIGUOUS_CODE"]);
    assert_eq!(counts(&report), [1, 0, 0, 0, 1]);
    assert_eq!(acme.remaining("spring26"), 2);
}

#[test]
fn an_empty_redemption_file_is_valid_every_day() {
    let acme = Workshop::new(ACME);
    let first = acme.drop("/redemptions/monday.csv", "");
    assert_eq!((first["status"].as_str(), warnings(&first)), (Some("applied"), vec!["ZERO_BYTES"]));
    assert_eq!(acme.drop("/redemptions/tuesday.csv", "")["status"], "applied");
    assert_eq!(acme.drop("/redemptions/header.csv", "code\n")["status"], "applied");
}

#[test]
fn unknown_codes_are_not_compared_with_every_code() {
    let acme = Workshop::new(ACME);
    let codes = |prefix: &str| (0..15_000).map(|number| format!("{prefix}{number}\n")).collect::<String>();
    // Before anything has told the planner how many codes there are, as on a namespace's first day.
    acme.drop("/coupons/spring26/a.csv", codes("KNOWN-"));
    let start = std::time::Instant::now();
    let report = acme.drop("/redemptions/used.csv", codes("unknown-") + "known-7\n");
    assert_eq!(counts(&report), [15_001, 1, 0, 0, 15_000]);
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "took {:?}", start.elapsed());
}

#[test]
fn tokens_in_capitals_count_and_must_not_contradict_each_other() {
    let acme = Workshop::new(ACME);
    acme.drop("/coupons/spring26/A.UNTIL-2026-12-31.CSV", "A1\n");
    acme.wait(chrono::TimeDelta::days(60));
    assert_eq!(acme.remaining("spring26"), 0);
    let report = acme.drop("/coupons/spring26/b.until-2027-12-31.until-2028-12-31.csv", "B1\n");
    assert_eq!(report["refused"]["reason"], "BAD_NAME_TOKEN", "{report:#}");
}

#[test]
fn the_same_content_a_second_time_has_no_effect() {
    let acme = Workshop::new(ACME);
    let first = acme.drop("/coupons/spring26/a.csv", "code\nA1\n");
    let second = acme.drop("/coupons/spring26/b.csv", "code\nA1\n");
    assert_eq!(second["status"], "duplicate");
    assert_eq!(second["repeats_upload"], first["upload_id"]);
    assert_eq!(second["rows"]["accepted"], 0);
    assert_eq!(acme.drop("/coupons/autumn/a.csv", "code\nA1\n")["status"], "applied", "another place");
    let list = "customer_id\nc1\n";
    assert_eq!(acme.drop("/recipients/winback/a.csv", list)["status"], "applied");
    assert_eq!(acme.drop("/recipients/winback/b.csv", list)["status"], "duplicate");
    acme.wait(chrono::TimeDelta::days(1));
    assert_eq!(acme.drop("/recipients/winback/a.csv", list)["status"], "applied");
}

#[test]
fn a_check_reports_and_applies_nothing() {
    let acme = Workshop::new(ACME);
    let report = acme.drop("/check/coupons/spring26/a.csv", "code\nA1\nA 2\nA1\n");
    assert_eq!((report["status"].as_str(), report["dry_run"].as_bool()), (Some("checked"), Some(true)));
    assert_eq!(counts(&report), [3, 1, 1, 1, 0]);
    assert_eq!(report["banks"], json!([{"bank": "spring26", "before": 0, "after": 1, "accepted": 1}]));
    assert_eq!(acme.remaining("spring26"), 0);
    assert_eq!(acme.rejects(&report).len(), 2);
}

#[test]
fn a_name_that_promises_encryption_is_held_against_the_content() {
    let acme = Workshop::new(ACME);
    for name in ["a.csv.gpg", "b.csv.asc", "c.csv.gz"] {
        let report = acme.drop(&format!("/coupons/spring26/{name}"), format!("code\n{name}\n"));
        assert_eq!(
            (report["status"].as_str(), warnings(&report)),
            (Some("applied"), vec!["EXTENSION_DIFFERS"]),
            "{name}"
        );
    }
}

#[test]
fn a_list_made_from_an_assignment_file_is_warned_of() {
    let acme = Workshop::new(ACME);
    let report = acme.drop("/recipients/winback/a.csv", "customer_id,Code,end_date\nc1,OLD,\n");
    assert_eq!((report["status"].as_str(), warnings(&report)), (Some("applied"), vec!["COLUMN_NAME_TAKEN"]));
    assert_eq!(report["warnings"][0]["count"], 2);
}

#[track_caller]
fn refused(path: &str, content: impl AsRef<[u8]>, status: &str, reason: &str) {
    let acme = Workshop::new(ACME);
    let report = acme.drop(path, content);
    assert_eq!(
        (report["status"].as_str(), report["refused"]["reason"].as_str()),
        (Some(status), Some(reason)),
        "{report:#}"
    );
    assert!(!report["refused"]["message"].as_str().unwrap().is_empty());
    assert_eq!(report["rows"]["accepted"], 0, "{report:#}");
    assert_eq!(acme.remaining("spring26"), 0);
    let kept = if status == "quarantined" { acme.layout().quarantine() } else { acme.layout().archive() };
    assert!(kept.join(report["upload_id"].to_string()).exists(), "the original is kept");
}

#[test]
fn whole_files_are_refused_with_a_reason() {
    refused("/coupons/a.csv", "bank_name;code\nspring26;A1\n", "rejected", "BAD_COLUMN_DELIMITER");
    refused("/redemptions/a.csv", "A1|x\n", "rejected", "BAD_COLUMN_DELIMITER");
    refused("/coupons/a.csv", "bank_name,code\rspring26,A1\r", "rejected", "BAD_ROW_DELIMITER");
    refused("/coupons/a.csv", b"bank_name,code\nspring26,A\xff1\n", "rejected", "NOT_UTF8");
    refused("/coupons/a.csv", "", "rejected", "NO_ROWS");
    refused("/coupons/a.csv", "bank_name,code\n", "rejected", "NO_ROWS");
    refused("/coupons/a.csv", "A1\nA2\n", "rejected", "MISSING_COLUMN");
    refused("/coupons/a.csv", "bank_name,code,coupon\nspring26,A1,A1\n", "rejected", "REPEATED_COLUMN");
    refused("/coupons/a.csv", "bank_name,code\nnowhere,A1\nnowhere,A2\n", "rejected", "UNKNOWN_BANK");
    refused("/coupons/spring26/a.until-soon.csv", "A1\n", "rejected", "BAD_NAME_TOKEN");
    refused("/coupons/spring26/a.rows-3.csv", "A1\nA2\n", "rejected", "ROW_COUNT_DIFFERS");
    refused("/redemptions/a.csv", "A1,2026-01-01\n", "rejected", "UNEXPECTED_COLUMNS");
    refused("/recipients/winback/a.csv", "id\nc1\n", "rejected", "MISSING_COLUMN");
    refused("/coupons/a.csv", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03cut", "quarantined", "GZIP_DAMAGED");
}

#[test]
fn too_many_rejected_rows_refuse_the_file() {
    let acme = Workshop::new(ACME);
    let row = |index: usize, bad: bool| if bad { format!("A {index}\n") } else { format!("A{index}\n") };
    let file = |bad: usize| (0..400).map(|index| row(index, index < bad)).collect::<String>();
    let report = acme.drop("/coupons/spring26/bad.csv", file(41));
    assert_eq!(report["refused"]["reason"], "TOO_MANY_REJECTED", "{report:#}");
    assert_eq!(acme.remaining("spring26"), 0);
    assert_eq!(acme.drop("/coupons/spring26/good.csv", file(40))["status"], "applied");
    assert_eq!(acme.remaining("spring26"), 360);
}
