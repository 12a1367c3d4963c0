//! The SFTP engine of one channel: takes one packet, gives one reply, in order. What it does is split by group:
//! [`files`] for what goes by handle, [`names`] for what goes by path, [`directories`], [`extended`].
//!
//! It knows nothing of SSH. Reads and writes of file data are plain system calls; whatever waits for the store or for a
//! disk's sync goes to a blocking thread.

mod directories;
mod extended;
mod files;
mod names;
mod opening;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::handles::{Handles, Open};
use super::jail::Jail;
use super::packet::{self, Code, Malformed, Refusal, Request};
use super::path::VirtualPath;
use super::tree::{self, Node, Shelf, View};
use super::{Pickup, Shared};
use crate::config::{Name, Namespace, Settings, User};
use crate::spool::{Kind, Layout, ReceptionError, Sender};

/// Why a channel has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fatal {
    #[error("read a packet: it is malformed")]
    Malformed,
    #[error("read a packet: it is longer than 256 KiB or empty")]
    Oversize,
    #[error("begin: the first packet is not INIT")]
    NotInitialised,
    #[error("keep up: the client sends without reading")]
    Flooded,
}

/// One channel's SFTP session.
pub(super) struct Engine {
    shared: Arc<Shared>,
    sender: Sender,
    source: String,
    handles: Handles,
    created_banks: BTreeSet<Name>,
    kinds: HashMap<i64, Kind>,
    /// Bytes in `/exchange` as last measured, plus what this session added since.
    exchange_bytes: Option<(std::time::Instant, u64)>,
    initialised: bool,
}

/// A path, what it means, and the settings it was judged by.
struct Resolved {
    path: VirtualPath,
    node: Node,
    settings: Arc<Settings>,
}

type Answer = Result<Vec<u8>, Refusal>;

impl Engine {
    pub(super) fn new(shared: Arc<Shared>, sender: Sender, source: String) -> Self {
        Self {
            shared,
            sender,
            source,
            handles: Handles::default(),
            created_banks: BTreeSet::new(),
            kinds: HashMap::new(),
            exchange_bytes: None,
            initialised: false,
        }
    }

    /// Answers one packet.
    pub(super) async fn answer(&mut self, packet: Bytes) -> Result<Vec<u8>, Fatal> {
        let (id, request) = match packet::parse(packet) {
            Ok(parsed) => parsed,
            Err(Malformed { id: Some(id) }) if self.initialised => {
                return Ok(packet::status(id, Code::BadMessage, "malformed request"));
            }
            Err(_) => return Err(Fatal::Malformed),
        };
        if let Request::Init { .. } = request {
            self.initialised = true;
            return Ok(packet::version(extended::ANNOUNCED));
        }
        if !self.initialised {
            return Err(Fatal::NotInitialised);
        }
        fail::fail_point!("sftp::answer", self.sender.user == "panics", |_| Err(Fatal::Malformed));
        Ok(match self.dispatch(id, request).await {
            Ok(reply) => reply,
            Err(Refusal { code, text }) => packet::status(id, code, &text),
        })
    }

    /// Answers a WRITE from the bytes as they arrived. `None` before INIT: then [`Engine::answer`] says what is wrong.
    pub(super) fn answer_write(&mut self, write: packet::Write<'_>) -> Option<Vec<u8>> {
        if !self.initialised {
            return None;
        }
        let packet::Write { id, handle, offset, data } = write;
        let refused = |Refusal { code, text }| packet::status(id, code, &text);
        Some(self.write(id, handle, offset, data).unwrap_or_else(refused))
    }

