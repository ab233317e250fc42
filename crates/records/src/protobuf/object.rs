//! Dynamic messages to JSON: nested maps and lists of values, such as
//! `google.protobuf.Struct` and OTLP's AnyValue.
//!
//! `null` stands for a malformed value, for one nested more than [`MAX_DEPTH`] deep,
//! and for an object with more than [`MAX_ENTRIES`] keys.

use super::wire::{MAX_ENTRIES, Malformed, Reader, bytes};
use crate::record::sort_pairs;
use crate::render::json;

/// Limit on the nesting of objects and lists. protobuf's own parsers stop at a
/// hundred messages, and each level takes two or three.
pub const MAX_DEPTH: usize = 64;

/// A key and an encoded value.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

/// The keys of an object and of those around it, in one buffer that all objects
/// reuse.
pub type Pairs<'a> = Vec<Pair<'a>>;

/// Appends one value of a schema at a depth. On an error the caller removes any
/// partial output.
pub type Show = for<'a> fn(&mut Vec<u8>, &mut Pairs<'a>, &'a [u8], usize) -> Result<(), Malformed>;

const KEY: u64 = bytes(1);
const VALUE: u64 = bytes(2);

/// Reads a message of a key (1) and a value (2): a map entry or a KeyValue.
pub fn pair(message: &[u8]) -> Result<Pair<'_>, Malformed> {
    let mut reader = Reader::new(message);
    let (mut name, mut value) = (&[][..], &[][..]);
    while let Some(field) = reader.field()? {
        match field.key {
            KEY => name = field.bytes,
            VALUE => value = field.bytes,
            _ => {}
        }
    }
    Ok((name, value))
}

/// Adds the pairs in all fields of a message with this key.
pub fn collect<'a>(pairs: &mut Pairs<'a>, message: &'a [u8], key: u64) -> Result<(), Malformed> {
    let mut reader = Reader::new(message);
    while let Some(entry) = reader.next_of(key)? {
        push(pairs, entry)?;
    }
    Ok(())
}

/// Adds one pair.
pub fn push<'a>(pairs: &mut Pairs<'a>, entry: &'a [u8]) -> Result<(), Malformed> {
    if pairs.len() >= MAX_ENTRIES {
        return Err(Malformed::Entries);
    }
    pairs.push(pair(entry)?);
    Ok(())
}

/// Appends a value, or `null` if it cannot be shown.
pub fn value<'a>(out: &mut Vec<u8>, pairs: &mut Pairs<'a>, message: &'a [u8], depth: usize, show: Show) {
    let start = out.len();
    if depth > MAX_DEPTH || show(out, pairs, message, depth).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

/// Appends an object of the pairs in all fields of a message with this key.
pub fn object<'a>(
    out: &mut Vec<u8>,
    pairs: &mut Pairs<'a>,
    (message, key): (&'a [u8], u64),
    depth: usize,
    show: Show,
) -> Result<(), Malformed> {
    let start = pairs.len();
    let collected = collect(pairs, message, key);
    if collected.is_ok() {
        of_pairs(out, pairs, start, depth, show);
    }
    pairs.truncate(start);
    collected
}

/// Appends an object of the pairs from `start` on, sorted by key; the last of equal
/// keys wins. The pairs stay in the buffer.
pub fn of_pairs(out: &mut Vec<u8>, pairs: &mut Pairs, start: usize, depth: usize, show: Show) {
    sort_pairs(pairs, start);
    out.push(b'{');
    for at in start..pairs.len() {
        if at > start {
            out.push(b',');
        }
        let (key, held) = pairs[at];
        json::string(out, key);
        out.push(b':');
        value(out, pairs, held, depth + 1, show);
    }
    out.push(b'}');
}

/// Appends a list of the values in all fields of a message with this key.
pub fn list<'a>(
    out: &mut Vec<u8>,
    pairs: &mut Pairs<'a>,
    (message, key): (&'a [u8], u64),
    depth: usize,
    show: Show,
) -> Result<(), Malformed> {
    let mut reader = Reader::new(message);
    out.push(b'[');
    let start = out.len();
    while let Some(held) = reader.next_of(key)? {
        if out.len() > start {
            out.push(b',');
        }
        value(out, pairs, held, depth + 1, show);
    }
    out.push(b']');
    Ok(())
}
