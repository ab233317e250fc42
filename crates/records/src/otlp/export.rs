//! An `ExportLogsServiceRequest`: its resources, and the lines of each.

use super::keys::{RESOURCE_LOGS, resource, resource_logs, scope_logs};
use super::record::LogRecord;
use super::value::{self, Member};
use super::{json, text};
use crate::envoy::identifier::{Identifier, Names};
use crate::protobuf::object::{Pairs, pair};
use crate::protobuf::wire::{Malformed, Reader};
use crate::render::{Format, bound};

/// Why a request's lines are not all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The bytes are no protobuf message.
    Malformed(Malformed),
    /// The lines would be longer than the room for them.
    TooLong,
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// How many records there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub records: u64,
    /// Those without a line: they are no protobuf message, or have more than
    /// 32,768 attributes.
    pub malformed: u64,
}

/// The resources of a request, each with its records.
#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    reader: Reader<'a>,
}

impl<'a> Export<'a> {
    /// Of the bytes of a request.
    pub fn new(message: &'a [u8]) -> Self {
        Self { reader: Reader::new(message) }
    }
}

impl<'a> Iterator for Export<'a> {
    /// After an error nothing follows.
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
    /// For the objects in a record while they are rendered.
    pairs: Pairs<'a>,
}

impl<'a> ResourceLogs<'a> {
    /// Who sends these records, by what the resource's attributes say:
    /// `log_name` and `node_name`, which Envoy sets, and OpenTelemetry's
    /// `k8s.pod.name` and `k8s.namespace.name`.
    ///
    /// # Errors
    ///
    /// The resource is no protobuf message.
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

    /// Appends a line for each record, all of them in at most `room` bytes.
    ///
    /// A record that is malformed in itself is counted and left out.
    ///
    /// # Errors
    ///
    /// What is around the records is no protobuf message, or there is no room
    /// for all lines: then `out` is what it was.
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

/// What the records of a scope share, rendered once: empty in text.
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

/// The fields of a message that have this key.
fn parts(message: &[u8], key: u64) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    let mut reader = Reader::new(message);
    std::iter::from_fn(move || reader.next_of(key).transpose())
}

/// Whether parts can't become too long together.
fn all_fit<'a>(parts: impl Iterator<Item = Result<&'a [u8], Malformed>>, room: usize) -> Result<(), Refusal> {
    let mut left = room;
    for part in parts {
        left = left.checked_sub(bound::need(Format::Json, part?, left)).ok_or(Refusal::TooLong)?;
    }
    Ok(())
}
