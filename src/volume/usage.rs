//! The limit on all that lies in the volume.
//!
//! What counts is what a file takes on its file system, small files and directories
//! too. What we write is added as it is allocated; what others write is found by
//! looking again.

use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, Dir, FileType, Stat};

use super::dir::{allocated, blocks, reopen};
use super::path::parts;
use super::rotated::{self, numbered};
use super::{FilePath, Volume};

/// How often to look at least, for other adapters write to the volume, too.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many times longer to wait for the next look than the last one took.
const REST: u32 = 20;
/// How many names are looked at, and how deep: deeper than any `file_path` leads.
const MAX_NAMES: usize = 1_000_000;
const MAX_DEPTH: usize = 640;
/// How many rotated files are kept in mind, the oldest ones.
const MAX_FOUND: usize = 4096;
/// What a file system allocates at least where it doesn't say.
const BLOCK: u64 = 4096;

/// What lies in the volume, as far as we know.
#[derive(Debug, Default)]
pub struct Usage {
    /// Bytes found by the last look, and allocated since.
    bytes: Option<u64>,
    /// What the file system allocates at least.
    block: u64,
    /// When to look again, though there seems to be room.
    look_at: Option<Instant>,
    /// Until when to believe that there is no room.
    full_until: Option<Instant>,
    /// Whether it was told that there is more than is looked at.
    told: bool,
}

/// What making room has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room; so many bytes were deleted for it.
    Made(u64),
    /// There is none, and nothing of ours is left to delete; so many were deleted.
    None(u64),
}

impl Usage {
    /// How many bytes may be allocated, at the most, to append `more` to a file.
    pub fn need(&self, path: &FilePath, more: u64, is_open: bool) -> u64 {
        let block = self.block.max(BLOCK);
        // A directory grows by a name, and each above it may have to be made.
        let above = if is_open { 0 } else { 1 + parts(path.split().0).count() as u64 };
        (more.div_ceil(block) + above) * block
    }

    /// So many bytes were allocated.
    pub fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.map(|known| known + bytes);
    }

    /// Makes room for `need` bytes beneath `limit`, by deleting our own oldest
    /// rotated files. Looks at the volume when what is known of it says that it is
    /// full, and every second.
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
            self.tell(&found);
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

    fn tell(&mut self, found: &Found) {
        if found.names > MAX_NAMES && !std::mem::replace(&mut self.told, true) {
            log::warn!(
                "--max-volume-bytes: more than {MAX_NAMES} files in the volume, the others don't count"
            );
        }
    }
}

/// A rotated file that may be ours.
#[derive(Debug)]
struct Rotated {
    /// When it was last written, in nanoseconds.
    written: i128,
    dir: Rc<[u8]>,
    name: Vec<u8>,
    number: u32,
    bytes: u64,
}

/// Everything a look has found: bytes of all files and directories, and the
/// rotated files.
#[derive(Debug, Default)]
struct Found {
    bytes: u64,
    names: usize,
    rotated: Vec<Rotated>,
    /// Whether some rotated files were left out.
    left_out: bool,
}

impl Found {
    /// Looks at the volume. What can't be read counts as nothing.
    fn look(volume: &Volume) -> Self {
        let mut found = Self::default();
        // The directory that is looked into, and for each above it where to go on.
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

    /// Looks into a directory, from its start or from where an earlier look into it
    /// ended, up to the next directory in it, and returns that one. One directory is
    /// open at a time, and what is kept of the others is bounded by their depth.
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

    /// Sorts rotated files, the oldest first. Of one file the number decides, for
    /// the clock may have been set: none counts as younger than one with a higher
    /// number.
    fn sort(&mut self) {
        let of_file = |one: &Rotated, other: &Rotated| (&one.dir, &one.name).cmp(&(&other.dir, &other.name));
        self.rotated.sort_by(|one, other| of_file(one, other).then(other.number.cmp(&one.number)));
        for at in 1..self.rotated.len() {
            let [newer, older] = &mut self.rotated[at - 1..=at] else { continue };
            if of_file(newer, older).is_eq() {
                older.written = older.written.min(newer.written);
            }
        }
        self.rotated.sort_by(|one, other| {
            let by_age = one.written.cmp(&other.written);
            by_age.then_with(|| of_file(one, other)).then(one.number.cmp(&other.number))
        });
    }

    /// Whether no rotated file was left out.
    fn is_all(&self) -> bool {
        !self.left_out
    }

    /// Deletes rotated files of ours until there is room; says whether there is.
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
