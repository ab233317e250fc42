//! One file that records are appended to, whole or not at all.
//!
//! Whoever holds the lock on a file is its owner: only the owner cuts, repairs and
//! rotates. Anyone else appends whole records with `O_APPEND`, and only behind the
//! end of a record.
//!
//! A second lock, shared by those who append without owning the file and held only
//! meanwhile, keeps the owner from cutting off what is just being written.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FlockOperation, StatxFlags};
use rustix::io::Errno;

use super::dir::{allocated, blocks, identity};
use super::repair::{self, Repair};
use super::{FilePath, OpenError, Volume, rotated};

/// How often, and how long apart, to look at an end that another process may be
/// writing just now.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// Who owns a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// We hold the lock.
    Us,
    /// Another process holds it.
    Other,
    /// There are no locks. Nobody can tell, so we take the file as ours alone.
    Unknown,
}

/// An open file of the volume.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    path: FilePath,
    /// Device and inode, to notice that the path leads elsewhere by now.
    id: (u64, u64),
    owner: Owner,
    /// A partial record of ours at the end, and where it lies.
    partial: Option<Range<u64>>,
    /// The length at which the end is known to be a record's.
    whole_at: Option<u64>,
    /// Bytes it took on the file system when last asked.
    allocated: u64,
    /// When it was made, as far as can be known.
    born: SystemTime,
    /// Whether it was made when it was opened.
    pub made: bool,
    /// Bytes that directories have grown by to open it.
    pub dirs_grown: u64,
    /// Whether we may not read it: then its end can't be looked at.
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
    /// Opens a file of the volume, and makes it where it is missing. Before each
    /// append, [`LogFile::ready`] must be called.
    pub fn open(volume: &Volume, path: &FilePath) -> Result<Self, OpenError> {
        let opened = volume.open_append(path)?;
        let stat = rustix::fs::fstat(&opened.file)?;
        let born = if opened.made { SystemTime::now() } else { birth(volume, path, &opened.file) };
        Ok(Self {
            file: opened.file,
            path: path.clone(),
            id: identity(&stat),
            owner: Owner::Other,
            partial: None,
            whole_at: None,
            allocated: if opened.made { 0 } else { blocks(&stat) },
            born,
            made: opened.made,
            dirs_grown: opened.grown,
            unread: false,
            stuck: false,
            dirty: false,
        })
    }

    /// Makes the file ready for an append: takes the lock where it is free, cuts off
    /// a partial record of our own, and sees that the end is a record's. An owner
    /// repairs it; anyone else is refused for as long as it is not.
    pub fn ready(&mut self) -> Result<(), OpenError> {
        self.cut_back().map_err(OpenError::Partial)?;
        self.try_own();
        let len = self.len().map_err(OpenError::Io)?;
        if len == 0 || self.whole_at == Some(len) || self.unread {
            self.whole_at = Some(len);
            return Ok(());
        }
        match self.settle() {
            // Ours to write but not to read.
            Err(OpenError::Partial(error)) if error.raw_os_error() == Some(Errno::BADF.raw_os_error()) => {
                self.unread = true;
                Ok(())
            }
            other => other,
        }
    }

    /// Looks at the end until it is a record's, and repairs it if that is for us.
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

    /// Repairs an end that was looked at when the file had `len` bytes. Says whether
    /// it did: not while somebody appends.
    fn repair(&mut self, len: u64, repair: Repair) -> io::Result<bool> {
        let (kept, newline) = {
            let alone = self.alone()?;
            if alone.is_none() || self.len()? != len {
                return Ok(false);
            }
            mend(&self.file, len, repair)?
        };
        self.dirty = true;
        self.whole_at = Some(kept + u64::from(newline));
        let path = &self.path;
        log::warn!("repaired the end of a file path={path} cut_bytes={} newline={newline}", len - kept);
        Ok(true)
    }

    /// Takes the lock if nobody else has it.
    pub fn try_own(&mut self) {
        if self.owner != Owner::Other {
            return;
        }
        self.owner = match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Owner::Us,
            Err(Errno::WOULDBLOCK | Errno::INTR) => Owner::Other,
            Err(errno) => {
                tell_of_no_locks(&self.path, errno);
                Owner::Unknown
            }
        };
    }

    /// Whether we may cut, repair and rotate.
    pub fn is_owned(&self) -> bool {
        self.owner != Owner::Other
    }

    /// Keeps others from appending until this is dropped; `None` while one does.
    /// Where there are no such locks, nobody is kept from anything.
    fn alone(&self) -> io::Result<Option<Appending<'_>>> {
        match rustix::fs::fcntl_lock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::ACCESS | Errno::AGAIN) => Ok(None),
            _ => Ok(Some(Appending(Some(&self.file)))),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// How long the file is, in bytes, if its path still leads to it: it may have
    /// been renamed or deleted under us.
    pub fn len_at(&self, volume: &Volume) -> Option<u64> {
        let stat = volume.stat(&self.path).ok()?;
        (identity(&stat) == self.id).then(|| stat.st_size.unsigned_abs())
    }

    /// Whether it is deleted, as its owner does with rotated files: asked after a
    /// write, which may have come too late.
    pub fn is_deleted(&self, volume: &Volume) -> bool {
        let has_no_name = rustix::fs::fstat(&self.file).is_ok_and(|stat| stat.st_nlink == 0);
        // Some file systems count no names at all.
        has_no_name && self.len_at(volume).is_none()
    }

    /// How many bytes more it takes on its file system than when last asked.
    pub fn grown(&mut self) -> u64 {
        let now = allocated(&self.file);
        now.saturating_sub(std::mem::replace(&mut self.allocated, now))
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
        let (written, behind, outcome) = {
            let _appending = (self.owner != Owner::Us).then(|| Appending::shared(&self.file));
            write(&self.file, bytes)
        };
        self.dirty |= written > 0;
        if outcome.is_ok() {
            // Unless others append as well: then the length will tell.
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
            // Tried now, so that nobody reads a partial record; tried again before
            // the next append, should it fail.
            let _ = self.cut_back();
        }
        Appended { whole, bytes: kept, outcome }
    }

    /// Takes a partial record of ours off the end, if there is one. Where others have
    /// written behind it, own the file, or it may not be cut, it is ended with a
    /// newline instead, so that the next record begins on a line of its own.
    pub fn cut_back(&mut self) -> io::Result<()> {
        let Some(partial) = self.partial.clone() else { return Ok(()) };
        self.try_own();
        let is_cut = self.is_owned() && {
            let alone = self.alone()?;
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

    /// Puts what was written on disk.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.dirty = false;
        Ok(())
    }
}

