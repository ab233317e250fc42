//! Instances, access log entries and log records, from the bytes they came in to
//! the bytes of a record: what every byte of every request passes through.
//!
//! A crate of its own for two reasons. It is built for speed where the rest is
//! built for size; and it can know nothing of gRPC, files or an event loop.
//!
//! | module | what flows there |
//! |---|---|
//! | [`protobuf`] | a message, walked in place, to a record |
//! | [`record`] | one instance, borrowed from the message |
//! | [`template`] | what an instance holds and how it is shown |
//! | [`render`] | a record to text or JSON |
//! | [`formats`] | how the records of each format lie in a file |
//! | [`audit`] | authorization checks to lines |
//! | [`envoy`] | entries of Envoy's access log to lines |
//! | [`otlp`] | OpenTelemetry's log records to lines |
//!
//! `record` and `render` know nothing of `protobuf` in turn: another encoding
//! would be a module beside it.

pub mod audit;
pub mod envoy;
pub mod formats;
pub mod otlp;
pub mod protobuf;
pub mod record;
pub mod render;
pub mod template;
