//! One file. Each request's records are appended whole or not at all.
//!
//! The process that holds the lock on a file is its owner: only the owner cuts,
//! repairs and rotates. Other processes append whole records with `O_APPEND`, and
//! only after the end of a record.
//!
//! A second lock keeps the owner from cutting off a write in progress.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::append_lock::{AppendLock, BETWEEN_LOOKS, LOOKS};
use super::dir::{allocated, blocks, identity};
use super::repair::{self, Repair};
use super::{FilePath, OpenError, Volume, created};

/// The owner of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// We hold the lock.
    Us,
    /// Another process holds it.
    Other,
    /// The volume has no locks; we assume that we are the only writer.
    Unknown,
}

/// An open file of the volume.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    path: FilePath,
    /// Device and inode, to detect that the path leads to a different file.
    id: (u64, u64),
    owner: Owner,
    /// The range of our partial record at the end, if any.
    partial: Option<Range<u64>>,
    /// The length at which the file is known to end with a whole record.
    whole_at: Option<u64>,
    /// Bytes allocated at the last check.
    allocated: u64,
    /// When the file was created, as far as known.
    created: SystemTime,
    /// Whether opening created it.
    pub made: bool,
    /// Bytes by which opening has grown directories.
    pub dirs_grown: u64,
    /// Whether it is not readable; then its end cannot be checked.
    pub unread: bool,
    /// Whether rotation has failed; logged once per file.
    pub stuck: bool,
    /// Whether it has unsynced writes.
    pub dirty: bool,
}

/// The result of an append.
#[derive(Debug)]
pub struct Appended {
    /// How many requests were written whole, counted from the first.
    pub whole: usize,
    /// The number of their bytes.
    pub bytes: usize,
    /// The error that stopped the rest.
    pub outcome: io::Result<()>,
}

impl LogFile {
    /// Opens a file of the volume; creates it if missing. [`LogFile::ready`] must be
    /// called before each append.
    pub fn open(volume: &Volume, path: &FilePath) -> Result<Self, OpenError> {
        let opened = volume.open_append(path)?;
        let stat = rustix::fs::fstat(&opened.file)?;
        let created =
            if opened.made { SystemTime::now() } else { created::created(volume, path, &opened.file) };
        Ok(Self {
            file: opened.file,
            path: path.clone(),
            id: identity(&stat),
            owner: Owner::Other,
            partial: None,
            whole_at: None,
            allocated: if opened.made { 0 } else { blocks(&stat) },
            created,
            made: opened.made,
            dirs_grown: opened.grown,
            unread: false,
            stuck: false,
            dirty: false,
        })
    }

    /// Prepares an append: takes the lock if it is free, cuts off our own partial
    /// record, and checks that the file ends with a whole record. The owner repairs
    /// it; others fail with [`OpenError::Busy`] until the owner has.
    pub fn ready(&mut self) -> Result<(), OpenError> {
        self.cut_back().map_err(OpenError::Partial)?;
        self.try_own();
        let len = self.len().map_err(OpenError::Io)?;
        if len == 0 || self.whole_at == Some(len) || self.unread {
            self.whole_at = Some(len);
            return Ok(());
        }
        match self.settle() {
            // Writable but not readable.
            Err(OpenError::Partial(error)) if error.raw_os_error() == Some(Errno::BADF.raw_os_error()) => {
                self.unread = true;
                Ok(())
            }
            other => other,
        }
    }

    /// Waits until the file ends with a whole record, and repairs it if we own it.
    fn settle(&mut self) -> Result<(), OpenError> {
        for look in 0..LOOKS {
            if look > 0 {
                std::thread::sleep(BETWEEN_LOOKS);
            }
            let len = self.len().map_err(OpenError::Io)?;
            let repair = repair::look(&self.file, len).map_err(OpenError::Partial)?;
            let Some(repair) = repair else {
                self.whole_at = Some(len);
                return Ok(());
            };
            if self.is_owned() && self.repair(len, repair).map_err(OpenError::Partial)? {
                return Ok(());
            }
        }
        Err(OpenError::Busy)
    }

    /// Repairs the end of a file of `len` bytes. Returns `false` while another
    /// process is appending.
    fn repair(&mut self, len: u64, repair: Repair) -> io::Result<bool> {
        let (kept, newline) = {
            let alone = AppendLock::alone(&self.file);
            if alone.is_none() || self.len()? != len {
                return Ok(false);
            }
            repair_end(&self.file, len, repair)?
        };
        self.dirty = true;
        self.whole_at = Some(kept + u64::from(newline));
        let path = &self.path;
        log::warn!("repaired the end of a file path={path} cut_bytes={} newline={newline}", len - kept);
        Ok(true)
    }

