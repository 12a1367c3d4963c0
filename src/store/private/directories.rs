//! Where the private PostgreSQL keeps its things, and who may see them.
//!
//! ```text
//! <state_dir>/postgres/               the daemon's
//!     pg.lock  attached.lock          see `ownership`
//!     postgres.log  postgres.log.1    what the server says
//!     pgdata/                         the database user's, 0700
//!     pgsock/                         the database user's, 0700; a short path in TMPDIR where this one is too long
//! ```
//!
//! Run by root, PostgreSQL is another user than the daemon. Then `<state_dir>` and `<state_dir>/postgres` get the one bit
//! that lets this user pass through (not list), and whatever else lies in `<state_dir>` loses that class of bits, so that
//! nothing opens up with it.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::PrivateServerError;
use super::account::{Account, Caller, choose, owner};
use super::error::file;
use super::postmaster::read_start;

/// Room for a path in `sockaddr_un` on Linux, without the closing NUL.
const SOCKET_PATH_LIMIT: usize = 107;
const SOCKET: &str = ".s.PGSQL.5432";
const NAME: &str = "postgres";

/// The directories, made and checked.
#[derive(Clone, Debug)]
pub(super) struct Directories {
    pub(super) root: PathBuf,
    pub(super) data: PathBuf,
    pub(super) socket_directory: PathBuf,
    pub(super) log: PathBuf,
    pub(super) account: Account,
}

impl Directories {
    /// Where the things are, with nothing made or changed.
    pub(super) fn root_of(state_dir: &Path) -> PathBuf {
        state_dir.join(NAME)
    }

    /// Makes what is missing under `state_dir`, chooses the account, and sees to it that the account gets there.
    pub(super) fn prepare(state_dir: &Path) -> Result<Self, PrivateServerError> {
        let state_dir = make_root(state_dir)?;
        let root = Self::root_of(&state_dir);
        let data = root.join("pgdata");
        let caller = Caller::current();
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let state_owner = state_dir.metadata().map(|metadata| owner(&metadata)).map_err(file("look at", &state_dir))?;
        let data_owner = data.symlink_metadata().ok().map(|metadata| owner(&metadata));
        let account = choose(caller, state_owner, data_owner.map(|owner| (data.as_path(), owner)), &passwd)?;
        if account.other
            && let Some(parent) = state_dir.parent()
        {
            account.check_reach(parent)?;
        }
        open_to(&state_dir, &account)?;
        open_to(&root, &account)?;
        seal_others(&state_dir, &account)?;
        let socket_directory = socket_directory(&root, &account)?;
        Ok(Self { log: root.join("postgres.log"), root, data, socket_directory, account })
    }

    /// The major version of the data, when there are data.
    pub(super) fn data_major(&self) -> Option<u32> {
        read_start(&self.data.join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// The server's log, for appending. A long one is put aside first; two together bound the space.
    pub(super) fn open_log(&self) -> Result<File, PrivateServerError> {
        const LONG: u64 = 8 << 20;
        if self.log.symlink_metadata().is_ok_and(|metadata| metadata.len() > LONG) {
            let aside = self.log.with_extension("log.1");
            std::fs::rename(&self.log, &aside).map_err(file("rename", &self.log))?;
        }
        open_file(&self.log, OpenOptions::new().append(true))
    }

    /// The last lines of the server's log.
    pub(super) fn log_tail(&self) -> String {
        const LINES: usize = 8;
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(LINES).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// Makes `<state_dir>/postgres`, readable to nobody else, and returns `state_dir` with its links resolved.
pub(super) fn make_root(state_dir: &Path) -> Result<PathBuf, PrivateServerError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(state_dir).map_err(file("make", state_dir))?;
    let state_dir = state_dir.canonicalize().map_err(file("look at", state_dir))?;
    let root = Directories::root_of(&state_dir);
    if !root.is_dir() {
        builder.recursive(false).create(&root).map_err(file("make", &root))?;
        inherit_owner(&root)?;
    }
    Ok(state_dir)
}

/// Opens a file of the daemon's own for `options`, made if missing, readable to nobody else, links not followed.
pub(super) fn open_file(path: &Path, options: &mut OpenOptions) -> Result<File, PrivateServerError> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let opened = options.create(true).mode(0o600).custom_flags(flags).open(path).map_err(file("open", path))?;
    inherit_owner(path)?;
    Ok(opened)
}

/// Gives what root made the owner of the directory it lies in, so that a daemon run later as that owner can use it.
fn inherit_owner(path: &Path) -> Result<(), PrivateServerError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let wanted = parent.metadata().map(|metadata| owner(&metadata)).map_err(file("look at", parent))?;
    let present = path.symlink_metadata().map(|metadata| owner(&metadata)).map_err(file("look at", path))?;
    if Caller::current().uid == 0 && present != wanted {
        std::os::unix::fs::lchown(path, Some(wanted.0), Some(wanted.1)).map_err(file("change the owner of", path))?;
    }
    Ok(())
}

/// Makes `path` a directory that only the account can enter.
pub(super) fn make_for(path: &Path, account: &Account) -> Result<(), PrivateServerError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) if account.other => std::os::unix::fs::lchown(path, Some(account.uid), Some(account.gid))
            .map_err(file("change the owner of", path)),
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(file("make", path)(error)),
    }
}

