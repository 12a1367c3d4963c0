//! The house rules that a machine can check: sizes, headers, names, borders between modules, migrations, documents.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use coupond::reason::Reason;

/// Longest file in `src/`, without its tests.
const LONGEST: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A text file of the repository: its path from the root with `/`, and its text.
struct Text {
    path: String,
    text: String,
}

impl Text {
    /// The text without unit tests and comments: what the rules about code look at.
    fn code(&self) -> String {
        let body = self.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let line = |line: &str| if line.trim_start().starts_with("//") { String::new() } else { line.to_owned() };
        body.lines().map(line).collect::<Vec<_>>().join("\n")
    }

    fn is_under(&self, places: &[&str]) -> bool {
        places.iter().any(|place| match place.strip_suffix('/') {
            Some(directory) => self.path.starts_with(&format!("{directory}/")),
            None => self.path == *place,
        })
    }
}

/// Every text file under `directory`.
fn texts(directory: &str) -> Vec<Text> {
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                // Built things and the history are not the repository's text; a scratch directory starts with a dot.
                if name != "target" && (!name.starts_with('.') || name == ".ci" || name == ".github") {
                    open.push(path);
                }
            } else if name == ".git" {
                // Of a second work tree: it names the first one.
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.push(Text { path: relative(&path), text });
            }
        }
    }
    found.sort_by(|left, right| left.path.cmp(&right.path));
    assert!(!found.is_empty(), "no file under {directory}");
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap()
        .components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect::<Vec<_>>()
        .join("/")
}

fn sources() -> Vec<Text> {
    let mut sources = texts("src");
    sources.retain(|source| source.path.ends_with(".rs"));
    sources
}

#[track_caller]
fn none(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// Lines of code outside `allowed` that hold one of `words`, as `path:line: word`.
fn strays(sources: &[Text], words: &[&str], allowed: &[&str]) -> Vec<String> {
    let outside = sources.iter().filter(|source| !source.is_under(allowed));
    outside.flat_map(|source| hits(source, words)).collect()
}

/// Lines of code under `places` that hold one of `words`.
fn intruders(sources: &[Text], words: &[&str], places: &[&str]) -> Vec<String> {
    let inside = sources.iter().filter(|source| source.is_under(places));
    inside.flat_map(|source| hits(source, words)).collect()
}

fn hits(source: &Text, words: &[&str]) -> Vec<String> {
    let code = source.code();
    let lines = code.lines().enumerate();
    lines
        .flat_map(|(number, line)| {
            let found = words.iter().filter(move |word| holds(line, word));
            found.map(move |word| format!("{}:{}: {word}", source.path, number + 1))
        })
        .collect()
}

/// Whether `word` stands in `line` and is not the end of a longer word.
fn holds(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
    })
}

#[test]
fn files_are_short() {
    let length = |source: &Text| source.code().lines().count();
    let long = sources().into_iter().filter(|source| length(source) > LONGEST && source.path != "src/store/schema.rs");
    none(&long.map(|source| source.path).collect::<Vec<_>>(), "a file under 500 lines without its tests");
}

#[test]
fn every_module_has_a_header() {
    let bare = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    none(
        &bare.map(|source| source.path).collect::<Vec<_>>(),
        "a `//!` header in the first line, which says what the module is for",
    );
}

#[test]
fn names_say_what_a_file_is() {
    let drawers = ["util", "utils", "common", "helper", "helpers", "manager", "misc", "stuff"];
    let mut broken: Vec<String> = Vec::new();
    for directory in ["src", "tests"] {
        broken.extend(texts(directory).into_iter().map(|file| file.path).filter(|path| {
            let parts = path.split('/').map(|part| part.trim_end_matches(".rs"));
            parts
                .into_iter()
                .any(|part| drawers.contains(&part) || part.starts_with("new_") || part.ends_with("_manager"))
        }));
    }
    none(&broken, "a file is named after the thing in it");
}

