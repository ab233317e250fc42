//! Envoy's front end: its services, from a request's bytes to an answer.
//!
//! | module | what flows there |
//! |---|---|
//! | [`ext_authz`] | authorization checks to verdicts |
//! | [`access_log`] | streams of access logs to lines |
//! | [`otlp`] | OpenTelemetry's log records to lines |
//! | [`log`] | what the two have in common: files, counters, the journal |

pub mod access_log;
pub mod ext_authz;
pub mod files;
pub mod log;
pub mod otlp;
