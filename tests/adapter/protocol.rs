//! The details of gRPC over HTTP/2: invalid calls, late frames, frames of no call,
//! and eviction of connections.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;

use crate::support::client::framed;
use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
    header_block, literal,
};
use crate::support::message::{METRIC, Shape};
use crate::support::{Adapter, OK, Reply, UNIMPLEMENTED, until};

const SHAPE: Shape = Shape { file: "out.txt", padding: 100 };
const METRICS: [&str; 2] = ["--metrics-port", "0"];
const SERVICE: &str = "metric.HandleMetricService";

/// A header block for the metric method, with this verb and content type.
fn headers(verb: &str, kind: Option<&str>) -> Vec<u8> {
    let mut block = Vec::new();
    let pseudo = [(":method", verb), (":scheme", "http"), (":path", METRIC), (":authority", "adapter")];
    let kind = kind.map(|kind| ("content-type", kind));
    for (name, value) in pseudo.into_iter().chain(kind).chain([("te", "trailers")]) {
        literal(&mut block, name, value);
    }
    block
}

/// The status of the answer to a call with this verb and content type.
async fn status(adapter: &Adapter, verb: &str, kind: Option<&str>) -> u16 {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", adapter.port)).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder().method(verb).uri(format!("http://adapter{METRIC}"));
    let request = kind.into_iter().fold(request, |request, kind| request.header("content-type", kind));
    let mut requests = requests.ready().await.unwrap();
    let (response, mut body) = requests.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(framed(&SHAPE.message("n")), true).unwrap();
    response.await.unwrap().status().as_u16()
}

#[tokio::test]
async fn what_is_not_grpc_is_refused_and_nothing_is_written() {
    let adapter = Adapter::start(&[]).await;
    let grpc = Some("application/grpc");
    for (verb, kind, expected) in [
        ("GET", grpc, 405),
        ("PUT", grpc, 405),
        ("DELETE", grpc, 405),
        ("PATCH", grpc, 405),
        ("post", grpc, 405),
        ("GET", None, 405),
        ("POST", None, 415),
        ("POST", Some(""), 415),
        ("POST", Some("application/grpcfoo"), 415),
        ("POST", Some("application/grpc-web"), 415),
        ("POST", Some("application/grpc-web+proto"), 415),
        ("POST", Some("application/grpc+json"), 415),
        ("POST", Some("application/json"), 415),
    ] {
        assert_eq!(status(&adapter, verb, kind).await, expected, "{verb} {kind:?}");
    }
    assert!(adapter.files().is_empty());
    let kinds = ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"];
    for kind in kinds {
        assert_eq!(status(&adapter, "POST", Some(kind)).await, 200, "{kind}");
    }
    until("they are written", || (SHAPE.names(&adapter.read("out.txt")).len() == kinds.len()).then_some(()))
        .await;
}

#[tokio::test]
async fn a_compressed_message_is_refused_with_the_accepted_encoding() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for encoding in ["gzip", "deflate", "snappy", "x"] {
        let mut call = client.open_with(METRIC, &[("grpc-encoding", encoding)]).await.unwrap();
        call.send(framed(&SHAPE.message("n")), true).unwrap();
        let answer = call.answer().await.unwrap();
        assert_eq!(answer.header("grpc-accept-encoding"), Some("identity"));
        assert_eq!(answer.end().await.unwrap().0, UNIMPLEMENTED);
    }
    assert!(adapter.files().is_empty());
    let mut call = client.open_with(METRIC, &[("grpc-encoding", "identity")]).await.unwrap();
    call.send(framed(&SHAPE.message("n")), true).unwrap();
    assert_eq!(call.reply().await.unwrap(), Reply::default());
}

/// Makes many calls that are refused before their data arrives, and asserts that the
/// connection stays usable.
async fn refused_again_and_again(block: &[u8], early: &[u8], late: &[u8]) {
    let adapter = Adapter::start(&[]).await;
    let mut frames = Frames::greet(adapter.port);
    for at in 0..1500 {
        let stream = 1 + 2 * at;
        frames.send(HEADERS, END_HEADERS, stream, block);
        if !early.is_empty() {
            frames.send(DATA, 0, stream, early);
        }
        let refusal = frames.await_frame(HEADERS, |frame| frame.stream == stream);
        assert_eq!(refusal.flags & END_STREAM, END_STREAM);
        frames.send(DATA, 0, stream, late);
        frames.send(DATA, END_STREAM, stream, late);
        frames.send(WINDOW_UPDATE, 0, 0, &1000_u32.to_be_bytes());
    }
    frames.send(HEADERS, END_HEADERS, 4001, &header_block(METRIC));
    frames.send(DATA, END_STREAM, 4001, &framed(&SHAPE.message("last")));
    frames.await_empty_reply(4001);
    assert_eq!(SHAPE.names(&adapter.read("out.txt")), ["last"]);
}

