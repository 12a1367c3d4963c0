//! What a command stands on: the settings, the store, the time; whether a daemon runs; tables.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::ConfigFile;
use crate::clock::Clock;
use crate::config::{DatabaseSettings, LiveSettings, Name, Namespace, Settings};
use crate::daemon::{self, Ownership};
use crate::ledger::uploads::Upload;
use crate::ledger::{Desk, LedgerError};
use crate::openpgp::Keyring;
use crate::outbound::KeyedDoors;
use crate::store::Store;
use crate::store::private::PrivateServer;

/// How long a daemon may take to answer on its own machine.
const ANSWER: Duration = Duration::from_millis(500);

/// The options of a command that asks the store about every namespace, or about one.
#[derive(Debug, clap::Args)]
pub(super) struct Ask {
    #[command(flatten)]
    config: ConfigFile,
    /// Only this namespace
    #[arg(long, value_name = "NS", global = true)]
    namespace: Option<String>,
    #[command(flatten)]
    json: AsJson,
}

impl Ask {
    /// Opens the store.
    pub(super) fn open(&self) -> anyhow::Result<Asked<'_>> {
        Ok(self.of(Opened::new(&self.config)?))
    }

    /// The same for a command that moves files.
    pub(super) fn open_for_files(&self) -> anyhow::Result<Asked<'_>> {
        Ok(self.of(Opened::for_files(&self.config)?))
    }

    fn of(&self, opened: Opened) -> Asked<'_> {
        Asked { opened, only: self.namespace.as_deref(), as_json: self.json.json }
    }
}

/// An opened store, narrowed as the command line says, and the form of the answer.
pub(super) struct Asked<'c> {
    pub(super) opened: Opened,
    only: Option<&'c str>,
    pub(super) as_json: bool,
}

impl Asked<'_> {
    /// Everything, for people.
    pub(super) fn everything(opened: Opened) -> Self {
        Self { opened, only: None, as_json: false }
    }

    /// The desks of every namespace that is asked about.
    pub(super) fn desks(&self) -> anyhow::Result<Vec<Desk<'_>>> {
        match self.only {
            Some(namespace) => Ok(vec![self.opened.desk(namespace)?]),
            None => self.opened.settings.namespaces.keys().map(|name| self.opened.desk(name.as_str())).collect(),
        }
    }

    /// The desk of the namespace that `has` says has the thing, `what`. Ids are unique across namespaces.
    pub(super) fn desk_that<T>(
        &self,
        what: &str,
        has: impl Fn(&Desk<'_>) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<(Desk<'_>, T)> {
        for desk in self.desks()? {
            if let Some(found) = has(&desk)? {
                return Ok((desk, found));
            }
        }
        bail!("find {what}")
    }

    /// Upload `id`, with the desk of its namespace.
    pub(super) fn upload(&self, id: i64) -> anyhow::Result<(Desk<'_>, Upload)> {
        self.desk_that(&format!("upload {id}"), |desk| Ok(desk.upload(id)?))
    }

    /// What `of` finds in each namespace, the highest `id` first.
    pub(super) fn newest_first<T>(
        &self,
        of: impl Fn(&Desk<'_>) -> Result<Vec<T>, LedgerError>,
        id: impl Fn(&T) -> i64,
    ) -> anyhow::Result<Vec<(&Namespace, T)>> {
        let mut found = Vec::new();
        for desk in self.desks()? {
            found.extend(of(&desk)?.into_iter().map(|one| (desk.namespace, one)));
        }
        found.sort_by_key(|(_, one)| std::cmp::Reverse(id(one)));
        Ok(found)
    }
}

/// The option of everything that is listed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct AsJson {
    /// Print JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// An opened store with its settings. The private server lives as long as this.
pub(super) struct Opened {
    pub(super) settings: Settings,
    pub(super) store: Store,
    pub(super) clock: Clock,
    server: Option<PrivateServer>,
}

impl Opened {
    /// Reads the configuration and opens the store.
    pub(super) fn new(config: &ConfigFile) -> anyhow::Result<Self> {
        Self::of(config.load()?)
    }

    /// Opens the store of `settings`.
    pub(super) fn of(settings: Settings) -> anyhow::Result<Self> {
        let (server, store) = daemon::open_store(&settings, Ownership::Command)?;
        store.ensure_namespaces(settings.namespaces.keys())?;
        Ok(Self { settings, store, clock: Clock::system(), server })
    }

    /// For a command that moves files: they must belong to the account that the daemon runs under.
    pub(super) fn for_files(config: &ConfigFile) -> anyhow::Result<Self> {
        let opened = Self::new(config)?;
        let directory = &opened.settings.state_dir;
        let owner = std::fs::metadata(directory).with_context(|| format!("look at `{}`", directory.display()))?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            bail!(
                "work on the files in `{}`: they belong to user {owner}; run the command as that user, so that the \
                 daemon can read what it writes",
                directory.display()
            );
        }
        Ok(opened)
    }

    /// The desk of one namespace.
    pub(super) fn desk(&self, namespace: &str) -> anyhow::Result<Desk<'_>> {
        let name = Name::parse(namespace).context("read the namespace's name")?;
        Ok(Desk::open(&self.store, &self.settings, &name, self.clock.now())?)
    }

    /// Whether a daemon runs on this store: it holds the private PostgreSQL, or answers where health is served.
    pub(super) fn daemon_runs(&self) -> bool {
        match (&self.settings.database, &self.server) {
            (DatabaseSettings::Private, Some(server)) if server.is_owner() => false,
            _ => answers(self.settings.http),
        }
    }

    /// Opens recipients lists with the daemon's own keys; none: it has not been started yet.
    pub(super) fn doors(&self) -> anyhow::Result<Option<KeyedDoors>> {
        let keyring = Keyring::load_existing(&self.settings.openpgp.secret_keys, &self.settings.state_dir)?;
        Ok(keyring.map(|keyring| KeyedDoors {
            keyring: Arc::new(keyring),
            live: LiveSettings::new(self.settings.clone()),
            clock: self.clock.clone(),
        }))
    }

    /// The daemon's own keys, made if need be.
    pub(super) fn keyring(&self) -> anyhow::Result<Keyring> {
        let (paths, directory) = (&self.settings.openpgp.secret_keys, &self.settings.state_dir);
        Ok(Keyring::load_or_create(paths, directory, self.clock.now())?)
    }
}

