//! Everything counted, in Prometheus's text format, a piece at a time.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::admission::Admission;
use crate::counters::{CODES, Count, TEMPLATES};
use crate::frontends::mixer::report::Cause;
use crate::frontends::mixer::{Mixer, SERVICES};
use crate::health::{Health, Phase};
use crate::histogram;
use crate::policy::Verdict;
use crate::render::go;
use crate::sink::trouble::Reason;

/// Series of the histogram per piece.
const PIECE: usize = 64;
/// What the kernel counts CPU time in, on every architecture we build for.
const TICKS: f64 = 100.0;

/// Where the numbers come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The front end, with its counters, histogram and store.
    pub mixer: Arc<Mixer>,
    /// Requests in flight.
    pub admission: Arc<Admission>,
    /// Whether we serve.
    pub health: Health,
    /// When the process began.
    pub started: SystemTime,
}

/// A page being read: which piece comes next.
#[derive(Clone, Copy, Debug)]
pub enum Piece {
    /// All but the histogram.
    First,
    /// The histogram from this series on.
    Series(usize),
}

impl Sources {
    /// Appends a piece of the page, and says which one is next, if there is one.
    pub fn piece(&self, piece: Piece, out: &mut Vec<u8>) -> Option<Piece> {
        let start = match piece {
            Piece::First => {
                self.counted(out);
                self.state(out);
                process(out, self.started);
                family(
                    out,
                    histogram::NAME,
                    "histogram",
                    "Latency of requests, from log entries, in seconds.",
                );
                0
            }
            Piece::Series(start) => start,
        };
        self.mixer.histogram.expose(out, start, PIECE).map(Piece::Series)
    }

    fn counted(&self, out: &mut Vec<u8>) {
        let counters = &self.mixer.counters;
        family(
            out,
            "mygrpcadapter_requests_total",
            "counter",
            "Calls answered, by service and gRPC status code.",
        );
        for (service, codes) in SERVICES.iter().zip(&counters.calls) {
            for (code, count) in CODES.iter().zip(codes) {
                // A success is worth a zero; of the others only what has been.
                if count.get() > 0 || *code == "OK" {
                    let labels = format!("service=\"{}\",code=\"{code}\"", service.name);
                    sample(out, "mygrpcadapter_requests_total", &labels, count.get() as f64);
                }
            }
        }
        let by = |out: &mut Vec<u8>,
                  name: &str,
                  label: &str,
                  help: &str,
                  values: &mut dyn Iterator<Item = (&str, &Count)>| {
            family(out, name, "counter", help);
            for (value, count) in values {
                sample(out, name, &format!("{label}=\"{value}\""), count.get() as f64);
            }
        };
        let instances = &mut TEMPLATES.into_iter().zip(&counters.instances);
        by(out, "mygrpcadapter_instances_total", "template", "Instances taken and acknowledged.", instances);
        let refusals = &mut Cause::ALL.into_iter().zip(&counters.refusals);
        by(
            out,
            "mygrpcadapter_refusals_total",
            "reason",
            "Requests refused before they reached the volume.",
            refusals,
        );
        let errors = &mut Reason::ALL.map(Reason::label).into_iter().zip(&counters.write_errors);
        by(
            out,
            "mygrpcadapter_write_errors_total",
            "reason",
            "Writes that failed, in whole or in part.",
            errors,
        );
        let verdicts = &mut Verdict::ALL.map(Verdict::label).into_iter().zip(&counters.verdicts);
        by(out, "mygrpcadapter_verdicts_total", "outcome", "Authorizations judged.", verdicts);
        for (name, help, count) in [
            (
                "mygrpcadapter_audit_errors_total",
                "Records of verdicts that were not written.",
                &counters.audit_errors,
            ),
            ("mygrpcadapter_written_bytes_total", "Bytes appended to files.", &counters.written_bytes),
            (
                "mygrpcadapter_deleted_records_total",
                "Instances deleted with rotated files.",
                &counters.deleted_records,
            ),
            (
                "mygrpcadapter_latency_overflow_total",
                "Log entries observed in the overflow series.",
                &self.mixer.histogram.overflowed,
            ),
            (
                "mygrpcadapter_latency_unmeasured_total",
                "Log entries without a latency.",
                &self.mixer.histogram.unmeasured,
            ),
        ] {
            single(out, name, "counter", help, count.get() as f64);
        }
    }

    fn state(&self, out: &mut Vec<u8>) {
        let counters = &self.mixer.counters;
        let state = self.health.state();
        let queued = self.mixer.store.as_ref().map_or(0, |store| store.sink.queued());
        let labels = format!("version=\"{}\",revision=\"{}\"", env!("CARGO_PKG_VERSION"), env!("REVISION"));
        family(out, "mygrpcadapter_build_info", "gauge", "Always 1; the labels tell what is running.");
        sample(out, "mygrpcadapter_build_info", &labels, 1.0);
        for (name, help, value) in [
            ("mygrpcadapter_queue_bytes", "Bytes waiting to be written.", queued as f64),
            (
                "mygrpcadapter_requests_in_flight",
                "Requests being received or waiting to be written.",
                self.admission.requests_in_flight() as f64,
            ),
            (
                "mygrpcadapter_connections",
                "gRPC connections open.",
                counters.connections.load(Ordering::Relaxed) as f64,
            ),
            (
                "mygrpcadapter_open_files",
                "Files open for appending.",
                counters.open_files.load(Ordering::Relaxed) as f64,
            ),
            ("mygrpcadapter_latency_series", "Series in the histogram.", self.mixer.histogram.len() as f64),
            (
                "mygrpcadapter_reports_serving",
                "1 while reports can be written.",
                f64::from(u8::from(state.reports)),
            ),
            (
                "mygrpcadapter_draining",
                "1 once asked to stop.",
                f64::from(u8::from(state.phase != Phase::Serving)),
            ),
        ] {
            single(out, name, "gauge", help, value);
        }
    }
}

/// The process, under the names that Prometheus's own libraries use.
fn process(out: &mut Vec<u8>, started: SystemTime) {
    let started = started.duration_since(UNIX_EPOCH).unwrap_or_default();
    single(out, "process_start_time_seconds", "gauge", "When the process began.", started.as_secs_f64());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    if let Some(resident) = kilobytes("VmRSS:") {
        single(out, "process_resident_memory_bytes", "gauge", "Memory in use.", (resident * 1024) as f64);
    }
    // The fields after the name, which may have anything in it but ends in `)`.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    single(out, "process_cpu_seconds_total", "counter", "CPU time used.", ticks as f64 / TICKS);
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the directory itself.
        let open = entries.count().saturating_sub(1);
        single(out, "process_open_fds", "gauge", "Open file descriptors.", open as f64);
    }
}

fn single(out: &mut Vec<u8>, name: &str, kind: &str, help: &str, value: f64) {
    family(out, name, kind, help);
    sample(out, name, "", value);
}

fn family(out: &mut Vec<u8>, name: &str, kind: &str, help: &str) {
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn sample(out: &mut Vec<u8>, name: &str, labels: &str, value: f64) {
    out.extend_from_slice(name.as_bytes());
    if !labels.is_empty() {
        let _ = write!(out, "{{{labels}}}");
    }
    out.push(b' ');
    go::float(out, value);
    out.push(b'\n');
}
