//! Protobuf's wire format, read in place as Go's generated code reads it: overlong
//! varints are accepted, UTF-8 is not checked, a known field with another wire type
//! is an error, an unknown field is skipped.

use crate::word;

/// Limit on the map entries of one instance: 2.4 MB.
pub const MAX_ENTRIES: usize = 32_768;

/// Why bytes are not a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes end inside a field.
    Truncated,
    /// A varint of more than ten bytes.
    LongVarint,
    /// A length beyond the address space.
    Length,
    /// A field number of zero or below.
    Tag,
    /// An end-group tag without a start, or an undefined wire type.
    WireType,
    /// A known field with a wrong wire type.
    Mismatch {
        /// The field's number.
        field: i32,
    },
    /// Too many map entries in one instance or check.
    Entries,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated => f.write_str("the message ends inside a field"),
            Self::LongVarint => f.write_str("a varint is longer than ten bytes"),
            Self::Length => f.write_str("a length is out of range"),
            Self::Tag => f.write_str("a field number is out of range"),
            Self::WireType => f.write_str("a wire type is illegal where it stands"),
            Self::Mismatch { field } => write!(f, "field {field} has the wrong wire type"),
            Self::Entries => write!(f, "more than {} map entries", MAX_ENTRIES),
        }
    }
}

/// A field's wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireType {
    /// A base-128 number.
    Varint = 0,
    /// Eight bytes.
    Fixed64 = 1,
    /// A length and that many bytes.
    Bytes = 2,
    /// Fields up to an end-group tag.
    StartGroup = 3,
    /// The end of a group.
    EndGroup = 4,
    /// Four bytes.
    Fixed32 = 5,
}

/// A field's tag: its number and its wire type.
#[derive(Clone, Copy, Debug)]
pub struct Tag {
    /// The field number, above zero.
    pub field: i32,
    /// Its wire type.
    pub wire: WireType,
}

/// A field: its key and its value. The value of a field number above 4,095, or of an
/// unused wire type, is skipped.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// The number and the wire type.
    pub key: u64,
    /// A varint, or eight bytes.
    pub number: u64,
    /// A length-delimited value.
    pub bytes: &'a [u8],
}

/// The encoded tag of a varint field.
pub const fn varint(field: i32) -> u64 {
    key(field, WireType::Varint)
}

/// The encoded tag of an eight-byte field.
pub const fn fixed64(field: i32) -> u64 {
    key(field, WireType::Fixed64)
}

/// The encoded tag of a length-delimited field.
pub const fn bytes(field: i32) -> u64 {
    key(field, WireType::Bytes)
}

const fn key(field: i32, wire: WireType) -> u64 {
    (field as u64) << 3 | wire as u64
}

impl Tag {
    /// Decodes a tag.
    #[inline(always)]
    fn of(key: u64) -> Result<Self, Malformed> {
        // Go truncates the number to a signed 32-bit integer.
        let field = (key >> 3) as i32;
        let wire = match key & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Bytes,
            3 => WireType::StartGroup,
            5 => WireType::Fixed32,
            _ => return Err(Malformed::WireType),
        };
        if field <= 0 { Err(Malformed::Tag) } else { Ok(Self { field, wire }) }
    }

    /// Its usual encoding.
    #[inline(always)]
    pub fn key(self) -> u64 {
        key(self.field, self.wire)
    }

    /// Fails unless the wire type is `wire`.
    #[inline(always)]
    pub fn expect(self, wire: WireType) -> Result<(), Malformed> {
        if self.wire == wire { Ok(()) } else { Err(Malformed::Mismatch { field: self.field }) }
    }
}

/// The continuation bit of each byte.
const CONTINUED: u64 = 0x8080_8080_8080_8080;

/// Joins the lower seven bits of eight bytes: by twos, by fours, by eights.
const fn sevens(word: u64) -> u64 {
    let word = word & !CONTINUED;
    let twos = word & 0x007f_007f_007f_007f | (word & 0x7f00_7f00_7f00_7f00) >> 1;
    let fours = twos & 0x0000_3fff_0000_3fff | (twos & 0x3fff_0000_3fff_0000) >> 2;
    fours & 0x0fff_ffff | (fours & 0x0fff_ffff_0000_0000) >> 4
}

