//! The log: it never blocks, lines cannot be forged, and dropped lines are counted.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use mygrpcadapter::pb::grpc::health::v1::health_check_response::ServingStatus;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};

use crate::health::check;
use crate::support::message::{AUTHORIZATION, METRIC, Shape};
use crate::support::page::Page;
use crate::support::program::PROGRAM;
use crate::support::{Adapter, Client, OK, PATIENCE, Scratch, http, until};

const SHAPE: Shape = Shape { file: "out.txt", padding: 100 };
const DROPPED: &str = "mygrpcadapter_dropped_log_lines_total";

/// An adapter that logs heavily, and whose log this test may leave unread.
struct Logging {
    child: Child,
    log: BufReader<std::io::PipeReader>,
    writer: std::io::PipeWriter,
    port: u16,
    metrics_port: u16,
    _scratch: Scratch,
}

impl Logging {
    fn start() -> Self {
        let scratch = Scratch::new();
        let (reader, writer) = std::io::pipe().unwrap();
        let child = Command::new(PROGRAM)
            .args(["0", "--metrics-port", "0", "--volume"])
            .arg(scratch.path())
            .env("RUST_LOG", "debug")
            .stderr(writer.try_clone().unwrap())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(reader);
        let mut port = |what: &str| -> u16 {
            let mut line = String::new();
            while !line.contains(what) {
                line.clear();
                assert!(log.read_line(&mut line).unwrap() > 0, "no line with {what}");
            }
            let address = line.split('"').nth(1).unwrap();
            address.rsplit(':').next().unwrap().parse().unwrap()
        };
        let (port, metrics_port) = (port("info listening on"), port("metrics listening on"));
        Self { child, log, writer, port, metrics_port, _scratch: scratch }
    }

