//! Health of a volume that refuses reports, and its recovery.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mygrpcadapter::pb::grpc::health::v1::health_check_response::ServingStatus;

use crate::health::{check, next, watch};
use crate::support::message::{METRIC, Shape};
use crate::support::namespace::{Frozen, skip};
use crate::support::{
    Adapter, Client, FAILED_PRECONDITION, OK, RESOURCE_EXHAUSTED, Reply, Scratch, UNAVAILABLE,
};
use crate::volumes::Mounted;

const METRICS: [&str; 2] = ["--metrics-port", "0"];
const REPORTS: &str = "metric.HandleMetricService";
const AUTHORIZATION: &str = "authorization.HandleAuthorizationService";

const fn shape(file: &'static str) -> Shape {
    Shape { file, padding: 300 }
}

async fn report(client: &Client, file: &'static str, name: &str) -> Reply {
    client.unary(METRIC, &shape(file).message(name)).await.unwrap()
}

fn fill(path: &Path) {
    // As much as fits.
    let _ = std::fs::write(path, vec![b'x'; 64 * 1024]);
}

#[tokio::test]
async fn a_stall_costs_no_cpu_and_is_counted_once() {
    let Some(mounted) = Mounted::ext4() else { return };
    let adapter = mounted.adapter(&METRICS).await;
    let client = adapter.client().await;
    assert_eq!(report(&client, "out.txt", "before").await, Reply::default());
    let frozen = Frozen::new(&mounted.namespace, mounted.path());
    assert_eq!(report(&client, "out.txt", "during").await.status, UNAVAILABLE);
    let start = adapter.cpu_ticks();
    // A measuring period, not a wait for a condition.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let ticks = adapter.cpu_ticks() - start;
    assert!(ticks < 100, "{ticks} ticks of a hundredth of a second in three seconds");
    assert_eq!(adapter.page().of("mygrpcadapter_write_errors_total", "reason", "stalled"), 1.0);
    // New reports wait for room, and the refusal names the reason.
    let refused = report(&client, "out.txt", "refused").await;
    assert_eq!(refused.status, UNAVAILABLE, "{}", refused.message);
    drop(frozen);
    adapter.logged("no longer stalled").await;
    assert_eq!(report(&client, "out.txt", "after").await, Reply::default());
    let written = shape("out.txt").names(&adapter.read("out.txt"));
    assert_eq!(written, ["before", "during", "after"]);
    let instances = adapter.page().of("mygrpcadapter_instances_total", "template", "metric");
    assert_eq!(instances, 3.0, "what is in the file is counted");
}

