//! Authorization: tokens, keys, verdicts, and their traces in files and logs.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mygrpcadapter::pb::authorization::{ActionMsg, HandleAuthorizationRequest, InstanceMsg, SubjectMsg};
use mygrpcadapter::pb::google::protobuf::{Any, Duration};
use mygrpcadapter::pb::google::rpc::Status;
use mygrpcadapter::pb::grpc::health::v1::health_check_response::ServingStatus;
use mygrpcadapter::pb::istio::mixer::adapter::model::v1beta1::CheckResult;
use mygrpcadapter::pb::istio::policy::v1beta1::{DirectHttpResponse, Uri, Value, value::Value as Kind};
use mygrpcadapter::pb::mygrpcadapter::config::v1::{Denied, Params};
use prost::Message;

use crate::captures::recorded;
use crate::health::check;
use crate::json::{asked, head, objects};
use crate::support::message::{
    AUTHORIZATION, LOGENTRY, METRIC, Shape, WALKTHROUGH, number, own, params, request, text, with_config,
};
use crate::support::namespace::Frozen;
use crate::support::program::PROGRAM;
use crate::support::{Adapter, Client, FAILED_PRECONDITION, INVALID_ARGUMENT, OK, Reply, Scratch, until};
use crate::templates::blocks;
use crate::volumes::Mounted;

const METRICS: [&str; 2] = ["--metrics-port", "0"];
const SECRET: &str = "s3cr3t-t0ken";
const PROPERTY: &str = "custom_token_header";
const PERMISSION_DENIED: i32 = 7;

/// An instance whose subject has this property, if any.
fn instance(property: Option<(&str, Value)>) -> InstanceMsg {
    let mut subject = SubjectMsg { user: "someone".into(), groups: "g".into(), ..SubjectMsg::default() };
    subject.properties.insert("iss".into(), text("issuer"));
    subject.properties.extend(property.map(|(key, value)| (key.to_owned(), value)));
    let mut action = ActionMsg { method: "GET".into(), path: "/p".into(), ..ActionMsg::default() };
    action.properties.insert("port".into(), number(9080));
    InstanceMsg { name: "icheck.instance.ns".into(), subject: Some(subject), action: Some(action) }
}

fn message(property: Option<(&str, Value)>, adapter_config: Option<Any>) -> Vec<u8> {
    let instance = Some(instance(property));
    HandleAuthorizationRequest { instance, adapter_config, dedup_id: "1".into() }.encode_to_vec()
}

fn token(value: &str) -> Option<(&str, Value)> {
    Some((PROPERTY, text(value)))
}

async fn judged(client: &Client, message: &[u8]) -> CheckResult {
    let reply = client.unary(AUTHORIZATION, message).await.unwrap();
    assert_eq!(reply.status, OK, "{}", reply.message);
    CheckResult::decode(reply.body).unwrap()
}

/// The default answer to an allowed request.
fn allowed() -> CheckResult {
    CheckResult {
        status: Some(Status::default()),
        valid_duration: Some(Duration { seconds: 5, nanos: 0 }),
        valid_use_count: 10_000,
    }
}

/// The default answer to a denied request.
fn denied() -> CheckResult {
    let status = Status { code: PERMISSION_DENIED, message: "Unauthorized...".into(), details: Vec::new() };
    CheckResult { status: Some(status), valid_duration: Some(Duration::default()), valid_use_count: 0 }
}

fn key(auth_key: &str) -> Params {
    Params { auth_key: auth_key.into(), ..Params::default() }
}

/// Asserts that the log contains no part of `secret`.
fn assert_unlogged(adapter: &Adapter, secret: &str) {
    assert!(!adapter.log().iter().any(|line| line.contains(secret)), "{:?}", adapter.log());
}

