//! Every format of a file, for its recovery and deletion.

use crate::render::grammar::{Grammar, Start};
use crate::{audit, envoy, otlp, render};

/// The grammars of all formats. OpenTelemetry's log records in text have none: their
/// lines belong to the sender.
pub static GRAMMARS: [&Grammar; 7] = [
    &render::text::GRAMMAR,
    &render::json::GRAMMAR,
    &envoy::text::GRAMMAR,
    &envoy::json::GRAMMAR,
    &otlp::json::GRAMMAR,
    &audit::TEXT_GRAMMAR,
    &audit::JSON_GRAMMAR,
];

/// Whether a file contains records of any format. `start` is its first
/// [`AHEAD`](crate::render::grammar::AHEAD) bytes or more, or the whole file.
pub fn is_ours(start: &[u8]) -> bool {
    GRAMMARS.iter().any(|grammar| (grammar.starts)(start) == Start::Certain)
}
