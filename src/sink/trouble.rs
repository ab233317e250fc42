//! Why reports can't be written, and since when.

use std::io::ErrorKind;
use std::sync::Arc;

use rustix::io::Errno;

use crate::volume::OpenError;

/// What kind of trouble it is. The names are those of the metrics.
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
    /// The volume isn't there any more.
    Gone,
    /// The process or the system has no descriptors left.
    Descriptors,
    /// A write takes too long.
    Stalled,
    /// The device fails.
    Io,
    /// The system says no to this one path.
    Denied,
}

impl Reason {
    /// All of them, in the order of the counters.
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
        }
    }

    /// Whether it concerns the volume, and so every report, or one path alone.
    pub fn is_of_volume(self) -> bool {
        !matches!(self, Self::Path | Self::Denied)
    }

    fn of(error: &std::io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE | Errno::NFILE) => return Self::Descriptors,
            Some(Errno::IO | Errno::NODEV | Errno::NXIO) => return Self::Io,
            Some(Errno::NOENT | Errno::STALE | Errno::NOTCONN) => return Self::Gone,
            _ => {}
        }
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full,
            ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            ErrorKind::PermissionDenied | ErrorKind::InvalidFilename | ErrorKind::FileTooLarge => {
                Self::Denied
            }
            _ => Self::Io,
        }
    }
}

/// Why a request is not in its file.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What kind of trouble it is.
    pub reason: Reason,
    /// One line that says what couldn't be done, and why.
    pub text: Arc<str>,
}

impl Failure {
    /// A failure in words.
    pub fn new(reason: Reason, text: &str) -> Self {
        Self { reason, text: text.into() }
    }

    /// What the system said when asked to `what`, as in `open out.txt`.
    pub fn io(what: &str, error: &std::io::Error) -> Self {
        Self::new(Reason::of(error), &format!("cannot {what}: {error}"))
    }

    /// What came of opening.
    pub fn open(what: &str, error: OpenError) -> Self {
        match error {
            OpenError::Refused(rule) => Self::new(Reason::Path, &rule),
            OpenError::Io(error) => Self::io(what, &error),
            OpenError::Partial(error) => Self::io(&format!("{what} and repair its end"), &error),
            OpenError::Busy => {
                let text = "it ends in a partial record of another process that owns it";
                Self::new(Reason::Denied, &format!("cannot {what}: {text}"))
            }
        }
    }
}
