//! The directory that holds every file we write, and the rules for a path in it.
//!
//! A path comes from whoever may edit a handler, so it is confined twice: its
//! text beneath the volume here, and each of its parts when it is opened, where
//! no link is followed. Opened part by part, not by `openat2`: that is missing
//! on old kernels and behind old seccomp profiles.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

pub mod log_file;
pub mod repair;
pub mod retention;

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
const AS_DIR: OFlags = OFlags::DIRECTORY.union(OFlags::PATH).union(OFlags::CLOEXEC);

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
}

/// Why a path is refused, or can't be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The path breaks a rule; the text names it.
    Refused(String),
    /// The system says no.
    Io(io::Error),
    /// Its end isn't that of a line, and the system says no to a repair.
    Torn(io::Error),
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
        rustix::fs::accessat(rustix::fs::CWD, &dir, may_write, AtFlags::EACCESS)?;
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
        if retention::is_numbered(&normal) {
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

    /// Opens the directory of a file part by part, following no link, and makes
    /// what is missing of it. Returns it with the file's own name.
    fn enter<'a>(&self, file: &'a FilePath) -> Result<(OwnedFd, &'a [u8]), OpenError> {
        let mut dir = rustix::fs::open(&self.dir, AS_DIR, Mode::empty())?;
        let (above, name) = match file.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&file.0[..at], &file.0[at + 1..]),
            None => (&[][..], &file.0[..]),
        };
        for part in parts(above) {
            let step = || rustix::fs::openat(&dir, part, AS_DIR | OFlags::NOFOLLOW, Mode::empty());
            let opened = match step() {
                Err(Errno::NOENT) => match rustix::fs::mkdirat(&dir, part, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => step(),
                    Err(errno) => Err(errno),
                },
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
        Ok((dir, name))
    }

    /// Opens a file to append to and to read, and makes it and the directories
    /// above it where they are missing. Says whether it was made.
    pub fn open_append(&self, file: &FilePath) -> Result<(File, bool), OpenError> {
        let (dir, name) = self.enter(file)?;
        // Looked at before it is opened: opening a device or a FIFO may do things.
        let made = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => regular(stat.st_mode).map(|()| false).map_err(|rule| file.refused(rule))?,
            Err(Errno::NOENT) => true,
            Err(errno) => return Err(errno.into()),
        };
        let to_append = OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        let never_elsewhere = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let open = |access| {
            rustix::fs::openat(&dir, name, access | to_append | never_elsewhere, Mode::from_raw_mode(0o644))
        };
        let opened = match open(OFlags::RDWR) {
            // Ours to write but not to read: then it can't be repaired.
            Err(Errno::ACCESS) => open(OFlags::WRONLY)?,
            other => other?,
        };
        regular(rustix::fs::fstat(&opened)?.st_mode).map_err(|rule| file.refused(rule))?;
        Ok((opened.into(), made))
    }

    /// Tries whether the volume takes a block of bytes.
    pub fn try_write(&self) -> io::Result<()> {
        let dir = rustix::fs::open(&self.dir, AS_DIR, Mode::empty())?;
        let fresh = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&dir, TRIAL, fresh, Mode::from_raw_mode(0o600))?);
        let written = file.write_all(&[0; 4096]).and_then(|()| file.sync_data());
        rustix::fs::unlinkat(&dir, TRIAL, AtFlags::empty())?;
        written
    }

    /// Puts the directory of a file on disk, after a name in it has changed.
    pub fn sync_dir_of(&self, file: &FilePath) -> io::Result<()> {
        let full = self.full_path(file);
        File::open(full.parent().unwrap_or(&self.dir))?.sync_all()
    }
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

/// Foreign bytes for a message: quoted, escaped, and no longer than a line.
pub fn quoted(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(128)];
    let ellipsis = if shown.len() < bytes.len() { "..." } else { "" };
    format!("\"{}{ellipsis}\"", shown.escape_ascii())
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
