//! Checks sent to the running adapter: verdicts, and answers without a verdict.

use std::process::Command;

use bytes::{Bytes, BytesMut};
use mygrpcadapter::frontends::envoy::ext_authz::without_body::MAX_KEPT;
use mygrpcadapter::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use mygrpcadapter::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse, HeaderMap, HeaderValue};
use prost::Message;

use super::answers::{decoded, envoy_sends, reason};
use super::{check, http};
use crate::captures::recorded;
use crate::support::client::{Call, framed};
use crate::support::message::{METRIC, Shape};
use crate::support::program::PROGRAM;
use crate::support::{
    Adapter, Client, OK, RESOURCE_EXHAUSTED, Reply, Scratch, UNAVAILABLE, UNIMPLEMENTED, until,
};

pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
pub const SERVICE: &str = "envoy.service.auth.v3.Authorization";
pub const TOKEN: &str = "x-custom-token";
const SLEEP: &str = "spiffe://cluster.local/ns/default/sa/sleep";
/// Size limit of a message.
const LARGEST: usize = 4 << 20;

/// An adapter with these lines in its keys file.
pub async fn authorizing(lines: &str, args: &[&str]) -> Adapter {
    let scratch = Scratch::new();
    let (keys, volume) = (scratch.path().join("keys"), scratch.dir("volume"));
    std::fs::write(&keys, lines).unwrap();
    let words = ["--metrics-port", "0", "--auth-keys-file", keys.to_str().unwrap()];
    Adapter::start_in(&[], scratch, &volume, &[&words, args].concat()).await
}

/// A check of a request with this token.
pub fn asking(token: &str) -> Vec<u8> {
    check(Some(http(&[(TOKEN, token)])), "")
}

/// The HTTP status for Envoy's client, and the reason.
pub fn outcome(reply: &Reply) -> (i32, String) {
    assert_eq!(reply.status, OK, "{}", reply.message);
    let answer = decoded(&reply.body);
    (envoy_sends(&answer), reason(&answer).into())
}

pub async fn asked(client: &Client, message: &[u8]) -> (i32, String) {
    outcome(&client.unary(CHECK, message).await.unwrap())
}

fn is(status: i32, reason: &str) -> (i32, String) {
    (status, reason.into())
}

#[tokio::test]
async fn checks_of_a_real_envoy_are_answered_by_key_or_principal_and_counted() {
    let lines = format!("allow\nprincipal {SLEEP}\n");
    let adapter = authorizing(&lines, &["--auth-header", "X-Ext-Authz"]).await;
    let client = adapter.client().await;
    let mut seen = Vec::new();
    for path in recorded("envoy/ext-authz", "") {
        let case = path.file_name().unwrap().to_str().unwrap()[..2].to_owned();
        seen.push((case, asked(&client, &std::fs::read(&path).unwrap()).await));
    }
    let expected = [
        ("01", is(200, "key")),
        ("02", is(401, "no_token")),
        ("04", is(401, "no_token")),
        ("05", is(401, "no_token")),
        ("08", is(200, "principal")),
        ("10", is(401, "no_token")),
        ("11", is(401, "no_token")),
        ("13", is(403, "no_rule")),
        ("14", is(200, "principal")),
        ("16", is(401, "no_token")),
        ("17", is(401, "no_token")),
    ];
    assert_eq!(seen, expected.map(|(case, outcome)| (case.to_owned(), outcome)));
    let page = adapter.page();
    let of = |outcome, reason| {
        let labels = [("service", SERVICE), ("outcome", outcome), ("reason", reason)];
        page.value("mygrpcadapter_authorizations_total", &labels)
    };
    assert_eq!((of("allow", "key"), of("allow", "principal")), (1.0, 2.0));
    assert_eq!((of("deny", "no_token"), of("deny", "no_rule")), (7.0, 1.0));
    assert_eq!(page.total("mygrpcadapter_authorizations_total"), 11.0);
    assert_eq!(page.of("mygrpcadapter_verdicts_total", "outcome", "allow"), 3.0);
    assert_eq!(page.of("mygrpcadapter_verdicts_total", "outcome", "deny"), 8.0);
    assert_eq!(page.value("mygrpcadapter_requests_total", &[("service", SERVICE), ("code", "OK")]), 11.0);
    assert_eq!(page.single("mygrpcadapter_check_errors_total"), 0.0);
    assert!(adapter.files().is_empty(), "{:?}", adapter.files());
}

