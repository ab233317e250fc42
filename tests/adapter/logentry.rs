//! Log entries: to the handler's file, and to the latency histogram.

use std::collections::HashMap;
use std::io::{Read, Write};

use mygrpcadapter::pb::istio::policy::v1beta1::Value;
use mygrpcadapter::pb::logentry::{HandleLogEntryRequest, InstanceMsg};
use mygrpcadapter::pb::metric;
use mygrpcadapter::pb::mygrpcadapter::config::v1::Params;
use prost::Message;

use crate::captures::recorded;
use crate::json::{asked, head, is_map, members, objects};
use crate::properties::reference;
use crate::support::message::{LOGENTRY, WALKTHROUGH, number, own, params, span, text, with_config};
use crate::support::page::Page;
use crate::support::{Adapter, INVALID_ARGUMENT, OK, Reply, http};
use crate::templates::blocks;

const NAME: &str = "http_request_seconds_histogram";
const METRICS: [&str; 2] = ["--metrics-port", "0"];

/// The expected text of a request, for a handler with this `file_path`.
fn expected_text(request: &HandleLogEntryRequest, file_path: &str) -> String {
    let lines = |instance: &InstanceMsg| {
        let timestamp = instance.timestamp.map_or("<nil>".into(), |time| reference::timestamp(time.value));
        let variables = reference::map(&instance.variables);
        vec![("Timestamp", timestamp), ("Severity", instance.severity.clone()), ("Variables", variables)]
    };
    let instances: Vec<_> = request.instances.iter().map(|one| (&*one.name, lines(one))).collect();
    blocks("HandleLogEntry", file_path, &instances)
}

async fn are_shown_in_both_formats(folder: &str, prefix: &str, file_path: &str, count: usize) {
    let adapter = Adapter::start(&METRICS).await;
    let client = adapter.client().await;
    let paths = recorded(folder, prefix);
    assert_eq!(paths.len(), count);
    let (mut instances, mut unmeasured) = (0, 0);
    for path in paths {
        let message = std::fs::read(&path).unwrap();
        // One recording contains a string that is not UTF-8, which prost rejects.
        let Ok(request) = HandleLogEntryRequest::decode(&*message) else {
            assert!(path.ends_with("gatewaymetric/006.bin"), "{}", path.display());
            continue;
        };
        let before = adapter.read(file_path.rsplit('/').next().unwrap()).len();
        assert_eq!(client.unary(LOGENTRY, &message).await.unwrap(), Reply::default(), "{}", path.display());
        let shown = adapter.read(file_path.rsplit('/').next().unwrap())[before..].to_vec();
        assert_eq!(
            String::from_utf8(shown).unwrap(),
            expected_text(&request, file_path),
            "{}",
            path.display()
        );

        let before = adapter.read("own.json").len();
        let message = with_config(&message, &own(&asked("own.json")));
        assert_eq!(client.unary(LOGENTRY, &message).await.unwrap(), Reply::default(), "{}", path.display());
        let objects = objects(&adapter.read("own.json")[before..]);
        assert_eq!(objects.len(), request.instances.len(), "{}", path.display());
        for (object, instance) in objects.iter().zip(&request.instances) {
            head(object, &instance.name, "logentry");
            let keys = ["monitored_resource_type", "monitored_resource_dimensions"];
            members(object, &[&["timestamp", "severity", "variables"][..], &keys].concat());
            match instance.timestamp.and_then(|time| time.value) {
                None => assert!(object["timestamp"].is_null()),
                time => assert_eq!(object["timestamp"], reference::timestamp(time)),
            }
            assert_eq!(object["severity"], instance.severity);
            assert!(is_map(&object["variables"], &instance.variables), "{object}");
            assert_eq!(object["monitored_resource_type"], instance.monitored_resource_type);
            let dimensions = &instance.monitored_resource_dimensions;
            assert!(is_map(&object["monitored_resource_dimensions"], dimensions), "{object}");
        }
        instances += 2 * request.instances.len();
        let latency = |instance: &&InstanceMsg| instance.variables.contains_key("latency");
        unmeasured += 2 * (request.instances.len() - request.instances.iter().filter(latency).count());
    }
    let page = adapter.page();
    assert_eq!(page.of("mygrpcadapter_instances_total", "template", "logentry"), instances as f64);
    assert_eq!(page.single("mygrpcadapter_latency_unmeasured_total"), unmeasured as f64);
    assert_eq!(page.total(&format!("{NAME}_count")), (instances - unmeasured) as f64);
}

#[tokio::test]
async fn entries_of_a_real_mixer_are_shown_in_both_formats() {
    are_shown_in_both_formats("logentry", "", "/volume/log.txt", 12).await;
}

