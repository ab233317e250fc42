//! What is refused is logged with its reason, and seldom enough.

use std::io::{Read, Write};
use std::net::TcpStream;

use mygrpcadapter::pb::authorization::HandleAuthorizationRequest;
use mygrpcadapter::pb::google::protobuf::Any;
use mygrpcadapter::pb::istio::mixer::adapter::model::v1beta1::ValidateRequest;
use mygrpcadapter::pb::mygrpcadapter::config::v1::{Denied, Params};
use prost::Message;

use crate::support::frames::{Frames, PING};
use crate::support::message::{AUTHORIZATION, METRIC, OWN, own, params, request};
use crate::support::{Adapter, OK, PATIENCE};

const VALIDATE: &str = "/istio.mixer.adapter.model.v1beta1.InfrastructureBackend/Validate";
const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The lines of a log that contain each of `parts`.
fn lines(adapter: &Adapter, parts: &[&str]) -> Vec<String> {
    let has_all = |line: &String| parts.iter().all(|part| line.contains(part));
    adapter.log().into_iter().filter(has_all).collect()
}

#[tokio::test]
async fn each_refused_request_is_logged_once_for_its_service_and_reason() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let denied = Some(Denied { code: 200, ..Denied::default() });
    let wrong = own(&Params { auth_key: "s3cr3t".into(), denied, ..Params::default() });
    let config = Some(Any { type_url: OWN.into(), value: b"\x0a\x05a".into() });
    let authorization = HandleAuthorizationRequest {
        adapter_config: Some(wrong.clone()),
        ..HandleAuthorizationRequest::default()
    };
    let validate = ValidateRequest { adapter_config: Some(wrong), ..ValidateRequest::default() };
    for (path, message, parts) in [
        (METRIC, request(config, "n"), &["check the handler's params", "reason=config service=metric."][..]),
        (
            METRIC,
            request(Some(params(OWN, b"../x")), "n"),
            &["name the file without", "reason=config service=metric."],
        ),
        (METRIC, b"\xff".to_vec(), &["reason=malformed service=metric.", "; for Mixer install the template"]),
        (METRIC, vec![0; (4 << 20) + 1], &["code=ResourceExhausted service=metric.", "send less at once"]),
        (
            AUTHORIZATION,
            authorization.encode_to_vec(),
            &["reason=config service=authorization.", "use 400 to 599"],
        ),
        (
            VALIDATE,
            validate.encode_to_vec(),
            &["reason=config service=InfrastructureBackend", "use 400 to 599"],
        ),
        (EXPORT, b"\xff".to_vec(), &["reason=malformed service=opentelemetry."]),
        (CHECK, b"\xff".to_vec(), &["reason=malformed service=envoy.service.auth."]),
        (
            TRACES,
            Vec::new(),
            &["a service was called", "; point its caller elsewhere", "TraceService\" peer=127.0.0.1"],
        ),
        (
            "/metric.HandleMetricService/Other",
            Vec::new(),
            &["a method was called", "/Other\" peer=127.0.0.1"],
        ),
    ] {
        for _ in 0..20 {
            client.unary(path, &message).await.unwrap();
        }
        adapter.logged(parts[0]).await;
        let lines = lines(&adapter, &[" warn ", parts[0]]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(parts.iter().all(|part| lines[0].contains(part)), "{parts:?}: {}", lines[0]);
    }
    assert!(lines(&adapter, &["s3cr3t"]).is_empty());
    assert_eq!(client.unary(METRIC, &request(None, "n")).await.unwrap().status, OK);
}

#[tokio::test]
async fn a_cancelled_call_is_no_refusal() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    client.open(METRIC).await.unwrap().cancel();
    assert_eq!(client.unary(METRIC, &request(None, "n")).await.unwrap().status, OK);
    assert!(lines(&adapter, &[" warn "]).is_empty(), "{:?}", adapter.log());
}

/// Sends the start of another protocol, and waits for the end of the connection.
fn speak(adapter: &Adapter, bytes: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", adapter.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    // It may have been cut off already.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

#[tokio::test]
async fn a_peer_of_another_protocol_is_logged_once_with_its_address() {
    let adapter = Adapter::start(&[]).await;
    for (bytes, what) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "a peer speaks HTTP/1 on the gRPC port"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "a peer speaks TLS on the gRPC port"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "a peer does not speak HTTP/2 on the gRPC port"),
    ] {
        (0..20).for_each(|_| speak(&adapter, bytes));
        adapter.logged(what).await;
        let lines = lines(&adapter, &[what]);
        assert!(lines.len() == 1 && lines[0].ends_with(" peer=127.0.0.1"), "{lines:?}");
    }
    // Neither a whole preface nor a part of it.
    speak(&adapter, b"PRI * HT");
    speak(&adapter, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    speak(&adapter, b"");
    assert_eq!(lines(&adapter, &[" warn "]).len(), 3, "{:?}", adapter.log());
}

#[tokio::test]
async fn a_peer_that_floods_its_connection_is_logged() {
    let adapter = Adapter::start(&[]).await;
    let mut frames = Frames::greet(adapter.port);
    let mut answers = frames.0.try_clone().unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
    while frames.try_send(PING, 0, 0, &[0; 8]).is_ok() {}
    let _ = reader.join();
    adapter.logged("a peer floods its connection with frames that belong to no call").await;
}

#[tokio::test]
async fn a_lack_of_connections_is_logged() {
    let adapter = Adapter::start(&["--max-connections", "2"]).await;
    let (_first, _second) = (adapter.client().await, adapter.client().await);
    let _third = TcpStream::connect(("127.0.0.1", adapter.port)).unwrap();
    adapter.logged("all connections are taken and others wait; raise --max-connections").await;
}

#[tokio::test]
async fn a_mistyped_level_is_logged_and_hides_nothing() {
    for level in ["inof", "info=debug=", "hyper=debug"] {
        let scratch = crate::support::Scratch::new();
        let level = format!("RUST_LOG={level}");
        let adapter = Adapter::start_by(&["env", &level], scratch.path(), &[]).await;
        adapter.logged(" warn cannot read RUST_LOG, showing INFO and above; set it to off, error,").await;
    }
}
