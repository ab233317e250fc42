//! Envoy's front end: its services, from a request's bytes to an answer.

pub mod ext_authz;
