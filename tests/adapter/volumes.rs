//! Full, read-only, stalled and failing volumes: real mounts, each in its own
//! namespace.

use std::path::{Path, PathBuf};

use mygrpcadapter::pb::grpc::health::v1::health_check_response::ServingStatus;
use rustix::process::Signal;

use crate::health::{check, next, watch};
use crate::support::client::framed;
use crate::support::message::{METRIC, Shape, assert_each_once};
use crate::support::namespace::{Frozen, Namespace, skip};
use crate::support::{Adapter, Client, OK, RESOURCE_EXHAUSTED, Reply, Scratch, UNAVAILABLE, until};

const REPORTS: &str = "metric.HandleMetricService";

/// A volume on its own mount.
#[derive(Debug)]
pub struct Mounted {
    pub namespace: Namespace,
    volume: PathBuf,
    /// Last, so that it outlives the mount.
    _scratch: Scratch,
}

impl Mounted {
    pub fn tmpfs(options: &str) -> Option<Self> {
        let scratch = Scratch::new();
        let volume = scratch.dir("volume");
        let namespace = Namespace::mounted(&["-t", "tmpfs", "-o", options, "tmpfs"], &volume)?;
        Some(Self { namespace, volume, _scratch: scratch })
    }

    pub fn ext4() -> Option<Self> {
        let scratch = Scratch::new();
        let volume = scratch.dir("volume");
        let image = scratch.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(48 << 20).unwrap();
        let mkfs = std::process::Command::new("mkfs.ext4").arg("-qF").arg(&image).status();
        if !mkfs.is_ok_and(|status| status.success()) {
            skip("there is no mkfs.ext4");
            return None;
        }
        let namespace = Namespace::mounted(&["-o", "loop", image.to_str().unwrap()], &volume)?;
        Some(Self { namespace, volume, _scratch: scratch })
    }

    pub async fn adapter(&self, args: &[&str]) -> Adapter {
        let mut adapter = Adapter::start_by(&self.namespace.entry(), &self.volume, args).await;
        adapter.volume = self.namespace.seen(&self.volume);
        adapter
    }

    pub fn path(&self) -> &str {
        self.volume.to_str().unwrap()
    }

    pub fn seen(&self) -> PathBuf {
        self.namespace.seen(&self.volume)
    }

    pub fn remount(&self, options: &str) {
        self.namespace.run(&["mount", "-o", &format!("remount,{options}"), self.path()]);
    }
}

/// Waits until the report services are SERVING.
async fn serves_again(client: &Client) {
    let mut reports = watch(client, REPORTS).await;
    while next(&mut reports).await != Some(ServingStatus::Serving) {}
}

pub fn fill(path: &Path, bytes: usize) {
    std::fs::write(path, vec![b'x'; bytes]).unwrap();
}

#[tokio::test]
async fn the_free_space_is_that_of_the_previous_page() {
    let Some(mounted) = Mounted::tmpfs("size=256k") else { return };
    let adapter = mounted.adapter(&["--metrics-port", "0"]).await;
    let free = || adapter.page().single("mygrpcadapter_volume_free_bytes");
    assert_eq!(free(), 256.0 * 1024.0, "at the start");
    fill(&mounted.seen().join("ballast"), 64 * 1024);
    free();
    // The writer measures meanwhile.
    until("less space", || (free() == 192.0 * 1024.0).then_some(())).await;
}

