//! The database cluster on disk: made once, whole or not at all.
//!
//! `initdb` works in `pgdata.new`, which is renamed to `pgdata` when it is done: a half-made cluster is never taken for a
//! whole one, and one that a crash left behind is made anew.

use std::process::{Command, Stdio};

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::PrivateServerError;
use super::binaries::Binaries;
use super::directories::{Directories, make_for};
use super::error::file;
use super::keeper::as_account;

/// The user and the database in the private PostgreSQL.
pub(super) const NAME: &str = "coupond";

/// Makes the cluster. Trusting every connection is safe, because only the account and root get at the socket.
pub(super) fn make(directories: &Directories, binaries: &Binaries, durable: bool) -> Result<(), PrivateServerError> {
    let new = directories.root.join("pgdata.new");
    match std::fs::remove_dir_all(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(file("remove", &new)(error)),
        _ => make_for(&new, &directories.account)?,
    }
    let log = directories.open_log()?;
    let errors = log.try_clone().map_err(file("open", &directories.log))?;
    let mut command = Command::new(&binaries.initdb);
    command.arg("-D").arg(&new).arg("-U").arg(NAME);
    command.args(["--auth=trust", "-E", "UTF8", "--locale=C", "--data-checksums"]);
    if !durable {
        command.arg("--no-sync");
    }
    as_account(&mut command, &directories.account);
    let status = command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .status()
        .map_err(|source| PrivateServerError::Run { program: binaries.initdb.clone(), source })?;
    if !status.success() {
        return Err(PrivateServerError::Initdb {
            program: binaries.initdb.clone(),
            status: status.to_string(),
            log: directories.log.clone(),
            tail: directories.log_tail(),
        });
    }
    std::fs::rename(&new, &directories.data).map_err(file("rename", &new))?;
    for directory in [Some(directories.root.as_path()), directories.root.parent()].into_iter().flatten() {
        std::fs::File::open(directory).and_then(|opened| opened.sync_all()).map_err(file("sync", directory))?;
    }
    Ok(())
}

/// Makes the database unless it is there, over a connection to the maintenance database at `url`.
pub(super) fn ensure_database(url: &str) -> Result<(), PrivateServerError> {
    let mut connection = PgConnection::establish(url)?;
    let there = diesel::sql_query("SELECT datname::text AS name FROM pg_database WHERE datname = $1")
        .bind::<Text, _>(NAME)
        .load::<Database>(&mut connection)?;
    if there.is_empty() {
        diesel::sql_query(format!("CREATE DATABASE {NAME}")).execute(&mut connection)?;
    }
    Ok(())
}

#[derive(QueryableByName)]
struct Database {
    #[diesel(sql_type = Text)]
    #[expect(dead_code, reason = "only whether there is a row counts")]
    name: String,
}
