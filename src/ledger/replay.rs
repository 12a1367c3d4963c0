//! Processing an archived original once more, as a new upload with the same name, place and content.
//!
//! Only what did not end as applied, or was undone, is worth it: after the cause was mended (a key, a bank, a limit), without asking the
//! client to send it again. The rule about repeated content looks at applied uploads only, so it does not stand in the
//! way of a file that was refused; and it still does its work when the client has sent the file again meanwhile.

use std::fs::File;

use super::{Desk, LedgerError};
use crate::config::Name;
use crate::spool::{Kind, Place};

impl Desk<'_> {
    /// Makes a new upload of the archived original of upload `id`; its id.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] with what to do instead; disk and store.
    pub fn replay(&self, id: i64, copied: &mut dyn FnMut(u64)) -> Result<i64, LedgerError> {
        let what = format!("replay upload {id}");
        let row = self.row(id)?;
        let undone = row.state == "applied" && self.store.is_undone(self.namespace_id, id)?;
        if let Some(why) = no_replay(&row.state, id).filter(|_| !undone) {
            return Err(LedgerError::refused(what, why));
        }
        let kind =
            Kind::parse(&row.kind).ok_or_else(|| LedgerError::NotThere { what: format!("the kind of upload {id}") })?;
        let place = Place { kind, target: Name::parse(&row.target).ok(), dry_run: row.dry_run };
        let path = self.layout.archive().join(id.to_string());
        let mut original = File::open(&path)
            .map_err(LedgerError::disk(format!("{what}: open its original (kept for `archive_days`)")))?;
        let bytes = original.metadata().map_err(LedgerError::disk(what.clone()))?.len();
        self.take(&what, &place, (&row.name, i64::try_from(bytes).unwrap_or(i64::MAX)), &mut original, copied)
    }
}

/// Why an upload in `state` is not replayed.
fn no_replay(state: &str, id: i64) -> Option<String> {
    Some(match state {
        "rejected" | "checked" | "discarded" => return None,
        "applied" => {
            "it was applied, and the same content has no effect twice; to take its codes back use `uploads undo`"
                .to_owned()
        }
        "duplicate" => format!("its content was applied before, by another upload; `uploads show {id}` says which"),
        "quarantined" => format!("it is in quarantine; `quarantine release {id}` processes it again"),
        "removed" | "purged" => "its file is gone".to_owned(),
        _ => "it has no verdict yet; wait for it".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_replayed() {
        for state in ["rejected", "checked", "discarded"] {
            assert_eq!(no_replay(state, 7), None, "{state}");
        }
        for state in ["receiving", "partial", "awaiting_rename", "received", "active", "deferred"] {
            assert!(no_replay(state, 7).is_some_and(|why| why.contains("no verdict")), "{state}");
        }
        for state in ["applied", "quarantined", "duplicate", "removed", "purged"] {
            assert!(no_replay(state, 7).is_some(), "{state}");
        }
    }
}
