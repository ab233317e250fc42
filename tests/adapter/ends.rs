//! The end of a file: nothing is appended to a partial record, and no foreign text is
//! cut off.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::FlockOperation;

use crate::json::{asked, names};
use crate::support::message::{METRIC, Shape, own, with_config};
use crate::support::namespace::skip;
use crate::support::{Adapter, Client, OK, Reply, Scratch, until};

const SHAPE: Shape = Shape { file: "out.txt", padding: 300 };
const OBJECT: &str = "{\"instance\":\"old\",\"template\":\"metric\",\"value\":1}\n";

async fn report(client: &Client, name: &str) -> Reply {
    client.unary(METRIC, &SHAPE.message(name)).await.unwrap()
}

async fn report_json(client: &Client, name: &str) -> Reply {
    let message = with_config(&SHAPE.message(name), &own(&asked("out.txt")));
    client.unary(METRIC, &message).await.unwrap()
}

/// Another process that owns a file until dropped.
struct OtherOwner(Child);

impl OtherOwner {
    async fn of(path: &Path) -> Self {
        let words = ["--exclusive", path.to_str().unwrap(), "cat"];
        let child = Command::new("flock").args(words).stdin(Stdio::piped()).spawn().unwrap();
        let file = File::open(path).unwrap();
        until("the file is locked", || {
            let free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok();
            rustix::fs::flock(&file, FlockOperation::Unlock).unwrap();
            (!free).then_some(())
        })
        .await;
        Self(child)
    }

