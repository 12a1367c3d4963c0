//! Files that are put into a namespace's directory on disk: cp, rsync, NFS.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::daemon::Daemon;
use crate::harness::until;

const ACME: &str = r#"
[users.acme-feed]
role = "client"
public_keys = ["@acme-feed@"]
[banks.spring26]
"#;

#[test]
fn a_local_file_is_taken_once_it_is_still() {
    let daemon = Daemon::serve(&[("acme", ACME)]);
    let root = daemon.namespace("acme");
    fs::write(root.join("coupons/spring26/codes.csv"), "A1\nA2\n").unwrap();
    let client = daemon.client("acme-feed");
    let report = client.report("codes.csv");
    assert_eq!((&report["status"], &report["banks"][0]["after"]), (&json!("applied"), &json!(2)), "{report:#}");
    assert!(report.get("user").is_none(), "no SFTP user sent it");
    assert!(!root.join("coupons/spring26/codes.csv").exists());

    // A file that still grows is left alone, however long that takes; so are temporary names, links and directories.
    let growing = root.join("redemptions/used.csv");
    fs::write(root.join("redemptions/.used.csv.Xy12"), "A1\n").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("redemptions/link.csv")).unwrap();
    fs::create_dir(root.join("redemptions/sub")).unwrap();
    fs::write(root.join("redemptions/sub/lost.csv"), "A1\n").unwrap();
    let mut file = fs::File::create(&growing).unwrap();
    let start = Instant::now();
    let mut rows = 0_u64;
    while start.elapsed() < Duration::from_secs(3) {
        writeln!(file, "GROWING-{rows}").unwrap();
        rows += 1;
        std::thread::park_timeout(Duration::from_millis(100));
        assert!(growing.exists(), "taken while it grows");
    }
    drop(file);
    let report = client.report("used.csv");
    assert_eq!(report["rows"]["read"], rows, "{report:#}");
    until("it is gone from where it was dropped", || (!growing.exists()).then_some(()));
    assert_eq!(daemon.count("SELECT count(*) FROM upload"), 2, "nothing else was taken");
    for left in [".used.csv.Xy12", "link.csv", "sub/lost.csv"] {
        assert!(fs::symlink_metadata(root.join("redemptions").join(left)).is_ok(), "{left}");
    }
    daemon.wait_idle();
    daemon.verify_whole("acme");
}
