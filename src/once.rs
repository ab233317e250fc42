//! Limits a log message to one per key and period, for a bounded number of keys. What
//! is left out for lack of room is logged once in a period, too.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Limit on remembered keys; others are not logged.
const MAX_KEYS: usize = 64;
/// Limit on the remembered bytes of a key.
const MAX_KEY: usize = 128;
/// How long a key is remembered: a message that still applies is seen again, and peers
/// that are gone leave room for others.
const PERIOD: Duration = Duration::from_secs(600);

/// Keys that were logged, and when.
#[derive(Debug, Default)]
pub struct Once(Mutex<Keys>);

#[derive(Debug, Default)]
struct Keys {
    logged: Vec<(Box<[u8]>, Instant)>,
    /// When a lack of room was logged.
    full: Option<Instant>,
}

impl Once {
    /// Whether a key is due: it was not in this period, and there is room to remember
    /// it.
    pub fn is_due(&self, key: &[u8]) -> bool {
        self.is_due_at(Instant::now(), key)
    }

    fn is_due_at(&self, now: Instant, key: &[u8]) -> bool {
        let key = &key[..key.len().min(MAX_KEY)];
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |logged: Instant| now.duration_since(logged) < PERIOD;
        keys.logged.retain(|(_, logged)| is_recent(*logged));
        if keys.logged.iter().any(|(known, _)| **known == *key) {
            return false;
        }
        if keys.logged.len() < MAX_KEYS {
            keys.logged.push((key.into(), now));
            return true;
        }
        if !keys.full.is_some_and(is_recent) {
            keys.full = Some(now);
            log::warn!(
                "more than {MAX_KEYS} different lines of a kind in {} minutes; the rest is not logged first={}",
                PERIOD.as_secs() / 60,
                key.escape_ascii()
            );
        }
        false
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
        assert_eq!(once.0.lock().unwrap().full, Some(start));
    }
}
