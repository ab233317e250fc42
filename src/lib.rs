//! An out-of-process adapter for Istio's Mixer: reports become records in a file.
//!
//! Data flows one way. In reading order:
//!
//! | module | what flows there |
//! |---|---|
//! | [`server`] | connections to requests, HTTP/2 |
//! | [`grpc`] | requests to messages, and answers back |
//! | [`frontends::mixer`] | Mixer's messages, walked in place, to records |
//! | [`frontends::envoy`] | Envoy's authorization checks to verdicts, access logs and log records to lines |
//! | [`record`] | one instance, borrowed from the bytes it came in |
//! | [`render`] | records to text |
//! | [`histogram`], [`policy`] | records to a latency, tokens to a verdict |
//! | [`journal`] | text to the batch of a file, and the word back that it is written |
//! | [`volume`] | batches to files |
//! | [`metrics`], [`process`], [`admin`] | what was done, in numbers, on a port of its own |
//! | [`grpc::health`], [`shutdown`] | whether we serve, and how we stop |
//! | [`logging`], [`quoted`], [`once`] | log lines, foreign bytes in text, what is logged once |
//! | [`tools`] | `cat`, `tail`, `probe` |
//! | [`cli`], [`app`] | the command line, and all of it put together |
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
pub mod server;
pub mod shutdown;
pub mod tools;
pub mod volume;

pub use grpc::health;
pub use records::{formats, record, render, template};