    async fn dispatch(&mut self, id: u32, request: Request) -> Answer {
        match request {
            Request::Read { handle, offset, length } => self.read(id, &handle, offset, length),
            Request::Write { handle, offset, data } => self.write(id, &handle, offset, &data),
            Request::Open { path, flags } => self.open(id, &path, flags).await,
            Request::Close { handle } => self.close(id, &handle).await,
            Request::Fstat { handle } => self.fstat(id, &handle),
            Request::Fsetstat { handle, attributes } => self.fsetstat(id, &handle, &attributes),
            Request::Stat { path } => self.stat(id, &path).await,
            Request::Setstat { path, attributes } => self.setstat(id, &path, attributes).await,
            Request::Opendir { path } => self.opendir(id, &path).await,
            Request::Readdir { handle } => self.readdir(id, &handle).await,
            Request::Remove { path } => self.remove(id, &path).await,
            Request::Mkdir { path } => self.mkdir(id, &path).await,
            Request::Rmdir { path } => self.rmdir(id, &path).await,
            Request::Realpath { path } => names::realpath(id, &path),
            Request::Rename { from, to } => self.rename(id, &from, &to, false).await,
            Request::Extended { name, payload } => self.extended(id, &name, payload).await,
            Request::Link => Err(Refusal::denied("there are no links here")),
            Request::Init { .. } | Request::Unknown(_) => Err(Refusal::unsupported()),
        }
    }

    /// The user as the settings have it now; a reload may have taken it away.
    fn account<'a>(&self, settings: &'a Settings) -> Result<(&'a Namespace, &'a User), Refusal> {
        settings
            .namespaces
            .get(&self.sender.namespace)
            .and_then(|namespace| Some((namespace, namespace.users.get(&self.sender.user)?)))
            .ok_or_else(|| Refusal::denied("this user is no longer configured"))
    }

    async fn resolve(&mut self, raw: &[u8]) -> Result<Resolved, Refusal> {
        let path = VirtualPath::parse(raw).map_err(|error| Refusal::failure(error.to_string()))?;
        let settings = self.shared.live.current();
        let (namespace, user) = self.account(&settings)?;
        if tree::undeclared_bank(&path, namespace) {
            self.refresh_banks().await?;
        }
        let view = View { namespace, role: user.role, created_banks: &self.created_banks };
        let node = view.resolve(&path);
        Ok(Resolved { path, node, settings })
    }

    async fn refresh_banks(&mut self) -> Result<(), Refusal> {
        let (store, namespace) = (self.shared.store.clone(), self.sender.namespace.clone());
        self.created_banks = blocking(move || {
            store
                .namespace_id(&namespace)
                .and_then(|id| store.bank_names(id))
                .map_err(crate::spool::ReceptionError::from)
        })
        .await??;
        Ok(())
    }

    fn layout(&self, settings: &Settings) -> Layout {
        Layout::new(&settings.state_dir, &self.sender.namespace)
    }

    fn exchange(&self, settings: &Settings) -> Result<Jail, Refusal> {
        Ok(Jail::open_or_create(&self.layout(settings).exchange())?)
    }

    fn shelf(&self, settings: &Settings, shelf: &Shelf) -> Result<Jail, Refusal> {
        let layout = self.layout(settings);
        let directory = match shelf {
            Shelf::Reports => layout.reports(),
            Shelf::Assignments(campaign) => layout.assignments(campaign),
            Shelf::Openpgp => layout.openpgp(),
        };
        Ok(Jail::open(&directory)?)
    }

    /// Which of these file names in `/reports` the role may see.
    async fn visible_reports(&mut self, settings: &Settings, names: &[Vec<u8>]) -> Result<Vec<bool>, Refusal> {
        let role = self.account(settings)?.1.role;
        if role == crate::config::Role::All {
            return Ok(vec![true; names.len()]);
        }
        let ids: Vec<Option<i64>> = names.iter().map(|name| reported_upload(name)).collect();
        let unknown: Vec<i64> = ids.iter().flatten().copied().filter(|id| !self.kinds.contains_key(id)).collect();
        if !unknown.is_empty() {
            let (store, namespace) = (self.shared.store.clone(), self.sender.namespace.clone());
            let kinds = blocking(move || {
                store
                    .namespace_id(&namespace)
                    .and_then(|id| store.upload_kinds(id, &unknown))
                    .map_err(crate::spool::ReceptionError::from)
            })
            .await??;
            // An upload's kind never changes, so what was looked up stays right; only its amount is bounded.
            if self.kinds.len() > 50_000 {
                self.kinds.clear();
            }
            self.kinds.extend(kinds);
        }
        let kind = |(id, name): (&Option<i64>, &Vec<u8>)| match id {
            Some(id) => self.kinds.get(id).copied(),
            None => is_suspicion(name).then_some(Kind::Redemptions),
        };
        Ok(ids.iter().zip(names).map(|file| kind(file).is_some_and(|kind| tree::sees_kind(role, kind))).collect())
    }

    /// Whether anything is open: a stop waits for that.
    pub(super) fn is_busy(&self) -> bool {
        !self.handles.is_empty()
    }

    /// The channel is gone: what was being uploaded becomes a partial file.
    pub(super) async fn abandon(&mut self) {
        for opened in self.handles.drain() {
            if let Open::Upload(upload) = opened.what {
                let reception = Arc::clone(&self.shared.reception);
                let (id, bytes) = (upload.receiving.id(), upload.receiving.size());
                tracing::info!(
                    namespace = %self.sender.namespace, user = self.sender.user, source = self.source,
                    path = %opened.path, upload = id, bytes, ms = millis(opened.since), "upload interrupted"
                );
                match blocking(move || reception.abandon(upload.receiving)).await {
                    Ok(Ok(())) => {}
                    // The store has said it, and the next start makes a partial file of it.
                    Ok(Err(ReceptionError::Store(error))) if error.is_unavailable() => {}
                    Ok(Err(error)) => {
                        tracing::error!(
                            upload = id,
                            error = &error as &dyn std::error::Error,
                            "failed to keep a partial upload"
                        );
                    }
                    Err(_) => tracing::error!(upload = id, "failed to keep a partial upload"),
                }
            }
        }
    }

    /// The one place where a finished download of an outbound file is known.
    fn collected(&self, path: &VirtualPath, bytes: u64, since: std::time::Instant) {
        tracing::info!(
            namespace = %self.sender.namespace, user = self.sender.user, source = self.source,
            path = %path, bytes, ms = millis(since), "file collected"
        );
        (self.shared.collected)(&Pickup {
            namespace: self.sender.namespace.clone(),
            user: self.sender.user.clone(),
            path: path.to_bytes(),
            bytes,
        });
    }
}

