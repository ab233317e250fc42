//! Why a record is not in its file, and whom that concerns.

use std::fmt::Display;
use std::io::{Error, ErrorKind};
use std::sync::Arc;

use rustix::io::Errno;

use crate::volume::OpenError;

/// The kind of a failure. The names are those of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The path breaks a rule.
    Path,
    /// The disk or its quota is full.
    Full,
    /// `--max-volume-bytes` is reached, and nothing of ours is left to delete.
    Limit,
    /// The file system is read-only.
    ReadOnly,
    /// The volume or the file has disappeared.
    Gone,
    /// The process or the system has no descriptors left.
    Descriptors,
    /// A write takes too long.
    Stalled,
    /// The device fails.
    Io,
    /// The system refuses this file alone.
    Denied,
    /// There was no room in the queue for too long; not a failure of the volume.
    Queue,
    /// The adapter stops.
    Closing,
}

impl Reason {
    /// Those that a write fails with, in the order of the counters.
    pub const ALL: [Self; 9] = [
        Self::Path,
        Self::Full,
        Self::Limit,
        Self::ReadOnly,
        Self::Gone,
        Self::Descriptors,
        Self::Stalled,
        Self::Io,
        Self::Denied,
    ];

    /// Its label in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Full => "full",
            Self::Limit => "limit",
            Self::ReadOnly => "read_only",
            Self::Gone => "gone",
            Self::Descriptors => "descriptors",
            Self::Stalled => "stalled",
            Self::Io => "io",
            Self::Denied => "denied",
            Self::Queue => "queue",
            Self::Closing => "closing",
        }
    }

    /// What an error means. Anything unknown is taken for the device's.
    fn of(error: &Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::Full,
            Some(Errno::ROFS) => Self::ReadOnly,
            Some(Errno::NOENT | Errno::STALE | Errno::NOTCONN) => Self::Gone,
            Some(Errno::MFILE | Errno::NFILE) => Self::Descriptors,
            Some(
                // Of its owner, mode or attributes.
                Errno::ACCESS | Errno::PERM
                // Of its name: some file systems take fewer names than others.
                | Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ
                // Of what else is there.
                | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::MLINK | Errno::TXTBSY
                // Of its size.
                | Errno::FBIG,
            ) => Self::Denied,
            _ if error.kind() == ErrorKind::PermissionDenied => Self::Denied,
            _ => Self::Io,
        }
    }
}

/// Whether a failure concerns one file alone, or every file of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The caller asked for something impossible.
    Request,
    /// This file can't be written; others may.
    File,
    /// No file can be written.
    Volume,
}

/// Why a record is not in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub reason: Reason,
    /// One line that says what couldn't be done, and why.
    pub text: Arc<str>,
    scope: Scope,
}

impl Failure {
    /// A failure in words.
    pub(super) fn new(reason: Reason, text: &str) -> Self {
        let scope = match reason {
            Reason::Path | Reason::Queue | Reason::Closing => Scope::Request,
            Reason::Denied => Scope::File,
            _ => Scope::Volume,
        };
        Self { reason, text: text.into(), scope }
    }

    /// What the system said when asked to `what`, as in `write to out.txt`.
    pub(super) fn io(what: impl Display, error: &Error) -> Self {
        let failure = Self::new(Reason::of(error), &format!("cannot {what}: {error}"));
        // Not of the system, but found in the file.
        if error.raw_os_error().is_none() { failure.of_file() } else { failure }
    }

    /// What the system said when asked to put `path` on disk: whatever it is, it
    /// is no matter of that path.
    pub(super) fn sync(path: impl Display, error: &Error) -> Self {
        Self { scope: Scope::Volume, ..Self::io(format_args!("sync {path}"), error) }
    }

    /// What came of opening.
    pub(super) fn open(what: impl Display, error: &OpenError) -> Self {
        match error {
            OpenError::Refused(rule) => Self::new(Reason::Path, rule),
            OpenError::Io(error) => Self::io(what, error),
            OpenError::Partial(error) => Self::io(format_args!("{what} and repair its end"), error),
            OpenError::Busy => {
                let text = "it ends in a partial record of another process that owns it";
                Self::new(Reason::Denied, &format!("cannot {what}: {text}"))
            }
        }
    }

    /// The same failure, of one file alone.
    pub(super) fn of_file(self) -> Self {
        Self { scope: Scope::File, ..self }
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_path_can_cause_is_of_its_file_and_all_else_of_the_volume() {
        for (errno, reason, scope) in [
            (Errno::ACCESS, Reason::Denied, Scope::File),
            (Errno::PERM, Reason::Denied, Scope::File),
            (Errno::FBIG, Reason::Denied, Scope::File),
            (Errno::NAMETOOLONG, Reason::Denied, Scope::File),
            (Errno::ILSEQ, Reason::Denied, Scope::File),
            (Errno::MLINK, Reason::Denied, Scope::File),
            (Errno::NOSPC, Reason::Full, Scope::Volume),
            (Errno::DQUOT, Reason::Full, Scope::Volume),
            (Errno::ROFS, Reason::ReadOnly, Scope::Volume),
            (Errno::STALE, Reason::Gone, Scope::Volume),
            (Errno::NFILE, Reason::Descriptors, Scope::Volume),
            (Errno::IO, Reason::Io, Scope::Volume),
            (Errno::NXIO, Reason::Io, Scope::Volume),
        ] {
            let failure = Failure::io("open a.txt", &errno.into());
            assert_eq!((failure.reason, failure.scope()), (reason, scope), "{errno}");
            assert_eq!(Failure::sync("a.txt", &errno.into()).scope(), Scope::Volume);
        }
        for kind in [ErrorKind::PermissionDenied, ErrorKind::WriteZero, ErrorKind::Other] {
            assert_eq!(Failure::io("repair a.txt", &kind.into()).scope(), Scope::File, "{kind}");
        }
    }
}