#[test]
fn every_library_has_one_owner() {
    let sources = sources();
    for (words, owner) in [
        (&["diesel::", "diesel_migrations::", "use diesel", "extern crate diesel"][..], &["src/store/"][..]),
        (&["sequoia_openpgp"], &["src/openpgp/"]),
        (&["russh::", "use russh", "russh_sftp"], &["src/sftp/"]),
        (&["lettre::", "use lettre"], &["src/alert/"]),
        (&["aws_lc_rs", "tempfile_in"], &["src/sorter/", "src/digest.rs"]),
        (&["print!", "println!", "eprint!", "eprintln!", "io::stdout"], &["src/cli/"]),
        // The log goes where the service manager listens.
        (&["io::stderr"], &["src/cli/", "src/telemetry/", "src/telemetry.rs"]),
        // The OpenPGP library's callbacks are typed with it.
        (&["anyhow::", "use anyhow"], &["src/cli/", "src/daemon.rs", "src/main.rs", "src/openpgp/"]),
        (&["Utc::now", "Local::now", "SystemTime::now"], &["src/clock.rs"]),
    ] {
        none(&strays(&sources, words, owner), &format!("{words:?} only in {owner:?}"));
    }
}

#[test]
fn only_the_owners_of_files_change_files() {
    let changes = [
        "fs::write",
        "fs::rename",
        "fs::remove_file",
        "fs::remove_dir",
        "fs::create_dir",
        "fs::copy",
        "fs::hard_link",
        "fs::set_permissions",
        "File::create",
        "OpenOptions",
        "DirBuilder",
    ];
    let owners = [
        "src/spool/",
        "src/openpgp/",
        "src/sftp/",
        "src/store/private.rs",
        "src/store/private/",
        "src/cli/demo.rs",
        "src/cli/demo/",
    ];
    none(&strays(&sources(), &changes, &owners), "files are made, moved and deleted by their owners only");
}

#[test]
fn the_core_is_pure() {
    let effects = [
        "tokio",
        "diesel",
        "std::fs",
        "fs::",
        "crate::store",
        "crate::clock",
        "crate::spool::layout",
        "std::net",
        "std::process",
    ];
    let pure = ["src/bank/", "src/schedule.rs", "src/reason.rs", "src/plaintext/records.rs"];
    none(&intruders(&sources(), &effects, &pure), "rules take values and return values");
}

#[test]
fn arrows_point_one_way() {
    let sources = sources();
    for (place, words) in [
        ("src/inbound/", &["crate::outbound", "crate::sftp", "crate::cli"][..]),
        ("src/outbound/", &["crate::inbound", "crate::sftp", "crate::cli"]),
        ("src/sftp/", &["crate::inbound", "crate::outbound", "crate::cli"]),
        ("src/spool/", &["crate::inbound", "crate::outbound", "crate::sftp", "crate::cli"]),
        ("src/store/", &["crate::inbound", "crate::outbound", "crate::sftp", "crate::cli"]),
        ("src/sorter/", &["crate::inbound", "crate::outbound", "crate::sftp", "crate::cli", "crate::store"]),
        ("src/openpgp/", &["crate::inbound", "crate::outbound", "crate::sftp", "crate::store", "crate::cli"]),
        (
            "src/bank/",
            &["crate::inbound", "crate::outbound", "crate::sftp", "crate::store", "crate::openpgp", "crate::cli"],
        ),
        (
            "src/config/",
            &[
                "crate::inbound",
                "crate::outbound",
                "crate::sftp",
                "crate::store",
                "crate::openpgp",
                "crate::spool",
                "crate::cli",
            ],
        ),
    ] {
        none(&intruders(&sources, words, &[place]), "arrows point one way (ARCHITECTURE.md)");
    }
}

