//! What goes by path: STAT, SETSTAT, REMOVE, RENAME, MKDIR, RMDIR, REALPATH.

use std::sync::Arc;

use chrono::DateTime;
use rustix::fs::OFlags;

use super::{Answer, Engine, Resolved, blocking, files, ok};
use crate::config::Settings;
use crate::sftp::entry;
use crate::sftp::packet::{self, Attributes, Entry, Refusal};
use crate::sftp::path::VirtualPath;
use crate::sftp::permissions::{Operation, Permit, permit};
use crate::sftp::tree::{Node, Shelf};
use crate::spool::{Place, inbound_name};

const DENIED: &str = "Permission denied";

/// REALPATH only cleans: it does not say what exists.
pub(super) fn realpath(id: u32, raw: &[u8]) -> Answer {
    let path = VirtualPath::parse(raw).map_err(|error| Refusal::failure(error.to_string()))?;
    Ok(one_name(id, path.to_bytes()))
}

/// A NAME reply with one path and no attributes.
pub(super) fn one_name(id: u32, name: Vec<u8>) -> Vec<u8> {
    packet::names(id, &[Entry { long_name: name.clone(), name, attributes: Attributes::default() }])
}

impl Engine {
    fn permit(&self, settings: &Settings, node: &Node, operation: Operation) -> Result<Permit, Refusal> {
        Ok(permit(node.ground(), operation, self.account(settings)?.0.may_delete_collected))
    }

    pub(super) async fn stat(&mut self, id: u32, raw: &[u8]) -> Answer {
        let attributes = self.attributes(raw).await?;
        Ok(packet::attributes(id, &attributes))
    }

    async fn attributes(&mut self, raw: &[u8]) -> Result<Attributes, Refusal> {
        let Resolved { node, settings, .. } = self.resolve(raw).await?;
        match node {
            Node::Listing(_) | Node::Drop(..) | Node::Shelf(_) => Ok(entry::directory(self.shared.started)),
            Node::DropFile(place, name) => {
                let name = inbound_name(&name).map_err(|_| Refusal::missing())?.to_owned();
                let (reception, sender) = (Arc::clone(&self.shared.reception), self.sender.clone());
                let found = blocking(move || reception.find(&sender, &place, &name)).await??;
                found.map(|sent| entry::sent(&sent)).ok_or_else(Refusal::missing)
            }
            Node::ShelfFile(shelf, name) => {
                self.must_see(&settings, &shelf, &name).await?;
                let stat = self.shelf(&settings, &shelf)?.stat(&[name])?;
                Ok(entry::on_disk(&stat))
            }
            Node::Exchange(below) => Ok(entry::on_disk(&self.exchange(&settings)?.stat(&below)?)),
            Node::Nothing => Err(Refusal::missing()),
        }
    }

    async fn must_see(&mut self, settings: &Settings, shelf: &Shelf, name: &[u8]) -> Result<(), Refusal> {
        if *shelf == Shelf::Reports && self.visible_reports(settings, &[name.to_vec()]).await? != [true] {
            return Err(Refusal::missing());
        }
        Ok(())
    }

    pub(super) async fn setstat(&mut self, id: u32, raw: &[u8], attributes: Attributes) -> Answer {
        let Resolved { node, settings, .. } = self.resolve(raw).await?;
        let permit = self.permit(&settings, &node, Operation::SetAttributes)?;
        match node {
            Node::Nothing => Err(Refusal::missing()),
            Node::DropFile(place, name) => self.set_upload(id, place, &name, &attributes).await,
            Node::Exchange(below) if permit == Permit::Yes => {
                let jail = self.exchange(&settings)?;
                if let Some(size) = attributes.size
                    && size > settings.limits.upload_bytes
                {
                    return Err(Refusal::failure("the file would be larger than the limit"));
                }
                let how = if attributes.size.is_some() { OFlags::WRONLY } else { OFlags::RDONLY };
                match jail.file(&below, how) {
                    Ok(file) => files::set_on_disk(&file, &attributes)?,
                    // A directory's mode and times are left as they are.
                    Err(rustix::io::Errno::ISDIR) if attributes.size.is_none() => {}
                    Err(error) => return Err(error.into()),
                }
                Ok(ok(id))
            }
            _ if permit == Permit::No => Err(Refusal::denied(DENIED)),
            _ => Ok(ok(id)),
        }
    }

    async fn set_upload(&mut self, id: u32, place: Place, name: &[u8], attributes: &Attributes) -> Answer {
        let name = inbound_name(name).map_err(|_| Refusal::missing())?.to_owned();
        if attributes.size.is_some() {
            return Err(Refusal::denied("the size of an upload changes only while it is open"));
        }
        let at = attributes.times.and_then(|(_, modified)| DateTime::from_timestamp(i64::from(modified), 0));
        let (reception, sender) = (Arc::clone(&self.shared.reception), self.sender.clone());
        blocking(move || reception.touch(&sender, &place, &name, at)).await??;
        Ok(ok(id))
    }

