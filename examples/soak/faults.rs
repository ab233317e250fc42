//! Random faults of the adapter and its volume.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::adapter::Adapter;
use crate::disk::{Disk, Kind, Watcher};
use crate::random::Random;
use crate::records::{DEFAULT_FILE, SUBDIRECTORY};
use crate::shared::Shared;

const DELETED: &str = "mygrpcadapter_deleted_bytes_total";
/// Gauges that must be zero before the final retention phase ends.
const BUSY: [&str; 3] =
    ["mygrpcadapter_connections", "mygrpcadapter_requests_in_flight", "mygrpcadapter_queue_bytes"];
const PATIENCE: Duration = Duration::from_secs(60);
const KILLED: i32 = 128 + 9;

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Terminate,
    TerminateAndKill,
    Fill,
    ReadOnly,
    TakeFile,
    TakeDirectory,
    TakeVolume,
    Freeze,
}

/// Each with its probability in percent.
const FAULTS: [(Fault, u64); 9] = [
    (Fault::Kill, 66),
    (Fault::Terminate, 8),
    (Fault::TerminateAndKill, 4),
    (Fault::Fill, 5),
    (Fault::ReadOnly, 3),
    (Fault::TakeFile, 4),
    (Fault::TakeDirectory, 4),
    (Fault::TakeVolume, 2),
    (Fault::Freeze, 4),
];

/// The targets of faults.
#[derive(Debug)]
pub(crate) struct Faults<'a> {
    pub(crate) disk: Disk,
    pub(crate) adapter: Adapter,
    pub(crate) watcher: &'a Mutex<Watcher>,
    pub(crate) shared: &'a Shared,
    pub(crate) random: Random,
}

/// A frozen file system, thawed on drop.
struct Frozen<'a>(&'a Disk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = self.0.freeze("-u");
    }
}

