//! Renders OpenTelemetry's log records (`opentelemetry.proto.logs.v1`): from an encoded
//! `ExportLogsServiceRequest` to lines of a file.
//!
//! | module | what flows there |
//! |---|---|
//! | [`export`] | a request: resources, and the lines of all records of one |
//! | [`record`] | one record, read once into a struct that borrows from the request |
//! | [`value`] | an AnyValue as JSON |
//! | [`text`], [`json`] | a record as its body, or as one JSON object |
//!
//! Envoy's string fields may contain invalid UTF-8; it is not checked. A known field
//! with a wrong wire type is skipped like an unknown one. The last member of a oneof
//! wins.

pub mod export;
pub mod json;
mod keys;
pub mod record;
pub mod text;
pub mod value;
