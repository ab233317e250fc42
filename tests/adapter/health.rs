//! Health, as reported to Kubernetes and Mixer.

use mygrpcadapter::pb::google::protobuf::Any;
use mygrpcadapter::pb::grpc::health::v1::health_check_response::ServingStatus;
use mygrpcadapter::pb::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use mygrpcadapter::pb::istio::mixer::adapter::model::v1beta1::{
    CloseSessionRequest, CloseSessionResponse, CreateSessionRequest, CreateSessionResponse, ValidateRequest,
    ValidateResponse,
};
use prost::Message;
use rustix::process::Signal;

use crate::support::client::{Answer, framed};
use crate::support::message::{METRIC, OWN, Shape, WALKTHROUGH, params};
use crate::support::{Adapter, Client, INVALID_ARGUMENT, NOT_FOUND, OK};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const BACKEND: &str = "/istio.mixer.adapter.model.v1beta1.InfrastructureBackend";

fn asking(service: &str) -> Vec<u8> {
    HealthCheckRequest { service: service.into() }.encode_to_vec()
}

pub async fn check(client: &Client, service: &str) -> Result<ServingStatus, u32> {
    let reply = client.unary(CHECK, &asking(service)).await.unwrap();
    match reply.status {
        OK => Ok(HealthCheckResponse::decode(reply.body).unwrap().status()),
        status => Err(status),
    }
}

pub async fn watch(client: &Client, service: &str) -> Answer {
    let mut call = client.open(WATCH).await.unwrap();
    call.send(framed(&asking(service)), true).unwrap();
    call.answer().await.unwrap()
}

pub async fn next(watched: &mut Answer) -> Option<ServingStatus> {
    let message = watched.message().await.unwrap()?;
    Some(HealthCheckResponse::decode(message).unwrap().status())
}

#[tokio::test]
async fn every_service_is_serving_and_others_are_not_found() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for service in ["", "metric.HandleMetricService", &BACKEND[1..], "grpc.health.v1.Health"] {
        assert_eq!(check(&client, service).await, Ok(ServingStatus::Serving), "{service:?}");
    }
    for service in ["metric", "metric.HandleMetricService/HandleMetric", "nothing.Service"] {
        assert_eq!(check(&client, service).await, Err(NOT_FOUND), "{service:?}");
    }
}

#[tokio::test]
async fn a_watcher_gets_the_current_status_and_every_change() {
    let adapter = Adapter::start(&["--drain-delay", "1h"]).await;
    let client = adapter.client().await;
    let mut whole = watch(&client, "").await;
    let mut unknown = watch(&client, "nothing.Service").await;
    assert_eq!(next(&mut whole).await, Some(ServingStatus::Serving));
    assert_eq!(next(&mut unknown).await, Some(ServingStatus::ServiceUnknown));
    adapter.signal(Signal::TERM);
    assert_eq!(next(&mut whole).await, Some(ServingStatus::NotServing));
}

#[tokio::test]
async fn a_watch_ends_at_shutdown() {
    let mut adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let mut watched = watch(&client, "").await;
    assert_eq!(next(&mut watched).await, Some(ServingStatus::Serving));
    adapter.signal(Signal::TERM);
    while next(&mut watched).await.is_some() {}
    assert_eq!(watched.end().await.unwrap().0, OK);
    assert_eq!(adapter.exit().await, 0);
}

#[tokio::test]
async fn while_it_drains_it_says_so_and_goes_on_serving() {
    let adapter = Adapter::start(&["--drain-delay=1h"]).await;
    let before = adapter.client().await;
    assert_eq!(check(&before, "").await, Ok(ServingStatus::Serving));
    adapter.signal(Signal::TERM);
    adapter.logged("draining").await;
    let after = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 1 };
    for (name, client) in [("before", &before), ("after", &after)] {
        for service in ["", "metric.HandleMetricService"] {
            assert_eq!(check(client, service).await, Ok(ServingStatus::NotServing), "{name}");
        }
        assert_eq!(client.unary(METRIC, &shape.message(name)).await.unwrap().status, OK);
    }
    assert_eq!(shape.names(&adapter.read("out.txt")), ["before", "after"]);
}

#[tokio::test]
async fn validate_reports_invalid_params() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for (adapter_config, reason) in [
        (None, None),
        (Some(params(OWN, b"a.txt")), None),
        (Some(params(WALKTHROUGH, b"/volume/a.txt")), None),
        (Some(params(WALKTHROUGH, b"")), None),
        (Some(params(OWN, b"../a.txt")), Some("\"..\"")),
        (Some(params(WALKTHROUGH, b"/etc/passwd")), Some("outside the volume")),
        (Some(params("type.googleapis.com/a.Config", b"a.txt")), Some("is not a Params message")),
        (Some(Any { type_url: OWN.into(), value: b"\x0a\x05a".into() }), Some("cannot decode")),
    ] {
        let request = ValidateRequest { adapter_config, ..Default::default() };
        let reply = client.unary(&format!("{BACKEND}/Validate"), &request.encode_to_vec()).await.unwrap();
        assert_eq!(reply.status, OK);
        let verdict = ValidateResponse::decode(reply.body).unwrap().status.unwrap();
        match reason {
            None => assert_eq!((verdict.code, &*verdict.message), (0, ""), "{request:?}"),
            Some(reason) => {
                assert_eq!(verdict.code, INVALID_ARGUMENT as i32, "{request:?}");
                assert!(verdict.message.contains(reason), "{}", verdict.message);
            }
        }
    }
    assert!(adapter.files().is_empty(), "asking is not writing");
}

#[tokio::test]
async fn sessions_are_created_with_names_of_their_own_and_closed() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let request =
            CreateSessionRequest { adapter_config: Some(params(OWN, b"a.txt")), ..Default::default() };
        let reply =
            client.unary(&format!("{BACKEND}/CreateSession"), &request.encode_to_vec()).await.unwrap();
        assert_eq!(reply.status, OK);
        let created = CreateSessionResponse::decode(reply.body).unwrap();
        assert_eq!(created.status.unwrap().code, 0);
        ids.push(created.session_id);
    }
    assert!(!ids[0].is_empty() && ids[0] != ids[1], "{ids:?}");
    for session_id in ids {
        let request = CloseSessionRequest { session_id };
        let reply = client.unary(&format!("{BACKEND}/CloseSession"), &request.encode_to_vec()).await.unwrap();
        assert_eq!(reply.status, OK);
        assert_eq!(CloseSessionResponse::decode(reply.body).unwrap().status.unwrap().code, 0);
    }
}
