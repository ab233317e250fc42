//! HTTP/2 as grpc-go uses it, frame by frame.

use std::io::{Read, Write};
use std::net::TcpStream;

use mygrpcadapter::pb::grpc::health::v1::health_check_response::ServingStatus;

use crate::captures::recorded;
use crate::health::check;
use crate::support::client::{Client, framed};
use crate::support::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, Frames, HEADERS, PING, PREFACE, SETTINGS, WINDOW_UPDATE,
    header_block,
};
use crate::support::message::{METRIC, Shape, assert_each_once};
use crate::support::{Adapter, OK, PATIENCE, Reply};

/// The header blocks of a recorded connection.
fn recorded_blocks(connection: &str) -> Vec<Vec<u8>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/captures/by-version/1.0.9/frames.txt");
    let frames = std::fs::read_to_string(path).unwrap();
    let sent = format!(" {connection} > HEADERS ");
    let lines = frames.lines().filter(|line| line.contains(&sent));
    let hex = lines.map(|line| line.split("block=").nth(1).unwrap());
    hex.map(|hex| {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    })
    .collect()
}

#[tokio::test]
async fn the_frames_that_a_mixer_of_1_0_9_sent_are_answered() {
    let adapter = Adapter::start(&[]).await;
    let blocks = recorded_blocks("conn2");
    assert_eq!((blocks[0].len(), blocks[1].len()), (100, 7));
    let requests = ["metric-batch3", "metric-1"]
        .map(|name| framed(&std::fs::read(&recorded("by-version/1.0.9", name)[0]).unwrap()));
    let mut frames = Frames::connect(adapter.port);
    frames.0.write_all(PREFACE).unwrap();
    frames.send(SETTINGS, 0, 0, &[]);
    let settings = frames.await_frame(SETTINGS, |frame| frame.flags & ACK == 0).payload;
    let streams = settings.chunks(6).find(|setting| setting[..2] == [0, 3]).unwrap();
    assert_eq!(streams[2..], 1024_u32.to_be_bytes());
    frames.send(SETTINGS, ACK, 0, &[]);

    frames.send(HEADERS, END_HEADERS, 1, &blocks[0]);
    frames.send(DATA, END_STREAM, 1, &requests[0]);
    frames.await_empty_reply(1);
    let once = adapter.read("out.txt").len();

    frames.send(PING, 0, 0, &[2, 4, 16, 16, 9, 14, 7, 7]);
    let pong = frames.await_frame(PING, |frame| frame.flags & ACK == ACK);
    assert_eq!(pong.payload, [2, 4, 16, 16, 9, 14, 7, 7]);
    frames.send(WINDOW_UPDATE, 0, 0, &5_u32.to_be_bytes());

    // The second block refers to the dynamic table of the first. Its body arrives
    // byte by byte.
    frames.send(HEADERS, END_HEADERS, 3, &blocks[1]);
    for (at, byte) in requests[1].iter().enumerate() {
        let last = at + 1 == requests[1].len();
        frames.send(DATA, if last { END_STREAM } else { 0 }, 3, &[*byte]);
    }
    frames.await_empty_reply(3);
    let text = String::from_utf8(adapter.read("out.txt")).unwrap();
    assert_eq!(text[..once].matches("invoked with").count(), 1);
    assert_eq!(text[once..].matches("invoked with").count(), 1);
    assert!(text[once..].contains("map[response_code:200]"));
}

#[tokio::test]
async fn messages_whose_head_comes_in_parts_count_for_no_more_than_they_are() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 64 << 10 };
    let mut calls = Vec::new();
    for at in 0..32 {
        let mut body = framed(&shape.message(&format!("n{at}")));
        let mut call = client.open(METRIC).await.unwrap();
        call.send(body.split_to(3), false).unwrap();
        calls.push((call, body));
    }
    // The server reads a part of every head before more of any.
    assert_eq!(check(&client, "").await, Ok(ServingStatus::Serving));
    for (call, rest) in &mut calls {
        call.send(rest.clone(), true).unwrap();
    }
    for (call, _) in calls {
        assert_eq!(call.reply().await.unwrap(), Reply::default());
    }
    assert_eq!(shape.names(&adapter.read("out.txt")).len(), 32);
}

#[tokio::test]
async fn bodies_larger_than_any_window_arrive_whole() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 3 << 20 };
    let one = client.unary(METRIC, &shape.message("one")).await.unwrap();
    assert_eq!(one, Reply::default());
    assert_eq!(shape.names(&adapter.read("out.txt")), ["one"]);

    // Twelve in flight, of 219 KB: together more than the connection's window.
    std::fs::remove_file(adapter.volume.join("out.txt")).unwrap();
    let capture = recorded("metric", "029").remove(0);
    let request = framed(&std::fs::read(&capture).unwrap());
    let mut calls = Vec::new();
    for _ in 0..12 {
        calls.push(client.open(METRIC).await.unwrap());
    }
    for call in &mut calls {
        call.send(request.clone(), true).unwrap();
    }
    for call in calls {
        assert_eq!(call.reply().await.unwrap(), Reply::default());
    }
    let expected = std::fs::read(capture.with_extension("expected")).unwrap();
    let file = adapter.read("out.txt");
    assert_eq!(file.len(), 12 * expected.len());
    assert!(file.chunks(expected.len()).all(|chunk| chunk == expected));
}

