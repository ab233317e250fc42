//! Code generated from `proto/` by `build.rs`: configs, answers, health.
//!
//! The lints that generated code fails are disabled for this module only.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "generated: the definitions are documented in proto/"
)]

include!(concat!(env!("OUT_DIR"), "/protos.rs"));
