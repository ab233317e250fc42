//! One log record, read in one pass into a struct that borrows from the request.

use super::keys::record;
use crate::protobuf::object::{self, Pairs};
use crate::protobuf::wire::{Malformed, Reader};

/// What is read of a LogRecord. What was not sent is empty or zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// When it happened, in nanoseconds since 1970.
    pub time: u64,
    /// When it was noticed, the same.
    pub observed_time: u64,
    /// How severe it is: 1 to 24.
    pub severity: i32,
    /// The same in the sender's words.
    pub severity_text: &'a [u8],
    /// The body, an AnyValue.
    pub body: &'a [u8],
    /// The trace: 16 bytes of a sane sender.
    pub trace_id: &'a [u8],
    /// The span in it: 8 bytes.
    pub span_id: &'a [u8],
}

impl<'a> LogRecord<'a> {
    /// Reads a record, and its attributes into `pairs` in place of what these hold.
    ///
    /// # Errors
    ///
    /// The bytes are no protobuf message, or there are more than 32,768 attributes.
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
