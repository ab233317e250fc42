//! Between requests and the sink: who waits for what was written, and how long.
//!
//! The one place where the sink's plain threads meet the event loop.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Sleep;
use tonic::Status;

use crate::counters::Counters;
use crate::health::Health;
use crate::render::Format;
use crate::sink::trouble::{Failure, Reason};
use crate::sink::{Outcome, Sink};
use crate::volume::{FilePath, Volume};

/// Who is told what became of a record.
#[derive(Debug)]
pub enum Ticket {
    /// A request that waits.
    Report(oneshot::Sender<Outcome>),
    /// Nobody: a failed audit record is counted, and changes no verdict.
    Audit,
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
    /// How long a request waits for room in the queue.
    pub patience: Duration,
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
        patience: Duration,
    ) -> Self {
        Self { sink, volume, default_file, format, patience, freed: Notify::new() }
    }

    /// Waits until the queue takes another request; false if that is too long.
    pub async fn room(&self) -> bool {
        let room = async {
            loop {
                let freed = self.freed.notified();
                if self.sink.has_room() {
                    return;
                }
                freed.await;
            }
        };
        tokio::time::timeout(self.patience, room).await.is_ok()
    }

    /// Passes outcomes from the writer on to the requests that wait, and what
    /// they say of the volume on to `health`. Ends with the runtime.
    pub async fn deliver(&self, health: &Health, counters: &Arc<Counters>, stall: Duration) {
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
                    Ticket::Audit => counters.audit_errors.add(u64::from(outcome.is_err())),
                }
            }
            health.set_reports(turn.well);
            if alarm.is_none()
                && let Some(since) = turn.busy_since
            {
                alarm = Some(Box::pin(tokio::time::sleep_until((since + stall).into())));
            }
            if let Some(sleep) = &mut alarm
                && sleep.as_mut().poll(context).is_ready()
            {
                alarm = None;
                if turn.busy_since.is_some_and(|since| since.elapsed() >= stall) {
                    self.sink.stall();
                    counters.failed(Reason::Stalled);
                }
                context.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        })
        .await;
    }
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
