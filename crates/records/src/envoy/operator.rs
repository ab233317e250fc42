//! The command operators of Istio's formats: the value of each for an entry. Formatting
//! is up to the renderer.

use super::address::Address;
use super::entry::{Entry, Map};
use super::flags::Flags;
use crate::record::Instant;
use crate::render::append::append;
use crate::render::go;

/// One operator, named as in Istio's JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Authority,
    BytesReceived,
    BytesSent,
    ConnectionTerminationDetails,
    DownstreamLocalAddress,
    DownstreamRemoteAddress,
    Duration,
    Method,
    Path,
    Protocol,
    RequestId,
    RequestedServerName,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    RouteName,
    StartTime,
    UpstreamCluster,
    UpstreamHost,
    UpstreamLocalAddress,
    UpstreamServiceTime,
    UpstreamTransportFailureReason,
    UserAgent,
    XForwardedFor,
}

/// The value of an operator.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said<'e, 'a> {
    /// A text that may contain spaces; may be empty.
    Text(&'a [u8]),
    /// A reason; Envoy replaces its spaces with underscores.
    Reason(&'a [u8]),
    /// A constant word; may be empty.
    Word(&'static str),
    Number(u64),
    /// A duration in whole milliseconds.
    Milliseconds(Option<Instant>),
    /// A time in the years 1 to 9999.
    Time(Option<Instant>),
    Address(&'e Address<'a>),
    Flags(Flags),
}

impl Operator {
    /// The operator's value for an entry.
    #[inline(always)]
    pub(super) fn of<'e, 'a>(self, entry: &'e Entry<'a>) -> Said<'e, 'a> {
        match self {
            Self::Authority => Said::Text(entry.fields.authority),
            Self::BytesReceived => Said::Number(entry.fields.received_bytes),
            Self::BytesSent => Said::Number(entry.fields.sent_bytes),
            Self::ConnectionTerminationDetails => Said::Reason(entry.fields.connection_termination_details),
            Self::DownstreamLocalAddress => Said::Address(&entry.fields.downstream_local_address),
            Self::DownstreamRemoteAddress => Said::Address(&entry.fields.downstream_remote_address),
            Self::Duration => Said::Milliseconds(entry.fields.duration),
            Self::Method => Said::Word(method(entry)),
            Self::Path => Said::Text(path(entry)),
            Self::Protocol => Said::Word(protocol(entry)),
            Self::RequestId => Said::Text(entry.fields.request_id),
            Self::RequestedServerName => Said::Text(entry.fields.sni),
            Self::ResponseCode => Said::Number(entry.fields.response_code.into()),
            Self::ResponseCodeDetails => Said::Reason(entry.fields.response_code_details),
            Self::ResponseFlags => Said::Flags(entry.fields.response_flags),
            Self::RouteName => Said::Text(entry.fields.route_name),
            Self::StartTime => Said::Time(entry.fields.start_time.filter(|time| go::is_time(*time))),
            Self::UpstreamCluster => Said::Text(entry.fields.upstream_cluster),
            Self::UpstreamHost => Said::Address(&entry.fields.upstream_remote_address),
            Self::UpstreamLocalAddress => Said::Address(&entry.fields.upstream_local_address),
            Self::UpstreamServiceTime => Said::Text(upstream_service_time(entry)),
            Self::UpstreamTransportFailureReason => {
                Said::Reason(entry.fields.upstream_transport_failure_reason)
            }
            Self::UserAgent => Said::Text(entry.fields.user_agent),
            Self::XForwardedFor => Said::Text(entry.fields.forwarded_for),
        }
    }
}

/// The path before Envoy's rewrite.
pub(super) fn path<'a>(entry: &Entry<'a>) -> &'a [u8] {
    match entry.fields.original_path {
        b"" => entry.fields.path,
        original => original,
    }
}

/// The method's name, or empty if unknown.
pub(super) fn method(entry: &Entry) -> &'static str {
    const NAMES: [&str; 10] =
        ["", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    named(&NAMES, entry.fields.method)
}

fn protocol(entry: &Entry) -> &'static str {
    named(&["", "HTTP/1.0", "HTTP/1.1", "HTTP/2", "HTTP/3"], entry.fields.protocol)
}

/// A number's name, or empty if unknown.
pub(super) fn named(names: &[&'static str], number: i32) -> &'static str {
    usize::try_from(number).ok().and_then(|number| names.get(number)).copied().unwrap_or_default()
}

/// Present only if the header is configured to be logged.
fn upstream_service_time<'a>(entry: &Entry<'a>) -> &'a [u8] {
    entry.lookup(Map::ResponseHeaders, b"x-envoy-upstream-service-time").unwrap_or_default()
}

/// A decimal number.
pub(super) fn number(out: &mut Vec<u8>, number: u64) {
    append(out, itoa::Buffer::new().format(number).as_bytes());
}

/// A duration in whole milliseconds, truncated.
pub(super) fn milliseconds(out: &mut Vec<u8>, span: Instant) {
    let whole = span.seconds.saturating_mul(1_000);
    go::int(out, whole.saturating_add(i64::from(span.nanos) / 1_000_000));
}

/// A time as `2026-11-25T18:57:55.442Z`, truncated to milliseconds.
pub(super) fn time(out: &mut Vec<u8>, time: Instant) {
    go::second(out, time.seconds);
    let millis = time.nanos as u32 / 1_000_000;
    out.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z']);
}

fn digit(number: u32) -> u8 {
    b'0' + (number % 10) as u8
}
