//! What is counted, to be read by whoever asks `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::frontends::mixer::SERVICES;
use crate::frontends::mixer::report::Cause;
use crate::policy::Verdict;
use crate::sink::trouble::Reason;

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// What it has come to.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The report templates, in the order of the counters.
pub const TEMPLATES: [&str; 5] = ["metric", "logentry", "tracespan", "edge", "reportnothing"];

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

/// Everything that is counted, and the state of what is open just now.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls answered, by service and status code.
    pub calls: [[Count; CODES.len()]; SERVICES.len()],
    /// Instances taken, by template.
    pub instances: [Count; TEMPLATES.len()],
    /// Requests refused, by cause.
    pub refusals: [Count; Cause::ALL.len()],
    /// Verdicts, by outcome.
    pub verdicts: [Count; Verdict::ALL.len()],
    /// Records of verdicts that were not written.
    pub audit_errors: Count,
    /// Bytes appended to files.
    pub written_bytes: Count,
    /// Instances that retention has deleted.
    pub deleted_records: Count,
    /// Batches that couldn't be written, by reason.
    pub write_errors: [Count; Reason::ALL.len()],
    /// Files open just now.
    pub open_files: AtomicU64,
    /// Connections open just now.
    pub connections: AtomicU64,
}

impl Counters {
    /// A call of a service is answered.
    pub fn answered(&self, service: usize, code: tonic::Code) {
        self.calls[service][code as usize].add(1);
    }

    /// So many instances of a template are taken.
    pub fn took(&self, template: &str, instances: usize) {
        if let Some(at) = TEMPLATES.iter().position(|name| *name == template) {
            self.instances[at].add(instances as u64);
        }
    }

    /// A request is refused.
    pub fn refused(&self, cause: Cause) {
        self.refusals[cause as usize].add(1);
    }

    /// A verdict is given.
    pub fn judged(&self, verdict: Verdict) {
        self.verdicts[verdict as usize].add(1);
    }

    /// So many bytes are in a file.
    pub fn wrote(&self, bytes: usize) {
        self.written_bytes.add(bytes as u64);
    }

    /// So many instances are gone.
    pub fn deleted(&self, records: u64) {
        self.deleted_records.add(records);
    }

    /// A batch couldn't be written.
    pub fn failed(&self, reason: Reason) {
        self.write_errors[reason as usize].add(1);
    }

    /// So many files are open.
    pub fn files_open(&self, files: usize) {
        self.open_files.store(files as u64, Ordering::Relaxed);
    }
}
