//! Peers that end no handshake, and floods.

use std::io::{Read, Write};

use rustix::process::Signal;
use tokio::io::AsyncReadExt;

use super::{MIXER, SHAPE, authorities, handshakes};
use crate::support::authority::{Secret, Tls};
use crate::support::message::METRIC;
use crate::support::{Adapter, Reply, http, until};

async fn assert_serves(adapter: &Adapter, tls: &Tls) {
    let client = tls.client(adapter).await.unwrap();
    assert_eq!(client.unary(METRIC, &SHAPE.message("a")).await.unwrap(), Reply::default());
}

#[tokio::test]
async fn a_peer_has_one_time_limit_for_handshake_and_preface() {
    let (servers, clients) = authorities();
    let adapter = Secret::new(&servers.server(), &clients).start(false, &["--max-connections", "8"]).await;
    let tls = Tls::new(&servers, None);
    // They fill all slots: nothing, half a record, and a handshake without HTTP/2.
    let mut silent: Vec<_> = (0..6).map(|_| http::connect(adapter.port)).collect();
    silent.iter_mut().skip(3).for_each(|stream| stream.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap());
    let mut speechless = Vec::new();
    for _ in 0..2 {
        speechless.push(tls.stream(adapter.port).await.unwrap());
    }
    assert_serves(&adapter, &tls).await;
    until("all are counted", || (handshakes(&adapter, "timeout") == 6.0).then_some(())).await;
    for mut stream in speechless {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    until("all are closed", || (adapter.page().single("mygrpcadapter_connections") == 0.0).then_some(()))
        .await;
    let log = adapter.log();
    assert!(!log.iter().any(|line| line.contains("handshake")), "{log:#?}");
}

#[tokio::test]
async fn garbage_of_any_kind_ends_its_connection_only() {
    let (servers, clients) = authorities();
    let adapter = Secret::new(&servers.server(), &clients).start(true, &[]).await;
    let tls = Tls::new(&servers, Some(&clients.issue(&[MIXER], 2099)));
    let kept = tls.client(&adapter).await.unwrap();
    let mut lengths = [0, 1, 2, 16, 255].into_iter().cycle();
    for seed in 0..200_u32 {
        let mut stream = http::connect(adapter.port);
        let mut record = vec![[20, 21, 22, 23, 24][seed as usize % 5], 3, (seed % 5) as u8];
        let length = lengths.next().unwrap();
        record.extend([0, length]);
        let byte = |at: u32| (seed.wrapping_mul(2_654_435_761).rotate_left(at % 32) >> 7) as u8;
        record.extend((0..u32::from(length)).map(byte));
        let _ = stream.write_all(&record.repeat(3));
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(kept.unary(METRIC, &SHAPE.message("a")).await.unwrap(), Reply::default());
    assert_serves(&adapter, &tls).await;
    let warnings = adapter.log().iter().filter(|line| line.contains(" warn ")).count();
    assert!(warnings < 5, "{:#?}", adapter.log());
}

#[tokio::test]
async fn bytes_that_no_client_sends_are_no_plaintext_and_no_warning() {
    let (servers, clients) = authorities();
    let adapter = Secret::new(&servers.server(), &clients).start(true, &[]).await;
    for bytes in [&[0xf3, b'G', b'E', b'T'][..], b"\x00\x01", b"\r\n\r\n\x00\r\nQUIT\n"] {
        let mut stream = http::connect(adapter.port);
        stream.write_all(bytes).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    until("they are counted", || (handshakes(&adapter, "invalid") == 3.0).then_some(())).await;
    assert_eq!(handshakes(&adapter, "plaintext"), 0.0);
    assert!(!adapter.log().iter().any(|line| line.contains(" warn ")), "{:#?}", adapter.log());
}

#[tokio::test]
async fn a_flood_of_bytes_without_data_ends_its_connection() {
    let (servers, clients) = authorities();
    let adapter = Secret::new(&servers.server(), &clients).start(false, &[]).await;
    let tls = Tls::new(&servers, None);
    let kept = tls.client(&adapter).await.unwrap();
    // A handshake that goes on, in messages that are never complete.
    let mut stream = http::connect(adapter.port);
    let record = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xf0][..], &[0; 0x4000 - 4]].concat();
    let mut sent = 0;
    while stream.write_all(&record).is_ok() && sent < 64 << 20 {
        sent += record.len();
    }
    assert!(sent < 16 << 20, "{sent}");
    // Change of cipher spec, which TLS 1.3 ignores in a handshake.
    let mut stream = http::connect(adapter.port);
    let mut sent = 0;
    while stream.write_all(&[20, 3, 3, 0, 1, 1].repeat(1000)).is_ok() && sent < 64 << 20 {
        sent += 6000;
    }
    assert!(sent < 16 << 20, "{sent}");
    // Requests for new keys, which carry no data.
    let (mut stream, mut session) = tls.stream(adapter.port).await.unwrap().into_inner();
    let mut sent = 0_usize;
    let end = loop {
        for _ in 0..100 {
            if session.refresh_traffic_keys().is_err() {
                break;
            }
        }
        let mut bytes = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut bytes).unwrap();
        }
        sent += bytes.len();
        if let Err(error) = tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await {
            break error;
        }
        assert!(sent < 16 << 20, "{sent}");
        tokio::task::yield_now().await;
    };
    assert!(
        matches!(end.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe),
        "{end}"
    );
    assert_eq!(kept.unary(METRIC, &SHAPE.message("a")).await.unwrap(), Reply::default());
    assert_serves(&adapter, &tls).await;
}

#[tokio::test]
async fn an_encrypted_connection_is_shut_down_gracefully() {
    let (servers, clients) = authorities();
    let mut adapter = Secret::new(&servers.server(), &clients).start(false, &[]).await;
    let tls = Tls::new(&servers, None);
    let client = tls.client(&adapter).await.unwrap();
    let names: Vec<String> = (0..200).map(|at| at.to_string()).collect();
    let mut calls = tokio::task::JoinSet::new();
    for name in &names {
        let (client, message) = (client.clone(), SHAPE.message(name));
        calls.spawn(async move { client.unary(METRIC, &message).await });
    }
    calls.join_next().await;
    adapter.signal(Signal::TERM);
    while let Some(outcome) = calls.join_next().await {
        if let Ok(reply) = outcome.unwrap() {
            assert_eq!(reply, Reply::default());
        }
    }
    assert_eq!(adapter.exit().await, 0);
}
