//! Access logs (`envoy.service.accesslog.v3`): one stream for each worker of an Envoy,
//! open for days. Its messages are not acknowledged.
//!
//! So every message is written, or kept and retried, and meanwhile its stream is not
//! read: Envoy buffers 16 MiB of a stream, and counts the entries that it drops beyond
//! that.

use std::sync::Arc;

use records::envoy::entry::{Entry, Kind};
use records::envoy::identifier::Identifier;
use records::envoy::message::{self, Entries};
use records::envoy::observation;
use records::protobuf::wire::Malformed;
use records::render::{bound, go};

use super::log::{GROWTH, HTTP, Log, MALFORMED, MAX_RENDERED, TCP, TOO_LONG};
use super::partial::{Action, Partial, Rules};
use crate::histogram::{Histogram, Observation, Observations};
use crate::journal::{Destination, Journal, OnStall};
use crate::memory;
use crate::message::Message;
use crate::quoted::quoted;
use crate::refusal::{Reason, Refusal, Scope};
use crate::render::Format;

/// Approximate rendered bytes of one append; a message that renders to more is appended
/// in several parts.
const PART: usize = 128 * 1024;

/// All but the names of Envoy's extensions, which are nearly all of an identifier.
static RULES: Rules = Rules { action, max_kept: MAX_MESSAGE, keeps_malformed: true };

/// No message is longer.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// The fields around these names.
const IDENTIFIER: i32 = 1;
const NODE: i32 = 1;
const EXTENSIONS: i32 = 9;

/// The first byte of a message that begins with an identifier.
pub const IDENTIFIED: u8 = (IDENTIFIER as u8) << 3 | 2;

/// A message of which nothing was received, to be kept without these names.
pub fn without_extensions() -> Partial {
    Partial::new(&RULES)
}

fn action(depth: usize, number: i32) -> Action {
    match (depth, number) {
        (0, IDENTIFIER) | (1, NODE) => Action::Enter,
        (2, EXTENSIONS) => Action::Drop,
        _ => Action::Keep,
    }
}

/// One stream: its sender, and the destination of its lines.
#[derive(Debug)]
pub struct Stream {
    log: Arc<Log>,
    sender: Identifier,
    to: Option<Destination>,
}

impl Stream {
    /// A stream before its first message.
    pub fn new(log: Arc<Log>) -> Self {
        Self { log, sender: Identifier::default(), to: None }
    }

    /// Writes the entries of a message, however long that takes. Ends early only at
    /// shutdown.
    ///
    /// # Errors
    ///
    /// The message is malformed. Its earlier entries are written.
    pub async fn take<H>(&mut self, message: Message<H>) -> Result<(), Refusal> {
        let mut over = self.log.over();
        let taken = tokio::select! {
            biased;
            taken = self.write(&message.bytes) => taken,
            _ = over.wait_for(|is_over| *is_over) => Ok(()),
        };
        taken.inspect_err(|refusal| self.log_malformed(refusal))
    }

    /// Logs malformed messages once for each sender.
    fn log_malformed(&self, refusal: &Refusal) {
        if self.log.logged.is_due(self.sender.node()) {
            log::warn!(
                "a stream of access logs is ended node={} error={refusal}",
                quoted(self.sender.node())
            );
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let message = message::Message::read(bytes).map_err(refused)?;
        if message.is_identified() {
            (self.sender, self.to) = (message.identifier().map_err(refused)?, None);
        }
        let mut left = Left { entries: message.entries(), log: &self.log };
        let Some(journal) = &self.log.journal else { return self.observe(&mut left.entries) };
        loop {
            let to = match &mut self.to {
                Some(to) => to,
                none => none.insert(self.log.files.of(journal, &self.sender)?),
            };
            let part = Part::new(&self.log.histogram, &self.sender, to.format());
            match append(journal, to, &mut left, part, bytes.len()).await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(Failed::Malformed(malformed)) => return Err(refused(malformed)),
                Err(Failed::NotWritten(failure)) => {
                    // A failure of one sender's file must not affect the others.
                    let is_of_file = failure.scope == Scope::File || failure.reason == Reason::Path;
                    if self.log.files.are_many() && is_of_file {
                        self.to = Some(self.log.files.common(journal)?);
                    }
                    journal.is_worth_a_retry().await;
                }
            }
        }
    }

