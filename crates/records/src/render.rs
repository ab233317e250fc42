//! Records to bytes: the walkthrough's text, or JSON Lines.
//!
//! Renderers append to a buffer and can't fail.

pub mod go;
pub mod json;
pub mod text;

use crate::record::{self, Record};
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

impl Format {
    /// Every format that a file may hold.
    pub const ALL: [Self; 2] = [Self::Text, Self::Json];

    /// How its records lie in a file.
    pub fn grammar(self) -> &'static Grammar {
        match self {
            Self::Text => &text::GRAMMAR,
            Self::Json => &json::GRAMMAR,
        }
    }
}

/// How the records of a format begin and end in a file, for whoever repairs the
/// file or deletes it.
#[derive(Clone, Copy, Debug)]
pub struct Grammar {
    /// Whether a record starts with the line that these bytes begin with. They are
    /// at least [`AHEAD`] bytes, or all up to the end of the file.
    pub starts: fn(&[u8]) -> Start,
    /// What ends a record: one of these, none longer than [`BEHIND`] bytes.
    pub endings: &'static [&'static [u8]],
}

impl Grammar {
    /// Whether `text` ends with the end of a record.
    pub fn ends(&self, text: &[u8]) -> bool {
        self.endings.iter().any(|ending| text.ends_with(ending))
    }

    /// Whether a record ends somewhere in `text`.
    pub fn has_end(&self, text: &[u8]) -> bool {
        let is_in = |ending: &&[u8]| text.windows(ending.len()).any(|window| window == *ending);
        self.endings.iter().any(is_in)
    }
}

/// How many bytes of a line say whether a record starts with it.
pub const AHEAD: usize = 128;
/// How many bytes before a line say whether a record ends there.
pub const BEHIND: usize = 32;

/// Whether a record starts somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// No.
    No,
    /// What is there may be the first bytes of a record, with nothing or only NUL
    /// bytes behind them. It is one for certain only behind another record.
    Partial,
    /// Yes, for certain.
    Certain,
}

/// Whether a file that begins with these bytes, at least [`AHEAD`] of them or all,
/// holds records of any format.
pub fn is_ours(start: &[u8]) -> bool {
    Format::ALL.iter().any(|format| (format.grammar().starts)(start) == Start::Certain)
}

/// How far `text` agrees with `wanted`. A crash of the system leaves NUL bytes
/// where data never reached the disk, so what comes before a NUL byte counts.
fn agrees(text: &[u8], wanted: &[u8]) -> Start {
    let written = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    match &text[..written] {
        written if written.starts_with(wanted) => Start::Certain,
        written if wanted.starts_with(written) => Start::Partial,
        _ => Start::No,
    }
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

    /// No instance of so many bytes becomes more than this. What grows most is a
    /// time that was sent without its inner part: six bytes to a hundred.
    pub fn at_most(&self, template: &Template, instance: usize) -> usize {
        self.around(template) + template.columns.len() * record::MAX_GROWTH + 20 * instance
    }

    /// Nor does this one become more than this, which takes longer to tell.
    pub fn measure(&self, template: &Template, record: &Record, instance: &[u8]) -> usize {
        let grown: usize = match self.format {
            Format::Text => 0,
            Format::Json => instance.utf8_chunks().map(|chunk| json::growth(&chunk)).sum(),
        };
        self.around(template) + instance.len() + grown + record.growth()
    }

    /// What stands around the values of an instance.
    fn around(&self, template: &Template) -> usize {
        let columns = template.columns.iter().map(|column| column.label.len() + column.key.len() + 8);
        64 + template.name.len() + self.received_at.len() + columns.sum::<usize>()
    }

    /// What comes after the last instance.
    pub fn tail(&self, out: &mut Vec<u8>) {
        if self.format == Format::Text {
            text::tail(out);
        }
    }
}
