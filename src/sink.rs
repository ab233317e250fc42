//! From rendered requests to files: a queue bounded in bytes and the one thread
//! that writes.
//!
//! Requests are rendered straight into the batch of their file. The thread takes
//! all batches at once, writes each with one call, and hands the outcomes back;
//! whoever runs the event loop passes them on in [`Sink::turn`]. That way the
//! loop never waits for a disk, and a turn of it costs one hand-over however
//! many requests it brought.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::log_file::LogFile;
use crate::volume::{FilePath, OpenError, Volume};

/// Files kept open; beyond it the least recently used is closed first.
const MAX_OPEN: usize = 32;
/// A batch's memory is used again unless it has grown beyond this.
const MAX_SPARE: usize = 256 * 1024;

/// Why a request is not in its file.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The path breaks a rule.
    Refused(Arc<str>),
    /// The disk or its quota is full.
    Full(Arc<str>),
    /// Anything else the system said.
    Io(Arc<str>),
}

/// What became of a request.
pub type Outcome = Result<(), Failure>;

/// The requests for one file that will be written together.
#[derive(Debug)]
struct Batch<T> {
    path: FilePath,
    bytes: Vec<u8>,
    /// Where each request ends in `bytes`.
    ends: Vec<usize>,
    /// Whom to tell, one per request.
    tickets: Vec<T>,
}

#[derive(Debug)]
struct State<T> {
    batches: Vec<Batch<T>>,
    /// Bytes in `batches` and in the writer's hands.
    queued: usize,
    done: Vec<(T, Outcome)>,
    spare: Vec<(Vec<u8>, Vec<usize>, Vec<T>)>,
    waker: Option<Waker>,
    idle: bool,
    closing: bool,
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

/// The queue's near end. `T` is whatever tells a waiting request its outcome.
#[derive(Debug)]
pub struct Sink<T> {
    shared: Arc<Shared<T>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    capacity: usize,
}

impl<T: Send + 'static> Sink<T> {
    /// Starts the writer. `capacity` is the number of bytes above which
    /// [`has_room`](Self::has_room) says no.
    pub fn start(volume: Volume, capacity: usize) -> io::Result<Self> {
        let state = State {
            batches: Vec::new(),
            queued: 0,
            done: Vec::new(),
            spare: Vec::new(),
            waker: None,
            idle: false,
            closing: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), work: Condvar::new() });
        let files = Files { volume, open: VecDeque::new() };
        let theirs = Arc::clone(&shared);
        let writer = thread::Builder::new().name("writer".into()).stack_size(128 * 1024);
        let writer = writer.spawn(move || write_batches(&theirs, files))?;
        Ok(Self { shared, writer: Mutex::new(Some(writer)), capacity })
    }

    /// Whether the queue takes another request now.
    pub fn has_room(&self) -> bool {
        self.shared.lock().queued < self.capacity
    }

    /// Adds one request for the file at `path`: `render` appends its bytes, and
    /// what it appended is taken back if it fails.
    pub fn append<E>(
        &self,
        path: &FilePath,
        ticket: T,
        render: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let at = match state.batches.iter().position(|batch| batch.path == *path) {
            Some(at) => at,
            None => {
                let (bytes, ends, tickets) = state.spare.pop().unwrap_or_default();
                state.batches.push(Batch { path: path.clone(), bytes, ends, tickets });
                state.batches.len() - 1
            }
        };
        let batch = &mut state.batches[at];
        let start = batch.bytes.len();
        if let Err(error) = render(&mut batch.bytes) {
            batch.bytes.truncate(start);
            if batch.ends.is_empty() {
                state.batches.swap_remove(at);
            }
            return Err(error);
        }
        state.queued += batch.bytes.len() - start;
        batch.ends.push(batch.bytes.len());
        batch.tickets.push(ticket);
        if let Some(waker) = &state.waker {
            waker.wake_by_ref();
        }
        Ok(())
    }

    /// One turn: sets the writer to work on what was added, and returns what
    /// it has done since the last turn. `waker` is woken when there is more.
    pub fn turn(&self, waker: &Waker) -> Vec<(T, Outcome)> {
        let mut state = self.shared.lock();
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        if state.idle && !state.batches.is_empty() {
            state.idle = false;
            self.shared.work.notify_one();
        }
        std::mem::take(&mut state.done)
    }

    /// Writes what is queued, puts the files on disk and ends the writer.
    /// Returns how many bytes were left unwritten at the deadline.
    pub fn close(&self, deadline: Instant) -> usize {
        {
            let mut state = self.shared.lock();
            state.closing = true;
            self.shared.work.notify_one();
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return 0 };
        // std has no join with a deadline, and a stalled disk may never let go.
        while !writer.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        self.shared.lock().queued
    }
}

