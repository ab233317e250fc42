//! Files opened, created, deleted and counted in a volume.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};

use crate::ends::refusing;
use crate::support::message::{METRIC, Shape, WALKTHROUGH, params, request};
use crate::support::namespace::skip;
use crate::support::program::socket_in;
use crate::support::{Adapter, Client, OK, RESOURCE_EXHAUSTED, Reply, Scratch};

const SHAPE: Shape = Shape { file: "out.txt", padding: 300 };
const ROTATING: [&str; 4] = ["--rotate-size", "500", "--rotate-keep", "1"];

async fn reports(client: &Client, shape: Shape, count: usize) {
    for at in 0..count {
        assert_eq!(client.unary(METRIC, &shape.message(&at.to_string())).await.unwrap(), Reply::default());
    }
}

async fn report_to(client: &Client, file: &str) -> Reply {
    client.unary(METRIC, &request(Some(params(WALKTHROUGH, file.as_bytes())), "n")).await.unwrap()
}

fn make_odd_files(dir: &Path, outside: &Path) -> UnixListener {
    let make = |name: &str, kind| {
        mknodat(CWD, dir.join(name), kind, Mode::from_raw_mode(0o666), rustix::fs::makedev(1, 3)).unwrap();
    };
    make("out.txt.000001", FileType::Fifo);
    make("out.txt.000002", FileType::Fifo);
    std::fs::create_dir(dir.join("out.txt.000003")).unwrap();
    symlink(outside, dir.join("out.txt.000004")).unwrap();
    if rustix::process::geteuid().is_root() {
        make("out.txt.000005", FileType::CharacterDevice);
    }
    socket_in(dir, "out.txt.000006")
}

#[tokio::test]
async fn a_lookalike_of_a_rotated_file_is_never_opened_or_deleted() {
    let scratch = Scratch::new();
    let (volume, outside) = (scratch.dir("volume"), scratch.path().join("outside"));
    std::fs::write(&outside, SHAPE.text("outside")).unwrap();
    let _socket = make_odd_files(&volume, &outside);
    // A trial write must not block on it either.
    mknodat(CWD, volume.join(".mygrpcadapter.trial"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let before = std::fs::read_dir(&volume).unwrap().count();
    let adapter = Adapter::start_on(&volume, &ROTATING).await;
    let client = adapter.client().await;
    reports(&client, SHAPE, 10).await;
    assert_eq!(adapter.files().len(), before + 2);
    assert!(outside.exists());

    let limited = Adapter::start_on(&volume, &["--max-volume-bytes", "16KiB"]).await;
    let client = limited.client().await;
    let mut refused = false;
    for at in 0..200 {
        refused |= report_to(&client, &format!("{at}.txt")).await.status == RESOURCE_EXHAUSTED;
    }
    assert!(refused);
    assert!(outside.exists() && volume.join("out.txt.000001").exists());
}

#[tokio::test]
async fn a_trial_works_whatever_has_its_name() {
    let Some(mounted) = crate::volumes::Mounted::tmpfs("size=64k") else { return };
    let volume = mounted.seen();
    std::fs::create_dir(volume.join(".mygrpcadapter.trial")).unwrap();
    mknodat(CWD, volume.join(".mygrpcadapter.trial.1"), FileType::Fifo, Mode::from_raw_mode(0o666), 0)
        .unwrap();
    let adapter = mounted.adapter(&[]).await;
    let client = adapter.client().await;
    let ballast = volume.join("ballast");
    let _ = std::fs::write(&ballast, vec![b'x'; 64 << 10]);
    assert_eq!(client.unary(METRIC, &SHAPE.message("1")).await.unwrap().status, RESOURCE_EXHAUSTED);
    std::fs::remove_file(&ballast).unwrap();
    adapter.logged("reports are accepted again").await;
}

#[tokio::test]
async fn nothing_outside_is_deleted_while_a_directory_and_a_link_change_places() {
    let scratch = Scratch::new();
    let (volume, outside) = (scratch.dir("volume"), scratch.dir("outside"));
    std::fs::create_dir(volume.join("dir")).unwrap();
    symlink(&outside, volume.join("link")).unwrap();
    let foreign: Vec<_> = (1..400).map(|at| outside.join(format!("out.txt.{at:06}"))).collect();
    for path in &foreign {
        std::fs::write(path, SHAPE.text("outside")).unwrap();
    }
    let adapter = Adapter::start_on(&volume, &[&ROTATING[..2], &["--rotate-keep", "0"]].concat()).await;
    let client = adapter.client().await;
    let limited = Adapter::start_on(&volume, &["--max-volume-bytes", "40KiB", "--rotate-size", "500"]).await;
    let other = limited.client().await;
    let ended = Arc::new(AtomicBool::new(false));
    let (dir, link, is_over) = (volume.join("dir"), volume.join("link"), Arc::clone(&ended));
    let exchange = std::thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            renameat_with(CWD, &dir, CWD, &link, RenameFlags::EXCHANGE).unwrap();
        }
    });
    let (one, two) = (Shape { file: "dir/out.txt", ..SHAPE }, Shape { file: "link/out.txt", ..SHAPE });
    let mut taken = 0;
    for at in 0..1500 {
        let name = at.to_string();
        for (client, shape) in [(&client, one), (&other, two)] {
            taken += usize::from(client.unary(METRIC, &shape.message(&name)).await.unwrap().status == OK);
        }
    }
    ended.store(true, Ordering::Relaxed);
    exchange.join().unwrap();
    assert!(taken > 100, "{taken}");
    let gone: Vec<_> = foreign.iter().filter(|path| !path.exists()).collect();
    assert!(gone.is_empty(), "{gone:?}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), foreign.len(), "nothing was made there");
}

