//! Renders instances, access log entries and log records: from encoded messages to
//! lines of a file. Every byte of every request passes through here.
//!
//! A separate crate for two reasons: it is built for speed while the rest is built
//! for size, and it cannot depend on gRPC, files or an event loop.
//!
//! | module | what flows there |
//! |---|---|
//! | [`protobuf`] | a message, walked in place, to a record |
//! | [`record`] | one instance, borrowed from the message |
//! | [`template`] | the fields of an instance and their rendering |
//! | [`render`] | a record to text or JSON |
//! | [`formats`] | how the records of each format lie in a file |
//! | [`audit`] | authorization checks to lines |
//! | [`envoy`] | entries of Envoy's access log to lines |
//! | [`otlp`] | OpenTelemetry's log records to lines |
//! | [`labels`] | the values of a request to a label set of a histogram |
//!
//! `record` and `render` do not depend on `protobuf`: another encoding would be a
//! module beside it.

pub mod audit;
pub mod envoy;
pub mod formats;
pub mod labels;
pub mod otlp;
pub mod protobuf;
pub mod record;
pub mod render;
pub mod template;
mod word;
