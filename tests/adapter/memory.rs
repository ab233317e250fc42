//! Memory: one bound for every load, in a cgroup of that size.

use std::io::Write;

use mygrpcadapter::pb::logentry;
use mygrpcadapter::pb::metric::HandleMetricRequest;
use mygrpcadapter::pb::mygrpcadapter::config::v1::{Params, params::Format};
use prost::Message;
use records::render::Format as Lines;
use rustix::process::{Resource, Rlimit};
use tokio::task::JoinSet;

use crate::access_logs::{ACCESS_LOG, Stream, entries, first, full};
use crate::captures::recorded;
use crate::ext_authz::served::{CHECK, asking, with_body, with_headers};
use crate::support::cgroup::Cgroup;
use crate::support::message::{
    LOGENTRY, METRIC, WALKTHROUGH, instance, own, params, span, text, with_config,
};
use crate::support::{Adapter, DEADLINE_EXCEEDED, OK, RESOURCE_EXHAUSTED, Scratch, until};

const EDGE: &str = "/edge.HandleEdgeService/HandleEdge";
const TRACESPAN: &str = "/tracespan.HandleTraceSpanService/HandleTraceSpan";

const MIB: usize = 1 << 20;
/// Memory that the adapter needs with default flags, under any load.
const BOUND: usize = 32 * MIB;
/// Memory for 500 sidecars with two busy workers each.
const MESH: usize = 64 * MIB;
/// Memory of an idle connection with an open stream, in KiB: mostly buffers of h2.
const EACH: usize = 40;
/// Memory that it needs for one report at a time.
const SMALLEST: usize = 16 * MIB;
/// Memory that it may keep after the largest load, in KiB.
const KEPT: usize = 1024;

/// Whether the adapter is a debug build, which needs more: the bounds are for a
/// release, which `ADAPTER_UNDER_TEST` may name.
fn is_debug() -> bool {
    cfg!(debug_assertions) && std::env::var_os("ADAPTER_UNDER_TEST").is_none()
}

/// An adapter in a cgroup of this many bytes.
struct Contained {
    adapter: Adapter,
    group: Cgroup,
    idle: usize,
}

impl Contained {
    async fn start(bytes: usize, args: &[&str]) -> Option<Self> {
        let group = Cgroup::limited(if is_debug() { bytes + 8 * MIB } else { bytes })?;
        let scratch = Scratch::new();
        let volume = scratch.dir("volume");
        let adapter = Adapter::start_in(&group.entry(), scratch, &volume, args).await;
        let idle = adapter.own_memory();
        Some(Self { adapter, group, idle })
    }

    /// Sends requests in turn, `rounds` times on each of `streams` on each of
    /// `connections`. Returns how many succeeded and how many were refused.
    async fn load(
        &self,
        requests: &[Request],
        connections: usize,
        streams: usize,
        rounds: usize,
    ) -> [usize; 2] {
        let mut calls = JoinSet::new();
        for connection in 0..connections {
            let client = self.adapter.client().await;
            for stream in 0..streams {
                let (client, requests) = (client.clone(), requests.to_vec());
                calls.spawn(async move {
                    let mut counts = [0, 0];
                    for round in 0..rounds {
                        let (path, message) = &requests[(connection + stream + round) % requests.len()];
                        let reply = client.unary(path, message).await.expect("an answer");
                        // On a slow machine some exceed the time limit for a message
                        // to arrive.
                        let refused = matches!(reply.status, RESOURCE_EXHAUSTED | DEADLINE_EXCEEDED);
                        assert!(refused || reply.status == OK, "{path} {reply:?}");
                        counts[usize::from(refused)] += 1;
                    }
                    counts
                });
            }
        }
        let all = calls.join_all().await;
        [0, 1].map(|which| all.iter().map(|counts| counts[which]).sum())
    }

    /// After the load, with all connections closed: nothing was killed, and memory
    /// was returned.
    async fn is_small_again(&self) {
        let wanted = self.idle + if is_debug() { 2 * KEPT } else { KEPT };
        until("memory is given back", || (self.adapter.own_memory() <= wanted).then_some(())).await;
        assert_eq!(self.group.killed(), 0);
    }
}

