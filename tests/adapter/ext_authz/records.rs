//! Audit records: their content, and that no verdict waits for one.

use mygrpcadapter::pb::grpc::health::v1::health_check_response::ServingStatus;

use super::served::{CHECK, SERVICE, TOKEN, asked, asking, authorizing};
use super::{check, http};
use crate::access_logs::{self, EXPORT, Stream};
use crate::captures::recorded;
use crate::health;
use crate::json::objects;
use crate::support::client::framed;
use crate::support::message::{METRIC, Shape};
use crate::support::namespace::Frozen;
use crate::support::{Adapter, OK, Scratch, until};
use crate::volumes::Mounted;

const SECRET: &str = "s3cr3t-t0ken";
const WRONG: &str = "wr0ng-t0ken";
const AUDIT: &str = "--auth-audit-file";

/// Waits until a file of an adapter has `count` lines.
async fn lines_of(adapter: &Adapter, file: &str, count: usize) -> Vec<String> {
    until(&format!("{count} lines in {file}"), || {
        let held = String::from_utf8(adapter.read(file)).unwrap();
        let lines: Vec<String> = held.lines().map(String::from).collect();
        (lines.len() >= count && held.ends_with('\n')).then_some(lines)
    })
    .await
}

/// Sends checks to an adapter with these flags. Returns the lines of its audit file.
async fn recorded_by(args: &[&str], file: &str) -> Vec<String> {
    let adapter = authorizing(&format!("{SECRET}\nprincipal spiffe://d/a\n"), args).await;
    let client = adapter.client().await;
    let request = |token| http(&[(TOKEN, token), ("x-request-id", "47c6\n8f1c")]);
    asked(&client, &check(Some(request(SECRET)), "spiffe://d/source")).await;
    asked(&client, &check(Some(request(WRONG)), "")).await;
    asked(&client, &check(None, "spiffe://d/a")).await;
    let lines = lines_of(&adapter, file, 3).await;
    let said = [adapter.log().concat(), lines.concat(), adapter.http("/metrics").text().to_owned()].concat();
    assert!(!said.contains(SECRET) && !said.contains(WRONG), "{said}");
    assert_eq!(adapter.files(), [file]);
    assert_eq!(adapter.page().single("mygrpcadapter_audit_errors_total"), 0.0);
    lines
}

#[tokio::test]
async fn each_verdict_leaves_a_line_of_text() {
    let lines = recorded_by(&[AUDIT, "audit.txt"], "audit.txt").await;
    let expected = [
        r#"verdict=allow reason=key kind=http method="GET" host="h" path="/p" source_principal="spiffe://d/source" destination_principal="spiffe://d/destination" request_id="47c6\n8f1c""#,
        r#"verdict=deny reason=wrong_token kind=http method="GET" host="h" path="/p" source_principal=- destination_principal="spiffe://d/destination" request_id="47c6\n8f1c""#,
        r#"verdict=allow reason=principal kind=tcp method=- host=- path=- source_principal="spiffe://d/a" destination_principal="spiffe://d/destination" request_id=-"#,
    ];
    for (line, expected) in lines.iter().zip(expected) {
        let (time, rest) = line.split_once(" ext_authz ").unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z') && time.len() == 27, "{line}");
        assert_eq!(rest, expected);
    }
}

