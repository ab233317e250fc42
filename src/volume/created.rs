//! When a file was created, for rotation by age.

use std::fs::File;
use std::time::{Duration, SystemTime};

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, StatxFlags};

use super::{FilePath, Volume, rotated};

/// When a file was created: its birth time; without one, when the newest rotated file
/// was renamed; else its earliest timestamp.
pub(super) fn created(volume: &Volume, path: &FilePath, file: &File) -> SystemTime {
    birth_time(file)
        .or_else(|| rotated_at(volume, path))
        .or_else(|| first_touched(file))
        .unwrap_or_else(SystemTime::now)
}

fn birth_time(file: &File) -> Option<SystemTime> {
    // std returns this time only with glibc.
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