type Request = (&'static str, Vec<u8>);

/// `count` empty instances.
fn empty(count: usize) -> Vec<u8> {
    b"\x0a\x00".repeat(count)
}

/// A legal report of 3.9 MiB with 62,000 instances.
fn large_metric() -> Vec<u8> {
    let mut instance = instance("i1metric.instance.istio-system");
    instance.dimensions.insert("code".into(), text("200"));
    let instances = vec![instance; 62_000];
    let adapter_config = Some(params(WALKTHROUGH, b"out.txt"));
    HandleMetricRequest { instances, adapter_config, dedup_id: "1".into() }.encode_to_vec()
}

/// Log entries, each with a latency.
fn large_logentry() -> Vec<u8> {
    let mut instance = logentry::InstanceMsg { name: "l1".into(), ..Default::default() };
    instance.variables.insert("latency".into(), span(5_000_000));
    instance.variables.insert("url".into(), text("/"));
    let instances = vec![instance; 40_000];
    let adapter_config = Some(params(WALKTHROUGH, b"log.txt"));
    logentry::HandleLogEntryRequest { instances, adapter_config, dedup_id: "1".into() }.encode_to_vec()
}

/// A single instance of this many bytes.
fn long_metric(bytes: usize) -> Vec<u8> {
    let mut instance = instance("long");
    instance.dimensions.insert("padding".into(), text(&"x".repeat(bytes)));
    HandleMetricRequest { instances: vec![instance], ..Default::default() }.encode_to_vec()
}

fn as_json(message: &[u8]) -> Vec<u8> {
    let params = Params { file_path: "out.json".into(), format: Format::Json.into(), ..Default::default() };
    with_config(message, &own(&params))
}

#[tokio::test]
async fn one_large_report_of_any_kind_fits_into_the_smallest_container() {
    let Some(contained) = Contained::start(SMALLEST, &["--queue-timeout", "60s"]).await else { return };
    for (path, message, taken) in [
        (METRIC, large_metric(), true),
        (LOGENTRY, large_logentry(), true),
        (METRIC, long_metric(4_100_000), true),
        (METRIC, as_json(&long_metric(4_100_000)), true),
        (METRIC, empty(60_000), true),
        // These would render to more than 8 MiB.
        (METRIC, as_json(&large_metric()), false),
        (EDGE, empty(60_000), false),
        (TRACESPAN, empty(60_000), false),
        (METRIC, as_json(&empty(60_000)), false),
        (TRACESPAN, as_json(&empty(60_000)), false),
    ] {
        let size = message.len();
        let counts = contained.load(&[(path, message)], 1, 1, 2).await;
        assert_eq!(counts, if taken { [2, 0] } else { [0, 2] }, "{path} {size} bytes");
    }
    contained.is_small_again().await;
}

#[tokio::test]
async fn large_reports_on_every_connection_wait_and_fit() {
    let Some(contained) = Contained::start(BOUND, &[]).await else { return };
    let mixed =
        [(METRIC, large_metric()), (METRIC, as_json(&long_metric(900_000))), (LOGENTRY, large_logentry())];
    for requests in [&mixed[..1], &mixed] {
        let [taken, _] = contained.load(requests, 64, 1, 1).await;
        assert!(taken > 0);
        contained.is_small_again().await;
    }
}

#[tokio::test]
async fn small_requests_that_become_large_wait_and_fit() {
    let Some(contained) = Contained::start(BOUND, &[]).await else { return };
    let requests = [
        (METRIC, empty(60_000)),
        (EDGE, empty(60_000)),
        (METRIC, as_json(&empty(60_000))),
        (EDGE, empty(20_000)),
    ];
    for (connections, streams) in [(8, 8), (55, 16)] {
        for requests in [&requests[..1], &requests] {
            let [taken, _] = contained.load(requests, connections, streams, 2).await;
            assert!(taken > 0);
        }
        contained.is_small_again().await;
    }
}

#[tokio::test]
async fn recorded_requests_on_many_connections_fit() {
    let Some(contained) = Contained::start(BOUND, &[]).await else { return };
    let requests: Vec<Request> =
        recorded("metric", "").iter().map(|path| (METRIC, std::fs::read(path).unwrap())).collect();
    let [taken, refused] = contained.load(&requests, 8, 32, 20).await;
    assert!(taken > refused, "{taken} {refused}");
    contained.is_small_again().await;
}

#[tokio::test]
async fn requests_of_66_kb_on_every_stream_fit() {
    let Some(contained) = Contained::start(BOUND, &[]).await else { return };
    for request in [long_metric(66_000), as_json(&long_metric(66_000))] {
        let [taken, _] = contained.load(&[(METRIC, request)], 64, 32, 2).await;
        assert!(taken > 0);
        contained.is_small_again().await;
    }
}

#[tokio::test]
async fn checks_of_any_size_on_every_stream_fit() {
    let Some(contained) = Contained::start(BOUND, &["--auth-audit-file", "audit.txt"]).await else { return };
    let body = |length| (CHECK, with_body(length).encode_to_vec());
    let sizes = [body(4_000_000), body(100_000), (CHECK, with_headers(4_000)), (CHECK, asking("abc"))];
    for (requests, connections, streams) in [(&sizes[..1], 16, 2), (&sizes[1..3], 64, 16), (&sizes, 16, 8)] {
        let [answered, _] = contained.load(requests, connections, streams, 2).await;
        assert!(answered > 0);
        contained.is_small_again().await;
    }
}

#[tokio::test]
async fn many_connections_that_have_closed_leave_nothing() {
    let Some(contained) = Contained::start(BOUND, &[]).await else { return };
    let mut clients = Vec::new();
    for _ in 0..500 {
        clients.push(contained.adapter.client().await);
    }
    drop(clients);
    contained.is_small_again().await;
}

/// Opens so many connections, each with a stream that has sent these messages.
async fn streams(adapter: &Adapter, count: usize, messages: &[Vec<u8>]) -> Vec<Stream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = Stream::open(&adapter.client().await).await;
        messages.iter().for_each(|message| stream.send(message));
        streams.push(stream);
    }
    streams
}

