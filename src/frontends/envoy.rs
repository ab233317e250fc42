//! Envoy's front end: its services, from encoded requests to encoded answers.
//!
//! | module | what flows there |
//! |---|---|
//! | [`ext_authz`] | authorization checks to verdicts |
//! | [`access_log`] | streams of access logs to lines |
//! | [`otlp`] | OpenTelemetry's log records to lines |
//! | [`log`] | shared by the two: files, counters, the journal |
//! | [`partial`] | a message in pieces, without the fields that no one needs |

pub mod access_log;
pub mod ext_authz;
pub mod files;
pub mod log;
pub mod otlp;
pub mod partial;
