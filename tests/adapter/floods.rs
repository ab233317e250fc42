//! Peers that demand too much: the adapter stays small, and serves the others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use mygrpcadapter::pb::grpc::health::v1::health_check_response::ServingStatus;

use crate::health::check;
use crate::support::frames::{
    CONTINUATION, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
    frame, header_block, literal,
};
use crate::support::message::{METRIC, Shape, assert_each_once};
use crate::support::{Adapter, Client, Reply, until};

const SHAPE: Shape = Shape { file: "out.txt", padding: 100 };
/// Memory limit of a debug build under any load, in KiB.
const MEMORY: usize = 16 * 1024;

async fn still_serves(adapter: &Adapter, client: &Client) {
    assert_eq!(client.unary(METRIC, &SHAPE.message("after")).await.unwrap(), Reply::default());
    let fresh = adapter.client().await;
    assert_eq!(check(&fresh, "").await, Ok(ServingStatus::Serving));
    let peak = adapter.peak_memory();
    assert!(peak < MEMORY, "{peak} KiB");
}

/// A peer that sends without end, and reads its answers or not.
struct Flood<'a> {
    adapter: &'a Adapter,
    reads: bool,
}

impl Flood<'_> {
    /// Sends `first`, then the bytes of each round, until the last one or until the
    /// other side stops reading, while another connection is served. Returns the
    /// number of rounds.
    async fn send(self, first: &[u8], mut again: impl FnMut(usize) -> Vec<u8>, rounds: usize) -> usize {
        let client = self.adapter.client().await;
        let mut frames = Frames::greet(self.adapter.port);
        frames.0.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        if self.reads {
            let mut answers = frames.0.try_clone().unwrap();
            std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
        }
        let _ = frames.0.write_all(first);
        let mut taken = 0;
        for round in 0..rounds {
            if frames.0.write_all(&again(round)).is_err() {
                break;
            }
            taken += 1;
            if round % 50 == 0 {
                assert_eq!(check(&client, "").await, Ok(ServingStatus::Serving));
            }
        }
        still_serves(self.adapter, &client).await;
        let _ = frames.0.shutdown(std::net::Shutdown::Both);
        taken
    }
}

/// Both kinds of peer.
fn floods(adapter: &Adapter) -> [Flood<'_>; 2] {
    [false, true].map(|reads| Flood { adapter, reads })
}

#[tokio::test]
async fn a_thousand_connections_are_served_a_few_at_a_time() {
    let adapter = Adapter::start(&["--max-connections", "64", "--metrics-port", "0"]).await;
    let port = adapter.port;
    let (served, mut serving) = tokio::sync::mpsc::unbounded_channel();
    let names: Vec<String> = (0..1000).map(|at| at.to_string()).collect();
    let tasks: Vec<_> = names
        .iter()
        .map(|name| {
            let (message, served) = (SHAPE.message(name), served.clone());
            tokio::spawn(async move {
                let client = Client::connect(("127.0.0.1", port)).await.unwrap();
                let reply = client.unary(METRIC, &message).await;
                // Held until the test has checked the state.
                let (seen, held) = tokio::sync::oneshot::channel::<()>();
                served.send(seen).unwrap();
                let _ = held.await;
                reply
            })
        })
        .collect();
    let mut held = Vec::new();
    while held.len() < 64 {
        held.push(serving.recv().await.unwrap());
    }
    // All slots are taken: the other connections wait in the backlog, without a
    // descriptor.
    until("the others have connected", || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let wanted = format!(":{port:04X} ");
        let established = sockets.lines().filter(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (_, remote, state) = (words.next(), words.next(), words.next());
            remote.is_some_and(|remote| format!("{remote} ").ends_with(&wanted)) && state == Some("01")
        });
        (established.count() >= 1000).then_some(())
    })
    .await;
    assert!(serving.try_recv().is_err(), "more than 64 are served");
    assert_eq!(adapter.page().single("mygrpcadapter_connections"), 64.0);
    assert!(adapter.open_files() < 64 + 24, "{}", adapter.open_files());
    drop(held);
    // Each is closed once it was served.
    tokio::spawn(async move { while serving.recv().await.is_some() {} });
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), Reply::default());
    }
    let written = SHAPE.names(&adapter.read("out.txt"));
    assert_eq!(written.len(), 1000);
    assert_each_once(&names, &written);
    still_serves(&adapter, &adapter.client().await).await;
}

#[tokio::test]
async fn silent_connections_are_closed_and_make_room() {
    let adapter = Adapter::start(&["--max-connections", "4", "--metrics-port", "0"]).await;
    let connect = |said: &[u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", adapter.port)).unwrap();
        stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
        stream.write_all(said).unwrap();
        stream
    };
    // No bytes, too few, and a client whose network is gone.
    let silent = [connect(b""), connect(&PREFACE[..10]), connect(b"")];
    let lasting = adapter.client().await;
    assert_eq!(check(&lasting, "").await, Ok(ServingStatus::Serving));
    // Without a call in flight it could be the one that is closed.
    let _in_flight = lasting.open(METRIC).await.unwrap();
    // There is no slot for this one until one of the others is closed.
    let client = adapter.client().await;
    assert_eq!(client.unary(METRIC, &SHAPE.message("n")).await.unwrap(), Reply::default());
    for mut stream in silent {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    // Connections that did speak HTTP/2 stay open.
    assert_eq!(check(&lasting, "").await, Ok(ServingStatus::Serving));
    assert_eq!(check(&client, "").await, Ok(ServingStatus::Serving));
}

/// Headers of calls without a body, `count` per round; `after` adds frames for each
/// stream.
fn calls(count: usize, after: impl Fn(u32) -> Vec<u8>) -> impl FnMut(usize) -> Vec<u8> {
    let block = header_block(METRIC);
    let mut stream = 1;
    move |_| {
        let mut bytes = Vec::new();
        for _ in 0..count {
            bytes.extend(frame(HEADERS, END_HEADERS, stream, &block));
            bytes.extend(after(stream));
            stream += 2;
        }
        bytes
    }
}

#[tokio::test]
async fn a_rapid_reset_flood_is_survived() {
    let adapter = Adapter::start(&[]).await;
    for flood in floods(&adapter) {
        let reset = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        flood.send(b"", calls(50, reset), 600).await;
    }
}

#[tokio::test]
async fn a_flood_of_calls_that_never_end_is_bounded() {
    let adapter = Adapter::start(&[]).await;
    for flood in floods(&adapter) {
        flood.send(b"", calls(20, |_| Vec::new()), 400).await;
    }
}

#[tokio::test]
async fn a_ping_flood_is_survived() {
    let adapter = Adapter::start(&[]).await;
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1000);
    for flood in floods(&adapter) {
        flood.send(b"", |_| pings.clone(), 200).await;
    }
}

