//! Which data is on disk when it is acknowledged, after the interval, and at exit.

use std::path::PathBuf;
use std::process::Command;

use mygrpcadapter::pb::grpc::health::v1::health_check_response::ServingStatus;

use crate::health::{check, next, watch};
use crate::support::client::framed;
use crate::support::message::{METRIC, WALKTHROUGH, params, request};
use crate::support::namespace::skip;
use crate::support::{Adapter, Client, OK, Reply, Scratch, UNAVAILABLE, until};

const METRICS: [&str; 2] = ["--metrics-port", "0"];
const REPORTS: &str = "metric.HandleMetricService";

/// An adapter under strace, which records system calls and fails or delays those in
/// `inject`.
struct Traced {
    adapter: Adapter,
    notes: PathBuf,
    _scratch: Scratch,
}

impl Traced {
    async fn start(inject: &[&str], args: &[&str]) -> Option<Self> {
        let scratch = Scratch::new();
        let notes = scratch.path().join("notes");
        let mut words = vec!["strace", "-D", "-f", "-y", "-qq", "-s", "0", "-o", notes.to_str()?];
        words.extend(["-e", "trace=fdatasync,fsync,syncfs,flock"]);
        words.extend(inject.iter().flat_map(|inject| ["-e", inject]));
        let trial = Command::new(words[0]).args(&words[1..]).arg("true").output();
        if !trial.is_ok_and(|output| output.status.success()) {
            skip("there is no strace, or it may not trace");
            return None;
        }
        let volume = scratch.dir("volume");
        let adapter = Adapter::start_by(&words, &volume, &[args, &METRICS].concat()).await;
        Some(Self { adapter, notes, _scratch: scratch })
    }

    /// The successful sync calls.
    fn synced(&self) -> Vec<String> {
        let notes = std::fs::read_to_string(&self.notes).unwrap();
        let is_sync = |line: &&str| line.contains("sync") && line.contains(" = 0");
        notes.lines().filter(is_sync).map(str::to_owned).collect()
    }

    /// Waits until a file or directory of the volume is synced.
    async fn is_synced(&self, name: &str) {
        let path = format!("<{}>", self.adapter.volume.join(name).to_str().unwrap().trim_end_matches('/'));
        until(&format!("{name} is on disk"), || {
            self.synced().iter().any(|call| call.contains(&path)).then_some(())
        })
        .await;
    }
}

fn message(file: &str) -> Vec<u8> {
    request(Some(params(WALKTHROUGH, file.as_bytes())), "n")
}

async fn report(client: &Client, file: &str) -> Reply {
    client.unary(METRIC, &message(file)).await.unwrap()
}

#[tokio::test]
async fn with_always_a_file_that_is_closed_for_others_is_on_disk_or_refused() {
    // The first round is slow enough for the second to hold all other requests.
    let inject = ["inject=flock:delay_enter=1000000:when=1", "inject=fdatasync:error=EIO:when=4"];
    let Some(traced) = Traced::start(&inject, &["--fsync", "always"]).await else { return };
    let client = traced.adapter.client().await;
    let mut calls = Vec::new();
    for at in 0..41 {
        let mut call = client.open(METRIC).await.unwrap();
        call.send(framed(&message(&format!("f{at}.txt"))), true).unwrap();
        calls.push(call);
    }
    let mut refused = 0;
    for call in calls {
        let reply = call.reply().await.unwrap();
        assert!(matches!(reply.status, OK | UNAVAILABLE), "{}", reply.message);
        refused += usize::from(reply.status != OK);
    }
    assert_eq!(refused, 1);
    let files: Vec<_> = traced.synced().into_iter().filter(|call| call.contains("/f")).collect();
    assert_eq!(files.iter().filter(|call| call.contains("fdatasync")).count(), 40);
    assert_eq!(traced.adapter.page().of("mygrpcadapter_write_errors_total", "reason", "io"), 1.0);
}

#[tokio::test]
async fn every_directory_that_was_made_is_on_disk_before_it_is_acknowledged() {
    for when in ["always", "interval=1h"] {
        let Some(traced) = Traced::start(&[], &["--fsync", when]).await else { return };
        let client = traced.adapter.client().await;
        assert_eq!(report(&client, "a/b/c.txt").await, Reply::default());
        for name in ["", "a", "a/b"] {
            traced.is_synced(name).await;
        }
    }
}

#[tokio::test]
async fn a_directory_that_could_not_be_put_on_disk_is_tried_again_before_anything_is_acknowledged() {
    let inject = ["inject=fsync:error=EIO:when=1..2"];
    let Some(traced) = Traced::start(&inject, &["--fsync", "always"]).await else { return };
    let client = traced.adapter.client().await;
    for _ in 0..2 {
        let reply = report(&client, "a/c.txt").await;
        assert_eq!(reply.status, UNAVAILABLE, "{}", reply.message);
    }
    assert_eq!(report(&client, "a/c.txt").await, Reply::default());
    for name in ["", "a"] {
        traced.is_synced(name).await;
    }
}

#[tokio::test]
async fn with_an_interval_a_file_is_on_disk_before_it_is_let_go_of() {
    let Some(traced) = Traced::start(&[], &["--fsync", "interval=1h"]).await else { return };
    let client = traced.adapter.client().await;
    // Renamed.
    assert_eq!(report(&client, "out.txt").await, Reply::default());
    let volume = &traced.adapter.volume;
    std::fs::rename(volume.join("out.txt"), volume.join("moved.txt")).unwrap();
    assert_eq!(report(&client, "out.txt").await, Reply::default());
    traced.is_synced("moved.txt").await;
    // Closed as the least recently used file.
    for at in 0..40 {
        assert_eq!(report(&client, &format!("f{at}.txt")).await, Reply::default());
    }
    for file in ["out.txt", "f0.txt", "f7.txt"] {
        traced.is_synced(file).await;
    }
}

