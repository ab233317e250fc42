//! Istio's TEXT format, identical to Envoy's output except for escapes, so that no
//! value can end its field or its line: quotes, backslashes and control characters are
//! escaped, and spaces in unquoted fields.

use super::entry::Entry;
use super::operator::{self, Operator, Said};
use crate::render::append::Literal;
use crate::render::escape::{BARE, QUOTED, Table, UNDERSCORED, escaped};
use crate::render::grammar::{Grammar, Start, agrees_by};

/// The text before each operator, the operator, and whether it is quoted.
static LINE: [(Literal<4>, Operator, bool); 24] = [
    (Literal::new("["), Operator::StartTime, false),
    (Literal::new("] \""), Operator::Method, true),
    (Literal::new(" "), Operator::Path, true),
    (Literal::new(" "), Operator::Protocol, true),
    (Literal::new("\" "), Operator::ResponseCode, false),
    (Literal::new(" "), Operator::ResponseFlags, false),
    (Literal::new(" "), Operator::ResponseCodeDetails, false),
    (Literal::new(" "), Operator::ConnectionTerminationDetails, false),
    (Literal::new(" \""), Operator::UpstreamTransportFailureReason, true),
    (Literal::new("\" "), Operator::BytesReceived, false),
    (Literal::new(" "), Operator::BytesSent, false),
    (Literal::new(" "), Operator::Duration, false),
    (Literal::new(" "), Operator::UpstreamServiceTime, false),
    (Literal::new(" \""), Operator::XForwardedFor, true),
    (Literal::new("\" \""), Operator::UserAgent, true),
    (Literal::new("\" \""), Operator::RequestId, true),
    (Literal::new("\" \""), Operator::Authority, true),
    (Literal::new("\" \""), Operator::UpstreamHost, true),
    (Literal::new("\" "), Operator::UpstreamCluster, false),
    (Literal::new(" "), Operator::UpstreamLocalAddress, false),
    (Literal::new(" "), Operator::DownstreamLocalAddress, false),
    (Literal::new(" "), Operator::DownstreamRemoteAddress, false),
    (Literal::new(" "), Operator::RequestedServerName, false),
    (Literal::new(" "), Operator::RouteName, false),
];

/// The start of a line, with and without a time; `0` stands for a digit.
const HEADS: [&[u8]; 2] = [b"[0000-00-00T00:00:00.000Z] \"", b"[-] \""];

/// A record starts with its time, and ends at the newline.
pub const GRAMMAR: Grammar = Grammar { starts, endings: &[b"\n"] };

fn starts(line: &[u8]) -> Start {
    let is_same = |byte: u8, wanted: u8| byte == wanted || wanted == b'0' && byte.is_ascii_digit();
    let [timed, timeless] = HEADS.map(|head| agrees_by(line, head, is_same));
    match (timed, timeless) {
        _ if line.is_empty() => Start::No,
        (Start::No, other) | (other, Start::No) => other,
        _ => Start::Partial,
    }
}

/// Appends one entry.
pub(super) fn line(out: &mut Vec<u8>, entry: &Entry) {
    for (before, operator, is_quoted) in &LINE {
        before.append(out);
        let start = out.len();
        show(out, operator.of(entry), if *is_quoted { &QUOTED } else { &BARE });
        if out.len() == start {
            out.push(b'-');
        }
    }
    out.push(b'\n');
}

/// Appends an operator's value, if any.
#[inline(always)]
fn show(out: &mut Vec<u8>, said: Said, table: &Table) {
    match said {
        Said::Text(text) => escaped(out, text, table),
        Said::Reason(text) => escaped(out, text, &UNDERSCORED),
        Said::Word(word) => out.extend_from_slice(word.as_bytes()),
        Said::Number(number) => operator::number(out, number),
        Said::Milliseconds(Some(span)) => operator::milliseconds(out, span),
        Said::Time(Some(time)) => operator::time(out, time),
        Said::Milliseconds(None) | Said::Time(None) => {}
        Said::Address(address) => address.show(out, |out, part| escaped(out, part, table)),
        Said::Flags(flags) => flags.show(out),
    }
}
