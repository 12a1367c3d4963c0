//! Loading a configuration: what is taken, and what is said about what is not.
use std::fs;
use std::time::Duration;

use coupond::config::{self, ConfigError, DatabaseSettings, LiveSettings, Role, Schedule, Settings};
use tempfile::TempDir;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE+g0sn9Jt0dJ7ihWkx5oJM1PeU3HB6jTI3PBbOZUWAa feed";
const HASH: &str = "$argon2id$v=19$m=65536,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$UjpJjnDMHgtZN0tnAmTtuMkyKcOwV0Zgzg3fGlRAe0Y";

/// A directory with `coupond.toml`, namespaces by file name, and other files.
struct Tree(TempDir);

impl Tree {
    fn new(main: &str) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.with("coupond.toml", main)
    }

    fn with(self, name: &str, text: &str) -> Self {
        let file = self.0.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
        self
    }

    fn load(&self, environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        config::load(&self.0.path().join("coupond.toml"), environment)
    }

    /// The problems, with the directory left out of them.
    fn problems(&self, environment: &[(&str, &str)]) -> Vec<String> {
        let error = self.load(environment).expect_err("this configuration was taken");
        let directory = format!("{}/", self.0.path().display());
        error.to_string().replace(&directory, "").lines().map(str::to_owned).collect()
    }
}

#[track_caller]
fn check_main(text: &str, expected: &[&str]) {
    assert_eq!(Tree::new(text).problems(&[]), expected, "{text}");
}

#[track_caller]
fn check_namespace(text: &str, expected: &[&str]) {
    assert_eq!(Tree::new("").with("namespaces/acme.toml", text).problems(&[]), expected, "{text}");
}

#[track_caller]
fn check_variable(name: &str, value: &str, expected: &[&str]) {
    assert_eq!(Tree::new("").problems(&[(name, value)]), expected, "{name}={value}");
}

#[test]
fn an_empty_file_gives_every_default() {
    let settings = Tree::new("").load(&[]).unwrap();
    assert_eq!(settings.state_dir.to_str(), Some("/var/lib/coupond"));
    assert_eq!(settings.sftp.listen, ["0.0.0.0:2222".parse().unwrap()]);
    assert_eq!(settings.http, "127.0.0.1:9187".parse().unwrap());
    assert_eq!(settings.database, DatabaseSettings::Private);
    assert!(settings.mail.is_none());
    assert_eq!(settings.spool.settle, Duration::from_secs(10));
    assert_eq!(settings.spool.partial_keep, Duration::from_secs(48 * 3_600));
    assert_eq!(settings.spool.archive_keep, Duration::from_secs(30 * 86_400));
    assert_eq!(settings.limits.upload_bytes, 4 << 30);
    assert_eq!(settings.limits.plaintext_bytes, 32 << 30);
    assert_eq!((settings.limits.reject.rows, settings.limits.reject.percent), (10_000, 10));
    assert_eq!(settings.limits.idle, Duration::from_secs(900));
    assert!(settings.namespaces.is_empty());
}