#[tokio::test]
async fn the_first_header_that_is_there_counts_and_one_that_came_twice_is_no_token() {
    let args = ["--auth-header", "authorization", "--auth-header=x-api-key"];
    let adapter = authorizing("abc\ndef\n", &args).await;
    let client = adapter.client().await;
    for (pairs, expected) in [
        (&[("authorization", "Bearer abc")][..], is(200, "key")),
        (&[("x-api-key", "abc")], is(200, "key")),
        (&[("authorization", "Bearer no"), ("x-api-key", "abc")], is(403, "wrong_token")),
        // Envoy joins repeated headers like this.
        (&[("x-api-key", "abc,def")], is(403, "wrong_token")),
        (&[(TOKEN, "abc")], is(401, "no_token")),
        (&[("x-api-key", "")], is(401, "no_token")),
    ] {
        assert_eq!(asked(&client, &check(Some(http(pairs)), "")).await, expected, "{pairs:?}");
    }
    let value =
        |value: &[u8]| HeaderValue { key: "X-Api-Key".into(), raw_value: value.into(), ..Default::default() };
    for (values, expected) in [
        (vec![value(b"abc")], is(200, "key")),
        (vec![value(b"abc"), value(b"abc")], is(403, "repeated_token")),
        (vec![value(b"ab\xff")], is(403, "wrong_token")),
    ] {
        let packed = HttpRequest { header_map: Some(HeaderMap { headers: values }), ..http(&[]) };
        assert_eq!(asked(&client, &check(Some(packed), "")).await, expected);
    }
}

#[tokio::test]
async fn without_any_key_everyone_is_denied_and_that_is_said_once() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for message in [asking(""), asking("abc"), check(None, SLEEP)] {
        for _ in 0..3 {
            assert_eq!(asked(&client, &message).await, is(403, "no_keys"));
        }
    }
    assert_eq!(adapter.times_logged("authorization has no key to compare with").await, 1);
}

#[tokio::test]
async fn a_denial_is_what_the_flags_say() {
    let args = [
        "--auth-missing-code=407",
        "--auth-denied-code=401",
        "--auth-denied-body=no",
        "--auth-denied-content-type=text/html",
        "--auth-www-authenticate=Bearer",
        "--auth-remove-header",
    ];
    let adapter = authorizing("abc\n", &args).await;
    let client = adapter.client().await;
    let answer = async |token| decoded(&client.unary(CHECK, &asking(token)).await.unwrap().body);
    let shown = |answer: &CheckResponse| format!("{:?}", answer.http_response);
    assert_eq!(envoy_sends(&answer("").await), 407);
    let denial = answer("wrong").await;
    assert_eq!(envoy_sends(&denial), 401);
    for part in ["body: \"no\"", "text/html", "www-authenticate"] {
        assert!(shown(&denial).contains(part), "{denial:?}");
    }
    let allow = answer("abc").await;
    assert_eq!(envoy_sends(&allow), 200);
    assert!(shown(&allow).contains("headers_to_remove: [\"x-custom-token\"]"), "{allow:?}");
}