#[tokio::test]
async fn a_full_volume_refuses_whole_requests_and_recovers() {
    let Some(mounted) = Mounted::tmpfs("size=64k") else { return };
    let ballast = mounted.seen().join("ballast");
    fill(&ballast, 32 * 1024);
    let adapter = mounted.adapter(&[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 700 };
    let mut acknowledged = Vec::new();
    let mut send = async |name: String| {
        let reply = client.unary(METRIC, &shape.message(&name)).await.unwrap();
        match reply.status {
            OK => acknowledged.push(name),
            status => assert_eq!(status, RESOURCE_EXHAUSTED, "{}", reply.message),
        }
        reply
    };
    for at in 0..100 {
        send(format!("before-{at}")).await;
    }
    let refused = send("full".into()).await;
    assert!(refused.message.contains("cannot write to out.txt"), "{}", refused.message);
    let held = shape.names(&adapter.read("out.txt"));
    assert!(held.len() < 100 && !held.is_empty());

    std::fs::remove_file(&ballast).unwrap();
    for at in 0..20 {
        assert_eq!(send(format!("after-{at}")).await, Reply::default());
    }
    let written = shape.names(&adapter.read("out.txt"));
    assert_eq!(written, acknowledged);
    serves_again(&client).await;
}

#[tokio::test]
async fn nothing_is_put_behind_an_end_that_a_full_volume_has_no_room_to_repair() {
    let Some(mounted) = Mounted::tmpfs("size=64k") else { return };
    let (file, ballast) = (mounted.seen().join("out.txt"), mounted.seen().join("ballast"));
    // Whole pages, so that one more newline needs another page.
    fill(&file, 8192);
    // As much as fits.
    let _ = std::fs::write(&ballast, vec![b'x'; 64 * 1024]);
    let adapter = mounted.adapter(&[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 10 };
    for name in ["1", "2", "3"] {
        let reply = client.unary(METRIC, &shape.message(name)).await.unwrap();
        assert_eq!(reply.status, RESOURCE_EXHAUSTED);
        assert!(reply.message.contains("cannot write to out.txt and repair its end"), "{}", reply.message);
    }
    std::fs::remove_file(&ballast).unwrap();
    adapter.logged("reports are accepted again").await;
    assert_eq!(client.unary(METRIC, &shape.message("after")).await.unwrap(), Reply::default());
    let expected = format!("{}\n{}", "x".repeat(8192), shape.text("after"));
    assert_eq!(String::from_utf8(adapter.read("out.txt")).unwrap(), expected);
    adapter.logged("repaired the end of a file").await;
    let of_it = |line: &&String| line.contains("reports are refused") || line.contains("the end of a file");
    assert_eq!(adapter.log().iter().filter(of_it).count(), 2, "{:?}", adapter.log());
}

#[tokio::test]
async fn many_at_once_on_a_full_volume_are_each_written_whole_or_refused() {
    let Some(mounted) = Mounted::tmpfs("size=256k") else { return };
    let ballast = mounted.seen().join("ballast");
    fill(&ballast, 128 * 1024);
    let adapter = mounted.adapter(&[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 333 };
    let mut acknowledged = Vec::new();
    for round in 0..6 {
        let names: Vec<String> = (0..100).map(|at| format!("{round}-{at}")).collect();
        let mut calls = Vec::new();
        for name in &names {
            let (client, message) = (client.clone(), shape.message(name));
            calls.push(tokio::spawn(async move { client.unary(METRIC, &message).await }));
        }
        for (name, call) in names.into_iter().zip(calls) {
            if call.await.unwrap().unwrap().status == OK {
                acknowledged.push(name);
            }
        }
        let written = shape.names(&adapter.read("out.txt"));
        assert_eq!(written.len(), acknowledged.len());
        assert_each_once(&acknowledged, &written);
        if round == 3 {
            assert!(acknowledged.len() < 400, "it was never full");
            std::fs::remove_file(&ballast).unwrap();
        }
    }
    assert!(acknowledged.iter().any(|name| name.starts_with("4-")), "it never recovered");
}

#[tokio::test]
async fn a_read_only_volume_refuses_requests_until_it_is_writable_again() {
    let Some(mounted) = Mounted::tmpfs("size=1m") else { return };
    let adapter = mounted.adapter(&[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "dir/out.txt", padding: 1 };
    mounted.remount("ro");
    for name in ["1", "2"] {
        let reply = client.unary(METRIC, &shape.message(name)).await.unwrap();
        assert_eq!(reply.status, UNAVAILABLE);
        assert!(reply.message.contains("Read-only file system"), "{}", reply.message);
    }
    assert_eq!(check(&client, "").await, Ok(ServingStatus::Serving));
    assert_eq!(check(&client, REPORTS).await, Ok(ServingStatus::NotServing));
    mounted.remount("rw");
    assert_eq!(client.unary(METRIC, &shape.message("3")).await.unwrap(), Reply::default());
    serves_again(&client).await;
    assert_eq!(shape.names(&adapter.read("dir/out.txt")), ["3"]);
}

#[test]
fn a_volume_that_is_read_only_from_the_start_is_73() {
    let Some(mounted) = Mounted::tmpfs("size=1m,ro") else { return };
    let [nsenter, entry @ ..] = mounted.namespace.entry();
    let words = [crate::support::program::PROGRAM, "0", "--volume", mounted.path()];
    let output = std::process::Command::new(nsenter).args(entry).args(words).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(73), "{error}");
    assert!(error.contains("Read-only file system") && error.lines().count() == 1, "{error}");
}

#[tokio::test]
async fn a_stalled_volume_fills_the_queue_and_no_more_and_then_goes_on() {
    let Some(mounted) = Mounted::ext4() else { return };
    let adapter = mounted.adapter(&["--queue-timeout", "200ms"]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 1 << 20 };
    assert_eq!(client.unary(METRIC, &shape.message("before")).await.unwrap(), Reply::default());

    let frozen = Frozen::new(&mounted.namespace, mounted.path());
    // One report of 1 MiB fills the queue; the others wait in vain for room, or for
    // memory to be received into.
    let mut calls = tokio::task::JoinSet::new();
    for at in 0..12 {
        let (client, name) = (client.clone(), format!("during-{at}"));
        calls.spawn(async move { (client.unary(METRIC, &shape.message(&name)).await.unwrap(), name) });
    }
    for _ in 0..11 {
        let (reply, _) = calls.join_next().await.unwrap().unwrap();
        assert_eq!(reply.status, RESOURCE_EXHAUSTED);
        assert!(reply.message.contains("the queue to the volume"), "{}", reply.message);
    }
    assert_eq!(check(&client, "").await, Ok(ServingStatus::Serving));
    assert_eq!(check(&adapter.client().await, "").await, Ok(ServingStatus::Serving));
    assert!(calls.try_join_next().is_none(), "answered, but not written");
    drop(frozen);

    let mut acknowledged = vec!["before".to_owned()];
    while let Some(call) = calls.join_next().await {
        let (reply, name) = call.unwrap();
        assert_eq!(reply, Reply::default());
        acknowledged.push(name);
    }
    assert_eq!(client.unary(METRIC, &shape.message("after")).await.unwrap(), Reply::default());
    acknowledged.push("after".to_owned());
    let written = shape.names(&adapter.read("out.txt"));
    assert_eq!(written.len(), acknowledged.len());
    assert_each_once(&acknowledged, &written);
}

#[tokio::test]
async fn reports_for_a_stalled_volume_wait_at_their_sender() {
    let Some(mounted) = Mounted::ext4() else { return };
    let adapter = mounted.adapter(&["--queue-timeout", "30s", "--metrics-port", "0"]).await;
    let shape = Shape { file: "out.txt", padding: 10_000 };
    let frozen = Frozen::new(&mounted.namespace, mounted.path());
    // 10 MB in all.
    let names: Vec<String> = (0..1000).map(|at| format!("n{at}")).collect();
    let calls = adapter.report_each(shape, &names, 250).await;
    // One batch is being written, one is queued, and the others wait.
    until("callers wait", || {
        (adapter.page().single("mygrpcadapter_requests_in_flight") >= 20.0).then_some(())
    })
    .await;
    // Other connections are served as usual.
    assert_eq!(check(&adapter.client().await, "").await, Ok(ServingStatus::Serving));
    drop(frozen);
    adapter.assert_all_taken(calls, shape, &names).await;
    let peak = adapter.peak_memory();
    assert!(peak < 16 * 1024, "{peak} KiB");
}

#[tokio::test]
async fn records_that_a_stalled_volume_never_took_are_logged_and_exit_with_74() {
    let Some(mounted) = Mounted::ext4() else { return };
    let mut adapter = mounted.adapter(&["--drain-timeout", "200ms"]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 1000 };
    assert_eq!(client.unary(METRIC, &shape.message("before")).await.unwrap(), Reply::default());
    let frozen = Frozen::new(&mounted.namespace, mounted.path());
    let mut call = client.open(METRIC).await.unwrap();
    call.send(framed(&shape.message("during")), true).unwrap();
    // Answered once that report was received: a connection keeps its order.
    for _ in 0..3 {
        assert_eq!(check(&client, "").await, Ok(ServingStatus::Serving));
    }
    adapter.signal(Signal::TERM);
    adapter.logged("the volume did not take what was queued").await;
    // The kernel keeps a process alive while its file system is frozen.
    drop(frozen);
    assert_eq!(adapter.exit().await, 74);
    assert!(!call.reply().await.is_ok_and(|reply| reply.status == OK), "acknowledged, but reported as lost");
    assert_eq!(shape.names(&adapter.read("out.txt"))[0], "before");
}

#[tokio::test]
async fn a_volume_that_fails_is_logged_and_does_not_end_the_adapter() {
    let Some(mounted) = Mounted::ext4() else { return };
    let mut adapter = mounted.adapter(&[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 1 };
    assert_eq!(client.unary(METRIC, &shape.message("before")).await.unwrap(), Reply::default());
    // As the kernel does to a file system whose disk fails.
    mounted.remount("abort");
    for name in ["1", "2"] {
        let reply = client.unary(METRIC, &shape.message(name)).await.unwrap();
        assert_eq!(reply.status, UNAVAILABLE);
        assert!(reply.message.contains("out.txt"), "{}", reply.message);
    }
    assert_eq!(check(&client, "").await, Ok(ServingStatus::Serving));
    assert_eq!(check(&client, REPORTS).await, Ok(ServingStatus::NotServing));
    // Acknowledged records cannot be synced any more, and the exit code says so.
    assert_eq!(adapter.stop().await, 74);
}
