//! A report: its instances, rendered into the batch of its file.

use bytes::Bytes;

use super::config::{self, Config};
use super::templates::VARIABLES;
use super::wire::Malformed;
use super::{Mixer, walk};
use crate::grpc::budget::{Late, Patience};
use crate::grpc::messages::Message;
use crate::histogram::Observations;
use crate::journal::{Failure, Reason, Tally};
use crate::memory;
use crate::record::Record;
use crate::render::{Format, Style};
use crate::template::Template;

/// The most instances one request may bring.
pub const MAX_INSTANCES: usize = 65_536;
/// The most bytes one request may become.
pub const MAX_RENDERED: usize = 8 * 1024 * 1024;
/// What is kept of a buffer that a request was too large for.
const KEPT: usize = 512 * 1024;

/// Why a request is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It isn't a request of this template.
    Malformed(Malformed),
    /// Its config is wrong; the text says how.
    Config(String),
    /// It needs a volume, and there is none.
    NoVolume,
    /// It has too many instances.
    Instances,
    /// It becomes too many bytes.
    Rendered,
    /// The queue was full for too long.
    Queue(Failure),
    /// It could not be written.
    NotWritten(Failure),
    /// Its caller waits no longer.
    Deadline,
}

/// A refusal's label in the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// See [`Refusal::Malformed`].
    Malformed,
    /// See [`Refusal::Config`].
    Config,
    /// See [`Refusal::NoVolume`].
    NoVolume,
    /// See [`Refusal::Instances`].
    Instances,
    /// See [`Refusal::Rendered`].
    Rendered,
    /// See [`Refusal::Queue`].
    Queue,
    /// See [`Refusal::Deadline`].
    Deadline,
    /// A record of a verdict that found no room.
    Audit,
}

impl Cause {
    /// All of them with their labels, in the order of the counters.
    pub const ALL: [&str; 8] =
        ["malformed", "config", "no_volume", "instances", "rendered", "queue", "deadline", "audit"];
}

impl Refusal {
    /// What it is counted under; what could not be written is counted by the
    /// journal.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Malformed(_) => Some(Cause::Malformed),
            Self::Config(_) => Some(Cause::Config),
            Self::NoVolume => Some(Cause::NoVolume),
            Self::Instances => Some(Cause::Instances),
            Self::Rendered => Some(Cause::Rendered),
            Self::Queue(_) => Some(Cause::Queue),
            Self::NotWritten(_) => None,
            Self::Deadline => Some(Cause::Deadline),
        }
    }
}

/// Refuses what nobody waits for any more.
fn in_time(patience: &Patience) -> Result<(), Refusal> {
    if patience.is_over() { Err(Refusal::Deadline) } else { Ok(()) }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        if failure.reason == Reason::Queue { Self::Queue(failure) } else { Self::NotWritten(failure) }
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// A request of the report family, with its config read and its instances not
/// yet looked into.
#[derive(Debug)]
pub struct Report<'a> {
    message: &'a [u8],
    /// What its handler asks for.
    pub config: Config<'a>,
    /// How many instances it has.
    pub instances: usize,
}

impl<'a> Report<'a> {
    /// Reads all of a request but its instances.
    pub fn read(message: &'a [u8]) -> Result<Self, Refusal> {
        let mut instances = 0_usize;
        let any = config::in_request(message, |_| instances += 1)?;
        if instances > MAX_INSTANCES {
            return Err(Refusal::Instances);
        }
        Ok(Self { message, config: config::read(any).map_err(Refusal::Config)?, instances })
    }

