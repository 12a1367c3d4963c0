//! What an admin decides about a quarantined upload.
//!
//! Release: the file goes back first, then the row; until the row says `received` nobody looks for the file there.
//! Discard: the row first, then the file; a file that stays behind is moved when the command is given again.
//!
//! Failpoints: `ledger-moved`, `ledger-discarded`.

use std::path::{Path, PathBuf};

use super::{Desk, LedgerError};
use crate::spool::durable;

impl Desk<'_> {
    /// quarantined -> received: the daemon takes it up by itself, as if it had just come.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] when it is not quarantined; disk and store.
    pub fn release(&self, id: i64) -> Result<(), LedgerError> {
        let what = format!("release upload {id}");
        self.must_be_quarantined(&what, id)?;
        let (from, to) = (self.quarantined_file(id), self.layout.incoming_file(id));
        let moved = move_file(&what, &from, &to)?;
        if !moved && !to.exists() {
            return Err(LedgerError::refused(what, format!("its file is neither at `{}` nor waiting", from.display())));
        }
        fail::fail_point!("ledger-moved", |_| std::process::abort());
        if self.store.release_upload(self.namespace_id, id)? {
            return Ok(());
        }
        // Somebody else decided meanwhile; what they did with the file stands, and a file moved by us goes back.
        if moved {
            move_file(&what, &to, &from)?;
        }
        self.must_be_quarantined(&what, id)
    }

    /// quarantined -> discarded: nothing of it is ever applied. The original stays in the archive for `archive_days`.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] when it is not quarantined; disk and store.
    pub fn discard(&self, id: i64) -> Result<(), LedgerError> {
        let what = format!("discard upload {id}");
        let from = self.quarantined_file(id);
        let begun = self.row(id)?.state == "discarded" && from.exists();
        if !begun {
            self.must_be_quarantined(&what, id)?;
            if !self.store.discard_upload(self.namespace_id, id)? {
                self.must_be_quarantined(&what, id)?;
            }
        }
        fail::fail_point!("ledger-discarded", |_| std::process::abort());
        move_file(&what, &from, &self.layout.archive().join(id.to_string()))?;
        Ok(())
    }

    fn quarantined_file(&self, id: i64) -> PathBuf {
        self.layout.quarantine().join(id.to_string())
    }

    fn must_be_quarantined(&self, what: &str, id: i64) -> Result<(), LedgerError> {
        let row = self.row(id)?;
        match (row.state.as_str(), row.reported_at) {
            ("quarantined", Some(_)) => Ok(()),
            ("quarantined", None) => {
                Err(LedgerError::refused(what, "its report is being published; try again in a moment"))
            }
            (state, _) => Err(LedgerError::refused(what, format!("it is `{state}`, not `quarantined`"))),
        }
    }
}

fn move_file(what: &str, from: &Path, to: &Path) -> Result<bool, LedgerError> {
    durable::move_file(from, to).map_err(LedgerError::disk(what))
}