/// Writes until all is written or the system says no. Returns how many bytes were
/// written in one piece, and where the rest lies if another process has written
/// between the two: that is to be cut off.
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
            // It came back short, and another process may append before the rest.
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

/// Cuts a file to `len` bytes; says whether it did. An append-only file can't be cut.
fn cut(file: &File, len: u64) -> io::Result<bool> {
    match file.set_len(len) {
        Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Does to a file of `len` bytes what its end needs. Returns how many bytes are kept
/// and whether a newline was added: that alone where the file can't be cut, unless
/// NUL bytes would stay, which make it unreadable.
fn mend(mut file: &File, len: u64, repair: Repair) -> io::Result<(u64, bool)> {
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

/// A lock held while something is appended or cut off.
#[derive(Debug)]
struct Appending<'a>(Option<&'a File>);

impl<'a> Appending<'a> {
    /// The lock of those who append without owning the file. Where it can't be had
    /// at once, the owner is cutting, or there are no such locks: `O_APPEND` has to
    /// do, as it does without them.
    fn shared(file: &'a File) -> Self {
        for _ in 0..LOOKS {
            match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => return Self(Some(file)),
                Err(Errno::ACCESS | Errno::AGAIN) => std::thread::sleep(BETWEEN_LOOKS),
                Err(_) => break,
            }
        }
        Self(None)
    }
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.0 {
            let _ = rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingUnlock);
        }
    }
}

/// Says once that files can't be locked.
fn tell_of_no_locks(path: &FilePath, errno: Errno) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        log::warn!(
            "the volume has no file locks: each file is taken as written by this process alone, give every \
             other its own path={path} error={errno}"
        );
    }
}

/// When a file was made: as the file system has it, or where it has no such time,
/// as the newest rotated file was renamed, or no later than anything that was done
/// to the file.
fn birth(volume: &Volume, path: &FilePath, file: &File) -> SystemTime {
    created(file)
        .or_else(|| rotated_at(volume, path))
        .or_else(|| first_touched(file))
        .unwrap_or_else(SystemTime::now)
}

fn created(file: &File) -> Option<SystemTime> {
    // std has this time only with glibc.
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    let known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    known.then(|| time(stat.stx_btime.tv_sec, u64::from(stat.stx_btime.tv_nsec)))
}

fn rotated_at(volume: &Volume, path: &FilePath) -> Option<SystemTime> {
    let (above, name) = path.split();
    let dir = volume.walk(above).ok()?;
    let last = *rotated::numbers_of(dir.as_fd(), name).ok()?.last()?;
    let newest = rotated::numbered(name, last);
    let stat = rustix::fs::statat(&dir, newest, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(time(stat.st_ctime, stat.st_ctime_nsec))
}

fn first_touched(file: &File) -> Option<SystemTime> {
    let status = file.metadata().ok()?;
    [status.modified(), status.accessed()].into_iter().flatten().min()
}

fn time(seconds: i64, nanos: u64) -> SystemTime {
    let since = Duration::from_secs(seconds.unsigned_abs()) + Duration::from_nanos(nanos);
    SystemTime::UNIX_EPOCH.checked_add(since).filter(|_| seconds >= 0).unwrap_or(SystemTime::UNIX_EPOCH)
}