#[test]
fn flags_that_cannot_be_are_64_and_say_what_to_do() {
    for (words, part) in [
        (&["--auth-header", "a b"][..], "--auth-header"),
        (&["--auth-missing-code", "200"], "use 400 to 599"),
        (&["--auth-denied-code", "ok"], "from 400 to 599"),
        (&["--auth-www-authenticate", "a\nb"], "--auth-www-authenticate"),
        (&["--auth-denied-content-type", "a\rb"], "--auth-denied-content-type"),
        (&["--auth-on-error", "allow"], "deny or unavailable"),
        (&["--auth-audit-file", "audit.txt"], "--volume none"),
    ] {
        let all = [&["0", "--volume", "none", "--metrics-port", "off"], words].concat();
        must_be_refused(&all, part);
    }
    let scratch = Scratch::new();
    let volume = scratch.path().to_str().unwrap();
    for path in ["../audit.txt", "audit.txt.000001"] {
        must_be_refused(&["0", "--volume", volume, "--auth-audit-file", path], "--auth-audit-file: ");
    }
}

fn must_be_refused(words: &[&str], part: &str) {
    let output = Command::new(PROGRAM).args(words).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(64), 1), "{words:?}: {error}");
    assert!(error.contains(part), "{words:?}: {error}");
}

/// Bodies of calls that are not valid checks, each as a list of sent parts.
fn no_checks() -> Vec<Vec<Bytes>> {
    let whole = framed(&asking("abc"));
    let large = framed(&with_body(100_000).encode_to_vec());
    let mut compressed = BytesMut::from(&*whole);
    compressed[0] = 1;
    let claims = |length: usize| [&[0], &(length as u32).to_be_bytes()[..]].concat().into();
    let headers = http(&[("x", &"h".repeat(MAX_KEPT + 1))]);
    vec![
        vec![Bytes::new()],
        vec![whole.slice(..3)],
        vec![whole.slice(..whole.len() - 1)],
        vec![whole.clone(), whole.clone()],
        vec![compressed.freeze()],
        vec![claims(LARGEST + 1)],
        vec![claims(u32::MAX as usize)],
        vec![framed(b"\x0a\x05")],
        vec![framed(&[0xff; 1_000])],
        // The same, but larger than a frame.
        vec![large.slice(..large.len() - 1)],
        vec![large.clone(), Bytes::from_static(b"x")],
        vec![framed(&[0xff; 100_000])],
        vec![claims(100_000), Bytes::from_static(b"\x0a\x7f"), vec![0; 99_998].into()],
        vec![framed(&check(Some(headers), ""))],
    ]
}

#[tokio::test]
async fn where_there_is_no_verdict_the_operator_chose_what_is_sent() {
    let deny = authorizing("abc\n", &[]).await;
    let unavailable = authorizing("abc\n", &["--auth-on-error", "unavailable"]).await;
    for (adapter, expected) in [(deny, OK), (unavailable, UNAVAILABLE)] {
        let client = adapter.client().await;
        let bodies = no_checks();
        for (at, parts) in bodies.iter().enumerate() {
            let mut call = client.open(CHECK).await.unwrap();
            for (part, body) in parts.iter().enumerate() {
                // The answer may arrive before the call is complete.
                let _ = call.send(body.clone(), part + 1 == parts.len());
            }
            let reply = call.reply().await.unwrap();
            assert_eq!(reply.status, expected, "{at}: {}", reply.message);
            assert!(expected != OK || outcome(&reply) == is(503, "error"), "{at}");
        }
        assert_eq!(asked(&client, &asking("abc")).await, is(200, "key"));
        let page = adapter.page();
        assert_eq!(page.single("mygrpcadapter_check_errors_total"), bodies.len() as f64);
        assert_eq!(page.total("mygrpcadapter_authorizations_total"), 1.0);
        assert_eq!(page.of("mygrpcadapter_refusals_total", "reason", "malformed"), 5.0);
    }
}

#[tokio::test]
async fn a_call_that_says_it_is_compressed_is_no_check() {
    let adapter = authorizing("abc\n", &[]).await;
    let client = adapter.client().await;
    let mut call = client.open_with(CHECK, &[("grpc-encoding", "gzip")]).await.unwrap();
    call.send(framed(&asking("abc")), true).unwrap();
    assert_eq!(call.reply().await.unwrap().status, UNIMPLEMENTED);
}