#[tokio::test]
async fn data_after_a_refusal_does_not_end_the_connection() {
    let late = [7; 100];
    refused_again_and_again(&header_block("/a.B/C"), b"", &late).await;
    refused_again_and_again(&headers("GET", Some("application/grpc")), b"", &late).await;
    refused_again_and_again(&headers("POST", Some("text/plain")), b"", &late).await;
    // An oversized message, and a compressed one.
    refused_again_and_again(&header_block(METRIC), &[0, 1, 0, 0, 0], &late).await;
    refused_again_and_again(&header_block(METRIC), &[1, 0, 0, 0, 9], &late).await;
}

#[tokio::test]
async fn a_refused_body_of_any_length_is_taken_and_dropped() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for _ in 0..20 {
        let body = Bytes::from(vec![0; 3 << 20]);
        let reply = client.framed("/a.B/C", body).await.unwrap();
        assert_eq!(reply.status, UNIMPLEMENTED);
    }
    assert_eq!(client.unary(METRIC, &SHAPE.message("n")).await.unwrap(), Reply::default());
    let peak = adapter.peak_memory();
    assert!(peak < 16 * 1024, "{peak} KiB");
}

#[tokio::test]
async fn floods_that_belong_to_no_call_end_their_connection_alone() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let block = header_block(METRIC);
    let mut stream = 1;
    let mut resets = || {
        let call = |stream| {
            let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            [frame(HEADERS, END_HEADERS, stream, &block), reset].concat()
        };
        stream += 2000;
        (stream - 2000..stream).step_by(2).flat_map(call).collect()
    };
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1000);
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff].repeat(100)).repeat(100);
    let windows = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 0]).repeat(1000);
    // What a peer may send as well does not pay for a flood: a call that ends, the message of a call that is
    // reset, messages in a stream.
    let mut stream = 1;
    let mut resets_between_calls = || {
        let empty = [0; 5];
        let reset = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        let call = |stream| {
            let head = frame(HEADERS, END_HEADERS, stream, &block);
            match stream % 40 {
                1 => [head, frame(DATA, END_STREAM, stream, &empty)].concat(),
                3 => [head, frame(DATA, 0, stream, &empty), reset(stream)].concat(),
                _ => [head, reset(stream)].concat(),
            }
        };
        stream += 2000;
        (stream - 2000..stream).step_by(2).flat_map(call).collect()
    };
    let mut first = frame(HEADERS, END_HEADERS, 1, &header_block(crate::access_logs::STREAM));
    let mut pings_between_messages = || {
        let messages = frame(DATA, 0, 1, &[0; 500]);
        [std::mem::take(&mut first), messages, pings.clone()].concat()
    };
    let floods: [(&str, &mut dyn FnMut() -> Vec<u8>); 6] = [
        ("resets", &mut resets),
        ("resets between calls", &mut resets_between_calls),
        ("pings between messages", &mut pings_between_messages),
        ("pings", &mut || pings.clone()),
        ("settings", &mut || settings.clone()),
        ("window updates of nothing", &mut || windows.clone()),
    ];
    for (what, bytes) in floods {
        let frames = Frames::greet(adapter.port);
        let mut answers = frames.0.try_clone().unwrap();
        let reading = std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
        let (mut rounds, mut sent) = (0, 0);
        loop {
            let round = bytes();
            if std::io::Write::write_all(&mut &frames.0, &round).is_err() {
                break;
            }
            (rounds, sent) = (rounds + 1, sent + round.len());
            // What it may send, and what the kernel may hold.
            assert!(sent < 16 << 20, "{what} go on and on");
            if rounds % 50 == 0 {
                assert_eq!(client.unary(METRIC, &SHAPE.message("x")).await.unwrap(), Reply::default());
            }
        }
        let _ = frames.0.shutdown(std::net::Shutdown::Both);
        let _ = reading.join();
    }
    assert_eq!(client.unary(METRIC, &SHAPE.message("after")).await.unwrap(), Reply::default());
    let peak = adapter.peak_memory();
    assert!(peak < 16 * 1024, "{peak} KiB");
}

#[tokio::test]
async fn a_burst_of_more_calls_than_streams_loses_no_more_than_the_excess() {
    let adapter = Adapter::start(&[]).await;
    let mut frames = Frames::greet(adapter.port);
    let call = |stream| {
        let head = frame(HEADERS, END_HEADERS, stream, &header_block(METRIC));
        [head, frame(DATA, END_STREAM, stream, &[0; 5])].concat()
    };
    // A peer that has not seen the limit yet.
    let burst: Vec<u8> = (1..6000).step_by(2).flat_map(call).collect();
    std::io::Write::write_all(&mut &frames.0, &burst).unwrap();
    frames.await_empty_reply(1);
    // Later calls are answered, as soon as the burst leaves room for them.
    let mut is_answered = |stream| {
        std::io::Write::write_all(&mut &frames.0, &call(stream)).unwrap();
        loop {
            let frame = frames.receive();
            if frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM) {
                return frame.kind == HEADERS;
            }
        }
    };
    assert!((6001..).step_by(2).any(&mut is_answered));
}

