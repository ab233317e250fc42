//! The grammar of records in a file: where one begins and where one ends.

/// How records of a format begin and end in a file, for repair and retention.
#[derive(Clone, Copy, Debug)]
pub struct Grammar {
    /// Whether a record starts with this line. The argument is at least [`AHEAD`]
    /// bytes, or the rest of the file.
    pub starts: fn(&[u8]) -> Start,
    /// The possible endings of a record, each of at most [`BEHIND`] bytes.
    pub endings: &'static [&'static [u8]],
}

impl Grammar {
    /// Whether `text` ends with a whole record.
    pub fn ends(&self, text: &[u8]) -> bool {
        self.endings.iter().any(|ending| text.ends_with(ending))
    }

    /// Whether a record ends anywhere in `text`.
    pub fn has_end(&self, text: &[u8]) -> bool {
        let is_in = |ending: &&[u8]| text.windows(ending.len()).any(|window| window == *ending);
        self.endings.iter().any(is_in)
    }
}

/// How many bytes of a line decide whether a record starts there.
pub const AHEAD: usize = 128;
/// How many bytes before a line decide whether a record ends there.
pub const BEHIND: usize = 32;

/// Whether a record starts at a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// No.
    No,
    /// Possibly: these may be the first bytes of a record, followed by nothing or by
    /// NUL bytes. They certainly are after another record.
    Partial,
    /// Certainly.
    Certain,
}

/// How far `text` matches `wanted`. A system crash leaves NUL bytes where data never
/// reached the disk, so only the bytes before a NUL count.
pub(crate) fn agrees(text: &[u8], wanted: &[u8]) -> Start {
    agrees_by(text, wanted, |byte, wanted| byte == wanted)
}

/// The same where `is_same` compares a byte with one of `wanted`.
pub(crate) fn agrees_by(text: &[u8], wanted: &[u8], is_same: fn(u8, u8) -> bool) -> Start {
    let written = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    match text[..written].iter().zip(wanted).all(|(byte, wanted)| is_same(*byte, *wanted)) {
        true if written >= wanted.len() => Start::Certain,
        true => Start::Partial,
        false => Start::No,
    }
}

/// The same for a line: none is no start.
pub(crate) fn line_agrees(line: &[u8], wanted: &[u8]) -> Start {
    if line.is_empty() { Start::No } else { agrees(line, wanted) }
}
