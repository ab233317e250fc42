//! Why a request is not taken, or a record not written: one kind, one label, one
//! line of text, and whom it concerns.

use std::fmt;
use std::sync::Arc;

use records::protobuf::wire::Malformed;

/// The kind of a refusal. Labels are those of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The message can't be decoded.
    Malformed,
    /// The handler's config is wrong.
    Config,
    /// It needs a volume, and there is none.
    NoVolume,
    /// It has too many instances.
    Instances,
    /// It becomes too many bytes.
    Rendered,
    /// There was no room in the queue for too long; not a failure of the volume.
    Queue,
    /// The caller waits no longer.
    Deadline,
    /// A record of a verdict that found no room.
    Audit,
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
    /// The adapter stops.
    Closing,
}

impl Reason {
    /// Those of requests that are refused before the volume is tried.
    pub const REQUEST: [Self; 8] = [
        Self::Malformed,
        Self::Config,
        Self::NoVolume,
        Self::Instances,
        Self::Rendered,
        Self::Queue,
        Self::Deadline,
        Self::Audit,
    ];
    /// Those that a write fails with.
    pub const WRITE: [Self; 9] = [
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
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Config => "config",
            Self::NoVolume => "no_volume",
            Self::Instances => "instances",
            Self::Rendered => "rendered",
            Self::Queue => "queue",
            Self::Deadline => "deadline",
            Self::Audit => "audit",
            Self::Path => "path",
            Self::Full => "full",
            Self::Limit => "limit",
            Self::ReadOnly => "read_only",
            Self::Gone => "gone",
            Self::Descriptors => "descriptors",
            Self::Stalled => "stalled",
            Self::Io => "io",
            Self::Denied => "denied",
            Self::Closing => "closing",
        }
    }

    fn scope(self) -> Scope {
        match self {
            Self::Denied => Scope::File,
            Self::Full
            | Self::Limit
            | Self::ReadOnly
            | Self::Gone
            | Self::Descriptors
            | Self::Stalled
            | Self::Io => Scope::Volume,
            _ => Scope::Request,
        }
    }
}

/// Whether a refusal concerns one request, one file, or every file of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The caller asked for something impossible, or at the wrong time.
    Request,
    /// This file can't be written; others may.
    File,
    /// No file can be written.
    Volume,
}

/// Why a request is not taken, or a record not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind.
    pub reason: Reason,
    /// Whom it concerns.
    pub scope: Scope,
    /// One line that says what couldn't be done, and why.
    pub text: Arc<str>,
}

impl Refusal {
    /// A refusal in words, of the scope that its kind has.
    pub fn new(reason: Reason, text: impl Into<Arc<str>>) -> Self {
        Self { reason, scope: reason.scope(), text: text.into() }
    }

    /// The same refusal, of one file alone.
    pub fn of_file(self) -> Self {
        Self { scope: Scope::File, ..self }
    }

    /// Of a request that nobody waits for any more.
    pub fn late() -> Self {
        Self::new(Reason::Deadline, "the caller's timeout has passed; nothing was written")
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::new(Reason::Malformed, format!("not a request of this template: {malformed}"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
