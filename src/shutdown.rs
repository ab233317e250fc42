//! How we stop: signals, and the phases they set off.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::health::{Health, Phase};

/// The signals that ask us to stop. Registered before anything is served: as
/// PID 1 a signal without a handler is ignored by the kernel.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Registers for SIGTERM and SIGINT.
    pub fn register() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for either. Returns its name and its exit code, should it kill.
    pub async fn next(&mut self) -> (&'static str, u8) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 143),
            _ = self.interrupt.recv() => ("SIGINT", 130),
        }
    }
}

/// Waits for a signal and leads the server through its phases: not serving, but
/// accepting for `delay`; then closing. Ends with an exit code only if a second
/// signal comes, else goes on waiting for one.
pub async fn drain(signals: &mut Signals, health: &Health, delay: Duration) -> u8 {
    let (name, _) = signals.next().await;
    log::info!("draining signal={name} delay={delay:?}");
    health.enter(Phase::Draining);
    let phases = async {
        tokio::time::sleep(delay).await;
        health.enter(Phase::Closing);
        std::future::pending().await
    };
    let (name, code) = tokio::select! {
        again = signals.next() => again,
        never = phases => never,
    };
    log::warn!("stopped at once, unwritten reports are not acknowledged signal={name}");
    code
}