#[tokio::test]
async fn each_verdict_leaves_an_object_in_json() {
    let lines = recorded_by(&[AUDIT, "/volume/audit.json", "--format", "json"], "audit.json").await;
    let seen = objects((lines.join("\n") + "\n").as_bytes());
    for (object, expected) in seen.iter().zip([
        [r#""allow""#, r#""key""#, r#""http""#, r#""/p""#, r#""47c6\n8f1c""#],
        [r#""deny""#, r#""wrong_token""#, r#""http""#, r#""/p""#, r#""47c6\n8f1c""#],
        [r#""allow""#, r#""principal""#, r#""tcp""#, "null", "null"],
    ]) {
        let shown = ["verdict", "reason", "kind", "path", "request_id"].map(|name| object[name].to_string());
        assert_eq!(shown, expected);
        assert_eq!((&object["service"], object.as_object().unwrap().len()), (&"ext_authz".into(), 11));
    }
}

#[tokio::test]
async fn checks_of_a_real_envoy_leave_a_record_each() {
    let adapter = authorizing("allow\n", &[AUDIT, "audit.txt", "--auth-header", "x-ext-authz"]).await;
    let client = adapter.client().await;
    let messages = recorded("envoy/ext-authz", "");
    for path in &messages {
        asked(&client, &std::fs::read(path).unwrap()).await;
    }
    let lines = lines_of(&adapter, "audit.txt", messages.len()).await;
    assert_eq!(lines.len(), messages.len());
    assert!(lines[0].contains("verdict=allow reason=key"), "{}", lines[0]);
    // The query is not recorded.
    assert!(lines[0].contains(r#" path="/authz/ok/page" "#) && !lines.concat().contains('?'), "{lines:?}");
}

#[tokio::test]
async fn what_is_no_check_leaves_no_record() {
    let adapter = authorizing("abc\n", &[AUDIT, "audit.txt"]).await;
    let client = adapter.client().await;
    let whole = framed(&asking("abc"));
    let twice = [&whole[..], &whole[..]].concat();
    for body in [whole.slice(..whole.len() - 1), twice.into()] {
        assert_eq!(client.framed(CHECK, body).await.unwrap().status, OK);
    }
    asked(&client, &asking("abc")).await;
    assert_eq!(lines_of(&adapter, "audit.txt", 1).await.len(), 1);
}

#[tokio::test]
async fn records_are_rotated_and_a_partial_one_is_cut_as_any_other() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let args = [AUDIT, "audit.txt", "--rotate-size", "1KiB", "--rotate-keep", "2"];
    let mut adapter = Adapter::start_on(&volume, &args).await;
    let client = adapter.client().await;
    for _ in 0..40 {
        asked(&client, &asking("abc")).await;
        // Wait for each write, so that there are rotations between them.
        until("it is written", || adapter.read("audit.txt").ends_with(b"\n").then_some(())).await;
    }
    until("two are rotated and older ones deleted", || (adapter.files().len() == 3).then_some(())).await;
    assert_eq!(adapter.stop().await, 0);
    let whole = adapter.read("audit.txt");
    let file = volume.join("audit.txt");
    for length in [1, 30, 60] {
        std::fs::write(&file, [&whole[..], &whole[..length]].concat()).unwrap();
        let mut adapter = Adapter::start_on(&volume, &args[..2]).await;
        asked(&adapter.client().await, &asking("abc")).await;
        adapter.logged("repaired the end of a file").await;
        assert_eq!(adapter.stop().await, 0);
        let held = adapter.read("audit.txt");
        let added = held.strip_prefix(&*whole).expect("what was whole stays");
        assert_eq!(added.iter().filter(|byte| **byte == b'\n').count(), 1, "{}", added.escape_ascii());
        assert!(added.starts_with(b"20"), "{}", added.escape_ascii());
    }
}

#[tokio::test]
async fn a_full_or_missing_volume_changes_no_verdict_and_is_counted() {
    let Some(mounted) = Mounted::tmpfs("size=16k") else { return };
    std::fs::write(mounted.seen().join("ballast"), vec![b'x'; 16 * 1024]).unwrap();
    let args = ["--metrics-port", "0", AUDIT, "audit.txt"];
    let full = mounted.adapter(&args).await;
    let gone = Adapter::start(&args).await;
    std::fs::remove_dir(&gone.volume).unwrap();
    for adapter in [full, gone] {
        let client = adapter.client().await;
        for _ in 0..3 {
            assert_eq!(asked(&client, &asking("abc")).await, (403, "no_keys".into()));
        }
        until("three failed records", || {
            (adapter.page().single("mygrpcadapter_audit_errors_total") == 3.0).then_some(())
        })
        .await;
        // The volume fails, which does not affect the authorizer.
        until("reports don't serve", || {
            (adapter.page().single("mygrpcadapter_reports_serving") == 0.0).then_some(())
        })
        .await;
        assert_eq!(health::check(&client, SERVICE).await, Ok(ServingStatus::Serving));
        assert_eq!(adapter.http(&format!("/readyz?service={SERVICE}")).status, 200);
        assert_eq!(asked(&client, &asking("abc")).await, (403, "no_keys".into()));
    }
}

#[tokio::test]
async fn a_stalled_volume_delays_no_verdict() {
    let Some(mounted) = Mounted::ext4() else { return };
    let args = ["--metrics-port", "0", AUDIT, "audit.txt", "--queue-timeout", "1h"];
    let adapter = mounted.adapter(&args).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 1 << 20 };
    asked(&client, &asking("abc")).await;
    lines_of(&adapter, "audit.txt", 1).await;
    let frozen = Frozen::new(&mounted.namespace, mounted.path());
    let written = adapter.page().single("mygrpcadapter_written_bytes_total");
    // Pending reports, on a separate connection.
    let reporter = adapter.client().await;
    let calls: Vec<_> = (0..6)
        .map(|at| {
            let reporter = reporter.clone();
            tokio::spawn(async move { reporter.unary(METRIC, &shape.message(&at.to_string())).await })
        })
        .collect();
    let counted = || adapter.page().single("mygrpcadapter_audit_errors_total");
    // The volume is stalled: a verdict that waited for a write would never arrive.
    let mut checks = 0;
    while counted() < 50.0 {
        assert_eq!(asked(&client, &asking("abc")).await, (403, "no_keys".into()));
        checks += 1;
        assert!(checks < 100_000, "the queue was never full");
    }
    assert_eq!(adapter.page().single("mygrpcadapter_written_bytes_total"), written);
    assert_eq!(adapter.page().of("mygrpcadapter_refusals_total", "reason", "audit"), counted());
    drop(frozen);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn logs_that_wait_on_the_same_connection_delay_no_verdict() {
    let Some(mounted) = Mounted::ext4() else { return };
    let adapter = mounted.adapter(&["--metrics-port", "0", "--queue-timeout", "1h"]).await;
    // An Envoy has one connection for all services of a host.
    let client = adapter.client().await;
    assert_eq!(asked(&client, &asking("abc")).await.0, 403);
    let _frozen = Frozen::new(&mounted.namespace, mounted.path());
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = Stream::open(&client).await;
        stream.send(&access_logs::first());
        (0..20).for_each(|_| stream.send(&access_logs::full()));
        streams.push(stream);
    }
    let export = access_logs::recorded("otlp-logs", "").remove(0);
    let export = export.repeat(40_000 / export.len());
    let mut exports = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let (client, export) = (client.clone(), export.clone());
        exports.spawn(async move { client.unary(EXPORT, &export).await });
    }
    adapter.logged("the volume has stalled").await;
    for _ in 0..100 {
        assert_eq!(asked(&client, &asking("abc")).await.0, 403);
    }
    while exports.try_join_next().is_some() {}
    assert!(!exports.is_empty(), "no export waits");
}
