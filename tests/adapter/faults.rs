//! A disk that fails and recovers, and a process that is killed at any moment.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mygrpcadapter::pb::grpc::health::v1::health_check_response::ServingStatus;
use rustix::process::Signal;
use tokio::task::JoinHandle;

use crate::health::{check, next, watch};
use crate::json::{asked, names};
use crate::support::message::{
    METRIC, Shape, WALKTHROUGH, assert_each_once, own, params, request, with_config,
};
use crate::support::namespace::{Frozen, skip};
use crate::support::{
    Adapter, Client, FAILED_PRECONDITION, OK, RESOURCE_EXHAUSTED, Reply, Scratch, UNAVAILABLE, until,
};
use crate::volumes::{Mounted, fill};

const METRICS: [&str; 2] = ["--metrics-port", "0"];
const SHAPE: Shape = Shape { file: "out.txt", padding: 300 };
const REPORTS: &str = "metric.HandleMetricService";
const OTHERS: [&str; 2] = ["", "authorization.HandleAuthorizationService"];

async fn report(client: &Client, name: &str) -> Reply {
    client.unary(METRIC, &SHAPE.message(name)).await.unwrap()
}

/// A wrapper that injects faults into an adapter's fdatasync and records each call in
/// a file.
fn traced<'a>(inject: &'a str, notes: &'a str) -> Option<Vec<&'a str>> {
    let words = vec!["strace", "-D", "-f", "-qq", "-o", notes, "-e", "trace=fdatasync", "-e", inject];
    let trial = Command::new(words[0]).args(&words[1..]).arg("true").output();
    if trial.is_ok_and(|output| output.status.success()) {
        return Some(words);
    }
    skip("there is no strace, or it may not trace");
    None
}

#[tokio::test]
async fn with_fsync_always_nothing_is_acknowledged_that_is_not_on_disk() {
    let scratch = Scratch::new();
    let (volume, notes) = (scratch.dir("volume"), scratch.path().join("notes"));
    let Some(wrapper) = traced("inject=fdatasync:error=EIO:when=1", notes.to_str().unwrap()) else { return };
    let args = [&["--fsync", "always"], &METRICS[..]].concat();
    let adapter = Adapter::start_by(&wrapper, &volume, &args).await;
    let client = adapter.client().await;
    let refused = report(&client, "first").await;
    assert_eq!(refused.status, UNAVAILABLE);
    assert!(refused.message.contains("cannot sync out.txt"), "{}", refused.message);
    assert_eq!(adapter.page().of("mygrpcadapter_write_errors_total", "reason", "io"), 1.0);
    assert_eq!(report(&client, "second").await, Reply::default());
    adapter.logged("reports are accepted again").await;
}

#[tokio::test]
async fn with_an_interval_acknowledged_records_are_synced_later() {
    let scratch = Scratch::new();
    let (volume, notes) = (scratch.dir("volume"), scratch.path().join("notes"));
    let Some(wrapper) = traced("inject=fdatasync:error=EIO", notes.to_str().unwrap()) else { return };
    let adapter = Adapter::start_by(&wrapper, &volume, &["--fsync", "interval=50ms"]).await;
    let client = adapter.client().await;
    assert_eq!(report(&client, "first").await, Reply::default());
    adapter.logged("cannot sync out.txt").await;
}

