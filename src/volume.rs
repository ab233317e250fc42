//! The directory that holds every file we write, and the rules for a path in it.
//!
//! A path comes from whoever may edit a handler, so it is confined twice: its
//! text beneath the volume here, and each of its parts when it is opened, where
//! no link is followed. Opened part by part, not by `openat2`: that is missing
//! on old kernels and behind old seccomp profiles.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Where the walkthroughs mount the volume, whatever ours is called here.
const MOUNT: &[u8] = b"/volume";
const MAX_PATH: usize = 1024;
const MAX_NAME: usize = 255;

/// The directory beneath which files are written.
#[derive(Clone, Debug)]
pub struct Volume {
    dir: PathBuf,
    /// The directory as the operator wrote it, made absolute.
    given: PathBuf,
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
        rustix::fs::open(&dir, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let may_write = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::accessat(rustix::fs::CWD, &dir, may_write, AtFlags::EACCESS)?;
        Ok(Self { dir, given })
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
    /// beneath it, by its own name or by `/volume`.
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
        let mut normal = Vec::with_capacity(relative.len());
        for part in parts(relative) {
            match part {
                b".." => return refuse("has a \"..\" in it; name the file without"),
                _ if part.len() > MAX_NAME => return refuse("has a part longer than 255 bytes"),
                _ => {}
            }
            if !normal.is_empty() {
                normal.push(b'/');
            }
            normal.extend_from_slice(part);
        }
        Ok(FilePath(normal))
    }

    /// Opens a file for appending, and makes it and the directories above it
    /// where they are missing.
    pub fn open_append(&self, file: &FilePath) -> Result<File, OpenError> {
        let refuse = |rule: &str| OpenError::Refused(format!("file_path {}: {rule}", quoted(&file.0)));
        let as_dir = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let mut dir = rustix::fs::open(&self.dir, as_dir, Mode::empty())?;
        let (above, name) = match file.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&file.0[..at], &file.0[at + 1..]),
            None => (&[][..], &file.0[..]),
        };
        for part in parts(above) {
            let step = || rustix::fs::openat(&dir, part, as_dir | OFlags::NOFOLLOW, Mode::empty());
            let opened = match step() {
                Err(Errno::NOENT) => match rustix::fs::mkdirat(&dir, part, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => step(),
                    Err(errno) => Err(errno),
                },
                other => other,
            };
            dir = match opened {
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(refuse("goes through a symbolic link or a file; name real directories"));
                }
                other => other?,
            };
        }
        // Looked at before it is opened: opening a device or a FIFO may do things.
        match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => regular(stat.st_mode).map_err(refuse)?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let to_append = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        let never_elsewhere = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = rustix::fs::openat(&dir, name, to_append | never_elsewhere, Mode::from_raw_mode(0o644))?;
        regular(rustix::fs::fstat(&opened)?.st_mode).map_err(refuse)?;
        Ok(opened.into())
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
        Volume { dir: dir.into(), given: dir.into() }
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
            ("a..b/..c", "a..b/..c"),
            ("volume/out.txt", "volume/out.txt"),
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
            (&long_part, "255"),
            (&long_path, "1024"),
        ] {
            let refusal = volume.resolve(text.as_bytes()).unwrap_err();
            assert!(refusal.contains(rule), "{text:?}: {refusal}");
        }
    }
}
