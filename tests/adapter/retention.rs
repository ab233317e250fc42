//! Rotated, limited, shared and repaired files: records are always whole, and only
//! retention loses acknowledged ones, which it counts.

use std::path::Path;
use std::time::Instant;

use mygrpcadapter::pb::grpc::health::v1::health_check_response::ServingStatus;

use crate::health::check;
use crate::json::{asked, names};
use crate::support::message::{METRIC, Shape, assert_each_once, own, with_config};
use crate::support::{Adapter, Client, OK, PATIENCE, RESOURCE_EXHAUSTED, Reply, Scratch, UNAVAILABLE};

const SHAPE: Shape = Shape { file: "out.txt", padding: 300 };

async fn report(client: &Client, name: &str) -> Reply {
    client.unary(METRIC, &SHAPE.message(name)).await.unwrap()
}

/// Sends reports one at a time; each must be acknowledged.
async fn reports(client: &Client, names: impl IntoIterator<Item = usize>) {
    for name in names {
        assert_eq!(report(client, &name.to_string()).await, Reply::default());
    }
}

/// Every file of a directory, rotated ones by age, with the names in it.
fn held(dir: &Path) -> Vec<(String, Vec<String>)> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    files.sort();
    files.retain(|file| file.starts_with("out.txt"));
    files
        .into_iter()
        .map(|file| (file.clone(), SHAPE.names(&std::fs::read(dir.join(file)).unwrap())))
        .collect()
}

/// Total bytes of the files in a directory.
fn bytes_of(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len() as usize).sum()
}

fn all(held: &[(String, Vec<String>)]) -> Vec<String> {
    held.iter().flat_map(|file| file.1.clone()).collect()
}

fn numbered(names: std::ops::Range<usize>) -> Vec<String> {
    names.map(|name| name.to_string()).collect()
}

#[tokio::test]
async fn a_file_is_rotated_before_it_grows_too_large_and_holds_whole_records() {
    let adapter = Adapter::start(&["--rotate-size", "2KiB", "--rotate-keep", "100"]).await;
    let client = adapter.client().await;
    reports(&client, 0..40).await;
    let held = held(&adapter.volume);
    assert_each_once(&numbered(0..40), &all(&held));
    assert!(held.len() > 5, "{held:?}");
    for (file, names) in &held {
        let bytes = adapter.read(file).len();
        assert!(bytes <= 2048 && !names.is_empty(), "{file}: {bytes}");
        let more = bytes + SHAPE.text("00").len();
        assert!(file == "out.txt" || more > 2048, "{file}: rotated too early, at {bytes}");
    }
    // The highest number is the newest; the file that is not rotated is newer still.
    let mut by_age = held[1..].to_vec();
    by_age.push(held[0].clone());
    assert_eq!(all(&by_age), numbered(0..40));
    let expected: Vec<String> = (1..held.len()).map(|number| format!("out.txt.{number:06}")).collect();
    assert_eq!(held[1..].iter().map(|file| file.0.clone()).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn many_at_once_are_rotated_without_a_loss() {
    let adapter = Adapter::start(&["--rotate-size", "20KiB", "--rotate-keep", "1000"]).await;
    let client = adapter.client().await;
    let mut calls = Vec::new();
    for at in 0..1000 {
        let (client, message) = (client.clone(), SHAPE.message(&at.to_string()));
        calls.push(tokio::spawn(async move { client.unary(METRIC, &message).await }));
    }
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), Reply::default());
    }
    let held = held(&adapter.volume);
    assert!(held.len() > 1, "{held:?}");
    assert_each_once(&numbered(0..1000), &all(&held));
}

#[tokio::test]
async fn a_record_larger_than_the_limit_has_a_file_of_its_own() {
    let adapter = Adapter::start(&["--rotate-size", "1000", "--rotate-keep", "100"]).await;
    let client = adapter.client().await;
    let large = Shape { padding: 5000, ..SHAPE };
    reports(&client, 0..1).await;
    assert_eq!(client.unary(METRIC, &large.message("large")).await.unwrap().status, OK);
    reports(&client, 1..2).await;
    assert_eq!(adapter.files(), ["out.txt", "out.txt.000001", "out.txt.000002"]);
    assert_eq!(large.names(&adapter.read("out.txt.000002")), ["large"]);
}

