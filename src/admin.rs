//! The second port: `/metrics` for Prometheus, `/healthz` and `/readyz` for
//! probes that know only HTTP.
//!
//! One request per connection, of which only the first line matters: that much
//! HTTP/1 is less here than a library for it would be (70 kB of binary).

//!
//! Nobody is made to wait for a place: when there are too many connections, the
//! oldest one gives way to the newest. What is given up ends with a reset, never
//! with an end that could be taken for that of a page.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::health::Health;
use crate::metrics::{Page, Position, Registry};
use crate::server::accept;

/// Prometheus, the kubelet, and someone looking: more than that is an attack.
const MAX_CONNECTIONS: usize = 64;
/// How long one may take to ask.
const QUESTION: Duration = Duration::from_secs(2);
/// How long all of it may take: as long as Prometheus waits at the most.
const EXCHANGE: Duration = Duration::from_secs(60);
/// The most bytes of a request's head, and of what may follow it.
const MAX_REQUEST: usize = 8 * 1024;
const MAX_REST: usize = 1024 * 1024;
/// Bytes that the kernel keeps for a peer that doesn't read, which count as our
/// memory. It doubles this.
const SEND_BUFFER: usize = 16 * 1024;
const TEXT: &str = "text/plain; charset=utf-8";
/// Prometheus's own name for its text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where the answers come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The numbers.
    pub registry: Registry,
    /// Whether we serve.
    pub health: Health,
}

/// Serves the port until the runtime ends.
pub async fn serve(listener: TcpListener, sources: Sources) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return log::error!("cannot serve metrics error={error}"),
    };
    let mut open: VecDeque<JoinHandle<()>> = VecDeque::with_capacity(MAX_CONNECTIONS);
    loop {
        let stream = accept(&listener).await;
        open.retain(|connection| !connection.is_finished());
        if open.len() == MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tokio::spawn(connection(stream, sources.clone())));
        // A queue full of connections must not keep those from being served
        // that were accepted before.
        tokio::task::yield_now().await;
    }
}

/// Answers on one connection, or resets it.
async fn connection(stream: TcpStream, sources: Sources) {
    match tokio::time::timeout(EXCHANGE, speak(stream, &sources)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a connection to the metrics port ended error={error}"),
        Err(_) => log::debug!("a connection to the metrics port took too long"),
    }
}

async fn speak(mut stream: TcpStream, sources: &Sources) -> io::Result<()> {
    // As long as this holds, whatever ends the connection resets it.
    stream.set_zero_linger()?;
    // Pieces of a page are smaller than a segment: none must wait for the
    // acknowledgement of the last.
    stream.set_nodelay(true)?;
    let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
    let request = tokio::time::timeout(QUESTION, read_head(&mut stream)).await;
    let request = request.map_err(|_| io::ErrorKind::TimedOut)??;
    respond(&mut stream, &request, sources).await?;
    stream.shutdown().await?;
    read_rest(&mut stream).await?;
    SockRef::from(&stream).set_linger(None)
}

/// Reads and drops what a peer sends until it closes: bytes nobody has read
/// would turn the end of the answer into a reset.
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

/// Reads a request up to its empty line, or more than is answered.
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

/// How much of a request is looked at: its first line.
#[derive(Debug)]
struct Request<'a> {
    method: &'a [u8],
    path: &'a [u8],
    query: &'a [u8],
    /// Whether it knows chunks: HTTP/1.1.
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
        _ if !has_empty_line(head) => ("431 Request Header Fields Too Large", "too much\n"),
        (b"GET" | b"HEAD", b"/metrics") => return page(stream, &request, &sources.registry).await,
        // Alive as long as it can say so: a full disk is no reason to restart.
        (b"GET" | b"HEAD", b"/healthz") => ("200 OK", "ok\n"),
        (b"GET" | b"HEAD", b"/readyz") => readiness(&sources.health, request.query),
        (b"GET" | b"HEAD", _) => ("404 Not Found", "try /metrics, /healthz or /readyz\n"),
        _ => ("405 Method Not Allowed\r\nAllow: GET, HEAD", "GET only\n"),
    };
    let mut out = start(status, TEXT, &format!("Content-Length: {}\r\n", text.len()));
    if request.method != b"HEAD" {
        out.push_str(text);
    }
    stream.write_all(out.as_bytes()).await
}

/// Whether the service named by `service=NAME` is ready, as the health service
/// would say. Without a name: unless it drains; a full volume is no reason to
/// send authorization checks elsewhere.
fn readiness(health: &Health, query: &[u8]) -> (&'static str, &'static str) {
    let mut pairs = query.split(|byte| *byte == b'&');
    let service = pairs.find_map(|pair| pair.strip_prefix(b"service=")).unwrap_or_default();
    match std::str::from_utf8(service).ok().and_then(|name| health.serves(name)) {
        None => ("404 Not Found", "no service of that name is served here\n"),
        Some(true) => ("200 OK", "ok\n"),
        Some(false) if health.serves("") == Some(true) => ("503 Service Unavailable", "not serving\n"),
        Some(false) => ("503 Service Unavailable", "draining\n"),
    }
}

/// The metrics, piece by piece, each made when the last one is on its way: in
/// chunks where the client knows them, else up to the end of the connection.
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

/// Appends a piece, as a chunk or as it is. An empty chunk would be the last.
fn append(out: &mut Vec<u8>, piece: &[u8], chunked: bool) {
    if chunked && !piece.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    } else {
        out.extend_from_slice(piece);
    }
}

/// The head of an answer; `length` is the header that says where it ends.
fn start(status: &str, kind: &str, length: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{length}Connection: close\r\n\r\n")
}
