//! Oversized and invalid requests: each gets a clear answer, and the connection stays
//! usable.

use bytes::Bytes;
use mygrpcadapter::pb::istio::policy::v1beta1::{IpAddress, Value, value::Value as Kind};
use mygrpcadapter::pb::metric::{HandleMetricRequest, InstanceMsg};
use prost::Message;

use crate::support::client::framed;
use crate::support::message::{METRIC, Shape};
use crate::support::{
    Adapter, Client, DEADLINE_EXCEEDED, INTERNAL, INVALID_ARGUMENT, OK, RESOURCE_EXHAUSTED, Reply,
    UNIMPLEMENTED,
};

const SHAPE: Shape = Shape { file: "out.txt", padding: 1 };

/// Asserts that the adapter still answers and holds no resources.
async fn still_serves(adapter: &Adapter, client: &Client) {
    assert_eq!(client.unary(METRIC, &SHAPE.message("after")).await.unwrap(), Reply::default());
    assert_eq!(SHAPE.names(&adapter.read("out.txt")), ["after"]);
}

fn of_instances(instances: Vec<InstanceMsg>) -> Vec<u8> {
    HandleMetricRequest { instances, ..Default::default() }.encode_to_vec()
}

fn value(kind: Kind) -> Value {
    Value { value: Some(kind) }
}

#[tokio::test]
async fn a_message_of_more_than_4_mib_is_refused_and_one_of_4_mib_taken() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let limit = 4 << 20;
    let bare = Shape { padding: limit, ..SHAPE }.message("n").len() - limit;
    let largest = Shape { padding: limit - bare, ..SHAPE };
    assert_eq!(largest.message("n").len(), limit);
    let reply =
        client.unary(METRIC, &Shape { padding: limit - bare + 1, ..SHAPE }.message("n")).await.unwrap();
    assert_eq!(reply.status, RESOURCE_EXHAUSTED);
    assert!(reply.message.contains("4194304"), "{}", reply.message);
    assert!(adapter.files().is_empty());
    assert_eq!(client.unary(METRIC, &largest.message("n")).await.unwrap(), Reply::default());
    assert_eq!(largest.names(&adapter.read("out.txt")), ["n"]);
    std::fs::remove_file(adapter.volume.join("out.txt")).unwrap();
    still_serves(&adapter, &client).await;
}

#[tokio::test]
async fn many_large_messages_at_once_wait_their_turn_and_are_all_taken() {
    let adapter = Adapter::start(&["--queue-timeout", "30s"]).await;
    let large = Shape { padding: 66_000, ..SHAPE };
    // There is room for 127, should all of them arrive before one is written.
    let names: Vec<String> = (0..96).map(|at| format!("n{at}")).collect();
    let calls = adapter.report_each(large, &names, 32).await;
    adapter.assert_all_taken(calls, large, &names).await;
    let peak = adapter.peak_memory();
    assert!(peak < 16 * 1024, "{peak} KiB");
}

#[tokio::test]
async fn more_than_65536_instances_are_refused() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let reply = client.unary(METRIC, &b"\x0a\x00".repeat(65_537)).await.unwrap();
    assert_eq!(reply.status, RESOURCE_EXHAUSTED);
    assert!(reply.message.contains("more than 65536 instances"), "{}", reply.message);
    assert!(adapter.files().is_empty());
    let reply = client.unary(METRIC, &b"\x0a\x00".repeat(65_536)).await.unwrap();
    assert_eq!(reply, Reply::default());
    let text = String::from_utf8(adapter.read("out.txt")).unwrap();
    let block = "'':\n  {\n\t\tValue = <nil>\n\t\tDimensions = map[]\n  }";
    assert_eq!(text.matches(block).count(), 65_536);
    std::fs::remove_file(adapter.volume.join("out.txt")).unwrap();
    still_serves(&adapter, &client).await;
}

#[tokio::test]
async fn a_request_that_becomes_more_than_8_mib_is_refused() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    // Four characters for every byte.
    let long = IpAddress { value: vec![0xff; 600_000] };
    let instance = InstanceMsg { value: Some(value(Kind::IpAddressValue(long))), ..InstanceMsg::default() };
    for (count, status) in [(4, RESOURCE_EXHAUSTED), (3, OK)] {
        let reply = client.unary(METRIC, &of_instances(vec![instance.clone(); count])).await.unwrap();
        assert_eq!(reply.status, status, "{}", reply.message);
        assert_eq!(adapter.files().len(), usize::from(status == OK));
        assert!(status == OK || reply.message.contains("more than 8388608 bytes"), "{}", reply.message);
    }
    std::fs::remove_file(adapter.volume.join("out.txt")).unwrap();
    still_serves(&adapter, &client).await;
}