    /// Adds entries to the histogram when there is no volume.
    fn observe(&self, entries: &mut Entries) -> Result<(), Refusal> {
        let mut part = Part::new(&self.log.histogram, &self.sender, Format::Text);
        let (mut entry, counter) = (Entry::default(), self.log.entries.at(index(entries.kind())));
        for item in entries {
            let (kind, bytes) = item.map_err(refused)?;
            if entry.read(kind, bytes).is_err() {
                part.skipped[MALFORMED] += 1;
                continue;
            }
            part.note(&entry);
            counter.add(1);
        }
        part.count(&self.log);
        Ok(())
    }
}

fn refused(malformed: Malformed) -> Refusal {
    Refusal::new(Reason::Malformed, format!("not a message of access logs: {malformed}"))
}

/// The index of a kind's counter.
fn index(kind: Kind) -> usize {
    match kind {
        Kind::Http => HTTP,
        Kind::Tcp => TCP,
    }
}

/// The entries of a message that are neither written nor queued. Dropping it counts the
/// rest as lost.
#[derive(Debug)]
struct Left<'a> {
    entries: Entries<'a>,
    log: &'a Log,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.log.dropped.add(self.entries.by_ref().count() as u64);
    }
}

/// Why entries were not written.
#[derive(Debug)]
enum Failed {
    Malformed(Malformed),
    NotWritten(Refusal),
}

/// Appends the next part of the entries and waits until it is written. Returns whether
/// more may follow.
async fn append(
    journal: &Journal,
    to: &Destination,
    left: &mut Left<'_>,
    mut part: Part<'_>,
    bytes: usize,
) -> Result<bool, Failed> {
    let room = journal.room(bytes.saturating_mul(GROWTH)).await.map_err(Failed::NotWritten)?;
    let start = left.entries.clone();
    let counter = left.log.entries.at(index(left.entries.kind()));
    let render = |out: &mut Vec<u8>| part.render(&mut left.entries, out);
    if let Ok(pending) = journal.append_lines(room, to, counter, OnStall::Wait, render)
        && let Err(failure) = pending.written().await
    {
        left.entries = start;
        return Err(Failed::NotWritten(failure));
    }
    part.count(left.log);
    match part.malformed {
        Some(malformed) => Err(Failed::Malformed(malformed)),
        None => Ok(!part.is_last),
    }
}

/// A part of a message, rendered at once.
struct Part<'s> {
    histogram: &'s Histogram,
    sender: &'s Identifier,
    format: Format,
    observations: Observations,
    /// The status of an observation.
    status: Vec<u8>,
    skipped: [u64; 2],
    /// Whether it is the last part.
    is_last: bool,
    /// Why the list of entries ends early.
    malformed: Option<Malformed>,
}

/// A part without lines.
struct Empty;

impl<'s> Part<'s> {
    fn new(histogram: &'s Histogram, sender: &'s Identifier, format: Format) -> Self {
        let (observations, status, skipped) = Default::default();
        Self { histogram, sender, format, observations, status, skipped, is_last: false, malformed: None }
    }

    /// Renders entries while they fit, and returns the number of lines.
    fn render(&mut self, entries: &mut Entries, out: &mut Vec<u8>) -> Result<u64, Empty> {
        let end = out.len() + PART;
        let (mut entry, mut lines) = (Entry::default(), 0);
        loop {
            let before = entries.clone();
            let Some((kind, bytes)) = self.next(entries) else { break };
            let room = end.saturating_sub(out.len());
            if !bound::fits(self.format, bytes, self.sender.shared(), room) {
                if lines > 0 {
                    *entries = before;
                    self.is_last = false;
                    break;
                }
                if !self.make_room(bytes, out) {
                    self.skipped[TOO_LONG] += 1;
                    continue;
                }
            }
            if entry.read(kind, bytes).is_err() {
                self.skipped[MALFORMED] += 1;
                continue;
            }
            records::envoy::line(out, self.format, &mut entry, self.sender);
            self.note(&entry);
            lines += 1;
        }
        if lines == 0 { Err(Empty) } else { Ok(lines) }
    }

