//! One JSON object per entry: Istio's members in Istio's order, then the adapter's.

use super::address::Address;
use super::any;
use super::entry::{Entry, Map};
use super::identifier::Identifier;
use super::operator::Operator::*;
use super::operator::{self, Said};
use crate::protobuf::object::{self, Show};
use crate::render::append::{Literal, append};
use crate::render::grammar::{Grammar, line_agrees};
use crate::render::{go, json};

/// A record starts with its first key, and ends at the newline.
pub const GRAMMAR: Grammar =
    Grammar { starts: |line| line_agrees(line, b"{\"authority\":"), endings: &[b"\n"] };

/// The maps to render whole, each as an object.
const MAPS: [(&str, Map, Option<Show>); 6] = [
    (",\"request_headers\":", Map::RequestHeaders, None),
    (",\"response_headers\":", Map::ResponseHeaders, None),
    (",\"response_trailers\":", Map::ResponseTrailers, None),
    (",\"tags\":", Map::Tags, None),
    (",\"metadata\":", Map::Metadata, Some(any::fields)),
    (",\"filter_state\":", Map::FilterState, Some(any::any)),
];

/// Information about the client and the server from filters: the key in the filter
/// state, and the member's name. Excluded from the member `filter_state`.
const PEERS: [(&[u8], &str); 2] =
    [(b"downstream_peer", ",\"source\":"), (b"upstream_peer", ",\"destination\":")];

/// All of these members, for an entry without maps.
const NO_MAPS: &[u8] =
    b",\"source\":null,\"destination\":null,\"request_headers\":{},\"response_headers\":{},\
    \"response_trailers\":{},\"tags\":{},\"metadata\":{},\"filter_state\":{}";

/// Names of AccessLogTypes, by number.
const ACCESS_LOG_TYPES: [&str; 15] = [
    "NotSet",
    "TcpUpstreamConnected",
    "TcpPeriodic",
    "TcpConnectionEnd",
    "DownstreamStart",
    "DownstreamPeriodic",
    "DownstreamEnd",
    "UpstreamPoolReady",
    "UpstreamPeriodic",
    "UpstreamEnd",
    "DownstreamTunnelSuccessfullyEstablished",
    "UdpTunnelUpstreamConnected",
    "UdpPeriodic",
    "UdpSessionEnd",
    "TcpConnectionStart",
];

/// Appends one entry.
pub(super) fn line<'a>(out: &mut Vec<u8>, entry: &mut Entry<'a>, identifier: &Identifier) {
    member(out, const { &Literal::new("{\"authority\":") }, Authority.of(entry));
    member(out, const { &Literal::new(",\"bytes_received\":") }, BytesReceived.of(entry));
    member(out, const { &Literal::new(",\"bytes_sent\":") }, BytesSent.of(entry));
    member(
        out,
        const { &Literal::new(",\"connection_termination_details\":") },
        ConnectionTerminationDetails.of(entry),
    );
    member(out, const { &Literal::new(",\"downstream_local_address\":") }, DownstreamLocalAddress.of(entry));
    member(
        out,
        const { &Literal::new(",\"downstream_remote_address\":") },
        DownstreamRemoteAddress.of(entry),
    );
    member(out, const { &Literal::new(",\"duration\":") }, Duration.of(entry));
    member(out, const { &Literal::new(",\"method\":") }, Method.of(entry));
    member(out, const { &Literal::new(",\"path\":") }, Path.of(entry));
    member(out, const { &Literal::new(",\"protocol\":") }, Protocol.of(entry));
    member(out, const { &Literal::new(",\"request_id\":") }, RequestId.of(entry));
    member(out, const { &Literal::new(",\"requested_server_name\":") }, RequestedServerName.of(entry));
    member(out, const { &Literal::new(",\"response_code\":") }, ResponseCode.of(entry));
    member(out, const { &Literal::new(",\"response_code_details\":") }, ResponseCodeDetails.of(entry));
    member(out, const { &Literal::new(",\"response_flags\":") }, ResponseFlags.of(entry));
    member(out, const { &Literal::new(",\"route_name\":") }, RouteName.of(entry));
    member(out, const { &Literal::new(",\"start_time\":") }, StartTime.of(entry));
    member(out, const { &Literal::new(",\"upstream_cluster\":") }, UpstreamCluster.of(entry));
    member(out, const { &Literal::new(",\"upstream_host\":") }, UpstreamHost.of(entry));
    member(out, const { &Literal::new(",\"upstream_local_address\":") }, UpstreamLocalAddress.of(entry));
    member(out, const { &Literal::new(",\"upstream_service_time\":") }, UpstreamServiceTime.of(entry));
    member(
        out,
        const { &Literal::new(",\"upstream_transport_failure_reason\":") },
        UpstreamTransportFailureReason.of(entry),
    );
    member(out, const { &Literal::new(",\"user_agent\":") }, UserAgent.of(entry));
    member(out, const { &Literal::new(",\"x_forwarded_for\":") }, XForwardedFor.of(entry));
    append(out, identifier.members());
    out.extend_from_slice(b",\"access_log_type\":");
    access_log_type(out, entry.fields.access_log_type);
    match entry.has_pairs() {
        true => maps(out, entry),
        false => append(out, NO_MAPS),
    }
    out.extend_from_slice(b",\"stream_id\":");
    json::string_or_null(out, entry.fields.stream_id);
    out.extend_from_slice(b",\"trace_id\":");
    json::string_or_null(out, trace_id(entry));
    out.extend_from_slice(b"}\n");
}

