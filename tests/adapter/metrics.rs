//! The metrics port: consistent metrics, probes, and misbehaving clients.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use mygrpcadapter::pb::logentry::{HandleLogEntryRequest, InstanceMsg};
use mygrpcadapter::pb::metric::HandleMetricRequest;
use prost::Message;
use rustix::process::Signal;
use serde_json::Value as Json;

use crate::support::client::framed;
use crate::support::message::{
    AUTHORIZATION, LOGENTRY, METRIC, Shape, WALKTHROUGH, instance, params, request, span, text,
};
use crate::support::namespace::skip;
use crate::support::{Adapter, INVALID_ARGUMENT, OK, Scratch, http, until};

const METRICS: [&str; 2] = ["--metrics-port", "0"];
const SHAPE: Shape = Shape { file: "out.txt", padding: 100 };

/// Every metric family, and its type.
const FAMILIES: [(&str, &str); 34] = [
    ("http_request_seconds_histogram", "histogram"),
    ("mygrpcadapter_access_log_dropped_total", "counter"),
    ("mygrpcadapter_access_log_entries_total", "counter"),
    ("mygrpcadapter_access_log_overflow_total", "counter"),
    ("mygrpcadapter_access_log_skipped_total", "counter"),
    ("mygrpcadapter_audit_errors_total", "counter"),
    ("mygrpcadapter_authorizations_total", "counter"),
    ("mygrpcadapter_build_info", "gauge"),
    ("mygrpcadapter_check_errors_total", "counter"),
    ("mygrpcadapter_connections", "gauge"),
    ("mygrpcadapter_deleted_bytes_total", "counter"),
    ("mygrpcadapter_draining", "gauge"),
    ("mygrpcadapter_dropped_log_lines_total", "counter"),
    ("mygrpcadapter_instances_total", "counter"),
    ("mygrpcadapter_latency_overflow_total", "counter"),
    ("mygrpcadapter_latency_series", "gauge"),
    ("mygrpcadapter_latency_unmeasured_total", "counter"),
    ("mygrpcadapter_open_files", "gauge"),
    ("mygrpcadapter_queue_bytes", "gauge"),
    ("mygrpcadapter_refusals_total", "counter"),
    ("mygrpcadapter_reports_serving", "gauge"),
    ("mygrpcadapter_requests_in_flight", "gauge"),
    ("mygrpcadapter_requests_total", "counter"),
    ("mygrpcadapter_rotations_total", "counter"),
    ("mygrpcadapter_streams_open", "gauge"),
    ("mygrpcadapter_streams_waiting", "gauge"),
    ("mygrpcadapter_verdicts_total", "counter"),
    ("mygrpcadapter_volume_free_bytes", "gauge"),
    ("mygrpcadapter_write_errors_total", "counter"),
    ("mygrpcadapter_written_bytes_total", "counter"),
    ("process_cpu_seconds_total", "counter"),
    ("process_open_fds", "gauge"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_start_time_seconds", "gauge"),
];

#[tokio::test]
async fn the_page_is_exact_and_includes_the_process() {
    let adapter = Adapter::start(&METRICS).await;
    let response = adapter.http("/metrics");
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(response.header("connection"), Some("close"));
    let page = adapter.page();
    assert_eq!(page.kinds().collect::<Vec<_>>(), FAMILIES);
    let version = Command::new(crate::support::program::PROGRAM).arg("--version").output().unwrap().stdout;
    let version = String::from_utf8(version).unwrap();
    let [build] = page.labels("mygrpcadapter_build_info")[..] else { panic!("one build") };
    assert_eq!(format!("mygrpcadapter {} ({})\n", build[1].1, build[0].1), version);

    let resident = page.single("process_resident_memory_bytes");
    assert!(resident > 1e5 && resident <= 1024.0 * adapter.peak_memory() as f64, "{resident}");
    // Includes the connection of the very request, and at first those of earlier ones.
    let open = || adapter.page().single("process_open_fds") - adapter.open_files() as f64;
    until("the open files are counted", || (open().abs() <= 1.0).then_some(())).await;
    let started = std::fs::metadata(format!("/proc/{}", adapter.pid().as_raw_pid())).unwrap();
    let started = started.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((page.single("process_start_time_seconds") - started).abs() < 60.0);
    assert_eq!(
        (page.single("mygrpcadapter_draining"), page.single("mygrpcadapter_reports_serving")),
        (0.0, 1.0)
    );
}

#[tokio::test]
async fn counters_increase_with_the_work_and_never_decrease() {
    let adapter = Adapter::start(&METRICS).await;
    let before = adapter.page();
    let client = adapter.client().await;
    let of_service = |service: &str, code: &str| -> Vec<(String, String)> {
        vec![("code".into(), code.into()), ("service".into(), service.into())]
    };
    let metric = "metric.HandleMetricService";
    assert!(before.labels("mygrpcadapter_requests_total").contains(&&*of_service(metric, "OK")));
    assert_eq!(before.total("mygrpcadapter_requests_total"), 0.0);

    for at in 0..7 {
        assert_eq!(client.unary(METRIC, &SHAPE.message(&at.to_string())).await.unwrap().status, OK);
    }
    let three = HandleMetricRequest { instances: vec![instance("n"); 3], ..Default::default() };
    assert_eq!(client.unary(METRIC, &three.encode_to_vec()).await.unwrap().status, OK);
    assert_eq!(client.unary(METRIC, b"\x0a").await.unwrap().status, INVALID_ARGUMENT);
    let outside = request(Some(params(WALKTHROUGH, b"/etc/x")), "n");
    assert_eq!(client.unary(METRIC, &outside).await.unwrap().status, INVALID_ARGUMENT);
    assert_eq!(client.unary(METRIC, &b"\x0a\x00".repeat(65_537)).await.unwrap().status, 8);
    assert_eq!(client.unary(AUTHORIZATION, b"").await.unwrap().status, OK);
    assert_eq!(client.unary(LOGENTRY, b"").await.unwrap().status, OK);
    // A directory is in its place.
    std::fs::create_dir(adapter.volume.join("dir")).unwrap();
    let in_the_way = request(Some(params(WALKTHROUGH, b"dir")), "n");
    assert_eq!(client.unary(METRIC, &in_the_way).await.unwrap().status, INVALID_ARGUMENT);

    let page = adapter.page();
    let requests = |service: &str, code: &str| {
        page.find("mygrpcadapter_requests_total", &[("service", service), ("code", code)])
    };
    assert_eq!(requests(metric, "OK"), Some(8.0));
    assert_eq!(requests(metric, "INVALID_ARGUMENT"), Some(3.0));
    assert_eq!(requests(metric, "RESOURCE_EXHAUSTED"), Some(1.0));
    assert_eq!(requests(metric, "INTERNAL"), None);
    assert_eq!(requests("authorization.HandleAuthorizationService", "OK"), Some(1.0));
    assert_eq!(requests("logentry.HandleLogEntryService", "OK"), Some(1.0));
    assert_eq!(page.of("mygrpcadapter_instances_total", "template", "metric"), 10.0);
    for (reason, count) in [("malformed", 1.0), ("config", 1.0), ("instances", 1.0), ("queue", 0.0)] {
        assert_eq!(page.of("mygrpcadapter_refusals_total", "reason", reason), count, "{reason}");
    }
    assert_eq!(page.of("mygrpcadapter_write_errors_total", "reason", "path"), 1.0);
    assert_eq!(page.total("mygrpcadapter_write_errors_total"), 1.0);
    assert_eq!(page.of("mygrpcadapter_verdicts_total", "outcome", "deny_no_keys"), 1.0);
    assert_eq!(page.single("mygrpcadapter_written_bytes_total"), adapter.read("out.txt").len() as f64);
    assert_eq!(page.single("mygrpcadapter_open_files"), 1.0);
    for (series, value) in before.counters() {
        assert!(page.again(series).is_some_and(|now| now >= value), "{series:?} was {value}");
    }
}

#[tokio::test]
async fn open_connections_and_requests_in_flight_are_shown() {
    let adapter = Adapter::start(&METRICS).await;
    assert_eq!(adapter.page().single("mygrpcadapter_connections"), 0.0);
    let clients = [adapter.client().await, adapter.client().await, adapter.client().await];
    for client in &clients {
        assert_eq!(client.unary(METRIC, &SHAPE.message("n")).await.unwrap().status, OK);
    }
    let mut half = clients[0].open(METRIC).await.unwrap();
    half.send(framed(&SHAPE.message("half")).slice(..9), false).unwrap();
    until("the half request is counted", || {
        let page = adapter.page();
        let open = page.single("mygrpcadapter_connections");
        assert_eq!(open, 3.0);
        (page.single("mygrpcadapter_requests_in_flight") == 1.0).then_some(())
    })
    .await;
    half.cancel();
    drop(clients);
    // Connections close when their tasks are scheduled.
    while adapter.page().single("mygrpcadapter_connections") > 0.0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(adapter.page().single("mygrpcadapter_requests_in_flight"), 0.0);
}

#[tokio::test]
async fn health_is_alive_and_ready_and_while_draining_alive_alone() {
    let adapter = Adapter::start(&["--metrics-port", "0", "--drain-delay", "1h"]).await;
    for path in ["/healthz", "/readyz", "/readyz?verbose=1"] {
        let response = adapter.http(path);
        assert_eq!((response.status, response.text()), (200, "ok\n"), "{path}");
    }
    adapter.signal(Signal::TERM);
    adapter.logged("draining").await;
    let ready = adapter.http("/readyz");
    assert_eq!((ready.status, ready.text()), (503, "draining\n"));
    assert_eq!(adapter.http("/healthz").status, 200);
    assert_eq!(adapter.page().single("mygrpcadapter_draining"), 1.0);
}

#[tokio::test]
async fn other_methods_and_paths_get_an_error() {
    let adapter = Adapter::start(&METRICS).await;
    let port = adapter.metrics_port.unwrap();
    for (request, status, has_body) in [
        ("HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200, false),
        ("HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 200, false),
        ("HEAD /nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404, false),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404, true),
        ("GET /metrics/ HTTP/1.1\r\nHost: a\r\n\r\n", 404, true),
        ("GET /metrics?name=x HTTP/1.1\r\nHost: a\r\n\r\n", 200, true),
        ("GET /healthz HTTP/1.0\r\n\r\n", 200, true),
        ("GET /metrics HTTP/1.0\r\n\r\n", 200, true),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", 405, true),
        ("DELETE /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 405, true),
        ("get /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 405, true),
        ("\r\n\r\n", 405, true),
    ] {
        let response = http::exchange(port, request.as_bytes()).unwrap();
        assert_eq!((response.status, !response.body.is_empty()), (status, has_body), "{request:?}");
        assert_eq!(response.header("allow"), (status == 405).then_some("GET, HEAD"), "{request:?}");
        assert_eq!(response.header("connection"), Some("close"), "{request:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_and_one_in_pieces_answered() {
    let adapter = Adapter::start(&METRICS).await;
    let port = adapter.metrics_port.unwrap();
    let of = |bytes: usize| format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(bytes));
    assert_eq!(http::exchange(port, of(7_000).as_bytes()).unwrap().status, 200);
    assert_eq!(http::exchange(port, of(20_000).as_bytes()).unwrap().status, 431);
    let endless = vec![b'x'; 1 << 20];
    assert!(http::exchange(port, &endless).is_none_or(|response| response.status == 431));

    let mut stream = http::connect(port);
    stream.set_nodelay(true).unwrap();
    for byte in of(1).bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(http::parse(&answer).unwrap().status, 200);
    assert_eq!(adapter.http("/healthz").status, 200);
}

#[tokio::test]
async fn requests_that_never_end_are_cut_off_and_others_served_then() {
    let adapter = Adapter::start(&METRICS).await;
    let port = adapter.metrics_port.unwrap();
    let mut slow: Vec<_> = (0..16).map(|_| http::connect(port)).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /healthz HT").unwrap();
    }
    let client = adapter.client().await;
    assert_eq!(client.unary(METRIC, &SHAPE.message("n")).await.unwrap().status, OK);
    // All slots are taken; this one waits for a free one.
    let waiting = tokio::task::spawn_blocking(move || http::get(port, "/healthz"));
    assert_eq!(waiting.await.unwrap().status, 200);
    for stream in &mut slow {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn the_port_can_be_off_and_is_taken_over_by_a_second_adapter_only_if_free() {
    let adapter = Adapter::start(&METRICS).await;
    let port = adapter.metrics_port.unwrap().to_string();
    let scratch = Scratch::new();
    let words = ["0", "--metrics-port", &port, "--volume", scratch.path().to_str().unwrap()];
    let output = Command::new(crate::support::program::PROGRAM).args(words).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{error}");
    assert!(error.contains(&format!("cannot listen on port {port}: ")), "{error}");
    let off = Adapter::start(&[]).await;
    assert!(!off.log().iter().any(|line| line.contains("metrics")), "{:?}", off.log());
}

/// Exercises every metric of an adapter.
async fn use_of(adapter: &Adapter) {
    let client = adapter.client().await;
    assert_eq!(client.unary(METRIC, &SHAPE.message("n")).await.unwrap().status, OK);
    assert_eq!(client.unary(METRIC, b"\x0a").await.unwrap().status, INVALID_ARGUMENT);
    assert_eq!(client.unary(AUTHORIZATION, b"").await.unwrap().status, OK);
    let variables = [("url", text("/a\"b\\c\nd é")), ("host", text("h")), ("latency", span(34_547_407))];
    let variables = variables.map(|(key, value)| (key.to_owned(), value)).into();
    let instances = vec![InstanceMsg { variables, ..InstanceMsg::default() }; 3];
    let message = HandleLogEntryRequest { instances, ..Default::default() }.encode_to_vec();
    assert_eq!(client.unary(LOGENTRY, &message).await.unwrap().status, OK);
}

#[tokio::test]
async fn promtool_finds_nothing_wrong_with_the_page() {
    let adapter = Adapter::start(&METRICS).await;
    use_of(&adapter).await;
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else { return skip("there is no promtool") };
    child.stdin.take().unwrap().write_all(&adapter.http("/metrics").body).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    // The one name that is given by the original adapter.
    let ours = said.lines().filter(|line| !line.starts_with("http_request_seconds_histogram "));
    assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new());
}

/// A Prometheus that scrapes one port every second.
struct Prometheus {
    child: Child,
    port: u16,
    /// Last, so that its data outlives the process.
    _scratch: Scratch,
}

impl Prometheus {
    fn start(target: u16) -> Option<Self> {
        let scratch = Scratch::new();
        let config = scratch.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs:\n- job_name: adapter\n  static_configs:\n  - targets: ['127.0.0.1:{target}']\n"
        );
        std::fs::write(&config, text).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", scratch.dir("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--log.level=error");
        let Ok(child) = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn() else {
            skip("there is no prometheus");
            return None;
        };
        Some(Self { child, port, _scratch: scratch })
    }

    /// The values of a query's result, by the labels that are not the target's.
    fn query(&self, query: &str) -> Option<BTreeMap<String, f64>> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let request = format!("GET /api/v1/query?query={query} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let body: Json = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        let results = body["data"]["result"].as_array()?;
        let of = |result: &Json| {
            let metric = result["metric"].as_object()?;
            let ours = metric.iter().filter(|label| !matches!(&**label.0, "__name__" | "instance" | "job"));
            let labels: Vec<_> = ours.map(|(name, value)| format!("{name}={value}")).collect();
            Some((labels.join(","), result["value"][1].as_str()?.parse().ok()?))
        };
        results.iter().map(of).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_prometheus_that_scrapes_it_answers_queries() {
    let adapter = Adapter::start(&METRICS).await;
    use_of(&adapter).await;
    let Some(prometheus) = Prometheus::start(adapter.metrics_port.unwrap()) else { return };
    let name = "http_request_seconds_histogram";
    let labels = r#"endpoint="/test",fullurl="/a\"b\\c\nd é",host="h""#;
    let counted = until("a scrape", || {
        prometheus.query(&format!("{name}_count")).filter(|results| !results.is_empty())
    })
    .await;
    assert_eq!(counted, BTreeMap::from([(labels.to_owned(), 3.0)]));
    let buckets = prometheus.query(&format!("{name}_bucket")).unwrap();
    assert_eq!(buckets.len(), 12);
    assert_eq!(buckets[&r#"endpoint="/test",fullurl="/a\"b\\c\nd é",host="h",le="0.025""#.to_owned()], 0.0);
    assert_eq!(buckets[&r#"endpoint="/test",fullurl="/a\"b\\c\nd é",host="h",le="0.05""#.to_owned()], 3.0);
    let quantile = format!("histogram_quantile(0.5,{name}_bucket)").replace(',', "%2C");
    let median = prometheus.query(&quantile).unwrap();
    assert!((0.025..=0.05).contains(&median[labels]), "{median:?}");
    assert_eq!(prometheus.query("up").unwrap().into_values().collect::<Vec<_>>(), [1.0]);

    // A later scrape includes the events after the first.
    use_of(&adapter).await;
    until("another scrape", || {
        prometheus.query(&format!("{name}_count")).filter(|results| results[labels] == 6.0)
    })
    .await;
    let requests = prometheus.query("sum(mygrpcadapter_requests_total)").unwrap();
    assert_eq!(requests.into_values().collect::<Vec<_>>(), [8.0]);
}
