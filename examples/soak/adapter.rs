//! The program under test: start, watch, stop.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::records::DEFAULT_FILE;

/// Time limit for a start or an exit.
const PATIENCE: Duration = Duration::from_secs(60);

/// The adapter, on the same ports after every restart.
#[derive(Debug)]
pub(crate) struct Adapter {
    binary: PathBuf,
    volume: PathBuf,
    log: File,
    pub(crate) port: u16,
    metrics_port: u16,
    child: Option<Child>,
    /// The highest peak of resident memory of all processes, in KiB.
    pub(crate) peak: u64,
    pub(crate) starts: u64,
}

impl Adapter {
    pub(crate) fn new(binary: PathBuf, volume: PathBuf, log: File) -> Result<Self, String> {
        // Below the ephemeral range: a client could otherwise get the adapter's port
        // while it is down, and connect to itself.
        let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
        let mut free = (20_000 + (std::process::id() % 8_000) as u16..32_000).filter(is_free);
        let (Some(port), Some(metrics_port)) = (free.next(), free.next()) else {
            return Err("no port is free".into());
        };
        Ok(Self { binary, volume, log, port, metrics_port, child: None, peak: 0, starts: 0 })
    }

    /// Starts it, and waits until it accepts connections.
    pub(crate) fn start(&mut self, options: &[String]) -> Result<(), String> {
        let log = self.log.try_clone().map_err(|error| format!("cannot share the log: {error}"))?;
        let mut command = Command::new(&self.binary);
        command.arg(self.port.to_string()).arg("--volume").arg(&self.volume);
        command.arg(format!("--default-file={DEFAULT_FILE}"));
        command.arg(format!("--metrics-port={}", self.metrics_port)).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).env_remove("RUST_LOG");
        let child =
            command.spawn().map_err(|error| format!("cannot start {}: {error}", self.binary.display()))?;
        self.child = Some(child);
        self.starts += 1;
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(code) = self.ended() {
                return Err(format!("it ended when it was started {options:?}, exit code {code}"));
            }
            if Instant::now() > deadline {
                return Err("it doesn't listen".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Its exit code if it has exited, 128+N if killed by signal N.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let status = self.child.as_mut()?.try_wait().ok().flatten()?;
        self.child = None;
        status.code().or(status.signal().map(|signal| 128 + signal))
    }

    /// Sends it a signal.
    pub(crate) fn signal(&mut self, signal: Signal) {
        let Some(child) = &self.child else { return };
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|line| line.split_whitespace().next()?.parse().ok());
        self.peak = self.peak.max(peak.unwrap_or(0));
        let _ = kill_process(Pid::from_child(child), signal);
    }

    /// Waits for its exit.
    pub(crate) fn end(&mut self) -> Result<i32, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(code) = self.ended() {
                return Ok(code);
            }
            if self.child.is_none() || Instant::now() > deadline {
                return Err("it did not exit in time after a signal".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The sum of all samples of a metric.
    pub(crate) fn metric(&self, name: &str) -> Result<u64, String> {
        let page = self.page().map_err(|error| format!("cannot get the metrics: {error}"))?;
        let samples = page.lines().filter(|line| line.split([' ', '{']).next() == Some(name));
        let values: Vec<f64> = samples.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        if values.is_empty() {
            Err(format!("no metric {name}"))
        } else {
            Ok(values.iter().sum::<f64>() as u64)
        }
    }

    fn page(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.metrics_port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: soak\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
