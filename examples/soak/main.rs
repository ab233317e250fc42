//! The soak: the built adapter under load and random faults for a limited time, and
//! an exact account of every instance at the end.
//!
//! ```text
//! make soak SECONDS=600
//! cargo run --example soak -- target/x86_64-unknown-linux-musl/release/mygrpcadapter 600 [SEED]
//! ```
//!
//! Every instance follows from its number, so files are compared byte for byte with
//! the sent data. Exit code 0: no acknowledged instance is lost or duplicated, and
//! files consist of whole records. 1: a violation. 2: the soak itself failed.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is what it is for")]

#[allow(dead_code, unreachable_pub, reason = "the tests, who share it, use more of it")]
#[path = "../../tests/adapter/support/client.rs"]
mod client;

mod account;
mod adapter;
mod disk;
mod faults;
mod hostile;
mod load;
mod random;
mod records;
mod shared;

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::account::Outcome;
use crate::adapter::Adapter;
use crate::disk::{Disk, Watcher};
use crate::faults::Faults;
use crate::random::Random;
use crate::shared::Shared;

const INSIDE: &str = "SOAK_INSIDE";
/// The interval of the watcher. The adapter's options make sure that retention
/// deletes only files much older than this; the watcher would report a file it missed
/// as lost.
const LOOK: Duration = Duration::from_millis(10);
/// The adapter's memory bound, in KiB.
const MAX_MEMORY: u64 = 16 * 1024;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (binary, seconds, seed) = match &*words {
        [binary, seconds] => (binary, seconds.parse(), Ok(now())),
        [binary, seconds, seed] => (binary, seconds.parse(), seed.parse()),
        _ => {
            eprintln!("usage: soak BINARY SECONDS [SEED]");
            return ExitCode::from(2);
        }
    };
    let (Ok(seconds), Ok(seed)) = (seconds, seed) else {
        eprintln!("soak: SECONDS and SEED are whole numbers");
        return ExitCode::from(2);
    };
    let mut missing = Vec::new();
    enter_namespace(&mut missing);
    match soak(Path::new(binary), Duration::from_secs(seconds), seed, missing) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("soak: {reason}");
            ExitCode::from(2)
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Re-executes itself with private mounts, where that is permitted.
fn enter_namespace(missing: &mut Vec<String>) {
    if std::env::var_os(INSIDE).is_some() {
        return;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--"]);
        command
    };
    let reason = match unshare().arg("true").output() {
        Ok(output) if output.status.success() => match std::env::current_exe() {
            Ok(own) => unshare().arg(own).args(std::env::args_os().skip(1)).env(INSIDE, "1").exec(),
            Err(error) => error,
        },
        Ok(output) => std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => error,
    };
    missing.push(format!("mounts of our own: {reason}"));
}

fn soak(binary: &Path, time: Duration, seed: u64, mut missing: Vec<String>) -> Result<bool, String> {
    let scratch = std::env::temp_dir().join(format!("mygrpcadapter-soak-{}", std::process::id()));
    let made = std::fs::create_dir(&scratch).and_then(|()| File::create(scratch.join("log")));
    let log = made.map_err(|error| format!("cannot make {}: {error}", scratch.display()))?;
    let disk = Disk::make(&scratch, &mut missing)?;
    println!("soak: {} s, seed {seed}, log {}", time.as_secs(), scratch.join("log").display());
    for what in &missing {
        println!("LEFT OUT: {what}");
    }
    let shared = Arc::new(Shared::default());
    let mut random = Random::new(seed);
    let adapter = Adapter::new(binary.into(), disk.volume(), log)?;
    let watcher = Arc::new(Mutex::new(Watcher::new(&disk)));
    let watching = std::thread::spawn({
        let (watcher, shared) = (Arc::clone(&watcher), Arc::clone(&shared));
        move || watch(&watcher, &shared)
    });
    let load = std::thread::spawn({
        let (port, shared, random) = (adapter.port, Arc::clone(&shared), random.split());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(load::run(port, shared, random)))
        }
    });

    let mut faults = Faults { disk, adapter, watcher: &watcher, shared: &shared, random };
    let at_the_end = (time / 10).clamp(Duration::from_secs(2), Duration::from_secs(60));
    faults.run(Instant::now() + time.saturating_sub(at_the_end))?;
    let retained = faults.retain(at_the_end, || {
        shared.end();
        let _ = load.join();
    })?;
    let _ = watching.join();
    let watcher = watcher.lock().unwrap_or_else(PoisonError::into_inner);
    let files = watcher.finish(&shared);
    let good = report(&shared, &faults.adapter, retained, files, &scratch.join("log"));
    if good {
        clear(&scratch, &faults.disk);
    } else {
        println!("left behind: {}", scratch.display());
    }
    Ok(good)
}

