//! The lock that keeps the owner of a file from cutting off a write in progress.
//!
//! Other processes share it during an append. The owner holds it alone during a cut.

use std::fs::File;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// Attempts, and the pause between them, while another process may be writing the
/// end.
pub(super) const LOOKS: u32 = 10;
pub(super) const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// The lock, held until dropped.
#[derive(Debug)]
pub(super) struct AppendLock<'a>(Option<&'a File>);

impl<'a> AppendLock<'a> {
    /// The lock for an append by a process that does not own the file. If it is not
    /// free, the owner is cutting or there are no such locks: then `O_APPEND` alone
    /// has to do.
    pub(super) fn shared(file: &'a File) -> Self {
        for _ in 0..LOOKS {
            match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => return Self(Some(file)),
                Err(Errno::ACCESS | Errno::AGAIN) => std::thread::sleep(BETWEEN_LOOKS),
                Err(_) => break,
            }
        }
        Self(None)
    }

    /// Excludes appends by other processes; `None` during one. Without locks it
    /// excludes nothing.
    pub(super) fn alone(file: &'a File) -> Option<Self> {
        match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::ACCESS | Errno::AGAIN) => None,
            _ => Some(Self(Some(file))),
        }
    }
}

impl Drop for AppendLock<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.0 {
            let _ = rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingUnlock);
        }
    }
}
