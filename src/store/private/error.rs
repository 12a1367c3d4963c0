//! Why the private PostgreSQL did not start, in words that say what to do.

use std::path::{Path, PathBuf};

/// The private PostgreSQL could not be started or reached. All of them need an admin.
#[derive(Debug, thiserror::Error)]
pub enum PrivateServerError {
    /// No PostgreSQL of a usable version is installed.
    #[error(
        "find PostgreSQL's `initdb` and `postgres`, version {minimum} or newer (looked in {looked}); install your \
         distribution's `postgresql` package or set `url` in `[database]`"
    )]
    NoBinaries {
        /// The oldest major version that will do.
        minimum: u32,
        /// Where was looked, and what was found there.
        looked: String,
    },
    /// The data directory belongs to a major version that is not installed.
    #[error(
        "open `{}`: it was made by PostgreSQL {wanted}, installed is {found}; install PostgreSQL {wanted}, or move the \
         data with `pg_upgrade` or with `pg_dump` of the old version",
        data.display()
    )]
    OtherMajor {
        /// The data directory.
        data: PathBuf,
        /// Its major version.
        wanted: u32,
        /// The installed ones.
        found: String,
    },
    /// Another process owns the private PostgreSQL of this directory.
    #[error("lock `{}`: process {holder} owns this private PostgreSQL; one daemon per state_dir", lock.display())]
    InUse {
        /// The lock file.
        lock: PathBuf,
        /// Its holder's process id, as written in the file.
        holder: String,
    },
    /// Another process owns the private PostgreSQL, but it did not answer in time.
    #[error("reach the private PostgreSQL that process {holder} owns: it was not ready in time; see `{}`", log.display())]
    OwnerNotReady {
        /// The owner's process id.
        holder: String,
        /// The server's log.
        log: PathBuf,
    },
    /// Run by root, and there is no account that PostgreSQL could run as.
    #[error(
        "choose the account for the private PostgreSQL, which refuses to run as root: there is neither a `postgres` nor \
         a `nobody` in /etc/passwd; run coupond as another user or set `url` in `[database]`"
    )]
    NoAccount,
    /// The data directory belongs to somebody else.
    #[error("use `{}`: it belongs to uid {owner}; {advice}", data.display())]
    WrongOwner {
        /// The data directory.
        data: PathBuf,
        /// Whose it is.
        owner: u32,
        /// What to do.
        advice: &'static str,
    },
    /// The account that PostgreSQL runs as may not pass through a directory above its own.
    #[error(
        "let `{account}` reach `{}`: it may not pass through `{}` (mode {mode:04o}); run `chmod o+x` on that directory, \
         choose another `state_dir`, run coupond as another user, or set `url` in `[database]`",
        target.display(), directory.display()
    )]
    Unsearchable {
        /// The account's name.
        account: String,
        /// The directory that must be reached.
        target: PathBuf,
        /// The ancestor that is closed.
        directory: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The short socket directory exists and is not safe to use.
    #[error("use `{}` for the socket: it is not a directory of uid {uid} with mode 0700; remove it", directory.display())]
    UnsafeSocketDirectory {
        /// The directory.
        directory: PathBuf,
        /// Who should own it.
        uid: u32,
    },
    /// No socket path is short enough.
    #[error("find a short path for the socket: `{}` is longer than {limit} bytes; set TMPDIR to a short path", path.display())]
    SocketPathTooLong {
        /// The shortest path that was found.
        path: PathBuf,
        /// What the system allows.
        limit: usize,
    },
    /// A file or directory could not be made, read or changed.
    #[error("{doing} `{}`", path.display())]
    File {
        /// A verb.
        doing: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A program could not be run at all.
    #[error("run `{}`", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// `initdb` failed.
    #[error("make a new database cluster with `{}` ({status}); the end of `{}`:\n{tail}", program.display(), log.display())]
    Initdb {
        /// The `initdb` that was run.
        program: PathBuf,
        /// How it ended.
        status: String,
        /// Where it wrote.
        log: PathBuf,
        /// The last lines of that.
        tail: String,
    },
    /// A server left over by an owner that was killed does not end.
    #[error("end the private PostgreSQL (process {pid}) that a killed owner left behind")]
    Orphan {
        /// Its process id.
        pid: i32,
    },
    /// The server ends again and again before it is ready.
    #[error(
        "start `{}`: {attempts} attempts, the last one ended with {status}; the end of `{}`:\n{tail}",
        program.display(), log.display()
    )]
    Start {
        /// The `postgres` that was run.
        program: PathBuf,
        /// How often.
        attempts: u32,
        /// How it last ended.
        status: String,
        /// Where it wrote.
        log: PathBuf,
        /// The last lines of that.
        tail: String,
    },
    /// The server runs but takes no connection.
    #[error("connect to the private PostgreSQL")]
    Connect(#[from] diesel::ConnectionError),
    /// The database could not be made.
    #[error("make the database in the private PostgreSQL")]
    Database(#[from] diesel::result::Error),
}

/// Turns an I/O error into [`PrivateServerError::File`].
pub(super) fn file<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> PrivateServerError + 'a {
    move |source| PrivateServerError::File { doing, path: path.to_path_buf(), source }
}
