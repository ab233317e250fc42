//! Between requests and the sink: who waits for what was written, and how long.
//!
//! The one place where the sink's plain threads meet the event loop.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};
use tokio::time::Sleep;
use tonic::Status;

use crate::health::Health;
use crate::metrics::{Counter, Export, Page};
use crate::render::Format;
use crate::sink::counters::Counters;
use crate::sink::trouble::{Failure, Reason};
use crate::sink::{Outcome, Sink};
use crate::volume::{FilePath, Volume};

/// Bytes of requests, as they came, whose outcome isn't known: two rounds' worth
/// for the writer, one being written and one being filled.
const PLACES: u32 = 256 * 1024;

/// Who is told what became of a record.
#[derive(Debug)]
pub enum Ticket {
    /// A request that waits.
    Report(oneshot::Sender<Outcome>),
    /// Nobody: an audit record that is not written is counted, and changes no verdict.
    Audit(Arc<Counter>),
}

/// The volume, the queue to it, and what operators chose for all handlers.
#[derive(Debug)]
pub struct Store {
    /// The queue and its writer.
    pub sink: Sink<Ticket>,
    /// What confines paths.
    pub volume: Volume,
    /// The file of handlers that name none.
    pub default_file: FilePath,
    /// What records look like where the handler doesn't say.
    pub format: Format,
    /// What the writer counts.
    pub counters: Arc<Counters>,
    /// Room for the bytes of requests whose outcome isn't known: given out in
    /// turn, so that none waits for long while others come and go.
    places: Semaphore,
    /// Told when the writer is done with a round.
    freed: Notify,
}

impl Store {
    /// A queue and what all handlers share.
    pub fn new(
        sink: Sink<Ticket>,
        volume: Volume,
        default_file: FilePath,
        format: Format,
        counters: Arc<Counters>,
    ) -> Self {
        let (places, freed) = (Semaphore::new(PLACES as usize), Notify::new());
        Self { sink, volume, default_file, format, counters, places, freed }
    }

    /// A place for a request of so many bytes, if there is one at once; to be
    /// held until it is known what became of the request.
    pub fn place_now(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        self.places.try_acquire_many(places(bytes)).ok().filter(|_| self.sink.has_room())
    }

    /// Waits for a place behind all who wait already.
    pub async fn place(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let place = self.places.acquire_many(places(bytes)).await.ok()?;
        // A request may become many times its bytes, or a stalled volume may
        // still hold those of requests that were told so.
        loop {
            let freed = self.freed.notified();
            if self.sink.has_room() {
                return Some(place);
            }
            freed.await;
        }
    }

    /// Passes outcomes from the writer on to the requests that wait, and what
    /// they say of the volume on to `health`. Ends with the runtime.
    pub async fn deliver(&self, health: &Health, stall: Duration) {
        // Set while the writer is at work: one timer at a time, none when idle.
        let mut alarm: Option<Pin<Box<Sleep>>> = None;
        poll_fn(|context| {
            let turn = self.sink.turn(context.waker());
            if !turn.done.is_empty() {
                self.freed.notify_waiters();
            }
            for (ticket, outcome) in turn.done {
                match ticket {
                    // The caller may have gone; its report is in the file all the same.
                    Ticket::Report(waiting) => drop(waiting.send(outcome)),
                    Ticket::Audit(errors) => errors.add(u64::from(outcome.is_err())),
                }
            }
            health.set_reports(turn.well);
            match turn.busy_since {
                Some(since) if alarm.is_none() => {
                    alarm = Some(Box::pin(tokio::time::sleep_until((since + stall).into())));
                }
                Some(_) => {}
                None => alarm = None,
            }
            if let Some(sleep) = &mut alarm
                && sleep.as_mut().poll(context).is_ready()
            {
                alarm = None;
                if turn.busy_since.is_some_and(|since| since.elapsed() >= stall) {
                    self.sink.stall();
                    self.counters.failed(Reason::Stalled);
                }
                context.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        })
        .await;
    }
}

impl Export for Store {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        self.counters.append_to(page, self.sink.queued());
        None
    }
}

/// What a request takes of the places: even an empty one is somebody who waits.
fn places(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(PLACES).clamp(256, PLACES)
}

/// What a caller is told of a failure.
pub fn status(failure: &Failure) -> Status {
    let text = &*failure.text;
    match failure.reason {
        Reason::Path => Status::invalid_argument(text),
        Reason::Full | Reason::Limit | Reason::Descriptors => Status::resource_exhausted(text),
        Reason::Denied => Status::failed_precondition(text),
        Reason::ReadOnly | Reason::Gone | Reason::Stalled | Reason::Io => Status::unavailable(text),
    }
}
