//! Permitted and forbidden paths of a handler.

use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::message::{METRIC, Shape, WALKTHROUGH, params, request};
use crate::support::program::socket_in;
use crate::support::{Adapter, Client, INVALID_ARGUMENT, OK, Reply, Scratch};

async fn write_to(client: &Client, path: &[u8]) -> (u32, String) {
    let reply = client.unary(METRIC, &request(Some(params(WALKTHROUGH, path)), "n")).await.unwrap();
    (reply.status, reply.message)
}

#[tokio::test]
async fn paths_that_break_a_rule_are_refused_by_its_name() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let (long_name, long_path) = ("x".repeat(256), "x/".repeat(600) + "x");
    for (path, rule) in [
        (&b"../out.txt"[..], "has a \"..\" in it"),
        (b"a/../../out.txt", "has a \"..\" in it"),
        (b"/volume/../etc/passwd", "has a \"..\" in it"),
        (b"..", "has a \"..\" in it"),
        (b"/etc/passwd", "is an absolute path outside the volume"),
        (b"/volumes/out.txt", "is an absolute path outside the volume"),
        (b"/volume", "names a directory"),
        (b"a/", "names a directory"),
        (b".", "names a directory"),
        (b"a\0b", "has a NUL byte in it"),
        (b"out.txt.000003", "ends in a dot and six digits, as rotated files do"),
        (b".mygrpcadapter.trial", "begins with \".mygrpcadapter.\""),
        (long_name.as_bytes(), "has a part longer than 255 bytes"),
        (long_path.as_bytes(), "is longer than 1024 bytes"),
    ] {
        let (status, message) = write_to(&client, path).await;
        assert_eq!(status, INVALID_ARGUMENT, "{path:?}");
        assert!(message.starts_with("file_path \"") && message.contains(rule), "{message}");
    }
    assert!(adapter.files().is_empty());
}

