//! The directory that holds every file we write, and the rules for a path in it.
//!
//! A path comes from whoever may edit a handler, so it is confined twice: its
//! text beneath the volume here, and each of its parts when it is opened, where
//! no link is followed. Opened part by part, not by `openat2`: that is missing
//! on old kernels and behind old seccomp profiles.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::quoted::quoted;

pub mod log_file;
pub mod repair;
pub mod retention;
pub mod rotated;
pub mod usage;

/// Where the walkthroughs mount the volume, whatever ours is called here.
const MOUNT: &[u8] = b"/volume";
const MAX_PATH: usize = 1024;
const MAX_NAME: usize = 255;
/// What a handler writes for the name of this machine: its pod, in Kubernetes.
const HOSTNAME: &[u8] = b"{hostname}";
/// What the names of our own files begin with.
const OWN: &[u8] = b".mygrpcadapter.";
/// The file that a volume in trouble is tried with.
const TRIAL: &str = ".mygrpcadapter.trial";
/// How many names the trial tries, should one be taken by what it can't delete.
const TRIALS: u32 = 4;
/// What files and directories are made with, whatever the umask says: another
/// process that shares only our group must be able to go on with them.
const FILE_MODE: u32 = 0o664;
const DIR_MODE: u32 = 0o775;
const AS_DIR: OFlags = OFlags::DIRECTORY.union(OFlags::PATH).union(OFlags::CLOEXEC);
/// What opening a name in the volume never does: follow a link, wait for the other
/// end of a FIFO, take a terminal.
const GUARDED: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// The directory beneath which files are written.
#[derive(Clone, Debug)]
pub struct Volume {
    dir: PathBuf,
    /// The directory as the operator wrote it, made absolute.
    given: PathBuf,
    hostname: Vec<u8>,
}

/// A path beneath the volume: relative, without `.`, `..` or empty parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePath(Vec<u8>);

impl FilePath {
    /// The path, relative to the volume.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The directories above the file, and its own name.
    fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&[], &self.0),
        }
    }
}

/// As it is shown in logs and errors: on one line, every byte that isn't printable
/// ASCII escaped. Whoever sends a path can't write a line of its own by it.
impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

/// A file that was opened to append to.
#[derive(Debug)]
pub struct Opened {
    /// The file; open for reading, too, if we may.
    pub file: File,
    /// Whether it was made by this.
    pub made: bool,
    /// Bytes that the directories of the volume have grown by.
    pub grown: u64,
}

/// Why a path is refused, or can't be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The path breaks a rule; the text names it.
    Refused(String),
    /// The system says no.
    Io(io::Error),
    /// It ends in a partial record, and the system says no to a repair.
    Partial(io::Error),
    /// It ends in a partial record of another process that owns the file: it may
    /// still be written, or cut off by its owner.
    Busy,
}

impl OpenError {
    /// Whether closing other files would help.
    pub fn is_out_of_descriptors(&self) -> bool {
        let Self::Io(error) = self else { return false };
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        matches!(errno, Some(Errno::MFILE | Errno::NFILE))
    }
}

