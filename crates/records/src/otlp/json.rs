//! A record as one JSON object.

use super::keys::{resource, scope};
use super::record::LogRecord;
use super::value;
use crate::protobuf::object::{self, Pairs};
use crate::protobuf::wire::{Malformed, Reader};
use crate::record::Instant;
use crate::render::append::append;
use crate::render::grammar::{Grammar, line_agrees};
use crate::render::{go, json};

/// The first key of every object.
const TIME: &[u8] = b"{\"time\":";

/// A record starts with its first key, and ends at the newline.
pub const GRAMMAR: Grammar = Grammar { starts: |line| line_agrees(line, TIME), endings: &[b"\n"] };

/// Longer ids are treated as absent.
const MAX_ID: usize = 64;

const NANOS: u64 = 1_000_000_000;

/// Appends a record. `pairs` contains exactly its attributes; `resource` and `scope`
/// are already rendered.
pub(super) fn line<'a>(
    out: &mut Vec<u8>,
    pairs: &mut Pairs<'a>,
    record: &LogRecord<'a>,
    resource: &[u8],
    scope: &[u8],
) {
    out.extend_from_slice(TIME);
    time(out, if record.time == 0 { record.observed_time } else { record.time });
    out.extend_from_slice(b",\"severity\":");
    severity(out, record);
    out.extend_from_slice(b",\"body\":");
    object::value(out, pairs, record.body, 0, value::any);
    out.extend_from_slice(b",\"attributes\":");
    object::of_pairs(out, pairs, 0, 0, value::any);
    out.extend_from_slice(b",\"resource\":");
    append(out, resource);
    out.extend_from_slice(b",\"scope\":");
    append(out, scope);
    out.extend_from_slice(b",\"trace_id\":");
    id(out, record.trace_id);
    out.extend_from_slice(b",\"span_id\":");
    id(out, record.span_id);
    out.extend_from_slice(b"}\n");
}

/// Nanoseconds since 1970; 64 bits end before the year 2555.
fn time(out: &mut Vec<u8>, nanos: u64) {
    if nanos == 0 {
        return out.extend_from_slice(b"null");
    }
    out.push(b'"');
    let time = Instant { seconds: (nanos / NANOS) as i64, nanos: (nanos % NANOS) as i32 };
    go::timestamp(out, Some(time));
    out.push(b'"');
}

/// The sender's text, else the name of the number, else the number.
fn severity(out: &mut Vec<u8>, record: &LogRecord) {
    const NAMES: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
    match record.severity {
        _ if !record.severity_text.is_empty() => json::string(out, record.severity_text),
        0 => out.extend_from_slice(b"null"),
        number @ 1..=24 => {
            out.push(b'"');
            append(out, NAMES[(number as usize - 1) / 4].as_bytes());
            // INFO, INFO2, INFO3, INFO4.
            if number % 4 != 1 {
                go::int(out, i64::from(number - 1) % 4 + 1);
            }
            out.push(b'"');
        }
        number => go::int(out, number.into()),
    }
}

fn id(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        1..=MAX_ID => json::hex(out, bytes),
        _ => out.extend_from_slice(b"null"),
    }
}

/// Appends the attributes of a Resource, whose parts are merged, or `null` without one.
pub(super) fn resource<'a>(
    out: &mut Vec<u8>,
    pairs: &mut Pairs<'a>,
    parts: impl Iterator<Item = Result<&'a [u8], Malformed>>,
) -> Result<(), Malformed> {
    pairs.clear();
    for part in parts {
        object::collect(pairs, part?, resource::ATTRIBUTES)?;
    }
    object::of_pairs(out, pairs, 0, 0, value::any);
    Ok(())
}

/// Appends an InstrumentationScope, whose parts are merged, or `null` without one.
pub(super) fn scope<'a>(
    out: &mut Vec<u8>,
    pairs: &mut Pairs<'a>,
    parts: impl Iterator<Item = Result<&'a [u8], Malformed>>,
) -> Result<(), Malformed> {
    pairs.clear();
    let (mut name, mut version, mut is_absent) = (&[][..], &[][..], true);
    for part in parts {
        is_absent = false;
        let mut reader = Reader::new(part?);
        while let Some(field) = reader.rare_field()? {
            match field.key {
                scope::NAME => name = field.bytes,
                scope::VERSION => version = field.bytes,
                scope::ATTRIBUTES => object::push(pairs, field.bytes)?,
                _ => {}
            }
        }
    }
    if is_absent {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    out.extend_from_slice(b"{\"name\":");
    json::string_or_null(out, name);
    out.extend_from_slice(b",\"version\":");
    json::string_or_null(out, version);
    out.extend_from_slice(b",\"attributes\":");
    object::of_pairs(out, pairs, 0, 0, value::any);
    out.push(b'}');
    Ok(())
}