#[tokio::test]
async fn a_settings_flood_is_survived() {
    let adapter = Adapter::start(&[]).await;
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(1000);
    for flood in floods(&adapter) {
        flood.send(b"", |_| settings.clone(), 200).await;
    }
}

#[tokio::test]
async fn a_continuation_flood_is_cut_off() {
    let adapter = Adapter::start(&[]).await;
    let first = frame(HEADERS, 0, 1, &header_block(METRIC));
    let mut headers = Vec::new();
    for at in 0..100 {
        literal(&mut headers, &format!("x-{at}"), &"x".repeat(100));
    }
    let full = frame(CONTINUATION, 0, 1, &headers);
    // Frames that cost almost nothing to send.
    let empty = frame(CONTINUATION, 0, 1, b"").repeat(1000);
    for flood in floods(&adapter) {
        let taken = flood.send(&first, |_| full.clone(), 3000).await;
        assert!(taken < 3000, "it took 33 MB of headers");
    }
    for flood in floods(&adapter) {
        let taken = flood.send(&first, |_| empty.clone(), 2000).await;
        assert!(taken < 2000, "it took 2,000,000 frames of nothing");
    }
}

#[tokio::test]
async fn a_list_of_headers_that_is_too_large_refuses_the_call_and_not_the_connection() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let long = "x".repeat(10_000);
    let mut call = client.open_with(METRIC, &[("x-a", &long), ("x-b", &long)]).await.unwrap();
    let _ = call.send(bytes::Bytes::new(), true);
    assert!(call.reply().await.is_err());
    still_serves(&adapter, &client).await;
}

#[tokio::test]
async fn garbage_on_many_connections_is_survived() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let mut state = 1_u64;
    for round in 0..100 {
        let mut stream = TcpStream::connect(("127.0.0.1", adapter.port)).unwrap();
        let garbage: Vec<u8> = (0..2000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        if round % 2 == 0 {
            stream.write_all(PREFACE).unwrap();
            stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
        }
        let _ = stream.write_all(&garbage);
    }
    still_serves(&adapter, &client).await;
}

#[tokio::test]
async fn a_frame_larger_than_allowed_ends_its_connection_alone() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let mut frames = Frames::greet(adapter.port);
    let _ = frames.try_send(HEADERS, END_HEADERS | END_STREAM, 1, &vec![0; 1 << 20]);
    let mut last = None;
    while let Ok(frame) = frames.try_receive() {
        last = Some(frame.kind);
    }
    assert!(last.is_none_or(|kind| kind == GOAWAY), "{last:?}");
    still_serves(&adapter, &client).await;
}

#[tokio::test]
async fn peers_that_never_read_their_answers_delay_no_other() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let mut deaf: Vec<_> = (0..8).map(|_| Frames::greet(adapter.port)).collect();
    let body = crate::support::client::framed(b"");
    for frames in &mut deaf {
        frames.0.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        for at in 0..500 {
            let stream = 1 + 2 * at;
            let head =
                frames.try_send(HEADERS, END_HEADERS, stream, &header_block("/grpc.health.v1.Health/Watch"));
            if head.and_then(|()| frames.try_send(0, END_STREAM, stream, &body)).is_err() {
                break;
            }
        }
    }
    still_serves(&adapter, &client).await;
}

#[tokio::test]
async fn large_bodies_on_every_connection_stay_within_bounds() {
    let adapter = Adapter::start(&["--queue-timeout", "200ms"]).await;
    let client = adapter.client().await;
    // Each announces four MiB, sends as much as it may, and never ends.
    let promise = [&[0][..], &(4_u32 << 20).to_be_bytes(), &[0x0a; 16_000]].concat();
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let mut frames = Frames::greet(adapter.port);
        frames.0.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        frames.send(HEADERS, END_HEADERS, 1, &header_block(METRIC));
        for _ in 0..4 {
            if frames.try_send(0, 0, 1, &promise[..promise.len().min(16_000)]).is_err() {
                break;
            }
        }
        waiting.push(frames);
    }
    assert_eq!(check(&client, "").await, Ok(ServingStatus::Serving));
    drop(waiting);
    let peak = adapter.peak_memory();
    assert!(peak < MEMORY, "{peak} KiB");
    // There is room again once it has noticed the resets.
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while client.unary(METRIC, &SHAPE.message("after")).await.unwrap() != Reply::default() {
        assert!(std::time::Instant::now() < deadline, "never any room again");
    }
    assert_eq!(SHAPE.names(&adapter.read("out.txt")), ["after"]);
}
