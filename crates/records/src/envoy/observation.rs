//! The latency of a completed request, for a histogram.

use super::entry::Entry;
use super::operator;
use crate::labels::without_query;

/// One request: labels and duration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation<'a> {
    /// The original path, without the query.
    pub path: &'a [u8],
    /// The authority.
    pub host: &'a [u8],
    /// The method, or empty if unknown to Envoy.
    pub method: &'static str,
    /// The HTTP status, or zero.
    pub status: u32,
    /// The duration, if present.
    pub seconds: Option<f64>,
}

impl<'a> Observation<'a> {
    /// The observation of a request's final entry; `None` for other entries, so that a
    /// request counts once.
    pub fn of(entry: &Entry<'a>) -> Option<Self> {
        if !entry.ends_request() {
            return None;
        }
        Some(Self {
            path: without_query(operator::path(entry)),
            host: entry.fields.authority,
            method: operator::method(entry),
            status: entry.fields.response_code,
            seconds: entry.fields.duration.map(|span| span.seconds as f64 + f64::from(span.nanos) / 1e9),
        })
    }
}
