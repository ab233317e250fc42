//! What requests may cost before they are understood: a bounded number of them,
//! and bounded bytes.
//!
//! What a stream may send ahead is charged at once, and refused where it is too
//! much. A larger message waits there until there is room for all of it. A
//! connection's window holds what all its streams may send ahead, so that those
//! who wait are never in the way of those who arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::metrics::{Export, Page};
use crate::server::STREAM_WINDOW;
use crate::server::backlog::Held;

/// The largest message taken; Mixer's largest known is 1.1 MB.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Requests being received or waiting to be rendered.
const MAX_REQUESTS: usize = 2048;
/// A message that comes in one frame, as small as they get, is here when its
/// length is: it need not wait to arrive.
const FRAME: usize = 16 * 1024 - 5;
/// What a larger one takes while it waits: the frame that told its length, and
/// what its stream may send ahead of being read again.
const WAITING: usize = FRAME + STREAM_WINDOW as usize;
/// Bytes of messages of one frame, and of those that wait.
const MAX_AHEAD: usize = 3 * 1024 * 1024;
/// Bytes of larger ones, whole: room for one of the largest.
const MAX_LARGE: usize = MAX_MESSAGE;

/// The bounds, shared by all connections.
#[derive(Debug)]
pub struct Admission {
    requests: AtomicUsize,
    ahead: AtomicUsize,
    large: Arc<Semaphore>,
    patience: Duration,
}

/// A request's share of the bounds, given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    admission: Arc<Admission>,
    ahead: usize,
    large: Option<OwnedSemaphorePermit>,
    held: Option<Held>,
}

impl Admission {
    /// `patience` is how long a large message waits for others to be done.
    pub fn new(patience: Duration) -> Self {
        let large = Arc::new(Semaphore::new(MAX_LARGE));
        Self { requests: AtomicUsize::new(0), ahead: AtomicUsize::new(0), large, patience }
    }

    /// How many requests are in flight.
    pub fn requests_in_flight(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Admits a request, of whose message nothing is known yet.
    pub fn admit(self: &Arc<Self>) -> Result<Share, Status> {
        if !take(&self.requests, 1, MAX_REQUESTS) {
            let text = format!("more than {MAX_REQUESTS} requests in flight");
            return Err(Status::resource_exhausted(text));
        }
        Ok(Share { admission: Arc::clone(self), ahead: 0, large: None, held: None })
    }
}

impl Export for Admission {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        let in_flight = self.requests_in_flight() as f64;
        page.gauge(
            "mygrpcadapter_requests_in_flight",
            "Requests being received or waiting to be written.",
            in_flight,
        );
        None
    }
}

impl Share {
    /// Takes room for a message of so many bytes.
    pub async fn reserve(&mut self, length: usize) -> Result<(), Status> {
        let too_many = || {
            Status::resource_exhausted(
                "too many bytes wait for the queue to the volume; it is slow or stalled, or callers are",
            )
        };
        let waits = length > FRAME;
        self.ahead = if waits { WAITING } else { length };
        if !take(&self.admission.ahead, self.ahead, MAX_AHEAD) {
            self.ahead = 0;
            return Err(too_many());
        }
        if waits {
            let all = u32::try_from(length).unwrap_or(u32::MAX);
            let large = Arc::clone(&self.admission.large).acquire_many_owned(all);
            let large = tokio::time::timeout(self.admission.patience, large).await;
            self.large = Some(large.map_err(|_| too_many())?.map_err(|_| too_many())?);
            self.admission.ahead.fetch_sub(std::mem::take(&mut self.ahead), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Keeps a whole message in the backlog of its connection for as long.
    pub fn hold(&mut self, held: Held) {
        self.held = Some(held);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.admission.requests.fetch_sub(1, Ordering::Relaxed);
        self.admission.ahead.fetch_sub(self.ahead, Ordering::Relaxed);
    }
}

/// Adds to what is taken unless that would be more than `most`.
fn take(taken: &AtomicUsize, more: usize, most: usize) -> bool {
    let sum = |now: usize| now.checked_add(more).filter(|sum| *sum <= most);
    taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok()
}
