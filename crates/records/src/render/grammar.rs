//! How records lie in a file: where one begins and where one ends.

/// How the records of a format begin and end in a file, for whoever repairs the
/// file or deletes it.
#[derive(Clone, Copy, Debug)]
pub struct Grammar {
    /// Whether a record starts with the line that these bytes begin with. They are
    /// at least [`AHEAD`] bytes, or all up to the end of the file.
    pub starts: fn(&[u8]) -> Start,
    /// What ends a record: one of these, none longer than [`BEHIND`] bytes.
    pub endings: &'static [&'static [u8]],
}

impl Grammar {
    /// Whether `text` ends with the end of a record.
    pub fn ends(&self, text: &[u8]) -> bool {
        self.endings.iter().any(|ending| text.ends_with(ending))
    }

    /// Whether a record ends somewhere in `text`.
    pub fn has_end(&self, text: &[u8]) -> bool {
        let is_in = |ending: &&[u8]| text.windows(ending.len()).any(|window| window == *ending);
        self.endings.iter().any(is_in)
    }
}

/// How many bytes of a line say whether a record starts with it.
pub const AHEAD: usize = 128;
/// How many bytes before a line say whether a record ends there.
pub const BEHIND: usize = 32;

/// Whether a record starts somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// No.
    No,
    /// What is there may be the first bytes of a record, with nothing or only NUL
    /// bytes behind them. It is one for certain only behind another record.
    Partial,
    /// Yes, for certain.
    Certain,
}

/// How far `text` agrees with `wanted`. A crash of the system leaves NUL bytes
/// where data never reached the disk, so what comes before a NUL byte counts.
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