#[tokio::test]
async fn entries_of_a_gateway_are_shown_in_both_formats() {
    are_shown_in_both_formats("gatewaymetric", "", "out.txt", 6).await;
}

#[tokio::test]
async fn entries_of_the_oldest_mixer_are_shown_in_both_formats() {
    are_shown_in_both_formats("by-version/1.0.9", "logentry-", "/volume/log.txt", 1).await;
}

#[tokio::test]
async fn strings_that_are_not_utf_8_are_kept_in_the_text_and_replaced_in_json_and_labels() {
    let adapter = Adapter::start(&METRICS).await;
    let client = adapter.client().await;
    let message = std::fs::read(&recorded("gatewaymetric", "006")[0]).unwrap();
    assert_eq!(client.unary(LOGENTRY, &message).await.unwrap(), Reply::default());
    let shown = adapter.read("out.txt");
    assert!(shown.windows(12).any(|part| part == b"url:/caf\xe9/me"), "{}", shown.escape_ascii());
    let message = with_config(&message, &own(&asked("own.json")));
    assert_eq!(client.unary(LOGENTRY, &message).await.unwrap(), Reply::default());
    assert_eq!(objects(&adapter.read("own.json"))[0]["variables"]["url"], "/caf\u{fffd}/menu");
    let labels = labels("/caf\u{fffd}/menu", "192.168.101.6:31380", "POST", "200");
    assert_eq!(count(&adapter.page(), &labels), 2.0);
}

/// An entry like those of the gateway's instance.
fn entry(url: &str, host: &str, method: &str, code: Value, latency: Value) -> InstanceMsg {
    let variables = [
        ("url", text(url)),
        ("host", text(host)),
        ("method", text(method)),
        ("responseCode", code),
        ("latency", latency),
    ];
    let variables: HashMap<String, Value> = variables.map(|(key, value)| (key.to_owned(), value)).into();
    InstanceMsg { name: "i.instance.ns".into(), variables, ..InstanceMsg::default() }
}

fn got(url: &str, latency: Value) -> InstanceMsg {
    entry(url, "h", "GET", number(200), latency)
}

/// A request of a handler without `file_path`.
fn request(instances: Vec<InstanceMsg>) -> Vec<u8> {
    HandleLogEntryRequest { instances, ..Default::default() }.encode_to_vec()
}

type Labels<'a> = [(&'a str, &'a str); 5];

fn labels<'a>(url: &'a str, host: &'a str, method: &'a str, status: &'a str) -> Labels<'a> {
    [("endpoint", "/test"), ("fullurl", url), ("host", host), ("method", method), ("status", status)]
}

fn count(page: &Page, labels: &Labels<'_>) -> f64 {
    page.value(&format!("{NAME}_count"), labels)
}

fn bucket(page: &Page, labels: &Labels<'_>, le: &str) -> f64 {
    page.value(&format!("{NAME}_bucket"), &[&labels[..], &[("le", le)]].concat())
}

/// Observes instances and returns the page.
async fn observed(args: &[&str], instances: Vec<InstanceMsg>) -> Page {
    let adapter = Adapter::start(&[args, &METRICS].concat()).await;
    let reply = adapter.client().await.unary(LOGENTRY, &request(instances)).await.unwrap();
    assert_eq!(reply, Reply::default());
    assert!(adapter.files().is_empty(), "{:?}", adapter.files());
    adapter.page()
}

#[tokio::test]
async fn without_a_path_there_is_a_histogram_and_no_file() {
    let adapter = Adapter::start(&METRICS).await;
    let client = adapter.client().await;
    let message = request(vec![got("/", span(1))]);
    let (ours, theirs) = (own(&Params::default()), params(WALKTHROUGH, b""));
    for message in [message.clone(), with_config(&message, &ours), with_config(&message, &theirs)] {
        assert_eq!(client.unary(LOGENTRY, &message).await.unwrap(), Reply::default());
    }
    assert!(adapter.files().is_empty(), "{:?}", adapter.files());
    let page = adapter.page();
    assert_eq!(count(&page, &labels("/", "h", "GET", "200")), 3.0);
    assert_eq!(page.of("mygrpcadapter_instances_total", "template", "logentry"), 3.0);
    assert_eq!(page.single("mygrpcadapter_written_bytes_total"), 0.0);
}

