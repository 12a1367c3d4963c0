//! Files that were refused: one mail each, and one for what is beyond [`MAILS_MOST`] an hour.

use chrono::TimeDelta;

use super::{Look, REMEMBERED};
use crate::alert::kinds::{Alert, FileRefused, FilesRefused, RefusedGroup};
use crate::alert::refusal::{self, MAILS_MOST, WINDOW};
use crate::alert::wording;
use crate::store::StoreError;
use crate::store::alerts::{self, LevelChange};
use crate::store::refusals::{self, HELD, HeldGroup, MAILED, RefusedUpload};

/// How far back refused files are looked for.
const LOOK_BACK: TimeDelta = TimeDelta::days(7);

impl Look<'_> {
    pub(super) fn files(&self) -> Result<(), StoreError> {
        for upload in self.store.refused_uploads(self.namespace_id, self.now - LOOK_BACK)? {
            self.refused(upload)?;
        }
        if self.store.held_since(self.namespace_id)?.is_some_and(|since| since + WINDOW <= self.now) {
            self.count_held()?;
        }
        Ok(())
    }

    /// Mails and logs one refused file; beyond the limit it is logged, and held for the mail that counts.
    fn refused(&self, upload: RefusedUpload) -> Result<(), StoreError> {
        let subject = format!("file_refused/{}", upload.id);
        let mut file = file(upload);
        let first = self.store.transaction(|transaction| {
            // Where nothing is mailed nothing need be held.
            let mailed = match self.mail {
                Some(_) => refusals::mailed_since(transaction, self.namespace_id, self.now - WINDOW, self.now)?,
                None => 0,
            };
            let hold = mailed >= MAILS_MOST;
            let level = LevelChange {
                namespace_id: self.namespace_id,
                subject: &subject,
                from: None,
                to: if hold { HELD } else { MAILED },
                forget_at: Some(self.now + REMEMBERED),
            };
            let Some(instance) = alerts::change_level(transaction, &level, self.now)? else { return Ok(false) };
            if let (Some(mail), false) = (self.mail, hold) {
                file.last_for_now = mailed + 1 == MAILS_MOST;
                let alert = Alert::FileRefused(file.clone());
                let message = wording::say(&alert, self.namespace.timezone);
                self.put_mails(transaction, mail, &format!("{subject}#{instance}"), alert.severity(), &message)?;
            }
            Ok::<_, StoreError>(true)
        })?;
        if first {
            let alert = Alert::FileRefused(file);
            self.log(&alert, &subject, &wording::say(&alert, self.namespace.timezone).headline);
        }
        Ok(())
    }

    /// One mail that counts every held file, in the transaction that marks them as counted.
    fn count_held(&self) -> Result<(), StoreError> {
        let Some(since) = self.store.held_since(self.namespace_id)? else { return Ok(()) };
        let counted = self.store.transaction(|transaction| {
            let (uploads, change) = refusals::take_held(transaction, self.namespace_id, self.now)?;
            if uploads.is_empty() {
                return Ok(None);
            }
            let groups = refusals::groups(transaction, self.namespace_id, &uploads)?;
            let files = u64::try_from(uploads.len()).unwrap_or(u64::MAX);
            let alert =
                Alert::FilesRefused(FilesRefused { since, files, groups: groups.into_iter().map(group).collect() });
            let message = wording::say(&alert, self.namespace.timezone);
            let instance = alerts::change_level(transaction, &change, self.now)?.unwrap_or_default();
            if let Some(mail) = self.mail {
                let key = format!("{}#{instance}", change.subject);
                self.put_mails(transaction, mail, &key, alert.severity(), &message)?;
            }
            Ok::<_, StoreError>(Some((alert, message)))
        })?;
        if let Some((alert, message)) = counted {
            self.log(&alert, refusals::LOCK, &message.headline);
        }
        Ok(())
    }
}

fn file(upload: RefusedUpload) -> FileRefused {
    FileRefused {
        id: upload.id,
        refusal: refusal::read(&upload.report, &upload.name, &upload.target),
        name: upload.name,
        kind: upload.kind,
        target: upload.target,
        user: upload.user_name,
        quarantined: upload.state == "quarantined",
        received_at: upload.received_at,
        last_for_now: false,
    }
}

fn group(held: HeldGroup) -> RefusedGroup {
    let HeldGroup { files, state, kind, target, user_name } = held;
    RefusedGroup { files: super::count(files), state, kind, target, user: user_name }
}
