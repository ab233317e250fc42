//! The program under test: start, watch, stop.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal};
use tokio::task::JoinSet;

use super::client::{Client, Reply};
use super::message::{METRIC, Shape, assert_each_once};
use super::page::Page;
use super::{http, until};

/// The binary that cargo built for this test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_mygrpcadapter");

/// The port argument of every adapter, unless its test sets another.
const PORT: &str = "0";
const METRICS_PORT: &str = "--metrics-port";

/// A test's directory, deleted on drop.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        Self::beneath(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap()
    }

    /// A directory in memory if possible: for many files.
    pub fn in_memory() -> Self {
        Self::beneath(Path::new("/dev/shm")).unwrap_or_else(|_| Self::new())
    }

    fn beneath(dir: &Path) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = dir.join(format!("adapter-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir.canonicalize()?))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Creates a directory in it.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.0.join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A socket in a directory whose path may exceed the 107 bytes of a socket address.
pub fn socket_in(dir: &Path, name: &str) -> UnixListener {
    let dir = File::open(dir).unwrap();
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())).unwrap()
}

/// A running adapter, killed on drop.
#[derive(Debug)]
pub struct Adapter {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
    /// The address from its log.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Its metrics port, if the test asked for one.
    pub metrics_port: Option<u16>,
    /// Its volume, as seen from outside.
    pub volume: PathBuf,
    /// Last, so that the volume outlives the process.
    _scratch: Option<Scratch>,
}

impl Adapter {
    /// Starts an adapter with a new volume.
    pub async fn start(args: &[&str]) -> Self {
        let scratch = Scratch::new();
        let volume = scratch.dir("volume");
        let mut adapter = Self::start_on(&volume, args).await;
        adapter._scratch = Some(scratch);
        adapter
    }

    /// Starts an adapter on an existing directory.
    pub async fn start_on(volume: &Path, args: &[&str]) -> Self {
        Self::start_by(&[], volume, args).await
    }

    /// Starts an adapter through a wrapper, on a directory that lives as long as
    /// `scratch`.
    pub async fn start_in(wrapper: &[&str], scratch: Scratch, volume: &Path, args: &[&str]) -> Self {
        let mut adapter = Self::start_by(wrapper, volume, args).await;
        adapter._scratch = Some(scratch);
        adapter
    }

