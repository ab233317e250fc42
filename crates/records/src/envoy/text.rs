//! Istio's TEXT format, identical to Envoy's output except for escapes, so that no
//! value can end its field or its line: quotes, backslashes and control characters are
//! escaped, and spaces in unquoted fields.

use super::entry::Entry;
use super::operator::Operator::*;
use super::operator::{self, Said};
use crate::render::append::append;
use crate::render::escape::{bare, quoted, underscored};
use crate::render::grammar::{Grammar, Start, agrees_by};

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
    field(out, b"[", StartTime.of(entry), bare);
    field(out, b"] \"", Method.of(entry), quoted);
    field(out, b" ", Path.of(entry), quoted);
    field(out, b" ", Protocol.of(entry), quoted);
    field(out, b"\" ", ResponseCode.of(entry), bare);
    field(out, b" ", ResponseFlags.of(entry), bare);
    field(out, b" ", ResponseCodeDetails.of(entry), bare);
    field(out, b" ", ConnectionTerminationDetails.of(entry), bare);
    field(out, b" \"", UpstreamTransportFailureReason.of(entry), quoted);
    field(out, b"\" ", BytesReceived.of(entry), bare);
    field(out, b" ", BytesSent.of(entry), bare);
    field(out, b" ", Duration.of(entry), bare);
    field(out, b" ", UpstreamServiceTime.of(entry), bare);
    field(out, b" \"", XForwardedFor.of(entry), quoted);
    field(out, b"\" \"", UserAgent.of(entry), quoted);
    field(out, b"\" \"", RequestId.of(entry), quoted);
    field(out, b"\" \"", Authority.of(entry), quoted);
    field(out, b"\" \"", UpstreamHost.of(entry), quoted);
    field(out, b"\" ", UpstreamCluster.of(entry), bare);
    field(out, b" ", UpstreamLocalAddress.of(entry), bare);
    field(out, b" ", DownstreamLocalAddress.of(entry), bare);
    field(out, b" ", DownstreamRemoteAddress.of(entry), bare);
    field(out, b" ", RequestedServerName.of(entry), bare);
    field(out, b" ", RouteName.of(entry), bare);
    out.push(b'\n');
}

/// Appends the text before an operator, and its value. `escaped` appends the sender's
/// texts. Inlined, so that the code for other kinds of values vanishes.
#[inline(always)]
fn field<const N: usize>(
    out: &mut Vec<u8>,
    before: &[u8; N],
    said: Said,
    escaped: impl Fn(&mut Vec<u8>, &[u8]),
) {
    out.extend_from_slice(before);
    let start = out.len();
    match said {
        Said::Text(b"") | Said::Reason(b"") | Said::Milliseconds(None) | Said::Time(None) => {}
        Said::Text(text) => escaped(out, text),
        Said::Reason(text) => underscored(out, text),
        Said::Word(word) => append(out, word.as_bytes()),
        Said::Number(number) => operator::number(out, number),
        Said::Milliseconds(Some(span)) => operator::milliseconds(out, span),
        Said::Time(Some(time)) => operator::time(out, time),
        Said::Address(address) => address.show(out, escaped),
        Said::Flags(flags) => flags.show(out),
    }
    if out.len() == start {
        out.push(b'-');
    }
}
