//! Calls by service and gRPC status code.

use std::sync::Arc;

use tonic::Code;

use super::routes::Service;
use crate::metrics::{Counter, Description, Export, Page};

/// gRPC's status codes, by number.
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A counter for each service and code.
#[derive(Debug)]
pub struct Calls(Box<[(&'static str, [Counter; CODES.len()])]>);

impl Calls {
    /// All zero, for each of `services`.
    pub fn new(services: &[Service]) -> Self {
        Self(services.iter().map(|service| (service.name, Default::default())).collect())
    }

    /// Starts a call of the service at this index.
    pub fn begin(self: &Arc<Self>, service: usize) -> Pending {
        Pending { calls: Arc::clone(self), service, code: Code::Cancelled }
    }
}

/// A call without an answer. Dropped unanswered it counts as CANCELLED: the caller
/// cancelled, or its connection is gone.
#[derive(Debug)]
pub struct Pending {
    calls: Arc<Calls>,
    service: usize,
    code: Code,
}

impl Pending {
    /// Counts the answer's code.
    pub fn with(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.calls.0[self.service].1[self.code as usize].add(1);
    }
}

impl Export for Calls {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        let help = "Calls answered, by service and gRPC status code.";
        let about = Description { name: "mygrpcadapter_requests_total", kind: "counter", help };
        page.describe(about);
        for (service, counters) in &self.0 {
            for (code, counter) in CODES.iter().zip(counters) {
                // OK is always exported; other codes only once they occurred.
                if counter.get() > 0 || *code == "OK" {
                    let labels = [("service", *service), ("code", *code)];
                    page.sample(about.name, &labels, counter.get() as f64);
                }
            }
        }
        None
    }
}
