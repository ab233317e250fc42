//! Full and stalled volumes: no received entry is lost or written twice, and other
//! calls continue.

use rustix::process::Signal;

use super::{ACCESS_LOG, EXPORT, Stream, entries, identifier, paths, send_all};
use crate::support::message::{METRIC, Shape};
use crate::support::namespace::Frozen;
use crate::support::{Adapter, OK, RESOURCE_EXHAUSTED, Reply, UNAVAILABLE, until};
use crate::volumes::{Mounted, fill};

const CHECK: &str = "/checknothing.HandleCheckNothingService/HandleCheckNothing";
const SHAPE: Shape = Shape { file: "out.txt", padding: 10 };
/// The number of entries in a message.
const ENTRIES: usize = 50;

/// Paths for a message, unique among all messages.
fn named(stream: usize, message: usize) -> Vec<String> {
    (0..ENTRIES).map(|entry| format!("/{stream}/{message}/{entry:0250}")).collect()
}

/// Opens `streams` streams on each of `connections` connections, and sends `messages`
/// messages in each.
async fn open(adapter: &Adapter, connections: usize, streams: usize, messages: usize) -> Vec<Stream> {
    let mut open = Vec::new();
    for _ in 0..connections {
        let client = adapter.client().await;
        for _ in 0..streams {
            let mut stream = Stream::open(&client).await;
            (0..messages).for_each(|message| stream.send(&entries(&named(open.len(), message))));
            open.push(stream);
        }
    }
    open
}

/// Each entry is in the file exactly once, those of a stream in order.
fn assert_each_in_order(file: &[u8], streams: usize, messages: usize) {
    let written = paths(file);
    assert_eq!(written.len(), streams * messages * ENTRIES);
    for stream in 0..streams {
        let prefix = format!("/{stream}/");
        let of_stream = written.iter().filter(|path| path.starts_with(&prefix));
        let expected = (0..messages).flat_map(|message| named(stream, message));
        assert!(of_stream.eq(expected.collect::<Vec<_>>().iter()), "stream {stream}");
    }
}

#[tokio::test]
async fn a_full_volume_stops_the_reading_and_every_entry_is_written_once_when_it_is_freed() {
    let Some(mounted) = Mounted::tmpfs("size=512k") else { return };
    let ballast = mounted.seen().join("ballast");
    fill(&ballast, 448 * 1024);
    let adapter = mounted.adapter(&[]).await;
    let streams = open(&adapter, 4, 2, 3).await;
    adapter.logged("reports are refused reason=full").await;
    let client = adapter.client().await;
    assert_eq!(client.unary(CHECK, b"").await.unwrap().status, OK);
    std::fs::remove_file(&ballast).unwrap();
    let count = streams.len();
    for stream in streams {
        assert_eq!(stream.end().await, Reply::default());
    }
    assert_each_in_order(&adapter.read(ACCESS_LOG), count, 3);
}

#[tokio::test]
async fn five_hundred_streams_on_a_stalled_volume_hold_up_nobody() {
    let Some(mounted) = Mounted::ext4() else { return };
    let adapter = mounted.adapter(&["--metrics-port", "0"]).await;
    // Creates the file.
    assert_eq!(send_all(&adapter, &[entries(&[])]).await, Reply::default());
    let frozen = Frozen::new(&mounted.namespace, mounted.path());
    let streams = open(&adapter, 50, 10, 1).await;
    let same_connection = adapter.client().await;
    let _stream = Stream::open(&same_connection).await;
    until("streams wait", || (adapter.page().single("mygrpcadapter_streams_waiting") > 0.0).then_some(()))
        .await;
    assert_eq!(same_connection.unary(CHECK, b"").await.unwrap().status, OK);
    let report = same_connection.unary(METRIC, &SHAPE.message("stalled")).await.unwrap();
    assert!(matches!(report.status, UNAVAILABLE | RESOURCE_EXHAUSTED), "{}", report.message);
    assert_eq!(same_connection.unary(CHECK, b"").await.unwrap().status, OK);
    drop(frozen);
    let count = streams.len();
    for stream in streams {
        assert_eq!(stream.end().await, Reply::default());
    }
    assert_each_in_order(&adapter.read(ACCESS_LOG), count, 1);
}

#[tokio::test]
async fn a_message_outlives_the_stream_that_brought_it() {
    let Some(mounted) = Mounted::tmpfs("size=64k") else { return };
    let ballast = mounted.seen().join("ballast");
    let _ = std::fs::write(&ballast, vec![b'x'; 128 * 1024]);
    let adapter = mounted.adapter(&[]).await;
    let message = entries(&named(0, 0));
    let mut cancelled = Stream::open(&adapter.client().await).await;
    cancelled.send(&message);
    adapter.logged("reports are refused reason=full").await;
    cancelled.cancel();
    std::fs::remove_file(&ballast).unwrap();
    let whole = || (paths(&adapter.read(ACCESS_LOG)) == named(0, 0)).then_some(());
    until("the message is written", whole).await;
}

#[tokio::test]
async fn what_a_dead_volume_never_took_is_counted_when_the_adapter_stops() {
    let Some(mounted) = Mounted::tmpfs("size=64k") else { return };
    let ballast = mounted.seen().join("ballast");
    let _ = std::fs::write(&ballast, vec![b'x'; 128 * 1024]);
    let mut adapter = mounted.adapter(&["--drain-timeout", "200ms"]).await;
    let mut streams = Vec::new();
    for stream in 0..3 {
        streams.push(Stream::open(&adapter.client().await).await);
        streams[stream].send(&entries(&named(stream, 0)));
    }
    adapter.logged("reports are refused reason=full").await;
    assert_eq!(adapter.stop().await, 74);
    adapter
        .logged(&format!("access logs are dropped, the volume did not take them entries={}", 3 * ENTRIES))
        .await;
}