#[test]
fn a_whole_configuration() {
    let tree = Tree::new(
        "state_dir = \"state\"\n[database]\nurl = \"postgresql://a,b/coupond\"\n[limits]\nupload_bytes = \"1GiB\"\nrow_bytes = 4096\n",
    )
    .with("keys/mailer.asc", "")
    .with("namespaces/keys/mailer.asc", "")
    .with("namespaces/.hidden.toml", "not = = toml")
    .with("namespaces/notes.txt", "not toml")
    .with(
        "namespaces/acme.toml",
        &format!(
            "timezone = \"America/New_York\"\nnotify = [\"marketing@acme.example\"]\nexchange = true\n\
             [users.\"Acme.feed@1\"]\nrole = \"client\"\npublic_keys = [\"{KEY}\"]\nallow_from = [\"192.0.2.0/24\", \"::1\"]\n\
             [users.acme-mail]\nrole = \"campaigns\"\npassword_hash = \"{HASH}\"\n\
             [banks.spring26]\nlow_stock = 1000\nfallback_code = \"THANKS\"\n\
             [banks.walk-in]\naudience = \"site\"\npersistent = false\n\
             [campaigns.winback]\nbank = \"spring26\"\nchannel = \"sms\"\nschedule = \"0 0 2 * * *\"\nsend_at = \"09:00\"\ncollect_by = \"06:00\"\nwhen_short = \"fallback\"\n\
             encrypt_to = \"keys/mailer.asc\"\n\
             [redemptions]\nexpected_by = \"06:00\"\nmax_age = \"36h\"\nwhen_stale = \"wait\"\n\
             grace = \"30m\"\nskip_days = [\"sat\", \"sun\"]\nskip_dates = [\"2026-12-25\"]\n"
        ),
    );
    let settings = tree.load(&[]).unwrap();
    assert_eq!(settings.state_dir, tree.0.path().join("state"));
    assert_eq!((settings.limits.upload_bytes, settings.limits.row_bytes), (1 << 30, 4_096));
    let (namespace, user) = settings.user("Acme.feed@1").unwrap();
    assert_eq!((namespace.name.as_str(), user.role, user.allow_from.len()), ("acme", Role::Client, 2));
    assert_eq!(namespace.timezone, chrono_tz::America::New_York);
    let bank = namespace.banks.get("spring26").unwrap();
    assert_eq!((bank.persistent, bank.proof_code.as_str(), bank.low_stock), (true, "PROOF-SPRING26", Some(1_000)));
    let campaign = namespace.campaigns.get("winback").unwrap();
    assert!(matches!(campaign.schedule, Schedule::Cron(_)));
    assert_eq!(campaign.send_at.map(|time| time.to_string()).as_deref(), Some("09:00:00"));
    assert_eq!(campaign.collect_by.map(|time| time.to_string()).as_deref(), Some("06:00:00"));
    assert_eq!(campaign.encrypt_to.as_deref(), Some(tree.0.path().join("namespaces/keys/mailer.asc").as_path()));
    let feed = &namespace.redemptions;
    assert_eq!((feed.max_age, feed.grace), (Some(Duration::from_secs(36 * 3_600)), Duration::from_secs(30 * 60)));
    let days = ["2026-11-20", "2026-11-21", "2026-11-22", "2026-12-24", "2026-12-25"];
    assert_eq!(days.map(|day| feed.skipped.contains(day.parse().unwrap())), [false, true, true, false, true]);
}

#[test]
fn no_toml_and_no_file() {
    check_main(
        "state_dir = \n",
        &["coupond.toml:1:13: is not TOML: string values must be quoted, expected literal string"],
    );
    check_main(
        "[sftp]\nlisten = [\"a\"\n[http]\n",
        &["coupond.toml:3:1: is not TOML: missing comma between array elements, expected `,`"],
    );
    let tree = Tree::new("");
    fs::write(tree.0.path().join("coupond.toml"), b"# gr\xfcn").unwrap();
    assert_eq!(tree.problems(&[]), ["coupond.toml:1:5: is not UTF-8 from here on; save it as UTF-8"]);
    fs::remove_file(tree.0.path().join("coupond.toml")).unwrap();
    assert_eq!(tree.problems(&[]), ["coupond.toml: cannot be opened: No such file or directory (os error 2)"]);
}

#[test]
fn keys_that_nobody_knows() {
    check_main("[sftp]\nlisen = []\n", &["coupond.toml:2:1: unknown key `lisen` in `[sftp]`; did you mean `listen`?"]);
    check_main("[sftpd]\nlisten = []\n", &["coupond.toml:1:2: unknown key `sftpd`; did you mean `sftp`?"]);
    check_main(
        "[http]\nstate_dir = \"/x\"\nlease_secs = 3\nwhatever = 1\n",
        &[
            "coupond.toml:2:1: unknown key `state_dir` in `[http]`; it belongs at the top of the file, above the first `[section]`",
            "coupond.toml:3:1: unknown key `lease_secs` in `[http]`; it belongs in `[limits]`",
            "coupond.toml:4:1: unknown key `whatever` in `[http]`; known here: `listen`",
        ],
    );
    check_namespace(
        "[users.a]\nrole = \"client\"\npublic_key = []\n[banks.b]\nexchange = true\n",
        &[
            "namespaces/acme.toml:3:1: unknown key `public_key` in `[users.a]`; did you mean `public_keys`?",
            "namespaces/acme.toml:5:1: unknown key `exchange` in `[banks.b]`; it belongs at the top of the file, above the first `[section]`",
        ],
    );
}

