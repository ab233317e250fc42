//! Connections: accept them, speak HTTP/2 on each, and close them in time.
//!
//! hyper's HTTP/2 server is driven directly. tonic's own transport would add a
//! router we have no use for, and its shutdown knows no deadline.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tonic::body::Body;

use crate::health::{Phase, closing};

/// Mixer's worker pool has 1,024 calls in flight at the most, all on one
/// connection; hyper's own 200 would make it queue.
const MAX_STREAMS: u32 = 1024;
/// What a peer may send ahead on one stream, and on one connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const MAX_HEADER_LIST: u32 = 16 * 1024;

/// What can be asked of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections served at once; more wait in the kernel's queue.
    pub connections: u32,
}

/// Binds all addresses of the machine, both families where there are two.
pub fn bind(port: u16) -> io::Result<TcpListener> {
    match listen(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into()) {
        // No IPv6 here: not compiled in, or disabled.
        Err(error) if matches!(error.raw_os_error(), Some(97 | 99)) => {
            listen(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into())
        }
        other => other,
    }
}

fn listen(domain: Domain, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    // So that a restart needn't wait for the last one's connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Serves connections until the phase is [`Phase::Closing`], then tells them to
/// go away and returns when the last one is gone.
pub async fn serve<S>(
    listener: TcpListener,
    service: S,
    limits: Limits,
    mut phases: watch::Receiver<Phase>,
) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(limits.connections as usize));
    let told = phases.clone();
    let accepting = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = accept(&listener).await;
            let connection = speak(stream, service.clone(), told.clone());
            tokio::spawn(async move {
                connection.await;
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = closing(&mut phases) => {}
    }
    drop(listener);
    let _ = places.acquire_many(limits.connections).await;
    Ok(())
}

/// The next connection. When the system is out of descriptors or memory there
/// is nothing to do but to wait for some to come free.
async fn accept(listener: &tokio::net::TcpListener) -> TcpStream {
    let mut pause = Duration::from_millis(5);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                log::warn!("cannot accept a connection error={error}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

/// Serves one connection to its end.
async fn speak<S>(stream: TcpStream, service: S, mut phases: watch::Receiver<Phase>)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(64 * 1024)
        .auto_date_header(false);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = closing(&mut phases) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        log::debug!("a connection ended error={error}");
    }
}