    /// Makes it log more than any pipe holds.
    fn log_much(&self) {
        for _ in 0..2_000 {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n").unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }

    fn dropped(&self) -> f64 {
        let body = http::get(self.metrics_port, "/metrics").body;
        Page::parse(&String::from_utf8(body).unwrap()).single(DROPPED)
    }

    async fn answers(&self) {
        let client = Client::connect(("127.0.0.1", self.port)).await.unwrap();
        assert_eq!(client.unary(METRIC, &SHAPE.message("n")).await.unwrap().status, OK);
        assert_eq!(client.unary(AUTHORIZATION, b"").await.unwrap().status, OK);
        assert_eq!(check(&client, "").await, Ok(ServingStatus::Serving));
        assert_eq!(http::get(self.metrics_port, "/healthz").status, 200);
    }

    async fn stop(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        until("it ends", || self.child.try_wait().unwrap()).await
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fills a pipe to the last byte, through its own descriptor so that the others stay
/// blocking.
fn fill(pipe: &std::io::PipeWriter) {
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    let descriptor = rustix::fs::open(path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
    let mut pipe = File::from(descriptor);
    for size in [4096, 1] {
        while pipe.write(&vec![b'\n'; size]).is_ok() {}
    }
}

#[tokio::test]
async fn nothing_waits_for_a_reader_of_the_log_not_even_the_exit() {
    let mut adapter = Logging::start();
    fill(&adapter.writer);
    adapter.log_much();
    adapter.answers().await;
    assert!(adapter.dropped() > 0.0);
    assert_eq!(adapter.stop().await.code(), Some(0));
}

#[tokio::test]
async fn dropped_lines_are_reported_when_the_log_is_read_again() {
    let mut adapter = Logging::start();
    fill(&adapter.writer);
    adapter.log_much();
    let dropped = adapter.dropped();
    assert!(dropped > 0.0);
    let (reader, writer) = std::io::pipe().unwrap();
    let log = std::mem::replace(&mut adapter.log, BufReader::new(reader));
    adapter.writer = writer;
    let lines = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&lines);
    let reader = std::thread::spawn(move || {
        for line in log.lines().map_while(Result::ok).filter(|line| !line.is_empty()) {
            theirs.lock().unwrap().push(line);
        }
    });
    let is_notice = |line: &String| line.contains("log lines were dropped");
    until("it says so", || lines.lock().unwrap().iter().any(is_notice).then_some(())).await;
    assert_eq!(adapter.stop().await.code(), Some(0));
    reader.join().unwrap();
    let lines = lines.lock().unwrap();
    let notices: Vec<_> = lines.iter().filter(|line| is_notice(line)).collect();
    let reported: f64 =
        notices.iter().map(|line| line.rsplit('=').next().unwrap().parse::<f64>().unwrap()).sum();
    assert_eq!(reported, dropped, "{notices:?}");
    assert!(lines.last().unwrap().contains("stopped"), "{:?}", lines.last());
    // Every line is whole, whatever was dropped before it.
    let levels = ["debug", "info", "warn", "error"];
    for line in lines.iter() {
        assert!(levels.contains(&line.split(' ').nth(1).unwrap_or_default()), "{line:?}");
    }
}

#[tokio::test]
async fn a_refused_start_does_not_wait_for_a_reader_either() {
    let scratch = Scratch::new();
    let missing = scratch.path().join("missing");
    for (words, code) in [(&["--nonsense"][..], 64), (&["0", "--volume", missing.to_str().unwrap()], 73)] {
        let (_reader, writer) = std::io::pipe().unwrap();
        fill(&writer);
        let mut child = Command::new(PROGRAM).args(words).stderr(writer).spawn().unwrap();
        let status = until("it ends", || child.try_wait().unwrap());
        assert_eq!(status.await.code(), Some(code));
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_log_that_takes_nothing_any_more_is_no_harm() {
    let closed = std::io::pipe().unwrap().1;
    let full = File::options().write(true).open("/dev/full").unwrap();
    for (stderr, words) in [
        (Stdio::from(closed), "exec \"$@\""),
        (Stdio::from(full), "exec \"$@\""),
        (Stdio::null(), "exec \"$@\" 2>&-"),
    ] {
        let scratch = Scratch::new();
        let (port, metrics_port) = (free_port(), free_port());
        let mut child = Command::new("sh")
            .args(["-c", words, "sh", PROGRAM, &port.to_string(), "--metrics-port"])
            .args([&metrics_port.to_string(), "--volume", scratch.path().to_str().unwrap()])
            // This invalid value is reported before anything else.
            .env("RUST_LOG", "=debug=,info")
            .stderr(stderr)
            .spawn()
            .unwrap();
        until("it listens", || TcpStream::connect(("127.0.0.1", metrics_port)).ok()).await;
        let client = Client::connect(("127.0.0.1", port)).await.unwrap();
        assert_eq!(client.unary(METRIC, &SHAPE.message("n")).await.unwrap().status, OK);
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let status = until("it ends", || child.try_wait().unwrap()).await;
        assert_eq!(status.code(), Some(0), "{words}");
    }
}

/// Text that must never forge a line or control a terminal.
const HOSTILE: &str = "key\n2026-01-01T00:00:00.000000Z info forged\r\u{1b}[31m\u{7f}\u{9b}31m";

fn assert_plain(line: &str) {
    assert!(!line.chars().any(char::is_control), "{line:?}");
}

#[tokio::test]
async fn no_line_of_the_log_holds_a_control_byte() {
    let scratch = Scratch::new();
    let keys = scratch.path().join(HOSTILE);
    std::fs::write(&keys, "key").unwrap();
    let adapter = Adapter::start(&["--auth-keys-file", keys.to_str().unwrap()]).await;
    std::fs::remove_file(&keys).unwrap();
    let client = adapter.client().await;
    // The file is checked once a second, on a request.
    let deadline = std::time::Instant::now() + PATIENCE;
    while !adapter.log().iter().any(|line| line.contains("cannot read the keys")) {
        assert!(std::time::Instant::now() < deadline);
        assert_eq!(client.unary(AUTHORIZATION, b"").await.unwrap().status, OK);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for line in adapter.log() {
        assert_plain(&line);
        assert!(!line.contains("Z info forged") || line.contains("cannot read the keys"), "{line:?}");
    }
}

#[test]
fn no_line_that_refuses_a_start_holds_a_control_byte() {
    let scratch = Scratch::new();
    let missing = scratch.path().join(HOSTILE);
    let missing = missing.to_str().unwrap();
    for words in [
        &["0", "--volume", missing][..],
        &["0", "--volume", "none", "--auth-keys-file", missing],
        &[HOSTILE],
        &["--fsync", HOSTILE],
        &["--default-file", HOSTILE, "--volume", missing],
        &["cat", missing],
        &["tail", missing],
        &["tail", HOSTILE, HOSTILE],
        &["cat", "-\u{1b}[31m\n"],
        &["probe", HOSTILE],
    ] {
        let output = Command::new(Path::new(PROGRAM)).args(words).output().unwrap();
        assert!(!output.status.success());
        let error = String::from_utf8(output.stderr).unwrap();
        let line = error.strip_suffix('\n').unwrap_or_else(|| panic!("{error:?}"));
        assert_plain(line);
    }
}
