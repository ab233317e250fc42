//! Envoy's authorization checks: the attributes read, the answers, and the audit
//! records.

mod answers;
mod hostile;
mod lifetimes;
mod questions;
mod records;
pub mod served;

use std::path::Path;
use std::sync::Arc;

use mygrpcadapter::frontends::envoy::ext_authz::ExtAuthz;
use mygrpcadapter::frontends::envoy::ext_authz::settings::Flags;
use mygrpcadapter::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use mygrpcadapter::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use mygrpcadapter::policy::{Policy, RuleFile};
use prost::Message;

use crate::support::Scratch;

/// An authorizer with these lines in its keys file.
fn authorizer(lines: &str, flags: Flags) -> ExtAuthz {
    let scratch = Scratch::new();
    let path = scratch.path().join("keys");
    std::fs::write(&path, lines).unwrap();
    let policy = Policy::new(Some(RuleFile::open(&path).unwrap()));
    ExtAuthz::new(flags.check().unwrap(), Arc::new(policy))
}

/// Flags with these token headers.
fn headers(names: &[&str]) -> Flags {
    Flags { auth_header: names.iter().map(|name| (*name).to_owned()).collect(), ..Flags::default() }
}

/// A request with these headers.
fn http(pairs: &[(&str, &str)]) -> HttpRequest {
    let headers = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    HttpRequest { method: "GET".into(), path: "/p?q".into(), host: "h".into(), headers, ..Default::default() }
}

/// A check from a peer with this principal.
fn check(http: Option<HttpRequest>, principal: &str) -> Vec<u8> {
    let peer = |principal: &str| Some(Peer { principal: principal.into(), ..Peer::default() });
    let request = http.map(|http| Request { http: Some(http) });
    let (source, destination) = (peer(principal), peer("spiffe://d/destination"));
    let attributes = AttributeContext { source, destination, request, ..Default::default() };
    CheckRequest { attributes: Some(attributes) }.encode_to_vec()
}

fn captures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures/envoy/ext-authz")
}
