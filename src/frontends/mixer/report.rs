//! A report: its instances, rendered into the batch of its file.

use std::sync::Arc;

use bytes::Bytes;
use records::protobuf::walk;

use super::config::{self, Config};
use super::instances::Instances;
use super::latency;
use crate::histogram::{Histogram, Observations};
use crate::journal::{Journal, Tally};
use crate::memory;
use crate::message::{Message, Patience};
use crate::record::Record;
use crate::refusal::{Reason, Refusal};
use crate::render::{Format, Style};
use crate::template::Template;

/// Limit on the instances of one request.
pub const MAX_INSTANCES: usize = 65_536;
/// Limit on the rendered bytes of one request.
pub const MAX_RENDERED: usize = 8 * 1024 * 1024;
/// Capacity kept of a buffer after a failed render.
const KEPT: usize = 512 * 1024;

/// Refuses a request whose deadline has passed.
fn in_time(patience: &Patience) -> Result<(), Refusal> {
    if patience.is_over() { Err(Refusal::late()) } else { Ok(()) }
}

fn too_long() -> Refusal {
    let text = format!("the request becomes more than {MAX_RENDERED} bytes; send fewer instances");
    Refusal::new(Reason::Rendered, text)
}

/// A request of the report family: its config is decoded, its instances are not.
#[derive(Debug)]
pub struct Report<'a> {
    message: &'a [u8],
    /// The handler's params.
    pub config: Config<'a>,
    /// The number of instances.
    pub instances: usize,
}

impl<'a> Report<'a> {
    /// Reads a request, except for its instances.
    pub fn read(message: &'a [u8]) -> Result<Self, Refusal> {
        let mut instances = 0_usize;
        let any = config::in_request(message, |_| instances += 1)?;
        if instances > MAX_INSTANCES {
            let text = format!("more than {MAX_INSTANCES} instances in one request; send fewer");
            return Err(Refusal::new(Reason::Instances, text));
        }
        Ok(Self { message, config: config::read(any)?, instances })
    }

    /// Appends all instances to `out`: the walkthrough's text, or lines of JSON. Passes
    /// every record to `note`.
    ///
    /// `out` grows at most once, to the upper bound of the request: untouched pages
    /// cost nothing, while doubling a buffer would need its memory twice.
    pub fn render(
        &self,
        template: &Template,
        format: Format,
        out: &mut Vec<u8>,
        mut note: impl FnMut(&Record),
    ) -> Result<(), Refusal> {
        let start = out.len();
        let limit = start + MAX_RENDERED;
        let style = Style::new(format, template);
        style.head(self.config.file_path(), out);
        let whole = walk::instances(self.message, template, &mut |record, instance| {
            if style.at_most(instance.len()) > out.capacity() - out.len()
                && !make_room(style.measure(record, instance), limit, out)
            {
                return false;
            }
            style.instance(record, out);
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
        Err(whole.map_or_else(Refusal::from, |_| too_long()))
    }

    /// Reads all instances without rendering them.
    pub fn read_all(&self, template: &Template, mut note: impl FnMut(&Record)) -> Result<(), Refusal> {
        walk::instances(self.message, template, &mut |record, _| {
            note(record);
            true
        })?;
        Ok(())
    }
}

/// Makes room for `bytes` more in `out`, within `limit`; returns whether there is.
fn make_room(bytes: usize, limit: usize, out: &mut Vec<u8>) -> bool {
    let left = limit.saturating_sub(out.len());
    if bytes > left {
        return false;
    }
    if bytes > out.capacity() - out.len() {
        // One more byte for the end of the request.
        memory::reserve(out, left + 1);
    }
    true
}

/// Appends one record as its own request.
pub fn render_one(
    template: &Template,
    file_path: &[u8],
    format: Format,
    record: &Record,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let start = out.len();
    let style = Style::new(format, template);
    style.head(file_path, out);
    style.instance(record, out);
    style.tail(out);
    if out.len() - start > MAX_RENDERED { Err(too_long()) } else { Ok(()) }
}

/// The report services.
#[derive(Debug)]
pub struct Reports {
    /// For records; `None` without a volume.
    pub journal: Option<Arc<Journal>>,
    /// The histogram of log entries.
    pub histogram: Arc<Histogram>,
    /// Instances by template.
    pub instances: Arc<Instances>,
}

impl Reports {
    /// Appends a report to its file and waits until it is written; also adds log
    /// entries to the histogram. The answer is an empty message.
    pub async fn take<H>(
        &self,
        template: &Template,
        observed: bool,
        mut message: Message<H>,
    ) -> Result<Bytes, Refusal> {
        let room = self.journal.as_ref().map(|journal| journal.room_now(message.bytes.len()));
        if matches!(room, Some(None)) {
            message.detach();
        }
        let patience = message.patience;
        let report = Report::read(&message.bytes)?;
        let tally = Tally { counter: self.instances.of(template), count: report.instances as u64 };
        let mut observations = Observations::default();
        let note = |record: &Record, observations: &mut Observations| {
            if observed {
                latency::note(record, &self.histogram, observations);
            }
        };
        let path = report.config.file_path();
        // A log entry needs no file: the histogram is enough.
        if path.is_empty() && observed {
            in_time(&patience)?;
            report.read_all(template, |record| note(record, &mut observations))?;
            self.histogram.add(&observations);
            tally.counter.add(tally.count);
            return Ok(Bytes::new());
        }
        let journal = self.journal.as_ref().ok_or_else(Refusal::no_volume)?;
        let to = journal.destination(path, report.config.format())?;
        let mut waiting = patience;
        let render = |out: &mut Vec<u8>| {
            in_time(&patience)?;
            report.render(template, to.format(), out, |record| note(record, &mut observations))?;
            self.histogram.add(&observations);
            Ok::<_, Refusal>(())
        };
        let room = match room.flatten() {
            Some(room) => room,
            // Boxed: most requests do not wait.
            None => Box::pin(journal.room_in_time(message.bytes.len(), &mut waiting)).await?,
        };
        let pending = journal.append(room, &to, tally, render)?;
        // After rendering the message and its permit can be released.
        drop(message);
        pending.written().await?;
        Ok(Bytes::new())
    }
}
