//! Reports of any bytes, several at once, through the sink to files: each file
//! holds every report that was taken, whole and in order, and nothing of those
//! that were refused.
//!
//! An input is a row of reports: a byte that says which template, format and
//! file, two for the length, the message.
#![no_main]

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::task::{Wake, Waker};
use std::thread::Thread;

use mygrpcadapter::frontends::mixer::report::{Refusal, Report};
use mygrpcadapter::frontends::mixer::templates::{EDGE, LOGENTRY, METRIC, REPORTNOTHING, TRACESPAN};
use mygrpcadapter::render::Format;
use mygrpcadapter::sink::counters::Counters;
use mygrpcadapter::sink::{Fsync, Settings, Sink};
use mygrpcadapter::volume::retention::Retention;
use mygrpcadapter::volume::{FilePath, Volume};
use mygrpcadapter_fuzz::scratch;

struct Stand {
    sink: Sink<usize>,
    files: [(FilePath, PathBuf); 3],
}

static STAND: LazyLock<Stand> = LazyLock::new(|| {
    let volume = Volume::open(&scratch("sink")).expect("a volume");
    let stall = std::time::Duration::from_secs(60);
    let settings =
        Settings { fsync: Fsync::Never, retention: Retention::default(), capacity: 1 << 22, stall };
    let sink = Sink::start(volume.clone(), settings, Arc::new(Counters::default())).expect("a writer");
    let files = [&b"a.txt"[..], b"b.json", b"dir/c"].map(|name| {
        let path = volume.resolve(name).expect("a path");
        let full = volume.full_path(&path);
        (path, full)
    });
    Stand { sink, files }
});

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut expected = [const { Vec::new() }; 3];
    let mut taken = 0;
    let mut rest = input;
    while let [choice, low, high, after @ ..] = rest {
        let (message, after) =
            after.split_at(after.len().min(usize::from(u16::from_le_bytes([*low, *high]))));
        rest = after;
        taken += usize::from(add(*choice, message, taken, &mut expected));
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut told = Vec::new();
    loop {
        let turn = STAND.sink.turn(&waker);
        for (ticket, outcome) in turn.done {
            outcome.expect("a report that is taken is written");
            told.push(ticket);
        }
        if told.len() == taken {
            break;
        }
        std::thread::park();
    }
    told.sort_unstable();
    assert!(told.into_iter().eq(0..taken), "each is told once");
    assert_eq!(STAND.sink.queued(), 0);
    for ((_, path), expected) in STAND.files.iter().zip(expected) {
        let written = std::fs::read(path).unwrap_or_default();
        assert!(
            written == expected,
            "{} has {} bytes, not {}",
            path.display(),
            written.len(),
            expected.len()
        );
        if !written.is_empty() {
            File::options().write(true).open(path).and_then(|file| file.set_len(0)).expect("an empty file");
        }
    }
});

/// Gives one report to the sink, and notes what it will become.
fn add(choice: u8, message: &[u8], ticket: usize, expected: &mut [Vec<u8>; 3]) -> bool {
    let Ok(report) = Report::read(message) else { return false };
    let template = [&METRIC, &LOGENTRY, &TRACESPAN, &EDGE, &REPORTNOTHING][usize::from(choice) % 5];
    let format = if choice & 0x80 == 0 { Format::Text } else { Format::Json };
    let place = usize::from(choice / 5) % 3;
    let is_given_up = choice & 0x40 != 0;
    let mut rendered = Vec::new();
    let appended = STAND.sink.append(&STAND.files[place].0, format, ticket, |out| {
        let start = out.len();
        report.render(template, format, out, |_| {})?;
        rendered.extend_from_slice(&out[start..]);
        if is_given_up { Err(Refusal::Queue) } else { Ok(()) }
    });
    if appended.is_ok() {
        expected[place].extend(rendered);
    }
    appended.is_ok()
}