#[tokio::test]
async fn anything_but_a_regular_file_is_refused_and_nothing_outside_is_touched() {
    let scratch = Scratch::new();
    let (volume, outside) = (scratch.dir("volume"), scratch.dir("outside"));
    let secret = outside.join("secret.txt");
    std::fs::write(&secret, "as it was").unwrap();
    symlink(&secret, volume.join("link.txt")).unwrap();
    symlink(outside.join("new.txt"), volume.join("dangling.txt")).unwrap();
    symlink(&outside, volume.join("away")).unwrap();
    symlink("/proc/self/root", volume.join("root")).unwrap();
    symlink("real.txt", volume.join("inside.txt")).unwrap();
    std::fs::write(volume.join("real.txt"), "").unwrap();
    std::fs::create_dir(volume.join("dir")).unwrap();
    mknodat(CWD, volume.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    let _socket = socket_in(&volume, "socket");

    let adapter = Adapter::start_on(&volume, &[]).await;
    let client = adapter.client().await;
    let before = adapter.files();
    for (path, rule) in [
        ("link.txt", "is a symbolic link"),
        ("dangling.txt", "is a symbolic link"),
        ("inside.txt", "is a symbolic link"),
        ("away", "is a symbolic link"),
        ("away/new.txt", "goes through a symbolic link or a file"),
        ("away/secret.txt", "goes through a symbolic link or a file"),
        ("root/tmp/new.txt", "goes through a symbolic link or a file"),
        ("real.txt/new.txt", "goes through a symbolic link or a file"),
        ("dir", "is a directory"),
        ("fifo", "is a FIFO"),
        ("socket", "is not a regular file"),
    ] {
        let (status, message) = write_to(&client, path.as_bytes()).await;
        assert_eq!(status, INVALID_ARGUMENT, "{path}");
        assert!(message.starts_with("file_path \"") && message.contains(rule), "{path}: {message}");
    }
    assert_eq!(adapter.files(), before);
    assert_eq!(std::fs::read(volume.join("real.txt")).unwrap(), b"");
    assert_eq!(std::fs::read(&secret).unwrap(), b"as it was");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[tokio::test]
async fn a_directory_that_becomes_a_link_is_not_followed() {
    let scratch = Scratch::new();
    let (volume, outside) = (scratch.dir("volume"), scratch.dir("outside"));
    let adapter = Adapter::start_on(&volume, &[]).await;
    let client = adapter.client().await;
    assert_eq!(write_to(&client, b"dir/out.txt").await.0, OK);
    std::fs::rename(volume.join("dir"), volume.join("old")).unwrap();
    symlink(&outside, volume.join("dir")).unwrap();
    let (status, message) = write_to(&client, b"dir/out.txt").await;
    assert_eq!(status, INVALID_ARGUMENT);
    assert!(message.contains("goes through a symbolic link"), "{message}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[tokio::test]
async fn paths_beneath_the_volume_are_taken_however_they_are_written() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let own = format!("{}/a/b/c.txt", adapter.volume.display());
    for path in ["a/b/c.txt", "./a//b/./c.txt", "/volume/a/b/c.txt", &own] {
        assert_eq!(write_to(&client, path.as_bytes()).await, (OK, String::new()), "{path}");
    }
    let text = String::from_utf8(adapter.read("a/b/c.txt")).unwrap();
    assert_eq!(text.matches("invoked with").count(), 4);
    assert_eq!(adapter.files(), ["a"]);
    let odd = [&b"caf\xe9 \x01.txt"[..], "naïve/ü.txt".as_bytes(), b"...", b"-"];
    for path in odd {
        assert_eq!(write_to(&client, path).await.0, OK, "{path:?}");
    }
    assert_eq!(std::fs::read_dir(&adapter.volume).unwrap().count(), 1 + odd.len());
}

#[tokio::test]
async fn a_file_that_is_deleted_or_renamed_while_open_is_made_anew() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "dir/out.txt", padding: 1 };
    let path = adapter.volume.join(shape.file);
    for (name, remove) in [("first", false), ("second", true), ("third", true)] {
        assert_eq!(client.unary(METRIC, &shape.message(name)).await.unwrap().status, OK);
        assert_eq!(shape.names(&adapter.read(shape.file)), [name]);
        if remove {
            std::fs::remove_file(&path).unwrap();
        } else {
            std::fs::rename(&path, adapter.volume.join("dir/out.txt.1")).unwrap();
        }
    }
    assert_eq!(shape.names(&adapter.read("dir/out.txt.1")), ["first"]);
    std::fs::remove_dir_all(adapter.volume.join("dir")).unwrap();
    assert_eq!(client.unary(METRIC, &shape.message("fourth")).await.unwrap().status, OK);
    assert_eq!(shape.names(&adapter.read(shape.file)), ["fourth"]);
}

#[tokio::test]
async fn a_file_that_is_replaced_while_open_is_left_for_the_new_one() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 1 };
    assert_eq!(client.unary(METRIC, &shape.message("old")).await.unwrap().status, OK);
    std::fs::write(adapter.volume.join("new"), "").unwrap();
    std::fs::rename(adapter.volume.join("out.txt"), adapter.volume.join("out.txt.1")).unwrap();
    std::fs::rename(adapter.volume.join("new"), adapter.volume.join("out.txt")).unwrap();
    assert_eq!(client.unary(METRIC, &shape.message("new")).await.unwrap().status, OK);
    assert_eq!(shape.names(&adapter.read("out.txt.1")), ["old"]);
    assert_eq!(shape.names(&adapter.read("out.txt")), ["new"]);
}

#[tokio::test]
async fn a_writable_but_unreadable_file_is_appended_to_and_logged_once() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let path = volume.join("out.txt");
    let make = || {
        std::fs::write(&path, "foreign text").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o200)).unwrap();
    };
    make();
    // Without capabilities permissions apply to root, too.
    let words = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let wrapper = if rustix::process::geteuid().is_root() { &words[..] } else { &[] };
    let mut adapter = Adapter::start_by(wrapper, &volume, &[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 1 };
    for name in ["first", "second"] {
        assert_eq!(client.unary(METRIC, &shape.message(name)).await.unwrap(), Reply::default());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let expected = format!("foreign text{}", shape.text(name));
        assert_eq!(String::from_utf8(adapter.read("out.txt")).unwrap(), expected);
        std::fs::rename(&path, volume.join(name)).unwrap();
        make();
    }
    drop(client);
    assert_eq!(adapter.stop().await, 0);
    let logged = adapter.log().iter().filter(|line| line.contains("cannot read a file")).count();
    assert_eq!(logged, 1, "{:?}", adapter.log());
}

#[tokio::test]
async fn what_others_append_to_the_file_stays_in_it() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let shape = Shape { file: "out.txt", padding: 1 };
    std::fs::write(adapter.volume.join("out.txt"), "before\n").unwrap();
    assert_eq!(client.unary(METRIC, &shape.message("a")).await.unwrap().status, OK);
    let expected = format!("before\n{}", shape.text("a"));
    assert_eq!(String::from_utf8(adapter.read("out.txt")).unwrap(), expected);
    std::fs::write(adapter.volume.join("out.txt"), "").unwrap();
    assert_eq!(client.unary(METRIC, &shape.message("b")).await.unwrap().status, OK);
    assert_eq!(shape.names(&adapter.read("out.txt")), ["b"]);
}