#[test]
fn every_reason_is_documented() {
    let page = fs::read_to_string(root().join("docs/file-contracts.md")).unwrap();
    let shouted = |word: &str| {
        word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let rows: BTreeMap<&str, &str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter(|(code, _)| shouted(code))
        .collect();
    let said = |reason: &&Reason| {
        rows.get(reason.as_str()).is_some_and(|row| row.starts_with(&format!("{} |", reason.means())))
    };
    let lacking = Reason::EVERY.iter().filter(|reason| !said(reason)).map(|reason| reason.as_str().to_owned());
    none(&lacking.collect::<Vec<_>>(), "every reason, with what it means, in docs/file-contracts.md");
    let known: BTreeSet<&str> = Reason::EVERY.iter().map(|reason| reason.as_str()).collect();
    let gone = rows.keys().filter(|code| !known.contains(**code)).map(|code| (*code).to_owned());
    none(&gone.collect::<Vec<_>>(), "no reason in docs/file-contracts.md that does not exist");
}

#[test]
fn no_path_of_one_machine() {
    // Put together here, so that this file does not hold them itself.
    let needles: Vec<String> = ["root", "home", "work", "Users"].iter().map(|top| format!("/{top}/")).collect();
    let broken = texts("").into_iter().flat_map(|file| {
        let lines: Vec<String> = file
            .text
            .lines()
            .enumerate()
            .filter(|(_, line)| needles.iter().any(|needle| machine_path(line, needle)))
            .map(|(number, _)| format!("{}:{}", file.path, number + 1))
            .collect();
        lines
    });
    none(&broken.collect::<Vec<_>>(), "no path that exists on one machine only");
}

/// Whether a path that begins with `needle` stands in `line`; `a/work/` and `$HOME/work/` are not such paths.
fn machine_path(line: &str, needle: &str) -> bool {
    line.match_indices(needle).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        !before.is_some_and(|letter| letter.is_alphanumeric() || "_-.}>~*".contains(letter))
    })
}

fn migrations() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(root().join("migrations"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

/// The statements of every `up.sql`, without comments, blanks made single.
fn statements() -> Vec<String> {
    let mut found = Vec::new();
    for migration in migrations() {
        let text = fs::read_to_string(migration.join("up.sql")).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
        found.extend(split_statements(&lines.join("\n")));
    }
    found
}

/// Splits at `;` outside of quotes and of `$$` bodies.
fn split_statements(text: &str) -> Vec<String> {
    let (mut statements, mut current, mut quoted, mut body) = (Vec::new(), String::new(), false, false);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' if !body => quoted = !quoted,
            '$' if !quoted && letters.peek() == Some(&'$') => body = !body,
            ';' if !quoted && !body => {
                statements.push(std::mem::take(&mut current));
                continue;
            }
            _ => {}
        }
        current.push(letter);
    }
    statements.push(current);
    let single = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    statements.into_iter().map(single).filter(|statement| !statement.is_empty()).collect()
}

/// `CREATE TABLE`s as name and the items between the outer parentheses.
fn tables() -> Vec<(String, Vec<String>)> {
    let made = statements().into_iter().filter_map(|statement| {
        let rest = statement.strip_prefix("CREATE TABLE ")?.to_owned();
        let (name, items) = rest.split_once(" (")?;
        Some((name.to_owned(), split_items(items.strip_suffix(')')?)))
    });
    let made: Vec<_> = made.collect();
    assert!(!made.is_empty(), "no table found in the migrations");
    made
}