#[tokio::test]
async fn one_connection_carries_1024_calls_at_once() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 100 };
    let names: Vec<String> = (0..1024).map(|at| format!("n{at}")).collect();
    let mut calls = Vec::new();
    for _ in &names {
        calls.push(client.open(METRIC).await.unwrap());
    }
    for (name, call) in names.iter().zip(&mut calls) {
        call.send(framed(&shape.message(name)), true).unwrap();
    }
    for call in calls {
        assert_eq!(call.reply().await.unwrap(), Reply::default());
    }
    let written = shape.names(&adapter.read("out.txt"));
    assert_eq!(written.len(), names.len());
    assert_each_once(&names, &written);
}

/// The increment of a WINDOW_UPDATE.
fn update(frame: &Frame) -> i64 {
    u32::from_be_bytes(frame.payload[..].try_into().unwrap()).into()
}

#[tokio::test]
async fn a_message_begun_before_our_settings_are_acknowledged_goes_on_after() {
    let adapter = Adapter::start(&[]).await;
    let shape = Shape { file: "out.txt", padding: 100_000 };
    let body = framed(&shape.message("n"));
    for first in [10_000, 16_384, 22_000, 32_000, 60_000] {
        let mut frames = Frames::greet(adapter.port);
        frames.send(HEADERS, END_HEADERS, 1, &header_block(METRIC));
        let mut sent = 0;
        while sent < first {
            let more = (first - sent).min(16_384);
            frames.send(DATA, 0, 1, &body[sent..sent + more]);
            sent += more;
        }
        // The pong arrives after everything before it was read; only then the window
        // shrinks.
        frames.send(PING, 0, 0, &[0; 8]);
        let (mut given, mut lowered) = (0, None);
        loop {
            let frame = frames.receive();
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => {
                    let of_streams = frame.payload.chunks(6).find(|setting| setting[..2] == [0, 4]).unwrap();
                    lowered = Some(i64::from(u32::from_be_bytes(of_streams[2..].try_into().unwrap())));
                }
                WINDOW_UPDATE if frame.stream == 1 => given += update(&frame),
                PING => break,
                _ => {}
            }
        }
        frames.send(SETTINGS, ACK, 0, &[]);

        // Its allowance: the new window, minus the bytes sent, plus the updates.
        let mut may = lowered.unwrap() + given - sent as i64;
        while sent < body.len() {
            while may <= 0 {
                may += update(&frames.await_frame(WINDOW_UPDATE, |frame| frame.stream == 1));
            }
            let more = (body.len() - sent).min(may as usize).min(16_384);
            let last = sent + more == body.len();
            frames.send(DATA, if last { END_STREAM } else { 0 }, 1, &body[sent..sent + more]);
            sent += more;
            may -= more as i64;
        }
        frames.await_empty_reply(1);
    }
    assert_eq!(shape.names(&adapter.read("out.txt")).len(), 5);
}

#[tokio::test]
async fn a_cancelled_call_leaves_nothing_behind() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 1000 };
    let message = framed(&shape.message("half"));
    let names: Vec<String> = (0..50).map(|at| format!("whole-{at}")).collect();
    for name in &names {
        let mut call = client.open(METRIC).await.unwrap();
        call.send(message.slice(..600), false).unwrap();
        assert_eq!(client.unary(METRIC, &shape.message(name)).await.unwrap().status, OK);
        call.cancel();
    }
    assert_eq!(shape.names(&adapter.read("out.txt")), names);
}

#[tokio::test]
async fn a_connection_that_breaks_the_protocol_harms_no_other() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 10 };
    for noise in [
        &b"GET / HTTP/1.1\r\nHost: adapter\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x01\x04\0\0\0\x01",
        b"",
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", adapter.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(noise).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Until the connection ends, by a close or a reset.
        let _ = stream.read_to_end(&mut Vec::new());
        assert_eq!(client.unary(METRIC, &shape.message("a")).await.unwrap().status, OK);
    }
}

#[tokio::test]
async fn both_families_of_addresses_are_served() {
    let adapter = Adapter::start(&[]).await;
    let shape = Shape { file: "out.txt", padding: 10 };
    assert!(adapter.address.starts_with("[::]:"), "{}", adapter.address);
    for host in ["127.0.0.1", "::1"] {
        let client = Client::connect((host, adapter.port)).await.unwrap();
        assert_eq!(client.unary(METRIC, &shape.message("a")).await.unwrap().status, OK, "{host}");
    }
}