fn watch(watcher: &Mutex<Watcher>, shared: &Shared) {
    while !shared.has_ended() {
        // Locked for one look at a time, since restarts need it, too.
        let counted = watcher.lock().unwrap_or_else(PoisonError::into_inner).look(shared);
        std::thread::sleep(if counted { LOOK / 10 } else { LOOK });
    }
}

/// Prints the account. Returns whether it is correct.
fn report(shared: &Shared, adapter: &Adapter, retained: (u64, u64), files: usize, log: &Path) -> bool {
    let account = shared.account();
    let all = [Outcome::Acknowledged, Outcome::Refused, Outcome::Unanswered];
    let sums = all.map(|outcome| account.sum(outcome));
    println!(
        "\n{:<14}{:>10}{:>10}{:>10}{:>10}{:>8}",
        "instances", "sent", "found", "deleted", "nowhere", "twice"
    );
    for (outcome, sum) in all.iter().zip(sums) {
        let name = format!("{outcome:?}").to_lowercase();
        println!(
            "{name:<14}{:>10}{:>10}{:>10}{:>10}{:>8}",
            sum.sent, sum.found, sum.deleted, sum.nowhere, sum.twice
        );
    }
    let [acknowledged, ..] = sums;
    let lost = acknowledged.sent as i64 - acknowledged.found as i64 - acknowledged.deleted as i64;
    println!("acknowledged - found - deleted = {lost}");
    println!(
        "bytes deleted while nothing else happened: {} by its own count, {} by ours\n",
        retained.0, retained.1
    );

    for (what, times) in shared.tallies() {
        println!("{what:<52}{times:>10}");
    }
    let log = std::fs::read(log).unwrap_or_default();
    let logged = |part: &[u8]| log.windows(part.len()).filter(|window| *window == part).count();
    for (what, times) in [
        ("files at the end", files as u64),
        ("starts", adapter.starts),
        ("ends repaired by the adapter", logged(b"repaired the end of a file") as u64),
        ("stalls logged by the adapter", logged(b"the volume has stalled") as u64),
        ("slowest verdict, ms", shared.slowest_verdict().as_millis() as u64),
        ("most memory (VmHWM), KiB", adapter.peak),
    ] {
        println!("{what:<52}{times:>10}");
    }

    let (shown, violations) = shared.violations();
    let mut wrong = shown;
    if violations > wrong.len() {
        wrong.push(format!("and {} more of these", violations - wrong.len()));
    }
    for (is_wrong, what) in [
        (lost != 0, "acknowledged instances are lost"),
        (sums.iter().any(|sum| sum.twice > 0), "instances are there twice"),
        (account.unknown > 0, "files contain instances that were never sent"),
        (acknowledged.sent == 0, "nothing was acknowledged"),
        (retained.0 != retained.1, "the adapter's count of deleted bytes is wrong"),
        (adapter.peak > MAX_MEMORY, "more than 16 MiB of memory"),
        (logged(b"panicked") > 0, "a panic, see the log"),
    ] {
        if is_wrong {
            wrong.push(what.into());
        }
    }
    println!();
    for what in &wrong {
        println!("WRONG: {what}");
    }
    println!("{}", if wrong.is_empty() { "all is well" } else { "failed" });
    wrong.is_empty()
}

fn clear(scratch: &Path, disk: &Disk) {
    disk.unmount();
    let _ = std::fs::remove_dir_all(scratch);
}