fn answers(address: SocketAddr) -> bool {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    address.port() != 0 && TcpStream::connect_timeout(&SocketAddr::new(ip, address.port()), ANSWER).is_ok()
}

/// An instant in the namespace's zone.
pub(super) fn local(at: DateTime<Utc>, namespace: &Namespace) -> String {
    in_zone(at, namespace.timezone)
}

/// An instant in `zone`.
pub(super) fn in_zone(at: DateTime<Utc>, zone: Tz) -> String {
    at.with_timezone(&zone).format("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// Bytes for people.
pub(super) fn size(bytes: i64) -> String {
    indicatif::BinaryBytes(u64::try_from(bytes).unwrap_or(0)).to_string()
}

/// Writes `value` as JSON.
pub(super) fn json(value: &impl Serialize, out: &mut impl Write) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// Answers with `value` as JSON, or with what `draw` writes.
pub(super) fn answer<W: Write>(
    as_json: bool,
    value: &impl Serialize,
    out: &mut W,
    draw: impl FnOnce(&mut W) -> io::Result<()>,
) -> anyhow::Result<()> {
    if as_json { json(value, out) } else { Ok(draw(out)?) }
}

/// Lists `found` with the namespace of each: as JSON, as a table with `row` for each, or, where there is none, the words
/// `nothing`.
pub(super) fn list<T: Serialize, const N: usize>(
    as_json: bool,
    found: &[(&Namespace, T)],
    (nothing, header): (&str, [&str; N]),
    row: impl Fn(&Namespace, &T) -> [String; N],
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let values: Vec<&T> = found.iter().map(|(_, one)| one).collect();
    answer(as_json, &values, out, |out| match found {
        [] => writeln!(out, "{nothing}"),
        _ => table(header, &found.iter().map(|(namespace, one)| row(namespace, one)).collect::<Vec<_>>(), out),
    })
}

/// Writes a table: a header, then rows, each column as wide as its widest cell. The last column may be as long as it is.
pub(super) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]], out: &mut impl Write) -> io::Result<()> {
    let header = header.map(ToOwned::to_owned);
    let width = |column: usize| {
        let cells = std::iter::once(&header).chain(rows).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A bar on standard error, where that is a terminal.
pub(super) fn progress(length: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    let style = "{msg} [{bar:30}] {bytes}/{total_bytes} {eta}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.with_message(what.to_owned())
}

/// A sign of life on standard error, where that is a terminal.
pub(super) fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = "{spinner} {msg} {elapsed}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar.with_message(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_cells() {
        let mut out = Vec::new();
        let row = |cells: [&str; 3]| cells.map(ToOwned::to_owned);
        table(["id", "name", "why"], &[row(["1", "ä.csv", ""]), row(["12", "b", "x y"])], &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "id  name   why\n1   ä.csv\n12  b      x y\n");
    }
}
