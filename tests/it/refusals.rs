//! Files that are refused, over SFTP: point 5. What, where, and what to do; nothing applied; nothing lost.

use serde_json::{Value, json};

use crate::harness::daemon::Daemon;
use crate::harness::gpg::Gpg;
use crate::harness::sftp::Client;

const ACME: &str = r#"
[users.acme-feed]
role = "client"
public_keys = ["@acme-feed@"]
[users.acme-mail]
role = "campaigns"
public_keys = ["@acme-mail@"]
[banks.spring26]
[campaigns.winback]
bank = "spring26"
channel = "email"
schedule = "on-arrival"
"#;

/// Status, reason and line that a file must be refused with.
type Expected<'a> = (&'a str, &'a str, Option<u64>);

struct Case<'a> {
    daemon: &'a Daemon,
    client: &'a Client,
}

impl Case<'_> {
    #[track_caller]
    fn check(
        &self,
        name: &str,
        content: impl AsRef<[u8]>,
        directory: &str,
        (status, reason, line): Expected<'_>,
    ) -> Value {
        let report = self.client.send(name, &content, directory);
        let refused = &report["refused"];
        assert_eq!(
            (&report["status"], &refused["reason"], refused["line"].as_u64()),
            (&json!(status), &json!(reason), line),
            "{name}: {report:#}"
        );
        let message = refused["message"].as_str().unwrap();
        assert!(message.len() > 20, "{name}: says what, and what to do: {message}");
        assert_eq!(report["rows"]["accepted"], 0, "{name}");
        self.client.rejects(&report);

        let kept = if status == "quarantined" { ".spool/quarantine" } else { ".spool/archive" };
        let kept = self.daemon.namespace("acme").join(kept).join(report["upload_id"].to_string());
        crate::harness::until("the original is in its place", || kept.exists().then_some(()));
        assert_eq!(std::fs::read(kept).unwrap(), content.as_ref(), "{name}: the original is kept as it came");
        report
    }
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let daemon = Daemon::serve(&[("acme", ACME)]);
    let client = daemon.client("acme-feed");
    let gpg = Gpg::new();
    gpg.import(&client.get("/openpgp/coupond.asc"));
    let case = Case { daemon: &daemon, client: &client };

    let report = case.check(
        "semicolon.csv",
        "bank_name;code\nspring26;A1\n",
        "/coupons",
        ("rejected", "BAD_COLUMN_DELIMITER", Some(1)),
    );
    assert!(report["refused"]["message"].as_str().unwrap().contains("comma"), "{report:#}");
    case.check("tab.csv", "A1\tx\nA2\ty\n", "/coupons/spring26", ("rejected", "BAD_COLUMN_DELIMITER", Some(1)));
    case.check("pipe.csv", "A1|2026\n", "/redemptions", ("rejected", "BAD_COLUMN_DELIMITER", Some(1)));
    case.check(
        "latin.csv",
        b"bank_name,code\nspring26,A1\nspring26,\xe4\n",
        "/coupons",
        ("rejected", "NOT_UTF8", Some(3)),
    );
    case.check("utf16.csv", b"\xff\xfeA\x001\x00\n\x00", "/redemptions", ("rejected", "NOT_UTF8", Some(1)));
    case.check("mac.csv", "A1\rA2\rA3\r", "/coupons/spring26", ("rejected", "BAD_ROW_DELIMITER", Some(1)));
    case.check("lone.csv", "A1\nA2\rA3\n", "/redemptions", ("rejected", "BAD_ROW_DELIMITER", Some(2)));
    case.check("empty.csv", "", "/coupons/spring26", ("rejected", "NO_ROWS", None));
    case.check("header-only.csv", "bank_name,code\n", "/coupons", ("rejected", "NO_ROWS", None));
    let report =
        case.check("nowhere.csv", "bank_name,code\nnowhere,A1\n", "/coupons", ("rejected", "UNKNOWN_BANK", Some(2)));
    let message = report["refused"]["message"].as_str().unwrap();
    assert!(message.contains("there are: spring26") && !message.contains("nowhere"), "{message}");
    assert_eq!(client.rejects(&report)[0][..2], ["2", "UNKNOWN_BANK"]);

    // No compression layer, so that a flipped bit is not found by the inflater but by the integrity check.
    let plaintext: String = (0..2000).map(|number| format!("GOOD-{number}\n")).collect();
    let message = gpg.encrypt(&plaintext, &["--compress-algo", "none"]);
    let half = &message[..message.len() / 2];
    case.check("truncated.csv.pgp", half, "/coupons/spring26", ("quarantined", "OPENPGP_DAMAGED", None));
    let mut tampered = message.clone();
    let place = tampered.len() - 200;
    tampered[place] ^= 1;
    case.check("tampered.csv.pgp", &tampered, "/coupons/spring26", ("quarantined", "OPENPGP_DAMAGED", None));
    let stranger = Gpg::new();
    let certificate = stranger.make_key("coupond");
    assert!(certificate.contains("PUBLIC KEY"));
    let other = stranger.encrypt("A1\n", &[]);
    case.check("other-key.csv.pgp", other, "/coupons/spring26", ("quarantined", "OPENPGP_NO_KEY", None));
    let mut torn = flate(b"A1\nA2\n");
    torn.truncate(torn.len() - 6);
    case.check("torn.csv.gz", torn, "/coupons/spring26", ("quarantined", "GZIP_DAMAGED", None));

    // A bank's directory that does not exist is no place to put a file, nor to move one.
    client.write("lost.csv", "A1\n");
    for directory in ["/coupons/nowhere/", "/check/coupons/nowhere/", "/redemptions/spring26/", "/nowhere/"] {
        let said = client.refused(&format!("put lost.csv {directory}"));
        let expected = if directory == "/nowhere/" { "Permission denied" } else { "No such file or directory" };
        assert!(said.contains(expected), "{directory}: {said}");
    }
    client.does(&["put lost.csv /coupons/lost.tmp"]);
    client.refused("rename /coupons/lost.tmp /coupons/nowhere/");
    client.does(&["rm /coupons/lost.tmp"]);

    // An empty redemptions file means "none today".
    assert_eq!(client.send("none.csv", "", "/redemptions")["status"], "applied");

    assert_eq!(daemon.count("SELECT count(*) FROM coupon"), 0, "nothing was applied");
    assert_eq!(daemon.count("SELECT count(*) FROM lot"), 0);
    assert_eq!(daemon.count("SELECT count(*) FROM redemption"), 0);
    // The message as it was made still works: nothing of the damaged ones got in its way.
    assert_eq!(client.send("good.csv.pgp", &message, "/coupons/spring26")["rows"]["accepted"], 2000);
    daemon.wait_idle();
    daemon.verify_whole("acme");
}

