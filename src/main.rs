//! The program: allocator, words, logger, run, exit code.

use std::io::Write;
use std::process::ExitCode;

use mygrpcadapter::app::{StartError, run};
use mygrpcadapter::cli::{self, Early};
use mygrpcadapter::render::go;
use mygrpcadapter::tools::Tool;

/// musl's own malloc takes a lock and a system call where this takes neither.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if let Some((tool, rest)) = Tool::chosen(&words) {
        return tool.run(rest);
    }
    let args = match cli::parse(words.into_iter().skip(1)) {
        Ok(args) => args,
        Err(Early::Text(text)) => {
            // A reader that closed the pipe has seen what it wanted.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(Early::Usage(text)) => return refuse(&StartError::Usage(format!("{text} (see --help)"))),
    };
    log_to_stderr();
    run(args).unwrap_or_else(|error| refuse(&error))
}

/// One line on stderr, whatever the log level.
fn refuse(error: &StartError) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "mygrpcadapter: {error}");
    ExitCode::from(error.code())
}

/// Lines of time, level and text. `RUST_LOG` sets what is shown.
fn log_to_stderr() {
    let environment = env_logger::Env::new().default_filter_or("info");
    env_logger::Builder::from_env(environment)
        .format(|out, record| {
            let mut line = Vec::with_capacity(128);
            go::now(&mut line);
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(line, " {level} {}", record.args())?;
            out.write_all(&line)
        })
        .init();
}
