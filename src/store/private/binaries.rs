//! Finds the distribution's `initdb` and `postgres`: PATH first, then where the packages put them.
//!
//! Debian keeps them out of PATH (`/usr/lib/postgresql/15/bin`), the PostgreSQL project's RPMs in `/usr/pgsql-17/bin`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::PrivateServerError;

/// The oldest version that the store's statements and the server's settings were run on.
const MINIMUM_MAJOR: u32 = 15;

/// One installed PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) major: u32,
    pub(super) initdb: PathBuf,
    pub(super) postgres: PathBuf,
}

/// The installation to use: the one of the data directory's major version, or the newest when there is no data yet.
pub(super) fn find(data: &Path, data_major: Option<u32>) -> Result<Binaries, PrivateServerError> {
    let directories = directories(&std::env::var_os("PATH").unwrap_or_default());
    let installed: Vec<Binaries> = directories.iter().filter_map(|directory| inspect(directory)).collect();
    choose(&installed, data, data_major, &listed(&directories))
}

fn choose(
    installed: &[Binaries],
    data: &Path,
    data_major: Option<u32>,
    looked: &str,
) -> Result<Binaries, PrivateServerError> {
    if let Some(wanted) = data_major {
        if let Some(same) = installed.iter().find(|binaries| binaries.major == wanted) {
            return Ok(same.clone());
        }
        if !installed.is_empty() {
            let found: Vec<String> = installed.iter().map(|binaries| binaries.major.to_string()).collect();
            return Err(PrivateServerError::OtherMajor { data: data.into(), wanted, found: found.join(", ") });
        }
    }
    // `rev`, because of several equal ones `max_by_key` takes the last, and PATH comes first.
    installed
        .iter()
        .rev()
        .filter(|binaries| binaries.major >= MINIMUM_MAJOR)
        .max_by_key(|binaries| binaries.major)
        .cloned()
        .ok_or_else(|| PrivateServerError::NoBinaries { minimum: MINIMUM_MAJOR, looked: looked.to_owned() })
}

/// Every directory that holds both programs, links resolved, each once, in order of preference.
fn directories(path: &std::ffi::OsStr) -> Vec<PathBuf> {
    let mut candidates: Vec<PathBuf> = std::env::split_paths(path).filter(|entry| entry.is_absolute()).collect();
    candidates.extend(versioned("/usr/lib/postgresql", ""));
    candidates.extend(versioned("/usr", "pgsql-"));
    candidates.push("/usr/local/pgsql/bin".into());
    let mut seen = BTreeSet::new();
    candidates
        .into_iter()
        .filter_map(|directory| {
            let postgres = directory.join("postgres").canonicalize().ok()?;
            let home = postgres.parent()?.to_path_buf();
            home.join("initdb").is_file().then_some(home)
        })
        .filter(|home| seen.insert(home.clone()))
        .collect()
}

/// `<parent>/<prefix>*/bin`.
fn versioned(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join("bin"))
        .collect()
}

fn listed(directories: &[PathBuf]) -> String {
    let mut places = vec!["PATH".to_owned(), "/usr/lib/postgresql/*/bin".to_owned(), "/usr/pgsql-*/bin".to_owned()];
    places.extend(directories.iter().map(|directory| format!("found `{}`", directory.display())));
    places.join(", ")
}

fn inspect(directory: &Path) -> Option<Binaries> {
    let postgres = directory.join("postgres");
    let output = Command::new(&postgres).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let major = parse_version(&String::from_utf8_lossy(&output.stdout))?;
    Some(Binaries { major, initdb: directory.join("initdb"), postgres })
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` or `postgres (PostgreSQL) 19beta1`.
fn parse_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let check = |text: &str, expected: Option<u32>| assert_eq!(parse_version(text), expected, "{text}");
        check("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15));
        check("postgres (PostgreSQL) 19beta1\n", Some(19));
        check("postgres (EnterpriseDB) 15.2\n", None);
        check("", None);
    }

    #[test]
    fn the_data_decides_then_the_newest() {
        let binaries = |major: u32, at: &str| Binaries {
            major,
            initdb: format!("{at}/initdb").into(),
            postgres: format!("{at}/postgres").into(),
        };
        let installed = [binaries(13, "/a"), binaries(16, "/b"), binaries(17, "/c"), binaries(17, "/d")];
        let check = |data_major: Option<u32>, expected: Result<&str, &str>| {
            let chosen = choose(&installed, Path::new("/data"), data_major, "PATH");
            match (chosen, expected) {
                (Ok(chosen), Ok(expected)) => assert_eq!(chosen.postgres, Path::new(expected)),
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (chosen, expected) => panic!("{chosen:?} instead of {expected:?}"),
            }
        };
        check(None, Ok("/c/postgres"));
        check(Some(16), Ok("/b/postgres"));
        check(Some(13), Ok("/a/postgres"));
        check(Some(14), Err("made by PostgreSQL 14, installed is 13, 16, 17, 17"));
        let none = choose(&installed[..1], Path::new("/data"), None, "PATH").unwrap_err().to_string();
        assert!(none.contains("version 15 or newer (looked in PATH)"), "{none}");
    }
}
