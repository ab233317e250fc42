//! What must hold of lines, whatever bytes they were made of.

use records::render::Format;

use crate::json;

/// One line of a format: text without a character that ends a line or that a
/// terminal obeys, or one object.
pub fn check(format: Format, line: &[u8]) {
    let content = line.strip_suffix(b"\n").expect("a line ends in a newline");
    match format {
        Format::Text => assert!(content.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t')),
        Format::Json => drop(json::object(content).expect("an object")),
    }
}
