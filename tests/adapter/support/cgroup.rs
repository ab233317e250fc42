//! A container's memory limit: a cgroup (version 1) per test.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::namespace::skip;

const ROOT: &str = "/sys/fs/cgroup/memory";

/// A memory cgroup, removed on drop after its last process.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    enter: String,
}

impl Cgroup {
    /// A cgroup limited to this many bytes; `None`, with a message, where cgroups are
    /// not available.
    pub fn limited(bytes: usize) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(ROOT).join(format!("adapter-test-{}-{number}", std::process::id()));
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", dir.display());
        let group = Self { dir, enter };
        let made = std::fs::create_dir(&group.dir)
            .and_then(|()| std::fs::write(group.dir.join("memory.limit_in_bytes"), bytes.to_string()));
        match made {
            Ok(()) => Some(group),
            Err(error) => {
                skip(&format!("no memory cgroup at {}: {error}", group.dir.display()));
                None
            }
        }
    }

    /// The wrapper that runs a command in it.
    pub fn entry(&self) -> [&str; 4] {
        ["sh", "-c", &self.enter, "sh"]
    }

    /// How many of its processes the OOM killer has ended.
    pub fn killed(&self) -> usize {
        let control = std::fs::read_to_string(self.dir.join("memory.oom_control")).unwrap();
        let line = control.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap();
        line.parse().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.dir);
    }
}
