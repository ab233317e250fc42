//! Receives a CheckRequest in pieces, without the parts that no verdict needs: the body
//! of the request it describes, metadata, and unknown fields.
//!
//! The kept bytes are a CheckRequest again, so that there is one reader. When a field
//! is left out, the lengths of the enclosing messages are rewritten in place, without
//! changing their size.

use records::protobuf::wire::{Malformed, Reader, WireType};

use super::question::field;

/// Limit on the kept bytes: several times Envoy's limit on headers.
pub const MAX_KEPT: usize = 512 * 1024;
/// Kept bytes of most messages, and of almost all.
const USUAL: [usize; 2] = [4 * 1024, 16 * 1024];
/// The depth of the parsed messages: attributes, request, http.
const MAX_DEPTH: usize = 3;

/// The state of a partially received message.
#[derive(Debug, Default)]
pub struct WithoutBody {
    kept: Vec<u8>,
    /// The start of an incomplete tag in `kept`.
    header: usize,
    /// The number of bytes consumed.
    taken: u64,
    /// The treatment of the current field's content, and how many of its bytes are
    /// missing.
    content: Content,
    /// The messages around the next field, the innermost last.
    around: [Around; MAX_DEPTH],
    depth: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum Content {
    #[default]
    None,
    Keep(u64),
    Drop(u64),
}

/// An open message.
#[derive(Clone, Copy, Debug, Default)]
struct Around {
    /// Its end, in the units of `taken`.
    end: u64,
    /// The length of its kept part.
    length: u64,
    /// The offset of that length in `kept`, and its size in bytes.
    at: usize,
    width: usize,
}

/// A field's number, and the length of its content.
struct Header {
    field: i32,
    length: u64,
    /// Whether it is length-delimited.
    bytes: bool,
    /// The length of the tag in bytes.
    tag: usize,
}

/// The treatment of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Enter,
    Keep,
    Drop,
}

/// The treatment of a field in a message at this depth.
fn action(depth: usize, number: i32) -> Action {
    match (depth, number) {
        (0, field::ATTRIBUTES) | (1, field::REQUEST) | (2, field::REQUEST_HTTP) => Action::Enter,
        (1, field::SOURCE | field::DESTINATION)
        | (3, field::HTTP_METHOD | field::HTTP_HEADERS | field::HTTP_PATH)
        | (3, field::HTTP_HOST | field::HTTP_HEADER_MAP) => Action::Keep,
        _ => Action::Drop,
    }
}

impl WithoutBody {
    /// Consumes the next piece of the message. Returns the bytes of memory in use.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<usize, Malformed> {
        while let Some((first, rest)) = piece.split_first() {
            piece = match self.content {
                Content::None => {
                    self.keep(&[*first])?;
                    self.taken += 1;
                    self.begin()?;
                    rest
                }
                Content::Keep(left) => {
                    let (part, after) = split(piece, left);
                    self.keep(part)?;
                    self.content = Content::Keep(left - part.len() as u64);
                    self.pass(part.len());
                    after
                }
                Content::Drop(left) => {
                    let (part, after) = split(piece, left);
                    self.content = Content::Drop(left - part.len() as u64);
                    self.pass(part.len());
                    after
                }
            };
        }
        Ok(self.kept.capacity())
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), Malformed> {
        let length = self.kept.len() + part.len();
        if length > MAX_KEPT {
            return Err(Malformed::Length);
        }
        if length > self.kept.capacity() {
            let capacity = USUAL.into_iter().find(|usual| length <= *usual).unwrap_or(MAX_KEPT);
            self.kept.reserve_exact(capacity - self.kept.len());
        }
        self.kept.extend_from_slice(part);
        Ok(())
    }

    /// Ends the message and returns its kept part.
    pub fn end(self) -> Result<Vec<u8>, Malformed> {
        let whole = self.depth == 0 && self.header == self.kept.len();
        match self.content {
            Content::None if whole => Ok(self.kept),
            _ => Err(Malformed::Truncated),
        }
    }

    /// Starts a field, if its tag and length are complete.
    fn begin(&mut self) -> Result<(), Malformed> {
        let header = match header(&self.kept[self.header..]) {
            Ok(header) => header,
            Err(Malformed::Truncated) => return self.within(self.taken),
            Err(malformed) => return Err(malformed),
        };
        self.within(self.taken.saturating_add(header.length))?;
        match action(self.depth, header.field) {
            Action::Enter if header.bytes => self.enter(&header),
            Action::Drop => self.leave_out(&header),
            _ => self.content = Content::Keep(header.length),
        }
        self.pass(0);
        Ok(())
    }

    /// Fails unless the innermost message extends to `end`.
    fn within(&self, end: u64) -> Result<(), Malformed> {
        let around = self.around[..self.depth].last();
        if around.is_some_and(|around| end > around.end) { Err(Malformed::Truncated) } else { Ok(()) }
    }

    fn enter(&mut self, header: &Header) {
        let at = self.header + header.tag;
        let (end, width) = (self.taken + header.length, self.kept.len() - at);
        self.around[self.depth] = Around { end, length: header.length, at, width };
        self.depth += 1;
        self.header = self.kept.len();
    }

    fn leave_out(&mut self, header: &Header) {
        let less = (self.kept.len() - self.header) as u64 + header.length;
        self.kept.truncate(self.header);
        self.content = Content::Drop(header.length);
        for around in &mut self.around[..self.depth] {
            around.length -= less;
            write_varint(&mut self.kept[around.at..][..around.width], around.length);
        }
    }

    /// Consumes bytes of content; ends the field, and the messages that end with it.
    fn pass(&mut self, bytes: usize) {
        self.taken += bytes as u64;
        if let Content::Keep(1..) | Content::Drop(1..) = self.content {
            return;
        }
        self.content = Content::None;
        self.header = self.kept.len();
        while self.around[..self.depth].last().is_some_and(|around| around.end == self.taken) {
            self.depth -= 1;
        }
    }
}

