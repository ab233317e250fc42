//! How long a line becomes, known before it is rendered.

use super::{Format, json};

/// What a line has of its own: names, punctuation, numbers and times.
pub const FIXED: usize = 2_048;
/// What one byte becomes at the most: `\u0001` for a control character in JSON,
/// `\x01` in text.
const JSON: usize = 6;
const TEXT: usize = 4;

/// The most bytes a line can have that is made of `length` bytes of a message,
/// and of `shared` bytes that are rendered already.
pub const fn most(format: Format, length: usize, shared: usize) -> usize {
    let growth = match format {
        Format::Text => TEXT,
        Format::Json => JSON,
    };
    FIXED.saturating_add(shared).saturating_add(length.saturating_mul(growth))
}

/// A number of bytes that the line of these `bytes` can't exceed: by their number
/// where that is within `enough`, else by what must be escaped among them.
pub fn need(format: Format, bytes: &[u8], enough: usize) -> usize {
    let most = most(format, bytes.len(), 0);
    if most <= enough {
        return most;
    }
    // Framing is counted as if it were text, and base64 adds a third.
    let growth: usize = bytes.utf8_chunks().map(|chunk| json::growth(&chunk)).sum();
    FIXED.saturating_add(bytes.len()).saturating_add(bytes.len() / 3).saturating_add(growth)
}

/// Whether the line of these `bytes`, and of `shared` bytes that are rendered
/// already, has at most `room` bytes. Never wrongly true.
pub fn fits(format: Format, bytes: &[u8], shared: usize, room: usize) -> bool {
    let room = room.checked_sub(shared);
    room.is_some_and(|room| need(format, bytes, room) <= room)
}