#[tokio::test]
async fn calls_with_long_headers_are_no_flood() {
    let adapter = Adapter::start(&[]).await;
    let mut frames = Frames::greet(adapter.port);
    let mut block = header_block(METRIC);
    for at in 0..100 {
        literal(&mut block, &format!("x-{at}"), &"x".repeat(100));
    }
    // 6 MiB of headers.
    for stream in (1..1200).step_by(2) {
        frames.send(HEADERS, END_HEADERS, stream, &block);
        frames.send(DATA, END_STREAM, stream, &[0; 5]);
        frames.await_empty_reply(stream);
    }
}

#[tokio::test]
async fn cancelled_calls_are_counted() {
    let adapter = Adapter::start(&METRICS).await;
    let client = adapter.client().await;
    let half = framed(&SHAPE.message("n")).slice(..20);
    let labels = [("service", SERVICE), ("code", "CANCELLED")];
    let cancelled = || adapter.page().find("mygrpcadapter_requests_total", &labels).unwrap_or_default();
    let in_flight = || adapter.page().single("mygrpcadapter_requests_in_flight");
    for _ in 0..3 {
        let mut call = client.open(METRIC).await.unwrap();
        call.send(half.clone(), false).unwrap();
        until("it is in flight", || (in_flight() == 1.0).then_some(())).await;
        call.cancel();
        until("it is cancelled", || (in_flight() == 0.0).then_some(())).await;
    }
    assert_eq!(cancelled(), 3.0);
    // A connection that breaks ends its calls.
    let mut frames = Frames::greet(adapter.port);
    for stream in [1, 3] {
        frames.send(HEADERS, END_HEADERS, stream, &header_block(METRIC));
    }
    until("they are in flight", || (in_flight() == 2.0).then_some(())).await;
    drop(frames);
    until("they are counted", || (cancelled() == 5.0).then_some(())).await;
}

#[tokio::test]
async fn idle_connections_make_room_for_waiting_ones() {
    let adapter = Adapter::start(&["--max-connections", "2"]).await;
    let [busy, idle] = [adapter.client().await, adapter.client().await];
    assert_eq!(idle.unary(METRIC, &SHAPE.message("idle")).await.unwrap(), Reply::default());
    let body = framed(&SHAPE.message("busy"));
    let mut call = busy.open(METRIC).await.unwrap();
    call.send(body.slice(..10), false).unwrap();
    // There is no slot for this one but that of the idle one.
    let third = adapter.client().await;
    assert_eq!(third.unary(METRIC, &SHAPE.message("third")).await.unwrap(), Reply::default());
    call.send(body.slice(10..), true).unwrap();
    assert_eq!(call.reply().await.unwrap(), Reply::default());
    assert!(idle.unary(METRIC, &SHAPE.message("gone")).await.is_err());
    assert_eq!(SHAPE.names(&adapter.read("out.txt")), ["idle", "third", "busy"]);
}

#[tokio::test]
async fn a_connection_of_age_ends_its_streams_without_end() {
    let adapter = Adapter::start(&["--max-connection-age", "300ms"]).await;
    let client = adapter.client().await;
    let mut watching = crate::health::watch(&client, "").await;
    assert!(watching.message().await.unwrap().is_some());
    assert_eq!(watching.message().await.unwrap(), None);
    assert_eq!(watching.end().await.unwrap().0, OK);
}

#[tokio::test]
async fn an_idle_connection_that_stays_open_after_a_goaway_is_closed() {
    let adapter = Adapter::start(&["--max-connection-age", "100ms"]).await;
    let mut frames = Frames::greet(adapter.port);
    frames.0.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    frames.await_frame(GOAWAY, |_| true);
    // It answers nothing more.
    let mut rest = Vec::new();
    let _ = frames.0.read_to_end(&mut rest);
}

#[tokio::test]
async fn the_kernel_watches_over_silent_peers() {
    let adapter = Adapter::start(&[]).await;
    let _silent = Frames::greet(adapter.port);
    let left = until("keep-alive is on", || keep_alive(adapter.port)).await;
    assert!(left <= Duration::from_secs(60), "{left:?}");
}

/// Time to the first keep-alive probe of the connection to `port`, as its owner's
/// kernel has it.
fn keep_alive(port: u16) -> Option<Duration> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let text: String = tables.iter().filter_map(|table| std::fs::read_to_string(table).ok()).collect();
    let mut rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row[1].ends_with(&format!(":{port:04X}")) && row[3] == "01")?;
    // In hundredths of a second; 02 is the timer of keep-alive.
    let hundredths = u64::from_str_radix(row[5].strip_prefix("02:")?, 16).ok()?;
    Some(Duration::from_millis(10 * hundredths))
}
