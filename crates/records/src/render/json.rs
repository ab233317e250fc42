//! JSON Lines: one object per instance, one line per object, always valid UTF-8.

use std::io::Write;
use std::net::Ipv6Addr;

use super::append::{append, append_plain, append_unescaped, others};
use super::escape::hex_digits;
use super::go;
use super::grammar::{Grammar, line_agrees};
use crate::record::{Record, Value};
use crate::template::Template;

/// The first key of every object.
const INSTANCE: &[u8] = b"{\"instance\":";

/// A record starts with its first key and ends with a newline.
pub const GRAMMAR: Grammar = Grammar { starts: |line| line_agrees(line, INSTANCE), endings: &[b"\n"] };

/// The members that all instances of a request share, for one received now.
pub fn shared(template: &Template) -> Vec<u8> {
    let mut out = b",\"template\":\"".to_vec();
    append(&mut out, template.name.as_bytes());
    out.extend_from_slice(b"\",\"received_at\":\"");
    go::now(&mut out);
    out.push(b'"');
    out
}

/// One instance, with the members that all share.
pub fn instance(out: &mut Vec<u8>, template: &Template, record: &Record, shared: &[u8]) {
    out.extend_from_slice(INSTANCE);
    string(out, record.name);
    append(out, shared);
    for (column, shown) in template.columns.iter().zip(&record.values) {
        out.extend_from_slice(b",\"");
        append(out, column.key.as_bytes());
        out.extend_from_slice(b"\":");
        value(out, record, *shown);
    }
    out.extend_from_slice(b"}\n");
}

fn value(out: &mut Vec<u8>, record: &Record, shown: Value) {
    match shown {
        Value::Absent | Value::Time(None) | Value::Duration(None) => out.extend_from_slice(b"null"),
        Value::String(text) | Value::Email(text) | Value::Dns(text) | Value::Uri(text) => string(out, text),
        Value::Int(number) => go::int(out, number),
        Value::Double(number) if number.is_finite() => go::float(out, number),
        Value::Double(number) => in_quotes(out, |out| go::float(out, number)),
        Value::Bool(truth) => append(out, if truth { b"true" } else { b"false" }),
        Value::Ip(bytes) => in_quotes(out, |out| address(out, bytes)),
        Value::Time(moment) => in_quotes(out, |out| go::timestamp(out, moment)),
        Value::Duration(span) => in_quotes(out, |out| go::duration(out, span)),
        Value::StringMap(pairs) => {
            let pairs = record.pairs(pairs).iter().map(|pair| (pair.0, Value::String(pair.1)));
            map(out, record, pairs);
        }
        Value::Map(entries) => {
            map(out, record, record.entries(entries).map(|entry| (entry.key, entry.value)));
        }
    }
}

fn map<'a>(out: &mut Vec<u8>, record: &Record, entries: impl Iterator<Item = (&'a [u8], Value<'a>)>) {
    out.push(b'{');
    for (at, (key, held)) in entries.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        string(out, key);
        out.push(b':');
        value(out, record, held);
    }
    out.push(b'}');
}

/// Quotes the output of a writer of UTF-8. Go's text for a time out of range contains
/// newlines, which need escaping.
fn in_quotes(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(b'"');
    write(out);
    if out[start..].contains(&b'\n') {
        let text = out.split_off(start + 1);
        out.pop();
        return string(out, &text);
    }
    out.push(b'"');
}

/// A quoted string: UTF-8 as is, control characters escaped, invalid bytes replaced
/// by U+FFFD.
pub fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    within_string(out, text);
    out.push(b'"');
}

/// The content of a string, without its quotes.
pub fn within_string(out: &mut Vec<u8>, text: &[u8]) {
    let rest = append_unescaped(out, text);
    if !rest.is_empty() {
        escaped(out, rest);
    }
}

/// The same from the first byte on that may need an escape.
#[inline(never)]
fn escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        if !byte.is_ascii() {
            return beyond_ascii(out, rest);
        }
        escape(out, *byte);
        rest = match after {
            // They may fill a text.
            [0..0x20, ..] => after,
            // Inlined `append_unescaped`: a line of Envoy has a quote every few words.
            _ => append_plain(out, after, |word| others(word, b' ', *b"\"\\")),
        };
    }
}

/// The same from the first byte on that is not ASCII.
#[inline(never)]
fn beyond_ascii(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        let mut rest = append_unescaped(out, chunk.valid().as_bytes());
        while let Some((byte, after)) = rest.split_first() {
            escape(out, *byte);
            rest = append_unescaped(out, after);
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// A quoted string, or `null` for an empty one.
pub fn string_or_null(out: &mut Vec<u8>, text: &[u8]) {
    match text {
        b"" => out.extend_from_slice(b"null"),
        text => string(out, text),
    }
}

/// Bytes as a base64 string (RFC 4648, padded).
pub fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.push(b'"');
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            out.push(if at <= chunk.len() { DIGITS[bits >> (18 - 6 * at) & 63] } else { b'=' });
        }
    }
    out.push(b'"');
}

/// Bytes as a hexadecimal string.
pub fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    bytes.iter().for_each(|byte| out.extend_from_slice(&hex_digits(*byte)));
    out.push(b'"');
}

