//! The limit on the bytes in the volume.
//!
//! What counts is the space allocated on the file system, of small files and
//! directories, too. Our own allocations are added as they happen; those of others
//! are found by the next scan.

use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, Dir, FileType, Stat};

use super::dir::{allocated, blocks, reopen};
use super::path::parts;
use super::rotated::{self, numbered};
use super::{FilePath, Volume};

/// The interval of scans, longer if a scan is slow: other adapters write to the
/// volume, too.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The shortest interval, as a multiple of the last scan's duration.
const REST: u32 = 20;
/// Limits of a scan: names, and depth (deeper than any `file_path`).
const MAX_NAMES: usize = 1_000_000;
const MAX_DEPTH: usize = 640;
/// Limit on the rotated files remembered, oldest first.
const MAX_FOUND: usize = 4096;
/// The allocation unit to assume if the file system reports none.
const BLOCK: u64 = 4096;

/// The known usage of the volume.
#[derive(Debug, Default)]
pub struct Usage {
    /// Bytes found by the last scan, plus those allocated since.
    bytes: Option<u64>,
    /// The allocation unit of the file system, in bytes.
    block: u64,
    /// When the next scan is due, although there seems to be room.
    look_at: Option<Instant>,
    /// Until when to treat the volume as full without a scan.
    full_until: Option<Instant>,
    /// Whether the limit on names was logged.
    warned: bool,
}

/// The result of making room.
#[derive(Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room; this many bytes were deleted.
    Made(u64),
    /// There is no room, and no rotated file is left to delete; this many bytes were
    /// deleted.
    None(u64),
}

impl Usage {
    /// An upper bound of the bytes allocated to append `more` to a file.
    pub fn need(&self, path: &FilePath, more: u64, is_open: bool) -> u64 {
        let block = self.block.max(BLOCK);
        // A new name may grow its directory, and each directory above may have to be
        // created.
        let above = if is_open { 0 } else { 1 + parts(path.split().0).count() as u64 };
        (more.div_ceil(block) + above) * block
    }

    /// Adds newly allocated bytes.
    pub fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.map(|known| known + bytes);
    }

    /// Makes room for `need` bytes within `limit` by deleting our oldest rotated
    /// files. Scans the volume every second, and when the known usage leaves no room.
    pub fn make_room(&mut self, volume: &Volume, limit: u64, need: u64) -> Room {
        let started = Instant::now();
        let is_past = |at: Option<Instant>| at.is_none_or(|at| at <= started);
        if self.bytes.is_some_and(|bytes| bytes + need <= limit) {
            if !is_past(self.look_at) {
                return Room::Made(0);
            }
        } else if !is_past(self.full_until) {
            return Room::None(0);
        }
        let mut deleted = 0;
        let is_made = loop {
            let mut found = Found::look(volume);
            self.warn_once(&found);
            let (is_made, is_all) = (found.shrink(volume, limit, need, &mut deleted), found.is_all());
            self.bytes = Some(found.bytes);
            if is_made || is_all {
                break is_made;
            }
        };
        let block = volume.root().and_then(rustix::fs::fstatvfs).map_or(0, |status| status.f_frsize);
        self.block = block.min(1 << 20);
        let rest = started.elapsed() * REST;
        self.look_at = Some(started + rest.max(LOOK_EVERY));
        self.full_until = (!is_made).then_some(started + rest);
        if is_made { Room::Made(deleted) } else { Room::None(deleted) }
    }

    fn warn_once(&mut self, found: &Found) {
        if found.names > MAX_NAMES && !std::mem::replace(&mut self.warned, true) {
            log::warn!(
                "--max-volume-bytes: more than {MAX_NAMES} files in the volume, the rest are not counted"
            );
        }
    }
}

/// A rotated file.
#[derive(Debug)]
struct Rotated {
    /// Its last modification, in nanoseconds.
    written: i128,
    dir: Rc<[u8]>,
    name: Vec<u8>,
    number: u32,
    bytes: u64,
}

/// The result of a scan: bytes of all files and directories, and the rotated files.
#[derive(Debug, Default)]
struct Found {
    bytes: u64,
    names: usize,
    rotated: Vec<Rotated>,
    /// Whether some rotated files were left out.
    left_out: bool,
}

