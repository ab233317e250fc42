//! Input that Envoy never sends, and mistakes of configuration.

use std::io::{Read, Write};

use miniz_oxide::deflate::compress_to_vec;
use records::render::Format;

use super::{
    ACCESS_LOG, EXPORT, STREAM, Stream, entries, field, first, identifier, paths, recorded, send_all,
};
use crate::envoy_records::exported;
use crate::support::client::framed;
use crate::support::{
    Adapter, Client, FAILED_PRECONDITION, INTERNAL, INVALID_ARGUMENT, OK, RESOURCE_EXHAUSTED, Reply,
    UNAVAILABLE, UNIMPLEMENTED, until,
};

const SKIPPED: &str = "mygrpcadapter_access_log_skipped_total";

fn named(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_malformed_message_ends_its_stream_and_no_other() {
    let adapter = Adapter::start(&["--metrics-port", "0"]).await;
    let client = adapter.client().await;
    let mut other = Stream::open(&client).await;
    other.send(&entries(&named(&["/1"])));
    let entry = entries(&named(&["/kept"]));
    // Malformed outside of entries: truncated, truncated after a valid entry, with an
    // invalid identifier.
    let list = field(2, &[&entry[2..], b"\x0a\x7f"].concat());
    for message in [&b"\xff"[..], b"\x12\x05\x0a", &list, &field(1, b"\x0a\x05x")] {
        let mut stream = Stream::open(&client).await;
        stream.send(message);
        let reply = stream.reply().await;
        assert_eq!(reply.status, INVALID_ARGUMENT, "{message:?} {reply:?}");
        assert!(reply.message.contains("not a message of access logs"), "{reply:?}");
    }
    other.send(&entries(&named(&["/2"])));
    assert_eq!(other.end().await, Reply::default());
    assert_eq!(paths(&adapter.read(ACCESS_LOG)), ["/1", "/kept", "/2"]);
    assert_eq!(adapter.times_logged("a stream of access logs is ended").await, 1);
    assert_eq!(adapter.page().of("mygrpcadapter_refusals_total", "reason", "malformed"), 4.0);
}

#[tokio::test]
async fn a_malformed_entry_is_counted_and_the_others_are_kept() {
    let adapter = Adapter::start(&["--metrics-port", "0"]).await;
    let [good, other] = ["/1", "/2"].map(|path| entries(&named(&[path]))[2..].to_vec());
    let message = field(2, &[&good[..], b"\x0a\x02\x1a\x7f", &other, b"\x0a\x01\xff"].concat());
    assert_eq!(send_all(&adapter, &[message, field(2, b"\x0a\x01\xff")]).await, Reply::default());
    assert_eq!(paths(&adapter.read(ACCESS_LOG)), ["/1", "/2"]);
    assert_eq!(adapter.page().of(SKIPPED, "reason", "malformed"), 3.0);
}

#[tokio::test]
async fn a_line_that_would_be_too_long_is_counted_and_the_others_are_kept() {
    let adapter = Adapter::start(&["--metrics-port", "0", "--format", "json"]).await;
    let long = "\u{1}".repeat(2 << 20);
    let just = "x".repeat(3 << 20);
    let message = entries(&["/before".into(), long, "/after".into()]);
    assert_eq!(send_all(&adapter, &[message, entries(std::slice::from_ref(&just))]).await, Reply::default());
    let file = String::from_utf8(adapter.read(ACCESS_LOG)).unwrap();
    let lines: Vec<_> = file.lines().collect();
    assert!(lines[0].contains("/before") && lines[1].contains("/after") && lines[2].contains(&just));
    assert_eq!(lines.len(), 3);
    assert_eq!(adapter.page().of(SKIPPED, "reason", "too_long"), 1.0);
}

#[tokio::test]
async fn streams_and_their_messages_are_bounded() {
    let adapter = Adapter::start(&["--max-connections", "2"]).await;
    let client = adapter.client().await;
    let mut stream = Stream::open(&client).await;
    stream.send_part(&[0, 0, 0x40, 0, 1]);
    assert_eq!(stream.reply().await.status, RESOURCE_EXHAUSTED);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(Stream::open(&client).await);
    }
    let fifth = Stream::open(&client).await;
    let reply = fifth.reply().await;
    assert_eq!(reply.status, RESOURCE_EXHAUSTED, "{reply:?}");
    assert_eq!(open.remove(0).end().await, Reply::default());
    assert_eq!(Stream::open(&client).await.end().await, Reply::default());
}

