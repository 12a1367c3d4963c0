//! OPEN.

use std::sync::Arc;

use rustix::fs::OFlags;

use super::{Answer, Engine, Resolved, blocking};
use crate::sftp::handles::{Open, Plain, Upload};
use crate::sftp::packet::{self, Refusal, open_flags};
use crate::sftp::path::VirtualPath;
use crate::sftp::permissions::{Operation, Permit, permit};
use crate::sftp::tree::{Node, Shelf};
use crate::spool::{Intent, Place, inbound_name};

const DENIED: &str = "Permission denied";

impl Engine {
    pub(super) async fn open(&mut self, id: u32, raw: &[u8], flags: u32) -> Answer {
        let Resolved { path, node, settings } = self.resolve(raw).await?;
        let writes = flags & (open_flags::WRITE | open_flags::APPEND) != 0;
        let creates = flags & open_flags::CREATE != 0;
        let operation = if writes { Operation::Write } else { Operation::Read };
        match &node {
            Node::Listing(_) | Node::Drop(..) | Node::Shelf(_) => return Err(Refusal::failure("is a directory")),
            Node::Nothing if creates => return Err(Refusal::denied(DENIED)),
            Node::Nothing => return Err(Refusal::missing()),
            // `put codes.csv /coupons/<no such bank>/` means a directory: it must not become a file of that name.
            _ if raw.ends_with(b"/") => return Err(Refusal::missing()),
            _ => {}
        }
        let collected_may_go = self.account(&settings)?.0.may_delete_collected;
        if permit(node.ground(), operation, collected_may_go) != Permit::Yes {
            return Err(Refusal::denied(if matches!(node, Node::DropFile(..)) {
                "an uploaded file cannot be read back"
            } else {
                DENIED
            }));
        }
        if writes && self.shared.is_stopping() {
            return Err(Refusal::failure("the server is stopping; connect again in a moment"));
        }
        self.handles.room(false, settings.limits.open_files)?;
        let what = match node {
            Node::DropFile(place, name) => self.open_upload(place, &name, flags, &path).await?,
            Node::ShelfFile(shelf, name) => self.open_shelf(&settings, shelf, name).await?,
            Node::Exchange(below) => self.open_exchange(&settings, below, flags)?,
            Node::Listing(_) | Node::Drop(..) | Node::Shelf(_) | Node::Nothing => return Err(Refusal::missing()),
        };
        Ok(packet::handle(id, &self.handles.insert(what, path)))
    }

    async fn open_upload(
        &mut self,
        place: Place,
        name: &[u8],
        flags: u32,
        path: &VirtualPath,
    ) -> Result<Open, Refusal> {
        let name = inbound_name(name).map_err(Refusal::failure)?.to_owned();
        let intent = Intent {
            create: flags & open_flags::CREATE != 0,
            truncate: flags & open_flags::TRUNCATE != 0,
            exclusive: flags & open_flags::EXCLUSIVE != 0,
        };
        let (reception, sender) = (Arc::clone(&self.shared.reception), self.sender.clone());
        let receiving = blocking(move || reception.open(&sender, &place, &name, intent)).await??;
        tracing::info!(
            namespace = %self.sender.namespace, user = self.sender.user, source = self.source, path = %path,
            upload = receiving.id(), resumed_at = receiving.size(), "upload begins"
        );
        Ok(Open::Upload(Box::new(Upload { receiving, append: flags & open_flags::APPEND != 0 })))
    }

    async fn open_shelf(
        &mut self,
        settings: &crate::config::Settings,
        shelf: Shelf,
        name: Vec<u8>,
    ) -> Result<Open, Refusal> {
        if shelf == Shelf::Reports && self.visible_reports(settings, std::slice::from_ref(&name)).await? != [true] {
            return Err(Refusal::missing());
        }
        let file = self.shelf(settings, &shelf)?.file(&[name], OFlags::RDONLY)?;
        let size = file.metadata()?.len();
        Ok(Open::Plain(Box::new(Plain {
            file,
            shelf: Some(shelf),
            readable: true,
            writable: false,
            append: false,
            below: Vec::new(),
            size,
            bytes_read: 0,
            read_end: 0,
            changed: false,
        })))
    }

    fn open_exchange(
        &mut self,
        settings: &crate::config::Settings,
        below: Vec<Vec<u8>>,
        flags: u32,
    ) -> Result<Open, Refusal> {
        let has = |bit: u32| flags & bit != 0;
        let writable = has(open_flags::WRITE | open_flags::APPEND);
        let readable = has(open_flags::READ) || !writable;
        let mut how = match (readable, writable) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        how.set(OFlags::CREATE, writable && has(open_flags::CREATE));
        how.set(OFlags::EXCL, writable && has(open_flags::CREATE) && has(open_flags::EXCLUSIVE));
        let jail = self.exchange(settings)?;
        if below.is_empty() {
            return Err(Refusal::failure("is a directory"));
        }
        if writable {
            self.measure_exchange(&jail)?;
        }
        let file = jail.file(&below, how)?;
        // Only now: an open with O_TRUNC would empty a file before it is known to be a regular one.
        if writable && has(open_flags::TRUNCATE) {
            file.set_len(0)?;
        }
        let size = file.metadata()?.len();
        Ok(Open::Plain(Box::new(Plain {
            file,
            shelf: None,
            readable,
            writable,
            append: has(open_flags::APPEND),
            below,
            size,
            bytes_read: 0,
            read_end: 0,
            changed: writable && has(open_flags::CREATE | open_flags::TRUNCATE),
        })))
    }
}
