//! From files and environment to [`Settings`], in the order in which an admin would want to hear about problems: a file
//! that is no TOML, keys that nobody knows, values of a wrong type, values that make no sense, files that disagree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono_tz::Tz;
use serde::de::DeserializeOwned;

use super::judge::{Judge, all};
use super::keys::{self, Key, nearest};
use super::problem::{ConfigError, Origin, Problem};
use super::sections::{
    banks, campaigns, database, http, limits, mail, openpgp, redemptions, sftp, signing, spool, users,
};
use super::source::Source;
use super::{Limits, Name, Namespace, NewBanks, Settings, environment, raw, values};

const DEFAULT_STATE_DIR: &str = "/var/lib/coupond";
const NEW_BANKS: [(&str, NewBanks); 2] = [("reject", NewBanks::Reject), ("create", NewBanks::Create)];

/// Reads and judges `file`, the environment over it, and `namespaces/*.toml` beside it. Changes nothing anywhere.
///
/// # Errors
/// [`ConfigError`] with every problem found, each with its file, line and column or its environment variable.
pub fn load(file: &Path, environment: impl Iterator<Item = (String, String)>) -> Result<Settings, ConfigError> {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let mut problems = Vec::new();
    let main = read_main(&file, environment, &mut problems);
    let longest_code = main.as_ref().map_or(99, |settings| settings.limits.code_bytes);
    let namespaces = read_namespaces(&file, longest_code, &mut problems);
    match main {
        Some(settings) if problems.is_empty() => Ok(Settings { namespaces, ..settings }),
        _ => Err(ConfigError { problems }),
    }
}

/// Every key of `coupond.toml`.
#[must_use]
pub fn main_keys() -> Vec<Key> {
    keys::of::<raw::Main>()
}

/// Every key of a namespace's file.
#[must_use]
pub fn namespace_keys() -> Vec<Key> {
    keys::of::<raw::Namespace>()
}

fn read_main(
    file: &Path,
    environment: impl Iterator<Item = (String, String)>,
    problems: &mut Vec<Problem>,
) -> Option<Settings> {
    let keys = main_keys();
    let mut source = Source::read(file).map_err(|problem| problems.push(problem)).ok()?;
    deserialise::<raw::Main>(&source, &keys, problems)?;
    let raw = environment::overlay(&mut source, environment, &keys).map_err(|found| problems.extend(found)).ok()?;
    let mut judge = Judge::new(&source, problems);
    let state_dir = state_dir(raw.state_dir.as_deref(), &mut judge);
    let sftp = sftp::judge(&raw.sftp, &mut judge);
    let database = database::judge(&raw.database, &mut judge);
    let mail = mail::judge(raw.mail.as_ref(), &mut judge);
    let openpgp = openpgp::judge(&raw.openpgp, &mut judge);
    let http = http::judge(&raw.http, &mut judge);
    let spool = spool::judge(&raw.spool, &mut judge);
    let limits: Option<Limits> = limits::judge(&raw.limits, &mut judge);
    let (sftp, http) = (sftp?, http?);
    if http.port() != 0 && sftp.listen.contains(&http) {
        judge.refuse(&["http", "listen"], format!("\"{http}\" is also in `[sftp] listen`; choose another port"));
    }
    Some(Settings {
        file: file.to_owned(),
        state_dir: state_dir?,
        sftp,
        database: database?,
        mail: mail?,
        openpgp: openpgp?,
        http,
        spool: spool?,
        limits: limits?,
        namespaces: BTreeMap::new(),
    })
}

fn state_dir(given: Option<&str>, judge: &mut Judge<'_>) -> Option<PathBuf> {
    let path = ["state_dir"];
    let directory = judge.resolve(&path, given.unwrap_or(DEFAULT_STATE_DIR));
    if given == Some("") {
        judge.refuse(&path, "`state_dir` is empty; name a directory");
        return None;
    }
    if directory.exists() && !directory.is_dir() {
        judge.refuse(&path, format!("`{}` is not a directory", directory.display()));
        return None;
    }
    Some(directory)
}

/// The file alone, strictly: an unknown key or a wrong type is an error at its place.
fn deserialise<T: DeserializeOwned>(source: &Source, keys: &[Key], problems: &mut Vec<Problem>) -> Option<T> {
    let unknown = keys::unknown(source.root(), keys);
    if !unknown.is_empty() {
        problems.extend(unknown.into_iter().map(|unknown| {
            let path: Vec<&str> = unknown.path.iter().map(String::as_str).collect();
            Problem { origin: source.key(&path), message: unknown.message }
        }));
        return None;
    }
    toml::from_str(&source.text)
        .map_err(|error| {
            let origin = match error.span() {
                Some(span) => source.byte(span.start),
                None => Origin::File(source.file.clone()),
            };
            problems.push(Problem { origin, message: in_plain_words(error.message()) });
        })
        .ok()
}

