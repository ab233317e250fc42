//! Records to bytes: the walkthrough's text, or JSON Lines.
//!
//! Renderers append to a buffer and can't fail.

pub mod bound;
pub mod escape;
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

/// A text of at most `N` bytes that is known beforehand: appended as `N` bytes, of
/// which the last ones are taken back, since a copy of a known length is cheaper.
#[derive(Debug)]
pub(crate) struct Literal<const N: usize> {
    padded: [u8; N],
    length: usize,
}

impl<const N: usize> Literal<N> {
    pub(crate) const fn new(text: &str) -> Self {
        let mut padded = [0; N];
        let mut at = 0;
        while at < text.len() {
            padded[at] = text.as_bytes()[at];
            at += 1;
        }
        Self { padded, length: text.len() }
    }

    #[inline(always)]
    pub(crate) fn append(&self, out: &mut Vec<u8>) {
        let length = out.len() + self.length;
        out.extend_from_slice(&self.padded);
        out.truncate(length);
    }
}

const EACH: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Appends a text up to the first byte that is not plain, and returns the rest:
/// mostly nothing. Plain is ASCII without control characters and without three more
/// bytes; eight of them are looked at at a time.
#[inline(always)]
pub(crate) fn append_plain<'t>(out: &mut Vec<u8>, text: &'t [u8], without: [u8; 3]) -> &'t [u8] {
    let mut rest = text;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        let other = others(*word, without);
        out.extend_from_slice(word);
        if other != 0 {
            let plain = other.trailing_zeros() as usize / 8;
            out.truncate(out.len() - 8 + plain);
            return &rest[plain..];
        }
        rest = after;
    }
    // The last eight bytes of a longer text, some of which have been looked at.
    if text.last_chunk().is_some_and(|last| others(*last, without) == 0) {
        append(out, rest);
        return &[];
    }
    let is_plain = |byte: &u8| (0x20..0x7f).contains(byte) && !without.contains(byte);
    let plain = rest.iter().position(|byte| !is_plain(byte)).unwrap_or(rest.len());
    append(out, &rest[..plain]);
    &rest[plain..]
}

/// The high bit of the first byte in memory that is not plain, and perhaps of later ones;
/// nothing where all eight are plain.
#[inline(always)]
fn others(word: [u8; 8], without: [u8; 3]) -> u64 {
    let word = u64::from_le_bytes(word);
    let below = |bound: u8, word: u64| word.wrapping_sub(EACH * u64::from(bound)) & !word;
    let equal = |byte: u8| below(1, word ^ (EACH * u64::from(byte)));
    let [a, b, c] = without.map(equal);
    (word | below(0x20, word) | equal(0x7f) | a | b | c) & HIGH
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_appended_up_to_the_first_byte_that_is_not_plain() {
        for length in 0..40 {
            for at in 0..length {
                for byte in 0..=255 {
                    let mut text = vec![b'a'; length];
                    text[at] = byte;
                    text[(at + 3) % length] |= 0x80;
                    let plain = |byte: &u8| (0x20..0x7f).contains(byte) && !b"\"\\ ".contains(byte);
                    let expected = text.iter().position(|byte| !plain(byte)).unwrap_or(length);
                    let mut out = b"before".to_vec();
                    let rest = append_plain(&mut out, &text, *b"\"\\ ");
                    assert_eq!((&out[6..], rest), text.split_at(expected), "{byte} at {at} of {length}");
                }
            }
        }
    }
}
