//! Appends text to a buffer in chunks of a constant size, whose copies need no call.

use crate::word::{self, EACH, HIGH};

/// From this length on musl's memcpy is faster: it copies fast, but starts slowly.
const LONG: usize = 256;

/// Appends a text.
pub fn append(out: &mut Vec<u8>, text: &[u8]) {
    let (chunks, rest) = text.as_chunks::<16>();
    match text.last_chunk::<16>() {
        Some(_) if text.len() >= LONG => out.extend_from_slice(text),
        Some(last) => {
            chunks.iter().for_each(|chunk| out.extend_from_slice(chunk));
            overlap(out, last, rest.len());
        }
        None => short(out, text),
    }
}

/// Appends a text of less than 16 bytes.
#[inline(always)]
fn short(out: &mut Vec<u8>, text: &[u8]) {
    match (text.first_chunk::<8>(), text.last_chunk::<8>()) {
        (Some(first), Some(last)) => {
            out.extend_from_slice(first);
            overlap(out, last, text.len() - 8);
        }
        _ => padded(out, word::short(text), text.len()),
    }
}

/// Appends the last `new` bytes of a chunk whose other bytes are there already.
#[inline(always)]
fn overlap<const N: usize>(out: &mut Vec<u8>, chunk: &[u8; N], new: usize) {
    out.truncate(out.len() - (N - new));
    out.extend_from_slice(chunk);
}

/// Appends the first `length` bytes of a word.
#[inline(always)]
fn padded(out: &mut Vec<u8>, word: u64, length: usize) {
    let end = out.len() + length;
    out.extend_from_slice(&word.to_le_bytes());
    out.truncate(end);
}

/// A constant text of at most `N` bytes. Appends `N` bytes and truncates, since a
/// copy of constant length is cheaper.
#[derive(Debug)]
pub(crate) struct Literal<const N: usize> {
    padded: [u8; N],
    length: usize,
}

impl<const N: usize> Literal<N> {
    pub(crate) const fn new(text: &str) -> Self {
        let mut padded = [0; N];
        let mut at = 0;
        while at < text.len() {
            padded[at] = text.as_bytes()[at];
            at += 1;
        }
        Self { padded, length: text.len() }
    }

    #[inline(always)]
    pub(crate) fn append(&self, out: &mut Vec<u8>) {
        let length = out.len() + self.length;
        out.extend_from_slice(&self.padded);
        out.truncate(length);
    }
}

/// The high bits of the bytes of a word that are neither printable ASCII from `lowest`
/// on, except for some bytes. Bits above the lowest one may be wrong.
#[inline(always)]
pub const fn others<const N: usize>(word: u64, lowest: u8, without: [u8; N]) -> u64 {
    // Of a byte below 0x80, an addition sets the high bit and no other byte's.
    let mut plain = word.wrapping_add(EACH * (0x80 - lowest as u64));
    let mut at = 0;
    while at < N {
        plain &= (word ^ (EACH * without[at] as u64)).wrapping_add(EACH * 0x7f);
        at += 1;
    }
    (word | word.wrapping_add(EACH) | !plain) & HIGH
}

/// Appends a text up to its first byte that is not plain, and returns the rest,
/// usually empty. `others` has the high bits of the bytes of a word that are not plain;
/// only the lowest one needs to be right. Digits are plain.
#[inline(always)]
pub fn append_plain<'t>(out: &mut Vec<u8>, text: &'t [u8], others: impl Fn(u64) -> u64) -> &'t [u8] {
    let mut rest = text;
    while let Some((chunk, after)) = rest.split_first_chunk::<8>() {
        let other = others(u64::from_le_bytes(*chunk));
        out.extend_from_slice(chunk);
        if other != 0 {
            let plain = other.trailing_zeros() as usize / 8;
            out.truncate(out.len() - (8 - plain));
            return &rest[plain..];
        }
        rest = after;
    }
    let length = rest.len();
    if length == 0 {
        return rest;
    }
    if let Some(last) = text.last_chunk::<8>()
        && others(u64::from_le_bytes(*last)) == 0
    {
        overlap(out, last, length);
        return &[];
    }
    let word = word::short(rest);
    let other = others(word | (EACH * u64::from(b'0')) << (8 * length));
    let plain = length.min(other.trailing_zeros() as usize / 8);
    padded(out, word, plain);
    &rest[plain..]
}

/// Appends a text up to its first byte that is not printable ASCII, or is a quote or a
/// backslash, and returns the rest. For all callers one copy of the code.
#[inline(never)]
pub fn append_unescaped<'t>(out: &mut Vec<u8>, text: &'t [u8]) -> &'t [u8] {
    append_plain(out, text, |word| others(word, b' ', *b"\"\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_every_length_are_appended_whole() {
        let text: Vec<u8> = (0..300).map(|at| at as u8).collect();
        for length in 0..300 {
            let mut out = b"before".to_vec();
            append(&mut out, &text[..length]);
            append(&mut out, b"after");
            assert_eq!(out, [b"before", &text[..length], b"after"].concat(), "{length}");
        }
    }

    #[test]
    fn a_text_is_appended_up_to_the_first_byte_that_is_not_plain() {
        for length in 0..40 {
            for at in 0..length {
                for byte in 0..=255 {
                    let mut text = vec![b'a'; length];
                    text[at] = byte;
                    text[(at + 3) % length] |= 0x80;
                    let plain = |byte: &u8| (0x20..0x7f).contains(byte) && !b"\"\\ ".contains(byte);
                    let expected = text.iter().position(|byte| !plain(byte)).unwrap_or(length);
                    let mut out = b"before".to_vec();
                    let rest = append_plain(&mut out, &text, |word| others(word, b'!', *b"\"\\"));
                    assert_eq!((&out[6..], rest), text.split_at(expected), "{byte} at {at} of {length}");
                }
            }
        }
    }
}