    /// Starts an adapter through `wrapper`, a command that becomes the adapter or
    /// runs it.
    pub async fn start_by(wrapper: &[&str], volume: &Path, args: &[&str]) -> Self {
        let mut words: Vec<OsString> = wrapper.iter().map(OsString::from).collect();
        words.push(std::env::var_os("ADAPTER_UNDER_TEST").unwrap_or_else(|| PROGRAM.into()));
        let has_metrics = args.contains(&METRICS_PORT);
        if args.first().is_none_or(|word| word.parse::<u16>().is_err()) {
            words.push(PORT.into());
        }
        if !has_metrics {
            words.extend([METRICS_PORT.into(), "off".into()]);
        }
        if !args.contains(&"--volume") {
            words.extend(["--volume".into(), volume.into()]);
        }
        words.extend(args.iter().map(OsString::from));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.env_remove("RUST_LOG");
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, theirs) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                theirs.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let (address, port, volume) = (String::new(), 0, volume.to_owned());
        let mut adapter =
            Self { child, log, reader, address, port, metrics_port: None, volume, _scratch: None };
        let quoted = |line: String| line.split('"').nth(1).unwrap().to_owned();
        let port_of = |address: &str| address.rsplit(':').next().unwrap().parse().unwrap();
        adapter.address = quoted(adapter.logged(" info listening on \"").await);
        adapter.port = port_of(&adapter.address);
        if has_metrics {
            adapter.metrics_port = Some(port_of(&quoted(adapter.logged("metrics listening on \"").await)));
        }
        adapter
    }

    /// Connects to it.
    pub async fn client(&self) -> Client {
        Client::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    /// Reports each name in its own call, all at once, `on_each` of them per
    /// connection.
    pub async fn report_each(&self, shape: Shape, names: &[String], on_each: usize) -> JoinSet<Reply> {
        let mut calls = JoinSet::new();
        for names in names.chunks(on_each) {
            let client = self.client().await;
            for name in names {
                let (client, message) = (client.clone(), shape.message(name));
                calls.spawn(async move { client.unary(METRIC, &message).await.unwrap() });
            }
        }
        calls
    }

    /// Waits until all calls succeeded, and asserts that the file has each of their
    /// reports once and nothing else.
    pub async fn assert_all_taken(&self, calls: JoinSet<Reply>, shape: Shape, names: &[String]) {
        for reply in calls.join_all().await {
            assert_eq!(reply, Reply::default());
        }
        let written = shape.names(&self.read(shape.file));
        assert_eq!(written.len(), names.len());
        assert_each_once(names, &written);
    }

    /// Requests a path from its metrics port.
    pub fn http(&self, path: &str) -> http::Response {
        http::get(self.metrics_port.expect("started with --metrics-port"), path)
    }

    /// Its metrics.
    pub fn page(&self) -> Page {
        let response = self.http("/metrics");
        assert_eq!(response.status, 200);
        Page::parse(&String::from_utf8(response.body).expect("UTF-8"))
    }

    /// Its process id, or that of a wrapper that runs it.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for its end and its last log line, and returns its exit code, 128+N if
    /// killed by signal N.
    pub async fn exit(&mut self) -> i32 {
        let status = until("the adapter ends", || self.child.try_wait().unwrap()).await;
        until("its log ends", || self.reader.is_finished().then_some(())).await;
        status.code().or(status.signal().map(|signal| 128 + signal)).unwrap()
    }

    /// Asks it to stop, and waits for its end.
    pub async fn stop(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.exit().await
    }

    /// Waits for a log line that contains `part`.
    pub async fn logged(&self, part: &str) -> String {
        until(&format!("a log line with {part:?}"), || {
            self.log().into_iter().find(|line| line.contains(part))
        })
        .await
    }

    /// Waits for a log line, and returns how often it was logged.
    pub async fn times_logged(&self, part: &str) -> usize {
        self.logged(part).await;
        self.log().iter().filter(|line| line.contains(part)).count()
    }

    /// Its log lines so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The content of a file of its volume; empty if there is none.
    pub fn read(&self, file: &str) -> Vec<u8> {
        match std::fs::read(self.volume.join(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.unwrap(),
        }
    }

    /// The names in the top directory of its volume, sorted.
    pub fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(&self.volume)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The number of its open descriptors.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// Its peak resident memory, in KiB.
    pub fn peak_memory(&self) -> usize {
        self.status("VmHWM:")
    }

    /// Its resident memory without mapped files, in KiB.
    pub fn own_memory(&self) -> usize {
        self.status("RssAnon:")
    }

    fn status(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Its CPU time, in hundredths of a second.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(self.proc("stat")).unwrap();
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
    }

    /// How often any of its threads has begun to wait.
    pub fn wake_ups(&self) -> u64 {
        let tasks = std::fs::read_dir(self.proc("task")).unwrap();
        let of_task = |task: io::Result<std::fs::DirEntry>| {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
            line.trim().parse::<u64>().unwrap()
        };
        tasks.map(of_task).sum()
    }

    fn proc(&self, file: &str) -> PathBuf {
        format!("/proc/{}/{file}", self.pid().as_raw_pid()).into()
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let text = self.log().join("\n");
        if std::thread::panicking() {
            let _ = writeln!(io::stderr(), "the adapter's log:\n{text}");
        } else {
            // A panic aborts the release build, but not the test build.
            assert!(!text.contains("panicked at"), "the adapter's log:\n{text}");
        }
    }
}
