//! Texts as words of eight bytes.

/// The first eight bytes, padded with zeros; the first byte is the lowest.
#[inline(always)]
pub(crate) fn first(text: &[u8]) -> u64 {
    text.first_chunk().map_or_else(|| short(text), |first| u64::from_le_bytes(*first))
}

/// A text of less than eight bytes, padded with zeros. Reads that overlap cover it.
#[inline(always)]
pub(crate) fn short(text: &[u8]) -> u64 {
    let byte = |at: usize| u64::from(text[at]) << (8 * at);
    match (text.first_chunk(), text.last_chunk()) {
        (Some(first), Some(last)) => {
            let shift = 8 * (text.len() - size_of::<u32>());
            u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << shift
        }
        _ if text.is_empty() => 0,
        _ => byte(0) | byte(text.len() / 2) | byte(text.len() - 1),
    }
}

/// One in each byte of a word.
pub(crate) const EACH: u64 = 0x0101_0101_0101_0101;
/// The high bit of each byte.
pub(crate) const HIGH: u64 = EACH << 7;

/// The index of the first such byte. It is not zero.
#[inline(always)]
pub(crate) fn find(text: &[u8], wanted: u8) -> Option<usize> {
    // The lowest high bit is that of the first equal byte.
    let equal = |word: u64| {
        let other = word ^ (EACH * u64::from(wanted));
        other.wrapping_sub(EACH) & !other & HIGH
    };
    let (words, rest) = text.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        match equal(u64::from_le_bytes(*word)) {
            0 => {}
            found => return Some(8 * at + found.trailing_zeros() as usize / 8),
        }
    }
    match equal(short(rest)) {
        0 => None,
        found => Some(text.len() - rest.len() + found.trailing_zeros() as usize / 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_byte_is_found_wherever_it_stands() {
        for length in 0..20 {
            for at in 0..length {
                for filler in [0x00, b';', b'9', 0xba] {
                    let mut text = vec![filler; length];
                    assert_eq!(find(&text, b':'), None);
                    text[at] = b':';
                    text[length - 1] = b':';
                    assert_eq!(find(&text, b':'), Some(at), "{filler}");
                }
            }
        }
    }

    #[test]
    fn a_word_has_the_first_bytes_of_a_text() {
        for length in 0..10 {
            let text = &[0xf1, 2, 3, 4, 5, 6, 7, 0xf8, 9, 10][..length];
            let mut padded = [0; 8];
            padded.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
            assert_eq!(first(text).to_le_bytes(), padded);
        }
    }
}
