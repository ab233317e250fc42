//! Every format that a file may hold, for whoever repairs the file or deletes it.

use crate::render::grammar::{Grammar, Start};
use crate::{audit, envoy, otlp, render};

/// The grammars of all formats. A log record of OpenTelemetry in text is a line
/// of its sender's and has none.
pub static GRAMMARS: [&Grammar; 7] = [
    &render::text::GRAMMAR,
    &render::json::GRAMMAR,
    &envoy::text::GRAMMAR,
    &envoy::json::GRAMMAR,
    &otlp::json::GRAMMAR,
    &audit::TEXT_GRAMMAR,
    &audit::JSON_GRAMMAR,
];

/// Whether a file that begins with these bytes, at least
/// [`AHEAD`](crate::render::grammar::AHEAD) of them or all, holds records of any format.
pub fn is_ours(start: &[u8]) -> bool {
    GRAMMARS.iter().any(|grammar| (grammar.starts)(start) == Start::Certain)
}