    /// Ends it: it releases the lock when its input closes.
    fn end(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

impl Drop for OtherOwner {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn nothing_is_put_behind_the_partial_record_of_another_owner_and_it_is_cut_when_that_is_gone() {
    let (text, object) = (SHAPE.text("old"), OBJECT.to_owned());
    for (whole, cut) in [
        (text.clone(), 100),
        // Ends with a line, but not with a record.
        (text.clone(), text.find("\t\tValue").unwrap()),
        (object.clone(), 1),
        (object.clone(), 20),
        (object, OBJECT.len() - 1),
    ] {
        let scratch = Scratch::new();
        let volume = scratch.dir("volume");
        let path = volume.join("out.txt");
        let is_json = whole.starts_with('{');
        std::fs::write(&path, format!("{whole}{}", &whole[..cut])).unwrap();
        let owner = OtherOwner::of(&path).await;
        let adapter = Adapter::start_on(&volume, &[]).await;
        let client = adapter.client().await;
        let refused = if is_json { report_json(&client, "1").await } else { report(&client, "1").await };
        assert_ne!(refused.status, OK, "appended behind {:?}", &whole[..cut]);
        assert!(refused.message.contains("a partial record of another process"), "{}", refused.message);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{whole}{}", &whole[..cut]));
        owner.end();
        let taken = if is_json { report_json(&client, "2").await } else { report(&client, "2").await };
        assert_eq!(taken, Reply::default());
        let file = std::fs::read_to_string(&path).unwrap();
        let new = file.strip_prefix(&*whole).unwrap_or_else(|| panic!("{file}"));
        let new = if is_json { names(new.as_bytes()) } else { SHAPE.names(new.as_bytes()) };
        assert_eq!(new, ["2"], "{file}");
    }
}

#[tokio::test]
async fn whole_records_are_appended_behind_those_of_another_owner() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let path = volume.join("out.txt");
    for start in [SHAPE.text("old"), OBJECT.into(), "a foreign line\n".into(), String::new()] {
        std::fs::write(&path, &start).unwrap();
        let _owner = OtherOwner::of(&path).await;
        let adapter = Adapter::start_on(&volume, &[]).await;
        assert_eq!(report(&adapter.client().await, "1").await, Reply::default());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{start}{}", SHAPE.text("1")));
    }
}

#[tokio::test]
async fn an_owner_repairs_what_another_writer_has_left_behind_its_last_record() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    let path = adapter.volume.join("out.txt");
    assert_eq!(report(&client, "1").await, Reply::default());
    let partial = &SHAPE.text("lost")[..120];
    let append = |text: &str| {
        use std::io::Write;
        File::options().append(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
    };
    append(partial);
    assert_eq!(report(&client, "2").await, Reply::default());
    append("a foreign line without an end");
    assert_eq!(report(&client, "3").await, Reply::default());
    let text = SHAPE.text("1") + &SHAPE.text("2") + "a foreign line without an end\n" + &SHAPE.text("3");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn nul_bytes_that_a_crash_has_left_are_cut_in_both_formats() {
    for (whole, partial) in [(SHAPE.text("old"), ""), (OBJECT.into(), ""), (OBJECT.into(), "{\"inst")] {
        for nuls in [1, 4096, 17 << 20] {
            let scratch = Scratch::new();
            let volume = scratch.dir("volume");
            let path = volume.join("out.txt");
            std::fs::write(&path, format!("{whole}{partial}")).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len((whole.len() + partial.len() + nuls) as u64).unwrap();
            let adapter = Adapter::start_on(&volume, &[]).await;
            assert_eq!(report(&adapter.client().await, "new").await, Reply::default());
            let text = std::fs::read(&path).unwrap();
            assert!(text == format!("{whole}{}", SHAPE.text("new")).as_bytes(), "{} bytes", text.len());
        }
    }
}

#[tokio::test]
async fn the_unfinished_line_of_a_json_file_that_is_not_ours_is_kept() {
    for foreign in ["{ \"a\": 1, \"unfinished\": ", "{\"a\":1", "[\n{", "{\"b\":2}\n{\"a\":"] {
        let scratch = Scratch::new();
        let volume = scratch.dir("volume");
        std::fs::write(volume.join("out.txt"), foreign).unwrap();
        let adapter = Adapter::start_on(&volume, &[]).await;
        assert_eq!(report_json(&adapter.client().await, "new").await, Reply::default());
        let file = String::from_utf8(adapter.read("out.txt")).unwrap();
        assert!(file.starts_with(&format!("{foreign}\n{{\"instance\":\"new\"")), "{file}");
    }
}

#[tokio::test]
async fn without_locks_the_file_is_repaired_and_rotated_and_that_is_logged_once() {
    for error in ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL"] {
        let scratch = Scratch::new();
        let (volume, notes) = (scratch.dir("volume"), scratch.path().join("notes"));
        let inject = format!("inject=flock:error={error}");
        let Some(wrapper) = refusing("flock", &inject, notes.to_str().unwrap()) else { return };
        let whole = SHAPE.text("old");
        std::fs::write(volume.join("out.txt"), format!("{whole}{}", &whole[..50])).unwrap();
        let mut adapter = Adapter::start_by(&wrapper, &volume, &["--rotate-size", "600"]).await;
        let client = adapter.client().await;
        for at in 0..4 {
            assert_eq!(report(&client, &at.to_string()).await, Reply::default());
        }
        assert_eq!(SHAPE.names(&adapter.read("out.txt.000001")), ["old"], "{error}");
        assert_eq!(SHAPE.names(&adapter.read("out.txt")), ["3"], "{error}");
        drop(client);
        adapter.stop().await;
        let logged = adapter.log().iter().filter(|line| line.contains("has no file locks")).count();
        assert_eq!(logged, 1, "{:?}", adapter.log());
    }
}

/// A wrapper that injects faults into an adapter's system calls.
pub fn refusing<'a>(calls: &str, inject: &'a str, notes: &'a str) -> Option<Vec<&'a str>> {
    let words = vec!["strace", "-D", "-f", "-qq", "-o", notes, "-e", inject];
    let trial = Command::new("strace").args(["-qq", "-e", inject, "true"]).output();
    if trial.is_ok_and(|output| output.status.code().is_some() && !output.stderr.starts_with(b"strace:")) {
        return Some(words);
    }
    skip(&format!("there is no strace, or it may not change {calls}"));
    None
}

#[tokio::test]
async fn a_file_that_can_only_be_appended_to_has_its_partial_record_ended_with_a_newline() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let path = volume.join("out.txt");
    let whole = SHAPE.text("old");
    let partial = &whole[..50];
    std::fs::write(&path, format!("{whole}{partial}")).unwrap();
    let Some(_attribute) = AppendOnly::new(&path) else { return };
    let adapter = Adapter::start_on(&volume, &[]).await;
    let client = adapter.client().await;
    for name in ["1", "2"] {
        assert_eq!(report(&client, name).await, Reply::default());
    }
    let expected = format!("{whole}{partial}\n{}{}", SHAPE.text("1"), SHAPE.text("2"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
}

#[tokio::test]
async fn nul_bytes_in_an_append_only_file_are_logged_with_a_remedy() {
    let scratch = Scratch::new();
    let volume = scratch.dir("volume");
    let path = volume.join("out.txt");
    std::fs::write(&path, format!("{}\0\0", SHAPE.text("old"))).unwrap();
    let Some(attribute) = AppendOnly::new(&path) else { return };
    let adapter = Adapter::start_on(&volume, &[]).await;
    let client = adapter.client().await;
    let refused = report(&client, "1").await;
    assert_ne!(refused.status, OK);
    assert!(refused.message.contains("chattr -a"), "{}", refused.message);
    drop(attribute);
    assert_eq!(report(&client, "2").await, Reply::default());
    assert_eq!(SHAPE.names(&adapter.read("out.txt")), ["old", "2"]);
}

/// A file that cannot be truncated until this is dropped.
struct AppendOnly<'a>(&'a Path);

impl<'a> AppendOnly<'a> {
    fn new(path: &'a Path) -> Option<Self> {
        let set = Command::new("chattr").arg("+a").arg(path).output();
        if set.is_ok_and(|output| output.status.success()) {
            return Some(Self(path));
        }
        skip("chattr +a is not possible here");
        None
    }
}

impl Drop for AppendOnly<'_> {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-a").arg(self.0).status();
    }
}
