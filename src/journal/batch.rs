//! Batches: the pending requests for one file, who waits for them, and their outcomes.

use std::fmt;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::metrics::Counter;
use crate::refusal::Refusal;
use crate::render::Format;
use crate::volume::FilePath;

/// The outcome of a request.
pub(super) type Outcome = Result<(), Refusal>;

/// A file, and the format of its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub(super) path: FilePath,
    pub(super) format: Format,
}

impl Destination {
    /// The format of its records.
    pub fn format(&self) -> Format {
        self.format
    }
}

/// The path, as it is shown in logs.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

/// The counter to increase when a request is written, even if its caller is gone.
#[derive(Clone, Debug)]
pub struct Tally {
    /// The counter, such as the instances of a template.
    pub counter: Arc<Counter>,
    /// The increment.
    pub count: u64,
}

/// The receiver of a request's outcome.
#[derive(Debug)]
pub(super) enum Waiter {
    /// A caller, until it is answered, and the counter for the written request.
    Caller(Option<oneshot::Sender<Outcome>>, Tally),
    /// The same, but it keeps waiting during a stall.
    Keeper(oneshot::Sender<Outcome>, Tally),
    /// None; the counter for a record that is not written.
    Nobody(Arc<Counter>),
}

impl Waiter {
    pub(super) fn count(&mut self, more: u64) {
        if let Self::Caller(_, tally) | Self::Keeper(_, tally) = self {
            tally.count += more;
        }
    }

    /// Passes on the outcome. A written request counts even if its caller is gone.
    fn answer(self, outcome: Outcome) {
        let (caller, Tally { counter, count }) = match self {
            Self::Caller(caller, tally) => (caller, tally),
            Self::Keeper(caller, tally) => (Some(caller), tally),
            Self::Nobody(errors) => return errors.add(u64::from(outcome.is_err())),
        };
        if outcome.is_ok() {
            counter.add(count);
        }
        // Its caller may be gone.
        let _ = caller.map(|caller| caller.send(outcome));
    }
}

/// The pending requests for one file.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) to: Destination,
    pub(super) bytes: Vec<u8>,
    /// The end of each request in `bytes`.
    pub(super) ends: Vec<usize>,
}

/// The outcome of a batch: how many of its requests were written, and why the rest were
/// not.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) whole: usize,
    pub(super) failure: Option<Refusal>,
}

/// A batch with its outcome. The event loop frees it, as it allocated it: memory freed
/// by another thread is returned to the system late.
#[derive(Debug)]
pub(super) struct Finished {
    _batch: Batch,
    waiters: Vec<Waiter>,
    written: Written,
}

impl Finished {
    pub(super) fn new(batch: Batch, waiters: Vec<Waiter>, written: Written) -> Self {
        Self { _batch: batch, waiters, written }
    }

    /// Answers its requests.
    pub(super) fn answer(self) {
        let Written { whole, failure } = self.written;
        for (at, waiter) in self.waiters.into_iter().enumerate() {
            waiter.answer(match &failure {
                Some(failure) if at >= whole => Err(failure.clone()),
                _ => Ok(()),
            });
        }
    }
}
