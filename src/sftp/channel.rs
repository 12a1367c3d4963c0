//! One SFTP channel between SSH and the engine: a queue of packets in bytes, and who works on it.
//!
//! Usually the session handler does, right where the data arrives: the reply goes into the SSH session without a hop.
//! That must stop as soon as the client has no window left or a burst has made too much output, and somebody has to go
//! on later without another packet from the client. So then a task, the pump, takes over until the queue is empty and
//! everything it sent is on its way: it sends through russh's bounded queue, which waits for the client's window and for
//! a key exchange. Either the handler or the pump works, never both; replies keep the order of the requests.
//!
//! The queue is bounded by [`MOST_QUEUED`]; a client that fills it is ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, Bytes, BytesMut};
use russh::ChannelId;
use russh::server::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::engine::{Engine, Fatal};
use super::packet::LONGEST_PACKET;

/// Queued bytes from which the client gets a small window only.
pub(super) const SLOW_DOWN: usize = 2 << 20;
/// Queued bytes that end the session. OpenSSH's client has at most 64 WRITEs of 255 KiB on their way.
pub(super) const MOST_QUEUED: usize = 32 << 20;
/// Output that one burst may make before the pump takes over: russh encrypts it all before it sends any.
pub(super) const MOST_AT_ONCE: usize = 1 << 20;

#[derive(Debug, Default)]
struct Queue {
    bytes: BytesMut,
    pumping: bool,
    /// Replies of the pump that russh still holds.
    in_flight: usize,
    eof: bool,
    gone: bool,
}

impl Queue {
    /// The next whole packet without its length.
    fn next(&mut self) -> Result<Option<Bytes>, Fatal> {
        let Some(head) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if length == 0 || length > LONGEST_PACKET {
            return Err(Fatal::Oversize);
        }
        if self.bytes.len() < 4 + length {
            // Room for the rest of it in one piece.
            let missing = 4 + length - self.bytes.len();
            self.bytes.reserve(missing);
            return Ok(None);
        }
        self.bytes.advance(4);
        Ok(Some(self.bytes.split_to(length).freeze()))
    }
}

/// What the handler does next.
pub(super) enum Turn {
    /// Answer this packet.
    Answer(Bytes),
    /// Nothing: the queue is empty, or the pump works.
    Rest,
    /// The client has sent EOF and everything is answered.
    Finish,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    queue: Mutex<Queue>,
    /// Wakes the pump.
    changed: Notify,
    /// Wakes a handler that waits for the pump to catch up.
    caught_up: Notify,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().bytes.len()
    }

    pub(super) fn push(&self, data: &[u8]) -> Result<(), Fatal> {
        let mut queue = self.lock();
        if queue.bytes.len() + data.len() > MOST_QUEUED {
            return Err(Fatal::Flooded);
        }
        queue.bytes.extend_from_slice(data);
        if queue.pumping {
            self.changed.notify_one();
        }
        Ok(())
    }

    pub(super) fn end_of_input(&self) {
        self.lock().eof = true;
        self.changed.notify_one();
    }

    pub(super) fn close(&self) {
        let mut queue = self.lock();
        queue.gone = true;
        queue.bytes = BytesMut::new();
        self.changed.notify_one();
    }

    /// Whether nothing is queued and the pump rests: then the handler may answer from the bytes as they come.
    pub(super) fn is_idle(&self) -> bool {
        let queue = self.lock();
        queue.bytes.is_empty() && !queue.pumping && !queue.gone
    }

    /// Whether the channel has ended, from either side.
    pub(super) fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// The handler's turn.
    pub(super) fn turn(&self) -> Result<Turn, Fatal> {
        let mut queue = self.lock();
        if queue.pumping || queue.gone {
            return Ok(Turn::Rest);
        }
        if let Some(packet) = queue.next()? {
            return Ok(Turn::Answer(packet));
        }
        if queue.eof {
            queue.gone = true;
            return Ok(Turn::Finish);
        }
        Ok(Turn::Rest)
    }

    /// Whether the handler should hold the connection for a moment: the pump lags although the client takes its answers.
    pub(super) fn lags(&self) -> bool {
        let queue = self.lock();
        queue.pumping && queue.in_flight == 0 && queue.bytes.len() > SLOW_DOWN
    }

    pub(super) async fn catch_up(&self) {
        self.caught_up.notified().await;
    }
}

/// A reply that tells when russh is done with it.
struct Tracked {
    reply: Vec<u8>,
    inbox: Arc<Inbox>,
}

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.reply
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.inbox.lock().in_flight -= 1;
        self.inbox.changed.notify_one();
    }
}

/// The pump's time at work. When it ends early, by an error, a panic or the session's end, nobody would ever answer the
/// rest of the queue, and a handler may be waiting for it: so the connection ends.
struct Shift {
    inbox: Arc<Inbox>,
    end: CancellationToken,
}

