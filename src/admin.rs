//! The second port: `/metrics` for Prometheus, `/healthz` and `/readyz` for
//! probes that know only HTTP.
//!
//! One request per connection, of which only the first line matters: that much
//! HTTP/1 is less here than a library for it would be (70 kB of binary).

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::health::{Health, Phase};
use crate::metrics::{Page, Position, Registry};
use crate::server::accept;

/// Prometheus, the kubelet, and someone looking: more than that is an attack.
const MAX_CONNECTIONS: usize = 16;
/// How long one may take to ask: not long enough to keep a probe waiting for a
/// place.
const QUESTION: Duration = Duration::from_secs(2);
/// How long all of it may take.
const EXCHANGE: Duration = Duration::from_secs(10);
/// The most bytes of a request.
const MAX_REQUEST: usize = 8 * 1024;
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
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = accept(&listener).await;
        let sources = sources.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(EXCHANGE, speak(stream, &sources)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::debug!("a connection to the metrics port ended error={error}"),
                Err(_) => log::debug!("a connection to the metrics port took too long"),
            }
            drop(place);
        });
    }
}

/// Reads a request's head; nothing if its sender leaves.
async fn question(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut request = Vec::with_capacity(1024);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > MAX_REQUEST {
            answer(stream, "431 Request Header Fields Too Large", false, "too much\n").await?;
            return Ok(None);
        }
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(request))
}

/// Answers one request and closes.
async fn speak(mut stream: TcpStream, sources: &Sources) -> io::Result<()> {
    let question = tokio::time::timeout(QUESTION, question(&mut stream)).await;
    let Some(request) = question.map_err(|_| io::ErrorKind::TimedOut)?? else { return Ok(()) };
    let mut words = request.split(|byte| matches!(byte, b' ' | b'\r'));
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let head_only = method == b"HEAD";
    if method != b"GET" && !head_only {
        let status = "405 Method Not Allowed\r\nAllow: GET, HEAD";
        return answer(&mut stream, status, head_only, "GET only\n").await;
    }
    let draining = sources.health.state().phase != Phase::Serving;
    match path {
        b"/metrics" => page(&mut stream, sources, head_only).await,
        // Alive as long as it can say so: a full disk is no reason to restart.
        b"/healthz" => answer(&mut stream, "200 OK", head_only, "ok\n").await,
        b"/readyz" if draining => {
            answer(&mut stream, "503 Service Unavailable", head_only, "draining\n").await
        }
        b"/readyz" => answer(&mut stream, "200 OK", head_only, "ok\n").await,
        _ => answer(&mut stream, "404 Not Found", head_only, "try /metrics, /healthz or /readyz\n").await,
    }
}

/// The metrics, piece by piece, each made when the last one is on its way. Their
/// end is that of the connection.
async fn page(stream: &mut TcpStream, sources: &Sources, head_only: bool) -> io::Result<()> {
    let mut page = Page { text: head("200 OK", EXPOSITION, "").into_bytes() };
    let mut next = (!head_only).then_some(Position::default());
    while let Some(at) = next {
        next = sources.registry.piece(at, &mut page);
        stream.write_all(&page.text).await?;
        page.text.clear();
    }
    stream.write_all(&page.text).await?;
    stream.shutdown().await
}

async fn answer(stream: &mut TcpStream, status: &str, head_only: bool, text: &str) -> io::Result<()> {
    let mut out = head(status, TEXT, &format!("Content-Length: {}\r\n", text.len()));
    if !head_only {
        out.push_str(text);
    }
    stream.write_all(out.as_bytes()).await?;
    stream.shutdown().await
}

fn head(status: &str, kind: &str, length: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{length}Connection: close\r\n\r\n")
}
