//! `google.protobuf.Struct` and `Any` as JSON, for the metadata of filters and their
//! information about peers.

use super::keys::google;
use crate::protobuf::object::{self, Pairs};
use crate::protobuf::wire::{Malformed, Reader};
use crate::render::append::append;
use crate::render::json;

/// The key of a Struct's pairs.
pub(super) const FIELDS: u64 = google::STRUCT_FIELDS;

/// The last member of a Value.
#[derive(Clone, Copy, Debug)]
enum Member<'a> {
    Null,
    Number(f64),
    String(&'a [u8]),
    Bool(bool),
    Struct(&'a [u8]),
    List(&'a [u8]),
}

fn member(message: &[u8]) -> Result<Member<'_>, Malformed> {
    let mut reader = Reader::new(message);
    let mut last = Member::Null;
    while let Some(field) = reader.rare_field()? {
        last = match field.key {
            google::VALUE_NULL => Member::Null,
            google::VALUE_NUMBER => Member::Number(f64::from_bits(field.number)),
            google::VALUE_STRING => Member::String(field.bytes),
            google::VALUE_BOOL => Member::Bool(field.number != 0),
            google::VALUE_STRUCT => Member::Struct(field.bytes),
            google::VALUE_LIST => Member::List(field.bytes),
            _ => last,
        };
    }
    Ok(last)
}

/// The text of a string Value; `None` for other Values.
pub(super) fn text(message: &[u8]) -> Option<&[u8]> {
    match member(message) {
        Ok(Member::String(text)) => Some(text),
        _ => None,
    }
}

/// Appends a Value.
fn value<'a>(
    out: &mut Vec<u8>,
    pairs: &mut Pairs<'a>,
    message: &'a [u8],
    depth: usize,
) -> Result<(), Malformed> {
    match member(message)? {
        Member::Null => out.extend_from_slice(b"null"),
        Member::Number(number) => json::number(out, number),
        Member::String(text) => json::string(out, text),
        Member::Bool(truth) => append(out, if truth { b"true" } else { b"false" }),
        Member::Struct(fields) => return object::object(out, pairs, (fields, FIELDS), depth, value),
        Member::List(values) => {
            return object::list(out, pairs, (values, google::LIST_VALUES), depth, value);
        }
    }
    Ok(())
}

/// Appends a Struct.
pub(super) fn fields<'a>(
    out: &mut Vec<u8>,
    pairs: &mut Pairs<'a>,
    message: &'a [u8],
    depth: usize,
) -> Result<(), Malformed> {
    object::object(out, pairs, (message, FIELDS), depth, value)
}

/// Appends an Any: a Struct as an object, a StringValue as a string, a BytesValue as
/// base64, any other as its type and its bytes in base64.
pub(super) fn any<'a>(
    out: &mut Vec<u8>,
    pairs: &mut Pairs<'a>,
    message: &'a [u8],
    depth: usize,
) -> Result<(), Malformed> {
    let (type_url, content) = parts(message)?;
    let name = type_url.iter().rposition(|byte| *byte == b'/').map_or(type_url, |at| &type_url[at + 1..]);
    match name {
        b"" if content.is_empty() => out.extend_from_slice(b"null"),
        b"google.protobuf.Struct" => return fields(out, pairs, content, depth),
        b"google.protobuf.StringValue" => json::string(out, wrapped(content)?),
        b"google.protobuf.BytesValue" => json::base64(out, wrapped(content)?),
        _ => {
            out.extend_from_slice(b"{\"@type\":");
            json::string(out, type_url);
            out.extend_from_slice(b",\"value\":");
            json::base64(out, content);
            out.push(b'}');
        }
    }
    Ok(())
}

fn parts(message: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(message);
    let (mut type_url, mut content) = (&[][..], &[][..]);
    while let Some(field) = reader.rare_field()? {
        match field.key {
            google::ANY_TYPE_URL => type_url = field.bytes,
            google::ANY_VALUE => content = field.bytes,
            _ => {}
        }
    }
    Ok((type_url, content))
}

fn wrapped(message: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(message);
    let mut text = &[][..];
    while let Some(later) = reader.next_of(google::WRAPPED)? {
        text = later;
    }
    Ok(text)
}
