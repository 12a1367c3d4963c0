//! One file, opened on a thread of its own: layers off, limits held, SHA-256 computed on the way.
//!
//! The thread hands chunks through a short channel and ends when nobody takes them any more. It is also where a panic of
//! a library that reads strangers' bytes stays: it refuses this one file.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use chrono::{DateTime, Utc};

use super::layers::{Fault, Layer, Peeled, READ_BYTES, peel};
use super::{Chunks, OpenError};
use crate::config::{Limits, Require};
use crate::digest::Sha256;
use crate::openpgp::{Certificate, Keyring};
use crate::reason::{Finding, Reason};

/// Bytes of one chunk.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks that may wait for their reader.
const CHUNKS_WAITING: usize = 4;
/// Plaintext that is not yet judged by the ratio limit: short files of equal rows compress well.
const RATIO_FREE_BYTES: u64 = 64 << 20;

/// What a file must be, and may be.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The daemon's keys.
    pub keyring: Arc<Keyring>,
    /// The least that the file must be.
    pub require: Require,
    /// Certificates whose signatures count.
    pub signers: Arc<[Certificate]>,
    /// Limits on plaintext, ratio and nesting.
    pub limits: Limits,
    /// The instant at which signers are judged.
    pub now: DateTime<Utc>,
    /// Whether the SHA-256 of the plaintext is asked for; of a list that is read again it is known.
    pub asks_sha256: bool,
}

/// What is known once the whole file verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// SHA-256 of the plaintext, where the terms ask for it.
    pub sha256: Option<[u8; 32]>,
    /// Bytes of plaintext.
    pub plaintext_bytes: u64,
    /// The layers, outermost first.
    pub layers: Vec<Layer>,
    /// Fingerprint of the pinned certificate that signed the file.
    pub signed_by: Option<String>,
}

/// The plaintext of one file, chunk by chunk.
#[derive(Debug)]
pub struct Plaintext {
    chunks: Option<Receiver<Message>>,
    summary: Option<Summary>,
}

enum Message {
    Chunk(Vec<u8>),
    End(Summary),
    Failed(OpenError),
}

/// Opens `file`. Errors come from the first chunk asked for, so that there is one place to handle them.
#[must_use]
pub fn open(file: File, terms: Terms) -> Plaintext {
    let (sender, chunks) = sync_channel(CHUNKS_WAITING);
    let failed = sender.clone();
    let thread = thread::Builder::new().name("plaintext".to_owned()).spawn(move || run(file, &terms, &sender));
    if let Err(error) = thread {
        // The channel is empty, so this does not block; a receiver is there.
        drop(failed.send(Message::Failed(OpenError::Io(error))));
    }
    Plaintext { chunks: Some(chunks), summary: None }
}

impl Plaintext {
    /// What is known about the whole file; `None` until [`Chunks::next_chunk`] said that it has ended.
    #[must_use]
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }
}

impl Chunks for Plaintext {
    fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, OpenError> {
        if self.summary.is_some() {
            return Ok(None);
        }
        let ended = || OpenError::Io(io::Error::other("the reading thread has ended"));
        match self.chunks.as_ref().ok_or_else(ended)?.recv() {
            Ok(Message::Chunk(chunk)) => Ok(Some(chunk)),
            Ok(Message::End(summary)) => {
                self.chunks = None;
                self.summary = Some(summary);
                Ok(None)
            }
            Ok(Message::Failed(error)) => {
                self.chunks = None;
                Err(error)
            }
            Err(_) => Err(ended()),
        }
    }
}

/// The thread: everything in here may meet bytes that a stranger chose.
fn run(file: File, terms: &Terms, sender: &SyncSender<Message>) {
    let fault = Fault::default();
    let last = match catch_unwind(AssertUnwindSafe(|| hand_out(file, terms, &fault, sender))) {
        Ok(Ok(Some(summary))) => Message::End(summary),
        Ok(Ok(None)) => return,
        Ok(Err(error)) => Message::Failed(error),
        Err(_panic) => Message::Failed(fault.after_panic()),
    };
    // Nobody may be there any more; then nobody wants to know.
    drop(sender.send(last));
}

/// Hands out the whole plaintext; `None` when nobody takes it any more.
fn hand_out(
    file: File,
    terms: &Terms,
    fault: &Fault,
    sender: &SyncSender<Message>,
) -> Result<Option<Summary>, OpenError> {
    let mut peeled = peel(file, terms, fault)?;
    let mut hash = terms.asks_sha256.then(Sha256::default);
    let mut plaintext_bytes = 0;
    loop {
        let chunk = next(&mut peeled, fault)?;
        if chunk.is_empty() {
            break;
        }
        plaintext_bytes += chunk.len() as u64;
        within_limits(plaintext_bytes, fault.bytes_read(), &terms.limits)?;
        if let Some(hash) = &mut hash {
            hash.update(&chunk);
        }
        if sender.send(Message::Chunk(chunk)).is_err() {
            return Ok(None);
        }
    }
    // A library may have read past a fault that a layer below it reported.
    if let Some(error) = fault.take() {
        return Err(error);
    }
    let signed_by = peeled.signed_by();
    Ok(Some(Summary { sha256: hash.map(Sha256::finish), plaintext_bytes, layers: fault.layers(), signed_by }))
}

/// A full chunk, or what is left; empty at the end.
fn next(peeled: &mut Peeled, fault: &Fault) -> Result<Vec<u8>, OpenError> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut filled = 0;
    while let Some(room) = chunk.get_mut(filled..).filter(|room| !room.is_empty()) {
        // Never a larger slice: the decryptor takes one beyond its own buffer for the end of the message.
        let slice = if room.len() > READ_BYTES { room.split_at_mut(READ_BYTES).0 } else { room };
        match io::Read::read(&mut peeled.reader, slice) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fault.take().unwrap_or(OpenError::Io(error))),
        }
    }
    chunk.truncate(filled);
    Ok(chunk)
}

fn within_limits(plaintext_bytes: u64, file_bytes: u64, limits: &Limits) -> Result<(), Finding> {
    if plaintext_bytes > limits.plaintext_bytes {
        let message = format!("more than {} bytes of plaintext; split the file", limits.plaintext_bytes);
        return Err(Finding::file(Reason::TooLarge, message));
    }
    let most = file_bytes.saturating_mul(limits.plaintext_ratio);
    if plaintext_bytes > RATIO_FREE_BYTES && plaintext_bytes > most {
        let message = format!("unpacks to more than {} times its size", limits.plaintext_ratio);
        return Err(Finding::file(Reason::TooCompressed, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(plaintext_bytes: u64, file_bytes: u64, expected: Option<Reason>) {
        let limits = crate::plaintext::layers::tests::limits(100 << 30, 8);
        let found = within_limits(plaintext_bytes, file_bytes, &limits).err().map(|finding| finding.reason);
        assert_eq!(found, expected);
    }

    #[test]
    fn limits() {
        check(RATIO_FREE_BYTES, 1, None);
        check(RATIO_FREE_BYTES + 1, 1, Some(Reason::TooCompressed));
        check(RATIO_FREE_BYTES + 1, RATIO_FREE_BYTES / 1000 + 1, None);
        check((100 << 30) + 1, 100 << 30, Some(Reason::TooLarge));
    }
}