#[test]
fn values_of_a_wrong_type() {
    check_main(
        "[sftp]\nlisten = \"0.0.0.0:22\"\n",
        &["coupond.toml:2:10: invalid type: string \"0.0.0.0:22\", expected a list"],
    );
    check_main("sftp = 3\n", &["coupond.toml:1:8: invalid type: integer `3`, expected a section"]);
    check_main(
        "[spool]\nsettle_secs = -1\n",
        &["coupond.toml:2:15: invalid value: integer `-1`, expected a whole number, 0 or more"],
    );
    check_main(
        "[limits]\nrow_bytes = true\n",
        &["coupond.toml:2:13: invalid type: boolean `true`, expected a number of bytes or a size such as \"4GiB\""],
    );
}

#[test]
fn every_problem_at_once_with_its_place() {
    check_main(
        "[sftp]\nlisten = [\n  \"0.0.0.0:2222\",\n  \"localhost:22\",\n]\nhost_keys = [\"nowhere.key\"]\n[database]\nurl = \"mysql://x\"\n\
         [mail]\nurl = \"smtp://a:b@c\"\n[limits]\nnesting = 99\nupload_bytes = \"4 gigs\"\n",
        &[
            "coupond.toml:4:3: \"localhost:22\" is not an address with a port; write it like \"0.0.0.0:2222\" or \"[::]:2222\"",
            "coupond.toml:6:14: host key `nowhere.key` cannot be opened: No such file or directory (os error 2)",
            "coupond.toml:8:7: `url` is not a PostgreSQL URL; write it like \"postgresql://coupond@db.example/coupond\", or leave it out for a private PostgreSQL",
            "coupond.toml:10:7: `url` holds a password; put it into a file and name that in `password_file`",
            "coupond.toml:9:2: `from` is missing; write it like \"coupond <alerts@example.com>\"",
            "coupond.toml:13:16: \"4 gigs\" is not a size; write it like 4096, \"64KiB\" or \"4GiB\"",
            "coupond.toml:12:11: `nesting` is 99; use 1 to 16",
        ],
    );
}

#[test]
fn the_sections_of_coupond_toml() {
    check_main(
        "[sftp]\nlisten = []\n",
        &["coupond.toml:2:10: `listen` is empty; give at least one address, such as \"0.0.0.0:2222\""],
    );
    check_main(
        "[sftp]\nlisten = [\"[::]:1\", \"[::]:1\"]\n",
        &["coupond.toml:2:21: \"[::]:1\" is listed twice; remove one"],
    );
    check_main(
        "[sftp]\nlisten = [\"127.0.0.1:9187\"]\n",
        &["coupond.toml: \"127.0.0.1:9187\" is also in `[sftp] listen`; choose another port"],
    );
    check_main(
        "[mail]\nurl = \"http://mail\"\nfrom = \"x\"\n",
        &[
            "coupond.toml:2:7: `url` must begin with \"smtps://\" (TLS from the start) or \"smtp://\" (STARTTLS where offered)",
            "coupond.toml:3:8: \"x\" is not a mail address; write it like \"marketing@example.com\"",
        ],
    );
    let tree = Tree::new("[openpgp]\nsecret_keys = [\"namespaces\"]\n").with("namespaces/acme.toml", "");
    assert_eq!(tree.problems(&[]), ["coupond.toml:2:16: secret key `namespaces` is a directory; name a file"]);
    check_main("[spool]\npartial_keep_hours = 0\n", &["coupond.toml:2:22: `partial_keep_hours` is 0; use 1 to 8784"]);
}

