//! The queue between the event loop and the writer: batches one way, outcomes the
//! other, behind one lock that is never held during I/O.
//!
//! The writer is in one of three states, which [`Progress`] names:
//!
//! ```text
//! Idle --a batch, or other work-----> Busy --done--> Idle
//!                                     Busy --longer than the stall time--> Stalled --done--> Idle
//! ```

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::batch::{Batch, Destination, Finished, Waiter, Written};
use crate::refusal::{Reason, Refusal};

/// Initial capacity of a batch, above the queue's limit so that it rarely grows;
/// untouched pages cost nothing.
const BATCH: usize = 512 * 1024;
/// The buffer of a written batch is used again if it has touched no more memory than
/// this.
const SMALL: usize = 16 * 1024;

/// The unfinished work of a closed journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Bytes not written in time; none of them was acknowledged.
    pub bytes: usize,
    /// Files that could not be synced, or not in time.
    pub files: usize,
}

/// The state of the writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Progress {
    /// Waiting for work.
    #[default]
    Idle,
    /// Working since this time.
    Busy(Instant),
    /// Working for too long: waiting callers were answered with an error.
    Stalled,
}

/// The writer's next work.
#[derive(Debug)]
pub(super) enum Work {
    /// A round of batches.
    Round(Vec<Batch>),
    /// Timed work, and a measurement of the volume.
    Due,
    /// None: the queue is closed.
    End,
}

/// The writer's results since the last call.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) finished: Vec<Finished>,
    /// Whether the writer finished some work.
    pub(super) is_freed: bool,
    pub(super) progress: Progress,
    /// Whether reports can be written, as far as known.
    pub(super) is_accepting: bool,
}

#[derive(Debug, Default)]
struct State {
    batches: Vec<Batch>,
    /// The waiters of each of `batches`.
    waiters: Vec<Vec<Waiter>>,
    /// The waiters of each batch being written.
    writing: Vec<Vec<Waiter>>,
    /// Bytes in `batches` and in the round being written.
    queued: usize,
    finished: Vec<Finished>,
    /// An empty buffer for the next batch.
    spare: Vec<u8>,
    is_freed: bool,
    waker: Option<Waker>,
    progress: Progress,
    is_failing: bool,
    is_unmeasured: bool,
    is_closing: bool,
    unsynced: usize,
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    capacity: usize,
}