/// Splits at commas outside of parentheses.
fn split_items(text: &str) -> Vec<String> {
    let (mut items, mut current, mut depth) = (Vec::new(), String::new(), 0);
    for letter in text.chars() {
        depth += match letter {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if letter == ',' && depth == 0 {
            items.push(std::mem::take(&mut current));
        } else {
            current.push(letter);
        }
    }
    items.push(current);
    items.into_iter().map(|item| item.trim().to_owned()).collect()
}

fn is_constraint(item: &str) -> bool {
    ["PRIMARY KEY", "UNIQUE", "CHECK", "FOREIGN KEY", "CONSTRAINT", "EXCLUDE"].iter().any(|word| item.starts_with(word))
}

#[test]
fn every_migration_goes_both_ways_and_is_named_after_what_it_does() {
    for migration in migrations() {
        for file in ["up.sql", "down.sql"] {
            let text = fs::read_to_string(migration.join(file)).unwrap_or_default();
            assert!(!text.trim().is_empty(), "{} lacks {file}", relative(&migration));
        }
        let name = relative(&migration);
        let verb_noun = name.split_once('_').is_some_and(|(_, words)| words.split('_').count() >= 2);
        assert!(verb_noun, "{name}: <date>_<verb>_<noun>");
    }
}

#[test]
fn every_table_and_column_has_a_comment() {
    let comments: BTreeSet<String> = statements()
        .iter()
        .filter_map(|statement| Some(statement.strip_prefix("COMMENT ON ")?.split_once(" IS '")?.0.to_owned()))
        .collect();
    let mut lacking = Vec::new();
    for (table, items) in tables() {
        lacking.push(format!("TABLE {table}"));
        let columns = items.iter().filter(|item| !is_constraint(item)).filter_map(|item| item.split(' ').next());
        lacking.extend(columns.map(|column| format!("COLUMN {table}.{column}")));
    }
    for statement in statements() {
        if let Some((table, column)) =
            statement.strip_prefix("ALTER TABLE ").and_then(|rest| rest.split_once(" ADD COLUMN "))
        {
            lacking.push(format!("COLUMN {table}.{}", column.split(' ').next().unwrap_or_default()));
        }
    }
    lacking.retain(|thing| !comments.contains(thing));
    none(&lacking, "COMMENT ON every table and column");
}

/// On Citus a key can only be kept where its rows are: on the node of their `namespace_id`.
#[test]
fn every_key_leads_with_the_namespace() {
    let mut broken = Vec::new();
    for (table, items) in tables() {
        if table == "namespace" {
            continue;
        }
        for item in items {
            let of_column = !is_constraint(&item)
                && [" PRIMARY KEY", " UNIQUE", " REFERENCES "].iter().any(|word| item.contains(word));
            let of_table =
                ["PRIMARY KEY", "UNIQUE", "FOREIGN KEY", "CONSTRAINT"].iter().any(|word| item.starts_with(word));
            if of_column || (of_table && !leads(&item)) {
                broken.push(format!("{table}: {item}"));
            }
        }
    }
    for statement in statements() {
        let key = statement.starts_with("CREATE UNIQUE INDEX ")
            || (statement.starts_with("ALTER TABLE ")
                && ["FOREIGN KEY", "PRIMARY KEY", "UNIQUE"].iter().any(|word| statement.contains(word)));
        if key && !leads(&statement) {
            broken.push(statement);
        }
    }
    none(&broken, "every unique index and foreign key leads with namespace_id");
}

/// Whether every list of columns in `text` begins with `namespace_id`. The namespace table itself is found by its `id`.
fn leads(text: &str) -> bool {
    let whole = text.replace("REFERENCES namespace (id)", "");
    let whole = whole.split(" WHERE ").next().unwrap_or_default().split(" WITH (").next().unwrap_or_default();
    let lists: Vec<&str> = whole.split('(').skip(1).collect();
    !lists.is_empty() && lists.iter().all(|list| list.starts_with("namespace_id"))
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for file in texts("").into_iter().filter(|file| file.path.ends_with(".md")) {
        let directory = root().join(&file.path).parent().unwrap().to_owned();
        let text = &file.text;
        for part in text.split("](").skip(1) {
            let target = part.split([')', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !directory.join(target).exists() {
                broken.push(format!("{}: {target}", file.path));
            }
        }
    }
    let lines = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap().lines().count();
    assert!(lines < 200, "ARCHITECTURE.md has {lines} lines; it says only what rarely changes");
    none(&broken, "links lead somewhere");
}

#[test]
fn the_rules_see_what_they_look_for() {
    assert!(holds("    println!(\"x\");", "println!") && !holds("eprintln!(\"x\")", "println!"));
    assert!(machine_path("cp x /a/me/x", "/a/") && !machine_path("/var/a/x", "/a/"));
    assert!(
        leads("CREATE UNIQUE INDEX a ON b (namespace_id, code)")
            && !leads("CREATE UNIQUE INDEX a ON b (code, namespace_id)")
    );
    assert!(!leads("ALTER TABLE a ADD FOREIGN KEY (namespace_id, b) REFERENCES b (id, namespace_id)"));
    assert_eq!(split_statements("a 'x;y';\n b $$ c; d $$; "), ["a 'x;y'", "b $$ c; d $$"]);
    assert_eq!(split_items("a int CHECK (a IN (1, 2)), b int"), ["a int CHECK (a IN (1, 2))", "b int"]);
}
