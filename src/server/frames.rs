//! Where HTTP/2's frames end, to make h2 free a large read buffer.
//!
//! h2 reads into a buffer that grows to twice the largest frame, and keeps that as
//! long as a connection lasts. It begins a new one of the first size when a frame
//! ends where its buffer does. So an idle connection with a large buffer is given one
//! more frame, of the size of what is left: of a type that no one knows, which HTTP/2
//! has to ignore.

use tokio::io::ReadBuf;

/// The length of the preface, of a frame's header, and of the longest frame.
const PREFACE: usize = 24;
const HEADER: usize = 9;
const MAX_PAYLOAD: usize = 16 * 1024;
/// The types of the frames of a header block, in which no other may be.
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
/// A type that HTTP/2 does not define.
const UNKNOWN: u8 = 0xff;
/// The size of a new read buffer.
const NEW: usize = 8 * 1024;

/// The frames of a connection.
#[derive(Debug)]
pub(super) struct Frames {
    header: [u8; HEADER],
    /// Bytes of the current frame that were received, and are missing.
    received: usize,
    missing: usize,
    /// Whether the buffer is larger than a new one.
    is_large: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self { header: [UNKNOWN; HEADER], received: HEADER, missing: PREFACE, is_large: false }
    }
}

impl Frames {
    /// Follows bytes that were read, to a buffer with `room` for more.
    pub(super) fn read(&mut self, mut bytes: &[u8], room: usize) {
        self.is_large |= self.received + bytes.len() + room > NEW;
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(self.missing.min(bytes.len()));
            if let Some(header) = self.header.get_mut(self.received..self.received + part.len()) {
                header.copy_from_slice(part);
            }
            (self.received, self.missing, bytes) =
                (self.received + part.len(), self.missing - part.len(), rest);
            if self.missing == 0 && self.received == HEADER {
                let [high, middle, low, ..] = self.header;
                self.missing = u32::from_be_bytes([0, high, middle, low]) as usize;
            }
            if self.missing == 0 {
                (self.received, self.missing) = (0, HEADER);
            }
        }
        self.is_large &= self.received > 0 || room >= HEADER;
    }

    /// Fills a large buffer of an idle connection. Returns whether it did.
    pub(super) fn fill(&mut self, out: &mut ReadBuf<'_>) -> bool {
        let (room, is_in_frame) = (out.remaining(), self.received > 0);
        let is_in_block = matches!(self.header[3], HEADERS | CONTINUATION);
        if !self.is_large || is_in_frame || is_in_block || room < HEADER {
            return false;
        }
        let payload = MAX_PAYLOAD.min(room - HEADER);
        let [_, high, middle, low] = (payload as u32).to_be_bytes();
        out.put_slice(&[high, middle, low, UNKNOWN, 0, 0, 0, 0, 0]);
        out.initialize_unfilled_to(payload);
        out.advance(payload);
        self.is_large = out.remaining() >= HEADER;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 0;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let [_, high, middle, low] = (payload as u32).to_be_bytes();
        let mut frame = vec![high, middle, low, kind, 0, 0, 0, 0, 1];
        frame.resize(HEADER + payload, 7);
        frame
    }

    /// A connection whose preface was read, as h2 does, to a buffer of that size.
    fn begun() -> Frames {
        let mut frames = Frames::default();
        frames.read(&[0; PREFACE], 0);
        frames
    }

    /// The frame that fills a buffer with this much room behind these bytes, read in
    /// steps to one of this size: its header and length.
    fn filled(bytes: &[u8], step: usize, size: usize, room: usize) -> Option<([u8; HEADER], usize)> {
        let mut frames = begun();
        bytes.chunks(step).for_each(|part| frames.read(part, size - part.len()));
        let mut space = vec![1; room];
        let mut out = ReadBuf::new(&mut space);
        let is_filled = frames.fill(&mut out);
        assert_eq!(is_filled, !out.filled().is_empty());
        is_filled.then(|| (*out.filled().first_chunk().unwrap(), out.filled().len()))
    }

    #[test]
    fn a_large_buffer_is_filled_by_one_frame_that_has_no_meaning() {
        for step in [1, 8, 9, 10, 5_000, 60_000] {
            let bytes = [frame(HEADERS, 100), frame(DATA, 10_000), frame(DATA, 0)].concat();
            let expected = ([0, 0x0b, 0xaf, UNKNOWN, 0, 0, 0, 0, 0], 3_000);
            assert_eq!(filled(&bytes, step, 70_000, 3_000), Some(expected), "{step}");
        }
    }

    #[test]
    fn a_new_buffer_is_not_filled_nor_one_without_room_for_a_frame() {
        let bytes = frame(DATA, 100);
        assert_eq!(filled(&bytes, 109, NEW, NEW - 109), None);
        assert_eq!(filled(&bytes, 109, 70_000, HEADER - 1), None);
        let mut frames = begun();
        frames.read(&frame(DATA, 16_384), HEADER - 1);
        assert!(!frames.is_large, "h2 has begun a new one");
    }

    #[test]
    fn nothing_is_put_into_a_frame_or_between_those_of_a_header_block() {
        let bytes = frame(DATA, 10_000);
        for cut in 1..bytes.len() {
            assert_eq!(filled(&bytes[..cut], 4_000, 70_000, 3_000), None, "{cut}");
        }
        for kind in [HEADERS, CONTINUATION] {
            let bytes = [&*bytes, &frame(kind, 10)].concat();
            assert_eq!(filled(&bytes, 4_000, 70_000, 3_000), None);
        }
    }

    #[test]
    fn a_buffer_larger_than_a_frame_is_filled_by_several() {
        let (mut frames, mut space) = (begun(), vec![0; 40_000]);
        frames.read(&frame(DATA, 1), 40_000);
        let mut out = ReadBuf::new(&mut space);
        let mut lengths = Vec::new();
        while frames.fill(&mut out) {
            lengths.push(out.filled().len());
        }
        assert_eq!(lengths, [HEADER + MAX_PAYLOAD, 2 * (HEADER + MAX_PAYLOAD), 40_000]);
    }
}
