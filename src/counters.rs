//! What is counted, to be read by whoever asks `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

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

/// Everything counted by the core.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes appended to files.
    pub written_bytes: Count,
    /// Instances that retention has deleted.
    pub deleted_records: Count,
    /// Batches that couldn't be written, by reason.
    pub write_errors: [Count; Reason::ALL.len()],
    /// Files open just now.
    pub open_files: AtomicU64,
}

impl Counters {
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