#[tokio::test]
async fn files_by_name_stay_in_the_volume_and_are_bounded() {
    let args = ["--access-log", "logs/{namespace}/{pod}-{log_name}.log", "--metrics-port", "0"];
    let adapter = Adapter::start(&args).await;
    let send = async |log_name: &str, namespace: &str, pod: &str, path: &str| {
        let message = [identifier(log_name, namespace, pod), entries(&named(&[path]))].concat();
        assert_eq!(send_all(&adapter, &[message]).await, Reply::default());
    };
    send("access", "shop", "web-1", "/1").await;
    send("../../x", "..", "a/b", "/2").await;
    send("", "", "", "/3").await;
    send(&"x".repeat(300), "shop", "web-1", "/4").await;
    for (file, path) in [
        ("logs/shop/web-1-access.log", "/1"),
        ("logs/%2E./a%2Fb-%2E.%2F..%2Fx.log", "/2"),
        ("logs/overflow/overflow-overflow.log", "/4"),
    ] {
        assert_eq!(paths(&adapter.read(file)), [path], "{file}");
    }
    let unnamed = adapter.files();
    assert_eq!(unnamed, ["logs"]);
    for pod in 0..300 {
        send("access", "many", &format!("pod-{pod}"), "/5").await;
    }
    let many = std::fs::read_dir(adapter.volume.join("logs/many")).unwrap().count();
    assert_eq!(many, 256 - 3);
    let common = paths(&adapter.read("logs/overflow/overflow-overflow.log"));
    assert_eq!(common.len(), 1 + 300 - many);
    assert_eq!(adapter.page().single("mygrpcadapter_access_log_overflow_total"), common.len() as f64);
    assert_eq!(adapter.times_logged("access logs go to a common file").await, 1);
}

#[tokio::test]
async fn records_go_where_their_resource_says() {
    let adapter = Adapter::start(&["--access-log", "{namespace}-{pod}.log", "--metrics-port", "0"]).await;
    let attribute = |key: &str, value: &str| {
        let value = field(2, &field(1, value.as_bytes()));
        field(1, &[field(1, key.as_bytes()), value].concat())
    };
    let record = |body: &str| field(2, &field(2, &field(5, &field(1, body.as_bytes()))));
    let resource = |pod: &str, body: &str| {
        let attributes = [attribute("k8s.namespace.name", "shop"), attribute("k8s.pod.name", pod)].concat();
        field(1, &[field(1, &attributes), record(body)].concat())
    };
    let message =
        [resource("a", "1"), resource("b", "2\n"), resource("a", "3"), field(1, &record("4"))].concat();
    let reply = adapter.client().await.unary(EXPORT, &message).await.unwrap();
    assert_eq!(reply, Reply::default());
    for (file, text) in [("shop-a.log", "1\n3\n"), ("shop-b.log", "2\n"), ("---.log", "4\n")] {
        assert_eq!(String::from_utf8(adapter.read(file)).unwrap(), text, "{file}");
    }
    assert_eq!(adapter.page().of("mygrpcadapter_access_log_entries_total", "kind", "otlp"), 4.0);
}