    /// Appends all its instances to `out`: the walkthrough's text, or lines of
    /// JSON. `note` sees every record.
    ///
    /// `out` grows once at the most, to all that a request may become: memory is
    /// taken only where it is written, and a buffer that doubles would be there
    /// twice.
    pub fn render(
        &self,
        template: &Template,
        format: Format,
        out: &mut Vec<u8>,
        mut note: impl FnMut(&Record),
    ) -> Result<(), Refusal> {
        let start = out.len();
        let limit = start + MAX_RENDERED;
        let style = Style::new(format);
        style.head(template, self.config.file_path(), out);
        let whole = walk::instances(self.message, template, &mut |record, instance| {
            if style.at_most(template, instance.len()) > out.capacity() - out.len()
                && !make_room(style.measure(template, record, instance), limit, out)
            {
                return false;
            }
            style.instance(template, record, out);
            note(record);
            out.len() <= limit
        });
        if whole == Ok(true) {
            style.tail(out);
            return Ok(());
        }
        out.truncate(start);
        if out.capacity() > KEPT {
            out.shrink_to(KEPT);
            memory::give_back();
        }
        Err(whole.map_or_else(Refusal::Malformed, |_| Refusal::Rendered))
    }

    /// Reads all its instances, and renders none.
    pub fn read_all(&self, template: &Template, mut note: impl FnMut(&Record)) -> Result<(), Refusal> {
        walk::instances(self.message, template, &mut |record, _| {
            note(record);
            true
        })?;
        Ok(())
    }
}

/// Sees to it that `bytes` more fit into `out`, if it stays within `limit`.
fn make_room(bytes: usize, limit: usize, out: &mut Vec<u8>) -> bool {
    let left = limit.saturating_sub(out.len());
    if bytes > left {
        return false;
    }
    if bytes > out.capacity() - out.len() {
        memory::give_back();
        // One more for the end of the request.
        out.reserve_exact(left + 1);
    }
    true
}

/// Appends one record as a request of its own.
pub fn render_one(
    template: &Template,
    file_path: &[u8],
    format: Format,
    record: &Record,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let start = out.len();
    let style = Style::new(format);
    style.head(template, file_path, out);
    style.instance(template, record, out);
    style.tail(out);
    if out.len() - start > MAX_RENDERED { Err(Refusal::Rendered) } else { Ok(()) }
}

impl Mixer {
    /// Appends a report to its file and waits until it is written; log entries are
    /// added to the histogram, too. An empty message is the whole answer.
    pub(super) async fn report(
        &self,
        template: &Template,
        observed: bool,
        mut message: Message,
    ) -> Result<Bytes, Refusal> {
        if self.journal.as_ref().is_some_and(|journal| !journal.has_room(message.bytes.len())) {
            message.detach();
        }
        let patience = message.patience;
        let report = Report::read(&message.bytes)?;
        let tally = Tally { counter: self.counters.instances(template), count: report.instances as u64 };
        let mut observations = Observations::default();
        let note = |record: &Record, observations: &mut Observations| {
            if observed {
                self.histogram.note(record, VARIABLES, observations);
            }
        };
        let path = report.config.file_path();
        // A log entry needs no file; the histogram is enough.
        if path.is_empty() && observed {
            in_time(&patience)?;
            report.read_all(template, |record| note(record, &mut observations))?;
            self.histogram.add(&observations);
            tally.counter.add(tally.count);
            return Ok(Bytes::new());
        }
        let journal = self.journal.as_ref().ok_or(Refusal::NoVolume)?;
        let to = journal.destination(path, report.config.format()).map_err(Refusal::Config)?;
        let mut waiting = patience;
        let render = |out: &mut Vec<u8>| {
            in_time(&patience)?;
            report.render(template, to.format(), out, |record| note(record, &mut observations))?;
            self.histogram.add(&observations);
            Ok::<_, Refusal>(())
        };
        let room = waiting.wait(journal.room(message.bytes.len())).await.map_err(|late| match late {
            Late::Queue => journal.no_room().into(),
            Late::Caller => Refusal::Deadline,
        })??;
        let pending = journal.append(room, &to, tally, render)?;
        // Rendered, it needs nothing of the bounds any more.
        drop(message);
        pending.written().await?;
        Ok(Bytes::new())
    }
}
