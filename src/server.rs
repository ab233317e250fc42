//! Connections: accept them, speak HTTP/2 on each, and close them in time.
//!
//! hyper's HTTP/2 server is driven directly. tonic's own transport would add a
//! router we have no use for, and its shutdown knows no deadline.

use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tonic::body::Body;

use crate::counters::Counters;
use crate::health::{State, closing};

/// Mixer's worker pool has 1,024 calls in flight at the most, all on one
/// connection; hyper's own 200 would make it queue.
const MAX_STREAMS: u32 = 1024;
/// What peers may send ahead: HTTP/2's own default at least, all in all about
/// `WINDOWS` times the number of times their number has doubled.
const MIN_WINDOW: u32 = 65_535;
const MAX_WINDOW: u32 = 256 * 1024;
const WINDOWS: u32 = 1024 * 1024;
/// How long to wait for descriptors to come free, to begin with.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// A peer that has gone without a word is found out by pings.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// A peer that connects has so long to say that it speaks HTTP/2.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
const PREFACE_BYTES: usize = 24;
const MAX_HEADER_LIST: u32 = 16 * 1024;

/// What can be asked of a server, and where it counts.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Where connections are counted.
    pub counters: Arc<Counters>,
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
pub async fn serve<S>(
    listener: TcpListener,
    service: S,
    limits: Limits,
    mut states: watch::Receiver<State>,
) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(limits.connections as usize));
    let (listening, told) = watch::channel(());
    let start = |stream, place| {
        let open = limits.connections as usize - places.available_permits();
        let connection = speak(stream, service.clone(), told.clone(), open, limits.connection_age);
        limits.counters.connections.fetch_add(1, Ordering::Relaxed);
        let counters = Arc::clone(&limits.counters);
        tokio::spawn(async move {
            connection.await;
            counters.connections.fetch_sub(1, Ordering::Relaxed);
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
async fn speak<S>(
    stream: TcpStream,
    service: S,
    mut told: watch::Receiver<()>,
    open: usize,
    max_age: Option<Duration>,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let window = window(open);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        // Calls given up in a burst before we have seen them: as many as there
        // may be, not hyper's 20, which would cost the others their connection.
        .max_pending_accept_reset_streams(MAX_STREAMS as usize)
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .auto_date_header(false);
    let (stream, arrived) = Counted::new(stream);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let silent = async {
        tokio::time::sleep(PREFACE_TIMEOUT).await;
        if arrived.load(Ordering::Relaxed) >= PREFACE_BYTES {
            std::future::pending::<()>().await;
        }
    };
    let old = async {
        match max_age {
            Some(age) => tokio::time::sleep(jittered(age)).await,
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = silent => return,
        _ = told.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = old => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        log::debug!("a connection ended error={error}");
    }
}

/// What a peer may send ahead: much while there are few, little while there are
/// many. All windows together stay below 5 MiB for 64 connections.
fn window(open: usize) -> u32 {
    let share = WINDOWS / u32::try_from(open.max(1)).unwrap_or(u32::MAX);
    share.clamp(MIN_WINDOW, MAX_WINDOW)
}

/// A duration, give or take a tenth, so that connections opened together don't
/// close together. std's hasher keys are random enough for that.
fn jittered(age: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 2_001;
    age.mul_f64(0.9 + random as f64 / 10_000.0)
}

/// A stream that counts what it has received.
#[derive(Debug)]
struct Counted {
    stream: TcpStream,
    received: Arc<AtomicUsize>,
}

impl Counted {
    fn new(stream: TcpStream) -> (Self, Arc<AtomicUsize>) {
        let received = Arc::new(AtomicUsize::new(0));
        (Self { stream, received: Arc::clone(&received) }, received)
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, out);
        self.received.fetch_add(out.filled().len() - before, Ordering::Relaxed);
        outcome
    }
}

impl AsyncWrite for Counted {
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
