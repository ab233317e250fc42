//! Operations on names in one directory, without following links.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Modes of new files and directories, regardless of the umask: another process with
/// only our group must be able to use them.
const FILE_MODE: u32 = 0o664;
const DIR_MODE: u32 = 0o775;
pub(super) const AS_DIR: OFlags = OFlags::DIRECTORY.union(OFlags::PATH).union(OFlags::CLOEXEC);
/// Never follow a link, block on a FIFO, or acquire a terminal.
pub(super) const GUARDED: OFlags =
    OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Opens a subdirectory, without following links.
pub(super) fn step(dir: BorrowedFd, part: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, part, AS_DIR | OFlags::NOFOLLOW, Mode::empty())
}

/// Creates a directory unless it exists. Returns the bytes by which directories have
/// grown.
pub(super) fn make_dir(above: BorrowedFd, name: &[u8]) -> rustix::io::Result<u64> {
    let before = allocated(above);
    match rustix::fs::mkdirat(above, name, Mode::from_raw_mode(DIR_MODE)) {
        Err(Errno::EXIST) => return Ok(0),
        other => other?,
    }
    let as_dir = GUARDED | OFlags::RDONLY | OFlags::DIRECTORY;
    let Ok(dir) = rustix::fs::openat(above, name, as_dir, Mode::empty()) else { return Ok(0) };
    permit(dir.as_fd(), DIR_MODE);
    Ok(allocated(dir.as_fd()) + allocated(above).saturating_sub(before))
}

pub(super) fn open_existing(dir: BorrowedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let open = |access| rustix::fs::openat(dir, name, access | OFlags::APPEND | GUARDED, Mode::empty());
    match open(OFlags::RDWR) {
        // Writable but not readable: it cannot be repaired.
        Err(Errno::ACCESS) => open(OFlags::WRONLY),
        other => other,
    }
}

/// Creates a new file. Returns it and the bytes by which its directory has grown.
pub(super) fn make_file(dir: BorrowedFd, name: &[u8]) -> rustix::io::Result<(OwnedFd, u64)> {
    let before = allocated(dir);
    let fresh = GUARDED | OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL;
    let file = rustix::fs::openat(dir, name, fresh, Mode::from_raw_mode(FILE_MODE))?;
    permit(file.as_fd(), FILE_MODE);
    Ok((file, allocated(dir).saturating_sub(before)))
}

/// Sets the mode of a new file or directory, regardless of the umask. Keeps inherited
/// bits. File systems without permissions are fine.
fn permit(made: BorrowedFd, mode: u32) {
    let Ok(stat) = rustix::fs::fstat(made) else { return };
    let wanted = (stat.st_mode & 0o7000) | mode;
    if stat.st_mode & 0o7777 != wanted {
        let _ = rustix::fs::fchmod(made, Mode::from_raw_mode(wanted));
    }
}

/// Bytes allocated to a file or directory.
pub(super) fn allocated(file: impl AsFd) -> u64 {
    rustix::fs::fstat(file).map_or(0, |stat| blocks(&stat))
}

pub(super) fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default() * 512
}

/// Device and inode: identify a file regardless of its name.
pub(super) fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Reopens a directory for reading or syncing: the descriptor from [`step`] only
/// resolves paths.
pub(super) fn reopen(dir: BorrowedFd) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, ".", GUARDED | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

pub(super) fn sync_dir(dir: BorrowedFd) -> rustix::io::Result<()> {
    rustix::fs::fsync(reopen(dir)?)
}

pub(super) fn regular(mode: rustix::fs::RawMode) -> Result<(), &'static str> {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err("is a directory; name a file in it"),
        FileType::Symlink => Err("is a symbolic link; name a real file"),
        FileType::Fifo => Err("is a FIFO; name a regular file"),
        FileType::CharacterDevice | FileType::BlockDevice => Err("is a device; name a regular file"),
        _ => Err("is not a regular file"),
    }
}