/// The event loop's side.
impl Queue {
    /// An empty queue with a limit of `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), work: Condvar::new(), capacity }
    }

    /// Poisoning is irrelevant: with panic=abort a panic ends the process.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the queue is below its limit.
    pub(super) fn has_room(&self) -> bool {
        let state = self.lock();
        state.queued < self.capacity && state.progress != Progress::Stalled
    }

    /// Whether the writer is idle, or has been busy for less than `limit`.
    pub(super) fn is_prompt(&self, limit: Duration) -> bool {
        match self.lock().progress {
            Progress::Idle => true,
            Progress::Busy(since) => since.elapsed() < limit,
            Progress::Stalled => false,
        }
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.lock().progress == Progress::Stalled
    }

    /// Frees the buffer for the next batch.
    pub(super) fn free_spare(&self) {
        self.lock().spare = Vec::new();
    }

    /// Bytes pending or being written.
    pub(super) fn queued(&self) -> usize {
        self.lock().queued
    }

    /// Adds one request: `render` appends its bytes and returns an additional count; if
    /// it fails, its bytes are removed.
    pub(super) fn add<E>(
        &self,
        to: &Destination,
        mut waiter: Waiter,
        render: impl FnOnce(&mut Vec<u8>) -> Result<u64, E>,
    ) -> Result<(), E> {
        let mut state = self.lock();
        let at = state.batch_for(to);
        let batch = &mut state.batches[at];
        let start = batch.bytes.len();
        match render(&mut batch.bytes) {
            Ok(more) => waiter.count(more),
            Err(error) => {
                batch.bytes.truncate(start);
                if batch.ends.is_empty() {
                    state.batches.swap_remove(at);
                    state.waiters.swap_remove(at);
                }
                return Err(error);
            }
        }
        batch.to.format = to.format;
        batch.ends.push(batch.bytes.len());
        let added = batch.bytes.len() - start;
        state.queued += added;
        state.waiters[at].push(waiter);
        state.wake();
        Ok(())
    }

    /// Wakes the writer for added requests, and returns its results since the last
    /// call. `waker` is woken for more.
    pub(super) fn update(&self, waker: &Waker) -> Update {
        let mut state = self.lock();
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        let is_work = state.progress == Progress::Idle && (state.is_unmeasured || !state.batches.is_empty());
        if is_work {
            state.progress = Progress::Busy(Instant::now());
        }
        let update = Update {
            finished: std::mem::take(&mut state.finished),
            is_freed: std::mem::take(&mut state.is_freed),
            progress: state.progress,
            is_accepting: !state.is_failing && state.progress != Progress::Stalled,
        };
        // Without the lock: on a single CPU the woken thread would wait for it.
        drop(state);
        if is_work {
            self.work.notify_one();
        }
        update
    }

    /// Lets the writer measure the volume.
    pub(super) fn measure(&self) {
        let mut state = self.lock();
        state.is_unmeasured = !state.is_closing;
        // It starts the writer, and watches for a stall.
        state.wake();
    }

    /// If the writer has been busy for `limit`, answers all waiting callers that do not
    /// keep their requests, once. Queued requests stay queued, and count if they are
    /// written later. Returns whether a stall begins.
    pub(super) fn stall(&self, limit: Duration) -> bool {
        let mut state = self.lock();
        let Progress::Busy(since) = state.progress else { return false };
        if since.elapsed() < limit {
            return false;
        }
        state.progress = Progress::Stalled;
        let failure = Refusal::new(Reason::Stalled, "the volume has stalled; the report may be written yet");
        let State { writing, waiters, .. } = &mut *state;
        for waiter in writing.iter_mut().chain(waiters).flatten() {
            if let Waiter::Caller(caller, _) = waiter {
                let _ = caller.take().map(|caller| caller.send(Err(failure.clone())));
            }
        }
        true
    }

    /// Lets the writer end when everything is written.
    pub(super) fn close(&self) {
        self.lock().is_closing = true;
        self.work.notify_one();
    }

    /// The writer's unfinished work.
    pub(super) fn unfinished(&self) -> Unfinished {
        let state = self.lock();
        Unfinished { bytes: state.queued, files: state.unsynced }
    }
}

