//! Log lines on stderr, for which nothing ever waits.
//!
//! Whoever logs appends to a bounded queue; a thread of its own writes the queue
//! to stderr and may block there for as long as a full pipe, a stopped terminal
//! or a stalled disk does. A line that finds no room is dropped and counted, and
//! the next one that is written has a line before it that says how many.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use env_logger::Target;
use log::{Level, LevelFilter};

use crate::quoted::one_line;
use crate::render::go;

/// Bytes that may wait to be written; as many may be on their way.
const QUEUE_BYTES: usize = 32 * 1024;
/// The most bytes of one line's text.
const MAX_TEXT: usize = 4 * 1024;
/// How long a process that ends waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_millis(500);
/// How long to wait where another process has made stderr non-blocking.
const RETRY: Duration = Duration::from_millis(10);
/// What is shown unless `RUST_LOG` says otherwise.
const DEFAULT: LevelFilter = LevelFilter::Info;

static LOG: Pending = Pending { queue: Mutex::new(Queue::new()), changed: Condvar::new() };

/// Starts the thread that writes, and sends all log lines its way. `RUST_LOG`
/// says what is shown. An error if the system gives no thread.
pub fn start() -> io::Result<()> {
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    // env_logger would print its complaint to stderr itself, and wait for that.
    let invalid = env_filter::Builder::new().try_parse(&wanted).err();
    let mut builder = env_logger::Builder::new();
    match &invalid {
        None if !wanted.is_empty() => builder.parse_filters(&wanted),
        _ => builder.filter_level(DEFAULT),
    };
    builder.format(|out, record| out.write_all(&formatted(record.level(), record.args())));
    builder.target(Target::Pipe(Box::new(ToQueue)));
    std::thread::Builder::new().name("log".into()).spawn(|| LOG.write())?;
    let _ = builder.try_init();
    if let Some(error) = invalid {
        log::warn!("cannot read RUST_LOG, showing {DEFAULT} and above error={error}");
    }
    Ok(())
}

/// Prints a line that is no log line, whatever `RUST_LOG` says.
pub fn say(text: impl Display) {
    LOG.push(format!("{}\n", cut(one_line(&text.to_string()).as_ref())).as_bytes());
}

/// Waits until the last line is written, or half a second.
pub fn finish() {
    let waiting = |queue: &mut Queue| queue.writing || !queue.lines.is_empty();
    let _ = LOG.changed.wait_timeout_while(LOG.lock(), LAST_LINES, waiting);
}

/// How many lines were dropped since the start.
pub fn dropped() -> u64 {
    LOG.lock().dropped_ever
}

/// Lines that wait to be written.
#[derive(Debug)]
struct Queue {
    lines: Vec<u8>,
    /// Lines dropped and not yet told of.
    dropped: u64,
    dropped_ever: u64,
    /// Whether lines have been taken and are not written yet.
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

    /// Moves all lines to `batch`, and tells of the dropped ones, which came
    /// after them. Returns how many it tells of.
    fn take(&mut self, batch: &mut Vec<u8>) -> u64 {
        batch.clear();
        std::mem::swap(&mut self.lines, batch);
        let told = std::mem::take(&mut self.dropped);
        if told > 0 {
            let notice = format!("log lines were dropped, stderr did not take them count={told}");
            batch.extend(formatted(Level::Warn, notice));
        }
        told
    }
}

/// The queue, and whoever waits for a change of it.
#[derive(Debug)]
struct Pending {
    queue: Mutex<Queue>,
    /// There are lines to write, or they have been written.
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

    /// Writes what is logged, for as long as the process lives.
    fn write(&self) {
        let mut batch = Vec::new();
        let mut queue = self.lock();
        loop {
            queue.writing = false;
            self.changed.notify_all();
            let empty = |queue: &mut Queue| queue.lines.is_empty();
            queue = self.changed.wait_while(queue, empty).unwrap_or_else(PoisonError::into_inner);
            queue.writing = true;
            let told = queue.take(&mut batch);
            drop(queue);
            let lost = write_all(&mut io::stderr(), &batch);
            queue = self.lock();
            if lost > 0 {
                // The last of the lost lines is that which told of others.
                queue.dropped += told;
                queue.drop_lines(lost - u64::from(told > 0));
            }
        }
    }
}

/// Where env_logger writes: one line at a time.
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

/// Time, level and text, in one line whatever is in the text.
fn formatted(level: Level, text: impl Display) -> Vec<u8> {
    let mut line = Vec::with_capacity(128);
    go::now(&mut line);
    let (level, text) = (level.as_str().to_ascii_lowercase(), text.to_string());
    let _ = writeln!(line, " {level} {}", cut(one_line(&text).as_ref()));
    line
}

/// The text as far as it fits in a line.
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
    fn a_full_queue_drops_lines_and_tells_of_them_behind_those_it_has() {
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

    /// Takes so many bytes, then fails.
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
