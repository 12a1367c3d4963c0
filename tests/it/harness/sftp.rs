//! A client with nothing but OpenSSH's `sftp`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::daemon::{handed_out, verify_listed};
use super::until;

/// A user at a desk: a directory with its files, its key, and the daemon's port.
#[derive(Clone)]
pub struct Client {
    /// The user.
    pub user: String,
    /// Its secret key.
    pub key: PathBuf,
    /// Where the daemon serves SFTP.
    pub port: u16,
    /// Its own directory.
    pub desk: PathBuf,
}

/// How a batch of `sftp` commands ended.
#[derive(Debug)]
pub struct Ran {
    /// Whether all of them succeeded.
    pub ok: bool,
    /// What it printed.
    pub out: String,
    /// What it complained about.
    pub said: String,
}

/// What a batch of a campaign made.
#[derive(Debug)]
pub struct Collected {
    /// The manifest.
    pub manifest: Value,
    /// Every file that it lists, by name.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Client {
    /// Runs `sftp -b` with these commands. It stops at the first that fails, unless that begins with `-`.
    pub fn run(&self, commands: &[&str]) -> Ran {
        let mut command = Command::new("sftp");
        command
            .current_dir(&self.desk)
            .args(["-q", "-b", "-", "-F", "/dev/null", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes"])
            .args(["-o", "PreferredAuthentications=publickey", "-P", &self.port.to_string(), "-i"])
            .arg(&self.key)
            .arg(format!("{}@127.0.0.1", self.user));
        let output = super::run(&mut command, &(commands.join("\n") + "\n"));
        Ran {
            ok: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs commands that must succeed; answers with what they printed.
    #[track_caller]
    pub fn does(&self, commands: &[&str]) -> String {
        let ran = self.run(commands);
        assert!(ran.ok, "{commands:?}: {}{}", ran.out, ran.said);
        ran.out
    }

    /// Runs a command that must fail; answers with what it complained about.
    #[track_caller]
    pub fn refused(&self, command: &str) -> String {
        let ran = self.run(&[command]);
        assert!(!ran.ok, "{command} succeeded: {}", ran.out);
        ran.said
    }

    /// Puts a file on the desk.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.desk.join(name), content).unwrap();
    }

    /// Uploads `content` under `name` into `directory`.
    #[track_caller]
    pub fn put(&self, name: &str, content: impl AsRef<[u8]>, directory: &str) {
        self.write(name, content);
        self.does(&[&format!("put \"{name}\" {directory}/")]);
    }

    /// Uploads, and waits for the report.
    #[track_caller]
    pub fn send(&self, name: &str, content: impl AsRef<[u8]>, directory: &str) -> Value {
        self.put(name, content, directory);
        self.report(name)
    }

    /// The names in a directory, sorted.
    #[track_caller]
    pub fn list(&self, directory: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .does(&[&format!("ls -1a {directory}")])
            .lines()
            .filter(|line| !line.starts_with("sftp>"))
            .map(|line| line.trim_end().trim_end_matches('/').rsplit('/').next().unwrap().to_owned())
            .filter(|name| name != "." && name != ".." && !name.is_empty())
            .collect();
        names.sort();
        names
    }

    /// Downloads a file.
    #[track_caller]
    pub fn get(&self, path: &str) -> Vec<u8> {
        let name = path.rsplit('/').next().unwrap();
        self.does(&[&format!("get \"{path}\"")]);
        fs::read(self.desk.join(name)).unwrap()
    }

    /// The one file in a directory that begins and ends so; waits for it.
    #[track_caller]
    pub fn wait_for(&self, directory: &str, begins: &str, ends: &str) -> String {
        until(&format!("{directory}/{begins}*{ends}"), || {
            let names = self.list(directory);
            let mut names = names.iter().filter(|name| name.starts_with(begins) && name.ends_with(ends));
            let first = names.next()?;
            assert_eq!(names.next(), None, "a second {directory}/{begins}*{ends}");
            Some(first.clone())
        })
    }

    /// The report on the upload of this name; waits for it.
    #[track_caller]
    pub fn report(&self, name: &str) -> Value {
        let report = self.wait_for("/reports", &format!("{name}."), ".report.json");
        serde_json::from_slice(&self.get(&format!("/reports/{report}"))).unwrap()
    }

    /// The rows of the rejects file that goes with a report: line, reason, message, value.
    #[track_caller]
    pub fn rejects(&self, report: &Value) -> Vec<Vec<String>> {
        let path = format!("/reports/{}.{}.rejects.csv", report["name"].as_str().unwrap(), report["upload_id"]);
        let content = self.get(&path);
        let mut reader = csv::Reader::from_reader(content.as_slice());
        assert_eq!(reader.headers().unwrap(), vec!["line", "reason", "message", "value"]);
        reader.records().map(|row| row.unwrap().iter().map(ToOwned::to_owned).collect()).collect()
    }

    /// Waits for the manifest of the list whose stem this is, and collects the files that it vouches for.
    #[track_caller]
    pub fn collect(&self, campaign: &str, stem: &str) -> Collected {
        let directory = format!("/assignments/{campaign}");
        let name = self.wait_for(&directory, &format!("{stem}."), ".manifest.json");
        let manifest: Value = serde_json::from_slice(&self.get(&format!("{directory}/{name}"))).unwrap();
        let mut files = BTreeMap::new();
        for listed in manifest["files"].as_array().unwrap() {
            let name = listed["name"].as_str().unwrap();
            let content = self.get(&format!("{directory}/{name}"));
            verify_listed(listed, &content);
            files.insert(name.to_owned(), content);
        }
        Collected { manifest, files }
    }
}

impl Collected {
    /// The assignment file.
    #[track_caller]
    pub fn assignments(&self) -> &[u8] {
        let found = self.files.iter().find(|(name, _)| !name.contains(".unassigned."));
        found.expect("an assignment file").1
    }

    /// `customer code outcome end_date` of every row, in the file's order.
    #[track_caller]
    pub fn lines(&self) -> Vec<String> {
        lines(self.assignments())
    }

    /// The customers, in the file's order.
    #[track_caller]
    pub fn customers(&self) -> Vec<String> {
        handed_out(self.assignments()).into_iter().map(|(customer, _, _)| customer).collect()
    }

    /// The code of a customer.
    #[track_caller]
    pub fn code(&self, customer: &str) -> String {
        let lines = self.lines();
        let line = lines.iter().find(|line| line.split(' ').next() == Some(customer)).expect("the customer");
        line.split(' ').nth(1).unwrap().to_owned()
    }

    /// Rows per outcome that are not zero.
    pub fn outcomes(&self) -> BTreeMap<String, u64> {
        let rows = self.manifest["rows"].as_object().unwrap();
        let rows = rows.iter().map(|(outcome, rows)| (outcome.clone(), rows.as_u64().unwrap()));
        rows.filter(|(_, rows)| *rows > 0).collect()
    }
}

/// `customer code outcome end_date` of every row of an assignment file.
pub fn lines(assignments: &[u8]) -> Vec<String> {
    let mut reader = csv::Reader::from_reader(assignments);
    let headers = reader.headers().unwrap().clone();
    let columns = ["customer_id", "code", "outcome", "end_date"]
        .map(|name| headers.iter().position(|header| header == name).unwrap());
    let records = reader.records().map(Result::unwrap);
    records.map(|row| columns.map(|column| row[column].to_owned()).join(" ").trim_end().to_owned()).collect()
}