#[test]
fn lists_that_are_refused_make_no_batch() {
    let daemon = Daemon::serve(&[("acme", ACME)]);
    let client = daemon.client("acme-mail");
    let case = Case { daemon: &daemon, client: &client };
    case.check("no-id.csv", "id,name\n1,a\n", "/recipients/winback", ("rejected", "MISSING_COLUMN", Some(1)));
    case.check("none.csv", "customer_id\n", "/recipients/winback", ("rejected", "NO_ROWS", None));
    case.check(
        "short.rows-3.csv",
        "customer_id\nc1\nc2\n",
        "/recipients/winback",
        ("rejected", "ROW_COUNT_DIFFERS", None),
    );
    client.write("list.csv", "customer_id\nc1\n");
    for command in
        ["put list.csv /recipients/", "put list.csv /recipients/nowhere/", "put list.csv /assignments/winback/"]
    {
        client.refused(command);
    }
    daemon.wait_idle();
    assert_eq!(daemon.count("SELECT count(*) FROM batch"), 0);
    assert_eq!(client.list("/assignments/winback"), Vec::<String>::new());
    daemon.verify_whole("acme");
}

#[test]
fn what_a_namespace_requires() {
    let signer = Gpg::new();
    let certificate = signer.make_key("feed@example.com");
    let mut daemon = Daemon::prepare(&[]);
    std::fs::create_dir(daemon.path("namespaces/keys")).unwrap();
    daemon.write("namespaces/keys/feed.asc", &certificate);
    daemon.configure("acme", &format!("{ACME}\n[openpgp]\nrequire = \"signed\"\nsigners = [\"keys/feed.asc\"]\n"));
    daemon.start();
    let client = daemon.client("acme-feed");
    signer.import(&client.get("/openpgp/coupond.asc"));
    let case = Case { daemon: &daemon, client: &client };
    case.check("plain.csv", "A1\n", "/coupons/spring26", ("rejected", "NOT_ENCRYPTED", None));
    case.check("unsigned.pgp", signer.encrypt("A1\n", &[]), "/coupons/spring26", ("rejected", "NOT_SIGNED", None));
    let stranger = Gpg::new();
    stranger.make_key("stranger@example.com");
    stranger.import(&client.get("/openpgp/coupond.asc"));
    let foreign = stranger.encrypt("A1\n", &["--sign", "--local-user", "stranger@example.com"]);
    case.check("foreign.pgp", foreign, "/coupons/spring26", ("quarantined", "OPENPGP_BAD_SIGNATURE", None));
    let signed = signer.encrypt("A1\n", &["--sign", "--local-user", "feed@example.com"]);
    assert_eq!(client.send("signed.pgp", signed, "/coupons/spring26")["status"], "applied");
}

fn flate(content: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}
