//! Invalid latencies, and all latencies of a refused request, are counted and kept
//! out of the histogram.

use mygrpcadapter::pb::google::protobuf;
use mygrpcadapter::pb::istio::policy::v1beta1::{Duration, Value, value::Value as Kind};
use mygrpcadapter::pb::logentry::{HandleLogEntryRequest, InstanceMsg};
use prost::Message;

use crate::json::asked;
use crate::support::message::{LOGENTRY, number, own, span, text};
use crate::support::{Adapter, OK, RESOURCE_EXHAUSTED};

const SUM: &str = "http_request_seconds_histogram_sum";
const COUNT: &str = "http_request_seconds_histogram_count";
const YEAR: i64 = 365 * 86_400;

fn double(number: f64) -> Value {
    Value { value: Some(Kind::DoubleValue(number)) }
}

fn lasting(seconds: i64, nanos: i32) -> Value {
    let value = Some(protobuf::Duration { seconds, nanos });
    Value { value: Some(Kind::DurationValue(Duration { value })) }
}

fn entry(url: &str, latency: Value) -> InstanceMsg {
    let variables = [("url".to_owned(), text(url)), ("latency".to_owned(), latency)].into();
    InstanceMsg { variables, ..InstanceMsg::default() }
}

fn request(instances: Vec<InstanceMsg>) -> HandleLogEntryRequest {
    HandleLogEntryRequest { instances, ..Default::default() }
}

#[tokio::test]
async fn an_invalid_latency_is_counted_and_never_summed() {
    let adapter = Adapter::start(&["--metrics-port", "0"]).await;
    let client = adapter.client().await;
    let good = [double(0.5), number(2), lasting(0, 250_000_000), lasting(YEAR, 0), double(0.0), number(0)];
    let expected = 0.5 + 2.0 + 0.25 + YEAR as f64;
    let message = request(good.map(|latency| entry("/", latency)).to_vec()).encode_to_vec();
    assert_eq!(client.unary(LOGENTRY, &message).await.unwrap().status, OK);
    let page = adapter.page();
    assert_eq!((page.total(SUM), page.total(COUNT)), (expected, 6.0));

    let bad = [
        double(-4.6e18),
        double(1e308),
        double(f64::MAX),
        double(-5e-324),
        double(-1.0),
        double(f64::NAN),
        double(f64::INFINITY),
        double(f64::NEG_INFINITY),
        double(YEAR as f64 * 1.0001),
        number(-1),
        number(YEAR + 1),
        number(i64::MIN),
        number(i64::MAX),
        lasting(-1, 0),
        lasting(0, -1),
        lasting(1, -1),
        lasting(-1, 1),
        lasting(0, 1_000_000_000),
        lasting(0, i32::MAX),
        lasting(5, i32::MIN),
        lasting(YEAR, 1_000_000),
        lasting(i64::MIN, 0),
        lasting(i64::MAX, 999_999_999),
        text("5ms"),
    ];
    let count = bad.len() as f64;
    for latency in bad {
        let shown = format!("{latency:?}");
        let message = request(vec![entry("/bad", latency)]).encode_to_vec();
        assert_eq!(client.unary(LOGENTRY, &message).await.unwrap().status, OK);
        let page = adapter.page();
        assert_eq!((page.total(SUM), page.total(COUNT)), (expected, 6.0), "{shown}");
    }
    let page = adapter.page();
    assert_eq!(page.single("mygrpcadapter_latency_unmeasured_total"), count);
    assert_eq!(page.single("mygrpcadapter_latency_series"), 1.0);
}

#[tokio::test]
async fn a_refused_request_leaves_no_series() {
    let adapter = Adapter::start(&["--metrics-port", "0", "--max-series", "3"]).await;
    let client = adapter.client().await;
    for _ in 0..5 {
        let mut large = entry("/large", span(1));
        // Six bytes each in JSON: more than a request may become.
        large.variables.insert("text".into(), text(&"\u{1}".repeat(2 << 20)));
        let mut refused = request((0..9).map(|at| entry(&format!("/refused/{at}"), span(1))).collect());
        refused.instances.push(large);
        refused.adapter_config = Some(own(&asked("a.json")));
        let reply = client.unary(LOGENTRY, &refused.encode_to_vec()).await.unwrap();
        assert_eq!(reply.status, RESOURCE_EXHAUSTED, "{}", reply.message);
    }
    let page = adapter.page();
    assert_eq!(page.labels(COUNT), Vec::<&[_]>::new());
    assert_eq!(page.single("mygrpcadapter_latency_series"), 0.0);
    assert_eq!(page.single("mygrpcadapter_latency_overflow_total"), 0.0);
    // They take no room from later series either.
    let taken = request((0..3).map(|at| entry(&format!("/taken/{at}"), span(1))).collect());
    assert_eq!(client.unary(LOGENTRY, &taken.encode_to_vec()).await.unwrap().status, OK);
    let page = adapter.page();
    assert_eq!((page.single("mygrpcadapter_latency_series"), page.total(COUNT)), (3.0, 3.0));
    assert_eq!(page.single("mygrpcadapter_latency_overflow_total"), 0.0);
}
