//! What all connections read in one turn of the event loop.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

/// Bytes that all connections together may read before the handlers run. Bytes just
/// read are in memory, but not yet in any budget.
const BYTES: usize = 512 * 1024;
/// The number of tasks that wake each other until a message has a handler.
const HOPS: usize = 3;

/// The bytes read in this turn, and the connections that wait for the next. A few whole
/// messages take less memory than a part of each.
#[derive(Debug, Default)]
pub(super) struct Turns {
    read: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
}

impl Turns {
    /// Whether more may be read; if not, `waker` is woken in the next turn.
    pub(super) fn has_room(&self, waker: &Waker) -> bool {
        let has_room = self.read.load(Relaxed) < BYTES;
        if !has_room {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(waker.clone());
        }
        has_room
    }

    /// Counts bytes that were read.
    pub(super) fn took(self: &Arc<Self>, bytes: usize) {
        let before = self.read.fetch_add(bytes, Relaxed);
        if before < BYTES && before + bytes >= BYTES {
            tokio::spawn(Arc::clone(self).end());
        }
    }

    /// Ends the turn behind the tasks that handle what was read.
    async fn end(self: Arc<Self>) {
        for _ in 0..HOPS {
            tokio::task::yield_now().await;
        }
        self.read.store(0, Relaxed);
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn connections_wait_until_what_others_read_is_handled() {
        let (turns, unhandled) = (Arc::<Turns>::default(), Arc::new(AtomicUsize::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (turns, unhandled) = (Arc::clone(&turns), Arc::clone(&unhandled));
            tasks.spawn(async move {
                poll_fn(|context| match turns.has_room(context.waker()) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                })
                .await;
                turns.took(BYTES / 4);
                let before = unhandled.fetch_add(1, Relaxed);
                // A call, and the task of its stream.
                let stream = async move { unhandled.fetch_sub(1, Relaxed) };
                let call = async move { tokio::spawn(stream).await.unwrap() };
                tokio::spawn(call).await.unwrap();
                before
            });
        }
        let most = tasks.join_all().await.into_iter().max();
        assert_eq!((most, unhandled.load(Relaxed)), (Some(3), 0));
    }
}