/// `<original name>.<upload id>.report.json` or `.rejects.csv`
fn reported_upload(name: &[u8]) -> Option<i64> {
    let stem = name.strip_suffix(b".report.json").or_else(|| name.strip_suffix(b".rejects.csv"))?;
    let id = stem.rsplit(|byte| *byte == b'.').next()?;
    std::str::from_utf8(id).ok()?.parse().ok()
}

/// `suspicion.<date>.csv`: about redemptions, of no one upload.
fn is_suspicion(name: &[u8]) -> bool {
    name.starts_with(b"suspicion.") && name.ends_with(b".csv")
}

fn millis(since: std::time::Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn ok(id: u32) -> Vec<u8> {
    packet::status(id, Code::Ok, "")
}

/// Runs what waits for a disk or the store on a thread that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        tracing::error!("a file operation panicked");
        Refusal::failure("the server could not do that; try again later")
    })
}

#[cfg(test)]
mod tests {
    use super::{is_suspicion, reported_upload};

    #[test]
    fn report_names_tell_their_upload() {
        assert_eq!(reported_upload(b"spring.csv.gpg.17.report.json"), Some(17));
        assert_eq!(reported_upload(b"a.csv.18.rejects.csv"), Some(18));
        assert_eq!(reported_upload(b"18.rejects.csv"), Some(18));
        assert_eq!(reported_upload(b"a.csv.report.json"), None);
        assert_eq!(reported_upload(b"a.17.txt"), None);
        assert_eq!(reported_upload(b""), None);
        assert!(is_suspicion(b"suspicion.2026-03-02.csv") && !is_suspicion(b"suspicion.2026-03-02.txt"));
    }
}