impl From<Errno> for OpenError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl Volume {
    /// Opens the volume at `dir`: it must be a directory we may write in.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let given = std::path::absolute(dir)?;
        let dir = dir.canonicalize()?;
        rustix::fs::open(&dir, AS_DIR, Mode::empty())?;
        let may_write = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        // Without a flag, so not by faccessat2, which old seccomp profiles refuse.
        rustix::fs::accessat(rustix::fs::CWD, &dir, may_write, AtFlags::empty())?;
        let hostname = rustix::system::uname().nodename().to_bytes().to_vec();
        Ok(Self { dir, given, hostname })
    }

    /// The volume's own path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path on this system of a file in the volume.
    pub fn full_path(&self, file: &FilePath) -> PathBuf {
        self.dir.join(file.as_path())
    }

    /// Reads a handler's `file_path`: relative to the volume, or absolute and
    /// beneath it, by its own name or by `/volume`. It names no file that is ours
    /// to delete; a directory may be called like a rotated file, for that is one
    /// that is never deleted.
    pub fn resolve(&self, text: &[u8]) -> Result<FilePath, String> {
        let refuse = |rule: &str| Err(format!("file_path {}: {rule}", quoted(text)));
        if text.len() > MAX_PATH {
            return refuse("is longer than 1024 bytes");
        }
        if text.contains(&0) {
            return refuse("has a NUL byte in it");
        }
        let relative = if text.first() == Some(&b'/') {
            let dirs = [self.given.as_os_str().as_bytes(), self.dir.as_os_str().as_bytes(), MOUNT];
            let Some(rest) = dirs.iter().find_map(|dir| beneath(text, dir)) else {
                return refuse("is an absolute path outside the volume; use a path beneath /volume");
            };
            rest
        } else {
            text
        };
        if matches!(relative.rsplit(|byte| *byte == b'/').next(), Some(b"" | b".")) {
            return refuse("names a directory; name a file in it");
        }
        let named = self.with_hostname(relative);
        let mut normal = Vec::with_capacity(named.len());
        for part in parts(&named) {
            match part {
                b".." => return refuse("has a \"..\" in it; name the file without"),
                _ if part.len() > MAX_NAME => return refuse("has a part longer than 255 bytes"),
                _ if part.starts_with(OWN) => {
                    return refuse(
                        "has a part that begins with \".mygrpcadapter.\"; these are the adapter's own",
                    );
                }
                _ => {}
            }
            if !normal.is_empty() {
                normal.push(b'/');
            }
            normal.extend_from_slice(part);
        }
        if rotated::is_numbered(&normal) {
            return refuse("ends in a dot and six digits, as rotated files do; use another ending");
        }
        Ok(FilePath(normal))
    }

    /// The path with this machine's name in the place of `{hostname}`.
    fn with_hostname<'a>(&self, path: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(at) = path.windows(HOSTNAME.len()).position(|window| window == HOSTNAME) else {
            return Cow::Borrowed(path);
        };
        let after = self.with_hostname(&path[at + HOSTNAME.len()..]);
        Cow::Owned([&path[..at], &self.hostname, &after].concat())
    }

    /// Opens the volume itself.
    fn root(&self) -> rustix::io::Result<OwnedFd> {
        rustix::fs::open(&self.dir, AS_DIR, Mode::empty())
    }

    /// Opens a directory of the volume part by part, following no link.
    fn walk(&self, dir: &[u8]) -> rustix::io::Result<OwnedFd> {
        parts(dir).try_fold(self.root()?, |above, part| step(above.as_fd(), part))
    }

    /// Opens the directory of a file, following no link, and makes what is missing
    /// of it. Returns it, the file's own name, and the bytes that this has taken.
    fn enter<'a>(&self, file: &'a FilePath) -> Result<(OwnedFd, &'a [u8], u64), OpenError> {
        let (above, name) = file.split();
        let (mut dir, mut grown) = (self.root()?, 0);
        for part in parts(above) {
            let opened = match step(dir.as_fd(), part) {
                Err(Errno::NOENT) => make_dir(dir.as_fd(), part).and_then(|more| {
                    grown += more;
                    step(dir.as_fd(), part)
                }),
                other => other,
            };
            dir = match opened {
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let rule = "goes through a symbolic link or a file; name real directories";
                    return Err(file.refused(rule));
                }
                other => other?,
            };
        }
        Ok((dir, name, grown))
    }

    /// What the path of a file leads to now, following no link.
    fn stat(&self, file: &FilePath) -> rustix::io::Result<Stat> {
        let (above, name) = file.split();
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        if above.is_empty() {
            return rustix::fs::statat(rustix::fs::CWD, self.full_path(file), no_follow);
        }
        rustix::fs::statat(self.walk(above)?, name, no_follow)
    }

    /// Opens a file to append to and to read, and makes it and the directories
    /// above it where they are missing.
    pub fn open_append(&self, file: &FilePath) -> Result<Opened, OpenError> {
        let (dir, name, mut grown) = self.enter(file)?;
        // Again where another process makes or deletes it meanwhile.
        for _ in 0..8 {
            // Looked at before it is opened: opening a device or a FIFO may do things.
            let opened = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    regular(stat.st_mode).map_err(|rule| file.refused(rule))?;
                    open_existing(dir.as_fd(), name).map(|fd| (fd, false))
                }
                Err(Errno::NOENT) => make_file(dir.as_fd(), name).map(|(fd, more)| {
                    grown += more;
                    (fd, true)
                }),
                Err(errno) => Err(errno),
            };
            match opened {
                Err(Errno::NOENT | Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
                Ok((fd, made)) => {
                    regular(rustix::fs::fstat(&fd)?.st_mode).map_err(|rule| file.refused(rule))?;
                    return Ok(Opened { file: fd.into(), made, grown });
                }
            }
        }
        Err(Errno::NOENT.into())
    }

    /// Tries whether the volume takes a block of bytes.
    pub fn try_write(&self) -> io::Result<()> {
        let dir = self.root()?;
        for trial in 0..TRIALS {
            let name = if trial == 0 { TRIAL.to_owned() } else { format!("{TRIAL}.{trial}") };
            // What is left of an earlier one, or another's. It is never opened.
            let _ = rustix::fs::unlinkat(&dir, &*name, AtFlags::empty());
            let fresh = GUARDED | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            match rustix::fs::openat(&dir, &*name, fresh, Mode::from_raw_mode(0o600)) {
                Err(Errno::EXIST) => {}
                opened => {
                    let mut file = File::from(opened?);
                    let written = file.write_all(&[0; 4096]).and_then(|()| file.sync_data());
                    // Another adapter on the volume may have deleted it.
                    let _ = rustix::fs::unlinkat(&dir, &*name, AtFlags::empty());
                    return written;
                }
            }
        }
        Err(Errno::EXIST.into())
    }

    /// Puts the directories of a file on disk, after a name in them has changed.
    pub fn sync_dir_of(&self, file: &FilePath) -> io::Result<()> {
        let (above, _) = file.split();
        let mut dir = self.root()?;
        sync_dir(dir.as_fd())?;
        for part in parts(above) {
            dir = step(dir.as_fd(), part)?;
            sync_dir(dir.as_fd())?;
        }
        Ok(())
    }
}