#[tokio::test]
async fn checks_of_a_real_mixer_are_judged_by_field_1_of_the_handlers_params() {
    let adapter = Adapter::start(&METRICS).await;
    let client = adapter.client().await;
    let mut allows = 0;
    for (folder, prefix) in
        [("authorization", ""), ("authorization-book", ""), ("by-version/1.0.9", "authorization-")]
    {
        for path in recorded(folder, prefix) {
            let message = std::fs::read(&path).unwrap();
            let request = HandleAuthorizationRequest::decode(&*message).unwrap();
            let properties = request.instance.unwrap().subject.unwrap().properties;
            let is_key = properties.get(PROPERTY) == Some(&text("abc"));
            allows += usize::from(is_key);
            let expected = if is_key { allowed() } else { denied() };
            assert_eq!(judged(&client, &message).await, expected, "{}", path.display());
        }
    }
    assert_eq!(allows, 5);
    assert!(adapter.files().is_empty(), "{:?}", adapter.files());
    let page = adapter.page();
    assert_eq!(page.of("mygrpcadapter_verdicts_total", "outcome", "allow"), 5.0);
    assert_eq!(page.of("mygrpcadapter_verdicts_total", "outcome", "deny"), 6.0);
}

#[tokio::test]
async fn only_a_string_that_is_the_key_is_let_in() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let foreign = params("type.googleapis.com/some.book.Params", SECRET.as_bytes());
    let uri = Value { value: Some(Kind::UriValue(Uri { value: SECRET.into() })) };
    for config in [foreign, own(&key(SECRET))] {
        for (property, expected) in [
            (token(SECRET), allowed()),
            (token("wrong"), denied()),
            (token(&SECRET.to_uppercase()), denied()),
            (token(&SECRET[1..]), denied()),
            (token(&format!("{SECRET} ")), denied()),
            (token(&format!("{SECRET}\0")), denied()),
            (token(""), denied()),
            (None, denied()),
            (Some((PROPERTY, number(1))), denied()),
            (Some((PROPERTY, uri.clone())), denied()),
            (Some((PROPERTY, Value::default())), denied()),
            (Some(("other", text(SECRET))), denied()),
            (Some(("Custom_Token_Header", text(SECRET))), denied()),
        ] {
            let message = message(property.clone(), Some(config.clone()));
            assert_eq!(judged(&client, &message).await, expected, "{property:?} {config:?}");
        }
    }
    assert_unlogged(&adapter, SECRET);
}

#[tokio::test]
async fn a_request_without_a_subject_is_denied_and_one_that_is_none_refused() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let config = Some(own(&key(SECRET)));
    for instance in [None, Some(InstanceMsg::default())] {
        let request =
            HandleAuthorizationRequest { instance, adapter_config: config.clone(), ..Default::default() };
        assert_eq!(judged(&client, &request.encode_to_vec()).await, denied());
    }
    for message in [&b"\x0a"[..], b"\x0a\x02\x0a\x7f", b"\x08\x01", b"\x12\x02\x0a\x7f"] {
        let reply = client.unary(AUTHORIZATION, message).await.unwrap();
        assert_eq!(reply.status, INVALID_ARGUMENT, "{}", message.escape_ascii());
    }
    let wrong = Any { type_url: "type.googleapis.com/adapter.Config".into(), value: b"\x0a\x01x".into() };
    let reply = client.unary(AUTHORIZATION, &message(token("x"), Some(wrong))).await.unwrap();
    assert_eq!(reply.status, INVALID_ARGUMENT);
}

#[tokio::test]
async fn our_own_params_name_several_keys_and_the_property() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let params = Params {
        auth_key: "first".into(),
        auth_keys: ["second", "", "third"].map(String::from).into(),
        auth_property: "x-api-key".into(),
        ..Params::default()
    };
    for (property, value, expected) in [
        ("x-api-key", "first", allowed()),
        ("x-api-key", "second", allowed()),
        ("x-api-key", "third", allowed()),
        ("x-api-key", "fourth", denied()),
        ("x-api-key", "", denied()),
        (PROPERTY, "first", denied()),
    ] {
        let message = message(Some((property, text(value))), Some(own(&params)));
        assert_eq!(judged(&client, &message).await, expected, "{property} {value}");
    }
}