#[tokio::test]
async fn without_fsync_files_are_put_on_disk_once_at_the_end() {
    let scratch = Scratch::new();
    let (volume, notes) = (scratch.dir("volume"), scratch.path().join("notes"));
    let Some(wrapper) = traced("inject=fdatasync:retval=0", notes.to_str().unwrap()) else { return };
    let mut adapter = Adapter::start_by(&wrapper, &volume, &[]).await;
    let client = adapter.client().await;
    for at in 0..5 {
        assert_eq!(report(&client, &at.to_string()).await, Reply::default());
    }
    drop(client);
    assert_eq!(adapter.stop().await, 0);
    until("the notes are whole", || {
        (std::fs::read_to_string(&notes).unwrap().matches("fdatasync").count() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_fsync_serves_all_requests_that_wait_for_it() {
    let scratch = Scratch::new();
    let (volume, notes) = (scratch.dir("volume"), scratch.path().join("notes"));
    let inject = "inject=fdatasync:delay_enter=100000";
    let Some(wrapper) = traced(inject, notes.to_str().unwrap()) else { return };
    let mut adapter = Adapter::start_by(&wrapper, &volume, &["--fsync", "always"]).await;
    let client = adapter.client().await;
    let mut calls = Vec::new();
    for at in 0..300 {
        let (client, message) = (client.clone(), SHAPE.message(&at.to_string()));
        calls.push(tokio::spawn(async move { client.unary(METRIC, &message).await }));
    }
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), Reply::default());
    }
    drop(client);
    assert_eq!(adapter.stop().await, 0);
    let syncs = std::fs::read_to_string(&notes).unwrap().matches("fdatasync").count();
    assert!((1..100).contains(&syncs), "{syncs} for 300 requests");
    assert_eq!(SHAPE.names(&adapter.read("out.txt")).len(), 300);
}

#[tokio::test]
async fn fsync_does_not_change_the_written_bytes() {
    for when in ["always", "interval=10ms", "never"] {
        let mut adapter = Adapter::start(&["--fsync", when, "--rotate-size", "2KiB"]).await;
        let client = adapter.client().await;
        for at in 0..4 {
            assert_eq!(report(&client, &at.to_string()).await, Reply::default());
        }
        drop(client);
        assert_eq!(adapter.stop().await, 0);
        assert_eq!(SHAPE.names(&adapter.read("out.txt")), ["0", "1", "2", "3"], "{when}");
    }
}

#[tokio::test]
async fn health_reports_a_full_volume_until_it_has_room_again() {
    let Some(mounted) = Mounted::tmpfs("size=64k") else { return };
    let adapter = mounted.adapter(&METRICS).await;
    let client = adapter.client().await;
    let mut reports = watch(&client, REPORTS).await;
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    assert_eq!(report(&client, "before").await, Reply::default());
    let ballast = mounted.seen().join("ballast");
    // As much as fits.
    let _ = std::fs::write(&ballast, vec![b'x'; 64 * 1024]);
    let mut refused = 0;
    for at in 0..40 {
        let reply = report(&client, &at.to_string()).await;
        refused += usize::from(reply.status == RESOURCE_EXHAUSTED);
        assert!(matches!(reply.status, OK | RESOURCE_EXHAUSTED), "{}", reply.message);
    }
    assert!(refused > 20, "{refused}");
    assert_eq!(next(&mut reports).await, Some(ServingStatus::NotServing));
    for service in OTHERS {
        assert_eq!(check(&client, service).await, Ok(ServingStatus::Serving), "{service}");
    }
    assert_eq!(adapter.http("/readyz").status, 200);
    let page = adapter.page();
    assert_eq!(page.single("mygrpcadapter_reports_serving"), 0.0);
    assert_eq!(page.of("mygrpcadapter_write_errors_total", "reason", "full"), refused as f64);
    assert_eq!(adapter.times_logged("reports are refused reason=full").await, 1);
    adapter.logged("No space left on device (os error 28); free space").await;

    // It must recover without any new report.
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    assert_eq!(adapter.times_logged("reports are accepted again after reason=full").await, 1);
    assert_eq!(adapter.page().single("mygrpcadapter_reports_serving"), 1.0);
    assert_eq!(report(&client, "after").await, Reply::default());
    assert_eq!(adapter.times_logged("reports are").await, 2, "{:?}", adapter.log());
}

#[tokio::test]
async fn health_reports_a_stalled_volume_until_it_recovers() {
    let Some(mounted) = Mounted::ext4() else { return };
    let adapter = mounted.adapter(&METRICS).await;
    let client = adapter.client().await;
    let mut reports = watch(&client, REPORTS).await;
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    assert_eq!(report(&client, "before").await, Reply::default());
    let frozen = Frozen::new(&mounted.namespace, mounted.path());
    let during = report(&client, "during").await;
    assert_eq!(during.status, UNAVAILABLE);
    assert!(during.message.contains("the volume has stalled"), "{}", during.message);
    assert_eq!(next(&mut reports).await, Some(ServingStatus::NotServing));
    for service in OTHERS {
        assert_eq!(check(&client, service).await, Ok(ServingStatus::Serving), "{service}");
    }
    assert_eq!(adapter.page().of("mygrpcadapter_write_errors_total", "reason", "stalled"), 1.0);
    drop(frozen);
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    assert_eq!(adapter.times_logged("the volume has stalled").await, 1, "{:?}", adapter.log());
    assert_eq!(adapter.times_logged("the volume is no longer stalled").await, 1, "{:?}", adapter.log());
    assert_eq!(report(&client, "after").await, Reply::default());
    // Refused, but written: that is allowed, and logged.
    assert_eq!(SHAPE.names(&adapter.read("out.txt")), ["before", "during", "after"]);
}

#[tokio::test]
async fn a_deleted_volume_is_logged_and_used_again_when_it_is_back() {
    let adapter = Adapter::start(&METRICS).await;
    let client = adapter.client().await;
    let mut reports = watch(&client, REPORTS).await;
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    assert_eq!(report(&client, "before").await, Reply::default());
    std::fs::remove_dir_all(&adapter.volume).unwrap();
    for name in ["1", "2"] {
        let reply = report(&client, name).await;
        assert_eq!(reply.status, UNAVAILABLE, "{}", reply.message);
    }
    assert_eq!(next(&mut reports).await, Some(ServingStatus::NotServing));
    assert_eq!(adapter.page().of("mygrpcadapter_write_errors_total", "reason", "gone"), 2.0);
    std::fs::create_dir(&adapter.volume).unwrap();
    assert_eq!(next(&mut reports).await, Some(ServingStatus::Serving));
    assert_eq!(report(&client, "after").await, Reply::default());
    assert_eq!(SHAPE.names(&adapter.read("out.txt")), ["after"]);
    assert_eq!(adapter.times_logged("reports are refused reason=gone").await, 1, "{:?}", adapter.log());
    adapter.logged("; mount it again, writable").await;
    assert_eq!(adapter.files(), ["out.txt"], "the trial leaves nothing behind");
}

#[tokio::test]
async fn a_directory_in_the_volume_that_is_deleted_is_made_again() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "a/b/out.txt", padding: 1 };
    for name in ["1", "2", "3"] {
        assert_eq!(client.unary(METRIC, &shape.message(name)).await.unwrap(), Reply::default());
        assert_eq!(shape.names(&adapter.read("a/b/out.txt")), [name]);
        std::fs::remove_dir_all(adapter.volume.join("a")).unwrap();
    }
}

