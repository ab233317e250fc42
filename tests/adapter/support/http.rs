//! A minimal HTTP/1 client for the metrics port.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::PATIENCE;

/// An answer, read until its connection closed.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| &*header.1)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Requests a path.
pub fn get(port: u16, path: &str) -> Response {
    exchange(port, format!("GET {path} HTTP/1.1\r\nHost: adapter\r\n\r\n").as_bytes()).unwrap()
}

/// Sends a raw request; `None` if the answer is invalid.
pub fn exchange(port: u16, request: &[u8]) -> Option<Response> {
    let mut stream = connect(port);
    // The server may answer and close before everything is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    parse(&answer)
}

pub fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(&answer[..end]).ok()?, answer[end + 4..].to_vec());
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_ascii_lowercase(), value.to_owned()))
    };
    let headers: Option<Vec<_>> = lines.map(header).collect();
    let mut response = Response { status, headers: headers?, body };
    if response.header("transfer-encoding") == Some("chunked") && !response.body.is_empty() {
        response.body = unchunked(&response.body)?;
    }
    if let Some(length) = response.header("content-length").filter(|_| !response.body.is_empty()) {
        assert_eq!(length, response.body.len().to_string());
    }
    Some(response)
}

/// The content of the chunks; `None` without the final empty one.
fn unchunked(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = chunks.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&chunks[..end]).ok()?, 16).ok()?;
        let chunk = chunks.get(end + 2..end + 2 + size)?;
        body.extend_from_slice(chunk);
        chunks = chunks[end + 2 + size..].strip_prefix(b"\r\n")?;
        if size == 0 {
            assert!(chunks.is_empty(), "something after the last chunk");
            return Some(body);
        }
    }
}
