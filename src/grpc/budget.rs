//! Limits on the number and bytes of requests, before they are decoded.
//!
//! A message of one frame arrives with its length; it is counted, and refused if there
//! is no room. A larger message waits in order of arrival until there is room for all
//! of it; meanwhile the window of its stream is counted.
//!
//! An open stream has no permit between its messages. Streams have their own budget,
//! since their messages wait as long as the volume does; no unary call waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

use super::connection::{Call, Connection, Held};
use crate::memory;
use crate::message::{Late, Patience};
use crate::metrics::{Export, Page};

/// Size limit of a message; Mixer's largest known is 1.1 MB.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// The window of a stream, enough for most reports. A connection's window covers all of
/// its streams, so that a waiting message never blocks an arriving one.
///
/// More than a third of HTTP/2's default of 65,535, from which it is lowered when the
/// peer has applied our settings: h2 does not reopen a window if less than that was
/// sent and read before.
pub const STREAM_WINDOW: u32 = 24 * 1024;
/// Requests being received or waiting to be rendered.
const MAX_REQUESTS: usize = 2048;
/// Reserved on top for services that need no volume: requests, and bytes of small
/// messages. Requests that wait for the volume never take these.
const RESERVED_REQUESTS: usize = 256;
const RESERVED_SMALL: usize = 512 * 1024;
/// The largest message that fits in one frame.
pub(super) const FRAME: usize = 16 * 1024 - 5;
/// Bytes counted for a larger message while it waits: the frame with its length, and
/// its stream's window.
const WAITING: usize = FRAME + STREAM_WINDOW as usize;
/// Limit on the kept bytes of a message that is parsed as it arrives, before it must
/// reserve room for its maximum.
const KEPT: usize = 16 * 1024;
/// Limit on the bytes of messages of one frame, and of waiting ones.
const MAX_SMALL: usize = 2560 * 1024;
/// Limit on the bytes of larger messages: one of maximum size.
const MAX_LARGE: usize = MAX_MESSAGE;
/// Limit on the bytes of streamed messages: one of maximum size.
const MAX_STREAMED: usize = MAX_MESSAGE;
/// Streams per permitted connection: one of each kind of log.
const STREAMS: usize = 2;
/// Estimated cost of a request besides its message: headers, stream, task.
const OVERHEAD: usize = 4096;
/// Estimated memory of an idle connection.
const CONNECTION: usize = 24 * 1024;
/// Bytes of requests and closed connections after which memory is returned to the
/// system, once no request was in flight for a while, and again some seconds later.
const WORTH_WHILE: usize = 1024 * 1024;
const QUIET: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// The limits, shared by all connections.
#[derive(Debug)]
pub struct Budget {
    /// How long a request may wait for room, over all waits.
    pub queue_timeout: Duration,
    requests: AtomicUsize,
    small: AtomicUsize,
    large: Arc<Semaphore>,
    /// Limit on connections, and thus on waiting streams.
    connections: usize,
    streams: AtomicUsize,
    /// Streams whose next message waits for room.
    waiting: AtomicUsize,
    streamed: Arc<Semaphore>,
    /// Bytes of requests and closed connections since memory was last returned.
    passed: AtomicUsize,
    quiet: Notify,
}

/// How a call is treated when room is short.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Whether it may use the reserve for services that need no volume.
    pub reserve: bool,
    /// The status code of its refusal.
    pub refusal: Code,
}

/// An open stream, closed on drop.
#[derive(Debug)]
pub struct Stream(Arc<Budget>);

/// A permit: the share of a request, or of a stream's message, in the limits, released
/// on drop.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    /// The requests it counts as: one or none.
    requests: usize,
    /// Limit on the bytes of all small messages, its own included.
    max_small: usize,
    /// The status code for a lack of room.
    refusal: Code,
    small: usize,
    large: Option<OwnedSemaphorePermit>,
    held: Option<Held>,
    _call: Call,
}

