//! An AnyValue: its member, and its JSON.

use super::keys::value;
use crate::protobuf::object::{self, Pairs};
use crate::protobuf::wire::{Malformed, Reader};
use crate::render::append::append;
use crate::render::{go, json};

/// The last member of an AnyValue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Member<'a> {
    /// Without a member.
    Absent,
    /// A string, usually UTF-8.
    String(&'a [u8]),
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating-point number.
    Double(f64),
    /// An ArrayValue.
    Array(&'a [u8]),
    /// A KeyValueList.
    List(&'a [u8]),
    /// Bytes.
    Bytes(&'a [u8]),
}

/// Reads an AnyValue, without its nested values.
///
/// # Errors
///
/// The bytes are not a protobuf message.
pub fn member(message: &[u8]) -> Result<Member<'_>, Malformed> {
    let mut reader = Reader::new(message);
    let mut last = Member::Absent;
    while let Some(field) = reader.rare_field()? {
        last = match field.key {
            value::STRING => Member::String(field.bytes),
            value::BOOL => Member::Bool(field.number != 0),
            value::INT => Member::Int(field.number as i64),
            value::DOUBLE => Member::Double(f64::from_bits(field.number)),
            value::ARRAY => Member::Array(field.bytes),
            value::KVLIST => Member::List(field.bytes),
            value::BYTES => Member::Bytes(field.bytes),
            _ => last,
        };
    }
    Ok(last)
}

/// Appends an AnyValue as JSON: bytes in base64, `null` without a member.
pub(super) fn any<'a>(
    out: &mut Vec<u8>,
    pairs: &mut Pairs<'a>,
    message: &'a [u8],
    depth: usize,
) -> Result<(), Malformed> {
    match member(message)? {
        Member::Absent => out.extend_from_slice(b"null"),
        Member::String(text) => json::string(out, text),
        Member::Bool(truth) => append(out, if truth { b"true" } else { b"false" }),
        Member::Int(number) => go::int(out, number),
        Member::Double(number) => json::number(out, number),
        Member::Bytes(bytes) => json::base64(out, bytes),
        Member::Array(values) => return object::list(out, pairs, (values, value::VALUES), depth, any),
        Member::List(values) => return object::object(out, pairs, (values, value::VALUES), depth, any),
    }
    Ok(())
}
