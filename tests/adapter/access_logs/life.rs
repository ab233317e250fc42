//! Ends of streams: with OK after a whole message. Messages in flight are not lost.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::JoinHandle;

use super::{ACCESS_LOG, STREAM, Stream, entries, first, full, paths, send_all};
use crate::support::client::framed;
use crate::support::frames::{DATA, END_HEADERS, HEADERS, PREFACE, SETTINGS, frame, header_block};
use crate::support::{Adapter, Client, Reply, Scratch, until};

/// An Envoy under load: it sends messages one by one, and opens a new stream when one
/// ends, on a new connection if the old one shuts down.
struct Envoy {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    task: JoinHandle<usize>,
}

impl Envoy {
    fn start(port: u16, name: usize) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let task = tokio::spawn(async move {
            let mut streams = 0;
            while !stopped.load(Ordering::Relaxed) {
                streams += 1;
                let client = Client::connect(("127.0.0.1", port)).await.expect("someone listens");
                let begun = count.load(Ordering::Relaxed);
                let (mut body, mut answer) = client.open(STREAM).await.unwrap().split();
                while !stopped.load(Ordering::Relaxed) {
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    let message = entries(&[format!("/{name}/{number}")]);
                    let _ = body.send(framed(&message), false);
                    // It sends until it has the answer, so that some messages are in
                    // flight.
                    match tokio::time::timeout(Duration::from_millis(1), &mut answer).await {
                        Err(_) => {}
                        Ok(Ok(_)) => break,
                        Ok(Err(error)) => {
                            // GOAWAY: the server has not processed the stream.
                            assert!(error.is_go_away() && error.is_remote(), "a stream failed: {error:?}");
                            count.store(begun, Ordering::Relaxed);
                            break;
                        }
                    }
                }
                let _ = body.send(bytes::Bytes::new(), true);
            }
            streams
        });
        Self { stop, sent, task }
    }

    async fn more(&self, messages: usize) {
        let enough = self.sent.load(Ordering::Relaxed) + messages;
        let done = || (self.task.is_finished() || self.sent.load(Ordering::Relaxed) >= enough).then_some(());
        until("more messages", done).await;
    }

    /// Stops it. Returns the number of messages and of streams.
    async fn stop(self) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let streams = self.task.await.expect("no stream fails");
        (self.sent.load(Ordering::Relaxed), streams)
    }
}

/// Every message is in the file exactly once, in order.
async fn assert_all_written(adapter: &Adapter, envoys: Vec<(usize, usize)>) {
    let count: usize = envoys.iter().map(|envoy| envoy.0).sum();
    until("all is written", || (paths(&adapter.read(ACCESS_LOG)).len() >= count).then_some(())).await;
    let written = paths(&adapter.read(ACCESS_LOG));
    assert_eq!(written.len(), count);
    for (name, (sent, streams)) in envoys.into_iter().enumerate() {
        assert!(streams > 1, "{name} has one stream");
        let prefix = format!("/{name}/");
        let mut of_envoy: Vec<usize> = Vec::new();
        of_envoy.extend(written.iter().filter_map(|path| path.strip_prefix(&prefix)?.parse::<usize>().ok()));
        of_envoy.sort_unstable();
        assert!(of_envoy.into_iter().eq(0..sent), "{name}");
    }
}

#[tokio::test]
async fn streams_of_an_age_end_well_and_nothing_is_lost() {
    let adapter = Adapter::start(&["--max-connection-age", "100ms"]).await;
    let envoys: Vec<_> = (0..4).map(|name| Envoy::start(adapter.port, name)).collect();
    let mut sent = Vec::new();
    for envoy in &envoys {
        envoy.more(400).await;
    }
    for envoy in envoys {
        sent.push(envoy.stop().await);
    }
    assert_all_written(&adapter, sent).await;
}

