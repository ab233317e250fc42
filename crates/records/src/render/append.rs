//! Appends text to a buffer in small chunks.

/// Appends a short text. Most are a few words long, and for those musl's memcpy takes
/// longer to start than to copy.
pub fn append(out: &mut Vec<u8>, text: &[u8]) {
    if text.len() > 48 {
        return out.extend_from_slice(text);
    }
    let mut rest = text;
    while let Some((chunk, after)) = rest.split_first_chunk::<8>() {
        out.extend_from_slice(chunk);
        rest = after;
    }
    if let Some((chunk, after)) = rest.split_first_chunk::<4>() {
        out.extend_from_slice(chunk);
        rest = after;
    }
    if let Some((chunk, after)) = rest.split_first_chunk::<2>() {
        out.extend_from_slice(chunk);
        rest = after;
    }
    if let [last] = rest {
        out.push(*last);
    }
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

const EACH: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Appends a text up to its first byte that is not plain, and returns the rest,
/// usually empty. Plain is printable ASCII except for three given bytes. Tests eight
/// bytes at a time.
#[inline(always)]
pub(crate) fn append_plain<'t>(out: &mut Vec<u8>, text: &'t [u8], without: [u8; 3]) -> &'t [u8] {
    let mut rest = text;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        let other = others(*word, without);
        out.extend_from_slice(word);
        if other != 0 {
            let plain = other.trailing_zeros() as usize / 8;
            out.truncate(out.len() - 8 + plain);
            return &rest[plain..];
        }
        rest = after;
    }
    // The last eight bytes of a longer text overlap bytes already tested.
    if text.last_chunk().is_some_and(|last| others(*last, without) == 0) {
        append(out, rest);
        return &[];
    }
    let is_plain = |byte: &u8| (0x20..0x7f).contains(byte) && !without.contains(byte);
    let plain = rest.iter().position(|byte| !is_plain(byte)).unwrap_or(rest.len());
    append(out, &rest[..plain]);
    &rest[plain..]
}

/// The high bit of the first byte in memory that is not plain, and possibly of later
/// ones; zero if all eight are plain.
#[inline(always)]
fn others(word: [u8; 8], without: [u8; 3]) -> u64 {
    let word = u64::from_le_bytes(word);
    let below = |bound: u8, word: u64| word.wrapping_sub(EACH * u64::from(bound)) & !word;
    let equal = |byte: u8| below(1, word ^ (EACH * u64::from(byte)));
    let [a, b, c] = without.map(equal);
    (word | below(0x20, word) | equal(0x7f) | a | b | c) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;

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
                    let rest = append_plain(&mut out, &text, *b"\"\\ ");
                    assert_eq!((&out[6..], rest), text.split_at(expected), "{byte} at {at} of {length}");
                }
            }
        }
    }
}