#[test]
fn values_that_only_look_right() {
    check_namespace(
        "[redemptions]\nexpected_by = 06:00:00\n",
        &["namespaces/acme.toml:2:15: invalid type: map, expected a text in quotes"],
    );
    check_namespace(
        "[users.a]\nrole = true\n",
        &["namespaces/acme.toml:2:8: invalid type: boolean `true`, expected a text in quotes"],
    );
    check_namespace(
        "users.a.rol = 1\n",
        &["namespaces/acme.toml:1:9: unknown key `rol` in `[users.a]`; did you mean `role`?"],
    );
    check_namespace(
        "banks = { b = { audience = \"sight\" } }\n",
        &["namespaces/acme.toml:1:28: `audience` cannot be \"sight\"; use \"communicate\" or \"site\""],
    );
    check_namespace("[[banks]]\n", &["namespaces/acme.toml:1:1: invalid type: sequence, expected a section"]);
    check_namespace("[banks.a]\n[banks.a]\n", &["namespaces/acme.toml:2:8: is not TOML: duplicate key"]);
}

#[test]
fn a_mutilated_file_is_refused_or_taken_and_nothing_worse() {
    for name in ["coupond.toml", "namespaces/example.toml"] {
        let whole = uncommented(&repository(&format!("config/{name}")));
        let tree = samples().with("mail.password", "").with("namespaces/keys/mailer.asc", "");
        let cuts = whole.char_indices().map(|(at, _)| at).filter(|at| at % 41 == 0);
        for cut in cuts {
            let (before, after) = whole.split_at(cut);
            for text in
                [before.to_owned(), format!("{before}\u{e9}{after}"), format!("{before}{}", after.get(1..).unwrap())]
            {
                fs::write(tree.0.path().join(name), &text).unwrap();
                if let Err(error) = tree.load(&[]) {
                    assert!(error.problems.iter().all(|problem| !problem.message.is_empty()), "{text}");
                }
            }
        }
    }
}

#[test]
fn users() {
    check_namespace(
        "[users.\"a b\"]\nrole = \"clint\"\npublic_keys = [\"ssh-dss AAAA\"]\nallow_from = [\"10.0.0.0/40\"]\n[users.c]\n",
        &[
            "namespaces/acme.toml:1:8: \"a b\" cannot be a user's name; use 1 to 64 of A-Z a-z 0-9 . _ @ -",
            "namespaces/acme.toml:2:8: `role` cannot be \"clint\"; did you mean \"client\"?",
            "namespaces/acme.toml:3:16: `ssh-dss` keys are too weak; ask for an Ed25519 key",
            "namespaces/acme.toml:4:15: \"10.0.0.0/40\" is not a network; write it like \"192.0.2.0/24\" or \"2001:db8::/32\"",
            "namespaces/acme.toml:5:8: `role` is missing; use \"client\", \"campaigns\" or \"all\"",
            "namespaces/acme.toml:5:8: user `c` cannot log in; give `public_keys` or `password_hash`",
        ],
    );
    for hash in ["secret", "$6$abc$def", "$argon2id$v=19$m=65536,t=1,p=1$c29tZXNhbHRzb21lc2FsdA"] {
        let text = format!("[users.a]\nrole = \"all\"\npassword_hash = '{hash}'\n");
        let found = Tree::new("").with("namespaces/acme.toml", &text).problems(&[]).join("\n");
        assert!(found.starts_with("namespaces/acme.toml:3:17: `password_hash` "), "{found}");
        assert!(!found.contains("secret"), "a password that stands in the hash's place must not be repeated: {found}");
    }
}

#[test]
fn user_names_are_unique_across_namespaces() {
    let user = format!("[users.feed]\nrole = \"client\"\npublic_keys = [\"{KEY}\"]\n");
    let tree = Tree::new("").with("namespaces/acme.toml", &user).with("namespaces/zeta.toml", &format!("\n{user}"));
    let expected = format!(
        "namespaces/zeta.toml:2:8: user `feed` exists already at {}; names are unique across namespaces",
        "namespaces/acme.toml:1:8"
    );
    assert_eq!(tree.problems(&[]), [expected]);
}

