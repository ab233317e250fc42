//! Connections: accept them, speak HTTP/2 on each, and close them in time.
//!
//! hyper's HTTP/2 server is driven directly. tonic's own transport would add a
//! router we have no use for, and its shutdown knows no deadline.
//!
//! h2 counts some things over the whole life of a connection, which may last for
//! months, and ends it with GOAWAY 11 (ENHANCE_YOUR_CALM) at a limit:
//!
//! | what | limit | what keeps an honest peer from it |
//! |---|---|---|
//! | streams reset for an error of the peer: data behind the end of a call, too large headers, more streams than allowed | 1,024 | what comes after an early answer is taken and dropped (`Messages::discard`) |
//! | empty DATA frames that don't end a call | 100 | nobody sends them; not to be set |
//! | small DATA frames | by size | only those not read yet count, and all are read at once |
//!
//! Calls reset before they were seen are counted only while they wait for that.

mod socket;

use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, pending, poll_fn};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
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
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use self::socket::Socket;
use crate::grpc::budget::STREAM_WINDOW;
use crate::grpc::connection::Connection;
use crate::grpc::health::{State, closing};
use crate::metrics::{Export, Gauge, Page};
use crate::once::Once;

/// Streams of a connection: as many as Mixer's worker pool has calls in flight
/// at the most, fewer where there are many connections. A client with more calls
/// makes them wait.
const MAX_STREAMS: u32 = 1024;
const MIN_STREAMS: u32 = 32;
const STREAMS: u32 = 1024;
/// Bytes that the kernel keeps of a connection that isn't read, about; it doubles
/// this to have room for its own data.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// How long to wait for descriptors to come free, to begin with.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// A peer that has gone without a word is found out by the kernel: a probe after
/// so long a silence, and the end when nothing has been confirmed for the second
/// time. HTTP/2's own pings would take a connection that we don't read, because
/// its reports wait, for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const UNCONFIRMED: Duration = Duration::from_secs(80);
/// A peer that connects has so long to say that it speaks HTTP/2.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
const PREFACE_BYTES: usize = 24;
/// Where others wait for a place, a connection without a call for so long is
/// asked to close.
const IDLE: Duration = Duration::from_secs(5);
/// How long a peer may take to close a connection on which there are no calls.
const GOODBYE: Duration = Duration::from_secs(5);
const MAX_HEADER_LIST: u32 = 16 * 1024;

/// How many connections are open.
#[derive(Debug, Default)]
pub struct Connections(Gauge);

impl Export for Connections {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        page.gauge("mygrpcadapter_connections", "gRPC connections open.", self.0.get() as f64);
        None
    }
}

/// What can be asked of a server, and where it counts.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Where connections are counted.
    pub open: Arc<Connections>,
    /// Connections served at once; more wait in the kernel's queue.
    pub connections: u32,
    /// Peers that were told of, as they speak HTTP/1.
    pub told: Arc<Once>,
    /// How old a connection gets before it is asked to close.
    pub connection_age: Option<Duration>,
}

/// Binds all addresses of the machine, both families where there are two.
pub fn bind(port: u16, reuse_port: bool) -> io::Result<TcpListener> {
    match listen(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into(), reuse_port) {
        // No IPv6 here: not compiled in, or disabled.
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
    // So that a restart needn't wait for the last one's connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    // The connections that it accepts inherit these.
    socket.set_tcp_nodelay(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keep_alive.with_retries(4))?;
    socket.set_tcp_user_timeout(Some(UNCONFIRMED))?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Serves connections until they are to close, then listens no longer, tells
/// them to go away and returns when the last one is gone.
///
/// `service` makes what answers the requests of one connection. Fails where the
/// runtime can't watch the listener.
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
    let places = Places::new(limits.connections);
    let (listening, told) = watch::channel(());
    let start = |stream: TcpStream, place| {
        let open = limits.connections as usize - places.free.available_permits();
        let ending =
            Ending { told: told.clone(), crowded: Arc::clone(&places.crowded), age: limits.connection_age };
        let connection = Arc::new(Connection::default());
        let socket = Socket::new(stream, Arc::clone(&connection), Arc::clone(&limits.told), open);
        let connection = speak(socket, connection, service.clone(), ending, open);
        limits.open.0.increment();
        let counted = Arc::clone(&limits.open);
        tokio::spawn(async move {
            connection.await;
            counted.0.decrement();
            drop(place);
        });
    };
    // Accepted, and waiting for a place.
    let mut next = None;
    let accepting = async {
        loop {
            if next.is_none() {
                next = Some(accept(&listener).await);
            }
            let place = places.place().await;
            next.take().into_iter().for_each(|stream| start(stream, place.clone()));
        }
    };
    tokio::select! {
        () = accepting => {}
        () = closing(&mut states) => {}
    }
    // Whoever waits to be accepted would be cut off with the listener.
    let listener = listener.into_std()?;
    while let Some(place) = places.free_place()
        && let Some(stream) = next.take().or_else(|| accept_now(&listener))
    {
        start(stream, place);
    }
    drop(listener);
    // Told only now: who reconnects at once is to find the next one who listens.
    drop(listening);
    let _ = places.free.acquire_many(limits.connections).await;
    Ok(())
}

/// A connection that waits in the kernel's queue. One that breaks meanwhile is
/// passed over.
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

/// Room for connections.
struct Places {
    free: Arc<Semaphore>,
    /// Told while someone waits for room.
    crowded: Arc<Notify>,
}

impl Places {
    fn new(connections: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(connections as usize)), crowded: Arc::default() }
    }

    fn free_place(&self) -> Option<Arc<OwnedSemaphorePermit>> {
        Arc::clone(&self.free).try_acquire_owned().ok().map(Arc::new)
    }

    /// A place, taken from an idle connection where there is no other.
    async fn place(&self) -> Arc<OwnedSemaphorePermit> {
        loop {
            let place = Arc::clone(&self.free).acquire_owned();
            match tokio::time::timeout(IDLE, place).await {
                Ok(Ok(place)) => return Arc::new(place),
                // Nobody closes it.
                Ok(Err(_)) => pending().await,
                Err(_) => self.crowded.notify_waiters(),
            }
        }
    }
}

