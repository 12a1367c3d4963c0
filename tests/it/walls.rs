//! Roles and namespaces are walls: point 6. No user sees or reaches what is not its own, whatever path it sends.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use russh_sftp::protocol::{OpenFlags, StatusCode};

use crate::harness::daemon::Daemon;
use crate::harness::second_client::{Answer, SecondClient};

const BOTH: &str = r#"
exchange = true
[users.NS-feed]
role = "client"
public_keys = ["@NS-feed@"]
[users.NS-feed-two]
role = "client"
public_keys = ["@NS-feed-two@"]
[users.NS-mail]
role = "campaigns"
public_keys = ["@NS-mail@"]
[users.NS-all]
role = "all"
public_keys = ["@NS-all@"]
[banks.NS-bank]
[campaigns.NS-campaign]
bank = "NS-bank"
channel = "email"
schedule = "on-arrival"
when_short = "partial"
"#;

fn both() -> Daemon {
    Daemon::serve(&[("acme", &BOTH.replace("NS", "acme")), ("zeta", &BOTH.replace("NS", "zeta"))])
}

fn connect(daemon: &Daemon, user: &str) -> SecondClient {
    let client = daemon.client(user);
    SecondClient::with_key(client.port, user, &client.key).unwrap()
}

/// Fills a namespace with a report of each kind, an assignment file, a waiting file, and something in `/exchange`.
fn fill(daemon: &Daemon, namespace: &str) {
    let all = daemon.client(&format!("{namespace}-all"));
    all.send(&format!("{namespace}-codes.csv"), "A1\nA2\n", &format!("/coupons/{namespace}-bank"));
    all.send(&format!("{namespace}-used.csv"), "A2\n", "/redemptions");
    let list = format!("{namespace}-list.csv");
    all.put(&list, "customer_id\nc1\nc2\n", &format!("/recipients/{namespace}-campaign"));
    all.report(&list);
    all.collect(&format!("{namespace}-campaign"), &format!("{namespace}-list"));
    all.put(&format!("{namespace}-waits.tmp"), "A3\n", &format!("/coupons/{namespace}-bank"));
    all.put(&format!("{namespace}-note.txt"), "a note", "/exchange");
}

const EVERY: [&str; 19] = [
    "/",
    "/assignments",
    "/assignments/acme-campaign",
    "/check",
    "/check/coupons",
    "/check/coupons/acme-bank",
    "/check/recipients",
    "/check/recipients/acme-campaign",
    "/check/redemptions",
    "/coupons",
    "/coupons/acme-bank",
    "/exchange",
    "/openpgp",
    "/recipients",
    "/recipients/acme-campaign",
    "/redemptions",
    "/reports",
    "/.spool",
    "/nothing",
];

/// One letter an answer: done, denied, no such file, failure, unsupported.
fn letter<T>(answer: &Answer<T>) -> char {
    match answer {
        Ok(_) => '+',
        Err(StatusCode::PermissionDenied) => 'd',
        Err(StatusCode::NoSuchFile) => 'n',
        Err(StatusCode::Failure) => 'f',
        Err(StatusCode::OpUnsupported) => 'u',
        Err(_) => '?',
    }
}

/// What a user may do in a directory: list it; write a file, read it back, rename it, remove it; make a directory in it,
/// remove that; link in it, remove and rename the directory itself.
fn may(client: &SecondClient, directory: &str) -> String {
    let file = format!("{}/wall.tmp", directory.trim_end_matches('/'));
    let other = format!("{}/wall-two.tmp", directory.trim_end_matches('/'));
    let inner = format!("{}/wall-dir", directory.trim_end_matches('/'));
    let mut letters = String::new();
    letters.push(letter(&client.list(directory)));
    letters.push(letter(&client.write(&file, b"A9\n")));
    letters.push(letter(&client.read(&file)));
    letters.push(letter(&client.rename(&file, &other)));
    letters.push(letter(&client.remove(&other)));
    letters.push(letter(&client.make_directory(&inner)));
    letters.push(letter(&client.remove_directory(&inner)));
    letters.push(letter(&client.link(&file, "/etc/passwd")));
    letters.push(letter(&client.hard_link("/openpgp/coupond.asc", &file)));
    if directory != "/" {
        letters.push(letter(&client.remove_directory(directory)));
        letters.push(letter(&client.rename(directory, "/elsewhere")));
    }
    letters
}

