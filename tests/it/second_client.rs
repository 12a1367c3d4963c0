//! The same upload and download with a client that shares no code with OpenSSH's.

use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::daemon::Daemon;
use crate::harness::second_client::SecondClient;
use crate::harness::until;

const ACME: &str = r#"
exchange = true
[users.acme-feed]
role = "all"
public_keys = ["@acme-feed@"]
[banks.spring26]
[campaigns.winback]
bank = "spring26"
channel = "email"
schedule = "on-arrival"
"#;

fn connect(daemon: &Daemon) -> SecondClient {
    let client = daemon.client("acme-feed");
    SecondClient::with_key(client.port, &client.user, &client.key).unwrap()
}

fn wait_for(client: &SecondClient, directory: &str, begins: &str, ends: &str) -> Vec<u8> {
    let name = until(&format!("{directory}/{begins}*{ends}"), || {
        let names = client.list(directory).unwrap();
        names.into_iter().find(|name| name.starts_with(begins) && name.ends_with(ends))
    });
    client.read(&format!("{directory}/{name}")).unwrap()
}

fn report(client: &SecondClient, name: &str) -> Value {
    serde_json::from_slice(&wait_for(client, "/reports", &format!("{name}."), ".report.json")).unwrap()
}

#[test]
fn a_file_up_and_an_assignment_file_down() {
    let daemon = Daemon::serve(&[("acme", ACME)]);
    let client = connect(&daemon);
    // Half a million codes: many writes in flight at once.
    let codes: String = (0..500_000).map(|number| format!("CODE-{number:06}\n")).collect();
    client.session(async |sftp| {
        let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::WRITE;
        let mut file = sftp.open_with_flags("/coupons/spring26/codes.csv", flags).await.unwrap();
        file.write_all(codes.as_bytes()).await.unwrap();
        file.shutdown().await.unwrap();
        let found = sftp.metadata("/coupons/spring26/codes.csv").await.unwrap();
        assert_eq!(found.size, Some(codes.len() as u64), "the name stays for clients that check");
    });
    let codes = report(&client, "codes.csv");
    assert_eq!((&codes["status"], codes["rows"]["accepted"].as_u64()), (&"applied".into(), Some(500_000)));

    let customers: String = (0..20_000).map(|number| format!("c{number}\n")).collect();
    client.session(async |sftp| {
        // As clients with temporary names do: upload, then rename.
        let mut file = sftp.create("/recipients/winback/list.csv.part").await.unwrap();
        file.write_all(b"customer_id\n").await.unwrap();
        file.write_all(customers.as_bytes()).await.unwrap();
        file.shutdown().await.unwrap();
        sftp.rename("/recipients/winback/list.csv.part", "/recipients/winback/list.csv").await.unwrap();
    });
    let manifest = wait_for(&client, "/assignments/winback", "list.", ".manifest.json");
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let name = manifest["files"][0]["name"].as_str().unwrap();
    let content = client.session(async |sftp| {
        let mut file = sftp.open(format!("/assignments/winback/{name}")).await.unwrap();
        let mut content = Vec::new();
        (&mut file).take(64 << 20).read_to_end(&mut content).await.unwrap();
        content
    });
    crate::harness::daemon::verify_listed(&manifest["files"][0], &content);
    assert_eq!(crate::harness::sftp::lines(&content).len(), 20_000);
    daemon.wait_idle();
    daemon.verify_whole("acme");
}

#[test]
fn a_session_that_drops_leaves_a_partial_file_for_its_user() {
    let daemon = Daemon::serve(&[("acme", ACME)]);
    connect(&daemon).write_and_drop("/coupons/spring26/big.csv", b"A1\nA2\n");
    let client = connect(&daemon);
    until("the partial file is there", || (client.size("/coupons/spring26/big.csv") == Ok(6)).then_some(()));
    let state = || daemon.rows("SELECT state FROM upload")[0]["state"].as_str().unwrap().to_owned();
    until("the upload is partial", || (state() == "partial").then_some(()));
    // Resume: OpenSSH's `reput` appends where the file ends.
    let sftp = daemon.client("acme-feed");
    sftp.write("big.csv", "A1\nA2\nA3\n");
    sftp.does(&["reput big.csv /coupons/spring26/big.csv"]);
    let report = sftp.report("big.csv");
    assert_eq!((report["upload_id"].as_u64(), report["rows"]["accepted"].as_u64()), (Some(1), Some(3)), "{report:#}");
    daemon.wait_idle();
    daemon.verify_whole("acme");
}

