//! Files that were refused.

use chrono::TimeDelta;

use super::{Look, REMEMBERED};
use crate::alert::kinds::{Alert, Change, FileRefused};
use crate::alert::refusal;
use crate::store::StoreError;

/// How far back refused files are looked for.
const LOOK_BACK: TimeDelta = TimeDelta::days(7);

impl Look<'_> {
    pub(super) fn files(&self) -> Result<(), StoreError> {
        for upload in self.store.refused_uploads(self.namespace_id, self.now - LOOK_BACK)? {
            let refusal = refusal::read(&upload.report, &upload.name, &upload.target);
            self.raise(&Change {
                subject: format!("file_refused/{}", upload.id),
                from: None,
                to: 1,
                alert: Some(Alert::FileRefused(FileRefused {
                    id: upload.id,
                    name: upload.name,
                    kind: upload.kind,
                    target: upload.target,
                    user: upload.user_name,
                    quarantined: upload.state == "quarantined",
                    received_at: upload.received_at,
                    refusal,
                })),
                forget_at: Some(self.now + REMEMBERED),
            })?;
        }
        Ok(())
    }
}