#[tokio::test]
async fn a_file_is_rotated_when_it_is_old_with_the_next_record() {
    let adapter = Adapter::start(&["--rotate-age", "300ms", "--rotate-keep", "1000"]).await;
    let client = adapter.client().await;
    let deadline = Instant::now() + PATIENCE;
    let mut sent = 0;
    while adapter.files().len() < 3 {
        assert!(Instant::now() < deadline, "never rotated");
        reports(&client, sent..sent + 1).await;
        sent += 1;
    }
    let held = held(&adapter.volume);
    assert!(held.iter().all(|file| !file.1.is_empty()));
    assert_each_once(&numbered(0..sent), &all(&held));
}

#[tokio::test]
async fn as_many_rotated_files_are_kept_as_asked_and_the_deleted_bytes_counted() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let mut sent = 0;
    // The limit is raised, then lowered: exact in both directions.
    for keep in [2, 6, 1, 0, 3] {
        let keep_text = keep.to_string();
        let args = ["--rotate-size", "1500", "--rotate-keep", &keep_text, "--metrics-port", "0"];
        let mut adapter = Adapter::start_on(&volume, &args).await;
        let client = adapter.client().await;
        let before = bytes_of(&volume);
        reports(&client, sent..sent + 30).await;
        let held = held(&volume);
        assert_eq!(held.len(), keep + 1, "{keep}: {held:?}");
        let page = adapter.page();
        let written = page.single("mygrpcadapter_written_bytes_total") as usize;
        let deleted = page.single("mygrpcadapter_deleted_bytes_total") as usize;
        assert_eq!(before + written - deleted, bytes_of(&volume), "{keep}");
        assert!(page.single("mygrpcadapter_rotations_total") >= keep as f64);
        sent += 30;
        let mut kept = all(&held);
        kept.sort_by_key(|name| name.parse::<usize>().unwrap());
        assert_eq!(kept, numbered(sent - kept.len()..sent), "the newest are kept");
        drop(client);
        assert_eq!(adapter.stop().await, 0);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_rotated_grows_and_that_is_logged_once() {
    let mut adapter = Adapter::start(&["--rotate-size", "1000"]).await;
    std::fs::write(adapter.volume.join("out.txt.999999"), "").unwrap();
    let client = adapter.client().await;
    reports(&client, 0..20).await;
    assert_eq!(SHAPE.names(&adapter.read("out.txt")), numbered(0..20));
    drop(client);
    assert_eq!(adapter.stop().await, 0);
    let logged = adapter.log().iter().filter(|line| line.contains("has the last number there is")).count();
    assert_eq!(logged, 1, "{:?}", adapter.log());
}

#[tokio::test]
async fn files_of_others_are_neither_counted_nor_deleted_by_rotation() {
    let adapter = Adapter::start(&["--rotate-size", "1000", "--rotate-keep", "1"]).await;
    let foreign = ["out.txt.1", "out.txt.0000001", "out.txt.00000x", "out.txt.old", "other.txt.000001"];
    for name in foreign {
        std::fs::write(adapter.volume.join(name), "foreign text").unwrap();
    }
    let client = adapter.client().await;
    reports(&client, 0..20).await;
    for name in foreign {
        assert_eq!(adapter.read(name), b"foreign text", "{name}");
    }
    assert_eq!(adapter.files().len(), foreign.len() + 2);
}

#[tokio::test]
async fn a_full_budget_deletes_our_oldest_and_then_refuses() {
    let args = ["--rotate-size", "16KiB", "--rotate-keep", "100", "--max-volume-bytes", "128KiB"];
    let adapter = Adapter::start(&[&args[..], &["--metrics-port", "0"]].concat()).await;
    let client = adapter.client().await;
    let foreign = adapter.volume.join("notes.000001");
    std::fs::write(&foreign, "not ours").unwrap();
    reports(&client, 0..600).await;
    let total = || -> u64 {
        let entries = std::fs::read_dir(&adapter.volume).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    };
    assert!(total() <= 128 << 10, "{}", total());
    let kept = all(&held(&adapter.volume));
    let page = adapter.page();
    let written = page.single("mygrpcadapter_written_bytes_total") as usize;
    let deleted = page.single("mygrpcadapter_deleted_bytes_total") as usize;
    assert!(deleted > 0);
    assert_eq!(written - deleted + "not ours".len(), bytes_of(&adapter.volume));
    let mut sorted: Vec<usize> = kept.iter().map(|name| name.parse().unwrap()).collect();
    sorted.sort_unstable();
    assert_eq!(sorted, (600 - kept.len()..600).collect::<Vec<_>>(), "the newest are kept");

    // A foreign file takes all the room.
    std::fs::write(&foreign, vec![b'x'; 128 << 10]).unwrap();
    let mut refused = Reply::default();
    for at in 600..1000 {
        refused = report(&client, &at.to_string()).await;
        if refused.status != OK {
            break;
        }
    }
    assert_eq!(refused.status, RESOURCE_EXHAUSTED, "{}", refused.message);
    assert!(refused.message.contains("--max-volume-bytes of 131072"), "{}", refused.message);
    assert!(foreign.exists());
    let page = adapter.page();
    assert!(page.of("mygrpcadapter_write_errors_total", "reason", "limit") >= 1.0);
    assert_eq!(check(&client, "metric.HandleMetricService").await, Ok(ServingStatus::NotServing));
    std::fs::remove_file(&foreign).unwrap();
    adapter.logged("reports are accepted again").await;
    assert_eq!(report(&client, "after").await, Reply::default());
}

#[tokio::test]
async fn a_budget_without_rotation_refuses_when_it_is_full() {
    let adapter = Adapter::start(&["--max-volume-bytes", "64KiB"]).await;
    let client = adapter.client().await;
    let mut acknowledged = Vec::new();
    for at in 0..300 {
        let reply = report(&client, &at.to_string()).await;
        if reply.status != OK {
            assert_eq!(reply.status, RESOURCE_EXHAUSTED, "{}", reply.message);
            break;
        }
        acknowledged.push(at.to_string());
    }
    assert!((100..300).contains(&acknowledged.len()), "{}", acknowledged.len());
    assert_eq!(all(&held(&adapter.volume)), acknowledged);
}

/// Sends reports through a client; each must be acknowledged. Returns their names.
async fn send_all(client: Client, names: Vec<String>) -> Vec<String> {
    for name in &names {
        assert_eq!(report(&client, name).await, Reply::default(), "{name}");
    }
    names
}

/// The same, but a report is sent again if another adapter kept deleting the file.
async fn send_all_again(client: Client, names: Vec<String>) {
    for name in &names {
        let mut reply = report(&client, name).await;
        while reply.status == UNAVAILABLE && reply.message.contains("deleted during a write") {
            reply = report(&client, name).await;
        }
        assert_eq!(reply, Reply::default(), "{name}");
    }
}

#[tokio::test]
async fn two_adapters_write_whole_records_to_one_file_and_only_its_owner_rotates_it() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let mut first = Adapter::start_on(&volume, &["--rotate-keep", "1000"]).await;
    let args = ["--rotate-size", "4KiB", "--rotate-keep", "1000"];
    let mut second = Adapter::start_on(&volume, &args).await;
    let (one, two) = (first.client().await, second.client().await);
    reports(&one, 0..1).await;
    // The second adapter would rotate, but does not own the file.
    let sends: Vec<_> = (0..4)
        .map(|at| {
            let client = if at % 2 == 0 { one.clone() } else { two.clone() };
            tokio::spawn(send_all(client, (1 + at * 50..51 + at * 50).map(|name| name.to_string()).collect()))
        })
        .collect();
    for send in sends {
        send.await.unwrap();
    }
    assert_eq!(first.files(), ["out.txt"]);
    assert_each_once(&numbered(0..201), &all(&held(&volume)));

    // When the first exits, the second becomes the owner.
    drop(one);
    assert_eq!(first.stop().await, 0);
    reports(&two, 201..203).await;
    assert_eq!(second.files(), ["out.txt", "out.txt.000001"]);
    // Whoever opens a new file first owns it.
    let third = Adapter::start_on(&volume, &args).await;
    let three = third.client().await;
    let sends = [(two.clone(), 203..403), (three.clone(), 403..603)]
        .map(|(client, names)| tokio::spawn(send_all(client, numbered(names))));
    for send in sends {
        send.await.unwrap();
    }
    let held = held(&volume);
    assert!(held.len() > 3, "{held:?}");
    assert_each_once(&numbered(0..603), &all(&held));
    drop(two);
    assert_eq!(second.stop().await, 0);
}