#[tokio::test]
async fn the_histogram_has_the_names_labels_and_values_of_the_original() {
    let adapter = Adapter::start(&METRICS).await;
    let client = adapter.client().await;
    for path in recorded("gatewaymetric", "") {
        let reply = client.unary(LOGENTRY, &std::fs::read(path).unwrap()).await.unwrap();
        assert_eq!(reply, Reply::default());
    }
    let page = adapter.page();
    assert_eq!(page.kinds().find(|kind| kind.0 == NAME), Some((NAME, "histogram")));
    let gateway = labels("/productpage", "192.168.101.6:31380", "GET", "200");
    let buckets: Vec<f64> =
        ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"]
            .map(|le| bucket(&page, &gateway, le))
            .into();
    assert_eq!(buckets, [0., 0., 0., 1., 1., 1., 1., 1., 1., 1., 1., 1.]);
    assert_eq!(page.value(&format!("{NAME}_sum"), &gateway), 0.034547407);
    // Without its query it differs from the other only by its status.
    let missing = labels("/productpage", "192.168.101.6:31380", "GET", "404");
    assert_eq!((count(&page, &missing), bucket(&page, &missing, "0.005")), (1.0, 1.0));
    let hostile = labels("/a\"b\\c\nd", "evil\"host\\\\", "GET", "200");
    assert_eq!(count(&page, &hostile), 1.0);
    assert_eq!(count(&page, &labels("/r", "h", "GET", "200")), 4.0);
    assert_eq!(page.labels(&format!("{NAME}_count")).len(), 6);
    assert_eq!(page.single("mygrpcadapter_latency_series"), 6.0);
}

#[tokio::test]
async fn labels_have_the_variables_values_of_any_type() {
    let mut bare = got("/bare", span(1));
    bare.variables.retain(|key, _| key == "latency");
    let page =
        observed(&[], vec![bare, entry("/", "h", "GET", text("OK"), span(1)), got("?", span(1))]).await;
    for labels in [labels("", "", "", ""), labels("/", "h", "GET", "OK"), labels("", "h", "GET", "200")] {
        assert_eq!(count(&page, &labels), 1.0, "{labels:?}");
    }
}

#[tokio::test]
async fn a_url_keeps_its_query_where_that_is_asked_for() {
    let entries = || vec![got("/a?b=1", span(1)), got("/a?b=2", span(1)), got("/a", span(1))];
    let page = observed(&[], entries()).await;
    assert_eq!(count(&page, &labels("/a", "h", "GET", "200")), 3.0);
    let page = observed(&["--keep-query"], entries()).await;
    for url in ["/a?b=1", "/a?b=2", "/a"] {
        assert_eq!(count(&page, &labels(url, "h", "GET", "200")), 1.0, "{url}");
    }
}

#[tokio::test]
async fn the_original_buckets_can_be_had_to_the_last_digit() {
    let page =
        observed(&["--buckets", "gatewaymetric"], vec![got("/", span(0)), got("/", span(34_547_407))]).await;
    let series = page.labels(&format!("{NAME}_bucket"));
    let le = |labels: &&[(String, String)]| labels.iter().find(|label| label.0 == "le").unwrap().1.clone();
    let mut bounds: Vec<String> = series.iter().map(le).collect();
    bounds.sort_by(|a, b| a.parse::<f64>().unwrap().total_cmp(&b.parse().unwrap()));
    assert_eq!(
        bounds,
        [
            "-0.00099",
            "-0.00089",
            "-0.0007899999999999999",
            "-0.0006899999999999999",
            "-0.0005899999999999998",
            "-0.0004899999999999998",
            "-0.0003899999999999998",
            "-0.0002899999999999998",
            "-0.0001899999999999998",
            "-8.999999999999979e-05",
            "1.0000000000000216e-05",
            "0.00011000000000000022",
            "0.00021000000000000023",
            "0.0003100000000000002",
            "0.0004100000000000002",
            "0.0005100000000000003",
            "0.0006100000000000003",
            "0.0007100000000000003",
            "0.0008100000000000004",
            "0.0009100000000000004",
            "+Inf"
        ]
    );
    let labels = labels("/", "h", "GET", "200");
    assert_eq!(bucket(&page, &labels, "-8.999999999999979e-05"), 0.0);
    assert_eq!(bucket(&page, &labels, "1.0000000000000216e-05"), 1.0);
    assert_eq!((bucket(&page, &labels, "0.0009100000000000004"), bucket(&page, &labels, "+Inf")), (1.0, 2.0));
}

#[tokio::test]
async fn custom_buckets_count_observations_up_to_their_bound() {
    let entries = vec![got("/", span(10_000_000)), got("/", span(10_000_001)), got("/", number(3))];
    let page = observed(&["--buckets", "-1,0.01, 0.2,3"], entries).await;
    let labels = labels("/", "h", "GET", "200");
    let counts = ["-1", "0.01", "0.2", "3", "+Inf"].map(|le| bucket(&page, &labels, le));
    assert_eq!(counts, [0.0, 1.0, 2.0, 3.0, 3.0]);
}

