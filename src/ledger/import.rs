//! Putting a file into the flow by command: the same row and the same place as a local drop.
//!
//! The content is copied aside and synced, moved to `.spool/incoming`, and only then is its row `received`. A crash in
//! between leaves a row in `receiving` of the session `local`, which the next start of the daemon takes up or forgets.
//!
//! Failpoints: `ledger-begun`, `ledger-copied`, `ledger-placed`.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;

use super::{Desk, LedgerError};
use crate::config::Name;
use crate::inbound;
use crate::spool::{FileName, Kind, Place, durable, is_temporary, parse_date};
use crate::store::drops::NewDrop;

/// Longest name of a file, so that what is added to it for the report still fits.
const NAME_LONGEST: usize = 200;
/// Bytes copied between two words about progress.
const PIECE: usize = 256 * 1024;

impl Desk<'_> {
    /// The place that `kind` and `target` name, if this namespace has it.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] with what is there instead.
    pub fn place(&self, kind: Kind, target: Option<&Name>, dry_run: bool) -> Result<Place, LedgerError> {
        let what = format!("import {}", kind.as_str());
        let missing = |thing: &str, name: &Name, there: Vec<String>| {
            let there =
                if there.is_empty() { "there is none".to_owned() } else { format!("there is {}", there.join(", ")) };
            LedgerError::refused(
                what.clone(),
                format!("namespace `{}` has no {thing} `{name}`; {there}", self.namespace.name),
            )
        };
        match (kind, target) {
            (Kind::Recipients, None) => {
                return Err(LedgerError::refused(what, "say for which campaign: `--campaign NAME`"));
            }
            (Kind::Recipients, Some(name)) if !self.namespace.campaigns.contains_key(name) => {
                return Err(missing(
                    "campaign",
                    name,
                    self.namespace.campaigns.keys().map(ToString::to_string).collect(),
                ));
            }
            (Kind::Coupons, Some(name)) => {
                let made = inbound::made_banks(self.store, self.namespace)?;
                if !self.namespace.banks.contains_key(name) && !made.contains(name) {
                    return Err(missing("bank", name, self.namespace.banks.keys().map(ToString::to_string).collect()));
                }
            }
            (Kind::Redemptions, Some(_)) => {
                return Err(LedgerError::refused(
                    what,
                    "redemptions hold for every bank; leave `--bank` and `--campaign` out",
                ));
            }
            _ => {}
        }
        Ok(Place { kind, target: target.cloned(), dry_run })
    }

    /// Makes the file at `path` a received upload called `name`. `copied` hears how many bytes have been copied.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] for a name or size that no client could send; disk and store.
    pub fn import(
        &self,
        place: &Place,
        name: &str,
        path: &Path,
        copied: &mut dyn FnMut(u64),
    ) -> Result<i64, LedgerError> {
        let what = format!("import `{}`", path.display());
        check_name(&what, name)?;
        let mut source = File::open(path).map_err(LedgerError::disk(what.clone()))?;
        let metadata = source.metadata().map_err(LedgerError::disk(what.clone()))?;
        if !metadata.is_file() {
            return Err(LedgerError::refused(what, "it is not a file"));
        }
        let most = self.settings.limits.upload_bytes;
        if metadata.len() > most {
            return Err(LedgerError::refused(
                what,
                format!("it has {} bytes; an upload may have {most}", metadata.len()),
            ));
        }
        let bytes = i64::try_from(metadata.len()).unwrap_or(i64::MAX);
        self.take(&what, place, (name, bytes), &mut source, copied)
    }

    /// Row, copy, move, row.
    pub(super) fn take(
        &self,
        what: &str,
        place: &Place,
        (name, bytes): (&str, i64),
        source: &mut dyn Read,
        copied: &mut dyn FnMut(u64),
    ) -> Result<i64, LedgerError> {
        let new = NewDrop {
            kind: place.kind.as_str(),
            target: place.target.as_ref().map_or("", Name::as_str),
            dry_run: place.dry_run,
            name,
            bytes,
        };
        let id = self.store.begin_drop(self.namespace_id, &new, self.now)?;
        fail::fail_point!("ledger-begun", |_| std::process::abort());
        let aside = self.layout.prepared().join(format!("{id}.import"));
        let incoming = self.layout.incoming_file(id);
        let placed = copy(source, &aside, u64::try_from(bytes).unwrap_or(0), copied).and_then(|()| {
            fail::fail_point!("ledger-copied", |_| std::process::abort());
            durable::move_file(&aside, &incoming)
        });
        if let Err(source) = placed {
            // Nothing was received; what is left behind would be nobody's.
            let _ = durable::remove_if_there(&aside);
            self.store.forget_drop(self.namespace_id, id)?;
            return Err(LedgerError::Disk { what: what.to_owned(), source });
        }
        fail::fail_point!("ledger-placed", |_| std::process::abort());
        let today = self.now.with_timezone(&self.namespace.timezone).date_naive();
        if !self.store.complete_drop(self.namespace_id, id, self.now, today)? {
            durable::remove_if_there(&incoming).map_err(LedgerError::disk(what))?;
            return Err(LedgerError::refused(what, "a daemon started meanwhile and tidied up; give the command again"));
        }
        Ok(id)
    }
}

