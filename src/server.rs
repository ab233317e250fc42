//! Connections: accept them, speak HTTP/2 on each, and close them in time.
//!
//! hyper's HTTP/2 server is driven directly. tonic's own transport would add a
//! router we have no use for, and its shutdown knows no deadline.

pub mod backlog;

use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
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
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use self::backlog::{Backlog, Paced};
use crate::health::{State, closing};
use crate::metrics::{Export, Gauge, Page};

/// What a peer may send ahead on a stream: most reports whole. A connection's
/// window is that of all its streams, so that none can be in another's way; what
/// of it may be in memory is the business of `admission`.
///
/// More than a third of HTTP/2's own 65,535, from which it is lowered once the
/// peer has seen our settings: h2 does not open a window again if less than that
/// was sent and read before.
pub const STREAM_WINDOW: u32 = 24 * 1024;
/// Streams of a connection: as many as Mixer's worker pool has calls in flight
/// at the most, fewer where there are many connections. A client with more calls
/// makes them wait.
const MAX_STREAMS: u32 = 1024;
const MIN_STREAMS: u32 = 32;
const STREAMS: u32 = 1024;
/// How long to wait for descriptors to come free, to begin with.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// A peer that has gone without a word is found out by pings.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// A peer that connects has so long to say that it speaks HTTP/2.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
const PREFACE_BYTES: usize = 24;
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
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    // So that a restart needn't wait for the last one's connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Serves connections until they are to close, then listens no longer, tells
/// them to go away and returns when the last one is gone.
///
/// `service` makes what answers the requests of one connection.
pub async fn serve<M, S, B>(
    listener: TcpListener,
    service: M,
    limits: Limits,
    mut states: watch::Receiver<State>,
) -> io::Result<()>
where
    M: Fn(Arc<Backlog>) -> S + Clone + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Error + Send + Sync> + Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(limits.connections as usize));
    let (listening, told) = watch::channel(());
    let all = Arc::default();
    let start = |stream, place| {
        let open = limits.connections as usize - places.available_permits();
        let backlog = Backlog::among(&all, open);
        let connection = speak(stream, service.clone(), backlog, told.clone(), open, limits.connection_age);
        limits.open.0.increment();
        let counted = Arc::clone(&limits.open);
        tokio::spawn(async move {
            connection.await;
            counted.0.decrement();
            drop(place);
        });
    };
    let accepting = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            start(accept(&listener).await, place);
        }
    };
    tokio::select! {
        () = accepting => {}
        () = closing(&mut states) => {}
    }
    // Whoever waits to be accepted would be cut off with the listener.
    let listener = listener.into_std()?;
    while let Ok(place) = Arc::clone(&places).try_acquire_owned()
        && let Ok((stream, _)) = listener.accept()
    {
        stream.set_nonblocking(true)?;
        start(TcpStream::from_std(stream)?, place);
    }
    drop(listener);
    // Told only now: who reconnects at once is to find the next one who listens.
    drop(listening);
    let _ = places.acquire_many(limits.connections).await;
    Ok(())
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

/// Serves one connection to its end; it is to close when nobody is left to tell
/// otherwise. `open` is how many there are, this one included.
async fn speak<M, S, B>(
    stream: TcpStream,
    service: M,
    backlog: Arc<Backlog>,
    mut told: watch::Receiver<()>,
    open: usize,
    max_age: Option<Duration>,
) where
    M: Fn(Arc<Backlog>) -> S,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Error + Send + Sync> + Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let streams = STREAMS / u32::try_from(open.max(1)).unwrap_or(u32::MAX);
    let streams = streams.clamp(MIN_STREAMS, MAX_STREAMS);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        // Calls given up in a burst before we have seen them: not hyper's 20,
        // which would cost the others their connection.
        .max_pending_accept_reset_streams(MAX_STREAMS as usize)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(streams * STREAM_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .auto_date_header(false);
    let stream = Paced::new(stream, Arc::clone(&backlog));
    let connection = builder.serve_connection(TokioIo::new(stream), service(Arc::clone(&backlog)));
    let mut connection = std::pin::pin!(connection);
    let silent = async {
        tokio::time::sleep(PREFACE_TIMEOUT).await;
        if backlog.received() >= PREFACE_BYTES {
            std::future::pending::<()>().await;
        }
    };
    let old = async {
        match max_age {
            Some(age) => tokio::time::sleep(jittered(age)).await,
            None => std::future::pending().await,
        }
    };
    let mut serving = true;
    let closing = async {
        tokio::select! {
            _ = told.changed() => {}
            () = old => {}
        }
    };
    let mut closing = std::pin::pin!(closing);
    let served = poll_fn(|context| {
        backlog.begin_turn();
        if serving && closing.as_mut().poll(context).is_ready() {
            serving = false;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(context)
    });
    let outcome = tokio::select! {
        outcome = served => outcome,
        () = silent => return,
    };
    if let Err(error) = outcome {
        log::debug!("a connection ended error={error}");
    }
}

/// A duration, give or take a tenth, so that connections opened together don't
/// close together. std's hasher keys are random enough for that.
fn jittered(age: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 2_001;
    age.mul_f64(0.9 + random as f64 / 10_000.0)
}