impl Faults<'_> {
    /// Injects one fault after another until the deadline.
    pub(crate) fn run(&mut self, deadline: Instant) -> Result<(), String> {
        self.restart()?;
        while Instant::now() < deadline {
            std::thread::sleep(self.random.millis(10, 150));
            if let Some(code) = self.adapter.ended() {
                self.shared.violated(format!("the adapter ended by itself, exit code {code}"));
                self.restart()?;
            }
            let mut at = self.random.below(100);
            let chosen = FAULTS.iter().find(|(_, share)| {
                let is_it = at < *share;
                at = at.saturating_sub(*share);
                is_it
            });
            if let Some((fault, _)) = chosen {
                self.commit(*fault)?;
            }
        }
        Ok(())
    }

    fn commit(&mut self, fault: Fault) -> Result<(), String> {
        match (fault, self.disk.kind) {
            (Fault::Fill | Fault::ReadOnly, Kind::Plain) => Ok(()),
            (Fault::Freeze, Kind::Plain | Kind::Tmpfs) => Ok(()),
            (Fault::Kill, _) => self.kill(),
            (Fault::Terminate, _) => self.terminate(),
            (Fault::TerminateAndKill, _) => {
                self.shared.tally("fault: SIGTERM, then SIGKILL");
                self.adapter.signal(Signal::TERM);
                std::thread::sleep(self.random.millis(0, 30));
                self.adapter.signal(Signal::KILL);
                self.adapter.end()?;
                self.restart()
            }
            (Fault::Fill, _) => self.fill(),
            (Fault::ReadOnly, _) => self.read_only(),
            (Fault::TakeFile, _) => self.take("fault: file renamed away", DEFAULT_FILE),
            (Fault::TakeDirectory, _) => self.take("fault: directory taken away", SUBDIRECTORY),
            (Fault::TakeVolume, _) => {
                self.take("fault: volume taken away and made again", "")?;
                std::thread::sleep(self.random.millis(0, 300));
                self.disk.make_volume()
            }
            (Fault::Freeze, _) if self.random.once_in(10) => {
                self.freeze("fault: volume frozen for 7 s", Duration::from_secs(7))
            }
            (Fault::Freeze, _) => {
                let time = self.random.millis(50, 900);
                self.freeze("fault: volume frozen", time)
            }
        }
    }

    fn kill(&mut self) -> Result<(), String> {
        self.shared.tally("fault: SIGKILL");
        self.adapter.signal(Signal::KILL);
        match self.adapter.end()? {
            KILLED => {}
            code => self.shared.violated(format!("killed, but its exit code is {code}")),
        }
        if self.random.once_in(8) {
            self.tear()?;
        }
        self.restart()
    }

    /// Appends a partial record to a file, as left by a system crash during a write;
    /// or, in JSON, a block that was never written.
    fn tear(&mut self) -> Result<(), String> {
        let request = self.shared.account().begin();
        let mut bytes = request.record().into_bytes();
        if request.handler().json && self.random.once_in(4) {
            bytes.fill(0);
        }
        bytes.truncate(self.random.below(bytes.len() as u64) as usize);
        if let Some(file) = request.handler().file
            && self.disk.append(file, &bytes)?
        {
            self.shared.tally("fault: torn end left behind");
        }
        Ok(())
    }

    fn terminate(&mut self) -> Result<(), String> {
        self.shared.tally("fault: SIGTERM");
        self.adapter.signal(Signal::TERM);
        match self.adapter.end()? {
            0 => {}
            code => self.shared.violated(format!("asked to end, its exit code is {code}")),
        }
        self.restart()
    }

    fn fill(&mut self) -> Result<(), String> {
        self.shared.tally("fault: volume full");
        self.disk.fill(self.random.below(100_000))?;
        std::thread::sleep(self.random.millis(100, 800));
        if self.random.once_in(2) {
            self.kill()?;
            std::thread::sleep(self.random.millis(50, 300));
        }
        self.disk.free()
    }

    /// A remount requires that no file is open for writing: new process, no senders.
    fn read_only(&mut self) -> Result<(), String> {
        self.shared.hold()?;
        self.terminate()?;
        let outcome = self.disk.remount("ro");
        self.shared.release();
        if outcome.is_err() {
            self.shared.tally("fault not done: remount refused, a file was open");
            return Ok(());
        }
        self.shared.tally("fault: volume read-only");
        std::thread::sleep(self.random.millis(100, 800));
        if self.random.once_in(2) {
            self.adapter.signal(Signal::KILL);
            self.adapter.end()?;
            self.disk.remount("rw")?;
            return self.restart();
        }
        self.disk.remount("rw")
    }

    fn take(&mut self, label: &'static str, name: &str) -> Result<(), String> {
        if self.disk.take_away(name)? {
            self.shared.tally(label);
        }
        Ok(())
    }

    fn freeze(&mut self, label: &'static str, time: Duration) -> Result<(), String> {
        self.shared.tally(label);
        self.disk.freeze("-f")?;
        let frozen = Frozen(&self.disk);
        std::thread::sleep(time);
        let killed = self.random.once_in(3);
        if killed {
            self.adapter.signal(Signal::KILL);
        }
        drop(frozen);
        if killed {
            self.adapter.end()?;
            self.restart()?;
        }
        Ok(())
    }

    fn watcher(&self) -> MutexGuard<'_, Watcher> {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Restarts the adapter with random options, after counting the files that were
    /// moved away.
    fn restart(&mut self) -> Result<(), String> {
        self.watcher().sweep(self.shared);
        let random = &mut self.random;
        let mut options: Vec<String> = ["--rotate-keep=8", "--drain-timeout=1s"].map(String::from).into();
        options.push(format!("--rotate-size={}KiB", random.choose(&[128, 256, 512])));
        options.push(format!("--max-volume-bytes={}MiB", random.choose(&[12, 20])));
        options.push(format!("--fsync={}", random.choose(&["never", "always", "interval=50ms"])));
        for option in ["--max-connection-age=300ms", "--rotate-age=1s", "--drain-delay=50ms"] {
            if random.once_in(4) {
                options.push(option.into());
            }
        }
        self.adapter.start(&options)
    }

    /// The final phase, without faults: an adapter that rotates constantly must count
    /// the same deleted bytes as we do. Returns both numbers.
    pub(crate) fn retain(&mut self, time: Duration, end_load: impl FnOnce()) -> Result<(u64, u64), String> {
        self.shared.hold()?;
        self.adapter.signal(Signal::TERM);
        self.adapter.end()?;
        self.watcher().sweep(self.shared);
        while self.watcher().look(self.shared) {}
        let before = self.watcher().deleted_bytes();
        self.adapter.start(&["--rotate-size=64KiB", "--rotate-keep=8"].map(String::from))?;
        self.shared.release();
        std::thread::sleep(time);
        end_load();
        let deadline = Instant::now() + PATIENCE;
        let busy =
            |adapter: &Adapter| -> Result<u64, String> { BUSY.iter().map(|name| adapter.metric(name)).sum() };
        while busy(&self.adapter)? > 0 {
            if Instant::now() > deadline {
                return Err("the adapter is busy with nothing".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let counted = self.adapter.metric(DELETED)?;
        self.adapter.signal(Signal::TERM);
        match self.adapter.end()? {
            0 => {}
            code => self.shared.violated(format!("asked to end at the end, its exit code is {code}")),
        }
        while self.watcher().look(self.shared) {}
        Ok((counted, self.watcher().deleted_bytes() - before))
    }
}
