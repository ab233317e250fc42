//! Black-box tests: the real program, its own volume, real sockets.
//!
//! Each test starts its own adapter, so all may run in parallel. A test that needs
//! mounts or namespaces and may not create them prints `SKIPPED` and the reason; with
//! `CI_REQUIRE_MOUNTS=1` in the environment that is a failure.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "what the tests share may fail as the tests themselves may"
)]
#![allow(missing_docs, unreachable_pub, reason = "nothing depends on this crate")]

mod support;

mod access_logs; // streams of Envoy, exports of OpenTelemetry
mod architecture; // the order of modules
mod authorization; // tokens, keys and verdicts
mod callers; // the tokens of callers
mod captures; // what real Mixers sent, byte for byte
mod configs; // handlers and their params
mod denials; // invalid params of a denial
mod durability; // acknowledged data on disk
mod ends; // partial records, and appends after them
mod envoy_records; // Envoy's access logs and OTLP, from bytes to lines
mod ext_authz; // Envoy's authorization checks
mod faults; // a disk that fails, a process that is killed
mod floods; // peers that demand too much
mod handover; // from old connections and processes to new ones
mod health; // grpc.health.v1 and InfrastructureBackend
mod json; // JSON Lines
mod latencies; // invalid latencies
mod limits; // oversized and invalid requests
mod logentry; // log entries and their histogram
mod logging; // stderr, read or not
mod memory; // memory bounds, in a cgroup
mod metrics; // the metrics port
mod paths; // permitted and forbidden paths
mod probes; // the metrics port under load
mod process; // the command line, exit codes, addresses
mod properties; // properties of any bytes
mod protocol; // the details of gRPC over HTTP/2
mod recovery; // health during a failure, and after it
mod refusals; // what is refused, in the log
mod retention; // rotation, and files with several writers
mod shutdown; // graceful shutdown
mod signals; // each signal, in each mode
mod templates; // the other report templates
#[cfg(feature = "tls")]
mod tls; // encrypted connections, certificates
mod tools; // cat, tail, probe
mod volume; // files opened, created, deleted and counted in a volume
mod volumes; // full, read-only, stalled and dying volumes
mod wire; // HTTP/2 as grpc-go speaks it
