//! A TCP stream that can be ended from outside, and that never lets a full send buffer keep the session from reading.
//!
//! russh writes and reads in one task: while a write waits, nothing is read, and a client that sends many requests
//! before it reads an answer would wait for us as we wait for it. So what the socket does not take at once is kept here,
//! up to [`MOST_KEPT`], and sent from either side of the stream as the socket allows.

use std::io;
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
    progress: Arc<Progress>,
}

impl Stream {
    /// Every read and write fails once `end` is cancelled.
    pub(super) fn new(tcp: TcpStream, end: CancellationToken, progress: Arc<Progress>) -> Self {
        Self { tcp, ended: Box::pin(end.cancelled_owned()), kept: BytesMut::new(), progress }
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
                    self.stalled();
                    return Poll::Pending;
                }
            }
        }
        // The peak of one slow moment is not held for the rest of the session.
        self.kept = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_ended(cx)?;
        if !self.kept.is_empty()
            && let Poll::Ready(Err(error)) = self.poll_kept(cx)
        {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        self.progress.received.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_ended(cx)?;
        if self.kept.is_empty() {
            match Pin::new(&mut self.tcp).poll_write(cx, data) {
                Poll::Ready(Ok(bytes)) => {
                    self.sent(bytes);
                    return Poll::Ready(Ok(bytes));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => self.stalled(),
            }
        } else if let Poll::Ready(Err(error)) = self.poll_kept(cx) {
            return Poll::Ready(Err(error));
        }
        let room = MOST_KEPT.saturating_sub(self.kept.len()).min(data.len());
        if room == 0 {
            // `poll_kept` or the write above has left a waker with the socket.
            return Poll::Pending;
        }
        self.kept.extend_from_slice(data.get(..room).unwrap_or_default());
        Poll::Ready(Ok(room))
    }

    /// What is kept is not waited for: reading goes on, and sends it.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ended(cx)?;
        match self.poll_kept(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ended(cx)?;
        ready!(self.poll_kept(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