#[test]
fn every_directory_by_every_role() {
    let daemon = both();
    fill(&daemon, "acme");
    // Where the role works; where it collects; where there are only directories; where it has all of SFTP; and where there
    // is nothing for it, which looks the same whether or not there is something for others.
    const DROP: &str = "++d++dddudd";
    const SHELF: &str = "+dndddddudd";
    const LOOK: &str = "+dnnndndudd";
    const ROOT: &str = "+dnnndndu";
    const OWN: &str = "+++++++dudd";
    const GONE: &str = "ndnnndndunn";
    let expected = |user: &str, directory: &str| -> &str {
        let (client, campaigns) = (user != "acme-mail", user != "acme-feed");
        match directory.strip_prefix("/check").unwrap_or(directory) {
            _ if directory == "/" => ROOT,
            "" => LOOK,
            "/reports" | "/openpgp" => SHELF,
            "/coupons" | "/coupons/acme-bank" | "/redemptions" if client => DROP,
            "/exchange" if client => OWN,
            "/recipients" | "/assignments" if campaigns => LOOK,
            "/assignments/acme-campaign" if campaigns => SHELF,
            "/recipients/acme-campaign" if campaigns => DROP,
            _ => GONE,
        }
    };
    let mut wrong = Vec::new();
    for user in ["acme-feed", "acme-mail", "acme-all"] {
        let client = connect(&daemon, user);
        for directory in EVERY {
            let (found, expected) = (may(&client, directory), expected(user, directory));
            if found != expected {
                wrong.push(format!("{user} {directory}: {found}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_each_role_sees_at_its_root() {
    let daemon = both();
    let root = |user: &str| connect(&daemon, user).list("/").unwrap().join(" ");
    assert_eq!(root("acme-feed"), "check coupons exchange openpgp redemptions reports");
    assert_eq!(root("acme-mail"), "assignments check openpgp recipients reports");
    assert_eq!(root("acme-all"), "assignments check coupons exchange openpgp recipients redemptions reports");
    assert_eq!(daemon.client("acme-feed").list("/").join(" "), root("acme-feed"), "OpenSSH sees the same");
}

/// Every path that a user can find.
fn walk(client: &SecondClient, directory: &str, found: &mut BTreeSet<String>) {
    for name in client.list(directory).unwrap_or_default() {
        let path = format!("{}/{name}", directory.trim_end_matches('/'));
        walk(client, &path, found);
        found.insert(path);
    }
}

#[test]
fn nobody_sees_the_other_namespace() {
    let daemon = both();
    for namespace in ["acme", "zeta"] {
        fill(&daemon, namespace);
    }
    for (own, other) in [("acme", "zeta"), ("zeta", "acme")] {
        for role in ["feed", "mail", "all"] {
            let client = connect(&daemon, &format!("{own}-{role}"));
            let mut found = BTreeSet::new();
            walk(&client, "/", &mut found);
            assert!(found.len() > 8, "{found:?}");
            let strangers: Vec<_> = found.iter().filter(|path| path.contains(other)).collect();
            assert_eq!(strangers, Vec::<&String>::new(), "{own}-{role} sees {other}");
            assert!(found.iter().all(|path| !path.contains("spool")), "{found:?}");
            let reports = found.iter().filter(|path| path.starts_with("/reports/")).count();
            let expected = match role {
                "feed" => 4,
                "mail" => 2,
                _ => 6,
            };
            assert_eq!(reports, expected, "{own}-{role} sees reports of its kinds: {found:?}");
        }
    }
    // Another user of the same role sees what is collected, but not what the first has not finished.
    let second = connect(&daemon, "acme-feed-two");
    assert!(!second.list("/coupons/acme-bank").unwrap().contains(&"acme-waits.tmp".to_owned()));
    let waits = "/coupons/acme-bank/acme-waits.tmp";
    assert_eq!(second.size(waits), Err(StatusCode::NoSuchFile));
    assert!(second.rename(waits, "/coupons/acme-bank/mine.csv").is_err());
    assert!(second.remove(waits).is_err());
    // Names that it can guess do not help.
    let feed = connect(&daemon, "acme-feed");
    let reports = connect(&daemon, "acme-mail").list("/reports").unwrap();
    for report in reports {
        assert_eq!(feed.read(&format!("/reports/{report}")), Err(StatusCode::NoSuchFile), "{report}");
        assert_eq!(feed.size(&format!("/reports/{report}")), Err(StatusCode::NoSuchFile), "{report}");
        assert!(feed.remove(&format!("/reports/{report}")).is_err(), "{report}");
    }
}

#[test]
fn paths_that_try_to_get_out() {
    let daemon = both();
    fill(&daemon, "acme");
    fill(&daemon, "zeta");
    let state = daemon.path("state");
    let client = connect(&daemon, "acme-all");
    let ways = [
        "/../zeta/reports",
        "../zeta/reports",
        "/coupons/../../zeta/reports",
        "/exchange/../../zeta/reports",
        "/exchange/..//../zeta/exchange",
        "/reports/../../../../etc",
        "/./../../etc",
        "/exchange/../.spool/archive",
        "/reports/../.spool",
        "/.spool/incoming",
        "//etc",
        "/etc",
        "/proc/self/root",
        "/namespaces/zeta",
        "/zeta",
        "~",
        "/exchange/~root",
        "/coupons/acme-bank/../../../zeta/coupons/zeta-bank",
        "/coupons/zeta-bank",
        "/check/coupons/zeta-bank",
        "/assignments/zeta-campaign",
        "/coupons/ACME-BANK",
        "/coupons/acme-bank/sub",
    ];
    for way in ways {
        assert!(client.list(way).is_err(), "{way} can be listed");
        assert!(client.write(&format!("{way}/x.csv"), b"A1\n").is_err(), "{way} can be written to");
        assert!(client.make_directory(&format!("{way}/x")).is_err(), "{way} can get a directory");
        assert!(
            client.rename("/exchange/acme-note.txt", &format!("{way}/x.txt")).is_err(),
            "{way} can be renamed into"
        );
    }
    for file in [
        "/etc/passwd",
        "/exchange/../../../../../../etc/passwd",
        "/reports/../../../../../../../etc/passwd",
        "/../coupond.toml",
        "/../../../coupond.toml",
        "/../zeta/openpgp/coupond.asc",
        &format!("{}/ssh", state.display()),
        &format!("{}/namespaces/zeta/exchange/zeta-note.txt", state.display()),
    ] {
        let read = client.read(file);
        assert!(read.is_err(), "{file} can be read: {read:?}");
    }
    // A few spellings of what is its own.
    for own in
        ["/exchange", "//exchange//", "/exchange/.", "/./exchange", "/coupons/../exchange", "exchange", "/../exchange"]
    {
        assert_eq!(client.list(own).unwrap(), ["acme-note.txt"], "{own}");
    }
    for (path, real) in
        [(".", "/"), ("", "/"), ("/..", "/"), ("/coupons/..//./reports/", "/reports"), ("a/../../../b", "/b")]
    {
        assert_eq!(client.real_path(path).unwrap(), real, "{path}");
    }
    assert_eq!(fs::read_to_string(daemon.namespace("zeta").join("exchange/zeta-note.txt")).unwrap(), "a note");
}

#[test]
fn links_planted_on_disk_lead_nowhere() {
    let daemon = both();
    fill(&daemon, "acme");
    fill(&daemon, "zeta");
    let (acme, zeta) = (daemon.namespace("acme"), daemon.namespace("zeta"));
    let secret = daemon.path("secret");
    fs::write(&secret, "the secret").unwrap();
    let places = ["exchange", "reports", "openpgp", "assignments/acme-campaign", "coupons/acme-bank", "redemptions"];
    for place in places {
        symlink(&secret, acme.join(place).join("planted.txt")).unwrap();
        symlink(&zeta, acme.join(place).join("planted-dir")).unwrap();
        symlink("/", acme.join(place).join("planted-root")).unwrap();
        symlink("../../zeta/exchange/zeta-note.txt", acme.join(place).join("planted-near")).unwrap();
    }
    let client = connect(&daemon, "acme-all");
    for place in places {
        let at = |name: &str| format!("/{place}/{name}");
        let planted = ["planted.txt", "planted-near", "planted-dir/exchange/zeta-note.txt", "planted-root/etc/passwd"];
        for name in planted {
            assert!(client.read(&at(name)).is_err(), "{}", at(name));
            let flags = OpenFlags::WRITE | OpenFlags::TRUNCATE;
            assert!(client.write_with(&at(name), b"overwritten", flags).is_err(), "{}", at(name));
        }
        for name in ["planted-dir", "planted-root", "planted-dir/exchange", "planted-root/etc"] {
            assert!(client.list(&at(name)).is_err(), "{}", at(name));
            assert!(client.write(&at(&format!("{name}/new.txt")), b"new").is_err(), "{}", at(name));
        }
        assert!(client.read_link(&at("planted.txt")).is_err());
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "the secret");
    assert_eq!(fs::read_to_string(zeta.join("exchange/zeta-note.txt")).unwrap(), "a note");
    assert_eq!(crate::harness::daemon::names(&zeta.join("exchange")).len(), 1);
}

#[test]
fn names_that_a_file_cannot_have() {
    let daemon = both();
    let client = connect(&daemon, "acme-all");
    let bad = [
        "a\nb.csv".to_owned(),
        "a\rb.csv".to_owned(),
        "a\0b.csv".to_owned(),
        "\x1b[31mred.csv".to_owned(),
        "a\tb.csv".to_owned(),
        "a\x7f.csv".to_owned(),
        "\u{85}next.csv".to_owned(),
        "x".repeat(201),
        "x".repeat(256),
        "x/".repeat(40),
        "x".repeat(5000),
    ];
    for name in &bad {
        let answer = client.write(&format!("/coupons/acme-bank/{name}"), b"A1\n");
        assert!(answer.is_err(), "{}", name.escape_debug());
        assert_ne!(answer, Err(StatusCode::ConnectionLost), "{}", name.escape_debug());
    }
    let good = ["Frühling ☂.csv".to_owned(), "x".repeat(200), "-rf.csv".to_owned(), "a;b|c*.csv".to_owned()];
    for (number, name) in good.iter().enumerate() {
        client.write(&format!("/coupons/acme-bank/{name}"), format!("A{number}\n").as_bytes()).unwrap();
    }
    daemon.wait_idle();
    let reports = client.list("/reports").unwrap();
    for name in good {
        assert!(
            reports.iter().any(|report| report.starts_with(&name) && report.ends_with(".report.json")),
            "{reports:?}"
        );
    }
    assert_eq!(daemon.count("SELECT count(*) FROM upload"), 4);
    daemon.verify_whole("acme");
    let log = daemon.log();
    assert!(!log.contains('\x1b') && !log.contains('\0'), "a client's name must not command the admin's terminal");
}

#[test]
fn exchange_exists_only_where_the_namespace_says_so() {
    let daemon = Daemon::serve(&[("acme", &BOTH.replace("NS", "acme").replace("exchange = true", ""))]);
    for user in ["acme-feed", "acme-mail", "acme-all"] {
        let client = connect(&daemon, user);
        assert!(!client.list("/").unwrap().contains(&"exchange".to_owned()));
        assert_eq!(client.list("/exchange"), Err(StatusCode::NoSuchFile));
        assert!(client.write("/exchange/a.txt", b"a").is_err());
        assert!(client.make_directory("/exchange").is_err());
    }
    assert!(!daemon.namespace("acme").join("exchange").exists());
}

#[test]
fn collected_files_go_only_where_the_namespace_says_so() {
    let daemon = both();
    fill(&daemon, "acme");
    let client = connect(&daemon, "acme-all");
    let everything = |client: &SecondClient| {
        let paths = ["/reports", "/assignments/acme-campaign"].map(|directory| {
            let names = client.list(directory).unwrap();
            names.into_iter().map(move |name| format!("{directory}/{name}")).collect::<Vec<_>>()
        });
        paths.concat()
    };
    let before = everything(&client);
    assert_eq!(before.len(), 9, "{before:?}");
    for path in &before {
        assert_eq!(client.remove(path), Err(StatusCode::PermissionDenied), "{path}");
        assert!(client.rename(path, "/exchange/mine.csv").is_err(), "{path}");
        assert!(client.write(path, b"forged").is_err(), "{path}");
    }
    assert_eq!(everything(&client), before);

    let from = daemon.log().len();
    daemon.configure("acme", &format!("may_delete_collected = true\n{}", BOTH.replace("NS", "acme")));
    daemon.signal(rustix::process::Signal::HUP);
    crate::harness::until("the new configuration", || daemon.log().split_off(from).contains("Took over").then_some(()));
    let feed = connect(&daemon, "acme-feed");
    for path in before.iter().filter(|path| path.contains("acme-list")) {
        assert!(feed.remove(path).is_err(), "another role's: {path}");
    }
    for path in &before {
        assert_eq!(client.remove(path), Ok(()), "{path}");
    }
    assert_eq!(everything(&client), Vec::<String>::new());
    assert!(client.remove("/openpgp/coupond.asc").is_err());
}

#[test]
fn who_may_log_in() {
    use argon2::password_hash::PasswordHasher as _;
    let hash = argon2::Argon2::default().hash_password(b"correct horse").unwrap().to_string();
    let users = format!(
        "[users.acme-feed]\nrole = \"client\"\npublic_keys = [\"@acme-feed@\"]\nallow_from = [\"127.0.0.0/8\"]\n\
         [users.acme-word]\nrole = \"client\"\npassword_hash = '{hash}'\n\
         [users.acme-far]\nrole = \"client\"\npublic_keys = [\"@acme-feed@\"]\npassword_hash = '{hash}'\n\
         allow_from = [\"192.0.2.0/24\"]\n"
    );
    let daemon = Daemon::serve(&[("acme", &users), ("zeta", &BOTH.replace("NS", "zeta"))]);
    let (port, key) = (daemon.sftp_port(), |user: &str| daemon.client(user).key);
    assert!(SecondClient::with_key(port, "acme-feed", &key("acme-feed")).is_ok());
    assert!(SecondClient::with_password(port, "acme-word", "correct horse").is_ok());
    for (user, key) in [
        ("acme-feed", key("zeta-feed")),
        ("zeta-feed", key("acme-feed")),
        ("acme-far", key("acme-feed")),
        ("acme-word", key("acme-feed")),
        ("nobody", key("acme-feed")),
        ("root", key("acme-feed")),
        ("", key("acme-feed")),
        ("ACME-FEED", key("acme-feed")),
    ] {
        assert!(SecondClient::with_key(port, user, &key).is_err(), "{user} with {}", key.display());
    }
    for (user, password) in [
        ("acme-word", "wrong"),
        ("acme-word", ""),
        ("acme-far", "correct horse"),
        ("acme-feed", "correct horse"),
        ("acme-feed", ""),
        ("nobody", "correct horse"),
    ] {
        assert!(SecondClient::with_password(port, user, password).is_err(), "{user} with `{password}`");
    }
    daemon.client("acme-far").refused("ls");
    assert!(!daemon.log().contains("correct horse"), "passwords are never logged");
}