/// A varint and the bytes after it. Not a method: a reader whose address is taken does
/// not stay in registers.
#[inline(never)]
fn long_varint(rest: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let word = word::first(rest);
    let ends = !word & CONTINUED;
    if ends == 0 {
        return longest_varint(rest);
    }
    let length = ends.trailing_zeros() as usize / 8 + 1;
    let after = rest.get(length..).ok_or(Malformed::Truncated)?;
    Ok((sevens(word & (u64::MAX >> (64 - 8 * length))), after))
}

/// The same for more than eight bytes.
fn longest_varint(rest: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let mut value = 0;
    for (at, byte) in rest.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            return Ok((value, &rest[at + 1..]));
        }
    }
    Err(if rest.len() < 10 { Malformed::Truncated } else { Malformed::LongVarint })
}

/// The bytes after the field whose encoded tag was just read.
#[inline(never)]
fn skip_rare(rest: &[u8], key: u64) -> Result<&[u8], Malformed> {
    skipped(rest, Tag::of(key)?.wire)
}

/// The bytes after the content of a field. Groups are counted, not recursed into: depth
/// costs no stack.
#[inline(never)]
fn skipped(rest: &[u8], wire: WireType) -> Result<&[u8], Malformed> {
    let mut reader = Reader { rest };
    let (mut depth, mut wire) = (0_usize, wire);
    loop {
        match wire {
            WireType::Varint => drop(reader.varint()?),
            WireType::Fixed64 => drop(reader.take(8)?),
            WireType::Bytes => drop(reader.bytes()?),
            WireType::Fixed32 => drop(reader.take(4)?),
            WireType::StartGroup => depth += 1,
            WireType::EndGroup => depth = depth.saturating_sub(1),
        }
        if depth == 0 {
            return Ok(reader.rest);
        }
        wire = reader.wire_in_group()?;
    }
}

