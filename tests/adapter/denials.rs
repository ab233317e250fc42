//! `denied.code`: an HTTP error, or every request is denied.

use mygrpcadapter::pb::authorization::{HandleAuthorizationRequest, InstanceMsg, SubjectMsg};
use mygrpcadapter::pb::istio::mixer::adapter::model::v1beta1::{
    CheckResult, ValidateRequest, ValidateResponse,
};
use mygrpcadapter::pb::istio::policy::v1beta1::DirectHttpResponse;
use mygrpcadapter::pb::mygrpcadapter::config::v1::{Denied, Params};
use prost::Message;

use crate::support::message::{AUTHORIZATION, own, text};
use crate::support::{Adapter, Client, OK};

const VALIDATE: &str = "/istio.mixer.adapter.model.v1beta1.InfrastructureBackend/Validate";
const WRONG: [u32; 9] = [1, 100, 200, 302, 399, 600, 4_010, 1 << 31, u32::MAX];
const RIGHT: [u32; 4] = [0, 400, 401, 599];

fn handler(code: u32) -> Params {
    let denied = Denied { code, body: "no".into(), ..Denied::default() };
    Params { auth_key: "key".into(), denied: Some(denied), ..Params::default() }
}

/// Sends a check with a token; returns the codes of the answer and of its HTTP
/// response.
async fn asked(client: &Client, token: &str, code: u32) -> (i32, Option<i32>) {
    let mut subject = SubjectMsg::default();
    subject.properties.insert("custom_token_header".into(), text(token));
    let instance = Some(InstanceMsg { subject: Some(subject), ..InstanceMsg::default() });
    let adapter_config = Some(own(&handler(code)));
    let request = HandleAuthorizationRequest { instance, adapter_config, ..Default::default() };
    let reply = client.unary(AUTHORIZATION, &request.encode_to_vec()).await.unwrap();
    assert_eq!(reply.status, OK, "{}", reply.message);
    let status = CheckResult::decode(reply.body).unwrap().status.unwrap();
    let response = status.details.first().map(|detail| DirectHttpResponse::decode(&*detail.value).unwrap());
    (status.code, response.map(|response| response.code))
}

async fn refusals(adapter: &Adapter) -> f64 {
    adapter.page().of("mygrpcadapter_refusals_total", "reason", "config")
}

#[tokio::test]
async fn a_code_that_is_no_http_error_denies_every_request_and_is_counted() {
    let adapter = Adapter::start(&["--metrics-port", "0"]).await;
    let client = adapter.client().await;
    for (at, code) in WRONG.into_iter().enumerate() {
        for token in ["key", "other", ""] {
            assert_eq!(asked(&client, token, code).await, (7, Some(401)), "{token} {code}");
        }
        assert_eq!(refusals(&adapter).await, 3.0 * (at + 1) as f64);
    }
    for code in RIGHT {
        assert_eq!(asked(&client, "key", code).await, (0, None), "{code}");
        let shown = if code == 0 { 401 } else { code as i32 };
        assert_eq!(asked(&client, "other", code).await, (7, Some(shown)), "{code}");
    }
    assert_eq!(refusals(&adapter).await, 3.0 * WRONG.len() as f64);
    let page = adapter.page();
    let outcome = |outcome| page.of("mygrpcadapter_verdicts_total", "outcome", outcome);
    assert_eq!((outcome("allow"), outcome("deny")), (4.0, 3.0 * WRONG.len() as f64 + 4.0));
}

#[tokio::test]
async fn validate_refuses_a_code_that_is_no_http_error_and_counts_it() {
    let adapter = Adapter::start(&["--metrics-port", "0"]).await;
    let client = adapter.client().await;
    let validated = async |code| {
        let request = ValidateRequest { adapter_config: Some(own(&handler(code))), ..Default::default() };
        let reply = client.unary(VALIDATE, &request.encode_to_vec()).await.unwrap();
        ValidateResponse::decode(reply.body).unwrap().status.unwrap()
    };
    for code in WRONG {
        let status = validated(code).await;
        assert_eq!(status.code, 3, "{code}");
        assert!(status.message.contains(&format!("denied.code: {code} is not")), "{}", status.message);
    }
    assert_eq!(refusals(&adapter).await, WRONG.len() as f64);
    for code in RIGHT {
        assert_eq!(validated(code).await.code, 0, "{code}");
    }
    assert_eq!(refusals(&adapter).await, WRONG.len() as f64);
}
