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

#[cfg(test)]
mod tests {
    use super::*;

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
