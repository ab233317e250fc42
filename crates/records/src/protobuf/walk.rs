//! Reads a request into records, by the table of its template.
//!
//! Only numbers are copied. Repeated fields follow Go's generated code: the last
//! scalar wins, messages merge, a oneof member or a map value replaces the previous
//! one.

use super::wire::{MAX_ENTRIES, Malformed, Reader, WireType, bytes, fixed64, varint};
use crate::record::{Instant, Record, Stretch, Value};
use crate::template::{Column, Kind, Template};

/// The field number of an instance's name, in every template.
pub const NAME: i32 = 72_295_727;
/// Its tag on the wire.
const NAME_TAG: [u8; 5] = [0xfa, 0xd2, 0xe4, 0x93, 0x02];

/// Reads the instances of a report, field 1 of `message`, and passes each to `see`
/// with its bytes. Returns `false` as soon as `see` does.
pub fn instances<'a>(
    message: &'a [u8],
    template: &Template,
    see: &mut dyn FnMut(&mut Record<'a>, &'a [u8]) -> bool,
) -> Result<bool, Malformed> {
    let blank = template.blank();
    let mut record = Record::with_room();
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        if tag.field != 1 {
            reader.skip(tag)?;
            continue;
        }
        let instance = reader.bytes()?;
        read(&mut record, template, &blank, instance)?;
        if !see(&mut record, instance) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads one instance into `record`, replacing its content.
pub fn instance<'a>(
    record: &mut Record<'a>,
    template: &Template,
    message: &'a [u8],
) -> Result<(), Malformed> {
    read(record, template, &template.blank(), message)
}

fn read<'a>(
    record: &mut Record<'a>,
    template: &Template,
    blank: &[Value<'static>],
    message: &'a [u8],
) -> Result<(), Malformed> {
    record.begin(blank);
    fields(record, template.columns, 0, message)?;
    record.close();
    Ok(())
}

/// Reads the fields of an instance, or of the message in its field `parent`. Tables
/// nest no deeper.
fn fields<'a>(
    record: &mut Record<'a>,
    columns: &[Column],
    parent: i32,
    message: &'a [u8],
) -> Result<(), Malformed> {
    let mut reader = Reader::new(message);
    loop {
        if reader.passes(&NAME_TAG) {
            record.name = reader.bytes()?;
            continue;
        }
        let Some(tag) = reader.tag()? else { return Ok(()) };
        let is_it = |column: &Column| column.number == tag.field && column.parent == parent;
        if let Some(at) = columns.iter().position(is_it) {
            tag.expect(wire(columns[at].kind))?;
            field(record, columns[at].kind, at, &mut reader)?;
            // The entries of a map mostly follow each other.
            while columns[at].kind == Kind::Map && reader.repeats(tag) {
                entry(record, at as u8, reader.bytes()?)?;
            }
        } else if tag.field == NAME {
            tag.expect(WireType::Bytes)?;
            record.name = reader.bytes()?;
        } else if parent == 0 && columns.iter().any(|column| column.parent == tag.field) {
            tag.expect(WireType::Bytes)?;
            fields(record, columns, tag.field, reader.bytes()?)?;
        } else {
            reader.skip(tag)?;
        }
    }
}

fn wire(kind: Kind) -> WireType {
    match kind {
        Kind::Int | Kind::Bool => WireType::Varint,
        _ => WireType::Bytes,
    }
}

#[inline(always)]
fn field<'a>(
    record: &mut Record<'a>,
    kind: Kind,
    column: usize,
    reader: &mut Reader<'a>,
) -> Result<(), Malformed> {
    let before = record.values[column];
    record.values[column] = match kind {
        Kind::Int => Value::Int(reader.varint()? as i64),
        Kind::Bool => Value::Bool(reader.varint()? != 0),
        Kind::String => Value::String(reader.bytes()?),
        Kind::Value => {
            let message = reader.bytes()?;
            let mut held = before;
            value(record, &mut held, message)?;
            held
        }
        Kind::Map => return entry(record, column as u8, reader.bytes()?),
        Kind::Time => {
            let before = if let Value::Time(before) = before { before } else { None };
            Value::Time(instant_in(before, reader.bytes()?)?)
        }
        Kind::Ip => {
            let before = if let Value::Ip(before) = before { before } else { &[] };
            Value::Ip(text_in(before, reader.bytes()?)?)
        }
    };
    Ok(())
}

/// Reads one entry of a `map<string, Value>`. Go ignores wire types here, so the key
/// and the value are read regardless of theirs.
fn entry<'a>(record: &mut Record<'a>, map: u8, message: &'a [u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(message);
    let (mut key, mut held) = (&[][..], Value::Absent);
    loop {
        if let Some(text) = reader.short_of(KEY) {
            key = text;
        } else if let Some(message) = reader.short_of(VALUE) {
            replace(record, &mut held, message)?;
        } else if let Some(tag) = reader.tag()? {
            match tag.field {
                1 => key = reader.bytes()?,
                2 => replace(record, &mut held, reader.bytes()?)?,
                _ => reader.skip(tag)?,
            }
        } else {
            break;
        }
    }
    record.push_entry(map, key, held);
    if record.len() > MAX_ENTRIES { Err(Malformed::Entries) } else { Ok(()) }
}

