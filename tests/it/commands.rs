//! The commands beside `serve`.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::daemon::{Daemon, PROGRAM};
use crate::harness::postgres::Database;
use crate::harness::run;

const ACME: &str = r#"
[users.acme-feed]
role = "client"
public_keys = ["@acme-feed@"]
[banks.spring26]
[banks.walkin]
audience = "site"
persistent = false
[campaigns.winback]
bank = "spring26"
channel = "email"
schedule = "on-arrival"
"#;

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn check_says_file_and_line() {
    let daemon = Daemon::prepare(&[("acme", ACME)]);
    let good = "ok: 1 namespace, 1 user, 2 banks, 1 campaign\n";
    assert_eq!(said(&daemon.command(&["check"])), (Some(0), good.to_owned(), String::new()));

    daemon.configure("acme", &format!("{ACME}whne_short = \"wait\"\n"));
    let (code, out, err) = said(&daemon.command(&["check"]));
    assert_eq!((code, out.as_str()), (Some(78), ""));
    let place = format!("{}:{}:1: ", daemon.path("namespaces/acme.toml").display(), ACME.lines().count() + 1);
    assert!(err.starts_with(&place) && err.contains("when_short"), "{err}");

    // Nothing else works with it either, and nothing was changed.
    for command in ["serve", "migrate", "banks"] {
        assert_eq!(said(&daemon.command(&[command])).0, Some(78), "{command}");
    }
    assert!(!daemon.path("state").exists());
}

#[test]
fn check_looks_into_the_keys_that_are_named() {
    let daemon = Daemon::prepare(&[("acme", ACME)]);
    daemon.write("bad.key", "nonsense\n");
    let main = std::fs::read_to_string(daemon.path("coupond.toml")).unwrap();
    daemon.write("coupond.toml", &main.replace("[http]", "host_keys = [\"bad.key\"]\n[http]"));
    let (code, out, err) = said(&daemon.command(&["check"]));
    assert_eq!((code, out.as_str()), (Some(78), ""));
    assert!(err.contains("bad.key") && err.matches("because").count() == 1, "{err}");
    assert_eq!(said(&daemon.command(&["serve"])).0, Some(78));
    daemon.write("coupond.toml", &format!("{main}[openpgp]\nsecret_keys = [\"bad.key\"]\n"));
    assert_eq!(said(&daemon.command(&["check"])).0, Some(78));
    // The daemon runs without a client's certificate: only its files fail.
    daemon.write("coupond.toml", &main);
    daemon.configure("acme", &format!("{ACME}[openpgp]\nsigners = [\"../bad.key\"]\n"));
    let (code, out, _) = said(&daemon.command(&["check"]));
    assert_eq!(code, Some(0));
    assert!(out.contains("\nnote: failed to read ") && out.contains("it is not an OpenPGP certificate"), "{out}");
}

#[test]
fn an_answer_that_nobody_reads_to_its_end_is_no_failure() {
    let daemon = Daemon::prepare(&[("acme", ACME)]);
    // The reading end is closed before the command writes.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = Command::new(PROGRAM)
        .args(["contract", "acme", "--config"])
        .arg(daemon.path("coupond.toml"))
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(said(&output), (Some(0), String::new(), String::new()));
}

#[test]
fn options_that_do_not_go_together_are_wrong_usage() {
    let daemon = Daemon::prepare(&[("acme", ACME)]);
    daemon.write("a.csv", "A1\n");
    let file = daemon.path("a.csv");
    let file = file.to_str().unwrap();
    for more in [
        &["recipients", file][..],
        &["recipients", file, "--bank", "spring26"],
        &["redemptions", file, "--bank", "spring26"],
        &["coupons", file, "--campaign", "winback"],
        &["coupons", file, "--until", "soon"],
        &["redemptions", file, "--until", "2026-12-31"],
        &["wat", file],
    ] {
        let arguments = [&["import", "--namespace", "acme"][..], more].concat();
        let (code, _, err) = said(&daemon.command(&arguments));
        assert!(code == Some(2) && err.contains("--help"), "{more:?}: {code:?} {err}");
    }
    assert!(!daemon.path("state").exists(), "nothing was opened");
}

#[test]
fn every_command_shows_examples() {
    let (_, out, _) = said(&run(Command::new(PROGRAM).arg("--help"), ""));
    let commands = out.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 14, "{commands:?}");
    for command in commands.iter().filter(|command| **command != "help") {
        let (code, help, _) = said(&run(Command::new(PROGRAM).args([command, "--help"]), ""));
        assert!(code == Some(0) && help.contains("Examples:\n  "), "{command}:\n{help}");
    }
}