#[tokio::test]
async fn a_second_process_takes_over_and_nothing_is_lost() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let mut first = Adapter::start_on(&volume, &["--reuse-port"]).await;
    let envoys: Vec<_> = (0..4).map(|name| Envoy::start(first.port, name)).collect();
    for envoy in &envoys {
        envoy.more(50).await;
    }
    let port = first.port.to_string();
    let second = Adapter::start_on(&volume, &[&port, "--reuse-port"]).await;
    assert_eq!(first.stop().await, 0);
    for envoy in &envoys {
        envoy.more(50).await;
    }
    let mut sent = Vec::new();
    for envoy in envoys {
        sent.push(envoy.stop().await);
    }
    assert_all_written(&second, sent).await;
}

#[tokio::test]
async fn sigterm_ends_idle_streams_with_ok() {
    let mut adapter = Adapter::start(&[]).await;
    let (idle, mut used) = (adapter.client().await, Stream::open(&adapter.client().await).await);
    let idle = Stream::open(&idle).await;
    used.send(&first());
    used.send(&full());
    until("the messages are written", || (adapter.read(ACCESS_LOG).len() > 10_000).then_some(())).await;
    adapter.signal(Signal::TERM);
    assert_eq!(idle.reply().await, Reply::default());
    assert_eq!(used.reply().await, Reply::default());
    assert_eq!(adapter.exit().await, 0);
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_message_is_no_harm() {
    let adapter = Adapter::start(&["--metrics-port", "0"]).await;
    let client = adapter.client().await;
    let mut stream = Stream::open(&client).await;
    stream.send(&entries(&["/whole".into()]));
    stream.send_part(b"\0\0\0\x10\0half");
    assert_eq!(stream.end().await.status, crate::support::INTERNAL);
    let mut stream = Stream::open(&client).await;
    stream.send_part(b"\0\0\0\x10\0half");
    stream.cancel();
    assert_eq!(send_all(&adapter, &[entries(&["/after".into()])]).await, Reply::default());
    assert_eq!(paths(&adapter.read(ACCESS_LOG)), ["/whole", "/after"]);
    let closed = || (adapter.page().single("mygrpcadapter_streams_open") == 0.0).then_some(());
    until("all are closed", closed).await;
}

#[tokio::test]
async fn idle_streams_cost_no_wake_ups() {
    let adapter = Adapter::start(&["--metrics-port", "0"]).await;
    let mut streams = Vec::new();
    for at in 0..30 {
        let mut stream = Stream::open(&adapter.client().await).await;
        stream.send(&entries(&[format!("/{at}")]));
        streams.push(stream);
    }
    let quiet = || {
        let page = adapter.page();
        let written = page.of("mygrpcadapter_access_log_entries_total", "kind", "http") == 30.0;
        (written && page.single("mygrpcadapter_streams_open") == 30.0).then_some(())
    };
    until("the streams are idle", quiet).await;
    // The work after a load is complete after a second without a wake-up.
    let mut before = adapter.wake_ups();
    let still = || {
        std::thread::sleep(Duration::from_secs(1));
        let now = adapter.wake_ups();
        (std::mem::replace(&mut before, now) == now).then_some(())
    };
    until("a second without a wake-up", still).await;
}

#[tokio::test]
async fn a_peer_that_opens_a_stream_and_is_gone_at_once_loses_nothing() {
    let adapter = Adapter::start(&[]).await;
    let mut sent = Vec::new();
    for at in 0..50 {
        let path = format!("/{at}");
        let call = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &[]),
            frame(HEADERS, END_HEADERS, 1, &header_block(STREAM)),
            frame(DATA, 0, 1, &framed(&entries(std::slice::from_ref(&path)))),
        ];
        let mut stream = TcpStream::connect(("127.0.0.1", adapter.port)).unwrap();
        stream.write_all(&call.concat()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // An error is fine: the connection may be reset.
        let _ = stream.read_to_end(&mut Vec::new());
        sent.push(path);
    }
    let written = || {
        let mut written = adapter.files().first().map_or_else(Vec::new, |_| paths(&adapter.read(ACCESS_LOG)));
        written.sort_unstable();
        written
    };
    sent.sort_unstable();
    until("all are written", || (written() == sent).then_some(())).await;
}