/// Limits on calls in flight: those that need the volume, and all.
const REQUESTS: usize = 2048;
const MOST: usize = REQUESTS + 256;

/// Opens `count` calls without a body yet.
async fn calls_without_a_body(adapter: &Adapter, path: &str, count: usize) -> Vec<Call> {
    let mut calls = Vec::new();
    // The stream limit of a connection falls as connections are added.
    for open in 2.. {
        let client = adapter.client().await;
        for _ in 0..(1024 / open).min(count - calls.len()) {
            calls.push(client.open(path).await.unwrap());
        }
        if calls.len() == count {
            break;
        }
    }
    until("all in flight", || {
        (adapter.page().single("mygrpcadapter_requests_in_flight") == count as f64).then_some(())
    })
    .await;
    calls
}

#[tokio::test]
async fn when_too_much_is_in_flight_a_check_is_answered_as_the_operator_chose() {
    for (how, expected) in [("deny", OK), ("unavailable", UNAVAILABLE)] {
        let adapter = authorizing("abc\n", &["--auth-on-error", how]).await;
        let client = adapter.client().await;
        let calls = calls_without_a_body(&adapter, CHECK, MOST).await;
        let reply = client.unary(CHECK, &asking("abc")).await.unwrap();
        assert_eq!(reply.status, expected, "{}", reply.message);
        assert!(expected != OK || outcome(&reply) == is(503, "error"));
        drop(calls);
        until("all given up", || {
            (adapter.page().single("mygrpcadapter_requests_in_flight") == 0.0).then_some(())
        })
        .await;
        assert_eq!(asked(&client, &asking("abc")).await, is(200, "key"));
    }
}

#[tokio::test]
async fn when_too_many_reports_are_in_flight_a_check_is_answered_all_the_same() {
    let adapter = authorizing("abc\n", &[]).await;
    let client = adapter.client().await;
    let _calls = calls_without_a_body(&adapter, METRIC, REQUESTS).await;
    let report = Shape { file: "out.txt", padding: 1 }.message("n");
    assert_eq!(client.unary(METRIC, &report).await.unwrap().status, RESOURCE_EXHAUSTED);
    assert_eq!(asked(&client, &asking("abc")).await, is(200, "key"));
    assert_eq!(asked(&client, &with_body(100_000).encode_to_vec()).await, is(200, "key"));
}

/// A check whose token follows a body of `length` bytes.
pub fn with_body(length: usize) -> CheckRequest {
    let body = "b".repeat(length);
    let token = HeaderValue { key: TOKEN.into(), value: "abc".into(), ..HeaderValue::default() };
    let header_map = Some(HeaderMap { headers: vec![token] });
    let http = HttpRequest { body, header_map, ..http(&[]) };
    CheckRequest::decode(&*check(Some(http), "")).unwrap()
}

/// A check of the maximum size.
fn largest() -> Vec<u8> {
    let around = with_body(LARGEST - 1_000).encoded_len() - (LARGEST - 1_000);
    let message = with_body(LARGEST - around).encode_to_vec();
    assert_eq!(message.len(), LARGEST);
    message
}

