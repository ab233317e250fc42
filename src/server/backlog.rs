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

/// What may wait on one connection while little waits in all, and while much
/// does.
const MOST: usize = 128 * 1024;
const LEAST: usize = 8 * 1024;
/// What is much.
const MUCH: usize = 1024 * 1024;
/// What all connections may read in one turn of each, about.
const TURNS: usize = 512 * 1024;

/// The backlog of one connection.
#[derive(Debug)]
pub struct Backlog {
    /// Bytes of whole messages.
    held: AtomicUsize,
    /// Those of all connections.
    all: Arc<AtomicUsize>,
    /// All bytes that were ever read, and how many when this turn began.
    received: AtomicUsize,
    turn: AtomicUsize,
    most_in_turn: usize,
    reader: Mutex<Option<Waker>>,
}

/// A message's part of the backlog, until it is dropped.
#[derive(Debug)]
pub struct Held {
    backlog: Arc<Backlog>,
    bytes: usize,
}

impl Backlog {
    /// An empty one, of `open` that add up to `all`.
    pub(super) fn among(all: &Arc<AtomicUsize>, open: usize) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicUsize::new(0),
            all: Arc::clone(all),
            received: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            most_in_turn: (TURNS / open.max(1)).clamp(LEAST, MOST / 2),
            reader: Mutex::new(None),
        })
    }

    /// All bytes that were ever read.
    pub(super) fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }

    /// Adds a message.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.all.fetch_add(bytes, Ordering::Relaxed);
        Held { backlog: Arc::clone(self), bytes }
    }

    /// To be told whenever the connection has its turn: what it reads in one is
    /// bounded, however often its reader is asked.
    pub(super) fn begin_turn(&self) {
        self.turn.store(self.received(), Ordering::Relaxed);
    }

    fn most(&self) -> usize {
        if self.all.load(Ordering::Relaxed) > MUCH { LEAST } else { MOST }
    }

    fn is_full(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.most()
    }

    /// Whether nothing more is to be read in this turn. `waker` is woken when
    /// there is more to be read.
    fn is_enough(&self, waker: &Waker) -> bool {
        if self.is_full() {
            *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
            return true;
        }
        let is_enough = self.received() - self.turn.load(Ordering::Relaxed) >= self.most_in_turn;
        if is_enough {
            waker.wake_by_ref();
        }
        is_enough
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.backlog.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.backlog.all.fetch_sub(self.bytes, Ordering::Relaxed);
        if !self.backlog.is_full() {
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
}

impl Paced {
    pub(super) fn new(stream: TcpStream, backlog: Arc<Backlog>) -> Self {
        Self { stream, backlog }
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.backlog.is_enough(context.waker()) {
            return Poll::Pending;
        }
        let before = out.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, out);
        let read = out.filled().len() - before;
        self.backlog.received.fetch_add(read, Ordering::Relaxed);
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
