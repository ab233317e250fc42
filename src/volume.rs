//! The volume: the directory beneath which all files are written, and its path rules.
//!
//! Anyone who may edit a handler chooses its path, so it is confined twice: its text
//! here, and each of its parts when it is opened, without following links.
//! Directories are opened part by part: old kernels and seccomp profiles lack
//! `openat2`.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use self::dir::{AS_DIR, GUARDED, make_dir, make_file, open_existing, regular, step, sync_dir};
pub use self::path::FilePath;
use self::path::{beneath, parts};
use self::pattern::{ANY, HOSTNAME, Pattern, fits};
use self::rotated::Known;
use crate::quoted::quoted;

mod append_lock;
mod created;
mod dir;
pub mod log_file;
mod path;
pub mod pattern;
pub mod repair;
pub mod retention;
pub mod rotated;
pub mod usage;

/// The mount point in the walkthroughs, accepted in paths wherever the volume is.
const MOUNT: &[u8] = b"/volume";
const MAX_PATH: usize = 1024;
const MAX_NAME: usize = 255;
/// Prefix of the adapter's own file names.
const OWN: &[u8] = b".mygrpcadapter.";
/// The file of a trial write.
const TRIAL: &str = ".mygrpcadapter.trial";
/// How many names a trial tries if one is taken and cannot be deleted.
const TRIALS: u32 = 4;
/// The directory beneath which files are written.
#[derive(Clone, Debug)]
pub struct Volume {
    dir: PathBuf,
    /// The directory as the operator gave it, made absolute.
    given: PathBuf,
    hostname: Vec<u8>,
    /// The pattern of files that hold lines of any text, with [`ANY`] for each value.
    lines: Option<Arc<[u8]>>,
}

/// A file opened for appending.
#[derive(Debug)]
pub struct Opened {
    /// The file; also open for reading, if permitted.
    pub file: File,
    /// Whether this call created it.
    pub made: bool,
    /// Bytes by which directories of the volume have grown.
    pub grown: u64,
}

/// Why a path is refused or cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The path breaks a rule; the text names it.
    Refused(String),
    /// The system refuses.
    Io(io::Error),
    /// It ends in a partial record that could not be repaired.
    Partial(io::Error),
    /// It ends in a partial record, and another process owns the file: that process
    /// may still be writing, or will repair it.
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
    /// Opens the volume at `dir`, which must be a writable directory.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let given = std::path::absolute(dir)?;
        let dir = dir.canonicalize()?;
        rustix::fs::open(&dir, AS_DIR, Mode::empty())?;
        let may_write = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        // Without flags, to avoid faccessat2: old seccomp profiles refuse it.
        rustix::fs::accessat(rustix::fs::CWD, &dir, may_write, AtFlags::empty())?;
        let hostname = rustix::system::uname().nodename().to_bytes().to_vec();
        Ok(Self { dir, given, hostname, lines: None })
    }

    /// Lets retention delete the rotated files of a pattern's paths regardless of their
    /// content, which has no grammar. Fails as [`Volume::resolve`] does.
    pub fn hold_lines(&mut self, pattern: &Pattern) -> Result<(), String> {
        let path = self.resolve(&pattern.with(|path, _| path.push(ANY)))?;
        self.lines = Some(path.0.into());
        Ok(())
    }

    /// How to recognize the rotated files of the file at `path`.
    fn known(&self, path: &[u8]) -> Known {
        match &self.lines {
            Some(pattern) if fits(pattern, path) => Known::ByName,
            _ => Known::ByContent,
        }
    }

    /// The volume's own path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of a file in the volume on this system.
    pub fn full_path(&self, file: &FilePath) -> PathBuf {
        self.dir.join(file.as_path())
    }

    /// Resolves a handler's `file_path`: relative to the volume, or absolute and
    /// beneath it, by its own name or by `/volume`. File names that look rotated are
    /// rejected, since retention may delete them; directory names may.
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

    /// Replaces `{hostname}` in a path with this host's name.
    fn with_hostname<'a>(&self, path: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(at) = path.windows(HOSTNAME.len()).position(|window| window == HOSTNAME) else {
            return Cow::Borrowed(path);
        };
        let after = self.with_hostname(&path[at + HOSTNAME.len()..]);
        Cow::Owned([&path[..at], &self.hostname, &after].concat())
    }

    /// Opens the volume's root directory.
    fn root(&self) -> rustix::io::Result<OwnedFd> {
        rustix::fs::open(&self.dir, AS_DIR, Mode::empty())
    }

    /// The space in bytes that its file system has left for this user, if it says so.
    pub fn free(&self) -> Option<u64> {
        let status = self.root().and_then(rustix::fs::fstatvfs).ok()?;
        Some(status.f_bavail.saturating_mul(status.f_frsize))
    }

    /// Opens a directory of the volume part by part, without following links.
    fn walk(&self, dir: &[u8]) -> rustix::io::Result<OwnedFd> {
        parts(dir).try_fold(self.root()?, |above, part| step(above.as_fd(), part))
    }

    /// Opens the directory of a file without following links, and creates missing
    /// ones. Returns it, the file's own name, and the bytes by which directories have
    /// grown.
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
                    return Err(refused(file, rule));
                }
                other => other?,
            };
        }
        Ok((dir, name, grown))
    }

    /// Status of the file at a path, without following links.
    fn stat(&self, file: &FilePath) -> rustix::io::Result<Stat> {
        let (above, name) = file.split();
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        if above.is_empty() {
            return rustix::fs::statat(rustix::fs::CWD, self.full_path(file), no_follow);
        }
        rustix::fs::statat(self.walk(above)?, name, no_follow)
    }

    /// Opens a file for appending and reading; creates it and its directories if
    /// missing.
    pub fn open_append(&self, file: &FilePath) -> Result<Opened, OpenError> {
        let (dir, name, mut grown) = self.enter(file)?;
        // Retried when another process creates or deletes it meanwhile.
        for _ in 0..8 {
            // Checked before opening: opening a device or a FIFO has side effects or
            // blocks.
            let opened = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    regular(stat.st_mode).map_err(|rule| refused(file, rule))?;
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
                    regular(rustix::fs::fstat(&fd)?.st_mode).map_err(|rule| refused(file, rule))?;
                    return Ok(Opened { file: fd.into(), made, grown });
                }
            }
        }
        Err(Errno::NOENT.into())
    }

    /// Tries to write and sync one block.
    pub fn try_write(&self) -> io::Result<()> {
        let dir = self.root()?;
        for trial in 0..TRIALS {
            let name = if trial == 0 { TRIAL.to_owned() } else { format!("{TRIAL}.{trial}") };
            // Left by an earlier trial or by another process; never opened.
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

    /// Syncs the directories of a file, after a name in them has changed.
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

fn refused(file: &FilePath, rule: &str) -> OpenError {
    OpenError::Refused(format!("file_path {}: {rule}", quoted(&file.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(dir: &str) -> Volume {
        Volume { dir: dir.into(), given: dir.into(), hostname: b"pod-1".to_vec(), lines: None }
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