#[tokio::test]
async fn with_few_descriptors_more_files_than_those_are_written() {
    let scratch = Scratch::new();
    let wrapper = ["prlimit", "--nofile=20:20"];
    let adapter = Adapter::start_by(&wrapper, &scratch.dir("volume"), &METRICS).await;
    let clients = [adapter.client().await, adapter.client().await];
    for round in 0..3 {
        for at in 0..40 {
            let file = format!("d{}/e/f{at}.txt", at % 4);
            let message = request(Some(params(WALKTHROUGH, file.as_bytes())), "n");
            let reply = clients[at % 2].unary(METRIC, &message).await.unwrap();
            assert_eq!(reply, Reply::default(), "{file}");
            let text = String::from_utf8(adapter.read(&file)).unwrap();
            assert_eq!(text.matches("invoked with").count(), round + 1, "{file}");
        }
    }
    assert_eq!(adapter.page().total("mygrpcadapter_write_errors_total"), 0.0);

    // More connections than file descriptors.
    let connect = || std::net::TcpStream::connect(("127.0.0.1", adapter.port)).unwrap();
    let mut silent: Vec<_> = (0..30).map(|_| connect()).collect();
    adapter.logged("cannot accept connections").await;
    // Those that come and go do not fill the log.
    for _ in 0..10 {
        silent.remove(0);
        silent.push(connect());
        assert_eq!(check(&clients[1], "").await, Ok(ServingStatus::Serving));
    }
    let told = adapter.log().into_iter().filter(|line| line.contains("cannot accept connections")).count();
    assert!(told <= 2, "{told} lines for two ports");
    // Files are closed for it, unless a connection takes the descriptor first.
    let held = report(&clients[0], "held").await.status;
    assert!(matches!(held, OK | RESOURCE_EXHAUSTED), "{held}");
    assert_eq!(check(&clients[1], "").await, Ok(ServingStatus::Serving));
    drop(silent);
    let mut reports = watch(&adapter.client().await, REPORTS).await;
    while next(&mut reports).await != Some(ServingStatus::Serving) {}
    assert_eq!(report(&clients[0], "after").await, Reply::default());
    let written = SHAPE.names(&adapter.read("out.txt"));
    assert_eq!(written, if held == OK { &["held", "after"][..] } else { &["after"] });
}

/// A wrapper that limits the adapter's files to this many bytes: a write stops in the
/// middle.
fn limited(bytes: usize) -> [String; 2] {
    ["prlimit".into(), format!("--fsize={bytes}:unlimited")]
}