/// A number: integers up to 2^53 without a point or an exponent; NaN and infinities
/// in quotes.
pub fn number(out: &mut Vec<u8>, number: f64) {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number {
        number if !number.is_finite() => in_quotes(out, |out| go::float(out, number)),
        number if number.fract() == 0.0 && number.abs() <= EXACT && number != 0.0 => {
            go::int(out, number as i64)
        }
        number => go::float(out, number),
    }
}

/// One byte of a string that is not plain.
fn escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0..0x20 => {
            let [high, low] = hex_digits(byte);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        }
        _ => out.push(byte),
    }
}

/// The most bytes that escaping adds to a chunk of a JSON string.
pub fn growth(chunk: &std::str::Utf8Chunk) -> usize {
    let escaped = chunk.valid().bytes().map(|byte| match byte {
        b'"' | b'\\' => 1,
        0..0x20 => 5,
        _ => 0,
    });
    escaped.sum::<usize>() + 2 * usize::from(!chunk.invalid().is_empty())
}

/// An address in its usual notation; an IPv4-mapped one as IPv4; bytes of another
/// length in hexadecimal.
pub fn address(out: &mut Vec<u8>, bytes: &[u8]) {
    if let Ok(octets) = bytes.try_into() {
        return four(out, octets);
    }
    let Ok(octets) = <[u8; 16]>::try_from(bytes) else {
        out.extend_from_slice(b"0x");
        return bytes.iter().for_each(|byte| out.extend_from_slice(&hex_digits(*byte)));
    };
    let six = Ipv6Addr::from(octets);
    match six.to_ipv4_mapped() {
        Some(mapped) => four(out, mapped.octets()),
        None => drop(write!(out, "{six}")),
    }
}

/// An IPv4 address.
fn four(out: &mut Vec<u8>, octets: [u8; 4]) {
    for (at, octet) in octets.into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        go::int(out, octet.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Instant;
    use crate::template::{Column, Kind};

    fn shown(held: Value) -> String {
        let mut out = Vec::new();
        value(&mut out, &Record::default(), held);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_keep_their_types() {
        let moment = Some(Instant { seconds: 1_538_912_940, nanos: 0 });
        let out_of_range = Some(Instant { seconds: i64::MIN, nanos: 0 });
        for (held, expected) in [
            (Value::Absent, "null"),
            (Value::String(b""), "\"\""),
            (Value::Int(i64::MIN), "-9223372036854775808"),
            (Value::Double(1e6), "1e+06"),
            (Value::Double(-0.0), "-0"),
            (Value::Double(f64::NAN), "\"NaN\""),
            (Value::Double(f64::INFINITY), "\"+Inf\""),
            (Value::Double(f64::NEG_INFINITY), "\"-Inf\""),
            (Value::Bool(true), "true"),
            (Value::Ip(&[10, 32, 0, 34]), "\"10.32.0.34\""),
            (Value::Ip(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 4, 1, 2]), "\"10.4.1.2\""),
            (
                Value::Ip(&[32, 1, 13, 184, 0, 0, 0, 0, 0, 8, 8, 0, 32, 12, 65, 122]),
                "\"2001:db8::8:800:200c:417a\"",
            ),
            (Value::Ip(&[255]), "\"0xff\""),
            (Value::Ip(&[]), "\"0x\""),
            (Value::Time(moment), "\"2018-10-07T11:49:00Z\""),
            (Value::Time(None), "null"),
            (Value::Duration(Some(Instant { seconds: 0, nanos: 1_500 })), "\"1.5µs\""),
            (Value::Uri(b"http://h/p"), "\"http://h/p\""),
            (
                Value::Time(out_of_range),
                "\"(timestamp: &types.types.Timestamp{Seconds: -9223372036854775808,\\nNanos: 0,\\n} before 0001-01-01)\"",
            ),
        ] {
            assert_eq!(shown(held), expected);
        }
    }

    #[test]
    fn strings_are_escaped_and_made_utf_8() {
        for (text, expected) in [
            (&b"/a\"b\\c\nd\r\te"[..], r#""/a\"b\\c\nd\r\te""#),
            (b"\0\x1f\x7f", "\"\\u0000\\u001f\u{7f}\""),
            (b"caf\xe9 \xe2\x82", "\"caf\u{fffd} \u{fffd}\""),
            ("zoë 🦀".as_bytes(), "\"zoë 🦀\""),
        ] {
            assert_eq!(shown(Value::String(text)), expected);
        }
    }

    #[test]
    fn a_record_is_one_line() {
        const TEMPLATE: Template = Template {
            call: "HandleTest",
            name: "test",
            columns: &[Column::new(1, Kind::Value, "", "value"), Column::new(2, Kind::Map, "", "dimensions")],
        };
        let mut record = Record::default();
        record.begin(&[Value::Int(7), Value::Absent]);
        record.name = b"i.instance.ns";
        record.push_entry(1, b"b", Value::Bool(false));
        record.push_entry(1, b"a", Value::String(b"x\ny"));
        record.close();
        let mut out = Vec::new();
        instance(&mut out, &TEMPLATE, &record, b",\"shared\":1");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"instance\":\"i.instance.ns\",\"shared\":1,\
             \"value\":7,\"dimensions\":{\"a\":\"x\\ny\",\"b\":false}}\n"
        );
    }
}
