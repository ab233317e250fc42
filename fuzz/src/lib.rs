//! Shared by the fuzz targets: invariants, and checkers that share no code with the
//! adapter.

pub mod exposition;
pub mod json;
pub mod lines;
pub mod report;
pub mod server;

use std::path::{Path, PathBuf};

const SCRATCH: &str = "mygrpcadapter-fuzz-";

/// A directory of this process, in memory if possible. A fuzzer never exits
/// regularly, so the next one deletes it.
pub fn scratch(name: &str) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let above = if memory.is_dir() { memory } else { std::env::temp_dir() };
    for entry in std::fs::read_dir(&above).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let process = file_name.to_str().and_then(|name| name.strip_prefix(SCRATCH)?.rsplit('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let dir = above.join(format!("{SCRATCH}{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a scratch directory");
    dir
}

/// Asserts that a text for people is one line of bounded length without terminal
/// controls.
pub fn assert_is_line(text: &str) {
    assert!(text.len() < 1024, "{} bytes: {text:?}", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
