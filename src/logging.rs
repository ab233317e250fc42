//! Log lines on stderr, without ever blocking the caller.
//!
//! A log call appends to a bounded queue. A dedicated thread writes the queue to
//! stderr and may block on a full pipe, a stopped terminal or a stalled disk. When
//! the queue is full, new lines are dropped and counted; a notice with the count
//! follows.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use env_logger::Target;
use log::{Level, LevelFilter};

use crate::quoted::{one_line, quoted};
use crate::render::go;

/// Limit of the queue in bytes; a batch of the same size may be in flight.
const QUEUE_BYTES: usize = 32 * 1024;
/// Length limit of one line's text, in bytes.
const MAX_TEXT: usize = 4 * 1024;
/// How long to wait at exit for the last lines to be written.
const LAST_LINES: Duration = Duration::from_millis(500);
/// Pause before a retry if another process made stderr non-blocking.
const RETRY: Duration = Duration::from_millis(10);
/// The log level without `RUST_LOG`.
const DEFAULT: LevelFilter = LevelFilter::Info;

/// The first part of our modules' names.
const PROGRAM: &str = env!("CARGO_PKG_NAME");

static LOG: Pending = Pending { queue: Mutex::new(Queue::new()), changed: Condvar::new() };

/// Starts the writer thread and installs the logger, filtered by `RUST_LOG`. Fails if
/// the system cannot create a thread.
pub fn start() -> io::Result<()> {
    let wanted = std::env::var_os("RUST_LOG").unwrap_or_default();
    let checked = check(&wanted);
    let mut builder = env_logger::Builder::new();
    match checked {
        Ok(filters) if !filters.is_empty() => builder.parse_filters(filters),
        _ => builder.filter_level(DEFAULT),
    };
    builder.format(|out, record| out.write_all(&formatted(record.level(), record.args())));
    builder.target(Target::Pipe(Box::new(ToQueue)));
    std::thread::Builder::new().name("log".into()).spawn(|| LOG.write())?;
    let _ = builder.try_init();
    if let Err(error) = checked.map(drop) {
        log::warn!(
            "cannot read RUST_LOG, showing {DEFAULT} and above; set it to off, error, warn, info, debug or trace \
             error={error}"
        );
    }
    Ok(())
}

/// Checks the filters of `RUST_LOG`. env_logger would print an error to stderr itself,
/// and block. It takes a mistyped level for the name of a module, and then hides the
/// lines of all others.
fn check(wanted: &OsStr) -> Result<&str, String> {
    let filters = wanted.to_str().ok_or("not UTF-8")?;
    env_filter::Builder::new().try_parse(filters).map_err(|error| error.to_string())?;
    let list = filters.split('/').next().unwrap_or_default();
    let shows = |filter: &str| filter.starts_with(PROGRAM) || filter.parse::<LevelFilter>().is_ok();
    match filters.is_empty() || list.split(',').any(|filter| shows(filter.trim())) {
        true => Ok(filters),
        false => Err(format!("{} names neither a level nor a module", quoted(filters.as_bytes()))),
    }
}

/// Prints a line regardless of `RUST_LOG`.
pub fn say(text: impl Display) {
    LOG.push(format!("{}\n", cut(one_line(&text.to_string()).as_ref())).as_bytes());
}

/// A duration, for a line: `Debug` writes none as `0ns`.
pub fn duration(duration: Duration) -> String {
    if duration.is_zero() { String::from("0s") } else { format!("{duration:?}") }
}

/// Waits up to half a second for the last lines to be written.
pub fn finish() {
    let waiting = |queue: &mut Queue| queue.writing || !queue.lines.is_empty();
    let _ = LOG.changed.wait_timeout_while(LOG.lock(), LAST_LINES, waiting);
}

/// Lines dropped since the start.
pub fn dropped() -> u64 {
    LOG.lock().dropped_ever
}

/// Pending lines.
#[derive(Debug)]
struct Queue {
    lines: Vec<u8>,
    /// Dropped lines not yet reported.
    dropped: u64,
    dropped_ever: u64,
    /// Whether a batch is being written.
    writing: bool,
}

impl Queue {
    const fn new() -> Self {
        Self { lines: Vec::new(), dropped: 0, dropped_ever: 0, writing: false }
    }

    fn push(&mut self, line: &[u8]) {
        if self.lines.len() + line.len() <= QUEUE_BYTES {
            self.lines.extend_from_slice(line);
        } else {
            self.drop_lines(1);
        }
    }

    fn drop_lines(&mut self, count: u64) {
        self.dropped += count;
        self.dropped_ever += count;
    }

