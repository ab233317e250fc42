//! An out-of-process adapter for Istio's Mixer: reports become records in a file.
//!
//! Data flows one way. In reading order:
//!
//! | module | what flows there |
//! |---|---|
//! | [`server`] | connections to requests, HTTP/2 |
//! | [`service`], [`admission`], [`codec`] | requests to the bytes of a message, gRPC |
//! | [`mixer`] | Mixer's messages, walked in place, to records |
//! | [`record`] | one instance, borrowed from the bytes it came in |
//! | [`render`] | records to text |
//! | [`sink`], [`volume`] | text to a file, and the word back that it is there |
//! | [`counters`] | what was done, in numbers |
//! | [`health`], [`shutdown`] | whether we serve, and how we stop |
//! | [`tools`] | `cat`, `tail`, `probe` |
//! | [`cli`], [`run`] | the command line, and all of it put together |
//!
//! A front end (`mixer`) speaks one wire protocol and knows nothing of files;
//! the core (`record` to `volume`) knows nothing of protobuf, gRPC or async.

pub mod admission;
pub mod cli;
pub mod codec;
pub mod counters;
pub mod health;
pub mod mixer;
pub mod pb;
pub mod record;
pub mod render;
pub mod run;
pub mod server;
pub mod service;
pub mod shutdown;
pub mod sink;
pub mod tools;
pub mod volume;