/// The writer's life: take everything, write it, say so.
fn write_batches<T>(shared: &Shared<T>, mut files: Files) {
    let mut state = shared.lock();
    loop {
        if state.batches.is_empty() {
            if state.closing {
                break;
            }
            state.idle = true;
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let mut batches = std::mem::take(&mut state.batches);
        drop(state);
        let outcomes: Vec<_> = batches.iter().map(|batch| files.write(batch)).collect();
        state = shared.lock();
        for (mut batch, (whole, failure)) in batches.drain(..).zip(outcomes) {
            state.queued -= batch.bytes.len();
            for (at, ticket) in batch.tickets.drain(..).enumerate() {
                let outcome = match &failure {
                    Some(failure) if at >= whole => Err(failure.clone()),
                    _ => Ok(()),
                };
                state.done.push((ticket, outcome));
            }
            if batch.bytes.capacity() <= MAX_SPARE && state.spare.len() < 4 {
                batch.bytes.clear();
                batch.ends.clear();
                state.spare.push((batch.bytes, batch.ends, batch.tickets));
            }
        }
        if let Some(waker) = &state.waker {
            waker.wake_by_ref();
        }
    }
    drop(state);
    files.sync();
}

/// The open files, most recently used last.
#[derive(Debug)]
struct Files {
    volume: Volume,
    open: VecDeque<(FilePath, LogFile)>,
}

impl Files {
    /// Writes a batch. Returns how many of its requests are in the file, and
    /// why the others are not.
    fn write<T>(&mut self, batch: &Batch<T>) -> (usize, Option<Failure>) {
        let file = match self.get(&batch.path) {
            Ok(file) => file,
            Err(failure) => return (0, Some(failure)),
        };
        match file.append(&batch.bytes, &batch.ends) {
            (whole, Ok(())) => (whole, None),
            (whole, Err(error)) => (whole, Some(failure(&batch.path, "write to", &error))),
        }
    }

    /// The open file at a path, opened now unless it is open and still there.
    fn get(&mut self, path: &FilePath) -> Result<&mut LogFile, Failure> {
        let known = self.open.iter().position(|(open, _)| open == path);
        let entry = match known.and_then(|at| self.open.remove(at)) {
            Some(entry) if entry.1.is_at(&self.volume.full_path(path)) => entry,
            _ => {
                let file = LogFile::open(&self.volume, path).map_err(|error| match error {
                    OpenError::Refused(reason) => Failure::Refused(reason.into()),
                    OpenError::Io(error) => failure(path, "open", &error),
                })?;
                (path.clone(), file)
            }
        };
        if self.open.len() >= MAX_OPEN {
            self.open.pop_front();
        }
        self.open.push_back(entry);
        match self.open.back_mut() {
            Some((_, file)) => Ok(file),
            None => Err(Failure::Io("no file is open".into())),
        }
    }

    fn sync(&self) {
        for (path, file) in &self.open {
            if let Err(error) = file.sync() {
                log::error!("cannot put a file on disk path={} error={error}", path.as_path().display());
            }
        }
    }
}

fn failure(path: &FilePath, verb: &str, error: &io::Error) -> Failure {
    let text = format!("cannot {verb} {}: {error}", path.as_path().display()).into();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::Full(text),
        _ => Failure::Io(text),
    }
}
