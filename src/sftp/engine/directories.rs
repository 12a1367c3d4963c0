//! OPENDIR and READDIR.

use std::collections::VecDeque;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir};

use super::{Answer, Engine, Resolved, blocking};
use crate::sftp::entry;
use crate::sftp::handles::{Listing, Open};
use crate::sftp::jail::{self, Jail};
use crate::sftp::packet::{self, Entry, Refusal};
use crate::sftp::tree::{Node, Shelf};
use crate::spool::{Kind, Place};

/// One NAME reply: clients choke on more entries or bytes than OpenSSH's server would send.
const MOST_ENTRIES: usize = 100;
const MOST_BYTES: usize = 32_000;

impl Engine {
    pub(super) async fn opendir(&mut self, id: u32, raw: &[u8]) -> Answer {
        let Resolved { mut node, mut settings, path } = self.resolve(raw).await?;
        self.handles.room(true, settings.limits.open_directories)?;
        if matches!(&node, Node::Drop(Place { kind: Kind::Coupons, target: None, .. }, _)) {
            self.refresh_banks().await?;
            Resolved { node, settings, .. } = self.resolve(raw).await?;
        }
        let listing = match node {
            Node::Listing(names) => Listing::Ready(self.directories(names)),
            Node::Drop(place, names) => {
                let mut entries = self.directories(names);
                let (reception, sender) = (Arc::clone(&self.shared.reception), self.sender.clone());
                let files = blocking(move || reception.list(&sender, &place)).await??;
                entries.extend(files.into_iter().map(|sent| {
                    let attributes = entry::sent(&sent);
                    entry::entry(sent.name.into_bytes(), attributes)
                }));
                Listing::Ready(entries)
            }
            Node::Shelf(shelf) => match self.shelf(&settings, &shelf) {
                Ok(jail) => on_disk(&jail, &[], Some(shelf))?,
                // Nothing was ever put there.
                Err(refusal) if refusal == Refusal::missing() => Listing::Ready(VecDeque::new()),
                Err(refusal) => return Err(refusal),
            },
            Node::Exchange(below) => on_disk(&self.exchange(&settings)?, &below, None)?,
            Node::DropFile(..) | Node::ShelfFile(..) | Node::Nothing => return Err(Refusal::missing()),
        };
        Ok(packet::handle(id, &self.handles.insert(Open::Directory(listing), path)))
    }

    fn directories(&self, names: Vec<String>) -> VecDeque<Entry> {
        names.into_iter().map(|name| entry::entry(name.into_bytes(), entry::directory(self.shared.started))).collect()
    }

    pub(super) async fn readdir(&mut self, id: u32, handle: &[u8]) -> Answer {
        loop {
            let Open::Directory(listing) = &mut self.handles.get(handle)?.what else {
                return Err(Refusal::failure("not a directory"));
            };
            let (mut entries, shelf) = match listing {
                Listing::Ready(entries) => (take(entries), None),
                Listing::Disk { directory, entries, shelf } => (next(directory, entries)?, shelf.clone()),
            };
            if entries.is_empty() {
                return Err(Refusal::end());
            }
            if let Some(shelf) = shelf {
                self.hide(&shelf, &mut entries).await?;
                // A hundred entries that are all hidden are not the end of the directory.
                if entries.is_empty() {
                    continue;
                }
            }
            return Ok(packet::names(id, &entries));
        }
    }

    /// Takes away what is not published, not a file, or another role's.
    async fn hide(&mut self, shelf: &Shelf, entries: &mut Vec<Entry>) -> Result<(), Refusal> {
        let directory = |entry: &Entry| entry.attributes.permissions.is_some_and(|mode| mode & 0o040_000 != 0);
        entries.retain(|entry| !entry.name.starts_with(b".") && !directory(entry));
        if *shelf == Shelf::Reports {
            let names: Vec<Vec<u8>> = entries.iter().map(|entry| entry.name.clone()).collect();
            let settings = self.shared.live.current();
            let mut visible = self.visible_reports(&settings, &names).await?.into_iter();
            entries.retain(|_| visible.next().unwrap_or(false));
        }
        Ok(())
    }
}

fn on_disk(jail: &Jail, below: &[Vec<u8>], shelf: Option<Shelf>) -> Result<Listing, Refusal> {
    let directory = jail.directory(below)?;
    let entries = Box::new(Dir::read_from(&directory)?);
    Ok(Listing::Disk { directory, entries, shelf })
}

fn room(entries: &[Entry], bytes: usize) -> bool {
    entries.len() < MOST_ENTRIES && bytes < MOST_BYTES - 1024
}

fn size(entry: &Entry) -> usize {
    entry.name.len() + entry.long_name.len() + 40
}

fn take(from: &mut VecDeque<Entry>) -> Vec<Entry> {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while room(&entries, bytes)
        && let Some(entry) = from.pop_front()
    {
        bytes += size(&entry);
        entries.push(entry);
    }
    entries
}

fn next(directory: &std::os::fd::OwnedFd, from: &mut Dir) -> Result<Vec<Entry>, Refusal> {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while room(&entries, bytes)
        && let Some(found) = from.read()
    {
        let found = found?;
        let name = found.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || name.to_bytes().iter().any(u8::is_ascii_control) {
            continue;
        }
        // Gone again since, or nothing that is shown.
        let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if jail::shown(&stat) {
            let entry = entry::entry(name.to_bytes().to_vec(), entry::on_disk(&stat));
            bytes += size(&entry);
            entries.push(entry);
        }
    }
    Ok(entries)
}