/// A file that grew or shrank meanwhile is not what the admin meant.
fn copy(source: &mut dyn Read, to: &Path, bytes: u64, copied: &mut dyn FnMut(u64)) -> io::Result<()> {
    let mut target = durable::create(to)?;
    let mut buffer = vec![0; PIECE];
    let mut done = 0;
    loop {
        let read = source.read(&mut buffer)?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
        target.write_all(piece)?;
        done += u64::try_from(read).unwrap_or(0);
        copied(done);
    }
    if done != bytes {
        return Err(io::Error::other("the file changed while it was read; wait until it is complete"));
    }
    target.sync_all()
}

fn check_name(what: &str, name: &str) -> Result<(), LedgerError> {
    let why = if name.is_empty() || name.contains('/') || name.chars().any(char::is_control) {
        "a file's name must not be empty or hold `/` or control characters"
    } else if name.len() > NAME_LONGEST {
        "its name is too long; rename it to at most 200 bytes"
    } else if is_temporary(name) {
        "its name is that of a file that is still being written; rename it"
    } else {
        return Ok(());
    };
    Err(LedgerError::refused(what, why))
}

/// `name` with the end date `until` as a token behind its stem: `spring.csv` becomes `spring.until-2026-12-31.csv`.
///
/// # Errors
/// [`LedgerError::Refused`] when `until` is no date, or the name has another one.
pub fn with_until(name: &str, until: &str) -> Result<String, LedgerError> {
    let what = format!("give `{name}` the end date `{until}`");
    let Some(date) = parse_date(until) else {
        return Err(LedgerError::refused(what, "write the date as YYYY-MM-DD"));
    };
    match FileName::parse(name) {
        Ok(FileName { until: Some(there), .. }) if there == date => Ok(name.to_owned()),
        Ok(FileName { until: Some(there), .. }) => Err(LedgerError::refused(what, format!("its name says {there}"))),
        Ok(_) => Ok(match name.split_once('.') {
            Some((stem, rest)) => format!("{stem}.until-{date}.{rest}"),
            None => format!("{name}.until-{date}"),
        }),
        Err(finding) => Err(LedgerError::refused(what, finding.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, until: &str, expected: Option<&str>) {
        assert_eq!(with_until(name, until).ok().as_deref(), expected, "{name} {until}");
    }

    #[test]
    fn end_dates_in_names() {
        check("spring.csv", "2026-12-31", Some("spring.until-2026-12-31.csv"));
        check("spring.csv.gpg", "2026-12-31", Some("spring.until-2026-12-31.csv.gpg"));
        check("spring", "2026-12-31", Some("spring.until-2026-12-31"));
        check("spring.until-2026-12-31.csv", "2026-12-31", Some("spring.until-2026-12-31.csv"));
        check("spring.until-2026-12-30.csv", "2026-12-31", None);
        check("spring.until-soon.csv", "2026-12-31", None);
        check("spring.csv", "31.12.2026", None);
        check("spring.csv", "2026-02-30", None);
    }

    #[test]
    fn names_that_a_client_could_not_send() {
        for name in ["", "a/b.csv", "a\nb.csv", ".hidden", "a.csv.part", &"x".repeat(201)] {
            assert!(check_name("import", name).is_err(), "{name:?}");
        }
        assert!(check_name("import", "a.csv").is_ok());
    }
}
