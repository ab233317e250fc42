//! Connections: accepts them, runs HTTP/2 on each, and shuts them down gracefully.
//!
//! hyper's HTTP/2 server is driven directly. tonic's transport would add an unused
//! router, and its shutdown has no deadline.
//!
//! h2 counts some events over the whole life of a connection, which may last for
//! months. At a limit it sends GOAWAY 11 (ENHANCE_YOUR_CALM):
//!
//! | event | limit | why a well-behaved peer stays below it |
//! |---|---|---|
//! | streams reset for a peer's error: data after the end of a call, oversized headers, too many streams | 1,024 | after an early answer the rest of the body is read and discarded (`Messages::discard`) |
//! | empty DATA frames that do not end a call | 100 | no known client sends them; the limit is not configurable |
//! | small DATA frames | by size | only unread frames count, and all are read at once |
//!
//! Calls reset before they were accepted count only while they are pending.

mod socket;
pub mod tls;

use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, pending, poll_fn};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
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
use socket2::{Domain, Protocol, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use self::socket::Socket;
use self::tls::Tls;
use crate::grpc::budget::{Budget, STREAM_WINDOW};
use crate::grpc::connection::Connection;
use crate::grpc::health::{State, closing};
use crate::metrics::{Export, Gauge, Page};
use crate::once::Once;

/// Streams per connection: as many as Mixer's worker pool has calls in flight, fewer
/// when many connections are open. A client with more calls queues them itself.
const MAX_STREAMS: u32 = 1024;
const MIN_STREAMS: u32 = 32;
const STREAMS: u32 = 1024;
/// The kernel's receive buffer for a connection that is not read, in bytes. The
/// kernel doubles this value to include its own overhead.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// The first pause when file descriptors run out.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// TCP keep-alive finds dead peers: probes start after `KEEP_ALIVE` of silence; the
/// kernel ends the connection when nothing was acknowledged for `UNCONFIRMED`.
/// HTTP/2 pings would end live connections under back-pressure, whose replies are not
/// read.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const UNCONFIRMED: Duration = Duration::from_secs(80);
/// Time limit for a new peer's TLS handshake and HTTP/2 preface together.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
const PREFACE_BYTES: usize = 24;
/// When others wait for a connection slot, a connection without a call for this long
/// is shut down gracefully.
const IDLE: Duration = Duration::from_secs(5);
/// How long a peer may keep an idle connection open after GOAWAY.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HEADER_LIST: u32 = 16 * 1024;

/// The number of open connections.
#[derive(Debug, Default)]
pub struct Connections(Gauge);

impl Export for Connections {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        page.gauge("mygrpcadapter_connections", "gRPC connections open.", self.0.get() as f64);
        None
    }
}

/// Limits of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The gauge of open connections.
    pub open: Arc<Connections>,
    /// Returns memory to the system after many connections have closed.
    pub budget: Arc<Budget>,
    /// Connections served at once; more wait in the kernel's backlog.
    pub connections: u32,
    /// Peers, and a lack of slots, that were logged.
    pub told: Arc<Once>,
    /// The age at which a connection is shut down gracefully.
    pub connection_age: Option<Duration>,
    /// Encrypts the connections, if configured.
    pub tls: Option<Tls>,
}

/// Binds this address, or all addresses: IPv6 and IPv4 where both exist.
pub fn bind(address: Option<IpAddr>, port: u16, reuse_port: bool) -> io::Result<TcpListener> {
    if let Some(address) = address {
        let address = SocketAddr::from((address, port));
        return listen(Domain::for_address(address), address, reuse_port);
    }
    match listen(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into(), reuse_port) {
        // IPv6 is not compiled in, or disabled.
        Err(error) if matches!(error.raw_os_error(), Some(97 | 99)) => {
            listen(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into(), reuse_port)
        }
        other => other,
    }
}

