//! One log record, read in one pass into a struct that borrows from the request.

use super::keys::record;
use crate::protobuf::object::{self, Pairs};
use crate::protobuf::wire::{Malformed, Reader};

/// The content of a LogRecord. Absent fields are empty or zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// The time of the event, in nanoseconds since 1970.
    pub time: u64,
    /// The time of its observation, in nanoseconds since 1970.
    pub observed_time: u64,
    /// The severity: 1 to 24.
    pub severity: i32,
    /// The severity as the sender's text.
    pub severity_text: &'a [u8],
    /// The body, an AnyValue.
    pub body: &'a [u8],
    /// The trace id: 16 bytes from a valid sender.
    pub trace_id: &'a [u8],
    /// The span id: 8 bytes from a valid sender.
    pub span_id: &'a [u8],
}

impl<'a> LogRecord<'a> {
    /// Reads a record. Its attributes replace the content of `pairs`.
    ///
    /// # Errors
    ///
    /// The bytes are not a protobuf message, or there are more than 32,768 attributes.
    pub fn read(pairs: &mut Pairs<'a>, message: &'a [u8]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        pairs.clear();
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field()? {
            match field.key {
                record::TIME => read.time = field.number,
                record::OBSERVED_TIME => read.observed_time = field.number,
                record::SEVERITY_NUMBER => read.severity = field.number as i32,
                record::SEVERITY_TEXT => read.severity_text = field.bytes,
                record::BODY => read.body = field.bytes,
                record::ATTRIBUTES => object::push(pairs, field.bytes)?,
                record::TRACE_ID => read.trace_id = field.bytes,
                record::SPAN_ID => read.span_id = field.bytes,
                _ => {}
            }
        }
        Ok(read)
    }
}
