//! The program: allocator, arguments, logger, run, exit code.

use std::io::Write;
use std::process::ExitCode;

use mygrpcadapter::app::{StartError, run};
use mygrpcadapter::cli::{self, Early};
use mygrpcadapter::logging;
use mygrpcadapter::tools::Tool;

/// musl's malloc takes a lock and often a system call; mimalloc takes neither.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if let Some((tool, rest)) = Tool::chosen(&words) {
        return tool.run(rest);
    }
    if let Err(error) = logging::start() {
        let error = StartError::System(format!("cannot start a thread for the log: {error}"));
        let _ = writeln!(std::io::stderr(), "mygrpcadapter: {error}");
        return ExitCode::from(error.code());
    }
    let code = match cli::parse(words.into_iter().skip(1)) {
        Ok(args) => run(args).unwrap_or_else(|error| refuse(&error)),
        Err(Early::Text(text)) => {
            // A closed pipe is no error: the reader has seen enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(Early::Usage(text)) => refuse(&StartError::Usage(format!("{text} (see --help)"))),
    };
    logging::finish();
    code
}

/// Prints one line on stderr, at any log level.
fn refuse(error: &StartError) -> ExitCode {
    logging::say(format_args!("mygrpcadapter: {error}"));
    ExitCode::from(error.code())
}
