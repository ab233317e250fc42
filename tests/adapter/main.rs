//! The adapter from outside: the real program, a volume of its own, real sockets.
//!
//! Each test starts its own adapter, so all may run at once. Where a test needs
//! mounts or namespaces and may not have them it says `SKIPPED` and why; with
//! `CI_REQUIRE_MOUNTS=1` in the environment that is a failure.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "what the tests share may fail as the tests themselves may"
)]
#![allow(missing_docs, unreachable_pub, reason = "nobody uses this crate")]

mod support;

mod access_logs; // streams of Envoy, exports of OpenTelemetry
mod architecture; // the order of modules
mod authorization; // tokens, keys and verdicts
mod captures; // what real Mixers sent, byte for byte
mod configs; // handlers and their params
mod denials; // params of a denial that can't be used
mod durability; // what is on disk when it is acknowledged, and at the end
mod ends; // partial records, and who may append behind which end
mod envoy_records; // Envoy's access logs and OTLP, from bytes to lines
mod ext_authz; // Envoy's authorization checks
mod faults; // a disk that fails, a process that is killed
mod floods; // peers that want too much
mod handover; // old connections and old processes give way to new ones
mod health; // grpc.health.v1 and InfrastructureBackend
mod json; // JSON Lines
mod latencies; // what is no latency
mod limits; // requests that are too much, or not requests
mod logentry; // log entries and their histogram
mod logging; // stderr, read or not
mod memory; // what it may use, in a container that has no more
mod metrics; // the second port
mod paths; // where files may be, and where not
mod probes; // the second port under load
mod process; // the command line, exit codes, addresses
mod properties; // what must hold for any bytes
mod protocol; // gRPC to the letter, and connections that have to end
mod recovery; // what health says of a volume, and when it is over
mod retention; // rotation, and files of several writers
mod shutdown; // signals, draining, and what is acknowledged
mod signals; // each signal, in each mode
mod templates; // the other report templates
mod tools; // cat, tail, probe
mod volume; // what is opened, deleted and counted in a volume, and how it is made
mod volumes; // full, read-only, stalled and dying volumes
mod wire; // HTTP/2 as grpc-go speaks it