    pub(super) async fn remove(&mut self, id: u32, raw: &[u8]) -> Answer {
        let Resolved { path, node, settings } = self.resolve(raw).await?;
        let permit = self.permit(&settings, &node, Operation::Remove)?;
        match node {
            Node::Nothing => return Err(Refusal::missing()),
            _ if permit != Permit::Yes => return Err(Refusal::denied(DENIED)),
            Node::DropFile(place, name) => {
                let name = inbound_name(&name).map_err(|_| Refusal::missing())?.to_owned();
                let (reception, sender) = (Arc::clone(&self.shared.reception), self.sender.clone());
                blocking(move || reception.remove(&sender, &place, &name)).await??;
            }
            Node::ShelfFile(shelf, name) => {
                self.must_see(&settings, &shelf, &name).await?;
                let jail = self.shelf(&settings, &shelf)?;
                blocking(move || jail.remove_file(&[name])).await??;
            }
            Node::Exchange(below) => {
                let jail = self.exchange(&settings)?;
                blocking(move || jail.remove_file(&below)).await??;
            }
            Node::Listing(_) | Node::Drop(..) | Node::Shelf(_) => return Err(Refusal::denied(DENIED)),
        }
        self.log_change(&path, "file removed");
        Ok(ok(id))
    }

    /// RENAME, or posix-rename with `replace`.
    pub(super) async fn rename(&mut self, id: u32, from: &[u8], to: &[u8], replace: bool) -> Answer {
        let from = self.resolve(from).await?;
        let into_directory = to.ends_with(b"/");
        let to = self.resolve(to).await?;
        let settings = to.settings;
        if from.node == Node::Nothing {
            return Err(Refusal::missing());
        }
        for node in [&from.node, &to.node] {
            if self.permit(&settings, node, Operation::Rename)? != Permit::Yes {
                return Err(Refusal::denied(DENIED));
            }
        }
        match (from.node, to.node) {
            // A directory that does not exist is meant, as in OPEN.
            (Node::DropFile(..), Node::DropFile(..)) if into_directory => return Err(Refusal::missing()),
            (Node::DropFile(from, old), Node::DropFile(to, new)) => {
                let old = inbound_name(&old).map_err(|_| Refusal::missing())?.to_owned();
                let new = inbound_name(&new).map_err(Refusal::failure)?.to_owned();
                let (reception, sender) = (Arc::clone(&self.shared.reception), self.sender.clone());
                blocking(move || reception.rename(&sender, (&from, &old), (&to, &new), replace)).await??;
            }
            (Node::Exchange(from), Node::Exchange(to)) => {
                let jail = self.exchange(&settings)?;
                blocking(move || jail.rename(&from, &to, replace)).await??;
            }
            _ => return Err(Refusal::denied(DENIED)),
        }
        tracing::info!(
            namespace = %self.sender.namespace, user = self.sender.user, source = self.source,
            path = %from.path, to = %to.path, "file renamed"
        );
        Ok(ok(id))
    }

    pub(super) async fn mkdir(&mut self, id: u32, raw: &[u8]) -> Answer {
        let Resolved { path, node, settings } = self.resolve(raw).await?;
        let permit = self.permit(&settings, &node, Operation::MakeDirectory)?;
        let (Node::Exchange(below), Permit::Yes) = (node, permit) else { return Err(Refusal::denied(DENIED)) };
        let jail = self.exchange(&settings)?;
        if below.is_empty() {
            return Err(Refusal::failure("exists already"));
        }
        blocking(move || jail.make_directory(&below)).await??;
        self.log_change(&path, "directory made");
        Ok(ok(id))
    }

    pub(super) async fn rmdir(&mut self, id: u32, raw: &[u8]) -> Answer {
        let Resolved { path, node, settings } = self.resolve(raw).await?;
        let permit = self.permit(&settings, &node, Operation::RemoveDirectory)?;
        let below = match node {
            Node::Exchange(below) if permit == Permit::Yes => below,
            Node::Nothing => return Err(Refusal::missing()),
            _ => return Err(Refusal::denied(DENIED)),
        };
        let jail = self.exchange(&settings)?;
        blocking(move || jail.remove_directory(&below)).await??;
        self.log_change(&path, "directory removed");
        Ok(ok(id))
    }

    fn log_change(&self, path: &VirtualPath, what: &'static str) {
        tracing::info!(
            namespace = %self.sender.namespace, user = self.sender.user, source = self.source, path = %path, "{what}"
        );
    }
}
