//! The record of an authorization check: one line, in text or JSON.

use crate::render::append::{append, append_plain, others};
use crate::render::grammar::{Grammar, Start, agrees};
use crate::render::{Format, go, json};

/// Longer values are truncated to this length, followed by `...`.
pub const MAX_VALUE: usize = 4096;
/// Upper bound of a record's length in bytes, in either format.
pub const MAX_RECORD: usize = VALUES * (6 * MAX_VALUE + 32) + 256;
/// The number of values in a record.
pub const VALUES: usize = 6;

/// The start of a line of text, with `0` for each digit.
const TEXT: &[u8] = b"0000-00-00T00:00:00.000000Z ext_authz verdict=";
/// The start of a line of JSON.
const JSON: &[u8] = b"{\"service\":\"ext_authz\",";

/// A record starts with the time and the service's name, and ends at the newline.
pub const TEXT_GRAMMAR: Grammar = Grammar { starts: starts_text, endings: &[b"\n"] };
/// A record starts with the service's name, and ends at the newline.
pub const JSON_GRAMMAR: Grammar = Grammar { starts: starts_json, endings: &[b"\n"] };

fn starts_text(line: &[u8]) -> Start {
    let mut shape = [0; TEXT.len()];
    let length = line.len().min(TEXT.len());
    for (shown, byte) in shape.iter_mut().zip(line) {
        *shown = if byte.is_ascii_digit() { b'0' } else { *byte };
    }
    if line.is_empty() { Start::No } else { agrees(&shape[..length], TEXT) }
}

fn starts_json(line: &[u8]) -> Start {
    if line.is_empty() { Start::No } else { agrees(line, JSON) }
}

/// The content of a record.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    /// `verdict`, `reason` and `kind`: names and constant values, which need no escape.
    pub words: [(&'static str, &'static str); 3],
    /// Attributes of the check: names and unchecked bytes, empty if absent.
    pub values: [(&'static str, &'a [u8]); VALUES],
}

impl Check<'_> {
    /// Appends the record of a check answered now.
    ///
    /// ```text
    /// 2026-11-25T19:00:16.572947Z ext_authz verdict=deny reason=wrong_token kind=http method="GET" host="a.example" path="/b" source_principal="spiffe://d/ns/n/sa/c" destination_principal=- request_id="47c68f1c"
    /// ```
    ///
    /// ```json
    /// {"service":"ext_authz","received_at":"2026-11-25T19:00:16.572947Z","verdict":"deny","reason":"wrong_token","kind":"http","method":"GET","host":"a.example","path":"/b","source_principal":"spiffe://d/ns/n/sa/c","destination_principal":null,"request_id":"47c68f1c"}
    /// ```
    pub fn render(&self, out: &mut Vec<u8>, format: Format) {
        match format {
            Format::Text => self.text(out),
            Format::Json => self.object(out),
        }
    }

    fn text(&self, out: &mut Vec<u8>) {
        go::now(out);
        put(out, &[" ext_authz"]);
        for (name, word) in self.words {
            put(out, &[" ", name, "=", word]);
        }
        for (name, value) in self.values {
            put(out, &[" ", name, "="]);
            match cut(value) {
                ([], _) => out.push(b'-'),
                (shown, mark) => {
                    out.push(b'"');
                    let rest = append_plain(out, shown, |word| others(word, b' ', *b"\"\\'"));
                    out.extend(rest.escape_ascii());
                    put(out, &[mark, "\""]);
                }
            }
        }
        out.push(b'\n');
    }

    fn object(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(JSON);
        put(out, &["\"received_at\":\""]);
        go::now(out);
        out.push(b'"');
        for (name, word) in self.words {
            put(out, &[",\"", name, "\":\"", word, "\""]);
        }
        for (name, value) in self.values {
            put(out, &[",\"", name, "\":"]);
            match cut(value) {
                ([], _) => put(out, &["null"]),
                (shown, mark) => {
                    json::string(out, shown);
                    out.pop();
                    put(out, &[mark, "\""]);
                }
            }
        }
        put(out, &["}\n"]);
    }
}

/// The shown part of a value, and the text after it.
fn cut(value: &[u8]) -> (&[u8], &'static str) {
    match value.get(..MAX_VALUE) {
        Some(shown) if shown.len() < value.len() => (shown, "..."),
        _ => (value, ""),
    }
}

/// Not inlined, so that its code exists once.
#[inline(never)]
fn put(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        append(out, part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_starts_as_its_grammar_says_and_nothing_else_does() {
        let check = Check { words: [("verdict", "deny"); 3], values: [("path", b"/"); VALUES] };
        for (format, grammar, length) in
            [(Format::Text, TEXT_GRAMMAR, TEXT.len()), (Format::Json, JSON_GRAMMAR, JSON.len())]
        {
            let mut record = Vec::new();
            check.render(&mut record, format);
            for end in 0..record.len() {
                let expected = match end {
                    0 => Start::No,
                    end if end < length => Start::Partial,
                    _ => Start::Certain,
                };
                assert_eq!((grammar.starts)(&record[..end]), expected, "{format:?} {end}");
                let lost = [&record[..end], b"\0\0"].concat();
                let expected = if end == 0 { Start::Partial } else { expected };
                assert_eq!((grammar.starts)(&lost), expected, "{format:?} {end}");
            }
            assert!(grammar.ends(&record));
        }
        for line in
            [&b"2026-11-25T19:00:16.572947Z something"[..], b"2026-11-25 19", b"x", b"{\"service\":\"other\""]
        {
            assert_eq!((TEXT_GRAMMAR.starts)(line), Start::No, "{}", line.escape_ascii());
            assert_eq!((JSON_GRAMMAR.starts)(line), Start::No, "{}", line.escape_ascii());
        }
    }
}
