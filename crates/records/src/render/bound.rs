//! Upper bounds of a line's length, known before rendering.

use super::{Format, json};

/// Bytes of a line that are not from the message: names, punctuation, numbers and
/// times.
pub const FIXED: usize = 2_048;
/// The most bytes that one byte becomes: `\u0001` for a control character in JSON,
/// `\x01` in text.
const JSON: usize = 6;
const TEXT: usize = 4;

/// Upper bound of a line rendered from `length` bytes of a message and `shared` bytes
/// that are rendered already.
pub const fn most(format: Format, length: usize, shared: usize) -> usize {
    let growth = match format {
        Format::Text => TEXT,
        Format::Json => JSON,
    };
    FIXED.saturating_add(shared).saturating_add(length.saturating_mul(growth))
}

/// Upper bound of the line for these `bytes`: from their number if that is within
/// `enough`, else from the bytes that need escaping.
pub fn need(format: Format, bytes: &[u8], enough: usize) -> usize {
    let most = most(format, bytes.len(), 0);
    if most <= enough {
        return most;
    }
    // Framing is counted as text, and base64 adds a third.
    let growth: usize = bytes.utf8_chunks().map(|chunk| json::growth(&chunk)).sum();
    FIXED.saturating_add(bytes.len()).saturating_add(bytes.len() / 3).saturating_add(growth)
}

/// Whether the line for these `bytes` and `shared` rendered bytes fits into `room`
/// bytes. May be wrongly false, never wrongly true.
pub fn fits(format: Format, bytes: &[u8], shared: usize, room: usize) -> bool {
    let room = room.checked_sub(shared);
    room.is_some_and(|room| need(format, bytes, room) <= room)
}
