//! Whom PostgreSQL runs as, and whether that account can get at its directories.
//!
//! PostgreSQL refuses to run as root. A daemon run by root therefore gives it another account; a daemon run by anyone
//! else gives it its own.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::PrivateServerError;

/// The account that `initdb` and `postgres` run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) name: String,
    /// Whether it is another one than the daemon's, so that a child must change to it.
    pub(super) other: bool,
}

/// Who runs us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Caller {
    pub(super) fn current() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }
}

/// An owner: user and group id.
type Owner = (u32, u32);

pub(super) fn owner(metadata: &Metadata) -> Owner {
    (metadata.uid(), metadata.gid())
}

/// Chooses the account. Root's choice: the owner of the data; of the state directory, so that a daemon run later as that
/// user finds its own; `postgres`; `nobody`.
pub(super) fn choose(
    caller: Caller,
    state_owner: Owner,
    data: Option<(&Path, Owner)>,
    passwd: &str,
) -> Result<Account, PrivateServerError> {
    let wrong = |data: &Path, owner, advice| PrivateServerError::WrongOwner { data: data.into(), owner, advice };
    if caller.uid != 0 {
        return match data {
            Some((path, (uid, _))) if uid != caller.uid => Err(wrong(path, uid, "run coupond as that user")),
            _ => Ok(Account { uid: caller.uid, gid: caller.gid, name: name_of(passwd, caller.uid), other: false }),
        };
    }
    let other = |(uid, gid): Owner| Account { uid, gid, name: name_of(passwd, uid), other: true };
    match data {
        Some((path, (0, _))) => Err(wrong(path, 0, "PostgreSQL refuses to run as root: `chown -R` it to `postgres`")),
        Some((_, owner)) => Ok(other(owner)),
        None if state_owner.0 != 0 => Ok(other(state_owner)),
        None => ["postgres", "nobody"]
            .iter()
            .find_map(|name| ids_of(passwd, name))
            .map(other)
            .ok_or(PrivateServerError::NoAccount),
    }
}

/// Lines of `/etc/passwd`: `name:x:uid:gid:...`. System accounts are local, so no name service is asked.
fn entries(passwd: &str) -> impl Iterator<Item = (&str, Owner)> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some((name, (uid, gid)))
    })
}

fn ids_of(passwd: &str, name: &str) -> Option<Owner> {
    entries(passwd).find(|(entry, (uid, _))| *entry == name && *uid != 0).map(|(_, owner)| owner)
}

fn name_of(passwd: &str, uid: u32) -> String {
    entries(passwd)
        .find(|(_, (entry, _))| *entry == uid)
        .map_or_else(|| format!("uid {uid}"), |(name, _)| name.to_owned())
}

impl Account {
    /// The search bit that decides for this account in a directory of `owner`. Supplementary groups do not count: the
    /// child gives them up.
    pub(super) fn search_bit(&self, owner: Owner) -> u32 {
        if owner.0 == self.uid {
            0o100
        } else if owner.1 == self.gid {
            0o010
        } else {
            0o001
        }
    }

    /// Checks that this account may pass through every directory down to and including `target`.
    pub(super) fn check_reach(&self, target: &Path) -> Result<(), PrivateServerError> {
        if !self.other {
            return Ok(());
        }
        let mut ancestors: Vec<&Path> = target.ancestors().collect();
        ancestors.reverse();
        for directory in ancestors {
            let metadata = directory.metadata().map_err(super::error::file("look at", directory))?;
            if metadata.mode() & self.search_bit(owner(&metadata)) == 0 {
                return Err(PrivateServerError::Unsearchable {
                    account: self.name.clone(),
                    target: target.into(),
                    directory: directory.into(),
                    mode: metadata.mode() & 0o7777,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\npostgres:x:101:104::/:/bin/sh\nnobody:x:65534:65534::/:\n";

    #[test]
    fn the_account_follows_the_owner() {
        let root = Caller { uid: 0, gid: 0 };
        let user = Caller { uid: 1000, gid: 100 };
        let data = |owner| Some((Path::new("/d"), owner));
        let check = |caller, state_owner, data, passwd, expected: Result<(u32, u32, &str, bool), &str>| {
            let chosen = choose(caller, state_owner, data, passwd);
            match (chosen, expected) {
                (Ok(it), Ok(expected)) => assert_eq!((it.uid, it.gid, it.name.as_str(), it.other), expected),
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (chosen, expected) => panic!("{chosen:?} instead of {expected:?}"),
            }
        };
        check(user, (1000, 100), None, PASSWD, Ok((1000, 100, "uid 1000", false)));
        check(user, (1000, 100), data((101, 104)), PASSWD, Err("belongs to uid 101; run coupond as that user"));
        check(root, (0, 0), None, PASSWD, Ok((101, 104, "postgres", true)));
        check(root, (0, 0), None, "nobody:x:65534:65534::/:\n", Ok((65534, 65534, "nobody", true)));
        check(root, (0, 0), None, "postgres:x:0:0::/:\n", Err("neither a `postgres` nor a `nobody`"));
        check(root, (900, 900), None, PASSWD, Ok((900, 900, "uid 900", true)));
        check(root, (900, 900), data((101, 104)), PASSWD, Ok((101, 104, "postgres", true)));
        check(root, (0, 0), data((0, 0)), PASSWD, Err("refuses to run as root"));
    }

    #[test]
    fn the_class_that_decides_is_the_first_that_fits() {
        let account = Account { uid: 101, gid: 104, name: "postgres".into(), other: true };
        let check = |owner, expected| assert_eq!(account.search_bit(owner), expected, "{owner:?}");
        check((101, 0), 0o100);
        check((101, 104), 0o100);
        check((0, 104), 0o010);
        check((0, 0), 0o001);
    }
}
