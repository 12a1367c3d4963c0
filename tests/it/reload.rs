//! SIGHUP: a good change is taken over while sessions stay up, a bad file changes nothing.

use rustix::process::Signal;

use crate::harness::daemon::Daemon;
use crate::harness::second_client::SecondClient;
use crate::harness::until;

const ACME: &str = r#"
[users.acme-feed]
role = "client"
public_keys = ["@acme-feed@"]
[banks.spring26]
"#;

fn connect(daemon: &Daemon, user: &str) -> Result<SecondClient, String> {
    let client = daemon.client(user);
    SecondClient::with_key(client.port, user, &client.key)
}

fn wait_log(daemon: &Daemon, from: usize, words: &str) -> String {
    until(&format!("`{words}` in the log"), || {
        let log = daemon.log();
        let new = log.get(from..).unwrap_or_default();
        new.lines().find(|line| line.contains(words)).map(ToOwned::to_owned)
    })
}

#[test]
fn a_good_change_and_a_bad_file() {
    let daemon = Daemon::serve(&[("acme", ACME)]);
    let session = connect(&daemon, "acme-feed").unwrap();
    assert_eq!(session.list("/coupons").unwrap(), ["spring26"]);

    // Good: a user, a bank and a campaign more; the session sees them at once.
    let more = "[users.acme-late]\nrole = \"all\"\npublic_keys = [\"@acme-late@\"]\n[banks.late]\n\
                [campaigns.winback]\nbank = \"late\"\nchannel = \"email\"\nschedule = \"on-arrival\"\n";
    daemon.configure("acme", &format!("{ACME}{more}"));
    assert!(connect(&daemon, "acme-late").is_err(), "not before the reload");
    let from = daemon.log().len();
    daemon.signal(Signal::HUP);
    wait_log(&daemon, from, "Took over the new configuration");
    assert_eq!(session.list("/coupons").unwrap(), ["late", "spring26"], "the same session");
    let late = connect(&daemon, "acme-late").unwrap();
    assert_eq!(late.list("/assignments").unwrap(), ["winback"]);
    daemon.client("acme-late").send("a.csv", "A1\n", "/coupons/late");
    let (client, list) = (daemon.client("acme-late"), "customer_id\nc1\n");
    client.put("list.csv", list, "/recipients/winback");
    assert_eq!(client.collect("winback", "list").code("c1"), "A1");

    // Bad: nothing changes, and the log says where it is wrong.
    let from = daemon.log().len();
    daemon.configure("acme", &format!("{ACME}[banks.newest]\nlow_stok = 3\n"));
    daemon.signal(Signal::HUP);
    let line = wait_log(&daemon, from, "acme.toml:");
    let place = format!("acme.toml:{}:1", ACME.lines().count() + 2);
    assert!(line.contains(&place) && line.contains("low_stock"), "{line}");
    assert_eq!(session.list("/coupons").unwrap(), ["late", "spring26"]);
    assert!(connect(&daemon, "acme-late").is_ok());
    assert_eq!(daemon.http("/readyz").unwrap().0, 200);

    // A user that is taken out is out, its open session too.
    let from = daemon.log().len();
    daemon.configure("acme", ACME);
    daemon.signal(Signal::HUP);
    wait_log(&daemon, from, "Took over the new configuration");
    assert!(connect(&daemon, "acme-late").is_err());
    assert!(late.list("/coupons").is_err());
    assert!(session.list("/coupons").unwrap().contains(&"spring26".to_owned()));
}
