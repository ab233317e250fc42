//! What the entry that ends a request adds to a histogram of latency.

use super::entry::Entry;
use super::operator;

/// One request: labels, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation<'a> {
    /// The path before any rewriting, without the query.
    pub path: &'a [u8],
    /// The authority.
    pub host: &'a [u8],
    /// The method, or nothing for one that Envoy doesn't know.
    pub method: &'static str,
    /// The status, zero for none.
    pub status: u32,
    /// How long it took, if the entry says so.
    pub seconds: Option<f64>,
}

impl<'a> Observation<'a> {
    /// Of an entry that ends a request; `None` of any other, so that a request
    /// counts once.
    pub fn of(entry: &Entry<'a>) -> Option<Self> {
        if !entry.ends_request() {
            return None;
        }
        let path = operator::path(entry);
        let query = path.iter().position(|byte| *byte == b'?').unwrap_or(path.len());
        Some(Self {
            path: &path[..query],
            host: entry.authority,
            method: operator::method(entry),
            status: entry.response_code,
            seconds: entry.duration.map(|span| span.seconds as f64 + f64::from(span.nanos) / 1e9),
        })
    }
}