impl Found {
    /// Scans the volume. Unreadable files and directories count as empty.
    fn look(volume: &Volume) -> Self {
        let mut found = Self::default();
        // The current directory, and the position to resume at in each one above it.
        let (mut path, mut above, mut from) = (Vec::new(), Vec::new(), None);
        loop {
            match found.look_in(volume, &path, from.take()) {
                Some((name, offset)) if above.len() < MAX_DEPTH => {
                    above.push((path.len(), offset));
                    path.push(b'/');
                    path.extend(name);
                }
                Some((_, offset)) => from = Some(offset),
                None => {
                    let Some((len, offset)) = above.pop() else { break };
                    path.truncate(len);
                    from = Some(offset);
                }
            }
        }
        found.sort();
        found
    }

    /// Scans a directory from `from` or from its start to its next subdirectory,
    /// which it returns with the position to resume at. One directory is open at a
    /// time, and memory is bounded by the depth.
    fn look_in(&mut self, volume: &Volume, path: &[u8], from: Option<i64>) -> Option<(Vec<u8>, i64)> {
        let dir = volume.walk(path).ok()?;
        let mut entries = Dir::new(reopen(dir.as_fd()).ok()?).ok()?;
        match from {
            Some(offset) => entries.seek(offset).ok()?,
            None => self.bytes += allocated(&dir),
        }
        let shared: Rc<[u8]> = path.into();
        while self.names <= MAX_NAMES {
            let entry = entries.read()?.ok()?;
            let name = entry.file_name().to_bytes();
            self.names += 1;
            let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW);
            let (Ok(stat), false) = (stat, matches!(name, b"." | b"..")) else { continue };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => return Some((name.to_vec(), entry.offset())),
                FileType::RegularFile => self.note(&shared, name, &stat),
                _ => {}
            }
        }
        None
    }

    fn note(&mut self, dir: &Rc<[u8]>, name: &[u8], stat: &Stat) {
        let bytes = blocks(stat);
        self.bytes += bytes;
        let Some((name, number)) = rotated::split(name) else { return };
        let written = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        self.rotated.push(Rotated { written, dir: Rc::clone(dir), name: name.to_vec(), number, bytes });
        if self.rotated.len() >= 2 * MAX_FOUND {
            self.sort();
            self.rotated.truncate(MAX_FOUND);
            self.left_out = true;
        }
    }

    /// Sorts rotated files, oldest first. Within one file's rotated files the number
    /// decides, since the clock may have been set: none counts as newer than one with
    /// a higher number.
    fn sort(&mut self) {
        let of_file = |one: &Rotated, other: &Rotated| (&one.dir, &one.name).cmp(&(&other.dir, &other.name));
        self.rotated.sort_unstable_by(|one, other| of_file(one, other).then(other.number.cmp(&one.number)));
        for at in 1..self.rotated.len() {
            let [newer, older] = &mut self.rotated[at - 1..=at] else { continue };
            if of_file(newer, older).is_eq() {
                older.written = older.written.min(newer.written);
            }
        }
        self.rotated.sort_unstable_by(|one, other| {
            let by_age = one.written.cmp(&other.written);
            by_age.then_with(|| of_file(one, other)).then(one.number.cmp(&other.number))
        });
    }

    /// Whether no rotated file was left out.
    fn is_all(&self) -> bool {
        !self.left_out
    }

    /// Deletes our rotated files until there is room; returns whether there is.
    fn shrink(&mut self, volume: &Volume, limit: u64, need: u64, deleted: &mut u64) -> bool {
        let mut oldest = self.rotated.iter();
        while self.bytes + need > limit {
            let Some(file) = oldest.next() else { return false };
            let path = [&file.dir, &b"/"[..], &file.name].concat();
            let known = volume.known(path.strip_prefix(b"/").unwrap_or(&path));
            let shown = FilePath([&file.dir, &b"/"[..], &numbered(&file.name, file.number)].concat());
            let name = numbered(&file.name, file.number);
            let dir = volume.walk(&file.dir);
            match dir.and_then(|dir| rotated::delete(dir.as_fd(), &name, known)) {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    *deleted += bytes;
                    self.bytes = self.bytes.saturating_sub(file.bytes);
                    log::info!("deleted to make room path={shown} bytes={bytes}");
                }
                Err(error) => log::warn!("cannot delete path={shown} error={error}"),
            }
        }
        true
    }
}
