//! The walkthrough's text, byte for byte: a head per request, a block per
//! instance, values as Go's `%v` prints them.

use super::append::append;
use super::grammar::{Grammar, Start, agrees};
use super::{go, json};
use crate::record::{Record, Stretch, Value};
use crate::template::{Kind, Template};

/// The first bytes of a record: the start of its call's name,
const CALL: &[u8] = b"Handle";
/// and the text after that name, up to the file path.
const HEAD: &[u8] = b" invoked with:\n  Adapter config: &Params{FilePath:";
/// The longest remainder of a call's name.
const MAX_CALL: usize = 32;
/// The last line of a record with instances, with the newline before it.
const LAST_LINE: &[u8] = b"\n  }\n";
/// The end of a record without instances.
const NO_INSTANCES: &[u8] = b",}\n  Instances: \n";

/// A record starts with its head and ends with the last line of an instance. Lines in
/// between may be anything: names and values are not escaped.
pub const GRAMMAR: Grammar = Grammar { starts, endings: &[LAST_LINE, NO_INSTANCES] };

fn starts(line: &[u8]) -> Start {
    let start = agrees(line, CALL);
    let Some(rest) = line.strip_prefix(CALL) else {
        return if line.is_empty() { Start::No } else { start };
    };
    let name = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    if name > MAX_CALL { Start::No } else { agrees(&rest[name..], HEAD) }
}

/// The text before the instances of a request. `file_path` is the handler's param, as
/// received.
pub fn head(out: &mut Vec<u8>, template: &Template, file_path: &[u8]) {
    put(out, &[template.call.as_bytes(), HEAD, file_path]);
    out.extend_from_slice(b",}\n  Instances: ");
}

/// One instance, without a separator.
pub fn instance(out: &mut Vec<u8>, template: &Template, record: &Record) {
    out.push(b'\'');
    append(out, record.name);
    out.extend_from_slice(b"':\n  {\n");
    for (column, shown) in template.columns.iter().zip(&record.values) {
        if !column.label.is_empty() {
            out.extend_from_slice(b"\t\t");
            append(out, column.label.as_bytes());
            out.extend_from_slice(b" = ");
            match column.kind {
                Kind::Value => value(out, record, *shown),
                _ => plain(out, record, *shown),
            }
            out.push(b'\n');
        }
    }
    out.extend_from_slice(b"  }");
}

/// The text after the last instance of a request.
pub fn tail(out: &mut Vec<u8>) {
    out.push(b'\n');
}

/// A value in its usual notation.
pub fn plain(out: &mut Vec<u8>, record: &Record, shown: Value) {
    match shown {
        Value::Bool(truth) => append(out, if truth { b"true" } else { b"false" }),
        Value::Ip(bytes) => json::address(out, bytes),
        Value::Time(moment) => go::timestamp(out, moment),
        Value::Duration(span) => go::duration(out, span),
        Value::Email(text) | Value::Dns(text) | Value::Uri(text) => append(out, text),
        other => value(out, record, other),
    }
}

/// A value as Go's `%v` prints it.
fn value(out: &mut Vec<u8>, record: &Record, shown: Value) {
    match shown {
        Value::Absent => out.extend_from_slice(b"<nil>"),
        Value::String(text) => append(out, text),
        Value::Int(number) => go::int(out, number),
        Value::Double(number) => go::float(out, number),
        Value::Bool(true) => out.extend_from_slice(b"&Value_BoolValue{BoolValue:true,}"),
        Value::Bool(false) => out.extend_from_slice(b"&Value_BoolValue{BoolValue:false,}"),
        Value::Ip(bytes) => {
            out.extend_from_slice(b"&Value_IpAddressValue{IpAddressValue:&IPAddress{Value:[");
            octets(out, bytes);
            out.extend_from_slice(b"],},}");
        }
        Value::Time(moment) => {
            out.extend_from_slice(b"&Value_TimestampValue{TimestampValue:&TimeStamp{Value:");
            go::timestamp(out, moment);
            out.extend_from_slice(b",},}");
        }
        Value::Duration(span) => {
            out.extend_from_slice(b"&Value_DurationValue{DurationValue:&Duration{Value:");
            go::duration(out, span);
            out.extend_from_slice(b",},}");
        }
        Value::Email(text) => {
            put(out, &[b"&Value_EmailAddressValue{EmailAddressValue:&EmailAddress{Value:", text, b",},}"]);
        }
        Value::Dns(text) => put(out, &[b"&Value_DnsNameValue{DnsNameValue:&DNSName{Value:", text, b",},}"]),
        Value::Uri(text) => put(out, &[b"&Value_UriValue{UriValue:&Uri{Value:", text, b",},}"]),
        Value::StringMap(pairs) => string_map(out, record, pairs),
        Value::Map(entries) => map(out, record, entries),
    }
}

/// `map[key:value key:value]`.
fn map(out: &mut Vec<u8>, record: &Record, entries: Stretch) {
    out.extend_from_slice(b"map[");
    for (at, entry) in record.entries(entries).enumerate() {
        if at > 0 {
            out.push(b' ');
        }
        append(out, entry.key);
        out.push(b':');
        value(out, record, entry.value);
    }
    out.push(b']');
}

fn string_map(out: &mut Vec<u8>, record: &Record, pairs: Stretch) {
    out.extend_from_slice(b"&Value_StringMapValue{StringMapValue:&StringMap{Value:map[string]string{");
    for (key, text) in record.pairs(pairs) {
        put(out, &[key, b": ", text, b","]);
    }
    out.extend_from_slice(b"},},}");
}

/// `10 32 0 34`.
fn octets(out: &mut Vec<u8>, bytes: &[u8]) {
    for (at, byte) in bytes.iter().enumerate() {
        if at > 0 {
            out.push(b' ');
        }
        go::int(out, i64::from(*byte));
    }
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        append(out, part);
    }
}