/// Lets the account pass through one of the daemon's own directories.
fn open_to(directory: &Path, account: &Account) -> Result<(), PrivateServerError> {
    let metadata = directory.metadata().map_err(file("look at", directory))?;
    let bit = account.search_bit(owner(&metadata));
    if account.other && metadata.mode() & bit == 0 {
        set_mode(directory, metadata.mode() | bit)?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<(), PrivateServerError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & 0o7777))
        .map_err(file("change the mode of", path))
}

/// Where others may pass through the state directory but not list it, it was opened for the account alone: whatever
/// else lies there is closed to them.
fn seal_others(state_dir: &Path, account: &Account) -> Result<(), PrivateServerError> {
    let metadata = state_dir.metadata().map_err(file("look at", state_dir))?;
    let search = account.search_bit(owner(&metadata));
    if !account.other || search == 0o100 || metadata.mode() & (search << 2) != 0 {
        return Ok(());
    }
    for entry in std::fs::read_dir(state_dir).map_err(file("list", state_dir))? {
        let entry = entry.map_err(file("list", state_dir))?;
        let path = entry.path();
        let metadata = entry.metadata().map_err(file("look at", &path))?;
        let class = search * 0o7;
        if entry.file_name() != NAME && !metadata.is_symlink() && metadata.mode() & class != 0 {
            tracing::info!(path = %path.display(), "closing a path to users other than the daemon's");
            set_mode(&path, metadata.mode() & !class)?;
        }
    }
    Ok(())
}

/// Makes the directory of the socket: beside the data, or in TMPDIR where that path does not fit.
fn socket_directory(root: &Path, account: &Account) -> Result<PathBuf, PrivateServerError> {
    let beside = root.join("pgsock");
    if socket_path_fits(&beside) {
        make_for(&beside, account)?;
        return Ok(beside);
    }
    let temporary = std::env::temp_dir();
    let temporary = temporary.canonicalize().map_err(file("look at", &temporary))?;
    let short = temporary.join(format!("coupond-{:016x}", fnv64(root.as_os_str())));
    if !socket_path_fits(&short) {
        return Err(PrivateServerError::SocketPathTooLong { path: short, limit: SOCKET_PATH_LIMIT });
    }
    account.check_reach(&temporary)?;
    make_for(&short, account)?;
    // Anyone can make a directory of this name there first: then the socket would be theirs.
    let metadata = short.symlink_metadata().map_err(file("look at", &short))?;
    if metadata.is_dir() && metadata.uid() == account.uid && metadata.mode() & 0o777 == 0o700 {
        Ok(short)
    } else {
        Err(PrivateServerError::UnsafeSocketDirectory { directory: short, uid: account.uid })
    }
}

/// Whether PostgreSQL and libpq take the path: it fits into an address, and neither reads it as a list.
fn socket_path_fits(directory: &Path) -> bool {
    let bytes = directory.join(SOCKET).into_os_string();
    let plain = bytes.to_str().is_some_and(|text| !text.contains([',', '"']) && !text.chars().any(char::is_control));
    plain && bytes.as_bytes().len() <= SOCKET_PATH_LIMIT
}

/// A short name for a long path: FNV-1a, 64 bits.
fn fnv64(text: &OsStr) -> u64 {
    text.as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_path_fits_or_not() {
        let check =
            |directory: &str, expected| assert_eq!(socket_path_fits(Path::new(directory)), expected, "{directory}");
        check("/var/lib/coupond/postgres/pgsock", true);
        check(&format!("/{}", "d".repeat(107 - 1 - 1 - SOCKET.len())), true);
        check(&format!("/{}", "d".repeat(107 - 1 - SOCKET.len())), false);
        check("/srv/a b/postgres/pgsock", true);
        check("/srv/a,b/postgres/pgsock", false);
        check("/srv/a\"b/postgres/pgsock", false);
    }

    #[test]
    fn the_short_name_is_fnv_1a() {
        assert_eq!(fnv64(OsStr::new("")), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv64(OsStr::new("foobar")), 0x8594_4171_f739_67e8);
    }
}
