//! Why a request is refused or a record not written: reason, metric label, one line
//! of text, and scope.

use std::fmt;
use std::sync::Arc;

use records::protobuf::wire::Malformed;

/// The reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The message cannot be decoded.
    Malformed,
    /// The handler's config is wrong.
    Config,
    /// It needs a volume, and none is configured.
    NoVolume,
    /// It has too many instances.
    Instances,
    /// Its rendered records are too large.
    Rendered,
    /// The queue was full for the whole queue timeout; no failure of the volume.
    Queue,
    /// The caller's deadline has passed.
    Deadline,
    /// No room for an audit record.
    Audit,
    /// The path breaks a rule.
    Path,
    /// The disk or its quota is full.
    Full,
    /// `--max-volume-bytes` is reached, and no rotated file is left to delete.
    Limit,
    /// The file system is read-only.
    ReadOnly,
    /// The volume or the file has disappeared.
    Gone,
    /// The process or the system is out of file descriptors.
    Descriptors,
    /// A write takes too long.
    Stalled,
    /// An I/O error of the device.
    Io,
    /// The system denies access to this file.
    Denied,
    /// The caller has no valid token.
    Unauthenticated,
    /// The adapter is shutting down.
    Closing,
}

impl Reason {
    /// Reasons to refuse a request before any write.
    pub const REQUEST: [Self; 9] = [
        Self::Malformed,
        Self::Config,
        Self::NoVolume,
        Self::Instances,
        Self::Rendered,
        Self::Queue,
        Self::Deadline,
        Self::Audit,
        Self::Unauthenticated,
    ];
    /// Reasons of a failed write.
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
            Self::Unauthenticated => "unauthenticated",
            Self::Closing => "closing",
        }
    }

    /// What an operator may do about it, where the text of the refusal does not say so.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Malformed => {
                "; for Mixer install the template of manifests/templates, otherwise check the sender's version"
            }
            Self::NoVolume => "; name one, or no file_path",
            Self::Queue => "; the volume is too slow, see --queue-timeout",
            Self::Deadline => "; raise it, as connection.timeout in a handler",
            Self::Denied => "; let the adapter's group write there",
            Self::Full => "; free space",
            Self::Limit => "; raise it, or set --rotate-size",
            Self::ReadOnly | Self::Gone => "; mount it again, writable",
            Self::Descriptors => "; name fewer files",
            _ => "",
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

/// Whether a refusal affects one request, one file, or the whole volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One request.
    Request,
    /// One file; others may still be writable.
    File,
    /// Every file of the volume.
    Volume,
}

/// Why a request is refused or a record not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// The scope.
    pub scope: Scope,
    /// One line of text: the failed action and its cause.
    pub text: Arc<str>,
}

impl Refusal {
    /// A refusal with the default scope of its reason.
    pub fn new(reason: Reason, text: impl Into<Arc<str>>) -> Self {
        Self { reason, scope: reason.scope(), text: text.into() }
    }

    /// The same refusal, limited to one file.
    pub fn of_file(self) -> Self {
        Self { scope: Scope::File, ..self }
    }

    /// For a record, where no volume is configured.
    pub fn no_volume() -> Self {
        Self::new(Reason::NoVolume, "there is no volume to write to: --volume none")
    }

    /// For an audit record that is lost.
    pub fn no_audit() -> Self {
        Self::new(Reason::Audit, "an audit record is lost, the volume is full or slow; the verdict holds")
    }

    /// The refusal of a request whose caller's deadline has passed.
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