fn maps(out: &mut Vec<u8>, entry: &mut Entry) {
    for (key, before) in PEERS {
        append(out, before.as_bytes());
        let peer = entry.lookup(Map::FilterState, key).unwrap_or_default();
        object::value(out, &mut entry.nested, peer, 0, any::any);
    }
    for (before, map, show) in &MAPS {
        append(out, before.as_bytes());
        members(out, entry, *map, *show);
    }
}

/// Appends the text before an operator, and its value.
#[inline(never)]
fn member(out: &mut Vec<u8>, before: &Literal<40>, said: Said) {
    before.append(out);
    match said {
        Said::Text(text) => json::string_or_null(out, text),
        Said::Reason(text) => reason(out, text),
        Said::Word("") | Said::Milliseconds(None) | Said::Time(None) => out.extend_from_slice(b"null"),
        Said::Word(word) => quoted(out, |out| append(out, word.as_bytes())),
        Said::Number(number) => operator::number(out, number),
        Said::Milliseconds(Some(span)) => operator::milliseconds(out, span),
        Said::Time(Some(time)) => quoted(out, |out| operator::time(out, time)),
        Said::Address(address) => self::address(out, address),
        Said::Flags(flags) => quoted(out, |out| flags.show(out)),
    }
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

/// Appends a reason with underscores for spaces, which changes neither its length nor
/// its escapes.
fn reason(out: &mut Vec<u8>, text: &[u8]) {
    let start = out.len();
    json::string_or_null(out, text);
    for byte in &mut out[start..] {
        if *byte == b' ' {
            *byte = b'_';
        }
    }
}

/// Appends an address as a string; the sender's parts are escaped.
fn address(out: &mut Vec<u8>, address: &Address) {
    if address.is_absent() {
        return out.extend_from_slice(b"null");
    }
    quoted(out, |out| address.show(out, json::within_string));
}

/// Appends the name, or the number of an unknown type.
fn access_log_type(out: &mut Vec<u8>, number: i32) {
    match operator::named(&ACCESS_LOG_TYPES, number) {
        "" => go::int(out, number.into()),
        name => quoted(out, |out| append(out, name.as_bytes())),
    }
}

/// Appends the pairs of a map as an object: strings, or the output of `show`.
fn members<'a>(out: &mut Vec<u8>, entry: &mut Entry<'a>, map: Map, show: Option<Show>) {
    let mut nested = std::mem::take(&mut entry.nested);
    let is_peer = |key: &[u8]| map == Map::FilterState && PEERS.iter().any(|peer| peer.0 == key);
    out.push(b'{');
    let start = out.len();
    for (key, value) in entry.pairs(map).iter().filter(|pair| !is_peer(pair.0)) {
        if out.len() > start {
            out.push(b',');
        }
        json::string(out, key);
        out.push(b':');
        match show {
            Some(show) => object::value(out, &mut nested, value, 0, show),
            None => json::string(out, value),
        }
    }
    out.push(b'}');
    entry.nested = nested;
}

/// The trace id from the logged header `traceparent` (W3C) or `x-b3-traceid`. Entries
/// have no field for it.
fn trace_id<'a>(entry: &Entry<'a>) -> &'a [u8] {
    let header = |name: &[u8]| entry.lookup(Map::RequestHeaders, name);
    let of_parent = |parent: &'a [u8]| parent.split(|byte| *byte == b'-').nth(1).filter(|id| id.len() == 32);
    header(b"traceparent").and_then(of_parent).or_else(|| header(b"x-b3-traceid")).unwrap_or_default()
}
