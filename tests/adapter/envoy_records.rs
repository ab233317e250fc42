//! Renders Envoy's messages, and compares the lines with those of the same Envoy, and
//! with those of an independent reader.

pub mod captures; // recorded messages of a real Envoy, and its own lines
mod hostile; // input that Envoy never sends
mod properties; // properties of any message
mod second; // the independent reader

use records::envoy::entry::Entry;
use records::envoy::identifier::Identifier;
use records::envoy::message::Message;
use records::envoy::observation::Observation;
use records::otlp::export::{Count, Export, Refusal};
use records::render::Format;

/// The lines of a stream's messages, in order.
pub fn lines(messages: &[Vec<u8>], format: Format) -> Vec<Vec<u8>> {
    let (mut identifier, mut lines) = (Identifier::default(), Vec::new());
    for message in messages {
        let message = Message::read(message).unwrap();
        if message.is_identified() {
            identifier = message.identifier().unwrap();
        }
        let mut entry = Entry::default();
        for item in message.entries() {
            let (kind, bytes) = item.unwrap();
            entry.read(kind, bytes).unwrap();
            let mut line = Vec::new();
            records::envoy::line(&mut line, format, &mut entry, &identifier);
            lines.push(line);
        }
    }
    lines
}

/// The observations of a stream's messages: path, host, method, status, seconds.
pub fn observations(messages: &[Vec<u8>]) -> Vec<(String, String, String, u32, f64)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut observed = Vec::new();
    for message in messages {
        let mut entry = Entry::default();
        for item in Message::read(message).unwrap().entries() {
            let (kind, bytes) = item.unwrap();
            entry.read(kind, bytes).unwrap();
            if let Some(Observation { path, host, method, status, seconds }) = Observation::of(&entry) {
                observed.push((text(path), text(host), method.into(), status, seconds.unwrap()));
            }
        }
    }
    observed
}

/// The lines of an OTLP request.
pub fn exported(message: &[u8], format: Format, room: usize) -> Result<(Count, Vec<u8>), Refusal> {
    let (mut out, mut total) = (Vec::new(), Count::default());
    for resource in Export::new(message) {
        let left = room - out.len();
        let count = resource?.lines(&mut out, format, left)?;
        total.records += count.records;
        total.malformed += count.malformed;
    }
    Ok((total, out))
}
