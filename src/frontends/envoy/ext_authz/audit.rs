//! Checks to audit records: one line of text, or one of JSON. Never a token.

use records::render::{Format, go, json};

use super::question::{Kind, Question};
use crate::policy::Verdict;

/// A value that is longer is cut here and ends in `...`.
const MAX_VALUE: usize = 4096;
/// The most bytes that one record takes, in either format.
pub const MAX_RECORD: usize = VALUES * (6 * MAX_VALUE + 32) + 256;
/// How many values of a question a record shows.
const VALUES: usize = 6;

/// Appends a record of a check that was answered now.
///
/// ```text
/// 2026-11-25T19:00:16.572947Z ext_authz verdict=deny reason=wrong_token kind=http method="GET" host="a.example" path="/b" source_principal="spiffe://d/ns/n/sa/c" destination_principal=- request_id="47c68f1c"
/// ```
///
/// ```json
/// {"received_at":"2026-11-25T19:00:16.572947Z","service":"ext_authz","verdict":"deny","reason":"wrong_token","kind":"http","method":"GET","host":"a.example","path":"/b","source_principal":"spiffe://d/ns/n/sa/c","destination_principal":null,"request_id":"47c68f1c"}
/// ```
pub fn render(out: &mut Vec<u8>, format: Format, question: &Question, verdict: Verdict) {
    match format {
        Format::Text => text(out, question, verdict),
        Format::Json => object(out, question, verdict),
    }
}

fn text(out: &mut Vec<u8>, question: &Question, verdict: Verdict) {
    go::now(out);
    out.extend_from_slice(b" ext_authz");
    for (name, value) in words(question, verdict) {
        put(out, &[" ", name, "=", value]);
    }
    for (name, value) in values(question) {
        put(out, &[" ", name, "="]);
        match cut(value) {
            ([], _) => out.push(b'-'),
            (shown, mark) => {
                out.push(b'"');
                out.extend(shown.escape_ascii());
                put(out, &[mark, "\""]);
            }
        }
    }
    out.push(b'\n');
}

fn object(out: &mut Vec<u8>, question: &Question, verdict: Verdict) {
    put(out, &["{\"received_at\":\""]);
    go::now(out);
    put(out, &["\",\"service\":\"ext_authz\""]);
    for (name, value) in words(question, verdict) {
        put(out, &[",\"", name, "\":\"", value, "\""]);
    }
    for (name, value) in values(question) {
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

/// What is ours to say.
fn words(question: &Question, verdict: Verdict) -> [(&'static str, &'static str); 3] {
    let kind = match question.kind {
        Kind::Http => "http",
        Kind::Tcp => "tcp",
    };
    [("verdict", verdict.outcome().label()), ("reason", verdict.reason()), ("kind", kind)]
}

/// What came with the question.
fn values<'a>(question: &Question<'a>) -> [(&'static str, &'a [u8]); VALUES] {
    [
        ("method", question.method),
        ("host", question.host),
        ("path", question.path),
        ("source_principal", question.source_principal),
        ("destination_principal", question.destination_principal),
        ("request_id", question.request_id),
    ]
}

/// What is shown of a value, and what follows it.
fn cut(value: &[u8]) -> (&[u8], &'static str) {
    match value.get(..MAX_VALUE) {
        Some(shown) if shown.len() < value.len() => (shown, "..."),
        _ => (value, ""),
    }
}

fn put(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Token;

    /// A record without its time.
    fn shown(format: Format, question: &Question, verdict: Verdict) -> String {
        let mut out = Vec::new();
        render(&mut out, format, question, verdict);
        assert!(out.len() <= MAX_RECORD, "{} bytes", out.len());
        let text = String::from_utf8(out).unwrap();
        let line = text.strip_suffix('\n').unwrap();
        assert!(!line.contains(char::is_control), "{line}");
        let start = if format == Format::Json { "{\"received_at\":\"".len() } else { 0 };
        assert!(line[start..].starts_with("20"), "{line}");
        line[start + "2026-11-25T19:00:16.572947Z".len()..].into()
    }

    #[test]
    fn a_record_is_one_line_in_either_format() {
        let question = Question {
            kind: Kind::Http,
            token: Token::Given(b"s3cr3t"),
            method: b"GET",
            host: b"a.example",
            path: b"/b\n\x1b[1m\"\\\xff",
            source_principal: b"spiffe://d/a",
            destination_principal: b"",
            request_id: b"47c6 8f1c",
        };
        assert_eq!(
            shown(Format::Text, &question, Verdict::WrongToken),
            r#" ext_authz verdict=deny reason=wrong_token kind=http method="GET" host="a.example" path="/b\n\x1b[1m\"\\\xff" source_principal="spiffe://d/a" destination_principal=- request_id="47c6 8f1c""#
        );
        assert_eq!(
            shown(Format::Json, &question, Verdict::WrongToken),
            concat!(
                r#"","service":"ext_authz","verdict":"deny","reason":"wrong_token","kind":"http","method":"GET","host":"a.example","#,
                "\"path\":\"/b\\n\\u001b[1m\\\"\\\\\u{fffd}\",",
                r#""source_principal":"spiffe://d/a","destination_principal":null,"request_id":"47c6 8f1c"}"#
            )
        );
    }

    #[test]
    fn long_values_are_cut_and_the_record_keeps_within_its_bound() {
        for (byte, text, json) in [(b'Z', "Z", "Z"), (0, "\\x00", "\\u0000"), (0xff, "\\xff", "\u{fffd}")] {
            let value = vec![byte; MAX_VALUE + 1];
            let all = Question {
                method: &value,
                host: &value,
                path: &value,
                source_principal: &value,
                destination_principal: &value,
                request_id: &value,
                ..Question::default()
            };
            for (format, one) in [(Format::Text, text), (Format::Json, json)] {
                let line = shown(format, &all, Verdict::NoKeys);
                assert_eq!(line.matches(one).count() / VALUES, MAX_VALUE, "{format:?} {one}");
                assert_eq!(line.matches("...\"").count(), VALUES);
            }
            let whole = Question { path: &value[1..], ..Question::default() };
            assert!(!shown(Format::Text, &whole, Verdict::NoKeys).contains("..."));
        }
    }
}