async fn end_all(streams: Vec<Stream>) {
    for stream in streams {
        assert_eq!(stream.end().await.status, OK);
    }
}

#[tokio::test]
async fn a_thousand_connections_with_an_idle_stream_take_little_each() {
    descriptors(4096);
    let adapter = Adapter::start(&["--metrics-port", "0"]).await;
    let idle = adapter.own_memory();
    let streams = streams(&adapter, 1000, &[first()]).await;
    let written = || adapter.page().of("mygrpcadapter_access_log_entries_total", "kind", "http") == 1000.0;
    until("the first messages are written", || written().then_some(())).await;
    let each = if is_debug() { 2 * EACH } else { EACH };
    let taken = || adapter.own_memory().saturating_sub(idle);
    until("what they brought is given back", || (taken() <= 1000 * each).then_some(())).await;
    let _ = writeln!(std::io::stderr(), "1,000 idle streams: {} KiB each", taken() / 1000);
    end_all(streams).await;
}

#[tokio::test]
async fn a_mesh_of_500_sidecars_fits() {
    descriptors(4096);
    for format in ["text", "json"] {
        let bytes = if is_debug() { 2 * MESH } else { MESH };
        let Some(contained) = Contained::start(bytes, &["--format", format]).await else { return };
        let messages: Vec<_> = [first()].into_iter().chain(std::iter::repeat_n(full(), 4)).collect();
        end_all(streams(&contained.adapter, 1000, &messages).await).await;
        let lines = contained.adapter.read(ACCESS_LOG).iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(lines, 1000 * crate::envoy_records::lines(&messages, Lines::Text).len());
        assert_eq!(contained.group.killed(), 0);
    }
}

#[tokio::test]
async fn access_logs_on_64_streams_fit() {
    for format in ["text", "json"] {
        let args = ["--format", format, "--max-connections", "64"];
        let Some(contained) = Contained::start(BOUND, &args).await else { return };
        let long = entries(&["\u{1}".repeat(1_300_000)]);
        let many = entries(&vec!["/".to_owned(); 100_000]);
        for messages in [vec![full(); 100], vec![first(); 20], vec![long, many]] {
            end_all(streams(&contained.adapter, 64, &messages).await).await;
        }
        contained.is_small_again().await;
    }
}

#[tokio::test]
async fn streams_that_begin_large_messages_and_go_no_further_fit() {
    let Some(contained) = Contained::start(BOUND, &["--max-connections", "64"]).await else { return };
    let mut open = Vec::new();
    for _ in 0..64 {
        let client = contained.adapter.client().await;
        for _ in 0..2 {
            let mut stream = Stream::open(&client).await;
            // A message of 4 MiB, as much of it as the window takes.
            stream.send_part(&[&[0, 0, 0x40, 0, 0][..], &[0; 64 * 1024]].concat());
            open.push(stream);
        }
    }
    let client = contained.adapter.client().await;
    let report = client.unary(METRIC, &long_metric(100_000)).await.unwrap();
    assert_eq!(report.status, OK, "{report:?}");
    drop((open, client));
    contained.is_small_again().await;
}

/// Lets this process have so many descriptors.
fn descriptors(count: u64) {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(count), ..limit }).unwrap();
    }
}
