//! Renders Envoy's access logs (`envoy.service.accesslog.v3`): from encoded messages to
//! lines of a file.
//!
//! | module | what flows there |
//! |---|---|
//! | [`message`] | a message: its identifier, and the bytes of each entry |
//! | [`identifier`] | the sender of a stream, kept as long as the stream |
//! | [`entry`] | one entry, read once into a struct that borrows from the message |
//! | [`operator`] | the values of Envoy's command operators for an entry |
//! | [`text`], [`json`] | the operators as Istio's TEXT line, or as one JSON object |
//!
//! Envoy's string fields may contain invalid UTF-8; it is not checked. A known field
//! with a wrong wire type is skipped like an unknown one. The last member of a oneof
//! wins.

pub mod address;
pub mod any;
pub mod entry;
pub mod flags;
pub mod identifier;
pub mod json;
mod keys;
pub mod message;
pub mod observation;
pub mod operator;
pub mod text;

use crate::render::Format;
use entry::Entry;
use identifier::Identifier;

/// Appends one entry as one line with a single newline, at its end.
///
/// Its length is at most [`bound::most`](crate::render::bound::most) bytes.
pub fn line<'a>(out: &mut Vec<u8>, format: Format, entry: &mut Entry<'a>, identifier: &Identifier) {
    match format {
        Format::Text => text::line(out, entry),
        Format::Json => json::line(out, entry, identifier),
    }
}
