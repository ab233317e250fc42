//! Wire protocols, one folder each: from the bytes of a request to what the core
//! works with, and back. Front ends never import each other.

pub mod counters;
pub mod envoy;
pub mod mixer;
pub mod verdicts;
