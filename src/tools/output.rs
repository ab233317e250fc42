//! Output and errors of the tools.

use std::io::{self, Write};
use std::path::Path;

use crate::quoted::one_line;

/// Prints one line on stderr.
pub(super) fn say(name: &str, text: &str) {
    let _ = writeln!(io::stderr(), "{name}: {}", one_line(text));
}

/// Prints a text.
pub(super) fn print(text: &str, out: &mut impl Write) -> Result<(), Stop> {
    writeln!(out, "{text}").map_err(Stop::Output)
}

/// The first line of a usage, for errors.
pub(super) fn first_line(usage: &str) -> &str {
    usage.lines().next().unwrap_or_default()
}

/// Why a tool failed.
#[derive(Debug)]
pub enum Stop {
    /// Invalid arguments.
    Usage(String),
    /// Some or all of its input could not be read.
    Failed(String),
    /// Its output could not be written.
    Output(io::Error),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(text) | Self::Failed(text) => f.write_str(text),
            Self::Output(error) => write!(f, "cannot write: {error}"),
        }
    }
}

/// Copies the rest of `from`; `name` is for errors.
pub(super) fn copy(from: &mut impl io::Read, out: &mut impl Write, name: &Path) -> Result<u64, Stop> {
    let mut block = vec![0; 64 * 1024];
    let mut copied = 0;
    loop {
        match from.read(&mut block) {
            Ok(0) => {
                out.flush().map_err(Stop::Output)?;
                return Ok(copied);
            }
            Ok(count) => {
                out.write_all(&block[..count]).map_err(Stop::Output)?;
                copied += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Stop::Failed(format!("{}: {error}", name.display()))),
        }
    }
}