#[tokio::test]
async fn two_adapters_of_which_one_keeps_nothing_lose_nothing_uncounted() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let args = ["--rotate-size", "1KiB", "--rotate-keep", "0", "--metrics-port", "0"];
    let adapters = [Adapter::start_on(&volume, &args).await, Adapter::start_on(&volume, &args).await];
    let mut sends = Vec::new();
    for at in 0..8 {
        let client = adapters[at % 2].client().await;
        sends.push(tokio::spawn(send_all_again(client, numbered(at * 1000..(at + 1) * 1000))));
    }
    for send in sends {
        send.await.unwrap();
    }
    let total =
        |name: &str| adapters.iter().map(|adapter| adapter.page().single(name) as usize).sum::<usize>();
    let sent: usize = (0..8000).map(|name| SHAPE.text(&name.to_string()).len()).sum();
    let (deleted, kept) = (total("mygrpcadapter_deleted_bytes_total"), bytes_of(&volume));
    // A report that is written again may also be counted in the deleted file.
    assert!(kept + deleted >= sent, "kept {kept}, deleted {deleted}, sent {sent}");
}

#[tokio::test]
async fn each_host_has_a_file_of_its_own_by_name() {
    let adapter = Adapter::start(&["--default-file", "{hostname}.txt"]).await;
    let client = adapter.client().await;
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    for (file, written) in [
        ("", format!("{host}.txt")),
        ("/volume/{hostname}/out.txt", format!("{host}/out.txt")),
        ("a-{hostname}-{hostname}", format!("a-{host}-{host}")),
    ] {
        let shape = Shape { file, padding: 1 };
        assert_eq!(client.unary(METRIC, &shape.message("n")).await.unwrap(), Reply::default());
        assert_eq!(shape.names(&adapter.read(&written)), ["n"], "{file}");
    }
}