/// Reads one message from start to end.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of one message.
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next tag, or `None` at the end of the message.
    #[inline(always)]
    pub fn tag(&mut self) -> Result<Option<Tag>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        Tag::of(self.varint()?).map(Some)
    }

    /// The next encoded tag, or `None` at the end of the message: for callers that
    /// match whole tags and pass unknown ones to [`Reader::skip_key`].
    #[inline(always)]
    pub fn key(&mut self) -> Result<Option<u64>, Malformed> {
        if self.rest.is_empty() { Ok(None) } else { self.varint().map(Some) }
    }

    /// The next field, or `None` at the end of the message.
    #[inline(always)]
    pub fn field(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        if let Some((key, bytes)) = self.short() {
            return Ok(Some(Field { key, number: 0, bytes }));
        }
        let Some(key) = self.key()? else { return Ok(None) };
        let mut field = Field { key, number: 0, bytes: &[] };
        match key {
            8..=0x7fff if key & 7 == 2 => field.bytes = self.bytes()?,
            8..=0x7fff if key & 7 == 0 => field.number = self.varint()?,
            8..=0x7fff if key & 7 == 1 => field.number = self.fixed64()?,
            _ => self.rest = skip_rare(self.rest, key)?,
        }
        Ok(Some(field))
    }

    /// The same, in less code, for messages with few fields.
    #[inline(never)]
    pub fn rare_field(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        self.field()
    }

    /// The next field if it is length-delimited with a tag and a length of one byte
    /// each, as most are.
    #[inline(always)]
    fn short(&mut self) -> Option<(u64, &'a [u8])> {
        let [key, length, rest @ ..] = self.rest else { return None };
        if key & 0x87 != WireType::Bytes as u8 || *key < 8 || *length >= 0x80 {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(usize::from(*length))?;
        self.rest = rest;
        Some((u64::from(*key), bytes))
    }

    /// The content of the next field if it has this tag, of one byte, and a length of
    /// one byte.
    #[inline(always)]
    pub fn short_of(&mut self, wanted: u64) -> Option<&'a [u8]> {
        let [key, length, rest @ ..] = self.rest else { return None };
        if u64::from(*key) != wanted || *length >= 0x80 {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(usize::from(*length))?;
        self.rest = rest;
        Some(bytes)
    }

    /// Skips the field whose encoded tag was just read.
    #[inline(always)]
    pub fn skip_key(&mut self, key: u64) -> Result<(), Malformed> {
        match key {
            // Mostly short length-delimited fields, or varints, with small field
            // numbers.
            8..=0x7fff if key & 7 == 2 => self.bytes().map(drop),
            8..=0x7fff if key & 7 == 0 => self.varint().map(drop),
            _ => {
                self.rest = skip_rare(self.rest, key)?;
                Ok(())
            }
        }
    }

    /// A varint of one to ten bytes, truncated to 64 bits. Mixer pads lengths to two
    /// bytes, so two are as common as one.
    #[inline(always)]
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            [low, high, rest @ ..] if *high < 0x80 => {
                self.rest = rest;
                Ok(u64::from(low & 0x7f) | u64::from(*high) << 7)
            }
            rest => {
                let (value, rest) = long_varint(rest)?;
                self.rest = rest;
                Ok(value)
            }
        }
    }

    /// Consumes a tag if it is next in its usual encoding: faster for long tags.
    #[inline(always)]
    pub fn passes(&mut self, tag: &[u8]) -> bool {
        match self.rest.strip_prefix(tag) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Consumes a tag if it is next again, in one byte.
    #[inline(always)]
    pub fn repeats(&mut self, tag: Tag) -> bool {
        match self.rest {
            [next, rest @ ..] if *next < 0x80 && u64::from(*next) == tag.key() => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// A length and that many bytes.
    #[inline(always)]
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.varint()?;
        if length > i64::MAX as u64 {
            return Err(Malformed::Length);
        }
        self.take(usize::try_from(length).map_err(|_| Malformed::Length)?)
    }

    /// The content of the next length-delimited field with this encoded tag; skips
    /// all others.
    #[inline(always)]
    pub fn next_of(&mut self, wanted: u64) -> Result<Option<&'a [u8]>, Malformed> {
        loop {
            if let Some((key, bytes)) = self.short() {
                if key == wanted {
                    return Ok(Some(bytes));
                }
                continue;
            }
            let Some(key) = self.key()? else { return Ok(None) };
            if key == wanted {
                return self.bytes().map(Some);
            }
            self.skip_key(key)?;
        }
    }

    /// Eight bytes, as a number.
    pub fn fixed64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(8)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }

    /// Eight bytes, as a double.
    pub fn double(&mut self) -> Result<f64, Malformed> {
        let bytes = self.take(8)?;
        Ok(bytes.first_chunk().map_or(0.0, |bytes| f64::from_le_bytes(*bytes)))
    }

    /// Skips the content of a field; for a group, all of it.
    #[inline(always)]
    pub fn skip(&mut self, tag: Tag) -> Result<(), Malformed> {
        self.rest = skipped(self.rest, tag.wire)?;
        Ok(())
    }

    /// The wire type of the next tag inside a group, where an end-group tag is legal.
    fn wire_in_group(&mut self) -> Result<WireType, Malformed> {
        if self.rest.is_empty() {
            return Err(Malformed::Truncated);
        }
        match self.varint()? & 7 {
            0 => Ok(WireType::Varint),
            1 => Ok(WireType::Fixed64),
            2 => Ok(WireType::Bytes),
            3 => Ok(WireType::StartGroup),
            4 => Ok(WireType::EndGroup),
            5 => Ok(WireType::Fixed32),
            _ => Err(Malformed::WireType),
        }
    }

    #[inline(always)]
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(bytes: &[u8]) -> Result<u64, Malformed> {
        Reader::new(bytes).varint()
    }

    #[test]
    fn varints_may_be_padded_to_ten_bytes_and_no_more() {
        assert_eq!(varint(&[0x14]), Ok(20));
        assert_eq!(varint(&[0x94, 0x00]), Ok(20));
        assert_eq!(varint(&[0x94, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), Ok(20));
        assert_eq!(varint(&[0xff; 9].iter().copied().chain([0x01]).collect::<Vec<_>>()), Ok(u64::MAX));
        // The tenth byte's upper bits are discarded, as in Go.
        assert_eq!(varint(&[0xff; 9].iter().copied().chain([0x7f]).collect::<Vec<_>>()), Ok(u64::MAX));
        assert_eq!(varint(&[0x80; 11]), Err(Malformed::LongVarint));
        assert_eq!(varint(&[0x80; 9]), Err(Malformed::Truncated));
        assert_eq!(varint(&[]), Err(Malformed::Truncated));
    }

    #[test]
    fn varints_of_every_length_are_read_wherever_they_stand() {
        for bits in 1..=64 {
            for value in [1 << (bits - 1), u64::MAX >> (64 - bits), 0x5555_5555_5555_5555 >> (64 - bits)] {
                let (mut bytes, mut left) = (Vec::new(), value);
                while left >= 0x80 {
                    bytes.push(left as u8 | 0x80);
                    left >>= 7;
                }
                bytes.push(left as u8);
                for after in 0..10 {
                    let followed = [&bytes[..], &[0xff; 9][..after.min(9)]].concat();
                    let mut reader = Reader::new(&followed);
                    assert_eq!((reader.varint(), reader.rest.len()), (Ok(value), after.min(9)));
                }
            }
        }
    }

    #[test]
    fn unknown_fields_of_every_wire_type_are_passed_over() {
        for (name, bytes) in [
            ("varint", &[0x38, 0x96, 0x01][..]),
            ("fixed64", &[0x39, 1, 2, 3, 4, 5, 6, 7, 8]),
            ("bytes", &[0x3a, 0x02, 1, 2]),
            ("group", &[0x3b, 0x08, 0x01, 0x13, 0x0a, 0x01, 0xff, 0x14, 0x3c]),
            ("fixed32", &[0x3d, 1, 2, 3, 4]),
        ] {
            let mut reader = Reader::new(bytes);
            let tag = reader.tag().unwrap().unwrap();
            assert_eq!((tag.field, reader.skip(tag)), (7, Ok(())), "{name}");
            assert!(reader.rest.is_empty(), "{name}");
        }
    }

    #[test]
    fn what_is_cut_off_is_an_error_wherever_the_cut_is() {
        for whole in [
            &[0x3a, 0x02, 1, 2][..],
            &[0x39, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x3b, 0x08, 0x01, 0x3c],
            &[0x38, 0x80, 0x01],
        ] {
            for end in 1..whole.len() {
                let mut reader = Reader::new(&whole[..end]);
                let outcome = reader.tag().and_then(|tag| reader.skip(tag.unwrap()));
                assert_eq!(outcome, Err(Malformed::Truncated), "{whole:?} cut at {end}");
            }
        }
    }

    #[test]
    fn illegal_tags_are_errors() {
        for (bytes, error) in [
            (&[0x0f][..], Malformed::WireType),
            (&[0x0e], Malformed::WireType),
            (&[0x0c], Malformed::WireType),
            (&[0x00], Malformed::Tag),
            (&[0x80, 0x80, 0x80, 0x80, 0x40], Malformed::Tag),
        ] {
            assert_eq!(Reader::new(bytes).tag().err(), Some(error), "{bytes:?}");
        }
        let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Reader::new(&huge).bytes(), Err(Malformed::Length));
    }

    #[test]
    fn groups_may_be_nested_as_deep_as_the_message_is_long() {
        let deep = [vec![0x3b; 100_000], vec![0x3c; 100_000]].concat();
        let mut reader = Reader::new(&deep);
        let tag = reader.tag().unwrap().unwrap();
        assert_eq!(reader.skip(tag), Ok(()));
    }
}