#[tokio::test]
async fn an_instance_with_more_than_32768_map_entries_is_refused() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let with = |entries: usize| {
        let entry = |at| (format!("k{at}"), value(Kind::BoolValue(true)));
        let dimensions = (0..entries).map(entry).collect();
        of_instances(vec![InstanceMsg { dimensions, ..InstanceMsg::default() }])
    };
    let reply = client.unary(METRIC, &with(32_769)).await.unwrap();
    assert_eq!(reply.status, INVALID_ARGUMENT);
    assert!(reply.message.contains("more than 32768 map entries"), "{}", reply.message);
    assert!(adapter.files().is_empty());
    assert_eq!(client.unary(METRIC, &with(32_768)).await.unwrap(), Reply::default());
    std::fs::remove_file(adapter.volume.join("out.txt")).unwrap();
    still_serves(&adapter, &client).await;
}

#[tokio::test]
async fn small_bytes_that_would_grow_large_keep_memory_bounded() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let instances = b"\x0a\x00".repeat(2 << 20);
    // One instance with the maximum number of empty map entries.
    let inside = (4 << 20) - 6;
    let mut entries = vec![0x0a];
    prost::encoding::encode_varint(inside, &mut entries);
    entries.extend(b"\x12\x00".repeat(inside as usize / 2));
    for request in [&instances, &entries] {
        for _ in 0..3 {
            let reply = client.unary(METRIC, request).await.unwrap();
            assert_ne!(reply.status, OK);
        }
    }
    assert!(adapter.files().is_empty());
    let peak = adapter.peak_memory();
    assert!(peak < 64 * 1024, "{peak} KiB");
    still_serves(&adapter, &client).await;
}

#[tokio::test]
async fn compressed_messages_are_refused() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let mut body = framed(&SHAPE.message("n")).to_vec();
    body[0] = 1;
    for (headers, status) in [(&[][..], INTERNAL), (&[("grpc-encoding", "gzip")], UNIMPLEMENTED)] {
        let mut call = client.open_with(METRIC, headers).await.unwrap();
        call.send(body.clone().into(), true).unwrap();
        let reply = call.reply().await.unwrap();
        assert_eq!(reply.status, status, "{}", reply.message);
        assert!(!reply.message.is_empty());
    }
    assert!(adapter.files().is_empty());
    still_serves(&adapter, &client).await;
}

#[tokio::test]
async fn bodies_that_are_not_one_message_are_refused() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let whole = framed(&SHAPE.message("n"));
    for body in [Bytes::new(), whole.slice(..3), whole.slice(..whole.len() - 1)] {
        let reply = client.framed(METRIC, body.clone()).await.unwrap();
        assert_ne!(reply.status, OK, "{} bytes", body.len());
    }
    assert!(adapter.files().is_empty());
    still_serves(&adapter, &client).await;
}

#[tokio::test]
async fn a_request_whose_caller_waits_no_longer_is_not_written() {
    let adapter = Adapter::start(&["--metrics-port", "0"]).await;
    let client = adapter.client().await;
    for (timeout, status) in [
        ("1n", DEADLINE_EXCEEDED),
        ("0S", DEADLINE_EXCEEDED),
        ("10S", OK),
        ("8H", OK),
        ("soon", OK),
        ("-1S", OK),
    ] {
        let name = timeout.to_owned();
        let mut call = client.open_with(METRIC, &[("grpc-timeout", timeout)]).await.unwrap();
        call.send(framed(&SHAPE.message(&name)), true).unwrap();
        let reply = call.reply().await.unwrap();
        assert_eq!(reply.status, status, "{timeout}: {}", reply.message);
    }
    assert_eq!(SHAPE.names(&adapter.read("out.txt")), ["10S", "8H", "soon", "-1S"]);
    let page = adapter.page();
    assert_eq!(page.of("mygrpcadapter_refusals_total", "reason", "deadline"), 2.0);
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for path in [
        "/metric.HandleMetricService/HandleMetrics",
        "/metric.HandleMetricService/",
        "/metric.HandleMetricService",
        "/quota.HandleQuotaService/HandleQuota",
        "/istio.mixer.adapter.model.v1beta1.InfrastructureBackend/Open",
        "/grpc.health.v1.Health/List",
        "/",
    ] {
        let reply = client.unary(path, &SHAPE.message("n")).await.unwrap();
        assert_eq!(reply.status, UNIMPLEMENTED, "{path}");
    }
    assert!(adapter.files().is_empty());
    still_serves(&adapter, &client).await;
}
