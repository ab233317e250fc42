//! Probes on the metrics port are answered under any load. Pages are complete, or
//! visibly truncated.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use mygrpcadapter::pb::logentry::{HandleLogEntryRequest, InstanceMsg};
use prost::Message;
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::support::message::{LOGENTRY, METRIC, Shape, span, text};
use crate::support::page::Page;
use crate::support::{Adapter, OK, http, until};
use crate::volumes::{Mounted, fill};

const METRICS: [&str; 2] = ["--metrics-port", "0"];
const PAGE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: adapter\r\n\r\n";
const OLD_PAGE: &[u8] = b"GET /metrics HTTP/1.0\r\n\r\n";

/// Makes an adapter's page larger than the socket buffers.
async fn large_page(adapter: &Adapter) {
    let client = adapter.client().await;
    let entry = |at: usize| {
        let url = format!("/{at}/{}", "x".repeat(100));
        let variables = [("url".to_owned(), text(&url)), ("latency".to_owned(), span(1_000_000))].into();
        InstanceMsg { variables, ..InstanceMsg::default() }
    };
    let instances = (0..2_000).map(entry).collect();
    let message = HandleLogEntryRequest { instances, ..Default::default() }.encode_to_vec();
    assert_eq!(client.unary(LOGENTRY, &message).await.unwrap().status, OK);
}

