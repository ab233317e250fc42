//! `cat FILE...`: concatenates files, or standard input for `-` or no argument.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::output::{Stop, copy, first_line};

pub(super) const USAGE: &str = "\
Usage: cat [FILE...]

Prints whole files, or standard input for - or without a file.";

/// Prints the files named by `words`. Continues past unreadable files and names them
/// in the error.
pub fn run(words: &[OsString], out: &mut impl Write) -> Result<(), Stop> {
    let words: Vec<_> = words.iter().filter(|word| *word != "--").collect();
    if words.is_empty() {
        return copy(&mut io::stdin().lock(), out, Path::new("-")).map(drop);
    }
    let mut failed = Vec::new();
    for word in words {
        let path = Path::new(word);
        let outcome = match word.to_str() {
            Some("-") => copy(&mut io::stdin().lock(), out, path),
            Some(flag) if flag.starts_with('-') => {
                return Err(Stop::Usage(format!("no such flag: {flag} ({})", first_line(USAGE))));
            }
            _ => match File::open(path) {
                Ok(mut file) => copy(&mut file, out, path),
                Err(error) => Err(Stop::Failed(format!("{}: {error}", path.display()))),
            },
        };
        match outcome {
            Err(Stop::Failed(text)) => failed.push(text),
            other => drop(other?),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Stop::Failed(failed.join("; "))) }
}
