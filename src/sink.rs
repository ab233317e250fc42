//! From rendered requests to files: a queue bounded in bytes and the one thread
//! that writes.
//!
//! Requests are rendered straight into the batch of their file. The thread takes
//! all batches at once, writes each with one call, and hands the outcomes back;
//! whoever runs the event loop passes them on in [`Sink::turn`]. That way the
//! loop never waits for a disk, and a turn of it costs one hand-over however
//! many requests it brought.

pub mod counters;
pub mod trouble;
mod writer;

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::counters::Counters;
use self::trouble::{Failure, Reason};
use self::writer::Writer;
use crate::render::Format;
use crate::volume::retention::Retention;
use crate::volume::{FilePath, Volume};

/// What a batch begins with, more than the queue takes at once: memory is taken
/// only where it is written, and a buffer that grows would need it twice.
const BATCH: usize = 512 * 1024;

/// What became of a request.
pub type Outcome = Result<(), Failure>;

/// When what was acknowledged is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// When the system gets to it, and at the end.
    Never,
    /// At the latest so long after it was acknowledged.
    Interval(Duration),
    /// Before it is acknowledged.
    Always,
}

/// How the writer goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// When what was acknowledged is on disk.
    pub fsync: Fsync,
    /// What is kept.
    pub retention: Retention,
    /// Bytes in the queue above which there is no room.
    pub capacity: usize,
    /// How long one write may take before the volume counts as stalled.
    pub stall: Duration,
}

/// The requests for one file that will be written together.
#[derive(Debug)]
struct Batch {
    path: FilePath,
    format: Format,
    bytes: Vec<u8>,
    /// Where each request ends in `bytes`.
    ends: Vec<usize>,
}

#[derive(Debug)]
struct State<T> {
    batches: Vec<Batch>,
    /// Whom to tell, for each of `batches`.
    tickets: Vec<Vec<T>>,
    /// Whom to tell, for each batch in the writer's hands.
    writing: Vec<Vec<T>>,
    /// Bytes in `batches` and in the writer's hands.
    queued: usize,
    done: Vec<(T, Outcome)>,
    spare: Vec<Batch>,
    waker: Option<Waker>,
    idle: bool,
    /// Since when the writer has been at what it is at.
    busy_since: Option<Instant>,
    trouble: Option<Failure>,
    stalled: bool,
    closing: bool,
    /// Files that could not be put on disk at the end.
    unsynced: usize,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    work: Condvar,
}