#[tokio::test]
async fn half_a_record_is_cut_off_a_file_before_that_is_rotated_or_left() {
    for renamed in [false, true] {
        let scratch = Scratch::new();
        let volume = scratch.dir("volume");
        let mut owner = Adapter::start_on(&volume, &[]).await;
        assert_eq!(report(&owner.client().await, "0").await, Reply::default());
        let whole = owner.read("out.txt").len();
        let wrapper = limited(whole + 100);
        let adapter =
            Adapter::start_by(&wrapper.each_ref().map(|word| &**word), &volume, &["--rotate-size", "500"])
                .await;
        let client = adapter.client().await;
        // There is no room for a newline, and the adapter does not own the file.
        for name in ["1", "2"] {
            let reply = report(&client, name).await;
            assert_eq!(reply.status, FAILED_PRECONDITION, "{}", reply.message);
            assert_eq!(adapter.read("out.txt").len(), whole + 100);
        }
        if renamed {
            std::fs::rename(volume.join("out.txt"), volume.join("out.txt.000001")).unwrap();
            let reply = report(&client, "3").await;
            assert!(reply.message.contains("cannot cut a partial record off out.txt"), "{}", reply.message);
            assert_eq!(adapter.files(), ["out.txt.000001"]);
        }
        assert_eq!(owner.stop().await, 0);
        assert_eq!(report(&client, "4").await, Reply::default());
        assert_eq!(SHAPE.names(&adapter.read("out.txt.000001")), ["0"]);
        assert_eq!(SHAPE.names(&adapter.read("out.txt")), ["4"]);
    }
}

/// One life of an adapter, ended by a kill; every other one writes JSON.
#[derive(Clone, Copy)]
struct Life {
    number: usize,
    shape: Shape,
}

impl Life {
    fn is_in_json(self) -> bool {
        self.number % 2 == 1
    }

    /// Starts several senders of reports; counts acknowledged ones in `done`.
    fn senders(self, client: &Client, count: usize, done: &Arc<AtomicUsize>) -> Vec<JoinHandle<Vec<String>>> {
        let start = |sender| tokio::spawn(until_killed(client.clone(), self, sender, Arc::clone(done)));
        (0..count).map(start).collect()
    }
}