#[test]
fn what_clients_do_after_a_close() {
    let daemon = Daemon::serve(&[("acme", ACME)]);
    let client = connect(&daemon);
    client.write("/redemptions/used.csv", b"A1\n").unwrap();
    assert_eq!(client.size("/redemptions/used.csv"), Ok(3));
    let times = FileAttributes { atime: Some(1_000_000_000), mtime: Some(1_000_000_000), ..FileAttributes::empty() };
    assert_eq!(client.set("/redemptions/used.csv", times), Ok(()));
    assert_eq!(client.lstat("/redemptions/used.csv").unwrap().mtime, Some(1_000_000_000));
    report(&client, "used.csv");
    assert_eq!(client.size("/redemptions/used.csv"), Ok(3), "it lingers after its verdict");
    let resume = client.write_with("/redemptions/used.csv", b"A2\n", OpenFlags::WRITE);
    assert_eq!(resume, Err(StatusCode::Failure), "what was taken is never written again");
    assert_eq!(client.remove("/redemptions/used.csv"), Err(StatusCode::Failure));
}

#[test]
fn exchange_is_plain_shared_space() {
    let daemon = Daemon::serve(&[("acme", ACME)]);
    let client = connect(&daemon);
    client.make_directory("/exchange/sub").unwrap();
    client.write("/exchange/sub/a.txt", b"hello").unwrap();
    assert_eq!(client.read("/exchange/sub/a.txt").unwrap(), b"hello");
    client.write_with("/exchange/sub/a.txt", b"J", OpenFlags::WRITE).unwrap();
    assert_eq!(client.read("/exchange/sub/a.txt").unwrap(), b"Jello");
    client.write_with("/exchange/sub/a.txt", b"!", OpenFlags::WRITE | OpenFlags::APPEND).unwrap();
    assert_eq!(client.read("/exchange/sub/a.txt").unwrap(), b"Jello!");
    client.set("/exchange/sub/a.txt", FileAttributes { size: Some(2), ..FileAttributes::empty() }).unwrap();
    assert_eq!(client.read("/exchange/sub/a.txt").unwrap(), b"Je");
    client.rename("/exchange/sub/a.txt", "/exchange/b.txt").unwrap();
    client.write("/exchange/c.txt", b"c").unwrap();
    assert_eq!(client.rename("/exchange/c.txt", "/exchange/b.txt"), Err(StatusCode::Failure), "never over a file");
    assert_eq!(client.remove_directory("/exchange/sub"), Ok(()));
    assert_eq!(client.list("/exchange"), Ok(vec!["b.txt".to_owned(), "c.txt".to_owned()]));
    client.space("/exchange").unwrap();
    assert!(client.link("/exchange/link", "/etc/passwd").is_err());
    assert!(client.hard_link("/exchange/b.txt", "/exchange/d.txt").is_err());
    for name in ["b.txt", "c.txt"] {
        client.remove(&format!("/exchange/{name}")).unwrap();
    }
    let sftp = daemon.client("acme-feed");
    sftp.write("posix.txt", "1");
    // OpenSSH's rename is posix-rename, which replaces.
    sftp.does(&[
        "put posix.txt /exchange/one",
        "put posix.txt /exchange/two",
        "rename /exchange/one /exchange/two",
        "chmod 640 /exchange/two",
        "df /exchange",
        "rm /exchange/two",
    ]);
    assert_eq!(client.list("/exchange"), Ok(Vec::new()));
    assert_eq!(daemon.count("SELECT count(*) FROM upload"), 0, "nothing there is processed");
}