#[tokio::test]
async fn an_allow_may_be_reused_as_the_handler_says_and_a_denial_never() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let span = |seconds, nanos| Some(Duration { seconds, nanos });
    for (valid_duration, valid_use_count, expected) in [
        (None, 0, (span(5, 0), 10_000)),
        (span(60, 500), 3, (span(60, 500), 3)),
        (None, 1, (span(5, 0), 1)),
        (span(0, 0), 0, (span(0, 0), 10_000)),
        (span(1, 0), -1, (span(1, 0), -1)),
    ] {
        let params = Params { valid_duration, valid_use_count, ..key(SECRET) };
        let result = judged(&client, &message(token(SECRET), Some(own(&params)))).await;
        assert_eq!((result.valid_duration, result.valid_use_count), expected);
        assert_eq!(judged(&client, &message(token("wrong"), Some(own(&params)))).await, denied());
    }
}

#[tokio::test]
async fn the_denied_are_sent_the_response_that_the_handler_asks_for() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for (asked, code, challenge) in [
        (Denied { code: 0, body: "no".into(), www_authenticate: "Bearer realm=\"x\"".into() }, 401, 1),
        (Denied { code: 403, body: String::new(), www_authenticate: String::new() }, 403, 0),
    ] {
        let params = Params { denied: Some(asked.clone()), ..key(SECRET) };
        let result = judged(&client, &message(token("wrong"), Some(own(&params)))).await;
        let status = result.status.clone().unwrap();
        assert_eq!((status.code, &*status.message), (PERMISSION_DENIED, "Unauthorized..."));
        let [detail] = &status.details[..] else { panic!("{:?}", status.details) };
        assert_eq!(detail.type_url, "type.googleapis.com/istio.policy.v1beta1.DirectHttpResponse");
        let response = DirectHttpResponse::decode(&*detail.value).unwrap();
        assert_eq!((response.code, &response.body, response.headers.len()), (code, &asked.body, challenge));
        assert_eq!(
            response.headers.get("WWW-Authenticate").is_some_and(|held| *held == asked.www_authenticate),
            challenge == 1
        );
        assert_eq!(judged(&client, &message(token(SECRET), Some(own(&params)))).await, allowed());
    }
}

#[tokio::test]
async fn without_any_key_every_request_is_denied_and_that_is_logged_once() {
    let adapter = Adapter::start(&METRICS).await;
    let client = adapter.client().await;
    for config in
        [None, Some(own(&Params::default())), Some(params(WALKTHROUGH, b"")), Some(own(&asked("a")))]
    {
        for property in [None, token(""), token(SECRET)] {
            assert_eq!(judged(&client, &message(property, config.clone())).await, denied());
        }
    }
    let said = adapter.times_logged("authorization has no key to compare with").await;
    assert_eq!(said, 1, "{:?}", adapter.log());
    assert_eq!(adapter.page().of("mygrpcadapter_verdicts_total", "outcome", "deny_no_keys"), 12.0);
}

/// Sends checks with each of the tokens until `stop`; returns how many were allowed
/// and how many denied.
async fn asking(client: Client, tokens: Vec<&'static str>, stop: Arc<AtomicBool>) -> (usize, usize) {
    let (mut ins, mut outs) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        for value in &tokens {
            if judged(&client, &message(token(value), None)).await == allowed() {
                ins += 1
            } else {
                outs += 1
            }
        }
    }
    (ins, outs)
}

/// Waits until a token gets the expected answer.
async fn until_judged(client: &Client, value: &str, expected: CheckResult) {
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while judged(client, &message(token(value), None)).await != expected {
        assert!(std::time::Instant::now() < deadline, "waited in vain for {value}");
    }
}

