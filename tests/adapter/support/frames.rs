//! HTTP/2 by hand, so that a test controls every frame.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::PATIENCE;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A connection.
#[derive(Debug)]
pub struct Frames(pub TcpStream);

/// One frame.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frames {
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Connects and sends the preface and settings of a client.
    pub fn greet(port: u16) -> Self {
        let mut frames = Self::connect(port);
        frames.0.write_all(PREFACE).unwrap();
        frames.send(SETTINGS, 0, 0, &[]);
        frames
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.try_send(kind, flags, stream, payload).unwrap();
    }

    pub fn try_send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.0.write_all(&frame(kind, flags, stream, payload))
    }

    pub fn receive(&mut self) -> Frame {
        self.try_receive().unwrap()
    }

    pub fn try_receive(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Waits for a frame of a kind. Skips others, but answers pings as grpc-go does.
    pub fn await_frame(&mut self, kind: u8, wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.receive();
            if frame.kind == kind && wanted(&frame) {
                return frame;
            }
            if frame.kind == PING && frame.flags & ACK == 0 {
                self.send(PING, ACK, 0, &frame.payload);
            }
        }
    }

    /// Waits for an empty message followed by OK.
    pub fn await_empty_reply(&mut self, stream: u32) {
        let head = self.await_frame(HEADERS, |frame| frame.stream == stream);
        assert_eq!(head.flags & END_STREAM, 0, "refused at once");
        let data = self.await_frame(DATA, |frame| frame.stream == stream);
        assert_eq!(data.payload, [0; 5]);
        let trailers = self.await_frame(HEADERS, |frame| frame.stream == stream);
        assert_eq!(trailers.flags & END_STREAM, END_STREAM);
    }
}

/// An encoded frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An uncompressed header block for the method at `path`.
pub fn header_block(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "adapter"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        literal(&mut block, name, value);
    }
    block
}

/// A literal header without indexing.
pub fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        assert!(text.len() < 127, "one byte of length");
        block.push(text.len() as u8);
        block.extend(text.as_bytes());
    }
}
