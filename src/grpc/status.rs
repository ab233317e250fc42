//! What a caller is told instead of an answer: gRPC's status of a refusal, and HTTP's
//! of a request that is not gRPC.

use http::{HeaderMap, HeaderValue, Method as Verb, Response, StatusCode, header};
use tonic::{Code, Status};

use super::reply::Reply;
use crate::refusal::{Reason, Refusal, Scope};

/// The gRPC status of a refusal.
pub(super) fn status(refusal: &Refusal) -> Status {
    let code = match refusal.reason {
        Reason::Malformed | Reason::Config | Reason::Path => Code::InvalidArgument,
        Reason::Instances
        | Reason::Rendered
        | Reason::Queue
        | Reason::Full
        | Reason::Limit
        | Reason::Descriptors => Code::ResourceExhausted,
        Reason::NoVolume | Reason::Denied => Code::FailedPrecondition,
        Reason::Deadline => Code::DeadlineExceeded,
        Reason::Unauthenticated => Code::Unauthenticated,
        Reason::Audit | Reason::ReadOnly | Reason::Gone | Reason::Stalled | Reason::Io | Reason::Closing => {
            Code::Unavailable
        }
    };
    Status::new(code, &*refusal.text)
}

/// The status of a refusal for OpenTelemetry exporters: they retry only after
/// UNAVAILABLE.
pub(super) fn exporter_status(refusal: &Refusal) -> Status {
    if refusal.scope == Scope::Volume || refusal.reason == Reason::Queue {
        return Status::unavailable(&*refusal.text);
    }
    status(refusal)
}

/// The answer to a request that is not gRPC, as gRPC over HTTP/2 specifies.
pub(super) fn not_grpc(verb: &Verb, headers: &HeaderMap) -> Option<Response<Reply>> {
    if verb != Verb::POST {
        let mut refusal = empty(StatusCode::METHOD_NOT_ALLOWED);
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return Some(refusal);
    }
    if !headers.get(header::CONTENT_TYPE).is_some_and(is_grpc) {
        return Some(empty(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    None
}

/// Whether a content type is gRPC with protobuf: `application/grpc` or
/// `application/grpc+proto`, ignoring parameters.
fn is_grpc(kind: &HeaderValue) -> bool {
    let kind = kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    ["application/grpc", "application/grpc+proto"]
        .iter()
        .any(|known| kind.eq_ignore_ascii_case(known.as_bytes()))
}

fn empty(status: StatusCode) -> Response<Reply> {
    let mut response = Response::new(Reply::Nothing);
    *response.status_mut() = status;
    response
}

/// A trailers-only answer. It lists the accepted encodings: the caller may have used
/// another.
pub(super) fn refused(status: Status, unpacks: bool) -> Response<Reply> {
    let mut response = status.into_http();
    let encodings = HeaderValue::from_static(if unpacks { "identity,gzip" } else { "identity" });
    response.headers_mut().insert("grpc-accept-encoding", encodings);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grpc_with_protobuf_is_grpc() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc+proto ; a=b", true),
            ("application/grpcfoo", false),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpc+json", false),
            ("application/grpc+", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(&HeaderValue::from_static(kind)), expected, "{kind}");
        }
    }
}