    fn next<'a>(&mut self, entries: &mut Entries<'a>) -> Option<(Kind, &'a [u8])> {
        match entries.next() {
            Some(Ok(entry)) => Some(entry),
            end => {
                self.is_last = true;
                self.malformed = end.and_then(Result::err);
                None
            }
        }
    }

    /// Makes room for a part's only line, if it is not too long.
    fn make_room(&self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let need = bound::need(self.format, bytes, MAX_RENDERED).saturating_add(self.sender.shared());
        let fits = need <= MAX_RENDERED;
        if fits {
            memory::reserve(out, need);
        }
        fits
    }

    /// Observes the end of a request.
    fn note(&mut self, entry: &Entry) {
        let Some(seen) = observation::Observation::of(entry) else { return };
        self.status.clear();
        go::int(&mut self.status, seen.status.into());
        let observation = Observation {
            url: seen.path,
            host: seen.host,
            method: seen.method.as_bytes(),
            status: &self.status,
            seconds: seen.seconds,
        };
        self.histogram.note(&observation, &mut self.observations);
    }

    /// Counts the part once it is written.
    fn count(&self, log: &Log) {
        log.histogram.add(&self.observations);
        for (reason, count) in self.skipped.iter().enumerate() {
            log.skipped.at(reason).add(*count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Said = (Identifier, Vec<Vec<u8>>, Option<Malformed>);

    /// What a message says, if it is one.
    fn read(bytes: &[u8]) -> Result<Said, Malformed> {
        let message = message::Message::read(bytes)?;
        let (mut entries, mut malformed) = (Vec::new(), None);
        for entry in message.entries() {
            match entry {
                Ok((_, entry)) => entries.push(entry.to_vec()),
                Err(error) => malformed = Some(error),
            }
        }
        Ok((message.identifier()?, entries, malformed))
    }

    fn kept(bytes: &[u8], step: usize) -> Vec<u8> {
        let mut partial = without_extensions();
        bytes.chunks(step).for_each(|piece| assert!(partial.push(piece).is_ok()));
        partial.into_kept()
    }

    fn first() -> Vec<u8> {
        let path = "/tests/captures/envoy/als-http/01-get-first-with-identifier.bin";
        std::fs::read([env!("CARGO_MANIFEST_DIR"), path].concat()).unwrap()
    }

    #[test]
    fn a_message_says_the_same_without_extensions_and_is_short() {
        let bytes = first();
        for step in [1, 7, 4_096, 16_379, 100_000] {
            let kept = kept(&bytes, step);
            assert!(read(&kept) == read(&bytes), "in steps of {step}");
            assert!(read(&kept).is_ok() && kept.len() < 2_048, "{} bytes in steps of {step}", kept.len());
        }
    }

    #[test]
    fn a_message_that_is_cut_or_damaged_says_no_more_without_extensions() {
        let bytes = first();
        for end in (0..bytes.len()).step_by(61) {
            assert!(read(&kept(&bytes[..end], 4_096)).ok() == read(&bytes[..end]).ok(), "cut at {end}");
        }
        // The start and the end: what is between are extensions.
        for at in (0..600).chain(bytes.len() - 1_000..bytes.len()) {
            for value in [0, 0x0b, 0x4b, 0x7f, 0xff, bytes[at] ^ 1] {
                let damaged = [&bytes[..at], &[value], &bytes[at + 1..]].concat();
                assert!(read(&kept(&damaged, 4_096)).ok() == read(&damaged).ok(), "{value} at {at}");
            }
        }
    }
}
