//! Wire protocols, one folder each: from encoded requests to the inputs of the core,
//! and back to encoded answers. Front ends never import each other.

pub mod counters;
pub mod envoy;
pub mod mixer;
pub mod verdicts;
