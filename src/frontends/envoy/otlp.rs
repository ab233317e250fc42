//! OpenTelemetry's log records (`opentelemetry.proto.collector.logs.v1`). A request has
//! the records of one or more resources, and is answered when they are written.

use bytes::Bytes;
use records::envoy::identifier::Identifier;
use records::otlp::export::{self, Count, Export, ResourceLogs};
use records::render::bound;

use super::log::{GROWTH, Log, MALFORMED, MAX_RENDERED, OTLP};
use crate::journal::{Destination, Journal, OnStall};
use crate::memory;
use crate::message::{Message, Patience};
use crate::refusal::{Reason, Refusal};

/// Limit on the resources of one request.
const MAX_RESOURCES: usize = 65_536;
/// Field of the answer: the number of rejected records, and the reason.
const PARTIAL_SUCCESS: u8 = 0x0a;
const REJECTED: u8 = 0x08;
const ERROR_MESSAGE: u8 = 0x12;
const MALFORMED_RECORDS: &[u8] = b"malformed records";

impl Log {
    /// Appends the records of a request and waits until they are written. The answer
    /// has the number of malformed ones.
    ///
    /// Records for several files are appended file by file; if one fails, earlier ones
    /// are written.
    ///
    /// # Errors
    ///
    /// The request is malformed, renders to too many bytes, or could not be written.
    pub async fn export<H>(&self, message: Message<H>) -> Result<Bytes, Refusal> {
        let journal = self.journal.as_ref().ok_or_else(Refusal::no_volume)?;
        let plan = self.plan(journal, &message.bytes)?;
        let mut waiting = message.patience;
        let (mut count, mut room) = (Count::default(), MAX_RENDERED);
        for at in 0..plan.files.len() {
            let written = self.append(journal, &plan, at, &message, &mut waiting, &mut room).await?;
            count.records += written.records;
            count.malformed += written.malformed;
        }
        Ok(answer(count.malformed))
    }

    /// Finds the file of each resource.
    fn plan(&self, journal: &Journal, message: &[u8]) -> Result<Plan, Refusal> {
        if !self.files.are_many() {
            let only = self.files.of(journal, &Identifier::default())?;
            return Ok(Plan { files: vec![only], places: Vec::new() });
        }
        let mut plan = Plan { files: Vec::new(), places: Vec::new() };
        for resource in Export::new(message) {
            if plan.places.len() >= MAX_RESOURCES {
                return Err(Refusal::new(Reason::Instances, format!("more than {MAX_RESOURCES} resources")));
            }
            let sender = resource.and_then(|resource| resource.identifier());
            let to = self.files.of(journal, &sender.map_err(malformed)?)?;
            let at = plan.files.iter().position(|known| *known == to).unwrap_or_else(|| {
                plan.files.push(to);
                plan.files.len() - 1
            });
            // Fits: there are few more files than remembered paths.
            plan.places.push(at as u16);
        }
        Ok(plan)
    }

    /// Appends the records of one file.
    async fn append<H>(
        &self,
        journal: &Journal,
        plan: &Plan,
        at: usize,
        message: &Message<H>,
        waiting: &mut Patience,
        room: &mut usize,
    ) -> Result<Count, Refusal> {
        let place = journal.room_in_time(message.bytes.len().saturating_mul(GROWTH), waiting).await?;
        let to = &plan.files[at];
        let mut count = Count::default();
        let render = |out: &mut Vec<u8>| {
            let start = out.len();
            count = plan.render(at, &message.bytes, out, *room)?;
            *room -= out.len() - start;
            if out.len() == start { Err(None) } else { Ok(count.records - count.malformed) }
        };
        match journal.append_lines(place, to, self.entries.at(OTLP), OnStall::Answer, render) {
            Ok(pending) => pending.written().await?,
            Err(None) => {}
            Err(Some(refusal)) => return Err(refusal),
        }
        self.skipped.at(MALFORMED).add(count.malformed);
        Ok(count)
    }
}

/// The file of each resource in a request.
struct Plan {
    files: Vec<Destination>,
    /// The index of each resource's file; empty if there is only one file.
    places: Vec<u16>,
}

impl Plan {
    /// Appends the lines of all resources of one file.
    fn render(
        &self,
        at: usize,
        message: &[u8],
        out: &mut Vec<u8>,
        room: usize,
    ) -> Result<Count, Option<Refusal>> {
        let (start, format, mut total) = (out.len(), self.files[at].format(), Count::default());
        memory::reserve(out, bound::most(format, message.len(), 0).min(room));
        for (index, resource) in Export::new(message).enumerate() {
            if self.places.get(index).is_some_and(|place| usize::from(*place) != at) {
                continue;
            }
            let left = room - (out.len() - start);
            let lines = |mut resource: ResourceLogs| resource.lines(out, format, left);
            let count = resource.map_err(export::Refusal::from).and_then(lines).map_err(refused)?;
            total.records += count.records;
            total.malformed += count.malformed;
        }
        Ok(total)
    }
}

fn refused(refusal: export::Refusal) -> Refusal {
    match refusal {
        export::Refusal::Malformed(error) => malformed(error),
        export::Refusal::TooLong => {
            let text = format!("the records become more than {MAX_RENDERED} bytes; send fewer at once");
            Refusal::new(Reason::Rendered, text)
        }
    }
}

fn malformed(error: records::protobuf::wire::Malformed) -> Refusal {
    Refusal::new(Reason::Malformed, format!("not a request with log records: {error}"))
}

/// An ExportLogsServiceResponse.
fn answer(rejected: u64) -> Bytes {
    if rejected == 0 {
        return Bytes::new();
    }
    let mut partial = vec![REJECTED];
    let mut left = rejected;
    while left >= 0x80 {
        partial.push(left as u8 | 0x80);
        left >>= 7;
    }
    partial.extend_from_slice(&[left as u8, ERROR_MESSAGE, MALFORMED_RECORDS.len() as u8]);
    partial.extend_from_slice(MALFORMED_RECORDS);
    [&[PARTIAL_SUCCESS, partial.len() as u8][..], &partial].concat().into()
}
