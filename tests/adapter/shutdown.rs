//! Graceful shutdown: in time, and with every acknowledged report in its file.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;

use crate::health::{next, watch};
use crate::support::client::framed;
use crate::support::message::{METRIC, Shape, assert_each_once};
use crate::support::namespace::skip;
use crate::support::{Adapter, Client, OK, Reply, Scratch, until};

const SHAPE: Shape = Shape { file: "out.txt", padding: 100 };

#[tokio::test]
async fn either_signal_ends_it_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut adapter = Adapter::start(&[]).await;
        adapter.signal(signal);
        assert_eq!(adapter.exit().await, 0);
        assert!(adapter.log().last().unwrap().contains("stopped"), "{:?}", adapter.log());
    }
}

#[tokio::test]
async fn idle_connections_do_not_hold_it() {
    // Much longer than any test waits: the deadline must not be needed.
    let mut adapter = Adapter::start(&["--drain-timeout", "1h"]).await;
    let clients = [adapter.client().await, adapter.client().await];
    for client in &clients {
        assert_eq!(client.unary(METRIC, &SHAPE.message("n")).await.unwrap().status, OK);
    }
    let mut watched = watch(&clients[0], "").await;
    assert!(next(&mut watched).await.is_some());
    assert_eq!(adapter.stop().await, 0);
}

#[tokio::test]
async fn a_connection_that_never_speaks_holds_it_for_the_drain_timeout_only() {
    let mut adapter = Adapter::start(&["--drain-timeout", "200ms"]).await;
    let _silent = TcpStream::connect(("127.0.0.1", adapter.port)).await.unwrap();
    let client = adapter.client().await;
    assert_eq!(client.unary(METRIC, &SHAPE.message("n")).await.unwrap().status, OK);
    assert_eq!(adapter.stop().await, 0);
}

#[tokio::test]
async fn a_call_that_never_ends_holds_it_for_the_drain_timeout_only() {
    let mut adapter = Adapter::start(&["--drain-timeout", "200ms"]).await;
    let client = adapter.client().await;
    let mut call = client.open(METRIC).await.unwrap();
    call.send(framed(&SHAPE.message("n")).slice(..20), false).unwrap();
    assert_eq!(client.unary(METRIC, &SHAPE.message("n")).await.unwrap().status, OK);
    assert_eq!(adapter.stop().await, 0);
    adapter.logged("connections still open at the deadline").await;
    assert_eq!(SHAPE.names(&adapter.read("out.txt")), ["n"]);
}

#[tokio::test]
async fn a_call_that_is_open_when_the_signal_comes_is_still_answered() {
    let mut adapter = Adapter::start(&["--drain-timeout", "1h"]).await;
    let client = adapter.client().await;
    let mut call = client.open(METRIC).await.unwrap();
    // Ensures that the call has arrived: the connection keeps its order.
    assert_eq!(client.unary(METRIC, &SHAPE.message("first")).await.unwrap().status, OK);
    adapter.signal(Signal::TERM);
    adapter.logged("draining").await;
    until("new connections are refused", || {
        std::net::TcpStream::connect(("127.0.0.1", adapter.port)).is_err().then_some(())
    })
    .await;
    call.send(framed(&SHAPE.message("second")), true).unwrap();
    assert_eq!(call.reply().await.unwrap(), Reply::default());
    assert_eq!(adapter.exit().await, 0);
    assert_eq!(SHAPE.names(&adapter.read("out.txt")), ["first", "second"]);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let signals = [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::QUIT, 131)];
    for (second, code) in signals {
        let mut adapter = Adapter::start(&["--drain-delay", "1h"]).await;
        adapter.signal(Signal::TERM);
        adapter.logged("draining").await;
        // A second signal within half a second repeats the first.
        let again = until("it ends", || {
            let _ = kill_process(adapter.pid(), second);
            adapter.log().iter().any(|line| line.contains("stopped at once")).then_some(())
        });
        again.await;
        assert_eq!(adapter.exit().await, code);
    }
}

/// Sends reports until one fails; returns the acknowledged names.
async fn report_until_refused(client: Client, prefix: String, sent: Arc<AtomicUsize>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for at in 0.. {
        let name = format!("{prefix}-{at}");
        match client.unary(METRIC, &SHAPE.message(&name)).await {
            Ok(reply) if reply.status == OK => acknowledged.push(name),
            _ => break,
        }
        sent.fetch_add(1, Ordering::Relaxed);
    }
    acknowledged
}

async fn every_acknowledged_report_is_in_the_file(args: &[&str], signals: &[Signal]) {
    let mut adapter = Adapter::start(args).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let mut senders = Vec::new();
    for connection in 0..4 {
        let client = adapter.client().await;
        for stream in 0..16 {
            let (client, sent) = (client.clone(), Arc::clone(&sent));
            senders.push(tokio::spawn(report_until_refused(client, format!("{connection}-{stream}"), sent)));
        }
    }
    until("2,000 reports", || (sent.load(Ordering::Relaxed) >= 2000).then_some(())).await;
    for signal in signals {
        adapter.signal(*signal);
    }
    let mut acknowledged = Vec::new();
    for sender in senders {
        acknowledged.extend(sender.await.unwrap());
    }
    adapter.exit().await;
    assert!(acknowledged.len() >= 2000);
    assert_each_once(&acknowledged, &SHAPE.names(&adapter.read("out.txt")));
}

#[tokio::test]
async fn amid_thousands_of_requests_none_acknowledged_is_lost_or_duplicated() {
    every_acknowledged_report_is_in_the_file(&[], &[Signal::TERM]).await;
    every_acknowledged_report_is_in_the_file(&["--drain-delay", "100ms"], &[Signal::INT]).await;
}

#[tokio::test]
async fn a_kill_neither_loses_nor_duplicates_an_acknowledged_request() {
    every_acknowledged_report_is_in_the_file(&[], &[Signal::KILL]).await;
}

#[tokio::test]
async fn as_process_1_it_heeds_signals() {
    let isolated = ["unshare", "--pid", "--fork", "--kill-child"];
    let probe = Command::new(isolated[0]).args(&isolated[1..]).arg("true").output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return skip("unshare --pid is not allowed; run the tests as root");
    }
    let scratch = Scratch::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut adapter = Adapter::start_by(&isolated, scratch.path(), &[]).await;
        let wrapper = adapter.pid().as_raw_pid();
        let children = std::fs::read_to_string(format!("/proc/{wrapper}/task/{wrapper}/children")).unwrap();
        let first = Pid::from_raw(children.trim().parse().unwrap()).unwrap();
        let inside = std::fs::read_to_string(format!("/proc/{}/status", first.as_raw_pid())).unwrap();
        let inside = inside.lines().find(|line| line.starts_with("NSpid:")).unwrap();
        assert_eq!(inside.split_whitespace().last(), Some("1"));
        kill_process(first, signal).unwrap();
        assert_eq!(adapter.exit().await, 0);
    }
}
