//! An `ExportLogsServiceRequest`: its resources, and the lines of each.

use super::keys::{RESOURCE_LOGS, resource, resource_logs, scope_logs};
use super::record::LogRecord;
use super::value::{self, Member};
use super::{json, text};
use crate::envoy::identifier::{Identifier, Names};
use crate::protobuf::object::{Pairs, pair};
use crate::protobuf::wire::{Malformed, Reader};
use crate::render::{Format, bound};

/// Why a request was not rendered completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The bytes are not a protobuf message.
    Malformed(Malformed),
    /// The lines do not fit.
    TooLong,
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// The number of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All records.
    pub records: u64,
    /// Records without a line: not a protobuf message, or more than 32,768 attributes.
    pub malformed: u64,
}

/// The resources of a request, each with its records.
#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    reader: Reader<'a>,
}

impl<'a> Export<'a> {
    /// The resources of an encoded request.
    pub fn new(message: &'a [u8]) -> Self {
        Self { reader: Reader::new(message) }
    }
}

impl<'a> Iterator for Export<'a> {
    /// An error ends the iteration.
    type Item = Result<ResourceLogs<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.reader.next_of(RESOURCE_LOGS);
        if next.is_err() {
            self.reader = Reader::new(&[]);
        }
        next.map(|message| message.map(|message| ResourceLogs { message, pairs: Vec::new() })).transpose()
    }
}

/// A resource and its records.
#[derive(Debug)]
pub struct ResourceLogs<'a> {
    message: &'a [u8],
    /// Scratch space for rendering nested objects.
    pairs: Pairs<'a>,
}

impl<'a> ResourceLogs<'a> {
    /// The sender of these records, from the resource's attributes: `log_name` and
    /// `node_name`, which Envoy sets, and OpenTelemetry's `k8s.pod.name` and
    /// `k8s.namespace.name`.
    ///
    /// # Errors
    ///
    /// The resource is not a protobuf message.
    pub fn identifier(&self) -> Result<Identifier, Malformed> {
        let mut names = Names::default();
        for part in parts(self.message, resource_logs::RESOURCE) {
            let mut reader = Reader::new(part?);
            while let Some(attribute) = reader.next_of(resource::ATTRIBUTES)? {
                let (key, value) = pair(attribute)?;
                let name = match key {
                    b"log_name" => &mut names.log_name,
                    b"node_name" => &mut names.node,
                    b"k8s.pod.name" => &mut names.pod,
                    b"k8s.namespace.name" => &mut names.namespace,
                    _ => continue,
                };
                if let Ok(Member::String(text)) = value::member(value) {
                    *name = text;
                }
            }
        }
        Ok(Identifier::new(&names))
    }

    /// Appends a line for each record, in total at most `room` bytes.
    ///
    /// A malformed record is counted and skipped.
    ///
    /// # Errors
    ///
    /// A message around the records is not a protobuf message, or the lines do not fit.
    /// `out` is then unchanged.
    pub fn lines(&mut self, out: &mut Vec<u8>, format: Format, room: usize) -> Result<Count, Refusal> {
        let start = out.len();
        let count = self.append(out, format, start.saturating_add(room));
        if count.is_err() {
            out.truncate(start);
        }
        count
    }

    fn append(&mut self, out: &mut Vec<u8>, format: Format, end: usize) -> Result<Count, Refusal> {
        let (message, pairs) = (self.message, &mut self.pairs);
        let mut around = Around::default();
        let mut count = Count::default();
        if format == Format::Json {
            around.resource(pairs, message, end - out.len())?;
        }
        for group in parts(message, resource_logs::SCOPE_LOGS) {
            let group = group?;
            if format == Format::Json {
                around.scope(pairs, group, end - out.len())?;
            }
            for record in parts(group, scope_logs::LOG_RECORDS) {
                let record = record?;
                if !bound::fits(Format::Json, record, around.len(), end - out.len()) {
                    return Err(Refusal::TooLong);
                }
                match LogRecord::read(pairs, record) {
                    Ok(read) => around.line(out, format, pairs, &read),
                    Err(_) => count.malformed += 1,
                }
                count.records += 1;
            }
        }
        Ok(count)
    }
}

/// The text shared by the records of a scope, rendered once; empty in text format.
#[derive(Debug, Default)]
struct Around {
    resource: Vec<u8>,
    scope: Vec<u8>,
}

impl Around {
    fn len(&self) -> usize {
        self.resource.len() + self.scope.len()
    }

    fn resource<'a>(&mut self, pairs: &mut Pairs<'a>, message: &'a [u8], room: usize) -> Result<(), Refusal> {
        let parts = || parts(message, resource_logs::RESOURCE);
        all_fit(parts(), room)?;
        Ok(json::resource(&mut self.resource, pairs, parts())?)
    }

    fn scope<'a>(&mut self, pairs: &mut Pairs<'a>, group: &'a [u8], room: usize) -> Result<(), Refusal> {
        let parts = || parts(group, scope_logs::SCOPE);
        self.scope.clear();
        all_fit(parts(), room)?;
        Ok(json::scope(&mut self.scope, pairs, parts())?)
    }

    fn line<'a>(&self, out: &mut Vec<u8>, format: Format, pairs: &mut Pairs<'a>, record: &LogRecord<'a>) {
        match format {
            Format::Text => text::line(out, pairs, record),
            Format::Json => json::line(out, pairs, record, &self.resource, &self.scope),
        }
    }
}

/// The contents of all fields with this key.
fn parts(message: &[u8], key: u64) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    let mut reader = Reader::new(message);
    std::iter::from_fn(move || reader.next_of(key).transpose())
}

/// Fails if the rendered parts might exceed `room` in total.
fn all_fit<'a>(parts: impl Iterator<Item = Result<&'a [u8], Malformed>>, room: usize) -> Result<(), Refusal> {
    let mut left = room;
    for part in parts {
        left = left.checked_sub(bound::need(Format::Json, part?, left)).ok_or(Refusal::TooLong)?;
    }
    Ok(())
}