/// Opens a directory in another, following no link.
fn step(dir: BorrowedFd, part: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, part, AS_DIR | OFlags::NOFOLLOW, Mode::empty())
}

/// Makes a directory, unless another process does so first. Returns the bytes that
/// this has taken.
fn make_dir(above: BorrowedFd, name: &[u8]) -> rustix::io::Result<u64> {
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

fn open_existing(dir: BorrowedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let open = |access| rustix::fs::openat(dir, name, access | OFlags::APPEND | GUARDED, Mode::empty());
    match open(OFlags::RDWR) {
        // Ours to write but not to read: then it can't be repaired.
        Err(Errno::ACCESS) => open(OFlags::WRONLY),
        other => other,
    }
}

/// Makes a file that wasn't there. Returns it and the bytes that its directory has
/// grown by.
fn make_file(dir: BorrowedFd, name: &[u8]) -> rustix::io::Result<(OwnedFd, u64)> {
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
fn allocated(file: impl AsFd) -> u64 {
    rustix::fs::fstat(file).map_or(0, |stat| blocks(&stat))
}

fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default() * 512
}

/// Device and inode: what a file is, whatever its name.
fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Opens a directory once more, to be read or synced: what [`step`] opens is only
/// good to go on from.
fn reopen(dir: BorrowedFd) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, ".", GUARDED | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

fn sync_dir(dir: BorrowedFd) -> rustix::io::Result<()> {
    rustix::fs::fsync(reopen(dir)?)
}

impl FilePath {
    fn refused(&self, rule: &str) -> OpenError {
        OpenError::Refused(format!("file_path {}: {rule}", quoted(&self.0)))
    }
}

fn regular(mode: rustix::fs::RawMode) -> Result<(), &'static str> {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err("is a directory; name a file in it"),
        FileType::Symlink => Err("is a symbolic link; name a real file"),
        FileType::Fifo => Err("is a FIFO; name a regular file"),
        FileType::CharacterDevice | FileType::BlockDevice => Err("is a device; name a regular file"),
        _ => Err("is not a regular file"),
    }
}

