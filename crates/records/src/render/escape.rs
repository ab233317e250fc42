//! Escapes values in a line of text, so that a line stays one line and a field one
//! field. Non-ASCII bytes are kept.

use super::append::{append_plain, others};

/// The escape of each byte: the byte after the backslash, or `x` for two hexadecimal
/// digits, `0` to keep the byte, `_` for an underscore.
type Escapes = [u8; 256];

static QUOTED: Escapes = table(b'0', true);
static BARE: Escapes = table(b'x', true);
static UNDERSCORED: Escapes = table(b'_', true);
static LINE: Escapes = table(b'0', false);

/// Appends the text of a quoted field: at most four bytes per byte, as all of these.
pub fn quoted(out: &mut Vec<u8>, text: &[u8]) {
    escaped(out, text, &QUOTED, |word| others(word, b' ', *b"\"\\"));
}

/// Appends the text of a field that ends at a space.
pub fn bare(out: &mut Vec<u8>, text: &[u8]) {
    escaped(out, text, &BARE, |word| others(word, b'!', *b"\"\\"));
}

/// The same, with spaces as underscores.
pub fn underscored(out: &mut Vec<u8>, text: &[u8]) {
    escaped(out, text, &UNDERSCORED, |word| others(word, b'!', *b"\"\\"));
}

/// Appends a whole line from the sender: only line ends and terminal controls are
/// escaped.
pub fn line(out: &mut Vec<u8>, text: &[u8]) {
    escaped(out, text, &LINE, |word| others(word, b' ', []));
}

const fn table(space: u8, is_field: bool) -> Escapes {
    let mut table = [b'0'; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'x';
        byte += 1;
    }
    table[0x7f] = b'x';
    table[b'\n' as usize] = b'n';
    table[b'\r' as usize] = b'r';
    table[b'\t' as usize] = if is_field { b't' } else { b'0' };
    table[b' ' as usize] = space;
    if is_field {
        table[b'"' as usize] = b'"';
        table[b'\\' as usize] = b'\\';
    }
    table
}

/// Appends a text whose plain bytes, of which `others` knows, need no escape.
#[inline(always)]
fn escaped(out: &mut Vec<u8>, text: &[u8], escapes: &Escapes, others: impl Fn(u64) -> u64 + Copy) {
    let mut rest = text;
    while let Some((byte, after)) = append_plain(out, rest, others).split_first() {
        replaced(out, *byte, escapes[usize::from(*byte)]);
        rest = after;
    }
}

#[inline(never)]
fn replaced(out: &mut Vec<u8>, byte: u8, by: u8) {
    let digit = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
    match by {
        b'0' => out.push(byte),
        b'_' => out.push(b'_'),
        b'x' => out.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte & 15)]),
        letter => out.extend_from_slice(&[b'\\', letter]),
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