#[tokio::test]
async fn series_beyond_the_limit_share_one_and_are_counted() {
    let entries = (0..50).map(|at| got(&format!("/{}", at % 25), span(1_000_000))).collect();
    let page = observed(&["--max-series", "20"], entries).await;
    assert_eq!(page.labels(&format!("{NAME}_count")).len(), 21);
    for at in 0..20 {
        assert_eq!(count(&page, &labels(&format!("/{at}"), "h", "GET", "200")), 2.0);
    }
    let overflow = ["endpoint", "fullurl", "host", "method", "status"].map(|label| (label, "overflow"));
    assert_eq!(count(&page, &overflow), 10.0);
    assert_eq!(page.single("mygrpcadapter_latency_overflow_total"), 10.0);
}

#[tokio::test]
async fn labels_are_bounded_in_length() {
    let long = "é".repeat(5_000);
    let page = observed(&[], vec![entry(&long, &long, &long, text(&long), span(1))]).await;
    let cut = "é".repeat(64);
    assert_eq!(count(&page, &labels(&cut, &cut, &cut, &cut)), 1.0);
}

#[tokio::test]
async fn an_invalid_latency_is_written_and_counted_but_not_observed() {
    let mut without = got("/", span(1));
    without.variables.remove("latency");
    let page = observed(&[], vec![without, got("/", text("5ms")), got("/", Value::default())]).await;
    assert_eq!(page.total(&format!("{NAME}_count")), 0.0);
    assert_eq!(page.single("mygrpcadapter_latency_unmeasured_total"), 3.0);
    assert_eq!(page.of("mygrpcadapter_instances_total", "template", "logentry"), 3.0);
}

#[tokio::test]
async fn a_bad_instance_in_a_batch_observes_and_writes_nothing_of_it() {
    let adapter = Adapter::start(&METRICS).await;
    let client = adapter.client().await;
    let mut message = request(vec![got("/", span(1)), got("/b", span(1)), got("/c", text(""))]);
    // A severity of the wrong wire type.
    prost::encoding::bytes::encode(1, &b"\x18\x01".to_vec(), &mut message);
    for message in [message.clone(), with_config(&message, &params(WALKTHROUGH, b"a.txt"))] {
        let reply = client.unary(LOGENTRY, &message).await.unwrap();
        assert_eq!(reply.status, INVALID_ARGUMENT);
    }
    assert!(adapter.files().is_empty());
    let page = adapter.page();
    assert_eq!(page.total(&format!("{NAME}_count")), 0.0);
    assert_eq!(page.single("mygrpcadapter_latency_unmeasured_total"), 0.0);
    assert_eq!(page.of("mygrpcadapter_instances_total", "template", "logentry"), 0.0);
    assert_eq!(page.of("mygrpcadapter_refusals_total", "reason", "malformed"), 2.0);
}

#[tokio::test]
async fn a_metric_is_not_observed() {
    let adapter = Adapter::start(&METRICS).await;
    let message = metric::HandleMetricRequest {
        instances: vec![metric::InstanceMsg { value: Some(span(1)), ..Default::default() }],
        ..Default::default()
    };
    let message = message.encode_to_vec();
    assert_eq!(
        adapter.client().await.unary(crate::support::message::METRIC, &message).await.unwrap().status,
        OK
    );
    assert_eq!(adapter.page().single("mygrpcadapter_latency_series"), 0.0);
}

#[tokio::test]
async fn a_page_of_2000_series_can_be_read_slowly_without_delaying_others() {
    let adapter = Adapter::start(&METRICS).await;
    let client = adapter.client().await;
    let padding = "x".repeat(100);
    for batch in 0..20 {
        let url = |at: usize| format!("/{padding}/{}", batch * 100 + at);
        let entries = (0..100).map(|at| got(&url(at), span(1_000_000))).collect();
        assert_eq!(client.unary(LOGENTRY, &request(entries)).await.unwrap(), Reply::default());
    }
    let port = adapter.metrics_port.unwrap();
    let mut slow = http::connect(port);
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = vec![0; 1000];
    slow.read_exact(&mut answer).unwrap();
    // That connection is under back-pressure; all others are served.
    for _ in 0..3 {
        assert_eq!(adapter.http("/healthz").status, 200);
        assert_eq!(
            client.unary(LOGENTRY, &request(vec![got("/", span(1))])).await.unwrap(),
            Reply::default()
        );
        assert_eq!(adapter.page().labels(&format!("{NAME}_count")).len(), 2001);
    }
    slow.read_to_end(&mut answer).unwrap();
    let page = http::parse(&answer).unwrap();
    assert!(page.body.len() > 3 << 20, "{} bytes", page.body.len());
    let page = Page::parse(page.text());
    for labels in page.labels(&format!("{NAME}_count")).into_iter().take(2000) {
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert!(page.value(&format!("{NAME}_count"), &labels) >= 1.0);
    }
    assert!(adapter.peak_memory() < 64 * 1024, "{} KiB", adapter.peak_memory());
}
