//! A TCP stream that can be ended from outside, and that never lets a full send buffer keep the session from reading.
//!
//! russh writes and reads in one task: while a write waits, nothing is read, and a client that sends many requests
//! before it reads an answer would wait for us as we wait for it. So what the socket does not take at once is kept here,
//! up to [`MOST_KEPT`], and sent from either side of the stream as the socket allows.
//!
//! A few short answers are kept on purpose, up to [`HELD_BACK`]: each one sent by itself costs more than the WRITE that it
//! answers, here and in the client that it wakes up. They go out together, and at the latest when there is nothing more to
//! read: then the client may be waiting for them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

const MOST_KEPT: usize = 4 << 20;
/// Four answers to a WRITE: few enough that a client with some requests on their way goes on sending meanwhile.
const HELD_BACK: usize = 256;

/// Since when a stream has been unable to send, and what went through it.
#[derive(Debug)]
pub(super) struct Progress {
    begun: Instant,
    /// Milliseconds after `begun`, plus one; 0: nothing waits.
    stalled_at: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
}

impl Progress {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            stalled_at: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Milliseconds since the client last took anything of what waits for it.
    pub(super) fn stalled_for(&self) -> u64 {
        match self.stalled_at.load(Ordering::Relaxed) {
            0 => 0,
            at => self.now().saturating_sub(at - 1),
        }
    }
}

/// A client's connection.
pub(super) struct Stream {
    tcp: TcpStream,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    kept: BytesMut,
    /// The socket did not take all of what is kept.
    full: bool,
    progress: Arc<Progress>,
}

impl Stream {
    /// Every read and write fails once `end` is cancelled.
    pub(super) fn new(tcp: TcpStream, end: CancellationToken, progress: Arc<Progress>) -> Self {
        Self { tcp, ended: Box::pin(end.cancelled_owned()), kept: BytesMut::new(), full: false, progress }
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the session was ended")),
            Poll::Pending => Ok(()),
        }
    }

    fn sent(&self, bytes: usize) {
        self.progress.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.progress.stalled_at.store(0, Ordering::Relaxed);
    }

    fn stalled(&self) {
        let now = self.progress.now() + 1;
        let _ = self.progress.stalled_at.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Sends what is kept.
    fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            match Pin::new(&mut self.tcp).poll_write(cx, &self.kept) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(bytes)) => {
                    self.kept.advance(bytes);
                    self.sent(bytes);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.full = true;
                    self.stalled();
                    return Poll::Pending;
                }
            }
        }
        // The peak of one slow moment is not held for the rest of the session.
        if std::mem::take(&mut self.full) {
            self.kept = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what was held back and then of `data` what the socket takes; answers with how much of `data` that was.
    fn poll_both(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let both = [IoSlice::new(&self.kept), IoSlice::new(data)];
        match ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, &both)) {
            Ok(bytes) => {
                let of_kept = bytes.min(self.kept.len());
                self.kept.advance(of_kept);
                self.sent(bytes);
                Poll::Ready(Ok(bytes - of_kept))
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

/// Answers that were held back when the session failed: a client that has closed its side only may still read them.
impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.tcp.try_write(&self.kept);
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_ended(cx)?;
        if self.full
            && let Poll::Ready(Err(error)) = self.poll_kept(cx)
        {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        if bytes == 0
            && !self.full
            && let Poll::Ready(Err(error)) = self.poll_kept(cx)
        {
            return Poll::Ready(Err(error));
        }
        self.progress.received.fetch_add(bytes as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_ended(cx)?;
        if self.full
            && let Poll::Ready(Err(error)) = self.poll_kept(cx)
        {
            return Poll::Ready(Err(error));
        }
        if !self.full && self.kept.len() + data.len() > HELD_BACK {
            match self.poll_both(cx, data) {
                Poll::Ready(Ok(0)) => self.full = true,
                Poll::Ready(taken) => return Poll::Ready(taken),
                Poll::Pending => {
                    self.full = true;
                    self.stalled();
                }
            }
        }
        let room = MOST_KEPT.saturating_sub(self.kept.len()).min(data.len());
        if room == 0 && !data.is_empty() {
            // `poll_kept` has left a waker with the socket.
            return Poll::Pending;
        }
        self.kept.extend_from_slice(data.get(..room).unwrap_or_default());
        Poll::Ready(Ok(room))
    }

    /// What is kept is not waited for: reading goes on, and sends it.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ended(cx)?;
        match self.full.then(|| self.poll_kept(cx)) {
            Some(Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ended(cx)?;
        ready!(self.poll_kept(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn pair() -> (Stream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        (Stream::new(tcp, CancellationToken::new(), Progress::new()), client)
    }

    /// What the client has by now.
    async fn arrived(client: &mut TcpStream, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        client.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    fn nothing_arrived(client: &TcpStream) {
        let error = client.try_read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn short_answers_wait_for_the_end_of_the_input() {
        let (mut stream, mut client) = pair().await;
        client.write_all(b"ab").await.unwrap();
        for (question, answer) in [(b'a', b"one "), (b'b', b"two ")] {
            assert_eq!(stream.read_u8().await.unwrap(), question);
            stream.write_all(answer).await.unwrap();
            stream.flush().await.unwrap();
            nothing_arrived(&client);
        }
        tokio::select! {
            biased;
            _ = stream.read_u8() => panic!("there is nothing to read"),
            bytes = arrived(&mut client, 8) => assert_eq!(bytes, b"one two "),
        }
    }

    #[tokio::test]
    async fn many_short_answers_do_not_wait() {
        let (mut stream, mut client) = pair().await;
        stream.write_all(&[1; HELD_BACK]).await.unwrap();
        nothing_arrived(&client);
        stream.write_all(&[2]).await.unwrap();
        assert_eq!(arrived(&mut client, HELD_BACK + 1).await, [&[1; HELD_BACK][..], &[2]].concat());
    }

    #[tokio::test]
    async fn nothing_is_lost_when_the_session_ends() {
        let (mut stream, mut client) = pair().await;
        client.shutdown().await.unwrap();
        stream.write_all(b"one ").await.unwrap();
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
        assert_eq!(arrived(&mut client, 4).await, b"one ");
        stream.write_all(b"two ").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(arrived(&mut client, 4).await, b"two ");
        let (mut stream, mut client) = pair().await;
        stream.write_all(b"three").await.unwrap();
        drop(stream);
        assert_eq!(arrived(&mut client, 5).await, b"three");
    }

    #[tokio::test]
    async fn the_order_stays_whatever_the_socket_takes() {
        let (mut stream, mut client) = pair().await;
        let lengths = [1, 100, 200, 70_000, 3, 3 << 20, 250, 10, 2 << 20, 5, 4 << 20, 300, 7];
        let sent: Vec<Vec<u8>> = (0..).zip(lengths).map(|(piece, length)| vec![piece; length]).collect();
        let expected = sent.concat();
        let receive = arrived(&mut client, expected.len());
        let send = async {
            for piece in &sent {
                stream.write_all(piece).await.unwrap();
                stream.flush().await.unwrap();
            }
            // As the session does: it always reads.
            drop(stream.read_u8().await);
        };
        let received = tokio::select! {
            () = send => panic!("there is nothing to read"),
            bytes = receive => bytes,
        };
        assert!(received == expected);
    }
}