/// At most `left` bytes, and the rest.
fn split(piece: &[u8], left: u64) -> (&[u8], &[u8]) {
    piece.split_at(usize::try_from(left).unwrap_or(usize::MAX).min(piece.len()))
}

/// Reads a tag and the length of its content.
fn header(bytes: &[u8]) -> Result<Header, Malformed> {
    let mut reader = Reader::new(bytes);
    let tag = reader.tag()?.ok_or(Malformed::Truncated)?;
    let length = match tag.wire {
        WireType::Varint => reader.varint().map(|_| 0)?,
        WireType::Fixed64 => 8,
        WireType::Fixed32 => 4,
        WireType::Bytes => reader.varint()?,
        WireType::StartGroup | WireType::EndGroup => return Err(Malformed::WireType),
    };
    if length > i64::MAX as u64 {
        return Err(Malformed::Length);
    }
    let width = bytes.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    Ok(Header { field: tag.field, length, bytes: tag.wire == WireType::Bytes, tag: width })
}

/// Overwrites a number with one that is not larger.
fn write_varint(place: &mut [u8], mut value: u64) {
    let Some((last, rest)) = place.split_last_mut() else { return };
    for byte in rest {
        *byte = value as u8 | 0x80;
        value >>= 7;
    }
    *last = value as u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(field: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        assert!(length < 1 << 14);
        let mut out = vec![field << 3 | 2, length as u8 | 0x80, (length >> 7) as u8];
        out.extend_from_slice(content);
        out
    }

    fn request(http: &[u8]) -> Vec<u8> {
        message(1, &[message(4, &message(2, http)), message(11, &[9; 300]), message(1, b"\x0a\x00")].concat())
    }

    fn kept(bytes: &[u8], step: usize) -> Result<Vec<u8>, Malformed> {
        let mut message = WithoutBody::default();
        for piece in bytes.chunks(step) {
            message.push(piece)?;
        }
        message.end()
    }

    #[test]
    fn a_body_is_left_out_and_all_else_stays() {
        let before = [message(2, b"GET"), message(4, b"/path")].concat();
        let header_map = message(13, &message(1, &[message(1, b"a"), message(3, b"b")].concat()));
        for body in [0, 1, 200, 5_000] {
            let body = vec![0xff; body];
            let http = [&*before, &message(11, &body), b"\x48\x80\x01", &message(12, &body), &header_map];
            let bytes = request(&http.concat());
            for step in [1, 2, 3, 100, 100_000] {
                let kept = kept(&bytes, step).unwrap();
                let http = message(2, &[&*before, &header_map].concat());
                let expected = message(1, &[message(4, &http), message(1, b"\x0a\x00")].concat());
                assert_eq!(kept, expected, "{} in steps of {step}", body.len());
            }
        }
    }

    #[test]
    fn a_message_that_is_cut_is_an_error_wherever_it_is_cut() {
        let bytes = request(&[message(2, b"GET"), message(11, b"body")].concat());
        for end in 1..bytes.len() {
            assert_eq!(kept(&bytes[..end], 7), Err(Malformed::Truncated), "{end}");
        }
        assert_eq!(kept(b"", 1), Ok(Vec::new()));
    }

    #[test]
    fn a_field_does_not_reach_beyond_its_message() {
        for bytes in [
            &b"\x0a\x02\x22\x05\x12\x03abc"[..],
            b"\x0a\x02\x22\x01\x12\x00",
            b"\x0a\x01\x22\x00",
            b"\x0a\x04\x22\x02\x12\x05abcde",
            b"\x0a\x02\x0a\x7f",
        ] {
            assert_eq!(kept(bytes, 1), Err(Malformed::Truncated), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_kept_takes_the_same_memory_however_large_the_body() {
        let before = message(2, b"GET");
        for body in [0, 100, 10_000, 16_000] {
            let mut kept = WithoutBody::default();
            kept.push(&request(&[&*before, &message(11, &vec![b'b'; body])].concat())).unwrap();
            assert_eq!(kept.kept.capacity(), USUAL[0], "{body}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let header = message(3, &[b'a'; 8_000]);
        let mut message = WithoutBody::default();
        let length = MAX_KEPT as u64 * 2;
        let varint = |value: u64| -> Vec<u8> {
            (0..5).map(|at| (value >> (7 * at)) as u8 & 0x7f | if at < 4 { 0x80 } else { 0 }).collect()
        };
        for (tag, less) in [(0x0a, 0), (0x22, 6), (0x12, 12)] {
            message.push(&[tag]).unwrap();
            message.push(&varint(length - less)).unwrap();
        }
        let outcome = (0..length / 8_000).try_for_each(|_| message.push(&header).map(drop));
        assert_eq!(outcome, Err(Malformed::Length));
        assert!(message.kept.capacity() <= MAX_KEPT);
    }
}
