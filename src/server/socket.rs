//! A connection's socket. It stops reading while received messages wait to be
//! handled.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;
use super::limits::Connections;
use super::tls::Stream;
use crate::grpc::connection::Connection;
use crate::once::Once;

/// Bytes that a connection may read before the handlers run.
const TURN: usize = 64 * 1024;
/// With more connections than these, large read buffers are freed: with fewer, it would
/// cost more than it saves.
const FEW: u64 = 64;
/// Limit on bytes that belong to no message (pings, settings, cancelled calls) in one
/// interval: a quarter of a million pings.
const MAX_USELESS: usize = 4 * 1024 * 1024;
const INTERVAL: Duration = Duration::from_secs(600);

/// The start of HTTP/2's preface.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// The start of a TLS record with a handshake.
const TLS_HANDSHAKE: &[u8] = &[0x16, 3];

/// The socket, and its connection's account of received bytes.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    connection: Arc<Connection>,
    /// Peers that were logged.
    told: Arc<Once>,
    all: Arc<Connections>,
    frames: Frames,
    /// Bytes read in this turn.
    read: usize,
    /// Start of the interval, and the useless bytes counted before it.
    interval: Instant,
    useless: usize,
}

impl Socket {
    /// The socket of a connection.
    pub(super) fn new(
        stream: Stream,
        connection: Arc<Connection>,
        told: Arc<Once>,
        all: Arc<Connections>,
    ) -> Self {
        let frames = Frames::default();
        Self { stream, connection, told, all, frames, read: 0, interval: Instant::now(), useless: 0 }
    }

    /// Whether it may be read in this turn; if not, its task runs again in the next.
    fn has_turn(&mut self, context: &Context<'_>) -> bool {
        if self.read >= TURN {
            self.read = 0;
            context.waker().wake_by_ref();
            return false;
        }
        self.all.turns.has_room(context.waker())
    }

    /// Logs a peer that does not speak HTTP/2: Envoy speaks HTTP/1 if the Service's port
    /// does not declare gRPC, and TLS if it is told to.
    fn look_at_first(&self, bytes: &[u8]) {
        let start = &PREFACE[..bytes.len().min(PREFACE.len())];
        if bytes.starts_with(start) {
            return;
        }
        self.tell(if is_http_1(bytes) {
            "a peer speaks HTTP/1 on the gRPC port; give the Service's port \"appProtocol: grpc\", or a name that \
             begins with grpc"
        } else if bytes.starts_with(TLS_HANDSHAKE) {
            "a peer speaks TLS on the gRPC port, which is plaintext; turn TLS off for this port, or use --tls-cert"
        } else {
            "a peer does not speak HTTP/2 on the gRPC port; check what connects to it"
        });
    }

    /// Logs once in a while what is wrong with the peer.
    fn tell(&self, what: &str) {
        let peer = self.connection.peer;
        if self.told.is_due(format!("{peer} {what}").as_bytes()) {
            log::warn!("{what} peer={peer}");
        }
    }

    /// Fails on a flood of bytes that belong to no message.
    fn check_use(&mut self) -> io::Result<()> {
        let useless = self.connection.useless();
        if useless.saturating_sub(self.useless) <= MAX_USELESS {
            return Ok(());
        }
        if self.interval.elapsed() < INTERVAL {
            self.tell("a peer floods its connection with frames that belong to no call, and is cut off");
            return Err(io::Error::other("a flood of frames that belong to no call"));
        }
        (self.interval, self.useless) = (Instant::now(), useless);
        Ok(())
    }
}

/// Whether these bytes start an HTTP/1 request line. HTTP/2's preface has no path.
fn is_http_1(bytes: &[u8]) -> bool {
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    method > 0 && bytes[method..].starts_with(b" /")
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.connection.is_full(context.waker()) {
            return Poll::Pending;
        }
        if !self.has_turn(context) {
            return Poll::Pending;
        }
        let before = out.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, out);
        let read = out.filled().len() - before;
        // h2 drops the calls that it has not handed out yet when it sees the end: it sees
        // that in a turn of its own.
        if read == 0 && self.read > 0 && outcome.is_ready() {
            self.read = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.connection.total() == 0 {
            self.look_at_first(&out.filled()[before..]);
        }
        self.read = if outcome.is_pending() { 0 } else { self.read + read };
        self.all.turns.took(read);
        if outcome.is_pending() && self.all.open.get() > FEW && self.frames.fill(out) {
            return Poll::Ready(Ok(()));
        }
        self.frames.read(&out.filled()[before..], out.remaining());
        self.connection.received(read);
        match self.check_use() {
            Ok(()) => outcome,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for Socket {
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
