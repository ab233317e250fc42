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
    let code = match cli::parse(words.into_iter().skip(1), std::env::vars_os()) {
        Ok((args, given)) => {
            let warnings = cli::warnings::of(&args, &given);
            run(args, &warnings)
                .unwrap_or_else(|error| refuse(error.code(), &given.named(&error.to_string())))
        }
        Err(Early::Text(text)) => {
            // A closed pipe is no error: the reader has seen enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(Early::Usage(text)) => {
            let error = StartError::Usage(format!("{text} (see --help)"));
            refuse(error.code(), &error.to_string())
        }
    };
    logging::finish();
    code
}

/// Prints one line on stderr, at any log level.
fn refuse(code: u8, text: &str) -> ExitCode {
    logging::say(format_args!("mygrpcadapter: {text}"));
    ExitCode::from(code)
}
