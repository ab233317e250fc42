//! State shared by senders, faults and the watcher.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::account::Account;

/// Limit on the violations shown.
const MAX_SHOWN: usize = 30;

/// The shared state.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    account: Mutex<Account>,
    violations: Mutex<Vec<String>>,
    tallies: Mutex<BTreeMap<&'static str, u64>>,
    /// Senders wait while it is set.
    held: AtomicBool,
    /// Requests sent and not yet answered.
    in_flight: AtomicUsize,
    ended: AtomicBool,
    slowest_verdict_micros: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn account(&self) -> MutexGuard<'_, Account> {
        lock(&self.account)
    }

    /// Records a violation.
    pub(crate) fn violated(&self, what: String) {
        lock(&self.violations).push(what);
    }

    /// The first violations, and their total number.
    pub(crate) fn violations(&self) -> (Vec<String>, usize) {
        let all = lock(&self.violations);
        (all.iter().take(MAX_SHOWN).cloned().collect(), all.len())
    }

    /// Counts an expected event.
    pub(crate) fn tally(&self, what: &'static str) {
        *lock(&self.tallies).entry(what).or_default() += 1;
    }

    pub(crate) fn tallies(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.tallies).clone()
    }

    /// Whether senders should wait.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// Lets senders continue.
    pub(crate) fn release(&self) {
        self.held.store(false, Ordering::SeqCst);
    }

    /// Pauses senders, and waits until no request is in flight.
    pub(crate) fn hold(&self) -> Result<(), String> {
        self.held.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + Duration::from_secs(90);
        while self.in_flight.load(Ordering::SeqCst) > 0 {
            if Instant::now() > deadline {
                return Err("requests are in flight that get no answer".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Marks a request as in flight, unless senders should wait.
    pub(crate) fn depart(&self) -> bool {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let held = self.is_held();
        if held {
            self.arrive();
        }
        !held
    }

    /// Marks it as answered.
    pub(crate) fn arrive(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub(crate) fn verdict_took(&self, time: Duration) {
        self.slowest_verdict_micros.fetch_max(time.as_micros() as u64, Ordering::SeqCst);
    }

    pub(crate) fn slowest_verdict(&self) -> Duration {
        Duration::from_micros(self.slowest_verdict_micros.load(Ordering::SeqCst))
    }
}