#[tokio::test]
async fn large_bodies_are_passed_over_however_they_come_and_take_no_memory() {
    let adapter = authorizing("abc\n", &[]).await;
    let client = adapter.client().await;
    assert_eq!(asked(&client, &asking("abc")).await, is(200, "key"));
    let before = adapter.peak_memory();
    for length in [0, 100, 16_000, 16_379, 16_384, 17_000, 100_000] {
        assert_eq!(asked(&client, &with_body(length).encode_to_vec()).await, is(200, "key"), "{length}");
    }
    let body = framed(&largest());
    for step in [LARGEST + 5, 10_000, 16_384] {
        let mut call = client.open(CHECK).await.unwrap();
        for part in (0..body.len()).step_by(step) {
            call.send(body.slice(part..body.len().min(part + step)), part + step >= body.len()).unwrap();
        }
        assert_eq!(outcome(&call.reply().await.unwrap()), is(200, "key"), "{step}");
    }
    let smaller = framed(&with_body(50_000).encode_to_vec());
    // Memory grows with the number of calls, not with their bodies.
    for (count, body, most) in [(24, body, 4 * 1024), (600, smaller, 12 * 1024)] {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..count {
            let (client, body) = (client.clone(), body.clone());
            calls.spawn(async move { client.framed(CHECK, body).await.unwrap() });
        }
        for reply in calls.join_all().await {
            assert_eq!(outcome(&reply), is(200, "key"), "{count}");
        }
        let grown = adapter.peak_memory() - before;
        assert!(grown < most, "{count}: {grown} KiB");
    }
}

#[tokio::test]
async fn a_message_of_a_frame_may_come_a_byte_at_a_time() {
    let adapter = authorizing("abc\n", &[]).await;
    let client = adapter.client().await;
    let body = framed(&asking("abc"));
    let mut call = client.open(CHECK).await.unwrap();
    for at in 0..body.len() {
        call.send(body.slice(at..=at), at + 1 == body.len()).unwrap();
    }
    assert_eq!(outcome(&call.reply().await.unwrap()), is(200, "key"));
}

/// A check with its token among `count` headers of 100 bytes.
pub fn with_headers(count: usize) -> Vec<u8> {
    let names: Vec<String> = (0..count).map(|at| format!("x-{at}")).collect();
    let value = "v".repeat(100);
    let mut pairs: Vec<(&str, &str)> = names.iter().map(|name| (&**name, &*value)).collect();
    pairs.push((TOKEN, "abc"));
    check(Some(http(&pairs)), "")
}

#[tokio::test]
async fn huge_headers_are_read_up_to_a_bound() {
    let adapter = authorizing("abc\n", &[]).await;
    let client = adapter.client().await;
    let before = adapter.peak_memory();
    for count in [100, 1_000, 4_000] {
        let message = with_headers(count);
        assert!(message.len() < MAX_KEPT);
        assert_eq!(asked(&client, &message).await, is(200, "key"), "{count}");
    }
    assert_eq!(asked(&client, &with_headers(6_000)).await, is(503, "error"));
    let mut calls = tokio::task::JoinSet::new();
    let message = with_headers(4_000);
    for _ in 0..16 {
        let (client, message) = (client.clone(), message.clone());
        calls.spawn(async move { client.unary(CHECK, &message).await.unwrap() });
    }
    for reply in calls.join_all().await {
        assert_eq!(outcome(&reply), is(200, "key"));
    }
    let grown = adapter.peak_memory() - before;
    assert!(grown < 8 * 1024, "{grown} KiB");
}

#[tokio::test]
async fn a_check_that_finds_no_room_before_its_deadline_is_answered_as_one_without_a_verdict() {
    let adapter = authorizing("abc\n", &["--queue-timeout", "1h"]).await;
    let client = adapter.client().await;
    // A report that reserves all room for large messages, and never arrives completely.
    let report = framed(&Shape { file: "out.txt", padding: LARGEST - 1_000 }.message("n"));
    let mut slow = client.open(METRIC).await.unwrap();
    slow.send(report.slice(..20_000), false).unwrap();
    let mut call = client.open_with(CHECK, &[("grpc-timeout", "100m")]).await.unwrap();
    let headers = http(&[("x", &"h".repeat(40_000)), (TOKEN, "abc")]);
    call.send(framed(&check(Some(headers), "")), true).unwrap();
    assert_eq!(outcome(&call.reply().await.unwrap()), is(503, "error"));
    // Neither a body nor a small check needs any of that room.
    assert_eq!(asked(&client, &with_body(1 << 20).encode_to_vec()).await, is(200, "key"));
    assert_eq!(asked(&client, &asking("abc")).await, is(200, "key"));
    slow.cancel();
}
