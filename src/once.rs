//! Limits a log message to one per key and period, for a bounded number of keys.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Limit on remembered keys; for others nothing is logged.
const MAX_KEYS: usize = 64;
/// Limit on the remembered bytes of a key.
const MAX_KEY: usize = 128;
/// How long a key is remembered: a message that still applies is seen again, and peers
/// that are gone leave room for others.
const PERIOD: Duration = Duration::from_secs(600);

/// Keys that were logged, and when.
#[derive(Debug, Default)]
pub struct Once(Mutex<Vec<(Box<[u8]>, Instant)>>);

impl Once {
    /// Whether a key is due: it was not in this period, and there is room to remember
    /// it.
    pub fn is_due(&self, key: &[u8]) -> bool {
        self.is_due_at(Instant::now(), key)
    }

    fn is_due_at(&self, now: Instant, key: &[u8]) -> bool {
        let key = &key[..key.len().min(MAX_KEY)];
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|(_, logged)| now.duration_since(*logged) < PERIOD);
        let is_due = keys.len() < MAX_KEYS && !keys.iter().any(|(known, _)| **known == *key);
        if is_due {
            keys.push((key.into(), now));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_due_once_in_a_period_and_only_some_are_remembered() {
        let (once, start) = (Once::default(), Instant::now());
        let is_due = |key: &[u8]| once.is_due_at(start, key);
        assert!(is_due(b"a") && !is_due(b"a") && is_due(b""));
        let count = (0..1000_u32).filter(|key| is_due(&key.to_le_bytes())).count();
        assert_eq!(count, MAX_KEYS - 2);
        assert!(!is_due(b"a"));
        assert!(!once.is_due_at(start + PERIOD / 2, b"a") && once.is_due_at(start + PERIOD, b"a"));
        assert!(once.is_due_at(start + PERIOD, b"new"));
    }
}