/// Rotates keys in a file from old to both to new, written by `put`. No request with
/// a current key may be denied.
async fn keys_are_rotated(file: &Path, put: impl Fn(&str)) {
    put("old\n");
    let adapter = Adapter::start(&["--auth-keys-file", file.to_str().unwrap()]).await;
    let client = adapter.client().await;
    let ask = |tokens: &[&'static str]| {
        let stop = Arc::new(AtomicBool::new(false));
        (tokio::spawn(asking(client.clone(), tokens.to_vec(), Arc::clone(&stop))), stop)
    };
    let (old, stop_old) = ask(&["old"]);
    until_judged(&client, "old", allowed()).await;
    assert_eq!(judged(&client, &message(token("new"), None)).await, denied());
    put("old\nnew\n");
    until_judged(&client, "new", allowed()).await;
    let (new, stop_new) = ask(&["new"]);
    stop_old.store(true, Ordering::Relaxed);
    let (ins, outs) = old.await.unwrap();
    assert!(ins > 0 && outs == 0, "{ins} {outs}");
    put("new\n");
    until_judged(&client, "old", denied()).await;
    stop_new.store(true, Ordering::Relaxed);
    let (ins, outs) = new.await.unwrap();
    assert!(ins > 0 && outs == 0, "{ins} {outs}");
    for secret in ["\"new\"", "\"old\"", "=new", "=old"] {
        assert_unlogged(&adapter, secret);
    }
}

#[tokio::test]
async fn keys_in_a_file_are_rotated_by_renaming_over_it() {
    let scratch = Scratch::new();
    let file = scratch.path().join("keys");
    let next = scratch.path().join("next");
    keys_are_rotated(&file, |keys| {
        std::fs::write(&next, keys).unwrap();
        std::fs::rename(&next, &file).unwrap();
    })
    .await;
}

