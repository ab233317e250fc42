//! Private namespaces: mounts and networks that are invisible to other processes and
//! disappear with the last process in them.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Reports that a test cannot run here, in the output and, up to a colon, in the file
/// that `make test` counts. Fails if tests may not be skipped.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Not by a macro: the harness would capture its output.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}");
    if let Some(file) = std::env::var_os("SKIPPED_TESTS") {
        let file = File::options().append(true).create(true).open(file);
        let kind = reason.split(": ").next().unwrap_or_default();
        // A single write, since tests run in parallel.
        file.unwrap().write_all(format!("{test}\t{kind}\n").as_bytes()).unwrap();
    }
    let required = std::env::var("CI_REQUIRE_MOUNTS").is_ok_and(|value| value == "1");
    assert!(!required, "CI_REQUIRE_MOUNTS=1, but: {reason}");
}

/// Whether a program is missing, which skips the test.
pub fn lacks(program: &str) -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&dirs).any(|dir| dir.join(program).is_file());
    if !found {
        skip(&format!("there is no {program}"));
    }
    !found
}

/// An idle process that holds namespaces.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
    /// The `nsenter` command to enter them.
    entry: [String; 4],
}

impl Namespace {
    /// A new namespace, `--mount` or `--net`; `None`, with a message, where that is
    /// not permitted.
    pub fn new(kind: &str) -> Option<Self> {
        let words = [kind, "--", "sh", "-c", "echo && exec cat"];
        let spawned =
            Command::new("unshare").args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut holder) = spawned else {
            skip("there is no unshare(1)");
            return None;
        };
        let mut line = String::new();
        let _ = BufReader::new(holder.stdout.take()?).read_line(&mut line);
        if line.is_empty() {
            let _ = holder.wait();
            skip(&format!("unshare {kind} is not allowed; run the tests as root"));
            return None;
        }
        let entry = ["nsenter".into(), "--target".into(), holder.id().to_string(), kind.into()];
        Some(Self { holder, entry })
    }

    /// A namespace with its own mount at `dir`, made by `mount` with `options`.
    pub fn mounted(options: &[&str], dir: &Path) -> Option<Self> {
        let namespace = Self::new("--mount")?;
        let words: Vec<&str> = ["mount"].iter().chain(options).copied().chain(dir.to_str()).collect();
        match namespace.try_run(&words) {
            Ok(()) => Some(namespace),
            Err(reason) => {
                skip(&format!("mount {} is not possible: {reason}", options[..2].join(" ")));
                None
            }
        }
    }

    /// The wrapper that runs a command in it.
    pub fn entry(&self) -> [&str; 4] {
        self.entry.each_ref().map(|word| &**word)
    }

    /// Runs a command in it.
    pub fn run(&self, words: &[&str]) {
        self.try_run(words).unwrap();
    }

    fn try_run(&self, words: &[&str]) -> Result<(), String> {
        let [nsenter, entry @ ..] = &self.entry;
        let output = Command::new(nsenter).args(entry).args(words).output().unwrap();
        let reason = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(format!("{words:?}: {}", reason.trim())) }
    }

    /// A path in it, as seen from outside.
    pub fn seen(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").unwrap())
    }

    /// Its network, for a thread to enter.
    pub fn network(&self) -> File {
        File::open(format!("/proc/{}/ns/net", self.holder.id())).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A frozen file system, thawed on drop.
#[derive(Debug)]
pub struct Frozen<'a> {
    namespace: &'a Namespace,
    dir: &'a str,
}

impl<'a> Frozen<'a> {
    pub fn new(namespace: &'a Namespace, dir: &'a str) -> Self {
        namespace.run(&["fsfreeze", "--freeze", dir]);
        Self { namespace, dir }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = self.namespace.try_run(&["fsfreeze", "--unfreeze", self.dir]);
    }
}
