//! Shared by both log services: the journal, files, counters, and the messages still
//! pending at shutdown.

use std::sync::Arc;

use tokio::sync::watch;

use super::files::Files;
use crate::histogram::Histogram;
use crate::journal::Journal;
use crate::metrics::{Counter, Export, Family, Page};
use crate::once::Once;

/// Limit on the rendered bytes of one request.
pub(super) const MAX_RENDERED: usize = 8 * 1024 * 1024;

/// The usual upper bound of a message's growth.
pub(super) const GROWTH: usize = 4;

/// The kinds of entries, in the order of [`Log::entries`].
pub(super) const HTTP: usize = 0;
pub(super) const TCP: usize = 1;
pub(super) const OTLP: usize = 2;

/// Reasons why an entry has no line, in the order of [`Log::skipped`].
pub(super) const MALFORMED: usize = 0;
pub(super) const TOO_LONG: usize = 1;

/// The destination of logs, and their counters.
#[derive(Debug)]
pub struct Log {
    /// For lines; `None` without a volume.
    pub(super) journal: Option<Arc<Journal>>,
    /// For the ends of requests.
    pub(super) histogram: Arc<Histogram>,
    /// The files of the senders.
    pub(super) files: Files,
    /// Lines written, by kind.
    pub(super) entries: Family<3>,
    /// Entries without a line.
    pub(super) skipped: Family<2>,
    /// Entries that were received and never written.
    pub(super) dropped: Counter,
    /// Senders whose malformed messages were logged.
    pub(super) logged: Once,
    /// Set when pending messages are dropped. Each pending message has a receiver.
    over: watch::Sender<bool>,
}

impl Log {
    /// A service without any entries yet.
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
        let (dropped, logged, over) = (Counter::default(), Once::default(), watch::Sender::new(false));
        Self { journal, histogram, files, entries, skipped, dropped, logged, over }
    }

    /// Whether the volume, if there is one, is prompt.
    pub fn is_prompt(&self) -> bool {
        self.journal.as_ref().is_none_or(|journal| journal.is_prompt())
    }

    /// Signals that pending messages are dropped; a message is pending while it holds
    /// this.
    pub(super) fn over(&self) -> watch::Receiver<bool> {
        self.over.subscribe()
    }

    /// Waits until no message is pending.
    pub async fn settled(&self) {
        self.over.closed().await;
    }

    /// Drops the pending messages. Returns the number of their unwritten entries.
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
            "Streams, and resources of exports, whose lines went to the common file.",
            &self.files.overflowed,
        );
        None
    }
}
