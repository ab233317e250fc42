//! Writes rendered records to files on the volume. A request waits for
//! [`Journal::room`], calls [`Journal::append`], and awaits [`Pending::written`].
//!
//! ```text
//! room -> append: render into the batch of the file       written
//!                            |                               ^
//!                            v                               |
//! writer (a thread): all batches, one write per file --> deliver (event loop)
//! ```
//!
//! | file | content |
//! |---|---|
//! | `batch` | the pending requests for one file, who waits for them, and their outcomes |
//! | `queue` | batches one way, outcomes the other; the writer's states |
//! | `writer` | the thread: rounds of batches, and timed work |
//! | `files` | the open files: least recently used, rotated, synced |
//! | `condition` | whether the volume accepts reports: the states and their transitions |
//! | `failure` | why a record is not in its file |
//!
//! The event loop never touches the volume, and the writer never waits for the
//! event loop. A turn of the loop costs one hand-over however many requests it
//! brought.

mod batch;
mod condition;
mod counters;
mod failure;
mod files;
mod queue;
mod writer;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot, watch};
use tokio::time::Sleep;

pub use self::batch::{Destination, Tally};
use self::batch::{Finished, Outcome, Waiter};
pub use self::counters::Counters;
use self::files::Files;
pub use self::files::Fsync;
pub use self::queue::Unfinished;
use self::queue::{Progress, Queue, Update};
use self::writer::Writer;
use crate::message::{Late, Patience};
use crate::metrics::{Counter, Export, Page};
use crate::refusal::{Reason, Refusal};
use crate::render::Format;
use crate::volume::retention::Retention;
use crate::volume::{FilePath, Volume};

/// Limit on the encoded bytes of requests without an outcome: two rounds, one being
/// written and one being filled.
const ROOM: u32 = 256 * 1024;

/// The time in which a prompt volume takes a batch.
pub const PROMPT: Duration = Duration::from_millis(100);

/// The pause before a kept request is appended again.
const RETRY: Duration = Duration::from_secs(1);

/// The operator's settings for all handlers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file for handlers without `file_path`.
    pub default_file: FilePath,
    /// The format for handlers without `format`.
    pub format: Format,
    /// When to sync.
    pub fsync: Fsync,
    /// Retention of rotated files.
    pub retention: Retention,
    /// Rendered bytes in the queue above which requests wait.
    pub capacity: usize,
    /// How long the writer may be busy before the volume counts as stalled.
    pub stall: Duration,
}

/// The effect of a stall on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStall {
    /// Its caller gets an error.
    Answer,
    /// Its caller keeps waiting, and appends the request again if the write fails: a
    /// request that was answered during a stall may still be written.
    Wait,
}

/// One request's room in the queue.
#[derive(Debug)]
pub struct Room<'a> {
    _permit: SemaphorePermit<'a>,
}

/// A queued request.
#[derive(Debug)]
pub struct Pending<'a> {
    outcome: oneshot::Receiver<Outcome>,
    _room: Room<'a>,
}

impl Pending<'_> {
    /// Waits until the request is written, and with [`Fsync::Always`] synced.
    pub async fn written(self) -> Result<(), Refusal> {
        self.outcome.await.unwrap_or_else(|_| Err(closing()))
    }
}

/// Appends records to the files of a volume.
#[derive(Debug)]
pub struct Journal {
    queue: Arc<Queue>,
    writer: Mutex<Option<JoinHandle<()>>>,
    volume: Volume,
    default: Destination,
    counters: Arc<Counters>,
    stall: Duration,
    /// A fair semaphore: room is granted in order of arrival.
    room: Semaphore,
    /// Notified when the writer has finished some work.
    freed: Notify,
    /// Whether the volume accepts records, as far as known.
    accepting: watch::Sender<bool>,
}

impl Journal {
    /// Starts the writer, after checking that the default file is writable if it
    /// exists.
    pub fn start(volume: Volume, settings: Settings) -> io::Result<Self> {
        let Settings { default_file, format, fsync, retention, capacity, stall } = settings;
        let default = Destination { path: default_file, format };
        let (queue, counters) = (Arc::new(Queue::new(capacity)), Arc::new(Counters::default()));
        let files = Files::new(volume.clone(), fsync, retention, Arc::clone(&counters));
        let writer = Writer::new(Arc::clone(&queue), files, fsync, Arc::clone(&counters), &default);
        let builder = thread::Builder::new().name("writer".into()).stack_size(256 * 1024);
        let writer = Mutex::new(Some(builder.spawn(move || writer.run())?));
        let (room, freed) = (Semaphore::new(ROOM as usize), Notify::new());
        let accepting = watch::Sender::new(true);
        Ok(Self { queue, writer, volume, default, counters, stall, room, freed, accepting })
    }

    /// The destination of a handler's records: a path, empty for the default file, and
    /// a format. The error names the rule that the path breaks.
    pub fn destination(&self, file_path: &[u8], format: Option<Format>) -> Result<Destination, Refusal> {
        let path = match file_path {
            b"" => self.default.path.clone(),
            text => self.volume.resolve(text).map_err(|rule| Refusal::new(Reason::Config, rule))?,
        };
        Ok(Destination { path, format: format.unwrap_or(self.default.format) })
    }

    /// The volume, for resolving paths.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Frees a buffer that is kept for the next batch: earlier ones may have left it
    /// touched.
    pub fn free_spare(&self) {
        self.queue.free_spare();
    }

    /// Whether no write has taken [`PROMPT`] so far.
    pub fn is_prompt(&self) -> bool {
        self.queue.is_prompt(PROMPT)
    }

