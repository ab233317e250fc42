//! State shared by a connection's calls and its socket: the bytes of complete messages
//! that wait to be handled, and whether the connection is shutting down or closed.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use tokio::sync::{Semaphore, watch};

/// Limit on the bytes of complete messages waiting on a connection; above it, the
/// connection is not read. This back-pressure reaches the caller. The messages need no
/// more input, so reading always resumes.
const MAX_HELD: usize = 64 * 1024;

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// The peer's address.
    pub peer: IpAddr,
    /// Bytes of complete messages.
    held: AtomicUsize,
    /// All bytes read from the socket.
    received: AtomicUsize,
    /// Received bytes that belong to messages, with their frames, or to headers of
    /// calls.
    useful: AtomicUsize,
    /// The numbers of started and finished calls.
    begun: AtomicUsize,
    ended: AtomicUsize,
    reader: Mutex<Option<Waker>>,
    closing: watch::Sender<bool>,
    /// Closed with the connection.
    gone: Semaphore,
}

/// A complete message's share of its connection's bytes, released on drop.
#[derive(Debug)]
pub struct Held {
    connection: Arc<Connection>,
    bytes: usize,
}

/// A call of a connection, finished on drop.
#[derive(Debug)]
pub struct Call(Arc<Connection>);

impl Default for Connection {
    fn default() -> Self {
        let (held, received, useful, begun, ended, reader) = Default::default();
        let peer = Ipv6Addr::UNSPECIFIED.into();
        let (closing, gone) = (watch::Sender::new(false), Semaphore::new(0));
        Self { peer, held, received, useful, begun, ended, reader, closing, gone }
    }
}

impl Connection {
    /// The connection of a peer.
    pub fn of(peer: IpAddr) -> Self {
        Self { peer, ..Self::default() }
    }

    /// Shuts it down: endless streams end now.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Whether it is shutting down.
    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Signals the shutdown.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Marks the connection as closed: no more data of its calls arrives.
    pub fn end(&self) {
        self.gone.close();
    }

    /// Waits until it is closed.
    pub async fn gone(&self) {
        let _ = self.gone.acquire().await;
    }

    /// The number of started calls.
    pub fn begun(&self) -> usize {
        self.begun.load(Relaxed)
    }

    /// Whether no call is in flight.
    pub fn is_idle(&self) -> bool {
        self.begun() == self.ended.load(Relaxed)
    }

    /// Starts a call.
    pub fn begin(self: &Arc<Self>) -> Call {
        self.begun.fetch_add(1, Relaxed);
        Call(Arc::clone(self))
    }

    /// Counts a complete message.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        self.held.fetch_add(bytes, Relaxed);
        Held { connection: Arc::clone(self), bytes }
    }

    /// Counts bytes read from the socket.
    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes, Relaxed);
    }

    /// All bytes read from the socket.
    pub fn total(&self) -> usize {
        self.received.load(Relaxed)
    }

    /// Counts at most this many received bytes as ones of messages. The number may be
    /// larger than it was on the wire, and no surplus pays for a later flood.
    pub fn useful(&self, bytes: usize) {
        self.useful.store((self.useful.load(Relaxed) + bytes).min(self.total()), Relaxed);
    }

    /// Bytes that belong to no message.
    pub fn useless(&self) -> usize {
        self.total() - self.useful.load(Relaxed)
    }

    /// Whether back-pressure applies; `waker` is woken when reading may resume.
    pub fn is_full(&self, waker: &Waker) -> bool {
        if self.held.load(Relaxed) <= MAX_HELD {
            return false;
        }
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let before = self.connection.held.fetch_sub(self.bytes, Relaxed);
        if before - self.bytes <= MAX_HELD && before > MAX_HELD {
            let reader = self.connection.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
            reader.inspect(Waker::wake_by_ref);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Relaxed);
    }
}