impl Budget {
    /// An unused budget for this many connections.
    pub fn new(queue_timeout: Duration, connections: usize) -> Self {
        let [large, streamed] = [MAX_LARGE, MAX_STREAMED].map(|bytes| Arc::new(Semaphore::new(bytes)));
        let (requests, small, streams, waiting, passed, quiet) = Default::default();
        Self { queue_timeout, requests, small, large, connections, streams, waiting, streamed, passed, quiet }
    }

    /// Admits a stream.
    pub fn open(self: &Arc<Self>) -> Result<Stream, Status> {
        let most = STREAMS * self.connections;
        if !take(&self.streams, 1, most) {
            return Err(Status::resource_exhausted(format!("more than {most} streams are open")));
        }
        Ok(Stream(Arc::clone(self)))
    }

    /// Reserves room for the next message of a stream, of this many bytes; waits for
    /// it.
    pub async fn next(
        self: &Arc<Self>,
        length: usize,
        connection: &Arc<Connection>,
    ) -> Result<Permit, Status> {
        if !take(&self.waiting, 1, self.connections) {
            return Err(Status::resource_exhausted(format!("more than {} streams wait", self.connections)));
        }
        let waiting = Waiting(self);
        let call = connection.begin();
        let bytes = u32::try_from(length.clamp(1, MAX_STREAMED)).unwrap_or(u32::MAX);
        let streamed = Arc::clone(&self.streamed).acquire_many_owned(bytes).await;
        drop(waiting);
        let refusal = Code::ResourceExhausted;
        let large = Some(streamed.map_err(|_| too_many(refusal))?);
        let (budget, max_small) = (Arc::clone(self), MAX_SMALL);
        Ok(Permit { budget, requests: 0, max_small, refusal, small: 0, large, held: None, _call: call })
    }

    /// Whether no request is in flight.
    fn is_quiet(&self) -> bool {
        self.requests.load(Relaxed) == 0 && self.streamed.available_permits() == MAX_STREAMED
    }

    /// Admits a request before anything of its message is known.
    pub fn admit(self: &Arc<Self>, connection: &Arc<Connection>, terms: Terms) -> Result<Permit, Status> {
        let (requests, small) = if terms.reserve { (RESERVED_REQUESTS, RESERVED_SMALL) } else { (0, 0) };
        let most = MAX_REQUESTS + requests;
        if !take(&self.requests, 1, most) {
            let text = format!("more than {most} requests in flight");
            return Err(Status::new(terms.refusal, text));
        }
        let (budget, call, max_small) = (Arc::clone(self), connection.begin(), MAX_SMALL + small);
        let refusal = terms.refusal;
        Ok(Permit { budget, requests: 1, max_small, refusal, small: 0, large: None, held: None, _call: call })
    }

    /// Returns memory to the system after a load, `free` first. Ends with the runtime.
    pub async fn give_back_after_loads(&self, free: impl Fn()) {
        loop {
            self.quiet.notified().await;
            self.passed.store(0, Relaxed);
            for pause in QUIET {
                tokio::time::sleep(pause).await;
                // The last requests of a load may be few and slow.
                while !self.is_quiet() {
                    tokio::time::sleep(pause).await;
                }
                free();
                memory::give_back();
            }
        }
    }

    /// Records the end of a call of this many bytes.
    pub fn passed(&self, bytes: usize) {
        self.freed(bytes + OVERHEAD);
    }

    /// Records the end of a connection.
    pub fn closed(&self) {
        self.freed(CONNECTION);
    }

    fn freed(&self, bytes: usize) {
        let passed = self.passed.fetch_add(bytes, Relaxed) + bytes;
        if passed > WORTH_WHILE && self.is_quiet() {
            self.quiet.notify_one();
        }
    }
}

impl Export for Budget {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        page.gauge(
            "mygrpcadapter_requests_in_flight",
            "Requests being received or waiting to be written.",
            self.requests.load(Relaxed) as f64,
        );
        page.gauge(
            "mygrpcadapter_streams_open",
            "Streams of access logs.",
            self.streams.load(Relaxed) as f64,
        );
        page.gauge(
            "mygrpcadapter_streams_waiting",
            "Streams whose next message waits for those before it to be written.",
            self.waiting.load(Relaxed) as f64,
        );
        None
    }
}

