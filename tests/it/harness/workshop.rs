//! The flows without the network: a store, a state directory, a clock to move by hand, files dropped as if received.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use coupond::clock::Clock;
use coupond::config::{LiveSettings, Name, Settings};
use coupond::doorbell::Doorbell;
use coupond::inbound::Inbound;
use coupond::openpgp::Keyring;
use coupond::spool::{Layout, Place, tree};
use coupond::store::Store;
use coupond::store::drops::NewDrop;
use coupond::telemetry::Metrics;
use serde_json::Value;
use tempfile::TempDir;

use super::postgres::Database;

/// One namespace `acme` with what it needs.
pub struct Workshop {
    /// Its state directory.
    pub directory: TempDir,
    /// Its store.
    pub store: Store,
    /// Its clock.
    pub clock: Clock,
    /// Its settings.
    pub live: LiveSettings,
    /// Its inbound flow.
    pub inbound: Inbound,
}

/// Noon on a Wednesday.
pub fn noon() -> DateTime<Utc> {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

impl Workshop {
    /// A workshop whose namespace file is `namespace`.
    pub fn new(namespace: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::new();
        let settings = settings(&directory, &database, namespace);
        let store = database.store();
        let clock = Clock::manual(noon());
        store.ensure_namespaces(settings.namespaces.keys()).unwrap();
        for namespace in settings.namespaces.values() {
            store.ensure_banks(namespace, clock.now()).unwrap();
            tree::make(&Layout::new(&settings.state_dir, &namespace.name), namespace, &[]).unwrap();
        }
        let keyring = Arc::new(Keyring::load_or_create(&[], &settings.state_dir, clock.now()).unwrap());
        let live = LiveSettings::new(settings);
        let inbound = Inbound {
            store: store.clone(),
            live: live.clone(),
            keyring,
            clock: clock.clone(),
            applied: Doorbell::default(),
            metrics: Metrics::new(|| None),
        };
        Self { directory, store, clock, live, inbound }
    }

    /// The namespace's files.
    pub fn layout(&self) -> Layout {
        Layout::new(&self.live.current().state_dir, &acme())
    }

    /// Drops `content` at `path` (as a client names it), processes it, and returns its report.
    pub fn drop(&self, path: &str, content: impl AsRef<[u8]>) -> Value {
        let id = self.receive(path, content);
        self.inbound.process_waiting(&|| false).unwrap();
        self.report(path, id)
    }

    /// Makes `content` a received upload.
    pub fn receive(&self, path: &str, content: impl AsRef<[u8]>) -> i64 {
        let (directory, name) = path.trim_start_matches('/').rsplit_once('/').unwrap();
        let place = Place::parse(directory).unwrap();
        let new = NewDrop {
            kind: place.kind.as_str(),
            target: place.target.as_ref().map_or("", Name::as_str),
            dry_run: place.dry_run,
            name,
            bytes: content.as_ref().len().try_into().unwrap(),
        };
        let namespace = self.store.namespace_id(&acme()).unwrap();
        let now = self.clock.now();
        let id = self.store.begin_drop(namespace, &new, now).unwrap();
        fs::write(self.layout().incoming_file(id), content).unwrap();
        self.store.complete_drop(namespace, id, now, now.date_naive()).unwrap();
        id
    }

    /// The report of an upload.
    pub fn report(&self, path: &str, id: i64) -> Value {
        let name = path.rsplit('/').next().unwrap();
        let report = self.layout().reports().join(format!("{name}.{id}.report.json"));
        serde_json::from_slice(&fs::read(&report).unwrap_or_else(|error| panic!("{}: {error}", report.display())))
            .unwrap()
    }

    /// The rejects of the upload that `report` is about, without the header.
    pub fn rejects(&self, report: &Value) -> Vec<Vec<String>> {
        let name = format!("{}.{}.rejects.csv", report["name"].as_str().unwrap(), report["upload_id"]);
        let mut reader = csv::Reader::from_path(self.layout().reports().join(name)).unwrap();
        reader.records().map(|record| record.unwrap().iter().map(ToOwned::to_owned).collect()).collect()
    }

    /// What remains in a bank now.
    pub fn remaining(&self, bank: &str) -> i64 {
        let today = self.clock.now().date_naive();
        let stock = self.store.stock(self.store.namespace_id(&acme()).unwrap(), today).unwrap();
        stock.iter().filter(|stock| stock.bank == bank).map(|stock| stock.remaining).sum()
    }

    /// Lets time pass.
    pub fn wait(&self, by: TimeDelta) {
        self.clock.advance(by);
    }
}

/// The namespace.
pub fn acme() -> Name {
    Name::parse("acme").unwrap()
}

fn settings(directory: &TempDir, database: &Database, namespace: &str) -> Settings {
    let file: PathBuf = directory.path().join("coupond.toml");
    let state = directory.path().join("state");
    fs::write(
        &file,
        format!(
            "state_dir = {:?}\n[sftp]\nlisten = [\"127.0.0.1:0\"]\n\
             [http]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = {:?}\n",
            state.display(),
            database.url
        ),
    )
    .unwrap();
    fs::create_dir_all(directory.path().join("namespaces")).unwrap();
    fs::write(directory.path().join("namespaces/acme.toml"), namespace).unwrap();
    coupond::config::load(&file, std::iter::empty()).unwrap()
}
