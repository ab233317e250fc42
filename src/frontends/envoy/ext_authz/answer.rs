//! Encodes verdicts as CheckResponses.
//!
//! An answer depends only on the verdict and the settings, so all answers are encoded
//! at start, and none contains data of a request. Each has a status, because Envoy
//! takes a CheckResponse without one for an allow. No header is marked `append`: Envoy
//! would drop it.

use bytes::Bytes;

use super::settings::{Denied, Settings};
use crate::policy::{Outcome, Verdict};

/// gRPC's PERMISSION_DENIED and UNAVAILABLE. Envoy only checks whether the status is
/// zero.
const PERMISSION_DENIED: u64 = 7;
const UNAVAILABLE: u64 = 14;
/// The HTTP status without a verdict.
const SERVICE_UNAVAILABLE: u16 = 503;
const UNAUTHORIZED: u16 = 401;

/// Encoded CheckResponses.
#[derive(Debug)]
pub struct Answers {
    by_verdict: [Bytes; Verdict::ALL.len()],
    failed: Bytes,
}

impl Answers {
    /// Encodes all answers.
    pub fn new(settings: &Settings) -> Self {
        let denied = &settings.denied;
        Self {
            by_verdict: Verdict::ALL.map(|verdict| match (verdict.outcome(), verdict) {
                (Outcome::Allow, _) => allow(settings, verdict),
                (_, Verdict::NoToken) => {
                    deny(PERMISSION_DENIED, denied.code_no_token, denied, verdict.reason())
                }
                _ => deny(PERMISSION_DENIED, denied.code, denied, verdict.reason()),
            }),
            failed: deny(UNAVAILABLE, SERVICE_UNAVAILABLE, denied, "error"),
        }
    }

    /// The answer to a verdict.
    pub fn of(&self, verdict: Verdict) -> Bytes {
        self.by_verdict[verdict as usize].clone()
    }

    /// The denial without a verdict.
    pub fn failed(&self) -> Bytes {
        self.failed.clone()
    }
}

/// Status OK, an OkHttpResponse, and the reason.
fn allow(settings: &Settings, verdict: Verdict) -> Bytes {
    let mut ok_response = Vec::new();
    if settings.remove_token {
        for name in &settings.auth_headers {
            bytes(&mut ok_response, 5, name);
        }
    }
    let mut out = Vec::new();
    bytes(&mut out, 1, &[]);
    bytes(&mut out, 3, &ok_response);
    bytes(&mut out, 4, &metadata(verdict.reason()));
    out.into()
}

/// A status, a DeniedHttpResponse, and the reason.
fn deny(status: u64, code: u16, denied: &Denied, reason: &str) -> Bytes {
    let mut denied_response = Vec::new();
    bytes(&mut denied_response, 1, &message(|out| number(out, 1, code.into())));
    let challenge = denied.www_authenticate.as_ref().filter(|_| code == UNAUTHORIZED);
    let content_type = denied.content_type.as_ref().filter(|_| !denied.body.is_empty());
    for (name, value) in [("www-authenticate", challenge), ("content-type", content_type)] {
        if let Some(value) = value {
            bytes(&mut denied_response, 2, &header(name, value.as_bytes()));
        }
    }
    if !denied.body.is_empty() {
        bytes(&mut denied_response, 3, denied.body.as_bytes());
    }
    let mut out = Vec::new();
    bytes(&mut out, 1, &message(|out| number(out, 1, status)));
    bytes(&mut out, 2, &denied_response);
    bytes(&mut out, 4, &metadata(reason));
    out.into()
}

/// A HeaderValueOption that replaces a header of this name.
fn header(name: &str, value: &[u8]) -> Vec<u8> {
    let pair = message(|out| {
        bytes(out, 1, name.as_bytes());
        bytes(out, 2, value);
    });
    message(|out| bytes(out, 1, &pair))
}

/// The Struct `{"reason": "..."}`, which becomes dynamic metadata of
/// `envoy.filters.http.ext_authz`.
fn metadata(reason: &str) -> Vec<u8> {
    let value = message(|out| bytes(out, 3, reason.as_bytes()));
    let entry = message(|out| {
        bytes(out, 1, b"reason");
        bytes(out, 2, &value);
    });
    message(|out| bytes(out, 1, &entry))
}

fn message(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// A length-delimited field. `field` is below 16.
fn bytes(out: &mut Vec<u8>, field: u8, content: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// A varint field. `field` is below 16.
fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    varint(out, value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
