//! TLS on the gRPC port.

mod files; // certificates and keys on disk, and their rotation
mod hostile; // peers that end no handshake, and floods
mod peers; // clients that are permitted or refused

use crate::support::Adapter;
use crate::support::authority::Authority;
use crate::support::message::Shape;

const SHAPE: Shape = Shape { file: "out.txt", padding: 100 };
const MIXER: &str = "spiffe://cluster.local/ns/istio-system/sa/istio-mixer-service-account";

/// How many handshakes had an outcome.
fn handshakes(adapter: &Adapter, outcome: &str) -> f64 {
    adapter.page().value("mygrpcadapter_tls_handshakes_total", &[("outcome", outcome)])
}

/// The CA of the server, and that of its clients.
fn authorities() -> (Authority, Authority) {
    (Authority::new("servers"), Authority::new("clients"))
}
