//! A path beneath the volume, and its parts.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path beneath the volume: relative, without `.`, `..` or empty parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePath(pub(super) Vec<u8>);

impl FilePath {
    /// The path, relative to the volume.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Splits into the directory and the file's own name.
    pub(super) fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&[], &self.0),
        }
    }
}

/// For logs and errors: every byte outside printable ASCII is escaped, so that a path
/// cannot forge a line.
impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

/// The rest of `path` beneath `dir`; empty parts and `.` are ignored in both.
pub(super) fn beneath<'a>(path: &'a [u8], dir: &[u8]) -> Option<&'a [u8]> {
    let mut rest = path;
    for wanted in parts(dir) {
        let (part, after) = split(rest)?;
        if part != wanted {
            return None;
        }
        rest = after;
    }
    Some(rest)
}

/// The first part of a path, and the rest.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = path;
    loop {
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let (part, after) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
        if !matches!(part, b"" | b".") {
            return Some((part, after));
        }
        if end == rest.len() {
            return None;
        }
        rest = after;
    }
}

pub(super) fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."))
}