impl Drop for Shift {
    fn drop(&mut self) {
        let unfinished = std::mem::take(&mut self.inbox.lock().pumping);
        if unfinished {
            self.inbox.close();
            self.inbox.caught_up.notify_one();
            self.end.cancel();
        }
    }
}

/// A channel with SFTP on it.
pub(super) struct Channel {
    pub(super) id: ChannelId,
    pub(super) inbox: Arc<Inbox>,
    pub(super) engine: tokio::sync::Mutex<Engine>,
    handle: Handle,
}

enum Step {
    Answer(Bytes),
    Wait,
    Stop { finish: bool },
}

impl Channel {
    pub(super) fn new(id: ChannelId, engine: Engine, handle: Handle) -> Arc<Self> {
        Arc::new(Self { id, inbox: Arc::default(), engine: tokio::sync::Mutex::new(engine), handle })
    }

    /// Hands the queue over to the pump, which begins with `packet`.
    pub(super) fn start_pump(
        self: &Arc<Self>,
        packet: Bytes,
        end: CancellationToken,
        answered: Arc<dyn Fn() + Send + Sync>,
    ) {
        self.inbox.lock().pumping = true;
        let channel = Arc::clone(self);
        tokio::spawn(async move {
            let _shift = Shift { inbox: Arc::clone(&channel.inbox), end: end.clone() };
            let work = channel.pump(packet, &*answered);
            if let Some(Err(fatal)) = end.run_until_cancelled(work).await {
                tracing::warn!(error = %fatal, "an SFTP channel is ended");
            }
        });
    }

    async fn pump(&self, first: Bytes, answered: &(dyn Fn() + Send + Sync)) -> Result<(), Fatal> {
        let mut packet = first;
        loop {
            let reply = self.engine.lock().await.answer(packet).await?;
            answered();
            self.inbox.lock().in_flight += 1;
            let reply = Tracked { reply, inbox: Arc::clone(&self.inbox) };
            if self.handle.data(self.id, Bytes::from_owner(reply)).await.is_err() {
                return Ok(());
            }
            self.inbox.caught_up.notify_one();
            packet = loop {
                match self.step()? {
                    Step::Answer(packet) => break packet,
                    Step::Wait => self.inbox.changed.notified().await,
                    Step::Stop { finish } => {
                        self.inbox.caught_up.notify_one();
                        if finish {
                            self.engine.lock().await.abandon().await;
                            // The session may be gone already; then nobody waits for these.
                            let _ = self.handle.exit_status_request(self.id, 0).await;
                            let _ = self.handle.eof(self.id).await;
                            let _ = self.handle.close(self.id).await;
                        }
                        return Ok(());
                    }
                }
            };
        }
    }

    fn step(&self) -> Result<Step, Fatal> {
        let mut queue = self.inbox.lock();
        if queue.gone {
            return Ok(Step::Stop { finish: false });
        }
        if let Some(packet) = queue.next()? {
            return Ok(Step::Answer(packet));
        }
        // Only when russh has sent everything on may the handler answer again, or replies would overtake each other.
        if queue.in_flight > 0 {
            return Ok(Step::Wait);
        }
        queue.pumping = false;
        // What a burst made of the buffer is not kept for the rest of the session.
        let rest = std::mem::take(&mut queue.bytes);
        queue.bytes.extend_from_slice(&rest);
        if queue.eof {
            queue.gone = true;
        }
        Ok(Step::Stop { finish: queue.eof })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_cut_out_of_the_stream() {
        let inbox = Inbox::default();
        let stream = [&3u32.to_be_bytes()[..], b"abc", &1u32.to_be_bytes(), b"d", &2u32.to_be_bytes(), b"e"].concat();
        let mut found = Vec::new();
        for byte in stream {
            inbox.push(&[byte]).unwrap();
            while let Turn::Answer(packet) = inbox.turn().unwrap() {
                found.push(packet);
            }
        }
        assert_eq!(found, [Bytes::from_static(b"abc"), Bytes::from_static(b"d")]);
        assert_eq!(inbox.len(), 5);
        inbox.push(b"f").unwrap();
        inbox.end_of_input();
        assert!(matches!(inbox.turn(), Ok(Turn::Answer(_))));
        assert!(matches!(inbox.turn(), Ok(Turn::Finish)));
        assert!(matches!(inbox.turn(), Ok(Turn::Rest)));
    }

    #[test]
    fn bad_lengths_end_the_channel() {
        for length in [0, u32::MAX, u32::try_from(LONGEST_PACKET).unwrap() + 1] {
            let inbox = Inbox::default();
            inbox.push(&length.to_be_bytes()).unwrap();
            assert_eq!(inbox.turn().err(), Some(Fatal::Oversize), "{length}");
        }
    }

    #[test]
    fn the_queue_is_bounded() {
        let inbox = Inbox::default();
        let chunk = vec![1; 1 << 20];
        let refused = (0..100).find(|_| inbox.push(&chunk).is_err());
        assert_eq!(refused, Some(MOST_QUEUED >> 20));
    }
}