impl Permit {
    /// Reserves room for a message of this many bytes; a large one waits for it.
    pub async fn reserve(&mut self, length: usize, patience: &mut Patience) -> Result<(), Status> {
        let (is_large, refusal) = (length > FRAME, self.refusal);
        self.take_small(if is_large { WAITING } else { length })?;
        if is_large {
            let all = u32::try_from(length).unwrap_or(u32::MAX);
            let large = Arc::clone(&self.budget.large).acquire_many_owned(all);
            // Boxed: most messages are small.
            let large = Box::pin(patience.wait(large)).await.map_err(|late| match late {
                Late::Caller => late_for_caller(),
                Late::Queue => too_many(refusal),
            })?;
            self.large = Some(large.map_err(|_| too_many(refusal))?);
            self.budget.small.fetch_sub(std::mem::take(&mut self.small), Relaxed);
        }
        Ok(())
    }

    /// Reserves room for unpacking a message of this many compressed bytes, in addition
    /// to its share. No holder of a part of that room waits for more: a compressed
    /// message larger than a frame reserves all of it at the start.
    pub async fn unpack(&mut self, length: usize, patience: &mut Patience) -> Result<(), Status> {
        match &mut self.large {
            Some(all) => drop(all.split(all.num_permits().saturating_sub(length))),
            None => self.reserve(length, patience).await?,
        }
        Ok(())
    }

    /// Reserves room for the `kept` bytes of a message that is parsed as it arrives.
    /// Beyond a frame it reserves, and waits for, `most` bytes.
    pub async fn keep(&mut self, kept: usize, most: usize, patience: &mut Patience) -> Result<(), Status> {
        if kept <= KEPT {
            return self.take_small(kept.saturating_sub(self.small));
        }
        if self.large.is_none() {
            self.reserve(most, patience).await?;
            memory::give_back();
        }
        Ok(())
    }

    fn take_small(&mut self, bytes: usize) -> Result<(), Status> {
        if !take(&self.budget.small, bytes, self.max_small) {
            return Err(too_many(self.refusal));
        }
        self.small += bytes;
        Ok(())
    }

    /// Takes the message's share of its connection's back-pressure, which ends when
    /// that is dropped.
    pub fn take_connection(&mut self) -> Option<Held> {
        self.held.take()
    }

    /// Keeps the share of the connection's received messages with the permit.
    pub fn hold(&mut self, held: Held) {
        self.held = Some(held);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.small.fetch_sub(self.small, Relaxed);
        self.budget.requests.fetch_sub(self.requests, Relaxed);
        let large = self.large.take();
        let bytes = self.small + large.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        drop(large);
        self.budget.passed(bytes);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

/// A stream that waits for room, until dropped.
struct Waiting<'a>(&'a Budget);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

fn too_many(refusal: Code) -> Status {
    Status::new(
        refusal,
        "too many bytes wait for the queue to the volume; it is slow or stalled, or callers are",
    )
}

fn late_for_caller() -> Status {
    Status::deadline_exceeded("the caller's timeout has passed; nothing was written")
}

/// Adds to `taken` unless the sum would exceed `most`.
fn take(taken: &AtomicUsize, more: usize, most: usize) -> bool {
    let sum = |now: usize| now.checked_add(more).filter(|sum| *sum <= most);
    taken.fetch_update(Relaxed, Relaxed, sum).is_ok()
}

/// The value of `grpc-timeout`, if it is valid.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("9998717u", Some(Duration::from_micros(9_998_717))),
            ("2S", Some(Duration::from_secs(2))),
            ("3M", Some(Duration::from_secs(180))),
            ("99999999H", Some(Duration::from_secs(359_999_996_400))),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1x", None),
            ("1é", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", http::HeaderValue::from_bytes(text.as_bytes()).unwrap());
            assert_eq!(timeout(&headers), expected, "{text}");
        }
    }
}