    /// Room for a request of this many encoded bytes, if none waits for it.
    pub fn room_now(&self, bytes: usize) -> Option<Room<'_>> {
        let permit = self.room.try_acquire_many(room_for(bytes)).ok()?;
        self.queue.has_room().then_some(Room { _permit: permit })
    }

    /// Waits for room for a request of this many encoded bytes, after all earlier ones.
    /// The room is held until the outcome is known.
    pub async fn room(&self, bytes: usize) -> Result<Room<'_>, Refusal> {
        let permit = self.room.acquire_many(room_for(bytes)).await.map_err(|_| closing())?;
        // A request may grow when rendered, and requests answered during a stall are
        // still queued.
        loop {
            let freed = self.freed.notified();
            if self.queue.has_room() {
                return Ok(Room { _permit: permit });
            }
            freed.await;
        }
    }

    /// The same, for no longer than a caller waits.
    pub async fn room_in_time(&self, bytes: usize, patience: &mut Patience) -> Result<Room<'_>, Refusal> {
        let room = patience.wait(self.room(bytes)).await;
        room.map_err(|late| match late {
            Late::Queue => self.no_room(),
            Late::Caller => Refusal::late(),
        })?
    }

    /// The reason why there is no room.
    fn no_room(&self) -> Refusal {
        if self.queue.is_stalled() {
            Refusal::new(Reason::Stalled, "the volume has stalled; nothing was written")
        } else {
            Refusal::new(Reason::Queue, "the queue to the volume is full; it is slow or stalled")
        }
    }

    /// Appends one request: `render` appends its text; nothing is written if it fails.
    /// The request is written even if its caller stops waiting.
    pub fn append<'a, E>(
        &self,
        room: Room<'a>,
        to: &Destination,
        tally: Tally,
        render: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Pending<'a>, E> {
        let (caller, outcome) = oneshot::channel();
        self.queue.add(to, Waiter::Caller(Some(caller), tally), |out| render(out).map(|()| 0))?;
        Ok(Pending { outcome, _room: room })
    }

    /// Appends lines as one request: `render` appends them and returns their number,
    /// which is added to `counter` once they are written.
    pub fn append_lines<'a, E>(
        &self,
        room: Room<'a>,
        to: &Destination,
        counter: &Arc<Counter>,
        on_stall: OnStall,
        render: impl FnOnce(&mut Vec<u8>) -> Result<u64, E>,
    ) -> Result<Pending<'a>, E> {
        let (caller, outcome) = oneshot::channel();
        let tally = Tally { counter: Arc::clone(counter), count: 0 };
        let waiter = match on_stall {
            OnStall::Answer => Waiter::Caller(Some(caller), tally),
            OnStall::Wait => Waiter::Keeper(caller, tally),
        };
        self.queue.add(to, waiter, render)?;
        Ok(Pending { outcome, _room: room })
    }

    /// Waits before a failed request is appended again: for a pause, then until the
    /// volume accepts records.
    pub async fn is_worth_a_retry(&self) {
        tokio::time::sleep(RETRY).await;
        // The sender is not dropped while `self` exists.
        let _ = self.accepting.subscribe().wait_for(|is_accepting| *is_accepting).await;
    }

    /// Appends one record without a waiting caller; returns `false` if there is no
    /// room. A later failure counts in `errors`.
    pub fn append_unacknowledged<E>(
        &self,
        to: &Destination,
        errors: Arc<Counter>,
        render: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> bool {
        self.queue.has_room()
            && self.queue.add(to, Waiter::Nobody(errors), |out| render(out).map(|()| 0)).is_ok()
    }

    /// Delivers the writer's outcomes to waiting callers, and calls `say` with whether
    /// the volume accepts reports. Ends with the runtime.
    pub async fn deliver(&self, mut say: impl FnMut(bool)) {
        let mut alarm = None;
        poll_fn(|context| {
            let Update { finished, is_freed, progress, is_accepting } = self.queue.update(context.waker());
            if is_freed {
                self.freed.notify_waiters();
            }
            finished.into_iter().for_each(Finished::answer);
            self.accepting.send_if_modified(|known| std::mem::replace(known, is_accepting) != is_accepting);
            say(is_accepting);
            self.watch(progress, &mut alarm, context);
            Poll::<()>::Pending
        })
        .await;
    }

    /// Detects a stall, with one timer while the writer is busy.
    fn watch(&self, progress: Progress, alarm: &mut Option<Pin<Box<Sleep>>>, context: &mut Context) {
        let Progress::Busy(since) = progress else {
            *alarm = None;
            return;
        };
        let due = since + self.stall;
        let sleep = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due.into())));
        if sleep.as_mut().poll(context).is_pending() {
            return;
        }
        *alarm = None;
        if self.queue.stall(self.stall) {
            self.counters.failed(Reason::Stalled);
            log::error!("the volume has stalled, reports are refused for={}s", since.elapsed().as_secs());
        }
        // To deliver answers, or to set another timer.
        context.waker().wake_by_ref();
    }

    /// Writes queued records, syncs files and ends the writer. Blocks until that is
    /// done, or until the deadline.
    pub fn close(&self, deadline: Instant) -> Unfinished {
        self.queue.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return Unfinished::default() };
        // std has no join with a deadline, and a stalled write may never return.
        while !writer.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let is_finished = writer.is_finished();
        let Unfinished { bytes, files } = self.queue.unfinished();
        Unfinished { bytes, files: files.max(usize::from(!is_finished)) }
    }
}

impl Export for Journal {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        self.counters.append_to(page, self.queue.queued());
        self.counters.append_free_to(page);
        // By the writer: it may block.
        self.queue.measure();
        None
    }
}

fn closing() -> Refusal {
    Refusal::new(Reason::Closing, "shutting down before the report was written")
}

/// The room that a request takes; even an empty one takes some.
fn room_for(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(ROOM).clamp(256, ROOM)
}