/// Sends reports until one fails; returns the acknowledged names.
async fn until_killed(client: Client, life: Life, sender: usize, done: Arc<AtomicUsize>) -> Vec<String> {
    let Life { number, shape } = life;
    let config = own(&asked("out.json"));
    let mut acknowledged = Vec::new();
    for at in 0.. {
        let name = format!("{number}-{sender}-{at}");
        let mut message = shape.message(&name);
        if life.is_in_json() {
            message = with_config(&message, &config);
        }
        match client.unary(METRIC, &message).await {
            Ok(reply) if reply.status == OK => acknowledged.push(name),
            _ => break,
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    acknowledged
}

/// The names acknowledged in all lives.
#[derive(Default)]
struct Acknowledged {
    in_text: Vec<String>,
    in_json: Vec<String>,
}

impl Acknowledged {
    async fn take(&mut self, life: Life, senders: Vec<JoinHandle<Vec<String>>>) {
        for sender in senders {
            let names = sender.await.unwrap();
            if life.is_in_json() { self.in_json.extend(names) } else { self.in_text.extend(names) }
        }
    }

    /// Starts another adapter, which repairs partial records, and asserts that every
    /// acknowledged report is there and none is partial.
    async fn assert_all_there(self, volume: &Path, shape: Shape) {
        let mut adapter = Adapter::start_on(volume, &[]).await;
        let client = adapter.client().await;
        let last = shape.message("last");
        let last_in_json = with_config(&last, &own(&asked("out.json")));
        for message in [last, last_in_json] {
            assert_eq!(client.unary(METRIC, &message).await.unwrap(), Reply::default());
        }
        drop(client);
        assert_eq!(adapter.stop().await, 0);
        let in_text = (self.in_text, shape.names(&adapter.read("out.txt")));
        let in_json = (self.in_json, names(&adapter.read("out.json")));
        for (mut acknowledged, written) in [in_text, in_json] {
            acknowledged.push("last".into());
            assert_each_once(&acknowledged, &written);
        }
    }
}

#[tokio::test]
async fn killed_a_hundred_times_it_has_lost_nothing_that_it_acknowledged() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let mut acknowledged = Acknowledged::default();
    let shape = Shape { padding: 6_000, ..SHAPE };
    for number in 0..100 {
        let life = Life { number, shape };
        let mut adapter = Adapter::start_on(&volume, &[]).await;
        let done = Arc::new(AtomicUsize::new(0));
        let senders = life.senders(&adapter.client().await, 12, &done);
        // Any moment will do; these all differ.
        let enough = 1 + number * 37 % 60;
        until("some reports", || (done.load(Ordering::Relaxed) >= enough).then_some(())).await;
        adapter.signal(Signal::KILL);
        assert_eq!(adapter.exit().await, 128 + 9);
        acknowledged.take(life, senders).await;
    }
    let (in_text, in_json) = (acknowledged.in_text.len(), acknowledged.in_json.len());
    assert!(in_text > 1000 && in_json > 1000, "{in_text} {in_json}");
    acknowledged.assert_all_there(&volume, shape).await;
}

#[tokio::test]
async fn killed_a_hundred_times_in_the_middle_of_a_write_it_has_repaired_every_end() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let mut acknowledged = Acknowledged::default();
    for number in 0..100 {
        let life = Life { number, shape: SHAPE };
        let (file, end) = if life.is_in_json() { ("out.json", "}\n") } else { ("out.txt", "\n  }\n") };
        let mut adapter = Adapter::start_on(&volume, &[]).await;
        let done = Arc::new(AtomicUsize::new(0));
        let senders = life.senders(&adapter.client().await, 4, &done);
        until("some reports", || (done.load(Ordering::Relaxed) > number % 7).then_some(())).await;
        adapter.signal(Signal::KILL);
        assert_eq!(adapter.exit().await, 128 + 9);
        acknowledged.take(life, senders).await;
        // A partial record that was not acknowledged, as left by a kill during a
        // write.
        let mut left = adapter.read(file);
        if left.ends_with(end.as_bytes()) {
            let first = left.split_inclusive(|byte| *byte == b'\n').next().unwrap();
            let record = if life.is_in_json() { first.to_vec() } else { SHAPE.text("torn").into_bytes() };
            left.extend_from_slice(&record[..1 + number * 397 % (record.len() - 2)]);
            std::fs::write(volume.join(file), left).unwrap();
        }
    }
    let (in_text, in_json) = (acknowledged.in_text.len(), acknowledged.in_json.len());
    assert!(in_text > 50 && in_json > 50, "{in_text} {in_json}");
    acknowledged.assert_all_there(&volume, SHAPE).await;
}

#[tokio::test]
async fn a_volume_filled_and_freed_again_and_again_has_all_that_was_acknowledged() {
    let Some(mounted) = Mounted::tmpfs("size=256k") else { return };
    let adapter = mounted.adapter(&["--rotate-size", "32KiB", "--rotate-keep", "1000"]).await;
    let client = adapter.client().await;
    let ballast = mounted.seen().join("ballast");
    let (mut acknowledged, mut refused) = (Vec::new(), 0);
    for round in 0..8 {
        if round % 2 == 1 {
            let _ = std::fs::write(&ballast, vec![b'x'; 256 * 1024]);
            // Room for some of them; the free part of each file's last page varies.
            let ballast = std::fs::File::options().write(true).open(&ballast).unwrap();
            ballast.set_len(ballast.metadata().unwrap().len().saturating_sub(8192)).unwrap();
        } else {
            fill(&ballast, 0);
        }
        let names: Vec<String> = (0..60).map(|at| format!("{round}-{at}")).collect();
        let calls = names.iter().map(|name| (client.clone(), SHAPE.message(name)));
        let calls: Vec<_> = calls
            .map(|(client, message)| tokio::spawn(async move { client.unary(METRIC, &message).await }))
            .collect();
        for (name, call) in names.into_iter().zip(calls) {
            match call.await.unwrap().unwrap().status {
                OK => acknowledged.push(name),
                status => {
                    assert_eq!(status, RESOURCE_EXHAUSTED);
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 0 && acknowledged.len() > 240, "{refused} {}", acknowledged.len());
    let files: Vec<String> = adapter.files().into_iter().filter(|file| file.starts_with("out.txt")).collect();
    let written: Vec<String> = files.iter().flat_map(|file| SHAPE.names(&adapter.read(file))).collect();
    assert_eq!(written.len(), acknowledged.len());
    assert_each_once(&acknowledged, &written);
}
