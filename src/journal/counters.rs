//! Counters of the writer.

use crate::metrics::{Counter, Export, Family, Gauge, Page};
use crate::refusal::Reason;

/// Counters of all files.
#[derive(Debug)]
pub struct Counters {
    written_bytes: Counter,
    rotations: Counter,
    deleted_bytes: Counter,
    write_errors: Family<{ Reason::WRITE.len() }>,
    open_files: Gauge,
    free_bytes: Gauge,
}

impl Default for Counters {
    fn default() -> Self {
        let write_errors = Family::new(
            "mygrpcadapter_write_errors_total",
            "Writes that failed, in whole or in part.",
            "reason",
            Reason::WRITE.map(Reason::label),
        );
        let (written_bytes, rotations, deleted_bytes, open_files, free_bytes) = Default::default();
        Self { written_bytes, rotations, deleted_bytes, write_errors, open_files, free_bytes }
    }
}

impl Counters {
    /// Counts written bytes.
    pub(super) fn wrote(&self, bytes: usize) {
        self.written_bytes.add(bytes as u64);
    }

    /// Counts a rotated file.
    pub(super) fn rotated(&self) {
        self.rotations.add(1);
    }

    /// Counts bytes of files deleted by retention.
    pub(super) fn deleted(&self, bytes: u64) {
        self.deleted_bytes.add(bytes);
    }

    /// Counts a failed batch.
    pub(super) fn failed(&self, reason: Reason) {
        if let Some(at) = Reason::WRITE.iter().position(|known| *known == reason) {
            self.write_errors.at(at).add(1);
        }
    }

    /// Sets the number of open files.
    pub(super) fn files_open(&self, files: usize) {
        self.open_files.set(files as u64);
    }

    /// Sets the free space of the volume.
    pub(super) fn free(&self, bytes: u64) {
        self.free_bytes.set(bytes);
    }

    /// Appends all metrics, with the number of queued bytes.
    pub(super) fn append_to(&self, page: &mut Page, queued: usize) {
        page.counter("mygrpcadapter_written_bytes_total", "Bytes appended to files.", &self.written_bytes);
        page.counter("mygrpcadapter_rotations_total", "Files that were rotated.", &self.rotations);
        page.counter(
            "mygrpcadapter_deleted_bytes_total",
            "Bytes of rotated files that were deleted.",
            &self.deleted_bytes,
        );
        self.write_errors.export(page);
        page.gauge("mygrpcadapter_queue_bytes", "Bytes waiting to be written.", queued as f64);
        page.gauge("mygrpcadapter_open_files", "Files open for appending.", self.open_files.get() as f64);
    }

    /// Appends the free space, which only a volume has.
    pub(super) fn append_free_to(&self, page: &mut Page) {
        page.gauge(
            "mygrpcadapter_volume_free_bytes",
            "Free space of the volume's file system, as of the previous page.",
            self.free_bytes.get() as f64,
        );
    }
}

/// Without a volume: the same metrics, all zero.
impl Export for Counters {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        self.append_to(page, 0);
        None
    }
}