#[test]
fn banks_and_campaigns() {
    check_namespace(
        "[banks.walkin]\naudience = \"site\"\n",
        &["namespaces/acme.toml:1:8: a site bank is never persistent; write `persistent = false`"],
    );
    check_namespace(
        "[banks.walkin]\naudience = \"site\"\npersistent = true\n",
        &["namespaces/acme.toml:3:14: a site bank is never persistent; write `persistent = false`"],
    );
    check_namespace(
        "[banks.once]\npersistent = false\npersist_per = \"channel\"\n",
        &[
            "namespaces/acme.toml:3:15: `persist_per` means nothing in a bank with `persistent = false`; remove one of them",
        ],
    );
    check_namespace(
        "[banks.Spring]\nproof_code = \"A,B\"\noffer_type = \"percent\"\n",
        &[
            "namespaces/acme.toml:1:8: bank `Spring` is not a name: use a-z and 0-9 at both ends, `-` and `_` inside, under 40 characters",
            "namespaces/acme.toml:3:14: `offer_type` cannot be \"percent\"; use \"free_shipping\" or \"percent_off\" or \"amount_off\" or \"bogo\" or \"other\"",
            "namespaces/acme.toml:2:14: \"A,B\" cannot be a code; use 1 to 99 printable ASCII characters without blanks and without , ; | \"",
        ],
    );
    check_namespace(
        "[banks.spring]\n[banks.walkin]\naudience = \"site\"\npersistent = false\n[campaigns.a]\nbank = \"sprng\"\nschedule = \"0 2 * * *\"\n\
         [campaigns.b]\nbank = \"walkin\"\nencrypt_to = \"no.asc\"\n[campaigns.c]\n[campaigns.d]\nbank = \"spring\"\nwhen_short = \"fallback\"\n",
        &[
            "namespaces/acme.toml:7:12: schedule \"0 2 * * *\" has five fields; put the seconds first: \"0 0 2 * * *\"",
            "namespaces/acme.toml:6:8: no bank `sprng` in this namespace; did you mean `spring`?",
            "namespaces/acme.toml:10:14: certificate `namespaces/no.asc` cannot be opened: No such file or directory (os error 2)",
            "namespaces/acme.toml:9:8: bank `walkin` is for the site and takes no batch; name a bank with `audience = \"communicate\"`",
            "namespaces/acme.toml:11:12: `bank` is missing; name the bank that its codes come from",
            "namespaces/acme.toml:14:14: `when_short = \"fallback\"` needs a code to fall back on; set `fallback_code` in `[banks.spring]`",
        ],
    );
}