#[tokio::test]
async fn an_export_is_answered_with_what_became_of_it() {
    let adapter = Adapter::start(&["--metrics-port", "0", "--format", "json"]).await;
    let client = adapter.client().await;
    let record = field(5, &field(1, b"kept"));
    let records = [field(2, &record), field(2, b"\xff"), field(2, b"\x2a\x05")].concat();
    let partly = client.unary(EXPORT, &field(1, &field(2, &records))).await.unwrap();
    assert_eq!((partly.status, &*partly.body), (OK, &b"\x0a\x15\x08\x02\x12\x11malformed records"[..]));
    let rejected = client.unary(EXPORT, &field(1, &field(2, &field(2, b"\xff")))).await.unwrap();
    assert_eq!((rejected.status, &*rejected.body), (OK, &b"\x0a\x15\x08\x01\x12\x11malformed records"[..]));
    assert_eq!(client.unary(EXPORT, b"").await.unwrap(), Reply::default());
    assert_eq!(client.unary(EXPORT, b"\x0a\x05x").await.unwrap().status, INVALID_ARGUMENT);
    assert_eq!(client.unary(EXPORT, &field(1, b"\x12\x7f")).await.unwrap().status, INVALID_ARGUMENT);
    let long = field(5, &field(1, &[1; 3 << 20]));
    let reply = client.unary(EXPORT, &field(1, &field(2, &field(2, &long)))).await.unwrap();
    assert_eq!(reply.status, RESOURCE_EXHAUSTED, "{reply:?}");
    let file = String::from_utf8(adapter.read(ACCESS_LOG)).unwrap();
    assert!(file.contains("\"body\":\"kept\"") && file.matches('\n').count() == 1, "{file}");
    assert_eq!(adapter.page().of(SKIPPED, "reason", "malformed"), 3.0);

    let adapter = Adapter::start(&["--volume", "none"]).await;
    let reply = adapter.client().await.unary(EXPORT, &field(1, &field(2, &records))).await.unwrap();
    assert_eq!(reply.status, FAILED_PRECONDITION);
}

/// A message compressed with gzip, with `said` as its unpacked length.
fn gzipped(message: &[u8], said: usize) -> Vec<u8> {
    let crc = message.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    });
    let head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff";
    let packed = compress_to_vec(message, 6);
    [&head[..], &packed, &(!crc).to_le_bytes(), &(said as u32).to_le_bytes()].concat()
}

async fn export_packed(client: &Client, packed: &[u8], headers: &[(&str, &str)]) -> Reply {
    let mut body = framed(packed).to_vec();
    body[0] = 1;
    let mut call = client.open_with(EXPORT, headers).await.unwrap();
    call.send(body.into(), true).unwrap();
    call.reply().await.unwrap()
}

#[tokio::test]
async fn exports_may_be_packed_and_a_bomb_is_refused_before_it_is_unpacked() {
    const GZIP: &[(&str, &str)] = &[("grpc-encoding", "gzip")];
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let message = recorded("otlp-logs", "01-").remove(0);
    let record = field(5, &field(1, &b"0123456789abcdef".repeat(180_000)));
    let large = field(1, &field(2, &field(2, &record)));
    let mut expected = Vec::new();
    for message in [&message, &large] {
        let reply = export_packed(&client, &gzipped(message, message.len()), GZIP).await;
        assert_eq!(reply, Reply::default());
        expected.extend(exported(message, Format::Text, usize::MAX).unwrap().1);
    }
    // Uncompressed, in a call that allows gzip.
    let mut call = client.open_with(EXPORT, GZIP).await.unwrap();
    call.send(framed(&message), true).unwrap();
    assert_eq!(call.reply().await.unwrap(), Reply::default());
    expected.extend(exported(&message, Format::Text, usize::MAX).unwrap().1);
    assert!(adapter.read(ACCESS_LOG) == expected);

    let bomb = vec![0; 64 << 20];
    let peak = adapter.peak_memory();
    for (packed, status) in [
        (gzipped(&bomb, bomb.len()), RESOURCE_EXHAUSTED),
        // The claimed length is small.
        (gzipped(&bomb, 1000), INTERNAL),
        (gzipped(&message, message.len() + 1), INTERNAL),
        (message.clone(), INTERNAL),
        (Vec::new(), INTERNAL),
        (vec![0; (1 << 20) + 1], RESOURCE_EXHAUSTED),
    ] {
        let reply = export_packed(&client, &packed, GZIP).await;
        assert_eq!(reply.status, status, "{reply:?}");
    }
    assert!(adapter.peak_memory() < peak + 8 * 1024, "{} {peak}", adapter.peak_memory());
    for headers in [&[][..], &[("grpc-encoding", "identity")]] {
        assert_eq!(export_packed(&client, &gzipped(&message, message.len()), headers).await.status, INTERNAL);
    }
    for (path, encoding) in [(EXPORT, "zstd"), (STREAM, "gzip")] {
        let mut call = client.open_with(path, &[("grpc-encoding", encoding)]).await.unwrap();
        call.send(framed(&message), true).unwrap();
        let answer = call.answer().await.unwrap();
        let encodings = if path == EXPORT { "identity,gzip" } else { "identity" };
        assert_eq!(answer.header("grpc-accept-encoding"), Some(encodings));
        assert_eq!(answer.end().await.unwrap().0, UNIMPLEMENTED);
    }
}