#[tokio::test]
async fn after_a_kill_every_line_is_whole_and_none_is_there_twice() {
    for format in ["text", "json"] {
        let scratch = crate::support::Scratch::new();
        let volume = scratch.dir("volume");
        let mut adapter = Adapter::start_on(&volume, &["--format", format]).await;
        let client = adapter.client().await;
        let mut stream = Stream::open(&client).await;
        for message in 0..100 {
            stream.send(&entries(&named(0, message)));
        }
        until("something is written", || (!adapter.read(ACCESS_LOG).is_empty()).then_some(())).await;
        adapter.signal(Signal::KILL);
        assert_eq!(adapter.exit().await, 137);
        // As after a crash within a write.
        let mut file = adapter.read(ACCESS_LOG);
        file.truncate(file.len() - 7);
        std::fs::write(volume.join(ACCESS_LOG), &file).unwrap();
        let whole = file.iter().rposition(|byte| *byte == b'\n').unwrap() + 1;

        let adapter = Adapter::start_on(&volume, &["--format", format]).await;
        assert_eq!(send_all(&adapter, &[entries(&["/after".into()])]).await, Reply::default());
        let written = adapter.read(ACCESS_LOG);
        assert_eq!(written[..whole], file[..whole]);
        let after = std::str::from_utf8(&written[whole..]).unwrap();
        assert!(after.contains("/after") && after.matches('\n').count() == 1, "{after}");
        if format == "text" {
            let before = paths(&file[..whole]);
            let expected: Vec<_> =
                (0..100).flat_map(|message| named(0, message)).take(before.len()).collect();
            assert_eq!(before, expected);
        }
    }
}

#[tokio::test]
async fn a_file_that_fails_alone_holds_up_no_other_stream() {
    let adapter = Adapter::start(&["--access-log", "{log_name}.log", "--metrics-port", "0"]).await;
    std::fs::create_dir(adapter.volume.join("bad.log")).unwrap();
    let messages = |log_name: &str, at: usize| {
        let first = [identifier(log_name, "ns", "pod"), entries(&named(at, 0))].concat();
        [first, entries(&named(at, 1))]
    };
    assert_eq!(send_all(&adapter, &messages("bad", 1)).await, Reply::default());
    assert_eq!(send_all(&adapter, &messages("good", 2)).await, Reply::default());
    for (file, at) in [("overflow.log", 1), ("good.log", 2)] {
        assert_eq!(paths(&adapter.read(file)), [named(at, 0), named(at, 1)].concat(), "{file}");
    }
    assert_eq!(adapter.page().single("mygrpcadapter_access_log_overflow_total"), 1.0);
}

#[tokio::test]
async fn a_large_message_is_written_in_parts_and_in_order() {
    for format in ["text", "json"] {
        let adapter = Adapter::start(&["--format", format]).await;
        let paths: Vec<_> = (0..60_000).map(|entry| format!("/{entry}/{}", "x".repeat(50))).collect();
        let message = entries(&paths);
        assert!(message.len() > 3_500_000 && message.len() < 4 << 20, "{}", message.len());
        assert_eq!(send_all(&adapter, &[message]).await, Reply::default());
        let file = String::from_utf8(adapter.read(ACCESS_LOG)).unwrap();
        let mut lines = file.lines();
        assert!(paths.iter().all(|path| lines.next().is_some_and(|line| line.contains(&**path))));
        assert_eq!(lines.next(), None);
    }
}

#[tokio::test]
async fn access_logs_are_rotated_between_lines_and_deleted() {
    for format in ["text", "json"] {
        let args = ["--format", format, "--rotate-size", "16KiB", "--rotate-keep", "2"];
        let adapter = Adapter::start(&args).await;
        let messages: Vec<_> = (0..8).map(|message| entries(&named(0, message))).collect();
        assert_eq!(send_all(&adapter, &messages).await, Reply::default());
        let files = adapter.files();
        assert_eq!(files.len(), 3, "{files:?}");
        for file in files {
            let text = String::from_utf8(adapter.read(&file)).unwrap();
            assert!(text.starts_with(['[', '{']) && text.ends_with('\n'), "{file}");
        }
    }
}

#[tokio::test]
async fn exports_without_room_are_refused_as_exporters_retry() {
    let adapter = Adapter::start(&["--queue-timeout", "100ms", "--metrics-port", "0"]).await;
    let client = adapter.client().await;
    // A message of the maximum size whose last bytes never arrive.
    let mut large = client.open(METRIC).await.unwrap();
    let head = [&[0][..], &(4_u32 << 20).to_be_bytes()].concat();
    large.send([&head[..], &[0; 20_000]].concat().into(), false).unwrap();
    let other = adapter.client().await;
    let padding = 20_000;
    until("the large one has all the room", || {
        (adapter.page().single("mygrpcadapter_requests_in_flight") == 1.0).then_some(())
    })
    .await;
    let report = other.unary(METRIC, &Shape { padding, ..SHAPE }.message("n")).await.unwrap();
    assert_eq!(report.status, RESOURCE_EXHAUSTED, "{report:?}");
    let export = other.unary(EXPORT, &vec![0; padding]).await.unwrap();
    assert_eq!(export.status, UNAVAILABLE, "{export:?}");
}