/// Starts an adapter on a file with this end, sends one report, and returns the file
/// and its log lines.
async fn repaired(end: &str, json: bool) -> (String, bool) {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    std::fs::write(volume.join("out.txt"), end).unwrap();
    let mut adapter = Adapter::start_on(&volume, &[]).await;
    let mut message = SHAPE.message("new");
    if json {
        message = with_config(&message, &own(&asked("out.txt")));
    }
    assert_eq!(adapter.client().await.unary(METRIC, &message).await.unwrap(), Reply::default());
    assert_eq!(adapter.stop().await, 0);
    // The last line, so all earlier ones are there.
    adapter.logged("stopped").await;
    let logged = adapter.log().iter().any(|line| line.contains("repaired the end of a file"));
    (String::from_utf8(adapter.read("out.txt")).unwrap(), logged)
}

#[tokio::test]
async fn a_torn_text_record_is_cut_and_the_whole_ones_before_it_stay() {
    let (whole, new) = (SHAPE.text("old"), SHAPE.text("new"));
    for cut in [1, 3, 10, 40, 200, whole.len() - 5, whole.len() - 1] {
        let (file, logged) = repaired(&format!("{whole}{}", &whole[..cut]), false).await;
        assert_eq!((&*file, logged), (&*format!("{whole}{new}"), true), "{cut}");
    }
}

#[tokio::test]
async fn a_torn_line_of_json_is_cut_and_the_whole_ones_before_it_stay() {
    let whole = "{\"instance\":\"old\",\"template\":\"metric\",\"value\":{\"a\":\"}\"}}\n";
    for (end, kept) in [
        (format!("{whole}{}", &whole[..20]), whole.to_owned()),
        (format!("{whole}{}", &whole[..whole.len() - 2]), whole.to_owned()),
        (format!("{whole}{}", &whole[..whole.len() - 1]), whole.to_owned()),
        (format!("{whole}\0\0\0\0"), whole.to_owned()),
        (whole[..9].to_owned(), String::new()),
    ] {
        let (file, logged) = repaired(&end, true).await;
        let new = file.strip_prefix(&*kept).unwrap_or_else(|| panic!("{end:?}: {file}"));
        assert_eq!(names(new.as_bytes()), ["new"]);
        assert!(logged);
    }
}

#[tokio::test]
async fn ends_that_are_not_ours_or_are_whole_are_kept() {
    let (whole, new) = (SHAPE.text("old"), SHAPE.text("new"));
    for (end, between, logged) in [
        (whole.clone(), "", false),
        ("a foreign line\n".into(), "", false),
        ("a foreign line without an end".into(), "\n", true),
        (format!("{whole}foreign text"), "\n", true),
        (String::new(), "", false),
    ] {
        assert_eq!(repaired(&end, false).await, (format!("{end}{between}{new}"), logged), "{end:?}");
    }
    let (file, logged) = repaired("foreign text", true).await;
    let new = file.strip_prefix("foreign text\n").unwrap();
    assert_eq!((names(new.as_bytes()), logged), (vec!["new".to_owned()], true));
}
