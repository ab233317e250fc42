//! OpenTelemetry's log records (`opentelemetry.proto.logs.v1`), from the bytes of
//! an `ExportLogsServiceRequest` to the lines of a file.
//!
//! | module | what flows there |
//! |---|---|
//! | [`export`] | a request: resources, and the lines of all records of one |
//! | [`record`] | one record, read once into a struct that borrows from the request |
//! | [`value`] | an AnyValue as JSON |
//! | [`text`], [`json`] | a record as its body, or as one JSON object |
//!
//! Envoy puts bytes into string fields that are not UTF-8: nothing is checked.
//! A field of another wire type than its own is passed over like an unknown one.
//! Of two members of a oneof the last one counts.

pub mod export;
pub mod json;
mod keys;
pub mod record;
pub mod text;
pub mod value;
