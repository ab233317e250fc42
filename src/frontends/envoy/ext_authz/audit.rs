//! Audit records of checks, never with a token.

use std::convert::Infallible;
use std::sync::Arc;

pub use records::audit::MAX_RECORD;
use records::audit::{Check, VALUES};

use super::authorizer::Checked;
use super::question::{Kind, Question};
use crate::frontends::counters::Counters;
use crate::frontends::verdicts::Asker;
use crate::journal::{Destination, Journal};
use crate::policy::Verdict;
use crate::render::Format;

/// The destination of records.
#[derive(Debug)]
pub struct Audit {
    /// The journal that writes them.
    pub journal: Arc<Journal>,
    /// The file, and the format.
    pub to: Destination,
}

impl Audit {
    /// Appends a record without waiting. Counts an error if there is no room, or if the
    /// write fails later.
    pub fn record(&self, checked: &Checked, counters: &Counters) {
        let errors = &counters.audit_errors;
        let is_taken = self.journal.append_unacknowledged(&self.to, Arc::clone(errors), |out| {
            render(out, self.to.format(), &checked.question, checked.verdict);
            Ok::<_, Infallible>(())
        });
        if !is_taken {
            counters.lost_audit(Asker::Envoy);
        }
    }
}

/// Appends one line: the record of a check answered now.
pub fn render(out: &mut Vec<u8>, format: Format, question: &Question, verdict: Verdict) {
    Check { words: words(question, verdict), values: values(question) }.render(out, format);
}

/// The members with constant values.
fn words(question: &Question, verdict: Verdict) -> [(&'static str, &'static str); 3] {
    let kind = match question.kind {
        Kind::Http => "http",
        Kind::Tcp => "tcp",
    };
    [("verdict", verdict.outcome().label()), ("reason", verdict.reason()), ("kind", kind)]
}

/// The values of the request.
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

#[cfg(test)]
mod tests {
    use records::audit::MAX_VALUE;

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
        let head = if format == Format::Json { "{\"service\":\"ext_authz\",\"received_at\":\"" } else { "" };
        let start = head.len();
        assert!(line.starts_with(head) && line[start..].starts_with("20"), "{line}");
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
                r#"","verdict":"deny","reason":"wrong_token","kind":"http","method":"GET","host":"a.example","#,
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