#[tokio::test]
async fn packed_exports_on_many_streams_wait_for_each_other() {
    let adapter = Adapter::start(&[]).await;
    let body: Vec<u8> =
        (0..200_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let large = field(1, &field(2, &field(2, &field(5, &field(1, &body)))));
    let packed = gzipped(&large, large.len());
    assert!(packed.len() > 64 * 1024);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let client = adapter.client().await;
        for _ in 0..4 {
            let (client, packed) = (client.clone(), packed.clone());
            calls.spawn(async move { export_packed(&client, &packed, &[("grpc-encoding", "gzip")]).await });
        }
    }
    let replies = calls.join_all().await;
    assert!(replies.iter().all(|reply| matches!(reply.status, OK | UNAVAILABLE)), "{replies:?}");
    assert!(replies.iter().any(|reply| reply.status == OK));
}

#[tokio::test]
async fn services_that_are_not_served_are_logged_once_each() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for _ in 0..3 {
        for path in [
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            "/envoy.service.metrics.v3.MetricsService/StreamMetrics",
            "/a%0Ab/c",
        ] {
            assert_eq!(client.unary(path, b"").await.unwrap().status, UNIMPLEMENTED, "{path}");
        }
        // An unknown method of a served service.
        let unknown = format!("{EXPORT}s");
        assert_eq!(client.unary(&unknown, b"").await.unwrap().status, UNIMPLEMENTED);
    }
    for number in 0..100 {
        let reply = client.unary(&format!("/flood{number}/x"), b"").await.unwrap();
        assert_eq!(reply.status, UNIMPLEMENTED);
    }
    let log = adapter.log().join("\n");
    for name in
        ["opentelemetry.proto.collector.trace.v1.TraceService", "envoy.service.metrics.v3.MetricsService"]
    {
        assert_eq!(log.matches(&format!("is not served here service=\"{name}\"")).count(), 1, "{log}");
    }
    assert_eq!(log.matches("is not served here").count(), 64);
}

#[tokio::test]
async fn http_1_on_the_grpc_port_is_logged_once_for_each_address() {
    let adapter = Adapter::start(&[]).await;
    for address in ["127.0.0.1", "127.0.0.1", "[::1]"] {
        let mut stream = std::net::TcpStream::connect(format!("{address}:{}", adapter.port)).unwrap();
        let request = format!(
            "POST {STREAM} HTTP/1.1\r\nhost: als.default.svc\r\ncontent-type: application/grpc\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        // An error is fine: the connection may be reset.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    adapter.logged("appProtocol: grpc").await;
    until("both are logged", || {
        (adapter.log().iter().filter(|line| line.contains("HTTP/1")).count() >= 2).then_some(())
    })
    .await;
    let log = adapter.log().join("\n");
    for peer in ["peer=127.0.0.1", "peer=::1"] {
        assert_eq!(log.matches(peer).count(), 1, "{log}");
    }
    assert_eq!(send_all(&adapter, &[first()]).await, Reply::default());
}