/// What follows `dir` in `path`, both read without empty parts and `.`.
fn beneath<'a>(path: &'a [u8], dir: &[u8]) -> Option<&'a [u8]> {
    let mut rest = path;
    for wanted in parts(dir) {
        let (part, after) = split(rest)?;
        if part != wanted {
            return None;
        }
        rest = after;
    }
    Some(rest)
}

/// The first part of a path, and what comes after it.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = path;
    loop {
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let (part, after) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
        if !matches!(part, b"" | b".") {
            return Some((part, after));
        }
        if end == rest.len() {
            return None;
        }
        rest = after;
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(dir: &str) -> Volume {
        Volume { dir: dir.into(), given: dir.into(), hostname: b"pod-1".to_vec() }
    }

    #[test]
    fn paths_beneath_the_volume_are_relative_to_it_however_they_are_written() {
        let volume = volume("/srv/data");
        for (text, expected) in [
            ("out.txt", "out.txt"),
            ("./a//b/./out.txt", "a/b/out.txt"),
            ("/volume/out.txt", "out.txt"),
            ("//volume/./a/out.txt", "a/out.txt"),
            ("/srv/data/out.txt", "out.txt"),
            ("/srv//data/a/out.txt", "a/out.txt"),
            ("...", "..."),
            ("a.000001/out.txt", "a.000001/out.txt"),
            ("a.00001", "a.00001"),
            ("a.0000001", "a.0000001"),
            ("a.00000x", "a.00000x"),
            ("a-000001", "a-000001"),
            ("000001", "000001"),
            (".mygrpcadapter", ".mygrpcadapter"),
            ("a.mygrpcadapter.trial", "a.mygrpcadapter.trial"),
            ("a..b/..c", "a..b/..c"),
            ("volume/out.txt", "volume/out.txt"),
            ("{hostname}.txt", "pod-1.txt"),
            ("/volume/a-{hostname}/{hostname}", "a-pod-1/pod-1"),
        ] {
            let file = volume.resolve(text.as_bytes()).unwrap();
            assert_eq!(file.as_path(), Path::new(expected), "{text}");
        }
    }

    #[test]
    fn paths_that_break_a_rule_are_refused_by_its_name() {
        let volume = volume("/srv/data");
        let long_part = "x".repeat(256);
        let long_path = "x/".repeat(600);
        for (text, rule) in [
            ("../out.txt", "\"..\""),
            ("a/../out.txt", "\"..\""),
            ("/volume/../etc/passwd", "\"..\""),
            ("/etc/passwd", "outside the volume"),
            ("/volumes/out.txt", "outside the volume"),
            ("/srv/database/out.txt", "outside the volume"),
            ("/", "outside the volume"),
            ("/volume", "names a directory"),
            ("/volume/", "names a directory"),
            ("a/", "names a directory"),
            ("a/.", "names a directory"),
            (".", "names a directory"),
            ("", "names a directory"),
            ("a\0b", "NUL"),
            ("out.txt.000003", "six digits"),
            ("/volume/a/./out.txt.999999", "six digits"),
            (".000001", "six digits"),
            ("a/.000001", "six digits"),
            ("{hostname}.000001", "six digits"),
            (".mygrpcadapter.trial", "the adapter's own"),
            ("a/.mygrpcadapter.trial", "the adapter's own"),
            (".mygrpcadapter.trial/out.txt", "the adapter's own"),
            (&long_part, "255"),
            (&long_path, "1024"),
        ] {
            let refusal = volume.resolve(text.as_bytes()).unwrap_err();
            assert!(refusal.contains(rule), "{text:?}: {refusal}");
        }
    }
}