#[tokio::test]
async fn with_an_interval_a_file_is_on_disk_when_it_is_rotated() {
    let args = ["--fsync", "interval=1h", "--rotate-size", "10"];
    let Some(traced) = Traced::start(&[], &args).await else { return };
    let client = traced.adapter.client().await;
    for _ in 0..3 {
        assert_eq!(report(&client, "out.txt").await, Reply::default());
    }
    for file in ["out.txt.000001", "out.txt.000002"] {
        traced.is_synced(file).await;
    }
}

#[tokio::test]
async fn with_an_interval_a_failed_sync_refuses_reports_is_logged_and_exits_with_74() {
    let inject = ["inject=fdatasync:error=EIO"];
    let Some(mut traced) = Traced::start(&inject, &["--fsync", "interval=50ms"]).await else { return };
    let client = traced.adapter.client().await;
    let mut reports = watch(&client, REPORTS).await;
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    assert_eq!(report(&client, "out.txt").await, Reply::default());
    assert_eq!(next(&mut reports).await, Some(ServingStatus::NotServing));
    assert!(traced.adapter.page().of("mygrpcadapter_write_errors_total", "reason", "io") >= 1.0);
    let reply = report(&client, "out.txt").await;
    assert_eq!(reply.status, UNAVAILABLE);
    assert!(reply.message.contains("cannot sync out.txt"), "{}", reply.message);
    assert_eq!(traced.adapter.stop().await, 74);
}

#[tokio::test]
async fn with_an_interval_a_later_success_serves_again_and_does_not_hide_the_loss() {
    let inject = ["inject=fdatasync:error=EIO:when=1"];
    let Some(mut traced) = Traced::start(&inject, &["--fsync", "interval=50ms"]).await else { return };
    let client = traced.adapter.client().await;
    let mut reports = watch(&client, REPORTS).await;
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    assert_eq!(report(&client, "out.txt").await, Reply::default());
    assert_eq!(next(&mut reports).await, Some(ServingStatus::NotServing));
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    assert_eq!(report(&client, "out.txt").await, Reply::default());
    assert_eq!(traced.adapter.page().of("mygrpcadapter_write_errors_total", "reason", "io"), 1.0);
    assert_eq!(traced.adapter.stop().await, 74);
    traced.adapter.logged("acknowledged reports may be lost").await;
}

#[tokio::test]
async fn with_an_interval_a_failed_sync_of_a_closed_file_is_logged_too() {
    let inject = ["inject=fdatasync:error=EIO:when=1"];
    let Some(mut traced) = Traced::start(&inject, &["--fsync", "interval=1h"]).await else { return };
    let client = traced.adapter.client().await;
    for at in 0..33 {
        assert_eq!(report(&client, &format!("f{at}.txt")).await, Reply::default());
    }
    assert_eq!(traced.adapter.page().of("mygrpcadapter_write_errors_total", "reason", "io"), 1.0);
    assert_eq!(traced.adapter.stop().await, 74);
}

#[tokio::test]
async fn without_fsync_all_files_are_on_disk_at_the_end_however_many() {
    for (inject, code) in [(&[][..], 0), (&["inject=syncfs:error=EIO"], 74)] {
        let Some(mut traced) = Traced::start(inject, &["--fsync", "never"]).await else { return };
        let client = traced.adapter.client().await;
        for at in 0..40 {
            assert_eq!(report(&client, &format!("f{at}.txt")).await, Reply::default());
        }
        assert_eq!(traced.synced(), [""; 0]);
        drop(client);
        assert_eq!(traced.adapter.stop().await, code);
        let is_all = || {
            let synced = traced.synced();
            (synced.iter().any(|call| call.contains("syncfs")) || synced.len() >= 40).then_some(())
        };
        if code == 0 {
            until("all files are on disk", is_all).await;
        }
    }
}

#[tokio::test]
async fn a_file_that_is_not_on_disk_in_time_at_the_end_is_74() {
    let inject = ["inject=fdatasync:delay_enter=8000000"];
    let args = ["--drain-timeout", "200ms"];
    let Some(mut traced) = Traced::start(&inject, &args).await else { return };
    assert_eq!(report(&traced.adapter.client().await, "out.txt").await, Reply::default());
    assert_eq!(traced.adapter.stop().await, 74);
}

#[tokio::test]
async fn records_in_the_file_are_counted_even_if_the_caller_has_gone() {
    let inject = ["inject=flock:delay_enter=1000000:when=1"];
    let Some(traced) = Traced::start(&inject, &[]).await else { return };
    let client = traced.adapter.client().await;
    let mut calls = Vec::new();
    for _ in 0..10 {
        let mut call = client.open(METRIC).await.unwrap();
        call.send(framed(&message("out.txt")), true).unwrap();
        calls.push(call);
    }
    // Answered once those reports were received: a connection keeps its order.
    for _ in 0..3 {
        assert_eq!(check(&client, "").await, Ok(ServingStatus::Serving));
    }
    calls.into_iter().for_each(crate::support::client::Call::cancel);
    let written = until("all is written", || {
        let text = String::from_utf8(traced.adapter.read("out.txt")).unwrap();
        let written = text.matches("invoked with").count();
        (written == 10).then_some(written)
    })
    .await;
    until("all is counted", || {
        let counted = traced.adapter.page().of("mygrpcadapter_instances_total", "template", "metric");
        (counted == written as f64).then_some(())
    })
    .await;
}