#[test]
fn the_rest_of_a_namespace() {
    check_namespace(
        "timezone = \"America/NewYork\"\nnotify = [\"a@b.example\", \"nobody\"]\nnew_banks = \"make\"\n[openpgp]\nrequire = \"signed\"\n\
         [redemptions]\nexpected_by = \"6\"\nmax_age = \"36\"\n",
        &[
            "namespaces/acme.toml:1:12: \"America/NewYork\" is not a time zone; did you mean \"America/New_York\"?",
            "namespaces/acme.toml:2:26: \"nobody\" is not a mail address; write it like \"marketing@example.com\"",
            "namespaces/acme.toml:3:13: `new_banks` cannot be \"make\"; use \"reject\" or \"create\"",
            "namespaces/acme.toml:5:11: `require = \"signed\"` without `signers` would refuse every file; list the certificates that may sign",
            "namespaces/acme.toml:7:15: \"6\" is not a time of day; write it like \"06:00\"",
            "namespaces/acme.toml:8:11: \"36\" is not a duration; write it like \"36h\", \"90m\" or \"2d\"",
        ],
    );
    check_namespace(
        "[redemptions]\nexpected_by = \"06:00\"\ngrace = \"7h\"\nskip_days = [\"sat\", \"Sunday\",\n\"sat\"]\n\
         skip_dates = [\"2026-12-25\", \"26.12.\", \"2026-12-25\"]\n",
        &[
            "namespaces/acme.toml:3:9: `grace` is \"7h\"; use 6 hours at most, or a later `expected_by`",
            "namespaces/acme.toml:4:21: \"Sunday\" is not a day of the week; use \"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\" or \"sun\"",
            "namespaces/acme.toml:5:1: \"sat\" is listed twice; remove one",
            "namespaces/acme.toml:6:29: \"26.12.\" is not a date; write it like \"2026-12-25\"",
            "namespaces/acme.toml:6:39: \"2026-12-25\" is listed twice; remove one",
        ],
    );
    check_namespace(
        "[redemptions]\ngrace = \"30m\"\nskip_days = [\"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\", \"sun\"]\n",
        &[
            "namespaces/acme.toml:2:9: `grace` means nothing without `expected_by`; say by when the file is expected",
            "namespaces/acme.toml:3:13: `skip_days` names the whole week; leave out `expected_by` and `max_age` instead",
            "namespaces/acme.toml:3:13: `skip_days` means nothing without `expected_by` or `max_age`",
        ],
    );
    check_namespace(
        "[redemptions]\nwhen_stale = \"wait\"\n",
        &[
            "namespaces/acme.toml:2:14: `when_stale` means nothing without `max_age`; say from which age on, such as `max_age = \"36h\"`",
        ],
    );
    assert_eq!(
        Tree::new("").with("namespaces/Acme.toml", "").problems(&[]),
        [
            "namespaces/Acme.toml: the file's stem `Acme` is not a name: use a-z and 0-9 at both ends, `-` and `_` inside, under 40 characters"
        ]
    );
}

#[test]
fn the_environment_lies_over_the_file() {
    let tree = Tree::new("state_dir = \"/a\"\n[sftp]\nlisten = [\"127.0.0.1:1\"]\n[limits]\nsessions = 7\n");
    let settings = tree
        .load(&[
            ("COUPOND_STATE_DIR", "/b"),
            ("COUPOND_SFTP__LISTEN", "127.0.0.1:2, [::1]:3"),
            ("COUPOND_LIMITS__UPLOAD_BYTES", "2GiB"),
            ("COUPOND_LIMITS__ROW_BYTES", "4096"),
            ("COUPOND_SPOOL__SETTLE_SECS", "0"),
            ("COUPOND_DATABASE__URL", ""),
            ("COUPOND_LOG", "debug"),
            ("COUPOND_UNRELATED__KEY", "x"),
            ("SFTP__LISTEN", "x"),
        ])
        .unwrap();
    assert_eq!(settings.state_dir.to_str(), Some("/b"));
    assert_eq!(settings.sftp.listen, ["127.0.0.1:2".parse().unwrap(), "[::1]:3".parse().unwrap()]);
    assert_eq!(
        (settings.limits.upload_bytes, settings.limits.row_bytes, settings.limits.sessions),
        (2 << 30, 4_096, 7)
    );
    assert_eq!(settings.spool.settle, Duration::ZERO);
    assert_eq!(settings.database, DatabaseSettings::Private);
}

#[test]
fn a_bad_variable_is_named() {
    check_variable(
        "COUPOND_SFTP__LISTEN",
        "0.0.0.0",
        &[
            "environment variable `COUPOND_SFTP__LISTEN`: \"0.0.0.0\" is not an address with a port; write it like \"0.0.0.0:2222\" or \"[::]:2222\"",
        ],
    );
    check_variable(
        "COUPOND_SFTP__LISEN",
        "x",
        &["environment variable `COUPOND_SFTP__LISEN`: unknown key `lisen` in `[sftp]`; did you mean `listen`?"],
    );
    check_variable(
        "COUPOND_STFP__LISTEN",
        "x",
        &["environment variable `COUPOND_STFP__LISTEN`: unknown key `stfp`; did you mean `sftp`?"],
    );
    check_variable(
        "COUPOND_LIMITS__SESSIONS",
        "many",
        &[
            "environment variable `COUPOND_LIMITS__SESSIONS`: does not fit `limits.sessions`: invalid type: string \"many\", expected an integer",
        ],
    );
    check_variable(
        "COUPOND_LIMITS__SESSIONS",
        "0",
        &["environment variable `COUPOND_LIMITS__SESSIONS`: `sessions` is 0; use 1 to 100000"],
    );
}