/// The writer's side.
impl Queue {
    /// Waits for work, until `due` at the latest.
    pub(super) fn next(&self, due: Option<Instant>) -> Work {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            // Before new batches: those may never cease.
            if std::mem::take(&mut state.is_unmeasured) || due.is_some_and(|due| due <= now) {
                state.progress = Progress::Busy(now);
                return Work::Due;
            }
            if !state.batches.is_empty() {
                state.progress = Progress::Busy(now);
                state.writing = std::mem::take(&mut state.waiters);
                return Work::Round(std::mem::take(&mut state.batches));
            }
            if state.is_closing {
                return Work::End;
            }
            state.progress = Progress::Idle;
            state = match due {
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    let waited = self.work.wait_timeout(state, due.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Returns a round with its outcomes to the event loop. See [`Self::done`].
    pub(super) fn finish(&self, batches: Vec<Batch>, written: Vec<Written>, is_accepting: bool) -> bool {
        let mut state = self.lock();
        state.finish(batches, written);
        Self::end_work(state, is_accepting)
    }

    /// Ends the writer's work; `is_accepting` is the condition of the volume. Returns
    /// whether that ends a stall.
    pub(super) fn done(&self, is_accepting: bool) -> bool {
        Self::end_work(self.lock(), is_accepting)
    }

    fn end_work(mut state: MutexGuard<'_, State>, is_accepting: bool) -> bool {
        state.is_freed = true;
        state.is_failing = !is_accepting;
        let before = std::mem::take(&mut state.progress);
        let waker = state.waker.clone();
        // Without the lock: on a single CPU the woken thread would wait for it.
        drop(state);
        waker.inspect(Waker::wake_by_ref);
        before == Progress::Stalled
    }

    /// Ends the writer; `unsynced` files could not be synced.
    pub(super) fn end(&self, unsynced: usize) {
        self.lock().unsynced = unsynced;
    }
}

impl State {
    /// The batch of a file, created if needed.
    fn batch_for(&mut self, to: &Destination) -> usize {
        if let Some(at) = self.batches.iter().position(|batch| batch.to.path == to.path) {
            return at;
        }
        let mut bytes = std::mem::take(&mut self.spare);
        bytes.reserve_exact(BATCH);
        self.batches.push(Batch { to: to.clone(), bytes, ends: Vec::new() });
        self.waiters.push(Vec::new());
        self.batches.len() - 1
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    fn finish(&mut self, batches: Vec<Batch>, written: Vec<Written>) {
        let writing = std::mem::take(&mut self.writing);
        for ((mut batch, waiters), written) in batches.into_iter().zip(writing).zip(written) {
            self.queued -= batch.bytes.len();
            if batch.bytes.len() <= SMALL {
                self.spare = std::mem::take(&mut batch.bytes);
                self.spare.clear();
            }
            self.finished.push(Finished::new(batch, waiters, written));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::super::batch::{Outcome, Tally};
    use super::*;
    use crate::metrics::Counter;
    use crate::render::Format;
    use crate::volume::Volume;

    fn file(name: &str) -> Destination {
        let volume = Volume::open(&std::env::temp_dir()).unwrap();
        Destination { path: volume.resolve(name.as_bytes()).unwrap(), format: Format::Text }
    }

    /// Adds a request of 10 bytes.
    fn add(queue: &Queue, name: &str, counter: &Arc<Counter>) -> oneshot::Receiver<Outcome> {
        let (caller, outcome) = oneshot::channel();
        let waiter = Waiter::Caller(Some(caller), Tally { counter: Arc::clone(counter), count: 2 });
        let render = |out: &mut Vec<u8>| {
            out.extend_from_slice(&[b'x'; 10]);
            Ok::<_, ()>(0)
        };
        queue.add(&file(name), waiter, render).unwrap();
        outcome
    }

    fn round(queue: &Queue) -> Vec<Batch> {
        match queue.next(None) {
            Work::Round(batches) => batches,
            other => panic!("{other:?}"),
        }
    }

    fn answer(queue: &Queue) -> Update {
        let mut turn = queue.update(Waker::noop());
        turn.finished.drain(..).for_each(Finished::answer);
        turn
    }

    const WRITTEN: Written = Written { whole: usize::MAX, failure: None };

    #[test]
    fn requests_that_are_whole_in_the_file_are_written_and_the_others_are_not() {
        let (queue, counter) = (Queue::new(1000), Arc::default());
        let mut outcomes: Vec<_> = (0..4).map(|_| add(&queue, "a", &counter)).collect();
        let batches = round(&queue);
        assert_eq!(batches[0].ends, [10, 20, 30, 40]);
        let failure = Some(Refusal::new(Reason::Full, "full"));
        queue.finish(batches, vec![Written { whole: 3, failure }], false);
        assert!(!answer(&queue).is_accepting);
        let told = outcomes.iter_mut().map(|outcome| outcome.try_recv().unwrap().is_ok());
        assert_eq!(told.collect::<Vec<_>>(), [true, true, true, false]);
        assert_eq!((counter.get(), queue.queued()), (6, 0));
    }

    #[test]
    fn a_stall_is_answered_once_and_what_is_written_after_it_is_counted() {
        let (queue, counter) = (Queue::new(1000), Arc::default());
        let mut writing = add(&queue, "a", &counter);
        let batches = round(&queue);
        let mut waiting = add(&queue, "b", &counter);
        assert!(!queue.stall(Duration::from_secs(3600)));
        assert!(queue.has_room());
        assert!(queue.stall(Duration::ZERO) && !queue.stall(Duration::ZERO));
        assert!(!queue.has_room());
        let turn = answer(&queue);
        assert_eq!((turn.is_accepting, turn.progress), (false, Progress::Stalled));
        for outcome in [&mut writing, &mut waiting] {
            assert_eq!(outcome.try_recv().unwrap().unwrap_err().reason, Reason::Stalled);
        }
        assert_eq!(queue.queued(), 20);
        assert!(queue.finish(batches, vec![WRITTEN], true), "the end of the stall");
        let turn = answer(&queue);
        assert!(turn.is_freed && turn.is_accepting);
        let batches = round(&queue);
        assert!(!queue.finish(batches, vec![WRITTEN], true));
        answer(&queue);
        assert_eq!((counter.get(), queue.queued()), (4, 0));
    }

    #[test]
    fn a_request_that_is_kept_is_answered_when_its_outcome_is_known_and_not_before() {
        let (queue, counter) = (Queue::new(1000), Arc::default());
        let (caller, mut outcome) = oneshot::channel();
        let waiter = Waiter::Keeper(caller, Tally { counter: Arc::clone(&counter), count: 0 });
        queue.add(&file("a"), waiter, |_| Ok::<_, ()>(2)).unwrap();
        let batches = round(&queue);
        assert!(queue.stall(Duration::ZERO));
        answer(&queue);
        assert!(outcome.try_recv().is_err());
        queue.finish(batches, vec![WRITTEN], true);
        answer(&queue);
        assert!(outcome.try_recv().unwrap().is_ok());
        assert_eq!(counter.get(), 2);
    }

    #[test]
    fn a_request_whose_caller_has_gone_is_counted_and_one_that_nobody_waits_for_if_it_fails() {
        let (queue, counter, errors) = (Queue::new(1000), Arc::default(), Arc::<Counter>::default());
        drop(add(&queue, "a", &counter));
        let waiter = Waiter::Nobody(Arc::clone(&errors));
        queue.add(&file("b"), waiter, |_| Ok::<_, ()>(0)).unwrap();
        let failure = Some(Refusal::new(Reason::Full, "full"));
        queue.finish(round(&queue), vec![WRITTEN, Written { whole: 0, failure }], true);
        answer(&queue);
        assert_eq!((counter.get(), errors.get()), (2, 1));
    }

    #[test]
    fn what_fails_to_render_leaves_nothing_behind() {
        let (queue, counter) = (Queue::new(1000), Arc::default());
        let fail = |name| {
            let render = |out: &mut Vec<u8>| {
                out.push(b'y');
                Err("no")
            };
            queue.add(&file(name), Waiter::Nobody(Arc::default()), render).unwrap_err()
        };
        fail("a");
        let _outcome = add(&queue, "a", &counter);
        fail("a");
        fail("b");
        let batches = round(&queue);
        assert_eq!((batches.len(), &*batches[0].bytes, &*batches[0].ends), (1, &[b'x'; 10][..], &[10][..]));
    }

    #[test]
    fn what_is_due_comes_before_what_arrives_and_the_end_after_all() {
        let (queue, counter) = (Queue::new(1000), Arc::default());
        let _outcome = add(&queue, "a", &counter);
        queue.close();
        assert!(matches!(queue.next(Some(Instant::now())), Work::Due));
        assert!(matches!(queue.next(Some(Instant::now() + Duration::from_secs(3600))), Work::Round(_)));
        assert!(matches!(queue.next(None), Work::End));
    }
}