    /// Moves all lines to `batch`, followed by a notice of dropped ones. Returns the
    /// number of lines that the notice reports.
    fn take(&mut self, batch: &mut Vec<u8>) -> u64 {
        batch.clear();
        std::mem::swap(&mut self.lines, batch);
        let reported = std::mem::take(&mut self.dropped);
        if reported > 0 {
            let notice = format!("log lines were dropped, stderr did not take them count={reported}");
            batch.extend(formatted(Level::Warn, notice));
        }
        reported
    }
}

/// The queue, and a signal for its changes.
#[derive(Debug)]
struct Pending {
    queue: Mutex<Queue>,
    /// Lines were added, or a batch was written.
    changed: Condvar,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        self.lock().push(line);
        self.changed.notify_all();
    }

    /// Writes pending lines for the life of the process.
    fn write(&self) {
        let mut batch = Vec::new();
        let mut queue = self.lock();
        loop {
            queue.writing = false;
            self.changed.notify_all();
            let empty = |queue: &mut Queue| queue.lines.is_empty();
            queue = self.changed.wait_while(queue, empty).unwrap_or_else(PoisonError::into_inner);
            queue.writing = true;
            let reported = queue.take(&mut batch);
            drop(queue);
            let lost = write_all(&mut io::stderr(), &batch);
            queue = self.lock();
            if lost > 0 {
                // The notice comes last, so it was lost, too. It is not itself a log line.
                queue.dropped += reported;
                queue.drop_lines(lost - u64::from(reported > 0));
            }
        }
    }
}

/// The target of env_logger: one write per line.
struct ToQueue;

impl Write for ToQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LOG.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Time, level and text on one line; control characters in the text are escaped.
fn formatted(level: Level, text: impl Display) -> Vec<u8> {
    let mut line = Vec::with_capacity(128);
    go::now(&mut line);
    let (level, text) = (level.as_str().to_ascii_lowercase(), text.to_string());
    let _ = writeln!(line, " {level} {}", cut(one_line(&text).as_ref()));
    line
}

/// The text, truncated to the limit.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Writes all lines and returns how many could not be written.
fn write_all(out: &mut impl Write, mut lines: &[u8]) -> u64 {
    while !lines.is_empty() {
        match out.write(lines) {
            Ok(count @ 1..) => lines = &lines[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            _ => break,
        }
    }
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_would_hide_all_lines_are_invalid() {
        for filters in
            ["", "info", "WARN", "off", "info,", " info , hyper=warn", "mygrpcadapter::journal=debug"]
        {
            assert_eq!(check(OsStr::new(filters)), Ok(filters));
        }
        for filters in
            ["inof", "warning", "1", " ", ",", "hyper=debug", "info=debug", "info=debug=", "info/a/b"]
        {
            assert!(check(OsStr::new(filters)).is_err(), "{filters}");
        }
    }

    #[test]
    fn a_full_queue_drops_lines_and_reports_them_after_the_pending_ones() {
        let mut queue = Queue::new();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        for _ in 0..40 {
            queue.push(&line);
        }
        assert_eq!((queue.lines.len(), queue.dropped, queue.dropped_ever), (QUEUE_BYTES, 8, 8));
        let mut batch = Vec::new();
        assert_eq!(queue.take(&mut batch), 8);
        let notice = String::from_utf8(batch[QUEUE_BYTES..].to_vec()).unwrap();
        assert!(
            notice.contains(" warn log lines were dropped") && notice.ends_with(" count=8\n"),
            "{notice}"
        );
        queue.push(b"next\n");
        assert_eq!(queue.take(&mut batch), 0);
        assert_eq!((&*batch, queue.dropped_ever), (&b"next\n"[..], 8));
    }

    /// Accepts this many bytes, then fails.
    struct Short(usize);

    impl Write for Short {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.0).min(3);
            self.0 -= count;
            if count == 0 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_are_not_written_whole_are_counted() {
        for (taken, lost) in [(0, 3), (1, 3), (2, 2), (3, 2), (5, 1), (6, 0)] {
            assert_eq!(write_all(&mut Short(taken), b"a\nb\nc\n"), lost, "{taken}");
        }
    }

    #[test]
    fn a_line_is_cut_and_has_no_other_end_than_its_own() {
        let line = String::from_utf8(formatted(Level::Info, format!("a\n{}", "é".repeat(5_000)))).unwrap();
        assert!(line.contains(" info a\\né") && line.len() < MAX_TEXT + 64, "{line}");
        assert_eq!((line.matches('\n').count(), line.ends_with('\n')), (1, true));
    }
}