impl<T> Shared<T> {
    /// A thread that panicked can't leave the state half changed: with
    /// panic=abort it takes the process with it.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a turn has brought.
#[derive(Debug)]
pub struct Turn<T> {
    /// Requests and what became of them.
    pub done: Vec<(T, Outcome)>,
    /// Since when the writer has been busy with one round.
    pub busy_since: Option<Instant>,
    /// Whether reports can be written, as far as is known.
    pub well: bool,
}

/// The queue's near end. `T` is whatever tells a waiting request its outcome.
#[derive(Debug)]
pub struct Sink<T> {
    shared: Arc<Shared<T>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    capacity: usize,
}

impl<T: Send + 'static> Sink<T> {
    /// Starts the writer.
    pub fn start(volume: Volume, settings: Settings, counters: Arc<Counters>) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::new(State::default()), work: Condvar::new() });
        let theirs = Arc::clone(&shared);
        let builder = thread::Builder::new().name("writer".into()).stack_size(256 * 1024);
        let writer = builder.spawn(move || Writer::new(volume, settings, counters).run(&theirs))?;
        Ok(Self { shared, writer: Mutex::new(Some(writer)), capacity: settings.capacity })
    }

    /// Whether the queue takes another request now.
    pub fn has_room(&self) -> bool {
        self.shared.lock().queued < self.capacity
    }

    /// Bytes that wait to be written, or are being written.
    pub fn queued(&self) -> usize {
        self.shared.lock().queued
    }

    /// Adds one request for the file at `path`: `render` appends its bytes, and
    /// what it appended is taken back if it fails.
    pub fn append<E>(
        &self,
        path: &FilePath,
        format: Format,
        ticket: T,
        render: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut state = self.shared.lock();
        let at = state.batch_for(path, format);
        let batch = &mut state.batches[at];
        let start = batch.bytes.len();
        if let Err(error) = render(&mut batch.bytes) {
            batch.bytes.truncate(start);
            if batch.ends.is_empty() {
                let batch = state.batches.swap_remove(at);
                state.tickets.swap_remove(at);
                state.spare(batch);
            }
            return Err(error);
        }
        batch.format = format;
        batch.ends.push(batch.bytes.len());
        let added = batch.bytes.len() - start;
        state.queued += added;
        state.tickets[at].push(ticket);
        if let Some(waker) = &state.waker {
            waker.wake_by_ref();
        }
        Ok(())
    }

    /// One turn: sets the writer to work on what was added, and returns what
    /// it has done since the last turn. `waker` is woken when there is more.
    pub fn turn(&self, waker: &Waker) -> Turn<T> {
        let mut state = self.shared.lock();
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        if state.idle && !state.batches.is_empty() {
            state.idle = false;
            state.busy_since = Some(Instant::now());
            self.shared.work.notify_one();
        }
        let well = state.trouble.is_none() && !state.stalled;
        Turn { done: std::mem::take(&mut state.done), busy_since: state.busy_since, well }
    }

    /// The writer has been at one round for too long: whoever waits is told
    /// now. What is queued stays queued, and may be written yet.
    pub fn stall(&self) {
        let mut state = self.shared.lock();
        let Some(since) = state.busy_since else { return };
        if !state.stalled {
            state.stalled = true;
            log::error!("the volume has stalled, reports are refused for={:?}", since.elapsed());
        }
        let failure = Failure::new(Reason::Stalled, "the volume has stalled; the report may be written yet");
        let State { writing, tickets, done, .. } = &mut *state;
        for ticket in writing.iter_mut().chain(tickets).flat_map(|tickets| tickets.drain(..)) {
            done.push((ticket, Err(failure.clone())));
        }
        if let Some(waker) = &state.waker {
            waker.wake_by_ref();
        }
    }

    /// Writes what is queued, puts the files on disk and ends the writer.
    pub fn close(&self, deadline: Instant) -> Left {
        {
            let mut state = self.shared.lock();
            state.closing = true;
            self.shared.work.notify_one();
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return Left::default() };
        // std has no join with a deadline, and a stalled disk may never let go.
        while !writer.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let state = self.shared.lock();
        Left { bytes: state.queued, files: state.unsynced }
    }
}

/// What a sink leaves undone when it closes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Left {
    /// Bytes that were not written in time; nobody was told that they were.
    pub bytes: usize,
    /// Files that could not be put on disk.
    pub files: usize,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            batches: Vec::new(),
            tickets: Vec::new(),
            writing: Vec::new(),
            queued: 0,
            done: Vec::new(),
            spare: Vec::new(),
            waker: None,
            idle: false,
            busy_since: None,
            trouble: None,
            stalled: false,
            closing: false,
            unsynced: 0,
        }
    }
}

impl<T> State<T> {
    /// The batch of a file, begun now if there is none.
    fn batch_for(&mut self, path: &FilePath, format: Format) -> usize {
        if let Some(at) = self.batches.iter().position(|batch| batch.path == *path) {
            return at;
        }
        let batch = match self.spare.pop() {
            Some(spare) => Batch { path: path.clone(), format, ..spare },
            None => Batch { path: path.clone(), format, bytes: Vec::with_capacity(BATCH), ends: Vec::new() },
        };
        self.batches.push(batch);
        self.tickets.push(Vec::new());
        self.batches.len() - 1
    }

    /// Keeps a batch's memory to be used again, unless it has grown or there is
    /// enough of it.
    fn spare(&mut self, mut batch: Batch) {
        if batch.bytes.capacity() <= BATCH && self.spare.is_empty() {
            batch.bytes.clear();
            batch.ends.clear();
            self.spare.push(batch);
        }
    }
}
