//! A message for a front end: its bytes, and how long it may wait.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// A message. `H` is its permit: a share of the server's budgets, released on drop.
#[derive(Debug)]
pub struct Message<H> {
    /// The encoded message.
    pub bytes: Bytes,
    /// How long it may still wait for room.
    pub patience: Patience,
    /// Its share of the server's budgets.
    pub held: H,
}

impl<H> Message<H> {
    /// Copies a small message out of the shared read buffer, so that waiting does not
    /// pin the buffer. A message of 16 KiB or more has its own buffer.
    pub fn detach(&mut self) {
        if self.bytes.len() < 16 * 1024 {
            self.bytes = Bytes::copy_from_slice(&self.bytes);
        }
    }
}

/// How long a request may still wait for room, over all of its waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    left: Duration,
    /// The caller's deadline.
    deadline: Option<Instant>,
}

/// Whose limit a wait exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// The queue timeout.
    Queue,
    /// The caller's deadline.
    Caller,
}

impl Patience {
    /// For a new request that may wait for `left`, and whose caller waits for
    /// `timeout`, if given.
    pub fn new(left: Duration, timeout: Option<Duration>) -> Self {
        Self { left, deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)) }
    }

    /// Whether the caller's deadline has passed.
    pub fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Waits for `room` and deducts the time it took.
    pub async fn wait<T>(&mut self, room: impl Future<Output = T>) -> Result<T, Late> {
        let start = Instant::now();
        let until = start.checked_add(self.left).into_iter().chain(self.deadline).min();
        let waited = match until {
            Some(until) => tokio::time::timeout_at(until.into(), room).await,
            None => Ok(room.await),
        };
        self.left = self.left.saturating_sub(start.elapsed());
        waited.map_err(|_| if self.is_over() { Late::Caller } else { Late::Queue })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_waits_for_the_timeout_once_wherever_it_waits() {
        let mut patience = Patience { left: Duration::from_millis(20), deadline: None };
        assert_eq!(patience.wait(async { 1 }).await, Ok(1));
        assert_eq!(patience.wait(std::future::pending::<()>()).await, Err(Late::Queue));
        assert_eq!(patience.left, Duration::ZERO);
        let deadline = Some(Instant::now());
        let mut patience = Patience { left: Duration::from_secs(3600), deadline };
        assert_eq!(patience.wait(std::future::pending::<()>()).await, Err(Late::Caller));
    }
}
