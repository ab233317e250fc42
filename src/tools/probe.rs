//! `probe [--http] [[ADDRESS:]PORT] [SERVICE]`: queries the health of a running adapter over gRPC,
//! or over HTTP from its metrics port, which never needs TLS.
//!
//! One request needs no HTTP/2 library: a fixed preface, one uncompressed header
//! block, and a reader for the one frame that holds the message. It connects directly,
//! by default to loopback, so no proxy interferes.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use prost::Message;

use super::output::{Stop, first_line};
use crate::cli::environment;
use crate::grpc::SERVICES;
use crate::grpc::routes;
use crate::health::CHECK;
use crate::pb::grpc::health::v1::health_check_response::ServingStatus;
use crate::pb::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};

/// Time limit for the whole probe.
const TIMEOUT: Duration = Duration::from_secs(2);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of TLS's answer to plaintext. A frame of HTTP/2 that begins with it
/// would be too large.
const TLS_ALERT: u8 = 21;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Limit on the frames of an answer; most are skipped.
const MAX_FRAMES: usize = 32;
const MAX_FRAME: usize = 16 * 1024;

pub(super) const USAGE: &str = "\
Usage: probe [--http] [[ADDRESS:]PORT] [SERVICE]

Asks the adapter on PORT of this host for the health of SERVICE, or of the whole.
The defaults are those of the adapter: MYGRPCADAPTER_ADDRESS, then loopback, and
MYGRPCADAPTER_PORT, then 8000. With --http it asks the metrics port, as a port
with TLS needs: MYGRPCADAPTER_METRICS_ADDRESS, MYGRPCADAPTER_METRICS_PORT.
Exits with 0 if the adapter serves.";

/// Prints the status; fails unless it is SERVING.
pub fn run(words: &[OsString], out: &mut impl Write) -> Result<(), Stop> {
    let usage = |text: &str| Stop::Usage(format!("{text} ({})", first_line(USAGE)));
    let words: Option<Vec<&str>> = words.iter().map(|word| word.to_str()).collect();
    let words = words.ok_or_else(|| usage("not UTF-8"))?;
    let (ask, what, default, words): (Ask, _, fn() -> _, _) = match &words[..] {
        ["--http", words @ ..] => (ask_by_http, "for metrics", environment::metrics_listener, words),
        words => (ask_by_grpc, "for gRPC", environment::listener, words),
    };
    let (to, service) = match *words {
        [] => (None, ""),
        [to] => (Some(to), ""),
        [to, service] if !service.starts_with('-') => (Some(to), service),
        _ => return Err(usage("too many words")),
    };
    let (address, port) = match to {
        Some(to) => {
            listener(to).ok_or_else(|| usage(&format!("{to}: write a port from 1 to 65535, or IP:PORT")))?
        }
        None => default().map_err(|error| usage(&error))?,
    };
    let status = ask(&addresses(address, port), service)
        .map_err(|error| Stop::Failed(format!("port {port}: {}", reason(&error, what))))?;
    writeln!(out, "{}", status.as_str_name()).map_err(Stop::Output)?;
    match status {
        ServingStatus::Serving => Ok(()),
        ServingStatus::ServiceUnknown => Err(Stop::Failed(unknown(service))),
        _ => Err(Stop::Failed("not serving: it drains, or cannot write; its log has the reason".into())),
    }
}

/// Why there is no such service. An adapter of this version has those of [`SERVICES`].
fn unknown(service: &str) -> String {
    let mut names = SERVICES.iter().map(|known| known.name);
    if service.is_empty() || names.any(|name| name == service) {
        return "not this adapter, or another version: it has no such service".into();
    }
    format!("no such service: {service}; there are {}", routes::names())
}

/// Parses `PORT` or `ADDRESS:PORT`. Nothing listens on port 0.
fn listener(word: &str) -> Option<(Option<IpAddr>, u16)> {
    let address: Option<SocketAddr> = word.parse().ok();
    let (address, port) = match address {
        Some(address) => (Some(address.ip()), address.port()),
        None => (None, word.parse().ok()?),
    };
    (port != 0).then_some((address, port))
}

