//! A report: its instances, rendered into the sink's buffer.

use bytes::Bytes;
use tokio::sync::{SemaphorePermit, oneshot};
use tonic::Status;

use super::Mixer;
use super::config::{self, Config};
use super::templates::VARIABLES;
use crate::template::Template;

use super::walk;
use super::wire::Malformed;
use crate::grpc::budget::Late;
use crate::grpc::messages::Message;
use crate::histogram::Observations;
use crate::memory;
use crate::record::Record;
use crate::render::{Format, Style};
use crate::sink::Outcome;
use crate::store::{self, Ticket};

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
    Queue,
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
    /// What it is counted under.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Malformed(_) => Cause::Malformed,
            Self::Config(_) => Cause::Config,
            Self::NoVolume => Cause::NoVolume,
            Self::Instances => Cause::Instances,
            Self::Rendered => Cause::Rendered,
            Self::Queue => Cause::Queue,
            Self::Deadline => Cause::Deadline,
        }
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
        out.shrink_to(KEPT);
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
    /// Renders a report into its file's batch and waits until it is in the
    /// file; log entries are added to the histogram, too. An empty message is
    /// the whole answer.
    pub(super) async fn report(
        &self,
        template: &Template,
        observed: bool,
        mut message: Message,
    ) -> Result<Bytes, Status> {
        let place = self.place(&mut message).await.map_err(|refusal| self.refuse(refusal))?;
        let taken = self.take(template, observed, message);
        let (instances, outcome) = taken.map_err(|refusal| self.refuse(refusal))?;
        let outcome = match outcome {
            Some(outcome) => outcome.await,
            None => Ok(Ok(())),
        };
        drop(place);
        match outcome {
            Ok(Ok(())) => {
                self.counters.took(template, instances);
                Ok(Bytes::new())
            }
            Ok(Err(failure)) => Err(store::status(&failure)),
            Err(_) => Err(Status::unavailable("shutting down before the report was written")),
        }
    }

    /// A place in the queue, where there is one.
    async fn place(&self, message: &mut Message) -> Result<Option<SemaphorePermit<'_>>, Refusal> {
        let Some(store) = &self.store else { return Ok(None) };
        let bytes = message.bytes.len();
        if let Some(place) = store.place_now(bytes) {
            return Ok(Some(place));
        }
        message.detach();
        let place = message.patience.wait(store.place(bytes)).await;
        place.map_err(|late| match late {
            Late::Queue => Refusal::Queue,
            Late::Caller => Refusal::Deadline,
        })
    }

    /// Takes a report, and returns how many instances it has and what to wait
    /// for, if it goes to a file.
    fn take(
        &self,
        template: &Template,
        observed: bool,
        message: Message,
    ) -> Result<(usize, Option<oneshot::Receiver<Outcome>>), Refusal> {
        if message.patience.is_over() {
            return Err(Refusal::Deadline);
        }
        let report = Report::read(&message.bytes)?;
        let path = report.config.file_path();
        let mut observations = Observations::default();
        let mut note = |record: &Record| {
            if observed {
                self.histogram.note(record, VARIABLES, &mut observations);
            }
        };
        // A log entry needs no file; the histogram is enough.
        if path.is_empty() && observed {
            report.read_all(template, &mut note)?;
            self.histogram.add(&observations);
            return Ok((report.instances, None));
        }
        let store = self.store.as_ref().ok_or(Refusal::NoVolume)?;
        let path = match path {
            b"" => store.default_file.clone(),
            text => store.volume.resolve(text).map_err(Refusal::Config)?,
        };
        let format = report.config.format().unwrap_or(store.format);
        let (waiting, outcome) = oneshot::channel();
        let render = |out: &mut Vec<u8>| report.render(template, format, out, note);
        store.sink.append(&path, format, Ticket::Report(waiting), render)?;
        self.histogram.add(&observations);
        Ok((report.instances, Some(outcome)))
    }
}
