//! Callers must send a token, if the operator says so.

use mygrpcadapter::pb::grpc::health::v1::health_check_response::ServingStatus;

use crate::health::check;
use crate::process::{assert_refused, run};
use crate::support::message::{METRIC, Shape};
use crate::support::{Adapter, OK, Reply, Scratch, UNAUTHENTICATED, UNIMPLEMENTED, until};

const SHAPE: Shape = Shape { file: "out.txt", padding: 1 };
/// Each service that is not health.
const OTHERS: [&str; 4] = [
    METRIC,
    "/authorization.HandleAuthorizationService/HandleAuthorization",
    "/envoy.service.auth.v3.Authorization/Check",
    "/istio.mixer.adapter.model.v1beta1.InfrastructureBackend/Validate",
];

async fn start(tokens: &str, args: &[&str]) -> (Adapter, std::path::PathBuf, Scratch) {
    let scratch = Scratch::new();
    let path = scratch.path().join("tokens");
    std::fs::write(&path, tokens).unwrap();
    let words = ["--caller-tokens-without-tls", "--caller-tokens-file", path.to_str().unwrap()];
    (Adapter::start(&[&words[..], args].concat()).await, path, scratch)
}

async fn call(adapter: &Adapter, path: &str, values: &[&str]) -> Reply {
    let headers: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
    adapter.client().await.unary_with(path, &headers, &SHAPE.message("n")).await.unwrap()
}

#[tokio::test]
async fn every_call_but_health_needs_a_token() {
    let (adapter, _, _scratch) = start("uno\ndos\n", &["--metrics-port", "0"]).await;
    for path in OTHERS.into_iter().chain(["/no.such.Service/Method"]) {
        for values in [&[][..], &["Bearer tres"], &["uno"], &["Bearer uno", "Bearer uno"]] {
            let reply = call(&adapter, path, values).await;
            assert_eq!(reply.status, UNAUTHENTICATED, "{path} {values:?}");
        }
    }
    assert_eq!(adapter.files(), [""; 0]);
    assert_eq!(call(&adapter, METRIC, &["Bearer uno"]).await.status, OK);
    assert_eq!(call(&adapter, METRIC, &["bearer dos"]).await.status, OK);
    assert_eq!(call(&adapter, "/no.such.Service/Method", &["Bearer dos"]).await.status, UNIMPLEMENTED);
    assert_eq!(check(&adapter.client().await, "").await, Ok(ServingStatus::Serving));
    let page = adapter.page();
    assert_eq!(page.value("mygrpcadapter_refusals_total", &[("reason", "unauthenticated")]), 20.0);
    let labels = [("code", "UNAUTHENTICATED"), ("service", "metric.HandleMetricService")];
    assert_eq!(page.value("mygrpcadapter_requests_total", &labels), 4.0);
    let log = adapter.log().join("\n");
    assert_eq!(log.matches("a caller without a valid token is refused").count(), 1, "{log}");
    assert!(["uno", "dos", "tres"].iter().all(|token| !log.contains(token)), "{log}");
}

#[tokio::test]
async fn tokens_are_reloaded_and_a_broken_file_keeps_the_last_ones() {
    let (adapter, path, _scratch) = start("old\n", &["--metrics-port", "0"]).await;
    let stale =
        |adapter: &Adapter| adapter.page().value("mygrpcadapter_reload_failed", &[("files", "tokens")]);
    assert_eq!((call(&adapter, METRIC, &["Bearer old"]).await.status, stale(&adapter)), (OK, 0.0));
    std::fs::write(&path, "principal spiffe://a/b\n").unwrap();
    until("the file is stale", || (stale(&adapter) == 1.0).then_some(())).await;
    adapter.logged("cannot read the tokens, the last ones hold").await;
    assert_eq!(call(&adapter, METRIC, &["Bearer old"]).await.status, OK);
    std::fs::write(&path, "new\n").unwrap();
    until("the file is read", || (stale(&adapter) == 0.0).then_some(())).await;
    assert_eq!(call(&adapter, METRIC, &["Bearer old"]).await.status, UNAUTHENTICATED);
    assert_eq!(call(&adapter, METRIC, &["Bearer new"]).await.status, OK);
}

#[tokio::test]
async fn a_comment_in_the_file_is_no_token() {
    let (adapter, _, _scratch) = start("\u{feff}uno\r\n# one each\r\n", &[]).await;
    assert_eq!(call(&adapter, METRIC, &["Bearer # one each"]).await.status, UNAUTHENTICATED);
    assert_eq!(call(&adapter, METRIC, &["Bearer uno"]).await.status, OK);
}

#[tokio::test]
async fn without_a_token_in_the_file_nobody_may_call() {
    let (adapter, _, _scratch) = start("\n", &[]).await;
    adapter.logged("the file of tokens has none and allows nobody").await;
    for values in [&[][..], &["Bearer"], &["Bearer "], &["Bearer x"]] {
        assert_eq!(call(&adapter, METRIC, values).await.status, UNAUTHENTICATED, "{values:?}");
    }
}

#[test]
fn tokens_in_plaintext_must_be_meant_and_readable() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let words = ["0", "--volume", volume.to_str().unwrap(), "--caller-tokens-file", "/nowhere"];
    assert_refused(&run(&words), 64, "--caller-tokens-without-tls");
    let words = [&words[..], &["--caller-tokens-without-tls"]].concat();
    assert_refused(&run(&words), 66, "cannot read the tokens in /nowhere: ");
}
