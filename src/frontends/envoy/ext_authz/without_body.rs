//! A CheckRequest that arrives in pieces, less what no verdict needs: the body
//! of the request it describes, metadata, and unknown fields.
//!
//! What is kept is a CheckRequest again, so that there is one way to read it.
//! Where a field is left out, the lengths of the messages around it are written
//! anew in the bytes they had.

use records::protobuf::wire::{Malformed, Reader, WireType};

use super::question::field;

/// The most bytes that are kept: several times Envoy's limit on headers.
pub const MAX_KEPT: usize = 512 * 1024;
/// What is kept of most messages, and of few of them more.
const USUAL: [usize; 2] = [4 * 1024, 16 * 1024];
/// The messages that are looked into, one in the other: attributes, request, http.
const MAX_DEPTH: usize = 3;

/// A message under way.
#[derive(Debug, Default)]
pub struct WithoutBody {
    kept: Vec<u8>,
    /// Where in `kept` the tag begins that is not complete yet.
    header: usize,
    /// How many bytes were pushed and looked at.
    taken: u64,
    /// What becomes of the content of the field that is under way, and how many
    /// bytes of it are still to come.
    content: Content,
    /// The messages that the next field is in, the innermost last.
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

/// A message that has begun.
#[derive(Clone, Copy, Debug, Default)]
struct Around {
    /// Where it ends, counted as `taken` is.
    end: u64,
    /// How long what is kept of it is.
    length: u64,
    /// Where in `kept` that length is written, and in how many bytes.
    at: usize,
    width: usize,
}

/// A field's number, and the length of its content.
struct Header {
    field: i32,
    length: u64,
    /// Whether the content is a string, bytes or a message.
    bytes: bool,
    /// How many bytes the tag is long.
    tag: usize,
}

/// What becomes of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Enter,
    Keep,
    Drop,
}

/// What becomes of a field of the message that is `depth` messages deep.
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
    /// Takes the next piece of the message. Returns how many bytes of memory are
    /// taken so far.
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

    /// What was kept of a message that ends here.
    pub fn end(self) -> Result<Vec<u8>, Malformed> {
        let whole = self.depth == 0 && self.header == self.kept.len();
        match self.content {
            Content::None if whole => Ok(self.kept),
            _ => Err(Malformed::Truncated),
        }
    }

    /// Begins a field, if all of its tag and length is here.
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

    /// An error unless the innermost message reaches to `end`.
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

    /// So many bytes of content have passed: ends the field and the messages
    /// that end with it.
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

/// Reads a tag and what says how long its content is.
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

/// Writes a number that is no larger than the one it replaces.
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
