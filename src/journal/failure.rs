//! Maps the system's errors to refusals and their scopes.

use std::fmt::Display;
use std::io::{Error, ErrorKind};

use rustix::io::Errno;

use crate::refusal::{Reason, Refusal, Scope};
use crate::volume::OpenError;

/// The refusal for an error of an action, such as `write to out.txt`.
pub(super) fn io(what: impl Display, error: &Error) -> Refusal {
    let refusal = Refusal::new(reason(error), format!("cannot {what}: {error}"));
    // Not a system error: found in the file's content.
    if error.raw_os_error().is_none() { refusal.of_file() } else { refusal }
}

/// The refusal for a failed sync of `path`; its scope is always the volume.
pub(super) fn sync(path: impl Display, error: &Error) -> Refusal {
    Refusal { scope: Scope::Volume, ..io(format_args!("sync {path}"), error) }
}

/// The refusal for a failed open.
pub(super) fn open(what: impl Display, error: &OpenError) -> Refusal {
    match error {
        OpenError::Refused(rule) => Refusal::new(Reason::Path, &**rule),
        OpenError::Io(error) => io(what, error),
        OpenError::Partial(error) => io(format_args!("{what} and repair its end"), error),
        OpenError::Busy => {
            let text = "it ends in a partial record of another process that owns it";
            Refusal::new(Reason::Denied, format!("cannot {what}: {text}"))
        }
    }
}

/// The reason for an error; unknown ones count as the device's.
fn reason(error: &Error) -> Reason {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Reason::Full,
        Some(Errno::ROFS) => Reason::ReadOnly,
        Some(Errno::NOENT | Errno::STALE | Errno::NOTCONN) => Reason::Gone,
        Some(Errno::MFILE | Errno::NFILE) => Reason::Descriptors,
        Some(
            // The file's owner, mode or attributes.
            Errno::ACCESS | Errno::PERM
            // The file's name: some file systems accept fewer names.
            | Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ
            // Other files at the path.
            | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::MLINK | Errno::TXTBSY
            // The file's size.
            | Errno::FBIG,
        ) => Reason::Denied,
        _ if error.kind() == ErrorKind::PermissionDenied => Reason::Denied,
        _ => Reason::Io,
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
            let failure = io("open a.txt", &errno.into());
            assert_eq!((failure.reason, failure.scope), (reason, scope), "{errno}");
            assert_eq!(sync("a.txt", &errno.into()).scope, Scope::Volume);
        }
        for kind in [ErrorKind::PermissionDenied, ErrorKind::WriteZero, ErrorKind::Other] {
            assert_eq!(io("repair a.txt", &kind.into()).scope, Scope::File, "{kind}");
        }
    }
}
