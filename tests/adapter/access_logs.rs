//! Access logs of Envoy and log records of OpenTelemetry, sent to the running adapter.

mod captures; // recorded messages of a real Envoy
mod hostile; // invalid input, and mistakes of configuration
mod life; // ends of streams, connection age, shutdown and handover
mod pressure; // full and stalled volumes, and pending messages

use std::io;

use bytes::Bytes;

use crate::envoy_records::captures::cases;
use crate::support::client::{Call, framed};
use crate::support::{Adapter, Client, Reply};

pub const STREAM: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
pub const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
pub const ACCESS_LOG: &str = "access.log";

/// The recorded messages of a case.
pub fn recorded(folder: &str, name: &str) -> Vec<Vec<u8>> {
    let case = cases(folder).into_iter().find(|case| case.name.starts_with(name));
    case.expect("a recorded case").messages
}

/// The first message of a stream: an identifier of 61 kB and one entry.
pub fn first() -> Vec<u8> {
    recorded("als-http", "01-").remove(0)
}

/// A message from an Envoy under load: 41 entries in 16.6 kB.
pub fn full() -> Vec<u8> {
    recorded("als-http", "61-").remove(0)
}

/// A length-delimited field.
pub fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend(content);
    field
}

/// The identifier of a stream from a pod.
pub fn identifier(log_name: &str, namespace: &str, pod: &str) -> Vec<u8> {
    let member = |name: &str, value: &str| {
        let value = field(2, &field(3, value.as_bytes()));
        field(1, &[field(1, name.as_bytes()), value].concat())
    };
    let metadata = [member("NAMESPACE", namespace), member("NAME", pod)].concat();
    let node = field(3, &metadata);
    field(1, &[field(1, &node), field(2, log_name.as_bytes())].concat())
}

/// A message with one entry for each path, without any other field.
pub fn entries(paths: &[String]) -> Vec<u8> {
    let entry = |path: &String| field(1, &field(3, &field(5, path.as_bytes())));
    field(2, &paths.iter().flat_map(entry).collect::<Vec<_>>())
}

/// The paths in a file of such entries. Panics on any other line.
pub fn paths(file: &[u8]) -> Vec<String> {
    let lines = std::str::from_utf8(file).unwrap().lines();
    let path = |line: &str| {
        let rest = line.strip_prefix("[-] \"- ").unwrap_or_else(|| panic!("{line}"));
        assert!(rest.ends_with(" - - -"), "{line}");
        rest.split(' ').next().unwrap().to_owned()
    };
    lines.map(path).collect()
}

/// An open stream.
pub struct Stream(Call);

impl Stream {
    pub async fn open(client: &Client) -> Self {
        Self(client.open(STREAM).await.unwrap())
    }

    pub fn send(&mut self, message: &[u8]) {
        self.try_send(message).unwrap();
    }

    pub fn try_send(&mut self, message: &[u8]) -> io::Result<()> {
        self.0.send(framed(message), false)
    }

    pub fn send_part(&mut self, part: &[u8]) {
        self.0.send(Bytes::copy_from_slice(part), false).unwrap();
    }

    /// Ends the stream, and waits for the answer.
    pub async fn end(mut self) -> Reply {
        self.0.send(Bytes::new(), true).unwrap();
        self.reply().await
    }

    /// Waits for the answer.
    pub async fn reply(self) -> Reply {
        self.0.reply().await.unwrap()
    }

    pub fn cancel(self) {
        self.0.cancel();
    }
}

/// Sends messages in a stream on a new connection, and waits for the answer.
pub async fn send_all(adapter: &Adapter, messages: &[Vec<u8>]) -> Reply {
    let mut stream = Stream::open(&adapter.client().await).await;
    messages.iter().for_each(|message| stream.send(message));
    stream.end().await
}
