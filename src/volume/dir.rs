//! What is done to the names in one directory, following no link.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// What files and directories are made with, whatever the umask says: another
/// process that shares only our group must be able to go on with them.
const FILE_MODE: u32 = 0o664;
const DIR_MODE: u32 = 0o775;
pub(super) const AS_DIR: OFlags = OFlags::DIRECTORY.union(OFlags::PATH).union(OFlags::CLOEXEC);
/// What opening a name in the volume never does: follow a link, wait for the other
/// end of a FIFO, take a terminal.
pub(super) const GUARDED: OFlags =
    OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Opens a directory in another, following no link.
pub(super) fn step(dir: BorrowedFd, part: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, part, AS_DIR | OFlags::NOFOLLOW, Mode::empty())
}

/// Makes a directory, unless another process does so first. Returns the bytes that
/// this has taken.
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
        // Ours to write but not to read: then it can't be repaired.
        Err(Errno::ACCESS) => open(OFlags::WRONLY),
        other => other,
    }
}

/// Makes a file that wasn't there. Returns it and the bytes that its directory has
/// grown by.
pub(super) fn make_file(dir: BorrowedFd, name: &[u8]) -> rustix::io::Result<(OwnedFd, u64)> {
    let before = allocated(dir);
    let fresh = GUARDED | OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL;
    let file = rustix::fs::openat(dir, name, fresh, Mode::from_raw_mode(FILE_MODE))?;
    permit(file.as_fd(), FILE_MODE);
    Ok((file, allocated(dir).saturating_sub(before)))
}

/// Gives what was just made its permissions, whatever the umask took from them. The
/// bits that a directory passes on stay. Where the file system has no permissions,
/// it does without.
fn permit(made: BorrowedFd, mode: u32) {
    let Ok(stat) = rustix::fs::fstat(made) else { return };
    let wanted = (stat.st_mode & 0o7000) | mode;
    if stat.st_mode & 0o7777 != wanted {
        let _ = rustix::fs::fchmod(made, Mode::from_raw_mode(wanted));
    }
}

/// The bytes that a file or directory takes on its file system.
pub(super) fn allocated(file: impl AsFd) -> u64 {
    rustix::fs::fstat(file).map_or(0, |stat| blocks(&stat))
}

pub(super) fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default() * 512
}

/// Device and inode: what a file is, whatever its name.
pub(super) fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Opens a directory once more, to be read or synced: what [`step`] opens is only
/// good to go on from.
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
