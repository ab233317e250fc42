//! Test support: the program, clients, messages, namespaces.

#[cfg(feature = "tls")]
pub mod authority;
pub mod cgroup;
pub mod client;
pub mod frames;
pub mod http;
pub mod message;
pub mod namespace;
pub mod page;
pub mod program;

use std::time::{Duration, Instant};

pub use client::{Client, Reply};
pub use program::{Adapter, Scratch};

/// Time limit for a condition to come true on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

// The gRPC status codes that the adapter uses.
pub const OK: u32 = 0;
pub const INVALID_ARGUMENT: u32 = 3;
pub const DEADLINE_EXCEEDED: u32 = 4;
pub const NOT_FOUND: u32 = 5;
pub const RESOURCE_EXHAUSTED: u32 = 8;
pub const FAILED_PRECONDITION: u32 = 9;
pub const UNIMPLEMENTED: u32 = 12;
pub const INTERNAL: u32 = 13;
pub const UNAVAILABLE: u32 = 14;
pub const UNAUTHENTICATED: u32 = 16;

/// Waits until `probe` returns a value.
pub async fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
