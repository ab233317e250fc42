//! One file that records are appended to, whole or not at all.
//!
//! Whoever holds the lock on a file is its owner: only the owner cuts back,
//! repairs and rotates. Anyone else appends whole records with `O_APPEND`, which
//! needs no agreement.

use std::fs::{File, Metadata};
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{FilePath, OpenError, Volume, repair};
use crate::render::Format;

/// An open file of the volume.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    /// Device and inode, to notice that the path leads elsewhere by now.
    id: (u64, u64),
    owner: bool,
    /// Half a record at the end: where it starts, and where it ends.
    torn: Option<(u64, u64)>,
    born: SystemTime,
    /// Whether it was made when it was opened.
    pub made: bool,
    /// Whether we may not read it: then its end could not be looked at.
    pub unread: bool,
    /// Whether it could not be rotated, which is told once.
    pub stuck: bool,
    /// Whether something was written since it was last put on disk.
    pub dirty: bool,
}

/// What came of an append.
#[derive(Debug)]
pub struct Appended {
    /// How many of the requests are in the file whole, from the first one on.
    pub whole: usize,
    /// How many bytes they are.
    pub bytes: usize,
    /// What stopped the rest.
    pub outcome: io::Result<()>,
}

impl LogFile {
    /// Opens a file of the volume, and repairs its end if it is ours alone: a
    /// record behind half of another would spoil both.
    pub fn open(volume: &Volume, path: &FilePath, format: Format) -> Result<Self, OpenError> {
        let (file, made) = volume.open_append(path)?;
        let status = file.metadata().map_err(OpenError::Io)?;
        let born = status.created().or_else(|_| status.modified()).unwrap_or_else(|_| SystemTime::now());
        let id = (status.dev(), status.ino());
        let mut opened = Self {
            file,
            id,
            owner: false,
            torn: None,
            born,
            made,
            unread: false,
            stuck: false,
            dirty: false,
        };
        opened.try_own();
        if opened.owner {
            match repair::mend(&opened.file, status.len(), format) {
                Ok(None) => {}
                Ok(Some(what)) => {
                    log::warn!("repaired the end of a file path={} {what}", path.as_path().display())
                }
                Err(error) if error.raw_os_error() == Some(Errno::BADF.raw_os_error()) => {
                    opened.unread = true;
                }
                Err(error) => return Err(OpenError::Torn(error)),
            }
        }
        Ok(opened)
    }

    /// Takes the lock if nobody else has it.
    pub fn try_own(&mut self) {
        let lock = FlockOperation::NonBlockingLockExclusive;
        self.owner = self.owner || rustix::fs::flock(&self.file, lock).is_ok();
    }

    /// Whether we may cut back, repair and rotate.
    pub fn is_owned(&self) -> bool {
        self.owner
    }

    /// How long the file is, if `path` still leads to it: it may have been
    /// renamed or deleted under us.
    pub fn len_at(&self, path: &Path) -> Option<u64> {
        let status = std::fs::metadata(path).ok()?;
        (identity(&status) == self.id).then_some(status.len())
    }

    /// Whether it is deleted, as its owner does with rotated files: asked after a
    /// write, which may have come too late.
    pub fn is_deleted(&self, volume: &Volume, path: &FilePath) -> bool {
        let has_no_name = self.file.metadata().is_ok_and(|status| status.nlink() == 0);
        // Some file systems count no names at all.
        has_no_name && self.len_at(&volume.full_path(path)).is_none()
    }

    /// How long ago it was made.
    pub fn age(&self) -> Duration {
        self.born.elapsed().unwrap_or_default()
    }

    /// Appends requests that lie one behind the other in `bytes`, each up to
    /// one of `ends`. Of one that isn't written whole nothing stays.
    pub fn append(&mut self, bytes: &[u8], ends: &[usize]) -> Appended {
        if let Err(error) = self.cut_back() {
            return Appended { whole: 0, bytes: 0, outcome: Err(error) };
        }
        let (written, outcome) = self.write(bytes);
        self.dirty |= written > 0;
        if outcome.is_ok() {
            return Appended { whole: ends.len(), bytes: written, outcome };
        }
        let whole = ends.partition_point(|end| *end <= written);
        let kept = whole.checked_sub(1).map_or(0, |last| ends[last]);
        if written > kept
            && let Ok(end) = self.file.stream_position()
        {
            self.torn = Some((end.saturating_sub((written - kept) as u64), end));
            // Tried now, so that nobody reads half a record; tried again before
            // the next append, should it fail.
            let _ = self.cut_back();
        }
        Appended { whole, bytes: kept, outcome }
    }

    /// Writes until all is written or the system says no.
    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// Takes half a record off the end, if there is one. Where others have
    /// written behind it, or own the file, it is ended with a newline instead, so
    /// that it spoils no other record.
    pub fn cut_back(&mut self) -> io::Result<()> {
        let Some((start, end)) = self.torn else { return Ok(()) };
        self.try_own();
        let status = self.file.metadata()?;
        if self.owner && status.len() == end {
            self.file.set_len(start)?;
        } else if status.nlink() > 0 {
            self.file.write_all(b"\n")?;
        }
        self.torn = None;
        Ok(())
    }

    /// Puts what was written on disk.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.dirty = false;
        Ok(())
    }
}

fn identity(status: &Metadata) -> (u64, u64) {
    (status.dev(), status.ino())
}
