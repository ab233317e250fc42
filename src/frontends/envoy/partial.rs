//! Receives a message in pieces, without the fields that no one needs.
//!
//! The kept bytes are a message of the same type again, so that there is one reader.
//! When a field is left out, the lengths of the enclosing messages are rewritten in
//! place, without changing their size.

use records::protobuf::wire::{Malformed, Reader, WireType};

/// Kept bytes of most messages, and of almost all.
pub(super) const USUAL: [usize; 2] = [4 * 1024, 16 * 1024];
/// The depth of the parsed messages: attributes, request, http.
const MAX_DEPTH: usize = 3;

/// The state of a partially received message.
#[derive(Debug)]
pub struct Partial {
    rules: &'static Rules,
    kept: Vec<u8>,
    /// The start of an incomplete tag in `kept`.
    header: usize,
    /// The number of bytes consumed.
    taken: u64,
    /// The treatment of the current field's content, and how many of its bytes are
    /// missing.
    content: Content,
    /// By how much the messages around it shrink once it is left out.
    less: u64,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is a message, some of whose fields may be dropped.
    Enter,
    /// Kept.
    Keep,
    /// Left out.
    Drop,
}

/// What is kept of a kind of message.
#[derive(Debug)]
pub struct Rules {
    /// The treatment of the field with a number in a message at a depth.
    pub action: fn(usize, i32) -> Action,
    /// Limit on the kept bytes.
    pub max_kept: usize,
    /// Whether all that follows a malformed field is kept, for the reader to refuse.
    pub keeps_malformed: bool,
}

impl Partial {
    /// A message of which nothing was received.
    pub fn new(rules: &'static Rules) -> Self {
        let (kept, header, taken, content, less, around, depth) = Default::default();
        Self { rules, kept, header, taken, content, less, around, depth }
    }

    /// The bytes kept so far.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Makes room for all of `more` bytes.
    pub fn reserve(&mut self, more: usize) {
        self.kept.reserve_exact(more);
    }

    /// Consumes the next piece of the message. Returns the bytes of memory in use.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<usize, Malformed> {
        while let Some((first, rest)) = piece.split_first() {
            piece = match self.content {
                Content::None => {
                    self.keep(&[*first])?;
                    self.taken += 1;
                    match self.begin() {
                        Err(_) if self.rules.keeps_malformed => self.content = Content::Keep(u64::MAX),
                        begun => begun?,
                    }
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
        if length > self.rules.max_kept {
            return Err(Malformed::Length);
        }
        if length > self.kept.capacity() {
            let capacity = USUAL.into_iter().find(|usual| length <= *usual).unwrap_or(self.rules.max_kept);
            self.kept.reserve_exact(capacity - self.kept.len());
        }
        self.kept.extend_from_slice(part);
        Ok(())
    }

    /// The kept part of a message, which is malformed if the message is.
    pub fn into_kept(self) -> Vec<u8> {
        self.kept
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
        match (self.rules.action)(self.depth, header.field) {
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
        (self.content, self.less) = (Content::Drop(header.length), less);
    }

    /// Rewrites the lengths around a field that was left out, once it has ended: what
    /// is cut short before is malformed.
    fn shrink_around(&mut self) {
        let less = std::mem::take(&mut self.less);
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
        self.shrink_around();
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
