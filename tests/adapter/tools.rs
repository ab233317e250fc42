//! The image's replacement for a shell: `cat`, `tail`, `probe`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use crate::support::message::{METRIC, Shape};
use crate::support::program::PROGRAM;
use crate::support::{Adapter, OK, Scratch, until};

const SHAPE: Shape = Shape { file: "out.txt", padding: 300 };

/// A directory with links to the program, like the image's /bin.
fn links() -> Scratch {
    let scratch = Scratch::new();
    for name in ["cat", "tail"] {
        symlink(PROGRAM, scratch.path().join(name)).unwrap();
    }
    scratch
}

/// Runs a command to its end.
fn run(program: &Path, words: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The program may exit before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// Asserts a run's exit code, its output, and on failure one line on stderr with
/// `part`.
pub fn assert_printed(output: &Output, code: i32, printed: &[u8], part: &str) {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(output.stdout == printed, "{}", output.stdout.escape_ascii());
    assert!(error.contains(part), "{error}");
    assert_eq!(error.lines().count(), usize::from(code != 0), "{error}");
}

#[test]
fn cat_prints_files_byte_for_byte_by_link_and_by_word() {
    let links = links();
    let bytes: Vec<u8> = (0..300_000_u32).map(|at| (at * 7 / 3) as u8).collect();
    let (large, small) = (links.path().join("large"), links.path().join("small"));
    std::fs::write(&large, &bytes).unwrap();
    std::fs::write(&small, "no newline at the end").unwrap();
    let (large, small) = (large.to_str().unwrap(), small.to_str().unwrap());
    let both = [&bytes[..], b"no newline at the end"].concat();
    assert_printed(&run(&links.path().join("cat"), &[large, small], b""), 0, &both, "");
    assert_printed(&run(Path::new(PROGRAM), &["cat", "--", large, small], b""), 0, &both, "");
    let empty = links.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    assert_printed(&run(&links.path().join("cat"), &[empty.to_str().unwrap()], b""), 0, b"", "");
}

#[test]
fn cat_copies_its_input_where_no_file_or_a_dash_is_named() {
    let cat = links();
    let (file, cat) = (cat.path().join("file"), cat.path().join("cat"));
    std::fs::write(&file, "b").unwrap();
    assert_printed(&run(&cat, &[], b"a\xff\n"), 0, b"a\xff\n", "");
    assert_printed(&run(&cat, &["-", file.to_str().unwrap()], b"a"), 0, b"ab", "");
}

#[test]
fn cat_prints_what_it_can_and_is_1_for_what_it_cannot() {
    let links = links();
    let cat = links.path().join("cat");
    let (there, missing) = (links.path().join("there"), links.path().join("missing"));
    std::fs::write(&there, "there").unwrap();
    let (there, missing) = (there.to_str().unwrap(), missing.to_str().unwrap());
    let dir = links.path().to_str().unwrap();
    let not_found = format!("cat: {missing}: No such file or directory");
    assert_printed(&run(&cat, &[missing, there], b""), 1, b"there", &not_found);
    assert_printed(&run(&cat, &[dir, there], b""), 1, b"there", "Is a directory");
    assert_printed(&run(&cat, &["-n", there], b""), 64, b"", "no such flag: -n");
}

#[test]
fn tail_prints_the_last_lines_or_bytes_by_link_and_by_word() {
    let links = links();
    let tail = links.path().join("tail");
    let path = links.path().join("lines");
    let lines: Vec<String> = (1..=20_000).map(|at| format!("line {at}\n")).collect();
    let all = lines.concat();
    std::fs::write(&path, &all).unwrap();
    let file = path.to_str().unwrap();
    for (words, expected) in [
        (&[file][..], lines[19_990..].concat()),
        (&["-n", "3", file], lines[19_997..].concat()),
        (&["-n3", file], lines[19_997..].concat()),
        (&["-15000", file], lines[5_000..].concat()),
        (&["-n", "+19999", file], lines[19_998..].concat()),
        (&["-n", "999999", file], all.clone()),
        (&["-n", "0", file], String::new()),
        (&["-c", "8", file], "e 20000\n".into()),
        (&["-c", "+2", file], all[1..].into()),
        (&["-c", "0", file], String::new()),
    ] {
        assert_printed(&run(&tail, words, b""), 0, expected.as_bytes(), "");
        let words = [&["tail"], words].concat();
        assert_printed(&run(Path::new(PROGRAM), &words, b""), 0, expected.as_bytes(), "");
    }
}

#[test]
fn tail_reports_errors_and_is_1_or_64() {
    let links = links();
    let tail = links.path().join("tail");
    for (words, code, part) in [
        (&["missing.txt"][..], 1, "tail: missing.txt: No such file or directory"),
        (&["-f", "missing.txt"], 1, "No such file or directory"),
        (&[], 64, "name a file"),
        (&["-n", "many", "file"], 64, "not a number"),
        (&["-n"], 64, "a number is missing"),
        (&["a", "b"], 64, "one file at a time"),
        (&["-q", "a"], 64, "no such flag: -q"),
    ] {
        assert_printed(&run(&tail, words, b""), code, b"", part);
    }
}

/// A running `tail -f`.
struct Following {
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl Following {
    fn new(path: &Path, words: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.arg("tail").args(words).arg("-f").arg(path).stdout(Stdio::piped());
        Self::of(command.spawn().unwrap())
    }

    fn of(mut child: Child) -> Self {
        let seen = Arc::new(Mutex::new(String::new()));
        let (mut stdout, theirs) = (child.stdout.take().unwrap(), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut block) {
                theirs.lock().unwrap().push_str(std::str::from_utf8(&block[..count]).unwrap());
            }
        });
        Self { child, seen }
    }

    async fn sees(&self, expected: &str) {
        until(&format!("tail -f prints {expected:?}"), || {
            let seen = self.seen.lock().unwrap();
            assert!(seen.len() <= expected.len(), "it printed {seen:?}");
            (*seen == expected).then_some(())
        })
        .await;
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn append(path: &Path, text: &str) {
    let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[tokio::test]
async fn tail_follows_a_file_across_rotation_and_truncation() {
    let scratch = Scratch::new();
    let path = scratch.path().join("out.txt");
    append(&path, "one\ntwo\nthree\n");
    let following = Following::new(&path, &["-n", "1"]);
    following.sees("three\n").await;
    append(&path, "four");
    following.sees("three\nfour").await;
    // Appends to the old file before the new one exists are not lost.
    let rotated = scratch.path().join("out.txt.000001");
    std::fs::rename(&path, &rotated).unwrap();
    append(&rotated, " and five\n");
    following.sees("three\nfour and five\n").await;
    append(&path, "six\n");
    following.sees("three\nfour and five\nsix\n").await;
    std::fs::File::options().write(true).truncate(true).open(&path).unwrap();
    append(&path, "7\n");
    following.sees("three\nfour and five\nsix\n7\n").await;
}

#[tokio::test]
async fn tail_follows_what_an_adapter_writes_and_rotates() {
    let adapter = Adapter::start(&["--rotate-size", "1000"]).await;
    let client = adapter.client().await;
    let mut expected = String::new();
    let mut following = None;
    for at in 0..6 {
        let name = format!("n{at}");
        assert_eq!(client.unary(METRIC, &SHAPE.message(&name)).await.unwrap().status, OK);
        expected += &SHAPE.text(&name);
        let path = adapter.volume.join("out.txt");
        let following = following.get_or_insert_with(|| Following::new(&path, &["-c", "+1"]));
        following.sees(&expected).await;
    }
    assert!(adapter.files().len() > 2, "{:?}", adapter.files());
}

/// Reads a little, then closes the pipe.
fn read_a_little(mut stdout: ChildStdout) {
    stdout.read_exact(&mut [0; 5]).unwrap();
}

fn ended(child: Child) -> (ExitStatus, String) {
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let scratch = Scratch::new();
    let path = scratch.path().join("large");
    std::fs::write(&path, "x".repeat(4 << 20)).unwrap();
    for words in [&["cat"][..], &["tail", "-c", "3000000"], &["tail", "-f", "-c", "3000000"]] {
        let mut command = Command::new(PROGRAM);
        command.args(words).arg(&path).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        read_a_little(child.stdout.take().unwrap());
        let (status, error) = ended(child);
        assert_eq!((status.code(), &*error), (Some(0), ""), "{words:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_1() {
    let scratch = Scratch::new();
    let path = scratch.path().join("file");
    std::fs::write(&path, "text").unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(PROGRAM).arg("cat").arg(&path).stdout(full).output().unwrap();
    assert_printed(&output, 1, b"", "cat: cannot write: No space left on device");
}

/// Probes the health of any listener on a port.
pub async fn probe(port: u16, service: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(["probe", &port.to_string()]).envs(environment.iter().copied());
    if !service.is_empty() {
        command.arg(service);
    }
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn probe_is_0_for_what_is_served_and_1_for_what_is_not() {
    let adapter = Adapter::start(&[]).await;
    for service in [
        "",
        "metric.HandleMetricService",
        "logentry.HandleLogEntryService",
        "authorization.HandleAuthorizationService",
        "tracespan.HandleTraceSpanService",
        "edge.HandleEdgeService",
        "reportnothing.HandleReportNothingService",
        "checknothing.HandleCheckNothingService",
        "grpc.health.v1.Health",
    ] {
        assert_printed(&probe(adapter.port, service, &[]).await, 0, b"SERVING\n", "");
    }
    let unknown = probe(adapter.port, "no.such.Service", &[]).await;
    let names = "probe: no such service: no.such.Service; there are metric.HandleMetricService, ";
    assert_printed(&unknown, 1, b"SERVICE_UNKNOWN\n", names);
}

#[tokio::test]
async fn without_a_port_probe_asks_that_of_the_environment() {
    let adapter = Adapter::start(&[]).await;
    let port = adapter.port.to_string();
    let ask =
        |value: &str| Command::new(PROGRAM).arg("probe").env("MYGRPCADAPTER_PORT", value).output().unwrap();
    assert_printed(&ask(&port), 0, b"SERVING\n", "");
    assert_printed(&ask("http"), 64, b"", "MYGRPCADAPTER_PORT: write a port from 0 to 65535");
    assert_printed(&ask("0"), 64, b"", "MYGRPCADAPTER_PORT: 0 is any free port");
    let probe = |words: &[&str]| Command::new(PROGRAM).arg("probe").args(words).output().unwrap();
    for words in [&["0"][..], &["127.0.0.1:0"], &["--http", "0"], &["0", "grpc.health.v1.Health"]] {
        assert_printed(&probe(words), 64, b"", ": write a port from 1 to 65535");
    }
    let output =
        Command::new(PROGRAM).args(["probe", "--http"]).env("MYGRPCADAPTER_METRICS_PORT", "0").output();
    assert_printed(&output.unwrap(), 64, b"", "MYGRPCADAPTER_METRICS_PORT: 0 is any free port");
}

#[tokio::test]
async fn probe_asks_another_address_by_its_argument_or_the_environment() {
    let addresses = ["--address", "127.0.0.2", "--metrics-address", "127.0.0.3", "--metrics-port", "0"];
    let adapter = Adapter::start(&addresses).await;
    let (port, metrics_port) = (adapter.port.to_string(), adapter.metrics_port.unwrap().to_string());
    let probe = |words: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command
            .arg("probe")
            .args(words)
            .env("MYGRPCADAPTER_ADDRESS", "127.0.0.2")
            .env("MYGRPCADAPTER_PORT", &port);
        command
            .env("MYGRPCADAPTER_METRICS_ADDRESS", "127.0.0.3")
            .env("MYGRPCADAPTER_METRICS_PORT", &metrics_port);
        command.output().unwrap()
    };
    for words in [
        &[][..],
        &["--http"],
        &[&format!("127.0.0.2:{port}")],
        &["--http", &format!("127.0.0.3:{metrics_port}")],
    ] {
        assert_printed(&probe(words), 0, b"SERVING\n", "");
    }
    assert_printed(&probe(&[&port]), 1, b"", "nothing listens there");
}

#[tokio::test]
async fn probe_of_the_metrics_port_says_which_port_it_asks() {
    let adapter = Adapter::start(&["--metrics-port", "0"]).await;
    let output = probe(adapter.metrics_port.unwrap(), "", &[]).await;
    assert_printed(&output, 1, b"", "the port for gRPC is asked, not the metrics port");
}

#[tokio::test]
async fn probe_of_another_grpc_server_says_that_it_is_another() {
    // Settings, and an answer of nothing but headers: UNIMPLEMENTED.
    let answer = b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x05\0\0\0\x01\x88";
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(answer).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    assert_printed(&probe(port, "", &[]).await, 1, b"SERVICE_UNKNOWN\n", "probe: not this adapter");
    server.join().unwrap();
}

#[test]
fn each_tool_has_a_help_of_its_own() {
    let links = links();
    for (tool, words) in [("cat", &["--help"][..]), ("tail", &["-n", "1", "--help"]), ("tail", &["-h"])] {
        let output = run(&links.path().join(tool), words, b"");
        let start = format!("Usage: {tool} [");
        assert!(output.status.success() && output.stdout.starts_with(start.as_bytes()), "{output:?}");
    }
    for tool in ["cat", "tail", "probe"] {
        let output = run(Path::new(PROGRAM), &[tool, "--help"], b"");
        let start = format!("Usage: {tool} [");
        assert!(output.status.success() && output.stdout.starts_with(start.as_bytes()), "{output:?}");
    }
}

#[tokio::test]
async fn probe_by_http_asks_the_metrics_port() {
    let adapter = Adapter::start(&["--drain-delay", "1h", "--metrics-port", "0"]).await;
    let port = adapter.metrics_port.unwrap().to_string();
    let probe = |service: &str| run(Path::new(PROGRAM), &["probe", "--http", &port, service], b"");
    assert_printed(&probe(""), 0, b"SERVING\n", "");
    assert_printed(&probe("metric.HandleMetricService"), 0, b"SERVING\n", "");
    assert_printed(&probe("no.such.Service"), 1, b"SERVICE_UNKNOWN\n", "probe: no such service");
    let other = run(Path::new(PROGRAM), &["probe", "--http", &adapter.port.to_string()], b"");
    assert_printed(&other, 1, b"", &format!("probe: port {}: ", adapter.port));
    adapter.signal(Signal::TERM);
    adapter.logged("draining").await;
    assert_printed(&probe(""), 1, b"NOT_SERVING\n", "probe: not serving");
}

#[tokio::test]
async fn probe_asks_past_any_proxy() {
    let adapter = Adapter::start(&[]).await;
    let proxies = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
        .map(|name| (name, "http://127.0.0.1:9"));
    assert_printed(&probe(adapter.port, "", &proxies).await, 0, b"SERVING\n", "");
}

#[tokio::test]
async fn probe_is_1_while_draining() {
    let adapter = Adapter::start(&["--drain-delay", "1h"]).await;
    adapter.signal(Signal::TERM);
    adapter.logged("draining").await;
    let output = probe(adapter.port, "", &[]).await;
    assert_printed(&output, 1, b"NOT_SERVING\n", "probe: not serving");
}

#[tokio::test]
async fn probe_is_1_with_a_reason_without_a_listener_or_with_another_one() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = format!("probe: port {free}: nothing listens there");
    assert_printed(&probe(free, "", &[]).await, 1, b"", &refused);
    for (answer, part) in [
        (&b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"[..], "not an HTTP/2 server"),
        (b"", "the connection was closed without an answer"),
        (b"\0\0\0\x07\0\0\0\0\0", "the connection is being closed"),
        (b"\0\0\x01\x00", "the connection was closed without an answer"),
    ] {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = other.accept().unwrap();
            stream.write_all(answer).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert_printed(&probe(port, "", &[]).await, 1, b"", part);
        server.join().unwrap();
    }
}

#[tokio::test]
async fn probe_does_not_wait_for_ever() {
    // A connection in the backlog of a listener that never accepts.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let reason = format!("probe: port {port}: no answer within 2s");
    assert_printed(&probe(port, "", &[]).await, 1, b"", &reason);
}

#[tokio::test]
async fn probe_does_not_wait_for_an_answer_that_arrives_byte_by_byte() {
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = slow.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = slow.accept().unwrap();
        // A frame of 16 KiB that would take hours.
        while stream.write_all(b"\0").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
    let reason = format!("probe: port {port}: no answer within 2s");
    assert_printed(&probe(port, "", &[]).await, 1, b"", &reason);
    server.join().unwrap();
}

#[tokio::test]
async fn tail_f_ends_when_its_reader_is_gone_though_nothing_is_added() {
    let scratch = Scratch::new();
    let path = scratch.path().join("quiet");
    std::fs::write(&path, "12345\n").unwrap();
    let missing = scratch.path().join("missing");
    for (words, file) in [(["tail", "-f"], &path), (["tail", "-F"], &path), (["tail", "-F"], &missing)] {
        let mut command = Command::new(PROGRAM);
        command.args(words).arg(file).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        if file.exists() {
            stdout.read_exact(&mut [0; 6]).unwrap();
        }
        drop(stdout);
        let status = until("tail ends", || child.try_wait().unwrap()).await;
        assert_eq!(status.code(), Some(0), "{words:?}");
    }
}

#[tokio::test]
async fn tail_capital_f_waits_for_a_file_that_is_not_there_yet() {
    let scratch = Scratch::new();
    let path = scratch.dir("late").join("out.txt");
    std::fs::remove_dir(path.parent().unwrap()).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["tail", "-n", "1", "-F"]).arg(&path).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let mut following = Following::of(child);
    let mut said = std::io::BufReader::new(following.child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    let expected = format!("tail: {}: No such file or directory", path.display());
    assert!(line.starts_with(&expected) && line.contains("waiting"), "{line}");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    append(&path, "one\ntwo\n");
    until("it prints", || following.seen.lock().unwrap().ends_with("two\n").then_some(())).await;
    append(&path, "three\n");
    // The whole file is new, so -n has no effect.
    following.sees("one\ntwo\nthree\n").await;
}

#[test]
fn probe_takes_a_port_and_a_service_and_nothing_else() {
    for words in
        [&["probe", "http"][..], &["probe", "70000"], &["probe", "1", "a", "b"], &["probe", "1", "--http"]]
    {
        assert_printed(
            &run(Path::new(PROGRAM), words, b""),
            64,
            b"",
            "Usage: probe [--http] [[ADDRESS:]PORT] [SERVICE]",
        );
    }
}

#[test]
fn a_link_to_a_link_is_the_tool_too() {
    let links = links();
    let far: PathBuf = links.dir("bin").join("cat");
    symlink("../cat", &far).unwrap();
    assert_printed(&run(&far, &[], b"x"), 0, b"x", "");
}
