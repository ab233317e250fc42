//! Limits of a server, and what its connections share.

use std::sync::Arc;
use std::time::Duration;

use super::tls::Tls;
use super::turns::Turns;
use crate::grpc::budget::Budget;
use crate::metrics::{Export, Gauge, Page};
use crate::once::Once;

/// The open connections.
#[derive(Debug, Default)]
pub struct Connections {
    /// Their number.
    pub(super) open: Gauge,
    /// What they read.
    pub(super) turns: Arc<Turns>,
}

impl Export for Connections {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        page.gauge("mygrpcadapter_connections", "gRPC connections open.", self.open.get() as f64);
        None
    }
}

/// Limits of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The open connections.
    pub open: Arc<Connections>,
    /// Returns memory to the system after many connections have closed.
    pub budget: Arc<Budget>,
    /// Connections served at once; more wait in the kernel's backlog.
    pub connections: u32,
    /// Peers, and lacks of slots and of descriptors, that were logged.
    pub told: Arc<Once>,
    /// The age at which a connection is shut down gracefully.
    pub connection_age: Option<Duration>,
    /// Encrypts the connections, if configured.
    pub tls: Option<Tls>,
}
