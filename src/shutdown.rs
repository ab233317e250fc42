//! Graceful shutdown: signals, and the phases they start.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::health::{Health, Phase};
use crate::logging;

const HUP: i32 = 1;
const USR1: i32 = 10;
const USR2: i32 = 12;
const XFSZ: i32 = 25;

/// The signals that stop the process.
const ENDING: [(i32, &str); 4] = [(15, "SIGTERM"), (2, "SIGINT"), (HUP, "SIGHUP"), (3, "SIGQUIT")];
/// Signals that would kill the process and mean nothing here. With SIGXFSZ handled, a
/// write beyond `ulimit -f` fails with EFBIG.
const MEANINGLESS: [i32; 3] = [USR1, USR2, XFSZ];
/// A second signal within this time repeats the first: `timeout` signals the process,
/// then its group.
const REPEATED: Duration = Duration::from_millis(500);

/// Handlers of the signals that stop the process. Registered before anything is
/// served: for PID 1 the kernel ignores a signal without a handler.
#[derive(Debug)]
pub struct Signals(Vec<(Signal, &'static str, u8)>);

impl Signals {
    /// Registers SIGTERM, SIGINT, SIGQUIT, and SIGHUP unless it is ignored, as under
    /// nohup. SIGUSR1, SIGUSR2 and SIGXFSZ have no effect from now on. Needs a
    /// runtime with I/O.
    pub fn register() -> io::Result<Self> {
        for number in MEANINGLESS {
            // The handler stays for the life of the process.
            let _ = signal(SignalKind::from_raw(number))?;
        }
        let mut ending = Vec::with_capacity(ENDING.len());
        for (number, name) in ENDING {
            if number != HUP || !is_ignored(HUP) {
                ending.push((signal(SignalKind::from_raw(number))?, name, 128 + number as u8));
            }
        }
        Ok(Self(ending))
    }

    /// Waits for a signal. Returns its name and the exit code for a forced exit.
    pub async fn next(&mut self) -> (&'static str, u8) {
        std::future::poll_fn(|context| {
            let mut ready = self.0.iter_mut().filter_map(|(signal, name, code)| {
                signal.poll_recv(context).is_ready().then_some((*name, *code))
            });
            ready.next().map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }
}

/// Whether a signal was ignored when the process started.
fn is_ignored(number: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (number - 1) & 1 == 1)
}

/// Waits for a signal and moves the server through its phases: not serving, but
/// accepting for `delay`; then closing. Returns an exit code only for a second signal
/// half a second later or more; otherwise never.
pub async fn drain(signals: &mut Signals, health: &Health, delay: Duration) -> u8 {
    let (name, _) = signals.next().await;
    let first = Instant::now();
    log::info!("draining signal={name} delay={}", logging::duration(delay));
    health.enter(Phase::Draining);
    let again = async {
        loop {
            let (name, code) = signals.next().await;
            if first.elapsed() >= REPEATED {
                return (name, code);
            }
        }
    };
    let phases = async {
        tokio::time::sleep(delay).await;
        health.enter(Phase::Closing);
        std::future::pending().await
    };
    let (name, code) = tokio::select! {
        again = again => again,
        never = phases => never,
    };
    log::warn!("stopped at once, unwritten reports are not acknowledged signal={name}");
    code
}

/// Runs `work` until it ends or a signal arrives. For PID 1 only handled signals end
/// a process; otherwise the kernel's defaults apply.
pub fn until_signal(work: impl FnOnce() -> ExitCode + Send + 'static) -> ExitCode {
    if std::process::id() != 1 {
        return work();
    }
    let outcome = tokio::runtime::Builder::new_current_thread().enable_io().build().and_then(|runtime| {
        runtime.block_on(async {
            let mut signals = Signals::register()?;
            let (done, ended) = tokio::sync::oneshot::channel();
            std::thread::Builder::new().spawn(move || done.send(work()))?;
            Ok(tokio::select! {
                code = ended => code.unwrap_or(ExitCode::FAILURE),
                (_, code) = signals.next() => ExitCode::from(code),
            })
        })
    });
    outcome.unwrap_or(ExitCode::FAILURE)
}
