//! Maps senders to files.

use std::sync::{Mutex, PoisonError};

use records::envoy::identifier::Identifier;

use crate::journal::{Destination, Journal};
use crate::metrics::Counter;
use crate::refusal::Refusal;
use crate::volume::pattern::Pattern;

/// Limit on files named by senders; further senders share the common file.
const MAX_FILES: usize = 256;

/// The files of `--access-log`.
#[derive(Debug)]
pub struct Files {
    pattern: Pattern,
    /// The named paths, sorted.
    known: Mutex<Vec<Box<[u8]>>>,
    /// Senders that share the common file.
    pub overflowed: Counter,
}

impl Files {
    /// No files yet.
    pub fn new(pattern: Pattern) -> Self {
        Self { pattern, known: Mutex::default(), overflowed: Counter::default() }
    }

    /// Whether senders have separate files.
    pub fn are_many(&self) -> bool {
        self.pattern.is_filled()
    }

    /// The file of a sender. It is the common file beyond the limit, and if the names
    /// make no valid path.
    ///
    /// # Errors
    ///
    /// The common file's path breaks a rule, which the start-up checks exclude.
    pub fn of(&self, journal: &Journal, sender: &Identifier) -> Result<Destination, Refusal> {
        let path = self.pattern.fill([sender.log_name(), sender.namespace(), sender.pod()]);
        match journal.destination(&path, None) {
            Ok(own) if !self.are_many() || self.is_known(path) => Ok(own),
            _ => self.common(journal),
        }
    }

    /// The common file, counted.
    ///
    /// # Errors
    ///
    /// As [`Self::of`].
    pub fn common(&self, journal: &Journal) -> Result<Destination, Refusal> {
        self.overflowed.add(1);
        let common = journal.destination(&self.pattern.common(), None)?;
        if self.overflowed.get() == 1 {
            log::warn!(
                "access logs go to a common file, as too many are named or one can't be path={common}"
            );
        }
        Ok(common)
    }

    /// Remembers a path; returns `false` beyond the limit.
    fn is_known(&self, path: Vec<u8>) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.binary_search_by(|other| (**other).cmp(&path)) {
            Ok(_) => true,
            Err(at) if known.len() < MAX_FILES => {
                known.insert(at, path.into());
                true
            }
            Err(_) => false,
        }
    }
}