const KEY: u64 = bytes(1);
const VALUE: u64 = bytes(2);

/// Reads a Value over one that is replaced.
fn replace<'a>(record: &mut Record<'a>, held: &mut Value<'a>, message: &'a [u8]) -> Result<(), Malformed> {
    *held = Value::Absent;
    value(record, held, message)
}

/// Reads a Value: the last member wins; without one, `held` stays.
#[inline(never)]
fn value<'a>(record: &mut Record<'a>, held: &mut Value<'a>, message: &'a [u8]) -> Result<(), Malformed> {
    const STRING: u64 = bytes(1);
    const INT: u64 = varint(2);
    const DOUBLE: u64 = fixed64(3);
    const BOOL: u64 = varint(4);
    const IP: u64 = bytes(5);
    const TIME: u64 = bytes(6);
    const DURATION: u64 = bytes(7);
    const EMAIL: u64 = bytes(8);
    const DNS: u64 = bytes(9);
    const URI: u64 = bytes(10);
    const STRING_MAP: u64 = bytes(11);
    let mut reader = Reader::new(message);
    if let Some(text) = reader.short_of(STRING) {
        *held = Value::String(text);
    }
    while let Some(tag) = reader.tag()? {
        *held = match tag.key() {
            STRING => Value::String(reader.bytes()?),
            INT => Value::Int(reader.varint()? as i64),
            DOUBLE => Value::Double(f64::from_bits(reader.fixed64()?)),
            BOOL => Value::Bool(reader.varint()? != 0),
            IP => Value::Ip(text_in(&[], reader.bytes()?)?),
            TIME => Value::Time(instant_in(None, reader.bytes()?)?),
            DURATION => Value::Duration(instant_in(None, reader.bytes()?)?),
            EMAIL => Value::Email(text_in(&[], reader.bytes()?)?),
            DNS => Value::Dns(text_in(&[], reader.bytes()?)?),
            URI => Value::Uri(text_in(&[], reader.bytes()?)?),
            STRING_MAP => Value::StringMap(string_map(record, reader.bytes()?)?),
            _ if (1..=11).contains(&tag.field) => return Err(Malformed::Mismatch { field: tag.field }),
            _ => {
                reader.skip(tag)?;
                continue;
            }
        };
    }
    Ok(())
}

/// Reads a message with a single string or bytes field.
fn text_in<'a>(before: &'a [u8], message: &'a [u8]) -> Result<&'a [u8], Malformed> {
    let mut text = before;
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        if tag.field == 1 {
            tag.expect(WireType::Bytes)?;
            text = reader.bytes()?;
        } else {
            reader.skip(tag)?;
        }
    }
    Ok(text)
}

/// Reads a message with a single Timestamp or Duration field.
fn instant_in(before: Option<Instant>, message: &[u8]) -> Result<Option<Instant>, Malformed> {
    let mut held = before;
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        if tag.field == 1 {
            tag.expect(WireType::Bytes)?;
            held = Some(instant(held.unwrap_or_default(), reader.bytes()?)?);
        } else {
            reader.skip(tag)?;
        }
    }
    Ok(held)
}

/// Reads a Timestamp or a Duration: seconds (1) and nanoseconds (2).
fn instant(before: Instant, message: &[u8]) -> Result<Instant, Malformed> {
    let mut held = before;
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag.field {
            1 | 2 => tag.expect(WireType::Varint)?,
            _ => {
                reader.skip(tag)?;
                continue;
            }
        }
        let number = reader.varint()?;
        match tag.field {
            1 => held.seconds = number as i64,
            _ => held.nanos = number as i32,
        }
    }
    Ok(held)
}

/// Reads a StringMap.
fn string_map<'a>(record: &mut Record<'a>, message: &'a [u8]) -> Result<Stretch, Malformed> {
    let start = record.pairs_len();
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        if tag.field == 1 {
            tag.expect(WireType::Bytes)?;
            pair(record, reader.bytes()?)?;
        } else {
            reader.skip(tag)?;
        }
    }
    Ok(record.close_pairs(start))
}

fn pair<'a>(record: &mut Record<'a>, message: &'a [u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(message);
    let (mut key, mut text) = (&[][..], &[][..]);
    while let Some(tag) = reader.tag()? {
        match tag.field {
            1 => key = reader.bytes()?,
            2 => text = reader.bytes()?,
            _ => reader.skip(tag)?,
        }
    }
    record.push_pair(key, text);
    if record.len() > MAX_ENTRIES { Err(Malformed::Entries) } else { Ok(()) }
}
