//! One connection, from its TLS handshake to its end.
//!
//! h2 counts some events over the whole life of a connection, which may last for
//! months. At a limit it sends GOAWAY 11 (ENHANCE_YOUR_CALM):
//!
//! | event | limit | why a well-behaved peer stays below it |
//! |---|---|---|
//! | empty DATA frames that do not end a call | 100 | no known client sends them; the limit is not configurable |
//! | small DATA frames | by size | only unread frames count, and all are read at once |
//!
//! Calls reset before they were accepted count only while they are pending.

use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, pending, poll_fn};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::limits::{Connections, Limits};
use super::socket::Socket;
use super::tls;
use crate::grpc::budget::{Budget, STREAM_WINDOW};
use crate::grpc::connection::Connection;

/// Streams per connection: as many as Mixer's worker pool has calls in flight, fewer
/// when many connections are open. A client with more calls queues them itself.
const MAX_STREAMS: u32 = 1024;
const MIN_STREAMS: u32 = 32;
const STREAMS: u32 = 1024;
/// Time limit for a new peer's TLS handshake and HTTP/2 preface together.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
const PREFACE_BYTES: usize = 24;
/// How long a peer may keep an idle connection open after GOAWAY.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HEADER_LIST: u32 = 16 * 1024;

/// Stream limit of a connection when `open` are open.
fn streams(open: usize) -> u32 {
    let streams = STREAMS / u32::try_from(open.max(1)).unwrap_or(u32::MAX);
    streams.clamp(MIN_STREAMS, MAX_STREAMS)
}

/// An open connection: counted, with its slot. Marked as closed on drop.
pub(super) struct Open {
    connection: Arc<Connection>,
    counted: Arc<Connections>,
    budget: Arc<Budget>,
    _place: OwnedSemaphorePermit,
}

impl Open {
    pub(super) fn new(connection: Connection, limits: &Limits, place: OwnedSemaphorePermit) -> Self {
        limits.open.open.increment();
        let (counted, budget) = (Arc::clone(&limits.open), Arc::clone(&limits.budget));
        Self { connection: Arc::new(connection), counted, budget, _place: place }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connection.end();
        self.counted.open.decrement();
        self.budget.closed();
    }
}

/// Triggers of a connection's graceful shutdown.
pub(super) struct Ending {
    /// Sent to while other connections wait for a slot; closed when the server shuts down.
    pub(super) signal: watch::Receiver<()>,
    /// The maximum age.
    pub(super) age: Option<Duration>,
}

impl Ending {
    /// Waits for a trigger.
    async fn triggered(&mut self, connection: &Connection) {
        let old = async {
            match self.age {
                Some(age) => tokio::time::sleep(jittered(age)).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = old => {}
            () = unused(connection, &mut self.signal) => {}
        }
    }
}

/// Waits until others lacked a slot for a period without a new call here, or the server
/// shuts down.
async fn unused(connection: &Connection, signal: &mut watch::Receiver<()>) {
    let mut begun = None;
    while signal.changed().await.is_ok() {
        let before = begun.replace(connection.begun());
        if connection.is_idle() && before == begun {
            return;
        }
    }
}

/// Waits until no call has been in flight for [`CLOSE_TIMEOUT`].
async fn abandoned(connection: &Connection) {
    loop {
        let begun = connection.begun();
        tokio::time::sleep(CLOSE_TIMEOUT).await;
        if connection.is_idle() && connection.begun() == begun {
            return;
        }
    }
}

/// Returns if the peer has not sent the HTTP/2 preface by then.
async fn silent(connection: &Connection, deadline: Instant) {
    tokio::time::sleep_until(deadline).await;
    if connection.total() >= PREFACE_BYTES {
        pending().await
    }
}

/// Closes a connection on a trigger, and returns once it must end: the peer is silent
/// or has left it open.
async fn ended(connection: &Connection, deadline: Instant, mut ending: Ending) {
    tokio::select! {
        biased;
        () = silent(connection, deadline) => return,
        () = ending.triggered(connection) => {}
    }
    connection.close();
    abandoned(connection).await;
}

/// Serves a connection, one of `open`, to its end.
pub(super) async fn serve_connection<M, S, B>(
    stream: TcpStream,
    service: M,
    limits: Limits,
    counted: Open,
    open: usize,
    ending: Ending,
) where
    M: Fn(Arc<Connection>) -> S,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Error + Send + Sync> + Send + 'static,
{
    let connection = &counted.connection;
    let deadline = Instant::now() + PREFACE_TIMEOUT;
    let Some(stream) = tls::secure(limits.tls, stream, connection.peer, deadline).await else { return };
    let socket = Socket::new(stream, Arc::clone(connection), limits.told, limits.open);
    let streams = streams(open);
    let http = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(streams)
        // A burst of calls reset before they were accepted: hyper's default of 20
        // would end the connection, with its other calls.
        .max_pending_accept_reset_streams(MAX_STREAMS as usize)
        // Streams reset for a peer's error, over the whole life of the connection: a
        // burst of calls before the peer has our settings would end all of its calls.
        // Their bytes count as useless.
        .max_local_error_reset_streams(None)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(streams * STREAM_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(64 * 1024)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(socket), service(Arc::clone(connection)));
    let mut http = std::pin::pin!(http);
    let mut ended = std::pin::pin!(ended(connection, deadline, ending));
    let mut serving = true;
    let served = poll_fn(|context| {
        if ended.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if serving && connection.is_closing() {
            serving = false;
            http.as_mut().graceful_shutdown();
        }
        http.as_mut().poll(context)
    });
    if let Err(error) = served.await {
        log::debug!("a connection ended error={error}");
    }
}

/// A duration, varied by up to a tenth, so that connections opened together do not
/// close together. std's hasher keys are random enough for that.
fn jittered(age: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 2_001;
    age.mul_f64(0.9 + random as f64 / 10_000.0)
}
