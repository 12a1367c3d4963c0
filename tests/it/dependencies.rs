//! Dependencies against the lists of `deny.toml`, with what is on the machine: licences, banned crates, sources.
use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Every package that is built on this platform.
fn packages() -> Vec<Value> {
    let verbose = Command::new("rustc").arg("-vV").output().unwrap().stdout;
    let verbose = String::from_utf8(verbose).unwrap();
    let host = verbose.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata.get("packages").and_then(Value::as_array).unwrap();
    // This package comes from no registry.
    packages.iter().filter(|package| text(package, "name") != "coupond").cloned().collect()
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn deny(section: &str) -> toml::Table {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml");
    let document: toml::Table = std::fs::read_to_string(file).unwrap().parse().unwrap();
    document.get(section).unwrap().as_table().unwrap().clone()
}

fn words(table: &toml::Table, key: &str) -> BTreeSet<String> {
    let list = table.get(key).and_then(toml::Value::as_array).unwrap();
    list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn tables(table: &toml::Table, key: &str) -> Vec<toml::Table> {
    let list = table.get(key).and_then(toml::Value::as_array).unwrap();
    list.iter().filter_map(|item| item.as_table().cloned()).collect()
}

fn named(table: &toml::Table) -> &str {
    table.get("crate").and_then(toml::Value::as_str).unwrap()
}

#[test]
fn every_licence_is_allowed() {
    let licenses = deny("licenses");
    let exceptions = tables(&licenses, "exceptions");
    let mut refused = Vec::new();
    for package in packages() {
        let name = text(&package, "name");
        let mut allowed = words(&licenses, "allow");
        allowed.extend(exceptions.iter().filter(|one| named(one) == name).flat_map(|one| words(one, "allow")));
        let licence = text(&package, "license");
        if !permits(licence, &allowed) {
            refused.push(format!("{name}: `{licence}`"));
        }
    }
    assert!(refused.is_empty(), "licences that deny.toml does not allow:\n  {}", refused.join("\n  "));
}

#[test]
fn nothing_banned_and_nothing_from_elsewhere() {
    let bans = tables(&deny("bans"), "deny");
    let mut refused = Vec::new();
    for package in packages() {
        let name = text(&package, "name");
        if bans.iter().any(|ban| named(ban) == name) {
            refused.push(format!("{name} is banned"));
        }
        if !text(&package, "source").starts_with("registry+https://github.com/rust-lang/crates") {
            refused.push(format!("{name} comes from `{}`", text(&package, "source")));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// Whether the licence expression can be met with `allowed` alone.
fn permits(expression: &str, allowed: &BTreeSet<String>) -> bool {
    // `/` is how older packages wrote `OR`.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "\u{1}");
    let tokens: Vec<String> = spaced.split_whitespace().map(|token| token.replace('\u{1}', " WITH ")).collect();
    let mut rest = tokens.into_iter().peekable();
    let met = any_of(&mut rest, allowed);
    met && rest.peek().is_none()
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<String>>;

fn any_of(rest: &mut Tokens, allowed: &BTreeSet<String>) -> bool {
    let mut met = all_of(rest, allowed);
    while rest.next_if_eq("OR").is_some() {
        met |= all_of(rest, allowed);
    }
    met
}

fn all_of(rest: &mut Tokens, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(rest, allowed);
    while rest.next_if_eq("AND").is_some() {
        met &= one(rest, allowed);
    }
    met
}

fn one(rest: &mut Tokens, allowed: &BTreeSet<String>) -> bool {
    match rest.next().as_deref() {
        Some("(") => any_of(rest, allowed) && rest.next_if_eq(")").is_some(),
        Some(licence) => allowed.contains(licence),
        None => false,
    }
}

#[test]
fn licence_expressions() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "ISC".to_owned()]);
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("", false),
        ("MIT OR GPL-3.0", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("ISC AND (GPL-3.0 OR MIT)", true),
        ("GPL-3.0 AND MIT OR ISC", true),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
        ("MIT GPL-3.0", false),
    ] {
        assert_eq!(permits(expression, &allowed), met, "{expression}");
    }
}
