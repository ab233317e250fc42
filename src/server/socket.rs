//! A connection's socket. It stops reading while received messages wait to be
//! handled.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::tls::Stream;
use crate::grpc::connection::Connection;
use crate::once::Once;

/// Bytes that all connections together may read before the handlers run, and the
/// limits per connection. Bytes just read are in memory, but not yet in any budget.
const TURNS: usize = 512 * 1024;
const MIN_TURN: usize = 8 * 1024;
const MAX_TURN: usize = 64 * 1024;
/// Limit on bytes that belong to no message (pings, settings, cancelled calls) in one
/// interval: a quarter of a million pings.
const MAX_USELESS: usize = 4 * 1024 * 1024;
const INTERVAL: Duration = Duration::from_secs(600);

/// The socket, and its connection's account of received bytes.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    connection: Arc<Connection>,
    /// Peers logged for speaking HTTP/1.
    told: Arc<Once>,
    /// Bytes read in this turn, and their limit.
    turn: usize,
    max_turn: usize,
    /// Start of the interval, and the useless bytes counted before it.
    interval: Instant,
    useless: usize,
}

impl Socket {
    /// The socket of one of `open` connections.
    pub(super) fn new(stream: Stream, connection: Arc<Connection>, told: Arc<Once>, open: usize) -> Self {
        let max_turn = (TURNS / open.max(1)).clamp(MIN_TURN, MAX_TURN);
        Self { stream, connection, told, turn: 0, max_turn, interval: Instant::now(), useless: 0 }
    }

    /// Logs once per address that a peer speaks HTTP/1, as Envoy does if the Service's
    /// port does not declare gRPC.
    fn look_at_first(&self, bytes: &[u8]) {
        if !is_http_1(bytes) {
            return;
        }
        let Some(peer) = self.connection.peer else { return };
        if self.told.is_first(peer.to_string().as_bytes()) {
            log::warn!(
                "a peer speaks HTTP/1 on the gRPC port; give the Service's port \"appProtocol: grpc\", or a name \
                 that begins with grpc peer={peer}"
            );
        }
    }

    /// Fails on a flood of bytes that belong to no message.
    fn check_use(&mut self) -> io::Result<()> {
        let useless = self.connection.useless();
        if useless.saturating_sub(self.useless) <= MAX_USELESS {
            return Ok(());
        }
        if self.interval.elapsed() < INTERVAL {
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
        if self.turn >= self.max_turn {
            self.turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = out.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, out);
        let read = out.filled().len() - before;
        if self.connection.total() == 0 {
            self.look_at_first(&out.filled()[before..]);
        }
        self.turn = if outcome.is_pending() { 0 } else { self.turn + read };
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
