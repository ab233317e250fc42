//! Escapes values in a line of text, so that a line stays one line and a field one
//! field. Non-ASCII bytes are kept.

use super::append::{append_plain, others};

/// The escapes of each byte.
#[derive(Debug)]
pub struct Table {
    /// The byte after the backslash, or `x` for two hexadecimal digits, `0` to keep
    /// the byte, `_` for an underscore.
    by: [u8; 256],
    /// Appends a text up to the first byte that may need escaping, and returns the
    /// rest.
    plain: for<'t> fn(&mut Vec<u8>, &'t [u8]) -> &'t [u8],
}

/// For a quoted field.
pub static QUOTED: Table = Table {
    by: table(b'0', true),
    plain: |out, text| append_plain(out, text, |word| others(word, b' ', *b"\"\\")),
};
/// For a field that ends at a space.
pub static BARE: Table = Table {
    by: table(b'x', true),
    plain: |out, text| append_plain(out, text, |word| others(word, b'!', *b"\"\\")),
};
/// The same, with spaces as underscores.
pub static UNDERSCORED: Table = Table {
    by: table(b'_', true),
    plain: |out, text| append_plain(out, text, |word| others(word, b'!', *b"\"\\")),
};
/// For a whole line from the sender: escapes only line ends and terminal controls.
pub static LINE: Table = Table {
    by: table(b'0', false),
    plain: |out, text| append_plain(out, text, |word| others(word, b' ', [])),
};

const fn table(space: u8, is_field: bool) -> [u8; 256] {
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

/// Appends an escaped text: at most four bytes per byte.
pub fn escaped(out: &mut Vec<u8>, text: &[u8], table: &Table) {
    let mut rest = text;
    while let Some((byte, after)) = (table.plain)(out, rest).split_first() {
        replaced(out, *byte, table.by[usize::from(*byte)]);
        rest = after;
    }
}

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

    fn written(text: &[u8], table: &Table) -> Vec<u8> {
        let mut out = Vec::new();
        escaped(&mut out, text, table);
        out
    }

    #[test]
    fn each_kind_of_field_escapes_what_would_end_it() {
        let text = b"a b\"c\\d\ne\rf\tg\0h\x7fi\xffj";
        for (table, expected) in [
            (&QUOTED, &b"a b\\\"c\\\\d\\ne\\rf\\tg\\x00h\\x7fi\xffj"[..]),
            (&BARE, b"a\\x20b\\\"c\\\\d\\ne\\rf\\tg\\x00h\\x7fi\xffj"),
            (&UNDERSCORED, b"a_b\\\"c\\\\d\\ne\\rf\\tg\\x00h\\x7fi\xffj"),
            (&LINE, b"a b\"c\\d\\ne\\rf\tg\\x00h\\x7fi\xffj"),
        ] {
            assert_eq!(written(text, table).escape_ascii().to_string(), expected.escape_ascii().to_string());
        }
    }
}