#[test]
fn a_reload_says_what_needs_a_restart() {
    let old = Tree::new("").load(&[]).unwrap();
    let new =
        Tree::new("[sftp]\nlisten = [\"127.0.0.1:1\"]\n[http]\nlisten = \"127.0.0.1:2\"\n[spool]\nsettle_secs = 1\n")
            .load(&[("COUPOND_STATE_DIR", "/elsewhere"), ("COUPOND_DATABASE__URL", "postgres://h/d")])
            .unwrap();
    assert!(config::needs_restart(&old, &old).is_empty());
    assert_eq!(config::needs_restart(&old, &new), ["state_dir", "sftp.listen", "database.url", "http.listen"]);
    let live = LiveSettings::new(old);
    let snapshot = live.current();
    live.replace(new);
    assert_eq!(snapshot.spool.settle, Duration::from_secs(10));
    assert_eq!(live.current().spool.settle, Duration::from_secs(1));
}

/// A file of the repository.
fn repository(name: &str) -> String {
    fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// A sample with every commented key and section in force.
fn uncommented(sample: &str) -> String {
    let switched = |line: &str| {
        let body = line.strip_prefix("# ")?;
        let key = body.split(" = ").next()?;
        let is_key = key != body && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        (is_key || body.starts_with('[')).then(|| body.to_owned())
    };
    sample.lines().map(|line| switched(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

fn samples() -> Tree {
    Tree::new(&repository("config/coupond.toml"))
        .with("namespaces/example.toml", &repository("config/namespaces/example.toml"))
}

#[test]
fn the_samples_show_the_defaults() {
    let tree = samples();
    let mut shown = tree.load(&[]).unwrap();
    let example = shown.namespaces.pop_first().unwrap().1;
    fs::write(tree.0.path().join("coupond.toml"), "").unwrap();
    let bare = "[banks.example]\n[campaigns.example]\nbank = \"example\"\n";
    fs::write(tree.0.path().join("namespaces/example.toml"), bare).unwrap();
    let mut default = tree.load(&[]).unwrap();
    assert_eq!(format!("{example:#?}"), format!("{:#?}", default.namespaces.pop_first().unwrap().1));
    assert_eq!(format!("{shown:#?}"), format!("{default:#?}"));
}

#[test]
fn the_samples_are_right_with_every_key_in_force() {
    let main = uncommented(&repository("config/coupond.toml"));
    let example = uncommented(&repository("config/namespaces/example.toml"));
    let tree = Tree::new(&main)
        .with("mail.password", "")
        .with("namespaces/example.toml", &example)
        .with("namespaces/keys/mailer.asc", "");
    let settings = tree.load(&[]).unwrap();
    assert!(settings.mail.is_some() && settings.user("example-feed").is_some());
    check_every_key_is_in(&config::main_keys(), &main);
    check_every_key_is_in(&config::namespace_keys(), &example);
}

#[track_caller]
fn check_every_key_is_in(keys: &[config::Key], sample: &str) {
    let document: toml::Table = sample.parse().unwrap();
    for key in keys {
        let mut value = &toml::Value::Table(document.clone());
        for segment in &key.path {
            let table = value.as_table().unwrap();
            value = if *segment == "*" { table.values().next() } else { table.get(*segment) }
                .unwrap_or_else(|| panic!("the sample lacks {key}"));
        }
    }
}

#[test]
fn every_key_is_documented_with_its_default() {
    let page = repository("docs/configuration.md");
    let (main, namespace) = page.split_once("\n## `namespaces/<name>.toml`").unwrap();
    let main = main.split_once("\n## `coupond.toml`").unwrap().1;
    check_documented(&config::main_keys(), main, &repository("config/coupond.toml"));
    check_documented(&config::namespace_keys(), namespace, &repository("config/namespaces/example.toml"));
}

#[track_caller]
fn check_documented(keys: &[config::Key], page: &str, sample: &str) {
    let rows = |section: &str| -> Vec<Vec<String>> {
        let text = page.split("\n### ").find(|text| text.lines().next() == Some(section)).unwrap_or_default();
        let row = |line: &str| {
            line.strip_prefix("| `").map(|rest| format!("`{rest}").split(" | ").map(str::to_owned).collect())
        };
        text.lines().filter_map(row).collect()
    };
    let mut documented = 0;
    let mut sections: Vec<String> = Vec::new();
    for key in keys {
        let (name, above) = key.path.split_last().unwrap();
        let section = if above.is_empty() {
            "Top of the file".to_owned()
        } else {
            format!("`[{}]`", above.join(".").replace('*', "<name>"))
        };
        let rows = rows(&section);
        let row = rows.iter().find(|row| row[0] == format!("`{name}`"));
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md lacks {key} under {section}"));
        assert!(row.len() == 4 && row[2].starts_with("**") && row[2].ends_with("**"), "{key}: {row:?}");
        let header = section.trim_matches('`').replace("<name>", "example");
        let default = shown_default(sample, &header, name).filter(|_| row[2] != "**required**");
        if let Some(default) = default {
            assert_eq!(row[2], format!("**`{default}`**"), "{key}: the sample and the page disagree");
        }
        if !sections.contains(&section) {
            documented += rows.len();
            sections.push(section);
        }
    }
    assert_eq!(documented, keys.len(), "the page documents a key that does not exist");
}

/// What the sample sets a key to, where it is not commented out.
fn shown_default(sample: &str, header: &str, name: &str) -> Option<String> {
    let mut section = "Top of the file";
    for line in sample.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section == header
            && let Some(value) = line.strip_prefix(&format!("{name} = "))
        {
            return Some(value.to_owned());
        }
    }
    None
}

/// Runs `coupond check` with an environment of its own.
fn run_check(tree: &Tree, variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_coupond"))
        .args(["check", "--config", "coupond.toml"])
        .current_dir(tree.0.path())
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&format!("{}/", tree.0.path().display()), "");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_check_command() {
    let tree = samples();
    let ok = "ok: 1 namespace, 0 users, 1 bank, 1 campaign\n";
    assert_eq!(run_check(&tree, &[]), (Some(0), ok.into(), String::new()));
    let bad = "environment variable `COUPOND_SPOOL__LINGER_SECS`: `linger_secs` is 86401; use 0 to 86400\n";
    let variable = [("COUPOND_SPOOL__LINGER_SECS", "86401")];
    assert_eq!(run_check(&tree, &variable), (Some(78), String::new(), bad.into()));
    let tree = Tree::new("[sftp]\nlisen = []\n").with("namespaces/acme.toml", "new_banks = 1");
    let bad = "coupond.toml:2:1: unknown key `lisen` in `[sftp]`; did you mean `listen`?\n\
               namespaces/acme.toml:1:13: invalid type: integer `1`, expected a text in quotes\n";
    assert_eq!(run_check(&tree, &[]), (Some(78), String::new(), bad.into()));
    let tree = Tree::new("").with("namespaces/acme.toml", "notify = [\"a@b.example\"]\n[banks.b]\nlow_stock = 5\n");
    let noted = "ok: 1 namespace, 0 users, 1 bank, 0 campaigns\n\
                 note: `notify` is set and `[mail]` is not: alerts are only logged\n";
    assert_eq!(run_check(&tree, &[]), (Some(0), noted.into(), String::new()));
    let bare = "ok: 0 namespaces, 0 users, 0 banks, 0 campaigns\n\
                note: nobody can log in yet: put one file per brand into namespaces\n";
    assert_eq!(run_check(&Tree::new(""), &[]), (Some(0), bare.into(), String::new()));
}
