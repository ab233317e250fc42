//! What both services of logs need: the journal, files, counters; and what is left
//! of messages that were read, when the adapter stops.

use std::sync::Arc;

use tokio::sync::watch;

use super::files::Files;
use crate::histogram::Histogram;
use crate::journal::Journal;
use crate::metrics::{Counter, Export, Family, Page};
use crate::once::Once;

/// The most bytes that one request may become.
pub(super) const MAX_RENDERED: usize = 8 * 1024 * 1024;

/// The kinds of entries, in the order of [`Log::entries`].
pub(super) const HTTP: usize = 0;
pub(super) const TCP: usize = 1;
pub(super) const OTLP: usize = 2;

/// Why an entry has no line, in the order of [`Log::skipped`].
pub(super) const MALFORMED: usize = 0;
pub(super) const TOO_LONG: usize = 1;

/// Where logs go, and what is counted of them.
#[derive(Debug)]
pub struct Log {
    /// Where lines go, unless there is no volume.
    pub(super) journal: Option<Arc<Journal>>,
    /// What the ends of requests are added to.
    pub(super) histogram: Arc<Histogram>,
    /// Which file a sender's lines go to.
    pub(super) files: Files,
    /// Lines written, by kind.
    pub(super) entries: Family<3>,
    /// Entries without a line.
    pub(super) skipped: Family<2>,
    /// Entries that were read and never written.
    pub(super) dropped: Counter,
    /// Senders of malformed messages that were logged.
    pub(super) told: Once,
    /// Set when messages are kept no longer. Each that is kept has a receiver.
    over: watch::Sender<bool>,
}

impl Log {
    /// Nothing yet.
    pub fn new(journal: Option<Arc<Journal>>, histogram: Arc<Histogram>, files: Files) -> Self {
        let entries = Family::new(
            "mygrpcadapter_access_log_entries_total",
            "Entries of access logs and log records written.",
            "kind",
            ["http", "tcp", "otlp"],
        );
        let skipped = Family::new(
            "mygrpcadapter_access_log_skipped_total",
            "Entries that are malformed, or whose line would be too long.",
            "reason",
            ["malformed", "too_long"],
        );
        let (dropped, told, over) = (Counter::default(), Once::default(), watch::Sender::new(false));
        Self { journal, histogram, files, entries, skipped, dropped, told, over }
    }

    /// Ends when messages are kept no longer; a message is kept as long as this is.
    pub(super) fn over(&self) -> watch::Receiver<bool> {
        self.over.subscribe()
    }

    /// Waits until no message is kept.
    pub async fn settled(&self) {
        self.over.closed().await;
    }

    /// Drops the messages that are still kept. Returns how many of their entries
    /// are in no file.
    pub async fn end(&self) -> u64 {
        self.over.send_replace(true);
        self.settled().await;
        self.dropped.get()
    }
}

impl Export for Log {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        self.entries.export(page);
        self.skipped.export(page);
        page.counter(
            "mygrpcadapter_access_log_dropped_total",
            "Entries that were read and not written, as the adapter stopped.",
            &self.dropped,
        );
        page.counter(
            "mygrpcadapter_access_log_overflow_total",
            "Streams and requests whose lines went to the common file.",
            &self.files.overflowed,
        );
        None
    }
}
