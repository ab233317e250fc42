//! Label sets of Prometheus: their text, and a hash to find them by.

use crate::render::append::{append, append_unescaped};
use crate::word;

/// Length limit of a label value, in bytes.
pub const MAX_VALUE: usize = 128;

/// Appends `name="value"`, after a comma unless it is the first, with the value made
/// UTF-8, truncated and escaped.
pub fn label(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    if !out.is_empty() {
        out.push(b',');
    }
    append(out, name.as_bytes());
    out.extend_from_slice(b"=\"");
    let start = out.len();
    let is_plain = value.len() <= MAX_VALUE && append_unescaped(out, value).is_empty();
    if !is_plain {
        out.truncate(start);
        escaped(out, value);
    }
    out.push(b'"');
}

#[inline(never)]
fn escaped(out: &mut Vec<u8>, value: &[u8]) {
    let mut left = MAX_VALUE;
    for chunk in value.utf8_chunks() {
        let invalid = if chunk.invalid().is_empty() { "" } else { "\u{fffd}" };
        for letter in chunk.valid().chars().chain(invalid.chars()) {
            let Some(rest) = left.checked_sub(letter.len_utf8()) else { return };
            left = rest;
            match letter {
                '\\' => out.extend_from_slice(b"\\\\"),
                '"' => out.extend_from_slice(b"\\\""),
                '\n' => out.extend_from_slice(b"\\n"),
                _ => out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}

/// The part of a URL before its query.
pub fn without_query(url: &[u8]) -> &[u8] {
    &url[..word::find(url, b'?').unwrap_or(url.len())]
}

/// A hash of a label set, eight bytes at a time. Without the seed collisions cannot be
/// constructed from outside.
pub fn hash(seed: u64, labels: &[u8]) -> u64 {
    const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15;
    let mixed = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * FACTOR;
        product as u64 ^ (product >> 64) as u64
    };
    let (words, rest) = labels.as_chunks::<8>();
    let hash = words.iter().fold(seed, |hash, word| mixed(hash, u64::from_le_bytes(*word)));
    mixed(mixed(hash, word::short(rest)), labels.len() as u64)
}

/// Whether two label sets are equal, eight bytes at a time: musl's memcmp compares byte
/// by byte.
pub fn are_same(a: &[u8], b: &[u8]) -> bool {
    let ((a_words, a_rest), (b_words, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let are_same = |a: &[u8; 8], b: &[u8; 8]| u64::from_le_bytes(*a) == u64::from_le_bytes(*b);
    a.len() == b.len()
        && word::short(a_rest) == word::short(b_rest)
        && a_words.iter().zip(b_words).all(|(a, b)| are_same(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_labels_are_cut_escaped_and_made_utf_8() {
        let long = "é".repeat(100);
        let mut out = Vec::new();
        label(&mut out, "a", b"x\"y\\z\n\xe9");
        label(&mut out, "b", long.as_bytes());
        label(&mut out, "c", &[b'c'; MAX_VALUE + 1]);
        let (b, c) = ("é".repeat(64), "c".repeat(MAX_VALUE));
        let expected = format!("a=\"x\\\"y\\\\z\\n\u{fffd}\",b=\"{b}\",c=\"{c}\"");
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_query_begins_at_the_first_question_mark() {
        for (url, expected) in [
            (&b"/a?b?c"[..], &b"/a"[..]),
            (b"/long-enough-for-a-word?b?", b"/long-enough-for-a-word"),
            (b"?", b""),
            (b"", b""),
            (b"/a-path-without", b"/a-path-without"),
        ] {
            assert_eq!(without_query(url), expected);
        }
    }

    #[test]
    fn sets_that_differ_in_one_byte_or_in_length_are_not_the_same() {
        let set = b"endpoint=\"/test\",fullurl=\"/productpage\"";
        for length in 0..set.len() {
            let part = &set[..length];
            let copy = part.to_vec();
            assert!(are_same(part, &copy) && hash(1, part) == hash(1, &copy));
            let longer = [part, b"\0"].concat();
            assert!(!are_same(part, &longer) && hash(1, part) != hash(1, &longer));
            for at in 0..length {
                let mut other = part.to_vec();
                other[at] ^= 0x80;
                assert!(!are_same(part, &other) && hash(1, part) != hash(1, &other), "{at} of {length}");
            }
        }
        assert_ne!(hash(1, set), hash(2, set));
    }
}
