//! A record as a line of text: its body.

use super::record::LogRecord;
use super::value::{self, Member};
use crate::protobuf::object::{self, Pairs};
use crate::render::escape;

/// Appends a record's body without its trailing newline, if any, and a newline.
///
/// A string is the sender's own line: only control characters other than tabs are
/// escaped. Any other value is JSON, with bytes in base64. `-` stands for an absent
/// body.
pub(super) fn line<'a>(out: &mut Vec<u8>, pairs: &mut Pairs<'a>, record: &LogRecord<'a>) {
    match value::member(record.body) {
        Ok(Member::Absent | Member::String(b"" | b"\n")) => out.push(b'-'),
        Ok(Member::String(text)) => escape::line(out, text.strip_suffix(b"\n").unwrap_or(text)),
        _ => object::value(out, pairs, record.body, 0, value::any),
    }
    out.push(b'\n');
}
