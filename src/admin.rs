//! The metrics port: `/metrics` for Prometheus, `/healthz` and `/readyz` for HTTP
//! probes.
//!
//! It serves one request per connection and reads only the request line. An HTTP/1
//! library would add 70 kB to the binary.
//!
//! At the connection limit a new connection evicts the oldest one. An aborted
//! response ends with a reset, so that a client cannot take it for a complete one.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::grpc::routes;
use crate::health::Health;
use crate::metrics::{Page, Position, Registry};
use crate::once::Once;
use crate::server::accept;

/// Enough for Prometheus, the kubelet and a few people.
const MAX_CONNECTIONS: usize = 64;
/// Time limit for the request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for the whole connection: Prometheus's longest scrape timeout.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Limits in bytes on the request head and on anything after it.
const MAX_REQUEST: usize = 8 * 1024;
const MAX_REST: usize = 1024 * 1024;
/// The kernel's send buffer for a peer that does not read. It counts as our memory,
/// and the kernel doubles this value.
const SEND_BUFFER: usize = 16 * 1024;
const TEXT: &str = "text/plain; charset=utf-8";
/// The content type of Prometheus's text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The data behind the answers.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The metrics.
    pub registry: Registry,
    /// The health of each service.
    pub health: Health,
}

/// Serves the port until the runtime ends.
pub async fn serve(listener: TcpListener, sources: Sources) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return log::error!("cannot serve metrics error={error}"),
    };
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::with_capacity(MAX_CONNECTIONS);
    let told = Once::default();
    loop {
        let stream = accept(&listener, &told).await;
        open.retain(|connection| !connection.is_finished());
        if open.len() == MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tokio::spawn(connection(stream, sources.clone())));
        // Let accepted connections make progress while more are pending.
        tokio::task::yield_now().await;
    }
}

/// Answers on one connection, or resets it.
async fn connection(stream: TcpStream, sources: Sources) {
    match tokio::time::timeout(CONNECTION_TIMEOUT, exchange(stream, &sources)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a connection to the metrics port ended error={error}"),
        Err(_) => log::debug!("a connection to the metrics port took too long"),
    }
}

async fn exchange(mut stream: TcpStream, sources: &Sources) -> io::Result<()> {
    // Until this is cleared, any early return resets the connection.
    stream.set_zero_linger()?;
    // Pieces of a page are smaller than a segment; Nagle's algorithm would delay
    // each.
    stream.set_nodelay(true)?;
    let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
    let request = tokio::time::timeout(HEAD_TIMEOUT, read_head(&mut stream)).await;
    let request = request.map_err(|_| io::ErrorKind::TimedOut)??;
    respond(&mut stream, &request, sources).await?;
    stream.shutdown().await?;
    read_rest(&mut stream).await?;
    SockRef::from(&stream).set_linger(None)
}

/// Discards input until the peer closes: unread bytes would turn our close into a
/// reset.
async fn read_rest(stream: &mut TcpStream) -> io::Result<()> {
    let (mut block, mut total) = ([0; 512], 0);
    while total < MAX_REST {
        match stream.read(&mut block).await? {
            0 => return Ok(()),
            count => total += count,
        }
    }
    Err(io::Error::other("more was sent than a request"))
}

/// Reads a request up to its empty line, or to just past the limit.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut request = Vec::with_capacity(1024);
    while !has_empty_line(&request) && request.len() <= MAX_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(request)
}

fn has_empty_line(request: &[u8]) -> bool {
    request.windows(4).any(|end| end == b"\r\n\r\n")
}

/// The request line.
#[derive(Debug)]
struct Request<'a> {
    method: &'a [u8],
    path: &'a [u8],
    query: &'a [u8],
    /// Whether the client understands chunked encoding: HTTP/1.1.
    is_current: bool,
}

impl<'a> Request<'a> {
    fn parse(head: &'a [u8]) -> Self {
        let mut words = head.split(|byte| matches!(byte, b' ' | b'\r'));
        let mut word = || words.next().unwrap_or_default();
        let (method, target, version) = (word(), word(), word());
        let mut parts = target.splitn(2, |byte| *byte == b'?');
        let mut part = || parts.next().unwrap_or_default();
        Self { method, path: part(), query: part(), is_current: version == b"HTTP/1.1" }
    }
}

async fn respond(stream: &mut TcpStream, head: &[u8], sources: &Sources) -> io::Result<()> {
    let request = Request::parse(head);
    let (status, text) = match (request.method, request.path) {
        _ if !has_empty_line(head) => ("431 Request Header Fields Too Large", "too much\n".into()),
        (b"GET" | b"HEAD", b"/metrics") => return page(stream, &request, &sources.registry).await,
        // Liveness only: a full disk is no reason to restart.
        (b"GET" | b"HEAD", b"/healthz") => ("200 OK", "ok\n".into()),
        (b"GET" | b"HEAD", b"/readyz") => readiness(&sources.health, request.query),
        (b"GET" | b"HEAD", _) => ("404 Not Found", "try /metrics, /healthz or /readyz\n".into()),
        _ => ("405 Method Not Allowed\r\nAllow: GET, HEAD", "GET only\n".into()),
    };
    let mut out = start(status, TEXT, &format!("Content-Length: {}\r\n", text.len()));
    if request.method != b"HEAD" {
        out.push_str(&text);
    }
    stream.write_all(out.as_bytes()).await
}

/// The readiness of the service named by `service=NAME`, as the health service
/// reports it. Without a name: ready until the adapter drains, because a full volume
/// is no reason to send authorization checks elsewhere.
fn readiness(health: &Health, query: &[u8]) -> (&'static str, Cow<'static, str>) {
    let mut pairs = query.split(|byte| *byte == b'&');
    let service = pairs.find_map(|pair| pair.strip_prefix(b"service=")).unwrap_or_default();
    match std::str::from_utf8(service).ok().and_then(|name| health.serves(name)) {
        None => ("404 Not Found", format!("no such service; there are {}\n", routes::names()).into()),
        Some(true) => ("200 OK", "ok\n".into()),
        Some(false) if health.serves("") == Some(true) => ("503 Service Unavailable", "not serving\n".into()),
        Some(false) => ("503 Service Unavailable", "draining\n".into()),
    }
}

/// Sends the metrics piece by piece, rendering each after the last one was written:
/// as chunks for HTTP/1.1, else until the connection closes.
async fn page(stream: &mut TcpStream, request: &Request<'_>, registry: &Registry) -> io::Result<()> {
    let encoding = if request.is_current { "Transfer-Encoding: chunked\r\n" } else { "" };
    let mut out = start("200 OK", EXPOSITION, encoding).into_bytes();
    if request.method == b"HEAD" {
        return stream.write_all(&out).await;
    }
    let (mut page, mut next) = (Page::default(), Some(Position::default()));
    while let Some(at) = next {
        next = registry.piece(at, &mut page);
        append(&mut out, &page.text, request.is_current);
        page.text.clear();
        stream.write_all(&out).await?;
        out.clear();
    }
    let last: &[u8] = if request.is_current { b"0\r\n\r\n" } else { b"" };
    stream.write_all(last).await
}

/// Appends a piece, chunked if asked. An empty chunk would end the body.
fn append(out: &mut Vec<u8>, piece: &[u8], chunked: bool) {
    if chunked && !piece.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    } else {
        out.extend_from_slice(piece);
    }
}

/// The head of a response; `length` is the header that delimits its body.
fn start(status: &str, kind: &str, length: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{length}Connection: close\r\n\r\n")
}
