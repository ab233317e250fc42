//! Steps of handshakes, one of all per turn of the event loop.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::Semaphore;

/// The permit to compute a step, granted in order of arrival.
#[derive(Debug)]
pub(super) struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

impl Turns {
    /// Polls a future only with the permit, and keeps the permit until the next turn.
    pub(super) async fn pace<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            let permit = self.0.acquire().await;
            let alarm = poll_fn(|context| Poll::Ready(Alarm::new(context))).await;
            let waker = Waker::from(Arc::clone(&alarm));
            let step = future.as_mut().poll(&mut Context::from_waker(&waker));
            tokio::task::yield_now().await;
            drop(permit);
            match step {
                Poll::Ready(output) => return output,
                Poll::Pending => alarm.rung().await,
            }
        }
    }
}

/// Notes that the future can go on: a task alone does not know why it was woken.
struct Alarm {
    rings: AtomicBool,
    task: Waker,
}

impl Alarm {
    fn new(context: &Context<'_>) -> Arc<Self> {
        Arc::new(Self { rings: AtomicBool::new(false), task: context.waker().clone() })
    }

    /// Waits until the future can go on.
    async fn rung(&self) {
        poll_fn(|_| if self.rings.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rings.store(true, Relaxed);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A future that is ready after `polls`, and notes each of them.
    async fn noting(polls: usize, letter: u8, notes: Arc<Mutex<Vec<u8>>>) {
        let mut left = polls;
        poll_fn(|context| {
            notes.lock().unwrap().push(letter);
            left -= 1;
            context.waker().wake_by_ref();
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    #[tokio::test]
    async fn one_step_of_all_handshakes_is_computed_per_turn() {
        let (notes, turns) = (Arc::default(), Arc::<Turns>::default());
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (turns, handshake) = (Arc::clone(&turns), noting(10, b'h', Arc::clone(&notes)));
            tasks.spawn(async move { turns.pace(handshake).await });
        }
        tasks.spawn(noting(10_000, b'c', Arc::clone(&notes)));
        tasks.join_all().await;
        let notes = notes.lock().unwrap();
        assert_eq!(notes.iter().filter(|note| **note == b'h').count(), 500);
        let last_call = notes.iter().rposition(|note| *note == b'c').unwrap();
        let longest = notes[..last_call].split(|note| *note == b'c').map(<[u8]>::len).max();
        assert_eq!(longest, Some(1));
    }
}