/// Serde speaks of its own types; an admin knows TOML's.
fn in_plain_words(message: &str) -> String {
    let message = message.trim().replace('\n', ", ");
    let words = [
        ("a sequence", "a list"),
        ("u64", "a whole number, 0 or more"),
        ("a map", "a section"),
        ("a string", "a text in quotes"),
    ];
    for (serde, plain) in words {
        if let Some(start) = message.strip_suffix(&format!("expected {serde}")) {
            return format!("{start}expected {plain}");
        }
    }
    message
}

fn read_namespaces(main: &Path, longest_code: usize, problems: &mut Vec<Problem>) -> BTreeMap<Name, Namespace> {
    let keys = namespace_keys();
    let mut namespaces = BTreeMap::new();
    let mut owners: BTreeMap<String, Origin> = BTreeMap::new();
    for file in namespace_files(main, problems) {
        let stem = file.file_stem().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
        let name = match values::name("the file's stem", stem) {
            Ok(name) => name,
            Err(message) => {
                problems.push(Problem { origin: Origin::File(file.clone()), message });
                continue;
            }
        };
        let source = match Source::read(&file) {
            Ok(source) => source,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        let Some(raw) = deserialise::<raw::Namespace>(&source, &keys, problems) else { continue };
        let mut judge = Judge::new(&source, problems);
        for user in raw.users.keys() {
            let place = judge.place(&["users", user]);
            if let Some(other) = owners.insert(user.clone(), place) {
                judge.refuse_key(
                    &["users", user],
                    format!("user `{user}` exists already at {other}; names are unique across namespaces"),
                );
            }
        }
        if let Some(namespace) = judge_namespace(name.clone(), &raw, longest_code, &mut judge) {
            namespaces.insert(name, namespace);
        }
    }
    namespaces
}

/// `namespaces/*.toml` beside `main`, by name. No directory is no namespace: a first start before any brand is set up.
fn namespace_files(main: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let directory = main.with_file_name("namespaces");
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            problems.push(Problem { origin: Origin::File(directory), message: format!("cannot be listed: {error}") });
            return Vec::new();
        }
    };
    let mut files = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => files.push(entry.path()),
            Err(error) => problems.push(Problem {
                origin: Origin::File(directory.clone()),
                message: format!("cannot be listed: {error}"),
            }),
        }
    }
    // Editors leave `.acme.toml.swp` and `.#acme.toml` behind.
    let hidden = |file: &Path| file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml") && !hidden(file));
    files.sort();
    files
}

fn judge_namespace(name: Name, raw: &raw::Namespace, longest_code: usize, judge: &mut Judge<'_>) -> Option<Namespace> {
    let timezone = timezone(raw.timezone.as_deref(), judge);
    let notify = notify(&raw.notify, judge);
    let new_banks = judge.choice(&["new_banks"], raw.new_banks.as_deref(), &NEW_BANKS, NewBanks::Reject);
    let users = all(raw.users.iter().map(|(name, user)| users::judge(name, user, judge)).collect());
    let openpgp = signing::judge(&raw.openpgp, judge);
    let banks = all(raw.banks.iter().map(|(name, bank)| banks::judge(name, bank, longest_code, judge)).collect());
    let campaigns =
        all(raw.campaigns.iter().map(|(name, campaign)| campaigns::judge(name, campaign, &raw.banks, judge)).collect());
    let redemptions = redemptions::judge(&raw.redemptions, judge);
    Some(Namespace {
        name,
        timezone: timezone?,
        notify: notify?,
        exchange: raw.exchange,
        may_delete_collected: raw.may_delete_collected,
        new_banks: new_banks?,
        users: users?,
        openpgp: openpgp?,
        banks: banks?,
        campaigns: campaigns?,
        redemptions: redemptions?,
    })
}

fn timezone(given: Option<&str>, judge: &mut Judge<'_>) -> Option<Tz> {
    let given = given.unwrap_or("UTC");
    let parsed = given.parse::<Tz>().map_err(|_| {
        let hint = match nearest(given, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name())) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "use an IANA name such as \"America/New_York\"".to_owned(),
        };
        format!("\"{}\" is not a time zone; {hint}", values::short(given))
    });
    judge.accept(&["timezone"], parsed)
}

fn notify(given: &[String], judge: &mut Judge<'_>) -> Option<Vec<String>> {
    let mut addresses = Vec::new();
    for (index, text) in given.iter().enumerate() {
        match values::mail_address(text) {
            Ok(address) => addresses.push(address),
            Err(message) => judge.refuse_item(&["notify"], index, message),
        }
    }
    (addresses.len() == given.len()).then_some(addresses)
}