#[tokio::test]
async fn a_volume_with_room_again_is_detected_while_reports_arrive() {
    let Some(mounted) = Mounted::tmpfs("size=64k") else { return };
    let adapter = mounted.adapter(&METRICS).await;
    let client = adapter.client().await;
    let ballast = mounted.seen().join("ballast");
    fill(&ballast);
    let mut reports = watch(&client, REPORTS).await;
    while next(&mut reports).await != Some(ServingStatus::Serving) {}
    let ended = Arc::new(AtomicBool::new(false));
    let sender = tokio::spawn({
        let (client, ended) = (client.clone(), Arc::clone(&ended));
        async move {
            while !ended.load(Ordering::Relaxed) {
                let reply = report(&client, "out.txt", "n").await;
                assert!(matches!(reply.status, OK | RESOURCE_EXHAUSTED), "{}", reply.message);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    assert_eq!(next(&mut reports).await, Some(ServingStatus::NotServing));
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    assert_eq!(adapter.page().single("mygrpcadapter_reports_serving"), 1.0);
    ended.store(true, Ordering::Relaxed);
    sender.await.unwrap();
}

#[tokio::test]
async fn a_full_volume_whose_file_is_deleted_is_detected_without_reports() {
    let Some(mounted) = Mounted::tmpfs("size=64k") else { return };
    let adapter = mounted.adapter(&METRICS).await;
    let client = adapter.client().await;
    let mut reports = watch(&client, REPORTS).await;
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    // Two files, so that deletion is not limited to the most recently used one.
    for at in 0.. {
        let file = ["out.txt", "other.txt"][at % 2];
        match report(&client, file, "n").await.status {
            OK => {}
            status => {
                assert_eq!(status, RESOURCE_EXHAUSTED);
                break;
            }
        }
    }
    assert_eq!(next(&mut reports).await, Some(ServingStatus::NotServing));
    for file in ["out.txt", "other.txt"] {
        std::fs::remove_file(mounted.seen().join(file)).unwrap();
    }
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    assert_eq!(report(&client, "out.txt", "after").await, Reply::default());
    assert_eq!(shape("out.txt").names(&adapter.read("out.txt")), ["after"]);
}

/// An adapter of another user, on a volume where it may create files, but may not
/// write to those in `denied`.
async fn of_another_user(scratch: &Scratch, denied: &[&str]) -> Option<Adapter> {
    const USER: u32 = 4321;
    let wrapper = ["setpriv", "--reuid=4321", "--regid=4321", "--clear-groups", "--"];
    let may_run = ["test", "-x", crate::support::program::PROGRAM];
    let allowed = Command::new(wrapper[0]).args(&wrapper[1..]).args(may_run).status();
    if !allowed.is_ok_and(|status| status.success()) {
        skip("there is no setpriv, or another user may not run the program");
        return None;
    }
    std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let volume = scratch.dir("volume");
    chown(&volume, Some(USER), Some(USER)).unwrap();
    for file in denied {
        std::fs::write(volume.join(file), "").unwrap();
    }
    Some(Adapter::start_by(&wrapper, &volume, &METRICS).await)
}

fn permit(adapter: &Adapter, file: &str) {
    std::fs::set_permissions(adapter.volume.join(file), PermissionsExt::from_mode(0o666)).unwrap();
}

#[tokio::test]
async fn health_reports_a_denied_default_file_from_the_start() {
    let scratch = Scratch::in_memory();
    let Some(adapter) = of_another_user(&scratch, &["out.txt"]).await else { return };
    let client = adapter.client().await;
    assert_eq!(check(&client, REPORTS).await, Ok(ServingStatus::NotServing));
    assert_eq!(check(&client, AUTHORIZATION).await, Ok(ServingStatus::Serving));
    adapter.logged("reports are refused reason=denied cannot open out.txt").await;
    assert_eq!(report(&client, "out.txt", "denied").await.status, FAILED_PRECONDITION);
    assert_eq!(check(&client, REPORTS).await, Ok(ServingStatus::NotServing));
    let mut reports = watch(&client, REPORTS).await;
    assert_eq!(next(&mut reports).await, Some(ServingStatus::NotServing));
    permit(&adapter, "out.txt");
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    assert_eq!(report(&client, "out.txt", "after").await, Reply::default());
    assert_eq!(shape("out.txt").names(&adapter.read("out.txt")), ["after"]);
}

#[tokio::test]
async fn health_reports_a_volume_whose_files_are_all_denied_until_one_is_writable() {
    for leave in ["permit", "another"] {
        let scratch = Scratch::in_memory();
        let Some(adapter) = of_another_user(&scratch, &["a.txt", "b.txt"]).await else { return };
        let client = adapter.client().await;
        let mut reports = watch(&client, REPORTS).await;
        assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
        for file in ["a.txt", "b.txt", "a.txt"] {
            let reply = report(&client, file, "denied").await;
            assert_eq!(reply.status, FAILED_PRECONDITION, "{}", reply.message);
        }
        assert_eq!(next(&mut reports).await, Some(ServingStatus::NotServing));
        assert_eq!(check(&client, AUTHORIZATION).await, Ok(ServingStatus::Serving));
        if leave == "permit" {
            permit(&adapter, "a.txt");
        } else {
            assert_eq!(report(&client, "c.txt", "written").await, Reply::default());
        }
        assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    }
}

#[tokio::test]
async fn one_denied_file_among_others_does_not_affect_health() {
    let scratch = Scratch::in_memory();
    let Some(adapter) = of_another_user(&scratch, &["denied.txt"]).await else { return };
    let client = adapter.client().await;
    assert_eq!(report(&client, "good.txt", "first").await, Reply::default());
    let mut reports = watch(&client, REPORTS).await;
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    for _ in 0..20 {
        assert_eq!(report(&client, "denied.txt", "denied").await.status, FAILED_PRECONDITION);
        assert_eq!(check(&client, REPORTS).await, Ok(ServingStatus::Serving));
    }
    assert_eq!(adapter.page().of("mygrpcadapter_write_errors_total", "reason", "denied"), 20.0);
    assert!(!adapter.log().iter().any(|line| line.contains("reports are refused")), "{:?}", adapter.log());
}

#[tokio::test]
async fn health_reports_a_file_that_cannot_be_repaired_until_it_can() {
    let half = &shape("out.txt").text("half")[..60];
    // An append-only file gets a newline, but NUL bytes would stay.
    let with_nuls = format!("{}{}", shape("out.txt").text("before"), "\0".repeat(100));
    for (attribute, end) in [("i", half), ("a", &with_nuls)] {
        let Some(mounted) = Mounted::ext4() else { return };
        let file = format!("{}/out.txt", mounted.path());
        std::fs::write(mounted.seen().join("out.txt"), end).unwrap();
        mounted.namespace.run(&["chattr", &format!("+{attribute}"), &file]);
        let adapter = mounted.adapter(&METRICS).await;
        let client = adapter.client().await;
        let refused = report(&client, "out.txt", "refused").await;
        assert_eq!(refused.status, FAILED_PRECONDITION, "{attribute}: {}", refused.message);
        let mut reports = watch(&client, REPORTS).await;
        while next(&mut reports).await != Some(ServingStatus::NotServing) {}
        mounted.namespace.run(&["chattr", &format!("-{attribute}"), &file]);
        while next(&mut reports).await != Some(ServingStatus::Serving) {}
        assert_eq!(report(&client, "out.txt", "after").await, Reply::default());
        let text = String::from_utf8(adapter.read("out.txt")).unwrap();
        assert!(text.ends_with(&shape("out.txt").text("after")) && !text.contains('\0'), "{text}");
    }
}

#[tokio::test]
async fn a_file_that_is_denied_after_the_disk_was_full_takes_nothing_down() {
    let Some(mounted) = Mounted::ext4() else { return };
    let denied = mounted.seen().join("denied.txt");
    std::fs::write(&denied, "").unwrap();
    mounted.namespace.run(&["chattr", "+i", &format!("{}/denied.txt", mounted.path())]);
    let adapter = mounted.adapter(&METRICS).await;
    let client = adapter.client().await;
    let mut reports = watch(&client, REPORTS).await;
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    let ballast = mounted.seen().join("ballast");
    let _ = std::fs::write(&ballast, vec![b'x'; 64 << 20]);
    while report(&client, "out.txt", "n").await.status != RESOURCE_EXHAUSTED {}
    assert_eq!(next(&mut reports).await, Some(ServingStatus::NotServing));
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    assert_eq!(report(&client, "denied.txt", "denied").await.status, FAILED_PRECONDITION);
    assert_eq!(check(&client, REPORTS).await, Ok(ServingStatus::Serving));
    mounted.namespace.run(&["chattr", "-i", &format!("{}/denied.txt", mounted.path())]);
}

#[tokio::test]
async fn a_file_of_the_largest_size_allowed_is_no_trouble_of_another() {
    let scratch = Scratch::new();
    let script = "trap '' XFSZ && exec \"$@\"";
    let wrapper = ["sh", "-c", script, "sh", "prlimit", "--core=0", "--fsize=2000:2000"];
    let adapter = Adapter::start_by(&wrapper, &scratch.dir("volume"), &METRICS).await;
    let client = adapter.client().await;
    assert_eq!(report(&client, "small.txt", "first").await, Reply::default());
    // Fewer than these fit.
    for at in 0..10 {
        let reply = report(&client, "large.txt", &at.to_string()).await;
        assert!(matches!(reply.status, OK | FAILED_PRECONDITION), "{}", reply.message);
    }
    assert!(adapter.page().of("mygrpcadapter_write_errors_total", "reason", "denied") >= 1.0);
    assert_eq!(check(&client, REPORTS).await, Ok(ServingStatus::Serving));
    assert_eq!(report(&client, "small.txt", "second").await, Reply::default());
    assert_eq!(shape("small.txt").names(&adapter.read("small.txt")), ["first", "second"]);
}