fn listen(domain: Domain, address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    // Lets a restart bind while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit these options.
    socket.set_tcp_nodelay(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keep_alive.with_retries(4))?;
    socket.set_tcp_user_timeout(Some(UNCONFIRMED))?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Serves connections until the state is Closing. Then stops listening, shuts all
/// connections down gracefully and returns when the last one is closed.
///
/// `service` creates the service of one connection. Fails if the runtime cannot watch
/// the listener.
pub async fn serve<M, S, B>(
    listener: TcpListener,
    service: M,
    limits: Limits,
    mut states: watch::Receiver<State>,
) -> io::Result<()>
where
    M: Fn(Arc<Connection>) -> S + Clone + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Error + Send + Sync> + Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Places::new(limits.connections, Arc::clone(&limits.told));
    let start = |stream: TcpStream, place| {
        let open = limits.connections as usize - places.free.available_permits();
        let ending = Ending { signal: places.signal.subscribe(), age: limits.connection_age };
        let peer = stream.peer_addr().map_or(Ipv6Addr::UNSPECIFIED.into(), |peer| peer.ip().to_canonical());
        let counted = Open::new(Arc::new(Connection::of(peer)), &limits, place);
        tokio::spawn(serve_connection(stream, service.clone(), limits.clone(), counted, open, ending));
    };
    // Accepted, waiting for a slot.
    let mut next = None;
    let accepting = async {
        loop {
            if next.is_none() {
                next = Some(accept(&listener).await);
            }
            let place = places.place().await;
            if let Some(stream) = next.take() {
                start(stream, place);
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = closing(&mut states) => {}
    }
    // Closing the listener would reset connections still in its backlog.
    let listener = listener.into_std()?;
    while let Some(place) = places.free_place()
        && let Some(stream) = next.take().or_else(|| accept_now(&listener))
    {
        start(stream, place);
    }
    drop(listener);
    let Places { free, signal, .. } = places;
    // Only after the listener is closed, so that a peer reaches the next process at
    // once.
    drop(signal);
    let _ = free.acquire_many(limits.connections).await;
    Ok(())
}

/// A connection from the kernel's backlog. Skips one that fails meanwhile.
fn accept_now(listener: &TcpListener) -> Option<TcpStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                match stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                    Ok(stream) => return Some(stream),
                    Err(error) => log::debug!("a connection was lost error={error}"),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => return None,
        }
    }
}

/// Connection slots.
struct Places {
    free: Arc<Semaphore>,
    /// Sent to all connections while another waits for a slot; closed when the server
    /// shuts down.
    signal: watch::Sender<()>,
    told: Arc<Once>,
}

impl Places {
    fn new(connections: u32, told: Arc<Once>) -> Self {
        Self { free: Arc::new(Semaphore::new(connections as usize)), signal: watch::Sender::new(()), told }
    }

    fn free_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// Waits for a slot. While none is free, idle connections are asked to close.
    async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            let place = Arc::clone(&self.free).acquire_owned();
            match tokio::time::timeout(IDLE, place).await {
                Ok(Ok(place)) => return place,
                // The semaphore is never closed.
                Ok(Err(_)) => pending().await,
                Err(_) => {
                    if self.told.is_due(b"connections") {
                        log::warn!("all connections are taken and others wait; raise --max-connections");
                    }
                    self.signal.send_replace(());
                }
            }
        }
    }
}

/// Stream limit of a connection when `open` are open.
fn streams(open: usize) -> u32 {
    let streams = STREAMS / u32::try_from(open.max(1)).unwrap_or(u32::MAX);
    streams.clamp(MIN_STREAMS, MAX_STREAMS)
}

/// The next connection. While the system is out of descriptors or memory, retries
/// with back-off.
pub async fn accept(listener: &tokio::net::TcpListener) -> TcpStream {
    let mut pause = FIRST_PAUSE;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                if pause == FIRST_PAUSE {
                    log::warn!("cannot accept connections, retrying error={error}");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

/// An open connection: counted, with its slot. Marked as closed on drop.
struct Open {
    connection: Arc<Connection>,
    counted: Arc<Connections>,
    budget: Arc<Budget>,
    _place: OwnedSemaphorePermit,
}

impl Open {
    fn new(connection: Arc<Connection>, limits: &Limits, place: OwnedSemaphorePermit) -> Self {
        limits.open.0.increment();
        let (counted, budget) = (Arc::clone(&limits.open), Arc::clone(&limits.budget));
        Self { connection, counted, budget, _place: place }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connection.end();
        self.counted.0.decrement();
        self.budget.closed();
    }
}

/// Triggers of a connection's graceful shutdown.
struct Ending {
    /// Of [`Places`].
    signal: watch::Receiver<()>,
    /// The maximum age.
    age: Option<Duration>,
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
async fn serve_connection<M, S, B>(
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
    let socket = Socket::new(stream, Arc::clone(connection), limits.told, open);
    let streams = streams(open);
    let http = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(streams)
        // A burst of calls reset before they were accepted: hyper's default of 20
        // would end the connection, with its other calls.
        .max_pending_accept_reset_streams(MAX_STREAMS as usize)
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
