//! What a client does to its own uploads by name: rename, remove, touch, find, list. None of it touches a file that a
//! worker may have.

use chrono::{DateTime, Utc};

use super::{Reception, ReceptionError, Sender, TAKEN, is_temporary};
use crate::config::Name;
use crate::spool::Place;
use crate::store::{Renamed, Sent, Stage};

const NO_LONGER: &str = "the file has been received and is being processed; it can no longer be removed";

impl Reception {
    /// RENAME, and posix-rename with `replace`. True: the file is received by this.
    ///
    /// # Errors
    /// [`ReceptionError::Missing`], [`ReceptionError::Refused`] as its text says, store.
    pub fn rename(
        &self,
        sender: &Sender,
        from: (&Place, &str),
        to: (&Place, &str),
        replace: bool,
    ) -> Result<bool, ReceptionError> {
        let (from, to) = (self.spot(sender, from.0, from.1)?, self.spot(sender, to.0, to.1)?);
        let now = self.clock.now();
        if from.place == to.place && from.name == to.name {
            let found = self.store.sent(&from, self.linger_from(&self.live.current()))?;
            return match (found, replace) {
                (None, _) => Err(ReceptionError::Missing),
                (Some(_), true) => Ok(false),
                (Some(_), false) => Err(ReceptionError::Refused("a file of that name exists already")),
            };
        }
        let temporary = is_temporary(to.name);
        match self.store.rename_sent(&from, &to, (replace, temporary), (now, self.business_date(sender, now)))? {
            Renamed::Done { complete, replaced, .. } => {
                fail::fail_point!("reception::renamed", |_| std::process::abort());
                if let Some(replaced) = replaced {
                    self.delete(&sender.namespace, replaced);
                }
                if complete {
                    (self.wake)();
                }
                Ok(complete)
            }
            Renamed::Missing => match self.store.sent(&from, self.linger_from(&self.live.current()))? {
                Some(_) => Err(ReceptionError::Refused(TAKEN)),
                None => Err(ReceptionError::Missing),
            },
            Renamed::Source(Stage::Partial) => {
                Err(ReceptionError::Refused("the upload is incomplete; resume it, then rename it"))
            }
            Renamed::Source(Stage::Receiving) => {
                Err(ReceptionError::Refused("the file is still open for writing; close it, then rename it"))
            }
            Renamed::Source(_) => Err(ReceptionError::Refused(TAKEN)),
            Renamed::Target(Stage::Receiving) => Err(ReceptionError::Refused("a file of that name is being uploaded")),
            Renamed::Target(_) => Err(ReceptionError::Refused("a file of that name exists already")),
        }
    }

    /// REMOVE of the user's own file while no worker has it.
    ///
    /// # Errors
    /// [`ReceptionError::Missing`], [`ReceptionError::Refused`] once it is taken, store.
    pub fn remove(&self, sender: &Sender, place: &Place, name: &str) -> Result<(), ReceptionError> {
        let spot = self.spot(sender, place, name)?;
        let found = self.store.sent(&spot, self.linger_from(&self.live.current()))?.ok_or(ReceptionError::Missing)?;
        if found.stage == Stage::Taken || !self.store.remove_sent(spot.namespace_id, &found)? {
            return Err(ReceptionError::Refused(NO_LONGER));
        }
        fail::fail_point!("reception::removed", |_| std::process::abort());
        self.revoke(found.id);
        self.delete(&sender.namespace, found.id);
        Ok(())
    }

    /// A removed upload's file goes. Where that fails, the next start takes it away.
    pub(super) fn delete(&self, namespace: &Name, id: i64) {
        if let Err(error) = std::fs::remove_file(self.layout(namespace).incoming_file(id)) {
            tracing::warn!(upload = id, %error, "the file of a removed upload is still there");
        }
    }

    /// SETSTAT with a time: remembered, and shown from now on.
    ///
    /// # Errors
    /// [`ReceptionError::Missing`], store.
    pub fn touch(
        &self,
        sender: &Sender,
        place: &Place,
        name: &str,
        modified_at: Option<DateTime<Utc>>,
    ) -> Result<(), ReceptionError> {
        let found = self.find(sender, place, name)?.ok_or(ReceptionError::Missing)?;
        if let Some(modified_at) = modified_at {
            let namespace_id = self.store.namespace_id(&sender.namespace)?;
            self.store.touch_sent(namespace_id, found.id, modified_at)?;
        }
        Ok(())
    }

    /// The user's own file as it stands: not taken yet, or received less than `linger` ago.
    ///
    /// # Errors
    /// Store.
    pub fn find(&self, sender: &Sender, place: &Place, name: &str) -> Result<Option<Sent>, ReceptionError> {
        let spot = self.spot(sender, place, name)?;
        let found = self.store.sent(&spot, self.linger_from(&self.live.current()))?;
        Ok(found.map(|sent| self.with_size(&sender.namespace, sent)))
    }

    /// Every file that [`Reception::find`] would find in `place`, by name, at most 10,000.
    ///
    /// # Errors
    /// Store.
    pub fn list(&self, sender: &Sender, place: &Place) -> Result<Vec<Sent>, ReceptionError> {
        let spot = self.spot(sender, place, "")?;
        let files = self.store.sent_files(&spot, self.linger_from(&self.live.current()), 10_000)?;
        Ok(files.into_iter().map(|sent| self.with_size(&sender.namespace, sent)).collect())
    }

    /// The row of a file being written does not know its size; the file does.
    fn with_size(&self, namespace: &Name, mut sent: Sent) -> Sent {
        if sent.stage == Stage::Receiving
            && let Ok(metadata) = std::fs::metadata(self.layout(namespace).incoming_file(sent.id))
        {
            sent.bytes = i64::try_from(metadata.len()).unwrap_or(i64::MAX);
        }
        sent
    }
}
