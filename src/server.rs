//! Connections: accepts them, runs HTTP/2 on each, and shuts them down gracefully.
//!
//! hyper's HTTP/2 server is driven directly. tonic's transport would add an unused
//! router, and its shutdown has no deadline.

mod frames;
mod lifetime;
mod limits;
mod socket;
pub mod tls;
mod turns;

use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use socket2::{Domain, Protocol, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use self::lifetime::{Ending, Open, serve_connection};
pub use self::limits::{Connections, Limits};
use crate::grpc::connection::Connection;
use crate::grpc::health::{State, closing};
use crate::once::Once;

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
/// When others wait for a connection slot, a connection without a call for this long
/// is shut down gracefully.
const IDLE: Duration = Duration::from_secs(5);

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
        let counted = Open::new(Connection::of(peer), &limits, place);
        tokio::spawn(serve_connection(stream, service.clone(), limits.clone(), counted, open, ending));
    };
    // Accepted, waiting for a slot.
    let mut next = None;
    let accepting = async {
        loop {
            if next.is_none() {
                next = Some(accept(&listener, &limits.told).await);
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

/// The next connection. While the system is out of descriptors or memory, retries
/// with back-off. A peer that comes and goes could cause a line each time, so it is
/// logged once in a while.
pub async fn accept(listener: &tokio::net::TcpListener, told: &Once) -> TcpStream {
    let mut pause = FIRST_PAUSE;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                if told.is_due(b"accept") {
                    log::warn!("cannot accept connections, retrying error={error}");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}
