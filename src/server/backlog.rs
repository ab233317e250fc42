//! What a connection has brought and nobody has seen to yet: while that is much,
//! the connection isn't read.
//!
//! Only whole messages count. They need nothing more from their connection to be
//! done with, so that it is always read again.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The most that is read in one turn, before those it was sent to have theirs.
const TURN: usize = 64 * 1024;

/// The backlog of one connection.
#[derive(Debug)]
pub struct Backlog {
    /// Bytes of whole messages.
    held: AtomicUsize,
    most: usize,
    /// Bytes read since the connection's turn began.
    turn: AtomicUsize,
    reader: Mutex<Option<Waker>>,
}

/// A message's part of the backlog, until it is dropped.
#[derive(Debug)]
pub struct Held {
    backlog: Arc<Backlog>,
    bytes: usize,
}

impl Backlog {
    /// None yet; the connection isn't read while there are more than `most` bytes.
    pub fn new(most: usize) -> Self {
        Self { held: AtomicUsize::new(0), most, turn: AtomicUsize::new(0), reader: Mutex::new(None) }
    }

    /// To be told whenever the connection has its turn: what it reads in one is
    /// bounded, however often its reader is asked.
    pub(super) fn begin_turn(&self) {
        self.turn.store(0, Ordering::Relaxed);
    }

    /// Adds a message.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Held { backlog: Arc::clone(self), bytes }
    }

    /// Whether there is room; if not, `waker` is woken when there is.
    fn has_room(&self, waker: &Waker) -> bool {
        let has_room = self.held.load(Ordering::Relaxed) <= self.most;
        if !has_room {
            *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
        }
        has_room
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let before = self.backlog.held.fetch_sub(self.bytes, Ordering::Relaxed);
        let most = self.backlog.most;
        if before > most && before - self.bytes <= most {
            let reader = self.backlog.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
            reader.inspect(Waker::wake_by_ref);
        }
    }
}

/// A connection's stream, read no faster than what it brings is seen to.
#[derive(Debug)]
pub(super) struct Paced {
    stream: TcpStream,
    backlog: Arc<Backlog>,
    /// All that was ever read, for who wants to know whether the peer speaks.
    received: Arc<AtomicUsize>,
}

impl Paced {
    pub(super) fn new(stream: TcpStream, backlog: Arc<Backlog>) -> Self {
        Self { stream, backlog, received: Arc::default() }
    }

    /// A count of the bytes received.
    pub(super) fn received(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.received)
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.backlog.has_room(context.waker()) {
            return Poll::Pending;
        }
        if self.backlog.turn.load(Ordering::Relaxed) >= self.backlog.most.min(TURN) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = out.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, out);
        let read = out.filled().len() - before;
        self.received.fetch_add(read, Ordering::Relaxed);
        self.backlog.turn.fetch_add(read, Ordering::Relaxed);
        outcome
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
