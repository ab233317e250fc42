//! The writer thread: one round of batches after another, and timed work in between. It
//! may block on the disk.
//!
//! Its progress is a state of [`queue`](super::queue); the volume's condition is one of
//! [`condition`](super::condition).

use std::sync::Arc;
use std::time::Instant;

use super::batch::{Batch, Destination, Written};
use super::condition::{Condition, Retry};
use super::counters::Counters;
use super::files::{Files, Fsync, NotWritten};
use super::queue::{Queue, Work};
use crate::refusal::Scope;

#[derive(Debug)]
pub(super) struct Writer {
    queue: Arc<Queue>,
    files: Files,
    fsync: Fsync,
    counters: Arc<Counters>,
    condition: Condition,
    /// When dirty files must be synced.
    sync_due: Option<Instant>,
    /// Files with acknowledged records that may not be on disk.
    lost: usize,
}

impl Writer {
    /// A writer, after a check whether the default file is writable.
    pub(super) fn new(
        queue: Arc<Queue>,
        files: Files,
        fsync: Fsync,
        counters: Arc<Counters>,
        default: &Destination,
    ) -> Self {
        let mut condition = Condition::new();
        if let Some(failure) = files.open_error(default).filter(|failure| failure.scope == Scope::File) {
            condition.refused_at_start(&failure, default.clone(), Instant::now());
        }
        files.measure();
        queue.done(condition.is_accepting());
        Self { queue, files, fsync, counters, condition, sync_due: None, lost: 0 }
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            let due = self.sync_due.into_iter().chain(self.condition.retry_at()).min();
            let is_stall_over = match self.queue.next(due) {
                Work::Round(batches) => {
                    let written = self.write(&batches);
                    self.queue.finish(batches, written, self.condition.is_accepting())
                }
                Work::Due => {
                    self.sync_if_due();
                    self.retry_if_due();
                    self.files.measure();
                    self.queue.done(self.condition.is_accepting())
                }
                Work::End => break,
            };
            if is_stall_over {
                log::info!("the volume is no longer stalled");
            }
        }
        self.files.sync_at_end();
        self.report_losses();
        self.queue.end(self.lost);
    }

    fn write(&mut self, batches: &[Batch]) -> Vec<Written> {
        let written = batches.iter().map(|batch| self.write_one(batch)).collect();
        if let Fsync::Interval(interval) = self.fsync
            && self.files.any_dirty()
        {
            self.sync_due.get_or_insert_with(|| Instant::now() + interval);
        }
        written
    }

    fn write_one(&mut self, batch: &Batch) -> Written {
        let outcome = match self.condition.refusal() {
            Some(failure) => Err(failure.clone().into()),
            None => self.files.write(batch),
        };
        self.report_losses();
        let Err(NotWritten { whole, failure, is_unopened }) = outcome else {
            self.condition.written();
            return Written { whole: batch.ends.len(), failure: None };
        };
        self.counters.failed(failure.reason);
        let unopened = is_unopened.then_some(&batch.to);
        self.condition.failed(&failure, unopened, self.files.any_accepts(), Instant::now());
        Written { whole, failure: Some(failure) }
    }

    fn sync_if_due(&mut self) {
        if self.sync_due.is_some_and(|due| due <= Instant::now()) {
            self.sync_due = None;
            self.files.sync();
            self.report_losses();
        }
    }

    fn retry_if_due(&mut self) {
        let is_over = match self.condition.retry(Instant::now()) {
            None => false,
            Some(Retry::Recovered) => true,
            Some(Retry::Trial) => self.files.try_volume(),
            Some(Retry::Files(files)) => files.iter().any(|file| self.files.select(file, 0).is_ok()),
        };
        if is_over {
            self.condition.recover();
        }
    }

    /// Counts and logs files that could not be synced.
    fn report_losses(&mut self) {
        for failure in self.files.take_lost() {
            self.lost += 1;
            self.counters.failed(failure.reason);
            log::error!("acknowledged reports may be lost: {}", failure.text);
            self.condition.unsynced(&failure, Instant::now());
        }
    }
}