/// Connects with a small receive buffer.
fn narrow(port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Asserts that probes are answered at once, while all earlier connections are still
/// open.
fn assert_answered(adapter: &Adapter, last: &mut TcpStream) {
    for path in ["/healthz", "/readyz"] {
        assert_eq!(adapter.http(path).status, 200);
    }
    assert!(is_open(last), "evicted before the probes were answered");
}

/// Whether the connection is open after all received bytes were read.
fn is_open(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut block = [0; 64];
    loop {
        match stream.read(&mut block) {
            Ok(1..) => {}
            Ok(0) => return false,
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

#[tokio::test]
async fn silent_peers_do_not_delay_probes() {
    let adapter = Adapter::start(&METRICS).await;
    let port = adapter.metrics_port.unwrap();
    for count in [64, 300] {
        let mut silent: Vec<_> = (0..count).map(|_| http::connect(port)).collect();
        for stream in silent.iter_mut().step_by(2) {
            // The oldest connections may be closed already.
            let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost");
        }
        assert_answered(&adapter, silent.last_mut().unwrap());
    }
}

#[tokio::test]
async fn peers_that_do_not_read_do_not_delay_probes() {
    let adapter = Adapter::start(&METRICS).await;
    let port = adapter.metrics_port.unwrap();
    large_page(&adapter).await;
    for count in [16, 200] {
        let mut deaf: Vec<_> = (0..count).map(|_| narrow(port)).collect();
        for stream in &mut deaf {
            let _ = stream.write_all(PAGE);
        }
        assert_answered(&adapter, deaf.last_mut().unwrap());
        // A page still reaches other readers.
        Page::parse(adapter.http("/metrics").text());
    }
}

/// The rest of a peer's bytes, and whether the connection ended in order.
fn rest(mut stream: TcpStream) -> (Vec<u8>, bool) {
    let mut answer = Vec::new();
    let well = stream.read_to_end(&mut answer).is_ok();
    (answer, well)
}

#[tokio::test]
async fn an_aborted_page_is_visibly_truncated() {
    let adapter = Adapter::start(&METRICS).await;
    let port = adapter.metrics_port.unwrap();
    large_page(&adapter).await;
    for request in [PAGE, OLD_PAGE] {
        let mut deaf = narrow(port);
        deaf.write_all(request).unwrap();
        let mut first = [0; 16];
        deaf.read_exact(&mut first).unwrap();
        // Until it is evicted, by time or by newer connections.
        let others: Vec<_> = (0..200).map(|_| http::connect(port)).collect();
        assert_eq!(adapter.http("/healthz").status, 200);
        drop(others);
        let (answer, well) = tokio::task::spawn_blocking(|| rest(deaf)).await.unwrap();
        let whole = answer.ends_with(b"\r\n0\r\n\r\n");
        assert!(!whole, "it was not evicted");
        let chunked = request == PAGE;
        let head = [&first[..], &answer[..answer.len().min(1024)]].concat();
        let head = head.escape_ascii().to_string().to_ascii_lowercase();
        assert_eq!(head.contains("transfer-encoding: chunked"), chunked, "{head}");
        assert!(chunked || !well, "a clean end of {} bytes", answer.len());
    }
}

#[tokio::test]
async fn a_page_is_whole_for_old_and_new_clients_however_slow() {
    let adapter = Adapter::start(&METRICS).await;
    let port = adapter.metrics_port.unwrap();
    large_page(&adapter).await;
    for request in [PAGE, OLD_PAGE] {
        let mut stream = narrow(port);
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let response = http::parse(&answer).unwrap();
        let page = Page::parse(response.text());
        assert_eq!(page.total("http_request_seconds_histogram_count"), 2_000.0);
        let encoding = response.header("transfer-encoding");
        assert_eq!(encoding, (request == PAGE).then_some("chunked"));
        assert_eq!(response.header("content-length"), None);
    }
    let head = http::exchange(port, b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!((head.header("transfer-encoding"), head.body.len()), (Some("chunked"), 0));
}

#[tokio::test]
async fn curl_takes_a_page() {
    let adapter = Adapter::start(&METRICS).await;
    large_page(&adapter).await;
    let url = format!("http://127.0.0.1:{}/metrics", adapter.metrics_port.unwrap());
    for words in [&["--http1.1"][..], &["--http1.0"], &["--http1.1", "--head"]] {
        let mut command = std::process::Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--max-time", "60"]).args(words).arg(&url);
        let Ok(output) = command.output() else { return crate::support::namespace::skip("there is no curl") };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        if words.len() == 1 {
            Page::parse(&String::from_utf8(output.stdout).unwrap());
        }
    }
}

fn ready(adapter: &Adapter, service: &str) -> u16 {
    adapter.http(&format!("/readyz?service={service}")).status
}

#[tokio::test]
async fn readiness_of_a_service_follows_the_volume_and_that_of_the_whole_does_not() {
    let Some(mounted) = Mounted::tmpfs("size=64k") else { return };
    let adapter = mounted.adapter(&METRICS).await;
    let (report, authorization) = ("metric.HandleMetricService", "authorization.HandleAuthorizationService");
    for service in ["", report, authorization, "grpc.health.v1.Health"] {
        assert_eq!(ready(&adapter, service), 200, "{service}");
    }
    for unknown in ["no.such.Service", "metric.HandleMetricService.", "%00", "metric"] {
        assert_eq!(ready(&adapter, unknown), 404, "{unknown}");
    }
    // The first parameter of that name counts, at any position.
    let among = format!("/readyz?verbose=1&service={report}&service=x");
    assert_eq!(adapter.http(&among).status, 200);

    let ballast = mounted.seen().join("ballast");
    let _ = std::fs::write(&ballast, vec![b'x'; 128 * 1024]);
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 5_000 };
    assert_ne!(client.unary(METRIC, &shape.message("n")).await.unwrap().status, OK);
    until("reports are not ready", || (ready(&adapter, report) == 503).then_some(())).await;
    let refused = adapter.http(&format!("/readyz?service={report}"));
    assert_eq!((refused.status, refused.text()), (503, "not serving\n"));
    assert_eq!((ready(&adapter, ""), ready(&adapter, authorization)), (200, 200));
    assert_eq!((adapter.http("/readyz").status, adapter.http("/healthz").status), (200, 200));
    fill(&ballast, 0);
    until("reports are ready", || (ready(&adapter, report) == 200).then_some(())).await;
}

#[tokio::test]
async fn while_draining_no_service_is_ready() {
    let adapter = Adapter::start(&["--metrics-port", "0", "--drain-delay", "1h"]).await;
    adapter.signal(Signal::TERM);
    adapter.logged("draining").await;
    for service in ["", "metric.HandleMetricService", "authorization.HandleAuthorizationService"] {
        assert_eq!(ready(&adapter, service), 503, "{service}");
    }
    assert_eq!(ready(&adapter, "no.such.Service"), 404);
}
