//! Every signal, in every mode, as PID 1 too.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::message::{AUTHORIZATION, METRIC, Shape};
use crate::support::namespace::skip;
use crate::support::program::PROGRAM;
use crate::support::{Adapter, OK, Scratch, until};

const SHAPE: Shape = Shape { file: "out.txt", padding: 100 };

/// Runs a program as PID 1 of its own namespace.
const AS_FIRST: [&str; 4] = ["unshare", "--pid", "--fork", "--kill-child"];

fn may_be_first() -> bool {
    let probe = Command::new(AS_FIRST[0]).args(&AS_FIRST[1..]).arg("true").output();
    let may = probe.is_ok_and(|output| output.status.success());
    if !may {
        skip("unshare --pid is not allowed; run the tests as root");
    }
    may
}

/// Waits for the only child of a process that runs `program`.
async fn child_of(parent: Pid, program: &Path) -> Pid {
    let parent = parent.as_raw_pid();
    until("the first process of the namespace", || {
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        let child: i32 = children.trim().parse().ok()?;
        let runs = std::fs::read_link(format!("/proc/{child}/exe")).ok()?;
        (runs == program.canonicalize().ok()?).then(|| Pid::from_raw(child))?
    })
    .await
}

#[tokio::test]
async fn hang_up_and_quit_end_it_as_term_does() {
    for signal in [Signal::HUP, Signal::QUIT] {
        let mut adapter = Adapter::start(&[]).await;
        adapter.signal(signal);
        assert_eq!(adapter.exit().await, 0, "{signal:?}");
        assert!(adapter.log().last().unwrap().contains("stopped"), "{:?}", adapter.log());
    }
}

#[tokio::test]
async fn a_hang_up_that_nohup_ignores_is_ignored() {
    let scratch = Scratch::new();
    let nohup = ["env", "--ignore-signal=HUP"];
    let mut adapter = Adapter::start_by(&nohup, scratch.path(), &[]).await;
    adapter.signal(Signal::HUP);
    let client = adapter.client().await;
    assert_eq!(client.unary(METRIC, &SHAPE.message("n")).await.unwrap().status, OK);
    assert_eq!(adapter.stop().await, 0);
    assert!(!adapter.log().iter().any(|line| line.contains("SIGHUP")), "{:?}", adapter.log());
}

#[tokio::test]
async fn signals_that_mean_nothing_here_change_nothing() {
    let mut adapter = Adapter::start(&[]).await;
    for signal in [Signal::USR1, Signal::USR2, Signal::PIPE, Signal::XFSZ] {
        adapter.signal(signal);
    }
    let client = adapter.client().await;
    assert_eq!(client.unary(METRIC, &SHAPE.message("n")).await.unwrap().status, OK);
    assert_eq!(adapter.stop().await, 0);
}

#[tokio::test]
async fn a_file_that_may_grow_no_more_is_an_error_and_not_the_end() {
    let scratch = Scratch::new();
    // Units of 512 bytes in dash, of 1 KiB in bash.
    let limited = ["sh", "-c", "ulimit -f 8 && exec \"$@\"", "sh"];
    let mut adapter = Adapter::start_by(&limited, scratch.path(), &[]).await;
    let client = adapter.client().await;
    let mut acknowledged = Vec::new();
    for at in 0..100 {
        let name = at.to_string();
        if client.unary(METRIC, &SHAPE.message(&name)).await.unwrap().status == OK {
            acknowledged.push(name);
        }
    }
    assert!(!acknowledged.is_empty() && acknowledged.len() < 100);
    assert_eq!(client.unary(AUTHORIZATION, b"").await.unwrap().status, OK);
    assert_eq!(SHAPE.names(&adapter.read("out.txt")), acknowledged);
    assert_eq!(adapter.stop().await, 0);
}

#[tokio::test]
async fn the_same_signal_right_after_the_first_is_no_impatience() {
    // The second must arrive within half a second, which a busy machine may miss.
    for _ in 0..20 {
        let mut adapter = Adapter::start(&["--drain-delay", "1s"]).await;
        let first = Instant::now();
        adapter.signal(Signal::TERM);
        adapter.logged("draining").await;
        adapter.signal(Signal::TERM);
        if first.elapsed() > Duration::from_millis(400) {
            continue;
        }
        assert_eq!(adapter.exit().await, 0);
        return;
    }
    panic!("too slow to tell");
}

#[tokio::test]
async fn timeout_1_may_end_it() {
    let scratch = Scratch::new();
    let mut adapter = Adapter::start_by(&["timeout", "1"], scratch.path(), &["--drain-delay", "100ms"]).await;
    assert_eq!(adapter.exit().await, 124);
    assert!(adapter.log().last().unwrap().contains("stopped"), "{:?}", adapter.log());
}

#[tokio::test]
async fn as_process_1_it_heeds_every_signal_that_ends_it() {
    if !may_be_first() {
        return;
    }
    let scratch = Scratch::new();
    for signal in [Signal::HUP, Signal::QUIT] {
        let mut adapter = Adapter::start_by(&AS_FIRST, scratch.path(), &[]).await;
        let first = child_of(adapter.pid(), Path::new(PROGRAM)).await;
        kill_process(first, signal).unwrap();
        assert_eq!(adapter.exit().await, 0);
    }
}

/// A tool as PID 1, waiting for input; returns its exit code.
async fn ends_by(words: &[&str], signal: Signal) -> Option<i32> {
    let mut command = Command::new(AS_FIRST[0]);
    command.args(&AS_FIRST[1..]).arg(PROGRAM).args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut wrapper = command.spawn().unwrap();
    let first = child_of(Pid::from_child(&wrapper), Path::new(PROGRAM)).await;
    // PID 1 loses a signal that arrives before there is a handler.
    let ended = until_ended(&mut wrapper, first, signal).await;
    let _ = wrapper.kill();
    let _ = wrapper.wait();
    ended
}

async fn until_ended(wrapper: &mut Child, first: Pid, signal: Signal) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let _ = kill_process(first, signal);
        tokio::time::sleep(Duration::from_millis(20)).await;
        if let Some(status) = wrapper.try_wait().unwrap() {
            return status.code();
        }
    }
    None
}

#[tokio::test]
async fn tools_as_process_1_end_by_signals() {
    if !may_be_first() {
        return;
    }
    let scratch = Scratch::new();
    let file = scratch.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    for words in [&["tail", "-f", file][..], &["cat"]] {
        for (signal, code) in
            [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::QUIT, 131)]
        {
            assert_eq!(ends_by(words, signal).await, Some(code), "{words:?} {signal:?}");
        }
    }
}
