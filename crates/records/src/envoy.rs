//! Access logs of Envoy (`envoy.service.accesslog.v3`), from the bytes of a
//! message to the lines of a file.
//!
//! | module | what flows there |
//! |---|---|
//! | [`message`] | a message: its identifier, and the bytes of each entry |
//! | [`identifier`] | who sends the stream, kept as long as the stream |
//! | [`entry`] | one entry, read once into a struct that borrows from the message |
//! | [`operator`] | what Envoy's command operators say of an entry |
//! | [`text`], [`json`] | the operators as Istio's TEXT line, or as one JSON object |
//!
//! Envoy puts bytes into string fields that are not UTF-8: nothing is checked.
//! A field of another wire type than its own is passed over like an unknown one.
//! Of two members of a oneof the last one counts.

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

/// Appends one entry as one line, which ends in a newline and has no other.
///
/// It is at most [`bound::most`](crate::render::bound::most) bytes long.
pub fn line<'a>(out: &mut Vec<u8>, format: Format, entry: &mut Entry<'a>, identifier: &Identifier) {
    match format {
        Format::Text => text::line(out, entry),
        Format::Json => json::line(out, entry, identifier),
    }
}