    /// Takes the lock if it is free.
    pub fn try_own(&mut self) {
        if self.owner != Owner::Other {
            return;
        }
        self.owner = match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Owner::Us,
            Err(Errno::WOULDBLOCK | Errno::INTR) => Owner::Other,
            Err(errno) => {
                warn_no_locks(&self.path, errno);
                Owner::Unknown
            }
        };
    }

    /// Whether we may cut, repair and rotate.
    pub fn is_owned(&self) -> bool {
        self.owner != Owner::Other
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// The file's length in bytes, or `None` if its path leads elsewhere: it may have
    /// been renamed or deleted.
    pub fn len_at(&self, volume: &Volume) -> Option<u64> {
        let stat = volume.stat(&self.path).ok()?;
        (identity(&stat) == self.id).then(|| stat.st_size.unsigned_abs())
    }

    /// Whether it was deleted, as its owner does with rotated files. Checked after
    /// each write.
    pub fn is_deleted(&self, volume: &Volume) -> bool {
        let has_no_name = rustix::fs::fstat(&self.file).is_ok_and(|stat| stat.st_nlink == 0);
        // Some file systems report no link counts.
        has_no_name && self.len_at(volume).is_none()
    }

    /// Bytes newly allocated to it since the last call.
    pub fn grown(&mut self) -> u64 {
        let now = allocated(&self.file);
        now.saturating_sub(std::mem::replace(&mut self.allocated, now))
    }

    /// Time since it was created.
    pub fn age(&self) -> Duration {
        self.created.elapsed().unwrap_or_default()
    }

    /// Appends the requests in `bytes`, each of which ends at one of `ends`. A
    /// request that was not written whole is removed.
    pub fn append(&mut self, bytes: &[u8], ends: &[usize]) -> Appended {
        if let Err(error) = self.cut_back() {
            return Appended { whole: 0, bytes: 0, outcome: Err(error) };
        }
        let (written, behind, outcome) = {
            let _appending = (self.owner != Owner::Us).then(|| AppendLock::shared(&self.file));
            write(&self.file, bytes)
        };
        self.dirty |= written > 0;
        if outcome.is_ok() {
            // If others append as well, the length will differ.
            self.whole_at = self.whole_at.map(|len| len + written as u64);
            return Appended { whole: ends.len(), bytes: written, outcome };
        }
        let whole = ends.partition_point(|end| *end <= written);
        let kept = whole.checked_sub(1).map_or(0, |last| ends[last]);
        self.whole_at = None;
        let own = || {
            let end = (&self.file).stream_position().ok().filter(|_| written > kept)?;
            Some(end.saturating_sub((written - kept) as u64)..end)
        };
        if let Some(partial) = behind.or_else(own) {
            self.partial = Some(partial);
            // Cut back at once, so that no reader sees a partial record; on failure
            // retried before the next append.
            let _ = self.cut_back();
        }
        Appended { whole, bytes: kept, outcome }
    }

    /// Cuts our partial record off the end, if there is one. If others have written
    /// after it or own the file, or it cannot be cut, ends it with a newline instead,
    /// so that the next record starts on its own line.
    pub fn cut_back(&mut self) -> io::Result<()> {
        let Some(partial) = self.partial.clone() else { return Ok(()) };
        self.try_own();
        let is_cut = self.is_owned() && {
            let alone = AppendLock::alone(&self.file);
            alone.is_some() && self.len()? == partial.end && cut(&self.file, partial.start)?
        };
        if is_cut {
            self.whole_at = Some(partial.start);
        } else if rustix::fs::fstat(&self.file)?.st_nlink > 0 {
            (&self.file).write_all(b"\n")?;
            self.whole_at = Some(self.file.stream_position()?);
        }
        self.partial = None;
        Ok(())
    }

    /// Syncs written data.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.dirty = false;
        Ok(())
    }
}

/// Writes until everything is written or the system refuses. Returns the number of
/// contiguous bytes written, and the range of the rest if another process wrote in
/// between: that range must be cut off.
fn write(mut file: &File, bytes: &[u8]) -> (usize, Option<Range<u64>>, io::Result<()>) {
    let (mut written, mut end) = (0, None);
    while written < bytes.len() {
        let count = match file.write(&bytes[written..]) {
            Ok(0) => return (written, None, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return (written, None, Err(error)),
        };
        if count < bytes.len() {
            // A short write: another process may append before the rest.
            let at = match file.stream_position() {
                Ok(at) => at,
                Err(error) => return (written, None, Err(error)),
            };
            let start = at.saturating_sub(count as u64);
            if end.replace(at).is_some_and(|end| end != start) {
                let error = io::Error::other("another process wrote into the middle of a record");
                return (written, Some(start..at), Err(error));
            }
        }
        written += count;
    }
    (written, None, Ok(()))
}

/// Truncates a file to `len` bytes; returns `false` for an append-only file.
fn cut(file: &File, len: u64) -> io::Result<bool> {
    match file.set_len(len) {
        Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Repairs the end of a file of `len` bytes. Returns the number of bytes kept, and
/// whether a newline was added. A file that cannot be cut only gets the newline,
/// unless NUL bytes would remain, which make it unreadable.
fn repair_end(mut file: &File, len: u64, repair: Repair) -> io::Result<(u64, bool)> {
    let (mut kept, mut newline) = (repair.keep, repair.newline);
    if kept < len && !cut(file, kept)? {
        if repair.nuls {
            let text = "it is append-only and ends in NUL bytes; run `chattr -a` on it until it is repaired";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        (kept, newline) = (len, true);
    }
    if newline {
        file.write_all(b"\n")?;
    }
    Ok((kept, newline))
}

/// Warns once that the volume has no file locks.
fn warn_no_locks(path: &FilePath, errno: Errno) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        log::warn!(
            "the volume has no file locks: this process acts as the only writer of its files, give every \
             other process its own path={path} error={errno}"
        );
    }
}
