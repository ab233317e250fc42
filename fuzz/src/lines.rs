//! Invariants of lines made from any bytes.

use records::render::Format;

use crate::json;

/// Checks one line of a format: text without line ends and terminal controls, or one
/// object.
pub fn check(format: Format, line: &[u8]) {
    let content = line.strip_suffix(b"\n").expect("a line ends in a newline");
    match format {
        Format::Text => assert!(content.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t')),
        Format::Json => drop(json::object(content).expect("an object")),
    }
}