/// Bytes allocated beneath a directory, as du(1) counts them.
fn taken(dir: &Path) -> u64 {
    let own = std::fs::metadata(dir).unwrap().blocks() * 512;
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    own + entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => taken(&entry.path()),
            false => entry.metadata().unwrap().blocks() * 512,
        })
        .sum::<u64>()
}

#[tokio::test]
async fn many_small_files_stay_within_the_limit_of_the_volume() {
    let Some(mounted) = crate::volumes::Mounted::ext4() else { return };
    let adapter = mounted.adapter(&["--max-volume-bytes", "1MiB"]).await;
    let client = adapter.client().await;
    let mut refused = 0;
    for at in 0..3000 {
        let file = match at % 3 {
            0 => format!("f{at}.txt"),
            1 => format!("d{at}/f.txt"),
            _ => format!("e{at}/{}f.txt", "d/".repeat(at % 40)),
        };
        let reply = report_to(&client, &file).await;
        assert!(matches!(reply.status, OK | RESOURCE_EXHAUSTED), "{}", reply.message);
        refused += usize::from(reply.status != OK);
    }
    let taken = taken(&mounted.seen());
    assert!(taken <= 1 << 20, "{taken}");
    assert!(refused > 1000 && taken > 512 << 10, "{refused} {taken}");
}

#[tokio::test]
async fn the_lowest_number_goes_first_whatever_the_clock_said() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let record = SHAPE.text("old").repeat(20);
    // Rotated in sequence, while the clock was set back a day.
    for number in 1..=6 {
        let path = volume.join(format!("out.txt.{number:06}"));
        std::fs::write(&path, &record).unwrap();
        let written = SystemTime::now() - Duration::from_secs(86_400 + number);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
    }
    let adapter = Adapter::start_on(&volume, &["--max-volume-bytes", "48KiB"]).await;
    let client = adapter.client().await;
    assert_eq!(report_to(&client, "new.txt").await, Reply::default());
    let left: Vec<_> = adapter.files().into_iter().filter(|file| file.starts_with("out.txt")).collect();
    assert!(!left.is_empty() && left.len() < 6, "{left:?}");
    let expected: Vec<_> = (7 - left.len()..7).map(|number| format!("out.txt.{number:06}")).collect();
    assert_eq!(left, expected, "the highest numbers are the newest");
}

#[tokio::test]
async fn two_adapters_count_each_others_files_in_a_limited_volume() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let args = ["--max-volume-bytes", "256KiB"];
    let (one, two) = (Adapter::start_on(&volume, &args).await, Adapter::start_on(&volume, &args).await);
    let (first, second) = (one.client().await, two.client().await);
    assert_eq!(report_to(&second, "second.txt").await, Reply::default());
    for at in 0..100 {
        report_to(&first, &format!("first-{at}.txt")).await;
    }
    let refused = async {
        while report_to(&second, "second.txt").await.status == OK {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, refused).await.expect("the second sees it");
    assert!(taken(&volume) < 300 << 10, "{}", taken(&volume));
}

#[tokio::test]
async fn files_and_directories_can_be_written_by_others_of_the_group_whatever_the_umask() {
    for umask in ["022", "077", "000"] {
        let scratch = Scratch::new();
        let volume = scratch.dir("volume");
        std::fs::set_permissions(&volume, PermissionsExt::from_mode(0o2775)).unwrap();
        std::fs::write(volume.join("there.txt"), "").unwrap();
        std::fs::set_permissions(volume.join("there.txt"), PermissionsExt::from_mode(0o600)).unwrap();
        let script = format!("umask {umask} && exec \"$@\"");
        let adapter = Adapter::start_by(&["sh", "-c", &script, "sh"], &volume, &[]).await;
        let client = adapter.client().await;
        for file in ["out.txt", "a/b/out.txt", "there.txt"] {
            assert_eq!(report_to(&client, file).await, Reply::default());
        }
        let mode = |name: &str| std::fs::metadata(volume.join(name)).unwrap().mode() & 0o7777;
        assert_eq!([mode("out.txt"), mode("a/b/out.txt")], [0o664; 2], "{umask}");
        assert_eq!([mode("a"), mode("a/b")], [0o2775; 2], "{umask}");
        assert_eq!(mode("there.txt"), 0o600, "what was there is left alone");
    }
}

