//! Limits a log message to one per peer or name, for a bounded number of them.

use std::sync::{Mutex, PoisonError};

/// Limit on remembered keys; for others nothing is logged.
const MAX_KEYS: usize = 64;
/// Limit on the remembered bytes of a key.
const MAX_KEY: usize = 128;

/// Keys that were logged.
#[derive(Debug, Default)]
pub struct Once(Mutex<Vec<Box<[u8]>>>);

impl Once {
    /// Whether a key is new, and there is room to remember it.
    pub fn is_first(&self, key: &[u8]) -> bool {
        let key = &key[..key.len().min(MAX_KEY)];
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = keys.len() < MAX_KEYS && !keys.iter().any(|known| **known == *key);
        if is_first {
            keys.push(key.into());
        }
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_first_once_and_only_some_are_remembered() {
        let once = Once::default();
        assert!(once.is_first(b"a") && !once.is_first(b"a") && once.is_first(b""));
        let firsts = (0..1000_u32).filter(|key| once.is_first(&key.to_le_bytes())).count();
        assert_eq!(firsts, MAX_KEYS - 2);
        assert!(!once.is_first(b"a"));
    }
}
