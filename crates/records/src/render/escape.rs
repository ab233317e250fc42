//! Escapes values in a line of text, so that a line stays one line and a field one
//! field. Non-ASCII bytes are kept.

use super::append::{append_plain, append_unescaped, others};

/// Appends the text of a quoted field: at most four bytes per byte, as all of these.
pub fn quoted(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = append_unescaped(out, text);
    while let Some((byte, after)) = rest.split_first() {
        escape(out, *byte);
        rest = match after {
            // They may fill a text.
            [0..0x20, ..] => after,
            _ => append_unescaped(out, after),
        };
    }
}

/// Appends the text of a field that ends at a space.
#[inline(never)]
pub fn bare(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some((byte, after)) = append_plain(out, rest, |word| others(word, b'!', *b"\"\\")).split_first()
    {
        escape(out, *byte);
        rest = after;
    }
}

/// The same with underscores for spaces: no escape has a space.
#[inline(never)]
pub fn underscored(out: &mut Vec<u8>, text: &[u8]) {
    let start = out.len();
    quoted(out, text);
    out[start..].iter_mut().filter(|byte| **byte == b' ').for_each(|byte| *byte = b'_');
}

/// Appends a whole line from the sender: only line ends and terminal controls are
/// escaped.
pub fn line(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some((byte, after)) = append_plain(out, rest, |word| others(word, b' ', [])).split_first() {
        match byte {
            b'\t' => out.push(b'\t'),
            byte => escape(out, *byte),
        }
        rest = after;
    }
}

/// The hexadecimal digits of a byte.
pub fn hex_digits(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)])
}

/// Appends a byte that is not plain.
#[inline(never)]
fn escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        0..=b' ' | 0x7f => {
            let [high, low] = hex_digits(byte);
            out.extend_from_slice(&[b'\\', b'x', high, low]);
        }
        _ => out.push(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_field_escapes_what_would_end_it() {
        let text = b"a b\"c\\d\ne\rf\tg\0h\x7fi\xffj";
        for (append, expected) in [
            (quoted as fn(&mut Vec<u8>, &[u8]), &b"a b\\\"c\\\\d\\ne\\rf\\tg\\x00h\\x7fi\xffj"[..]),
            (bare, b"a\\x20b\\\"c\\\\d\\ne\\rf\\tg\\x00h\\x7fi\xffj"),
            (underscored, b"a_b\\\"c\\\\d\\ne\\rf\\tg\\x00h\\x7fi\xffj"),
            (line, b"a b\"c\\d\\ne\\rf\tg\\x00h\\x7fi\xffj"),
        ] {
            let mut out = Vec::new();
            append(&mut out, text);
            assert_eq!(out.escape_ascii().to_string(), expected.escape_ascii().to_string());
        }
    }
}