/// Where to connect for what listens on this address, or on all.
fn addresses(address: Option<IpAddr>, port: u16) -> Vec<SocketAddr> {
    match address.filter(|address| !address.is_unspecified()) {
        Some(address) => vec![(address, port).into()],
        None => vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()],
    }
}

/// Asks the first of these addresses that answers for the status of a service.
type Ask = fn(&[SocketAddr], &str) -> io::Result<ServingStatus>;

/// An error in the terms of a probe of a port of this kind.
fn reason(error: &io::Error, what: &str) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("nothing listens there; is it the port {what}, and has the adapter started?")
        }
        // The kinds of a socket timeout.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("no answer within {TIMEOUT:?}; is it the port {what}?")
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            format!("the connection was closed without an answer; is it the port {what}?")
        }
        _ => error.to_string(),
    }
}

fn ask_by_http(to: &[SocketAddr], service: &str) -> io::Result<ServingStatus> {
    let request = format!("GET /readyz?service={service} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let stream = connect(to, request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_FRAME as u64).read_to_end(&mut answer)?;
    match answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3)) {
        Some(b"200") => Ok(ServingStatus::Serving),
        Some(b"503") => Ok(ServingStatus::NotServing),
        Some(b"404") => Ok(ServingStatus::ServiceUnknown),
        _ => Err(io::Error::other("not the metrics port of an adapter")),
    }
}

/// Connects and sends all bytes.
fn connect(to: &[SocketAddr], bytes: &[u8]) -> io::Result<Timed> {
    let deadline = Instant::now() + TIMEOUT;
    let mut outcome = Err(io::ErrorKind::ConnectionRefused.into());
    for address in to {
        let connected = TcpStream::connect_timeout(address, left(deadline)?);
        outcome = connected.or_else(|error| outcome.map_err(|_: io::Error| error));
        if outcome.is_ok() {
            break;
        }
    }
    let mut stream = outcome?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(bytes)?;
    Ok(Timed { stream, deadline })
}

fn ask_by_grpc(to: &[SocketAddr], service: &str) -> io::Result<ServingStatus> {
    let mut stream = connect(to, &request(service))?;
    for _ in 0..MAX_FRAMES {
        let mut head = [0; 9];
        stream.read_exact(&mut head[..1])?;
        if head[0] == TLS_ALERT {
            return Err(io::Error::other("it speaks TLS; ask the metrics port: probe --http"));
        }
        stream.read_exact(&mut head[1..])?;
        let [a, b, c, kind, flags, ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::other(
                "not an HTTP/2 server; the port for gRPC is asked, not the metrics port",
            ));
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        match kind {
            DATA if payload.len() > 5 => return answer(&payload[5..]),
            // A trailers-only answer is an error: the service is unknown.
            HEADERS if flags & END_STREAM != 0 => return Ok(ServingStatus::ServiceUnknown),
            RST_STREAM | GOAWAY => return Err(io::Error::other("the connection is being closed")),
            _ => {}
        }
    }
    Err(io::Error::other("no answer"))
}

/// The time left until the deadline.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A connection with one deadline for all reads.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for Timed {
    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        self.stream.read(block)
    }
}

fn answer(message: &[u8]) -> io::Result<ServingStatus> {
    let response = HealthCheckResponse::decode(message).map_err(io::Error::other)?;
    Ok(response.status())
}

/// All bytes to send: preface, empty settings, one call.
fn request(service: &str) -> Vec<u8> {
    let message = HealthCheckRequest { service: service.into() }.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&(message.len() as u32).to_be_bytes());
    body.extend_from_slice(&message);
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", CHECK),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal without indexing or Huffman coding.
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    let mut bytes = PREFACE.to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);
    frame(&mut bytes, HEADERS, END_HEADERS, 1, &block);
    frame(&mut bytes, DATA, END_STREAM, 1, &body);
    bytes
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}