#[tokio::test]
async fn another_user_of_the_group_goes_on_with_the_files() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root may be another user");
    }
    let scratch = Scratch::in_memory();
    let volume = scratch.dir("volume");
    std::os::unix::fs::chown(&volume, None, Some(65532)).unwrap();
    std::fs::set_permissions(&volume, PermissionsExt::from_mode(0o2775)).unwrap();
    for user in ["1000690000", "1000700000"] {
        let user = format!("--reuid={user}");
        let wrapper = ["setpriv", &user, "--regid=65532", "--clear-groups", "--bounding-set=-all"];
        let mut adapter = Adapter::start_by(&wrapper, &volume, &[]).await;
        let client = adapter.client().await;
        for file in ["out.txt", "a/b/out.txt"] {
            assert_eq!(report_to(&client, file).await, Reply::default());
        }
        drop(client);
        assert_eq!(adapter.stop().await, 0);
    }
}

#[tokio::test]
async fn files_grow_old_across_restarts_and_however_many_are_open() {
    let scratch = Scratch::new();
    let (volume, notes) = (scratch.dir("volume"), scratch.path().join("notes"));
    let names: Vec<String> = (0..40).map(|at| format!("f{at}.txt")).collect();
    let rotated =
        |number: u32| names.iter().filter(|name| volume.join(format!("{name}.{number:06}")).exists()).count();
    // No life lasts as long as the age.
    for _ in 0..3 {
        report_to_all(&[], &volume, &names).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    assert_eq!(rotated(1), names.len());
    // The birth time is unknown, but the time of the last rotation is known.
    let Some(wrapper) = refusing("statx", "inject=statx:error=EPERM", notes.to_str().unwrap()) else {
        return;
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    report_to_all(&wrapper, &volume, &names).await;
    assert_eq!(rotated(2), names.len());
}

async fn report_to_all(wrapper: &[&str], volume: &Path, names: &[String]) {
    let adapter = Adapter::start_by(wrapper, volume, &["--rotate-age", "1s"]).await;
    let client = adapter.client().await;
    for name in names {
        assert_eq!(report_to(&client, name).await, Reply::default());
    }
}

#[tokio::test]
async fn no_system_call_younger_than_2017_is_needed() {
    for error in ["EPERM", "ENOSYS"] {
        let scratch = Scratch::new();
        let (volume, notes) = (scratch.dir("volume"), scratch.path().join("notes"));
        let calls =
            "?statx,?faccessat2,?openat2,?renameat2,?close_range,?fchmodat2,?epoll_pwait2,?preadv2,?pwritev2";
        let inject = format!("inject={calls}:error={error}");
        let Some(wrapper) = refusing(calls, &inject, notes.to_str().unwrap()) else { return };
        let args = [&ROTATING[..], &["--rotate-age", "1h", "--max-volume-bytes", "1MiB"]].concat();
        let mut adapter = Adapter::start_by(&wrapper, &volume, &args).await;
        let client = adapter.client().await;
        reports(&client, Shape { file: "a/b/out.txt", ..SHAPE }, 5).await;
        drop(client);
        assert_eq!(adapter.stop().await, 0);
        assert!(volume.join("a/b/out.txt.000004").exists(), "{error}");
    }
}

#[tokio::test]
async fn a_path_writes_no_line_of_its_own_into_the_log() {
    let Some(mounted) = crate::volumes::Mounted::tmpfs("size=64k") else { return };
    let adapter = mounted.adapter(&["--rotate-size", "400", "--max-volume-bytes", "40KiB"]).await;
    let client = adapter.client().await;
    let forged = "a\n2026-01-01T00:00:00Z error forged\x1b[2J\u{9b}2J\u{202e}\r";
    std::fs::write(mounted.seen().join(format!("{forged}.999999")), "").unwrap();
    for _ in 0..3 {
        report_to(&client, forged).await;
    }
    let rotated = format!("b{forged}");
    for _ in 0..30 {
        report_to(&client, &rotated).await;
    }
    let _ = std::fs::write(mounted.seen().join("ballast"), vec![b'x'; 64 << 10]);
    let mut refused = Reply::default();
    while refused.status == OK {
        refused = report_to(&client, forged).await;
    }
    assert!(!refused.message.contains(char::is_control), "{:?}", refused.message);
    let log = adapter.log();
    assert!(log.iter().any(|line| line.contains("forged")), "no path was logged: {log:?}");
    for line in log {
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        assert!(!line.starts_with("2026-01-01"), "{line:?}");
    }
}
