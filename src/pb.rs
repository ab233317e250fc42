//! What `build.rs` made of `proto/`: configs, answers, health.
//!
//! Generated code stays behind this fence; so do its lints.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "generated: the definitions are documented in proto/"
)]

include!(concat!(env!("OUT_DIR"), "/protos.rs"));
