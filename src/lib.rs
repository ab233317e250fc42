//! An out-of-process adapter for service meshes: reports become records in a file.
//!
//! Data flows one way. In reading order:
//!
//! | module | what flows there |
//! |---|---|
//! | [`server`] | connections to requests, HTTP/2 |
//! | [`grpc`] | requests to messages, answers to responses |
//! | [`frontends::mixer`] | Mixer's messages, walked in place, to records |
//! | [`frontends::envoy`] | Envoy's authorization checks to verdicts, access logs and log records to lines |
//! | [`record`] | one instance, borrowed from the request |
//! | [`render`] | records to text |
//! | [`histogram`], [`policy`] | records to a latency, tokens to a verdict |
//! | [`journal`] | text to the batch of a file, and the outcome of its write |
//! | [`volume`] | batches to files |
//! | [`metrics`], [`process`], [`admin`] | counters and gauges, on the metrics port |
//! | [`grpc::health`], [`shutdown`] | health, graceful shutdown |
//! | [`logging`], [`quoted`], [`once`] | log lines, foreign bytes in text, what is logged once |
//! | [`reload`] | files that are read again when they change |
//! | [`tools`] | `cat`, `tail`, `probe` |
//! | [`cli`], [`app`] | the command line and the environment, and the wiring of all of the above |
//!
//! A front end (as `frontends::mixer`) speaks one wire protocol and knows nothing of files;
//! the core (`record` to `volume`) knows nothing of protobuf, gRPC or async.

pub mod admin;
pub mod app;
pub mod cli;
pub mod frontends;
pub mod grpc;
pub mod histogram;
pub mod journal;
pub mod logging;
pub mod memory;
pub mod message;
pub mod metrics;
pub mod once;
pub mod pb;
pub mod policy;
pub mod process;
pub mod quoted;
pub mod refusal;
pub mod reload;
pub mod server;
pub mod shutdown;
pub mod tools;
pub mod volume;

pub use grpc::health;
pub use records::{formats, record, render, template};