/// Streams of a connection where so many are open.
fn streams(open: usize) -> u32 {
    let streams = STREAMS / u32::try_from(open.max(1)).unwrap_or(u32::MAX);
    streams.clamp(MIN_STREAMS, MAX_STREAMS)
}

/// The next connection. When the system is out of descriptors or memory there
/// is nothing to do but to wait for some to come free.
pub async fn accept(listener: &tokio::net::TcpListener) -> TcpStream {
    let mut pause = FIRST_PAUSE;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                if pause == FIRST_PAUSE {
                    log::warn!("cannot accept connections, trying on error={error}");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

/// What ends a connection from our side.
struct Ending {
    /// Closed when all are to end.
    told: watch::Receiver<()>,
    /// Told while others wait for a place.
    crowded: Arc<Notify>,
    /// How old it may become.
    age: Option<Duration>,
}

impl Ending {
    /// Waits until the connection is to close.
    async fn has_come(mut self, connection: &Connection) {
        let old = async {
            match self.age {
                Some(age) => tokio::time::sleep(jittered(age)).await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.told.changed() => {}
            () = old => {}
            () = unused(connection, &self.crowded) => {}
        }
    }
}

/// Waits until others have waited for a place for as long as nothing was called
/// here.
async fn unused(connection: &Connection, crowded: &Notify) {
    let mut begun = None;
    loop {
        crowded.notified().await;
        let before = begun.replace(connection.begun());
        if connection.is_idle() && before == begun {
            return;
        }
    }
}

/// Waits until no call has been in flight for a while.
async fn abandoned(connection: &Connection) {
    loop {
        let begun = connection.begun();
        tokio::time::sleep(GOODBYE).await;
        if connection.is_idle() && connection.begun() == begun {
            return;
        }
    }
}

/// Cuts off a peer that connects and doesn't say that it speaks HTTP/2.
async fn silent(connection: &Connection) {
    tokio::time::sleep(PREFACE_TIMEOUT).await;
    if connection.total() >= PREFACE_BYTES {
        pending().await
    }
}

/// Serves one connection, of `open`, to its end.
async fn speak<M, S, B>(socket: Socket, connection: Arc<Connection>, service: M, ending: Ending, open: usize)
where
    M: Fn(Arc<Connection>) -> S,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Error + Send + Sync> + Send + 'static,
{
    let _ended = Ended(Arc::clone(&connection));
    let streams = streams(open);
    let http = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(streams)
        // Calls given up in a burst before we have seen them: not hyper's 20,
        // which would cost the others their connection.
        .max_pending_accept_reset_streams(MAX_STREAMS as usize)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(streams * STREAM_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(64 * 1024)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(socket), service(Arc::clone(&connection)));
    let mut http = std::pin::pin!(http);
    let mut end = std::pin::pin!(ending.has_come(&connection));
    let mut serving = true;
    let served = poll_fn(|context| {
        if serving && end.as_mut().poll(context).is_ready() {
            serving = false;
            connection.close();
            http.as_mut().graceful_shutdown();
        }
        http.as_mut().poll(context)
    });
    let mut closing = connection.closing();
    let gone = async {
        let _ = closing.wait_for(|closing| *closing).await;
        abandoned(&connection).await;
    };
    let outcome = tokio::select! {
        outcome = served => outcome,
        () = silent(&connection) => return,
        () = gone => return,
    };
    if let Err(error) = outcome {
        log::debug!("a connection ended error={error}");
    }
}

/// A connection, until it is gone however it goes.
struct Ended(Arc<Connection>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A duration, give or take a tenth, so that connections opened together don't
/// close together. std's hasher keys are random enough for that.
fn jittered(age: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 2_001;
    age.mul_f64(0.9 + random as f64 / 10_000.0)
}
