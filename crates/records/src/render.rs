//! Records to bytes: the walkthrough's text, or JSON Lines.
//!
//! Renderers append to a buffer and can't fail.

pub mod go;
pub mod json;
pub mod text;

use crate::record::Record;
use crate::template::Template;

/// Appends a short text. Most texts of a record are a few words long, and musl's
/// memcpy takes longer to start than to copy them.
pub fn append(out: &mut Vec<u8>, text: &[u8]) {
    if text.len() > 48 {
        return out.extend_from_slice(text);
    }
    let mut rest = text;
    while let Some((chunk, after)) = rest.split_first_chunk::<8>() {
        out.extend_from_slice(chunk);
        rest = after;
    }
    if let Some((chunk, after)) = rest.split_first_chunk::<4>() {
        out.extend_from_slice(chunk);
        rest = after;
    }
    if let Some((chunk, after)) = rest.split_first_chunk::<2>() {
        out.extend_from_slice(chunk);
        rest = after;
    }
    if let [last] = rest {
        out.push(*last);
    }
}

/// What records look like in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The walkthrough's text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A format at work on one request.
#[derive(Debug)]
pub struct Style {
    format: Format,
    received_at: Vec<u8>,
}

impl Style {
    /// For a request that is received now.
    pub fn new(format: Format) -> Self {
        let mut received_at = Vec::new();
        if format == Format::Json {
            go::now(&mut received_at);
        }
        Self { format, received_at }
    }

    /// What comes before the instances. `file_path` is the handler's own text.
    pub fn head(&self, template: &Template, file_path: &[u8], out: &mut Vec<u8>) {
        if self.format == Format::Text {
            text::head(out, template, file_path);
        }
    }

    /// One instance.
    pub fn instance(&self, template: &Template, record: &Record, out: &mut Vec<u8>) {
        match self.format {
            Format::Text => text::instance(out, template, record),
            Format::Json => json::instance(out, template, record, &self.received_at),
        }
    }

    /// About what an instance of these bytes becomes. Little in it can grow:
    /// addresses that are written out, and what JSON must escape.
    pub fn measure(&self, record: &Record, instance: &[u8]) -> usize {
        let grown = match self.format {
            Format::Text => 0,
            Format::Json => instance.utf8_chunks().map(|chunk| json::growth(&chunk)).sum(),
        };
        instance.len() + grown + 4 * record.address_bytes()
    }

    /// What comes after the last instance.
    pub fn tail(&self, out: &mut Vec<u8>) {
        if self.format == Format::Text {
            text::tail(out);
        }
    }
}