#[tokio::test]
async fn keys_in_a_mounted_secret_are_rotated_by_its_links() {
    // The kubelet's layout: keys -> ..data/keys, ..data -> ..TIME.
    let scratch = Scratch::new();
    let dir = scratch.path();
    symlink("..data/keys", dir.join("keys")).unwrap();
    let times = AtomicUsize::new(0);
    keys_are_rotated(&dir.join("keys"), |keys| {
        let time = format!("..time{}", times.fetch_add(1, Ordering::Relaxed));
        std::fs::create_dir(dir.join(&time)).unwrap();
        std::fs::write(dir.join(&time).join("keys"), keys).unwrap();
        symlink(&time, dir.join("..data_tmp")).unwrap();
        std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn keys_of_the_file_and_of_the_handler_both_open() {
    let scratch = Scratch::new();
    let file = scratch.path().join("keys");
    std::fs::write(&file, "one\r\n\n  two  \nthree").unwrap();
    let adapter = Adapter::start(&["--auth-keys-file", file.to_str().unwrap()]).await;
    let client = adapter.client().await;
    let book = params(WALKTHROUGH, b"four");
    for value in ["one", "two", "three", "four"] {
        for config in [book.clone(), own(&key("four"))] {
            assert_eq!(judged(&client, &message(token(value), Some(config))).await, allowed(), "{value}");
        }
    }
    for value in ["", " ", "one\r", "one\r\n\n  two"] {
        assert_eq!(judged(&client, &message(token(value), Some(book.clone()))).await, denied(), "{value:?}");
    }
}

#[tokio::test]
async fn while_the_file_of_keys_is_gone_the_last_ones_hold() {
    let scratch = Scratch::new();
    let file = scratch.path().join("keys");
    std::fs::write(&file, "one\n").unwrap();
    let adapter = Adapter::start(&["--auth-keys-file", file.to_str().unwrap()]).await;
    let client = adapter.client().await;
    std::fs::remove_file(&file).unwrap();
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while !adapter.log().iter().any(|line| line.contains("cannot read the keys, the last ones hold")) {
        assert_eq!(judged(&client, &message(token("one"), None)).await, allowed());
        assert!(std::time::Instant::now() < deadline, "waited in vain");
    }
    assert_eq!(judged(&client, &message(token("one"), None)).await, allowed());
    std::fs::write(&file, "two\n").unwrap();
    until_judged(&client, "two", allowed()).await;
    assert_eq!(judged(&client, &message(token("one"), None)).await, denied());
}

#[test]
fn a_file_of_keys_that_cannot_be_read_is_66() {
    let scratch = Scratch::new();
    let missing = scratch.path().join("missing");
    let large = scratch.path().join("large");
    std::fs::write(&large, "x".repeat(64 * 1024 + 1)).unwrap();
    for (file, part) in
        [(&missing, "No such file"), (&large, "64 KiB"), (&scratch.path().to_owned(), "directory")]
    {
        let words = ["0", "--volume", "none", "--auth-keys-file", file.to_str().unwrap()];
        let output = Command::new(PROGRAM).args(words).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(66), "{error}");
        assert!(
            error.starts_with("mygrpcadapter: cannot read the keys in ") && error.contains(part),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

/// Waits until a file of an adapter contains `part` `count` times.
async fn until_held(adapter: &Adapter, file: &str, part: &str, count: usize) -> String {
    until(&format!("{count} of {part:?} in {file}"), || {
        let held = String::from_utf8(adapter.read(file)).unwrap();
        (held.matches(part).count() >= count).then_some(held)
    })
    .await
}

#[tokio::test]
async fn verdicts_leave_a_record_without_the_token() {
    let adapter = Adapter::start(&METRICS).await;
    let client = adapter.client().await;
    let in_text = Params { file_path: "/volume/audit.txt".into(), ..key(SECRET) };
    let in_json = Params { auth_key: SECRET.into(), ..asked("audit.json") };
    for params in [&in_text, &in_json] {
        for (value, expected) in [(SECRET, allowed()), ("wr0ng-t0ken", denied())] {
            assert_eq!(judged(&client, &message(token(value), Some(own(params)))).await, expected);
        }
    }
    let shown = until_held(&adapter, "audit.txt", "invoked with", 2).await;
    let lines = |verdict: &str| {
        let lines = [
            ("Verdict", verdict),
            ("User", "someone"),
            ("Groups", "g"),
            ("SubjectProperties", "map[iss:issuer]"),
            ("Namespace", ""),
            ("Service", ""),
            ("Method", "GET"),
            ("Path", "/p"),
            ("ActionProperties", "map[port:9080]"),
        ];
        vec![("icheck.instance.ns", lines.map(|(label, shown)| (label, shown.to_owned())).to_vec())]
    };
    let record = |verdict| blocks("HandleAuthorization", "/volume/audit.txt", &lines(verdict));
    assert_eq!(shown, record("allow") + &record("deny"));

    let shown = until_held(&adapter, "audit.json", "\n", 2).await;
    for (object, verdict) in objects(shown.as_bytes()).iter().zip(["allow", "deny"]) {
        head(object, "icheck.instance.ns", "authorization");
        assert_eq!((&object["verdict"], &object["path"]), (&verdict.into(), &"/p".into()));
        assert_eq!(object["subject_properties"], serde_json::json!({"iss": "issuer"}));
    }
    let held = [adapter.read("audit.txt"), adapter.read("audit.json")].concat();
    let held = String::from_utf8(held).unwrap();
    for secret in [SECRET, "wr0ng-t0ken", PROPERTY] {
        assert!(!held.contains(secret));
        assert_unlogged(&adapter, secret);
    }
    let page = adapter.http("/metrics");
    assert!(!page.text().contains(SECRET) && !page.text().contains("wr0ng"));
    assert_eq!(adapter.page().single("mygrpcadapter_audit_errors_total"), 0.0);
}

#[tokio::test]
async fn a_property_of_ones_own_is_kept_out_of_the_record_too() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let params = Params { auth_property: "x-api-key".into(), auth_key: SECRET.into(), ..asked("a.json") };
    let message = message(Some(("x-api-key", text(SECRET))), Some(own(&params)));
    assert_eq!(judged(&client, &message).await, allowed());
    let shown = until_held(&adapter, "a.json", "\n", 1).await;
    assert!(!shown.contains(SECRET) && !shown.contains("x-api-key"), "{shown}");
}

#[tokio::test]
async fn an_audit_on_a_full_or_missing_volume_changes_no_verdict_and_is_counted() {
    let Some(mounted) = Mounted::tmpfs("size=16k") else { return };
    std::fs::write(mounted.seen().join("ballast"), vec![b'x'; 16 * 1024]).unwrap();
    let full = mounted.adapter(&METRICS).await;
    let none = Adapter::start(&["--metrics-port", "0", "--volume", "none"]).await;
    let gone = Adapter::start(&METRICS).await;
    std::fs::remove_dir(&gone.volume).unwrap();
    let params = Params { auth_key: SECRET.into(), ..asked("audit.json") };
    for adapter in [full, none, gone] {
        let client = adapter.client().await;
        for (value, expected) in [(SECRET, allowed()), ("wrong", denied()), (SECRET, allowed())] {
            assert_eq!(judged(&client, &message(token(value), Some(own(&params)))).await, expected);
        }
        until("three failed audits", || {
            (adapter.page().single("mygrpcadapter_audit_errors_total") == 3.0).then_some(())
        })
        .await;
        let served = check(&client, "authorization.HandleAuthorizationService").await;
        assert_eq!(served, Ok(ServingStatus::Serving));
        assert_eq!(judged(&client, &message(token(SECRET), Some(own(&params)))).await, allowed());
        assert_unlogged(&adapter, SECRET);
    }
}

#[tokio::test]
async fn a_stalled_volume_delays_no_verdict() {
    let Some(mounted) = Mounted::ext4() else { return };
    let adapter = mounted.adapter(&METRICS).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 1 << 20 };
    assert_eq!(client.unary(METRIC, &shape.message("before")).await.unwrap(), Reply::default());
    let frozen = Frozen::new(&mounted.namespace, mounted.path());
    // Fills the queue, so that audit records find no room either.
    let calls: Vec<_> = (0..6)
        .map(|at| {
            let client = client.clone();
            tokio::spawn(async move { client.unary(METRIC, &shape.message(&at.to_string())).await })
        })
        .collect();
    let params = Params { auth_key: SECRET.into(), ..asked("audit.json") };
    let message = message(token(SECRET), Some(own(&params)));
    let counted = || adapter.page().single("mygrpcadapter_audit_errors_total");
    // Nothing is written meanwhile: verdicts cannot depend on a write.
    let mut asked = 0;
    while counted() < 50.0 {
        assert_eq!(judged(&client, &message).await, allowed());
        asked += 1;
        assert!(asked < 100_000, "the queue was never full");
    }
    assert_eq!(adapter.page().single("mygrpcadapter_written_bytes_total"), shape.text("before").len() as f64);
    drop(frozen);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn without_a_volume_there_are_verdicts_and_the_histogram_and_no_reports() {
    let adapter = Adapter::start(&["--metrics-port", "0", "--volume", "none"]).await;
    let client = adapter.client().await;
    assert_eq!(judged(&client, &message(token(SECRET), Some(own(&key(SECRET))))).await, allowed());
    // Params that are not empty, but have no path.
    let config = own(&asked(""));
    for path in recorded("gatewaymetric", "") {
        let entry = with_config(&std::fs::read(path).unwrap(), &config);
        assert_eq!(client.unary(LOGENTRY, &entry).await.unwrap(), Reply::default());
    }
    assert_eq!(adapter.page().total("http_request_seconds_histogram_count"), 9.0);
    let entry = std::fs::read(&recorded("logentry", "001")[0]).unwrap();
    for (path, message) in [(METRIC, request(None, "n")), (LOGENTRY, entry)] {
        let reply = client.unary(path, &message).await.unwrap();
        assert_eq!(reply.status, FAILED_PRECONDITION, "{path}");
        assert!(reply.message.contains("--volume none"), "{}", reply.message);
    }
    // The histogram has no observation of the refused entry.
    let page = adapter.page();
    assert_eq!(page.total("http_request_seconds_histogram_count"), 9.0);
    assert_eq!(page.of("mygrpcadapter_refusals_total", "reason", "no_volume"), 2.0);
    assert_eq!(check(&client, "").await, Ok(ServingStatus::Serving));
}
