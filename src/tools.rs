//! Subcommands that replace a shell in a scratch image: `cat`, `tail`, `probe`.
//!
//! They run with the rights of the container's user, and without any part of the
//! server.

pub mod cat;
mod output;
pub mod probe;
pub mod tail;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::ExitCode;

use self::output::{Stop, print, say};
use crate::shutdown::until_signal;

/// A subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Prints whole files.
    Cat,
    /// Prints the ends of files.
    Tail,
    /// Queries the health of a running adapter.
    Probe,
}

impl Tool {
    /// The tool named by the program's own name (a link in /bin) or by its first
    /// argument, with the remaining arguments.
    pub fn chosen(words: &[OsString]) -> Option<(Self, &[OsString])> {
        let (program, rest) = words.split_first()?;
        match Path::new(program).file_name().and_then(OsStr::to_str)? {
            "cat" => return Some((Self::Cat, rest)),
            "tail" => return Some((Self::Tail, rest)),
            _ => {}
        }
        let (word, rest) = rest.split_first()?;
        match word.to_str()? {
            "cat" => Some((Self::Cat, rest)),
            "tail" => Some((Self::Tail, rest)),
            "probe" => Some((Self::Probe, rest)),
            _ => None,
        }
    }

    /// Runs the tool until it ends or a signal arrives.
    pub fn run(self, words: &[OsString]) -> ExitCode {
        let words = words.to_vec();
        until_signal(move || self.finish(&words))
    }

    /// What `--help` prints.
    fn usage(self) -> &'static str {
        match self {
            Self::Cat => cat::USAGE,
            Self::Tail => tail::USAGE,
            Self::Probe => probe::USAGE,
        }
    }

    fn finish(self, words: &[OsString]) -> ExitCode {
        let asks_for_help =
            words.iter().take_while(|word| *word != "--").any(|word| *word == "--help" || *word == "-h");
        let (name, outcome) = match self {
            tool if asks_for_help => ("", print(tool.usage(), &mut io::stdout().lock())),
            Self::Cat => ("cat", cat::run(words, &mut io::stdout().lock())),
            Self::Tail => ("tail", tail::run(words, &mut io::stdout().lock())),
            Self::Probe => ("probe", probe::run(words, &mut io::stdout().lock())),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            // A closed pipe is no error: the reader has seen enough.
            Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(stop) => {
                say(name, &stop.to_string());
                ExitCode::from(if matches!(stop, Stop::Usage(_)) { 64 } else { 1 })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_chosen_by_link_or_by_word() {
        for (words, expected) in [
            (&["/bin/cat", "a"][..], Some((Tool::Cat, 1))),
            (&["tail"], Some((Tool::Tail, 0))),
            (&["/mygrpcadapter", "cat", "a", "b"], Some((Tool::Cat, 2))),
            (&["/mygrpcadapter", "probe"], Some((Tool::Probe, 0))),
            (&["/mygrpcadapter", "help", "cat"], None),
            (&["/mygrpcadapter", "8000", "cat"], None),
            (&["/mygrpcadapter"], None),
            (&[], None),
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let chosen = Tool::chosen(&words).map(|(tool, rest)| (tool, rest.len()));
            assert_eq!(chosen, expected, "{words:?}");
        }
    }
}
