//! Metrics of the process, under the names that Prometheus's client libraries use.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::logging;
use crate::metrics::{Description, Export, Page};

/// Clock ticks per second in `/proc`, on every architecture we build for.
const TICKS: f64 = 100.0;

/// Descriptors for files, ports, metrics and the log, beside those of connections.
const OTHERS: u64 = 128;

/// Takes as many descriptors as the system gives, and says if that is too few for so
/// many connections. Where a container's soft limit is 1,024, its hard one is higher.
pub fn take_descriptors(connections: u32) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = u64::from(connections) + OTHERS;
    let taken = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if current.is_some_and(|current| current < taken) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(taken), maximum });
    }
    if taken < wanted {
        log::warn!("fewer descriptors than --max-connections needs limit={taken} needed={wanted}");
    }
}

/// This process.
#[derive(Debug)]
pub struct Process {
    started: SystemTime,
}

impl Process {
    /// Metrics of a process that starts now.
    pub fn starting() -> Self {
        Self { started: SystemTime::now() }
    }
}

impl Export for Process {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        build_info(page);
        let about = Description {
            name: "mygrpcadapter_dropped_log_lines_total",
            kind: "counter",
            help: "Log lines that stderr did not take.",
        };
        page.describe(about);
        page.sample(about.name, &[], logging::dropped() as f64);
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        page.gauge("process_start_time_seconds", "When the process began.", started.as_secs_f64());
        if let Some(bytes) = resident_bytes() {
            page.gauge("process_resident_memory_bytes", "Memory in use.", bytes as f64);
        }
        let about =
            Description { name: "process_cpu_seconds_total", kind: "counter", help: "CPU time used." };
        page.describe(about);
        page.sample(about.name, &[], cpu_seconds());
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            // One descriptor is the open directory itself.
            let open = entries.count().saturating_sub(1);
            page.gauge("process_open_fds", "Open file descriptors.", open as f64);
        }
        None
    }
}

fn build_info(page: &mut Page) {
    let help = "Always 1; the labels identify the build.";
    let about = Description { name: "mygrpcadapter_build_info", kind: "gauge", help };
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("revision", env!("REVISION"))];
    page.describe(about);
    page.sample(about.name, &labels, 1.0);
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// User and system CPU time.
fn cpu_seconds() -> f64 {
    // The fields after the name; the name may contain anything and ends with `)`.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / TICKS
}
