//! Untrusted bytes in log lines, errors and answers.

use std::borrow::Cow;
use std::fmt::Write;

/// Limit on the bytes shown of one value.
const MAX_SHOWN: usize = 128;

/// An untrusted value: quoted, escaped to ASCII, truncated to 128 bytes.
pub fn quoted(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(MAX_SHOWN)];
    let ellipsis = if shown.len() < bytes.len() { "..." } else { "" };
    format!("\"{}{ellipsis}\"", shown.escape_ascii())
}

/// A text without control characters: each is escaped as in Rust, `\n` or `\u{1b}`.
/// The last safeguard of every printed line.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        if letter.is_control() {
            let _ = write!(line, "{}", letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_bytes_are_quoted_and_cut() {
        assert_eq!(quoted(b"out.txt"), "\"out.txt\"");
        assert_eq!(quoted(b"a\n\x1b\"\xe9"), r#""a\n\x1b\"\xe9""#);
        assert_eq!(quoted(&[b'x'; 200]).len(), 128 + 5);
    }

    #[test]
    fn a_line_keeps_its_text_and_loses_its_controls() {
        assert_eq!(one_line("µ é path=\"a\\n\""), "µ é path=\"a\\n\"");
        assert_eq!(one_line("a\nb\r\u{1b}[31m\u{7f}\u{9b}\0"), "a\\nb\\r\\u{1b}[31m\\u{7f}\\u{9b}\\u{0}");
    }
}