#[test]
fn help_and_wrong_usage() {
    let (code, out, _) = said(&run(Command::new(PROGRAM).arg("--help"), ""));
    assert_eq!(code, Some(0));
    for command in ["serve", "check", "demo", "migrate", "banks"] {
        assert!(out.lines().any(|line| line.trim_start().starts_with(command)), "{command} in:\n{out}");
    }
    assert_eq!(said(&run(Command::new(PROGRAM).arg("srve"), "")).0, Some(2));
    assert_eq!(said(&run(&mut Command::new(PROGRAM), "")).0, Some(2));
    let (code, out, _) = said(&run(Command::new(PROGRAM).arg("--version"), ""));
    assert_eq!((code, out), (Some(0), format!("coupond {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn banks_as_json_and_with_bars() {
    let daemon = Daemon::serve(&[("acme", ACME), ("zeta", "[banks.other]\n")]);
    let client = daemon.client("acme-feed");
    client.send("dated.until-2099-12-31.csv", "A1\nA2\nA3\n", "/coupons/spring26");
    client.send("used.csv", "A1\n", "/redemptions");
    let (code, out, _) = said(&daemon.command(&["banks", "--json", "--namespace", "acme"]));
    assert_eq!(code, Some(0));
    assert_eq!(
        serde_json::from_str::<Value>(&out).unwrap(),
        json!([
            {"namespace": "acme", "bank": "spring26", "end_date": "2099-12-31", "size": 3, "remaining": 2, "open": true},
            {"namespace": "acme", "bank": "walkin", "end_date": null, "size": 0, "remaining": 0, "open": true},
        ])
    );
    let (code, out, _) = said(&daemon.command(&["banks"]));
    assert_eq!((code, out.lines().count()), (Some(0), 3), "{out}");
    assert!(out.contains("acme/spring26") && out.contains("2 of 3 remain") && out.contains("zeta/other"), "{out}");
    let (code, _, err) = said(&daemon.command(&["banks", "--namespace", "nobody"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("nobody"), "{err}");
}

#[test]
fn migrate_on_a_url() {
    let daemon = Daemon::prepare(&[("acme", ACME)]);
    let empty = Database::empty();
    let main = std::fs::read_to_string(daemon.path("coupond.toml")).unwrap();
    let lines = main
        .lines()
        .map(|line| if line.starts_with("url") { format!("url = {:?}", empty.url) } else { line.to_owned() });
    daemon.write("coupond.toml", &lines.fold(String::new(), |text, line| text + &line + "\n"));
    for _ in 0..2 {
        let (code, out, err) = said(&daemon.command(&["migrate"]));
        assert_eq!((code, out.as_str()), (Some(0), "the schema is up to date\n"), "{err}");
    }
    assert!(empty.tables().contains(&"coupon".to_owned()));
    // A server that cannot be reached: what failed, and why, and no success.
    daemon.write(
        "coupond.toml",
        "state_dir = \"state\"\n[database]\nurl = \"postgresql://nobody@127.0.0.1:1/none?connect_timeout=2\"\n",
    );
    let (code, _, err) = said(&daemon.command(&["migrate"]));
    assert_eq!(code, Some(1));
    assert!(err.starts_with("error: failed to "), "{err}");
}

/// Its order of customers would be another than the daemon's, and codes that are kept would be passed over.
#[test]
fn a_store_in_another_encoding_is_refused() {
    let database = Database::in_encoding("WIN1252");
    let error = coupond::store::Store::connect(&database.url, 1).unwrap().migrate().unwrap_err().to_string();
    assert!(error.contains("WIN1252") && error.contains("ENCODING 'UTF8'"), "{error}");
    assert_eq!(database.tables(), Vec::<String>::new());
}

#[test]
fn migrate_and_banks_on_the_private_server() {
    let mut daemon = Daemon::prepare_private(&[("acme", ACME)]);
    let (code, out, err) = said(&daemon.command(&["migrate"]));
    assert_eq!((code, out.as_str()), (Some(0), "the schema is up to date\n"), "{err}");
    // While the daemon runs, a command uses its server.
    daemon.start();
    let (code, _, err) = said(&daemon.command(&["migrate"]));
    assert_eq!(code, Some(0), "{err}");
    let (code, out, err) = said(&daemon.command(&["banks", "--json"]));
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap().as_array().unwrap().len(), 2);
    assert_eq!(daemon.http("/readyz").unwrap().0, 200, "the daemon's server is still there");
    assert!(daemon.stop().success());
}
