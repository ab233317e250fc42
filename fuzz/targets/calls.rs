//! Any bytes as the message of a call to a whole adapter: every call is
//! answered, with a code that blames the caller and never the adapter.
//!
//! The first byte chooses the method.
#![no_main]

#[allow(dead_code, reason = "the tests, who share it, use more of it")]
#[path = "../../tests/adapter/support/client.rs"]
mod client;

use std::cell::RefCell;

use mygrpcadapter::pb::envoy::service::auth::v3::CheckResponse;
use mygrpcadapter::pb::envoy::service::auth::v3::check_response::HttpResponse;
use mygrpcadapter::pb::istio::mixer::adapter::model::v1beta1::{CheckResult, ValidateResponse};
use mygrpcadapter_fuzz::assert_is_line;
use mygrpcadapter_fuzz::server::Server;
use prost::Message;

use crate::client::{Client, Reply};

const PATHS: [&str; 12] = [
    "/metric.HandleMetricService/HandleMetric",
    "/logentry.HandleLogEntryService/HandleLogEntry",
    AUTHORIZE,
    "/tracespan.HandleTraceSpanService/HandleTraceSpan",
    "/edge.HandleEdgeService/HandleEdge",
    "/reportnothing.HandleReportNothingService/HandleReportNothing",
    "/checknothing.HandleCheckNothingService/HandleCheckNothing",
    VALIDATE,
    "/istio.mixer.adapter.model.v1beta1.InfrastructureBackend/CreateSession",
    "/istio.mixer.adapter.model.v1beta1.InfrastructureBackend/CloseSession",
    HEALTH,
    CHECK,
];
const AUTHORIZE: &str = "/authorization.HandleAuthorizationService/HandleAuthorization";
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const VALIDATE: &str = "/istio.mixer.adapter.model.v1beta1.InfrastructureBackend/Validate";

// gRPC's codes for what a caller may get wrong.
const OK: u32 = 0;
const INVALID_ARGUMENT: u32 = 3;
const NOT_FOUND: u32 = 5;
const RESOURCE_EXHAUSTED: u32 = 8;

struct Stand {
    server: Server,
    client: Client,
}

thread_local! {
    static STAND: RefCell<Stand> = RefCell::new({
        let server = Server::start("calls");
        let client = server.runtime.block_on(Client::connect(server.address)).expect("a connection");
        Stand { server, client }
    });
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [choice, message @ ..] = input else { return };
    let path = PATHS[usize::from(*choice) % PATHS.len()];
    let reply = STAND.with_borrow_mut(|stand| {
        stand.server.before_call();
        stand.server.runtime.block_on(stand.client.unary(path, message)).expect("an answer")
    });
    check(path, &reply);
});

fn check(path: &str, reply: &Reply) {
    assert_is_line(&reply.message);
    if reply.status != OK {
        let expected = match path {
            CHECK => false,
            HEALTH => [INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED].contains(&reply.status),
            _ => [INVALID_ARGUMENT, RESOURCE_EXHAUSTED].contains(&reply.status),
        };
        return assert!(expected, "{path} {reply:?}");
    }
    match path {
        // Nobody has a key, and without a verdict the default is to deny.
        CHECK => {
            let response = CheckResponse::decode(&*reply.body).expect("a CheckResponse");
            let code = response.status.expect("a status").code;
            assert!(code == 7 || code == 14, "a verdict of {code}");
            assert!(matches!(response.http_response, Some(HttpResponse::DeniedResponse(_))));
        }
        AUTHORIZE => {
            let result = CheckResult::decode(&*reply.body).expect("a CheckResult");
            let valid = result.valid_duration.unwrap_or_default();
            match result.status.expect("a status").code {
                0 => assert!(result.valid_use_count != 0, "an allow that Mixer takes for no answer"),
                7 => assert_eq!((result.valid_use_count, valid.seconds, valid.nanos), (0, 0, 0)),
                code => panic!("a verdict of {code}"),
            }
        }
        VALIDATE => {
            let status = ValidateResponse::decode(&*reply.body).expect("a ValidateResponse").status;
            let status = status.expect("a status");
            assert_is_line(&status.message);
            assert!(matches!((status.code, status.message.is_empty()), (0, true) | (3, false)));
        }
        _ => {}
    }
}
