//! Concurrent reports of any bytes, through the journal to files: each file holds
//! every accepted report, whole and in order, and nothing of refused ones.
//!
//! An input is a row of reports: a byte that says which template, format and
//! file, two for the length, the message.
#![no_main]

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use mygrpcadapter::frontends::mixer::report::Report;
use mygrpcadapter::frontends::mixer::templates::{EDGE, LOGENTRY, METRIC, REPORTNOTHING, TRACESPAN};
use mygrpcadapter::journal::{Fsync, Journal, Pending, Settings, Tally};
use mygrpcadapter::metrics::Counter;
use mygrpcadapter::refusal::Refusal;
use mygrpcadapter::render::Format;
use mygrpcadapter::volume::Volume;
use mygrpcadapter::volume::retention::Retention;
use mygrpcadapter_fuzz::scratch;
use tokio::runtime::Runtime;

/// Longer than any of it takes.
const LONG: Duration = Duration::from_secs(60);
const FILES: [&str; 3] = ["a.txt", "b.json", "dir/c"];
/// Fewer than fit at once.
const AT_ONCE: usize = 512;

struct Stand {
    runtime: Runtime,
    journal: Arc<Journal>,
    written: Arc<Counter>,
    files: [PathBuf; 3],
}

static STAND: LazyLock<Stand> = LazyLock::new(|| {
    let volume = Volume::open(&scratch("journal")).expect("a volume");
    let files = FILES.map(|file| volume.dir().join(file));
    let settings = Settings {
        default_file: volume.resolve(b"out.txt").expect("a path"),
        format: Format::Text,
        fsync: Fsync::Never,
        retention: Retention::default(),
        capacity: 1 << 22,
        stall: LONG,
    };
    let journal = Arc::new(Journal::start(volume, settings).expect("a writer"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let delivering = Arc::clone(&journal);
    runtime.spawn(async move { delivering.deliver(|_| {}).await });
    Stand { runtime, journal, written: Arc::default(), files }
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let before = STAND.written.get();
    let expected = STAND.runtime.block_on(write(input));
    let taken = expected.iter().map(|(_, reports)| *reports).sum::<u64>();
    assert_eq!(STAND.written.get() - before, taken, "each is counted once");
    for (path, (expected, _)) in STAND.files.iter().zip(expected) {
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

/// Writes all reports of an input. Returns the expected content of each file and its
/// number of reports.
async fn write(input: &[u8]) -> [(Vec<u8>, u64); 3] {
    let mut expected = [const { (Vec::new(), 0) }; 3];
    let mut pending = Vec::new();
    let mut rest = input;
    while let [choice, low, high, after @ ..] = rest {
        let (message, after) =
            after.split_at(after.len().min(usize::from(u16::from_le_bytes([*low, *high]))));
        rest = after;
        pending.extend(add(*choice, message, &mut expected).await);
        if pending.len() == AT_ONCE {
            all_written(&mut pending).await;
        }
    }
    all_written(&mut pending).await;
    expected
}

async fn all_written(pending: &mut Vec<Pending<'_>>) {
    for report in pending.drain(..) {
        report.written().await.expect("a report that is taken is written");
    }
}

/// Appends one report to the journal, and adds its expected text.
async fn add(choice: u8, message: &[u8], expected: &mut [(Vec<u8>, u64); 3]) -> Option<Pending<'static>> {
    let report = Report::read(message).ok()?;
    let template = [&METRIC, &LOGENTRY, &TRACESPAN, &EDGE, &REPORTNOTHING][usize::from(choice) % 5];
    let format = if choice & 0x80 == 0 { Format::Text } else { Format::Json };
    let place = usize::from(choice / 5) % 3;
    let is_given_up = choice & 0x40 != 0;
    let to = STAND.journal.destination(FILES[place].as_bytes(), Some(format)).expect("a path");
    let room = STAND.journal.room(message.len()).await.expect("room");
    let tally = Tally { counter: Arc::clone(&STAND.written), count: 1 };
    let mut rendered = Vec::new();
    let appended = STAND.journal.append(room, &to, tally, |out| {
        let start = out.len();
        report.render(template, format, out, |_| {})?;
        rendered.extend_from_slice(&out[start..]);
        if is_given_up { Err(Refusal::late()) } else { Ok(()) }
    });
    let pending = appended.ok()?;
    expected[place].0.extend(rendered);
    expected[place].1 += 1;
    Some(pending)
}
