//! The volume's file system, its faults, and a watcher. The watcher links every file
//! to a second name, so that no file disappears before it is counted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::account::Place;
use crate::records::{self, Handler};
use crate::shared::Shared;

/// Several times what retention keeps.
const SIZE: &str = "64M";
const BALLAST: &str = "ballast";

/// The faults that a file system supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// ext4 in a file: all.
    Ext4,
    /// In memory: all but freezing.
    Tmpfs,
    /// A plain directory.
    Plain,
}

/// The file system. The volume, directories moved out of it and the watcher's links
/// are all on it, so that files can be renamed and linked.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) kind: Kind,
    root: PathBuf,
    taken: u32,
}

impl Disk {
    /// Creates the best permitted kind in `scratch`; adds unavailable faults to
    /// `missing`.
    pub(crate) fn make(scratch: &Path, missing: &mut Vec<String>) -> Result<Self, String> {
        let root = scratch.join("disk");
        fs::create_dir(&root).map_err(|error| format!("cannot make {}: {error}", root.display()))?;
        let image = scratch.join("image");
        let ext4 = || {
            run(&[&"truncate", &"-s", &SIZE, &image])?;
            run(&[&"mkfs.ext4", &"-q", &"-m", &"0", &image])?;
            run(&[&"mount", &"-o", &"loop,noatime", &image, &root])
        };
        let tmpfs = || run(&[&"mount", &"-t", &"tmpfs", &"-o", &format!("size={SIZE}"), &"soak", &root]);
        let kind = match ext4() {
            Ok(()) => Kind::Ext4,
            Err(reason) => {
                missing.push(format!("a volume that is frozen: {reason}"));
                match tmpfs() {
                    Ok(()) => Kind::Tmpfs,
                    Err(reason) => {
                        missing.push(format!("a volume that is full or read-only: {reason}"));
                        Kind::Plain
                    }
                }
            }
        };
        let disk = Self { kind, root, taken: 0 };
        for dir in [disk.volume(), disk.away(), disk.kept()] {
            fs::create_dir(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
        }
        Ok(disk)
    }

    pub(crate) fn volume(&self) -> PathBuf {
        self.root.join("volume")
    }

    pub(crate) fn away(&self) -> PathBuf {
        self.root.join("away")
    }

    pub(crate) fn kept(&self) -> PathBuf {
        self.root.join("kept")
    }

    /// Fills it, except for `spare` bytes.
    pub(crate) fn fill(&self, spare: u64) -> Result<(), String> {
        let what = |error: io::Error| format!("cannot fill the volume: {error}");
        let status = rustix::fs::statvfs(&self.root).map_err(|error| what(error.into()))?;
        let bytes = (status.f_bavail * status.f_frsize).saturating_sub(spare).max(1);
        let file = File::create(self.root.join(BALLAST)).map_err(what)?;
        let all = rustix::fs::FallocateFlags::empty();
        // The adapter may take some of it meanwhile: full is full.
        match rustix::fs::fallocate(&file, all, 0, bytes) {
            Ok(()) | Err(rustix::io::Errno::NOSPC) => Ok(()),
            Err(error) => Err(what(error.into())),
        }
    }

    /// Frees what [`fill`](Self::fill) took.
    pub(crate) fn free(&self) -> Result<(), String> {
        fs::remove_file(self.root.join(BALLAST)).map_err(|error| format!("cannot free the volume: {error}"))
    }

    /// Remounts it read-only or writable. No file may be open for writing; the
    /// watcher opens some for an instant.
    pub(crate) fn remount(&self, how: &str) -> Result<(), String> {
        let options = format!("remount,{how}");
        let try_once = || run(&[&"mount", &"-o", &options, &self.root]);
        (0..20).try_fold(String::new(), |_, _| try_once().err().ok_or(())).map_or(Ok(()), Err)
    }

    /// Freezes it (`-f`) or thaws it (`-u`).
    pub(crate) fn freeze(&self, how: &str) -> Result<(), String> {
        run(&[&"fsfreeze", &how, &self.root])
    }

    /// Moves a file or directory, or the whole volume, away. Returns `false` if it is
    /// absent.
    pub(crate) fn take_away(&mut self, name: &str) -> Result<bool, String> {
        let place = self.away().join(self.taken.to_string());
        self.taken += 1;
        let from = if name.is_empty() { self.volume() } else { self.volume().join(name) };
        let last = if name.is_empty() { "volume" } else { name };
        let outcome = fs::create_dir(&place).and_then(|()| fs::rename(from, place.join(last)));
        match outcome {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::StorageFull) => {
                Ok(false)
            }
            Err(error) => Err(format!("cannot take {last} away: {error}")),
        }
    }

    /// Appends to a file of the volume; returns `false` if it is absent or there is
    /// no room.
    pub(crate) fn append(&self, file: &str, bytes: &[u8]) -> Result<bool, String> {
        let outcome = File::options().append(true).open(self.volume().join(file)).and_then(|mut file| {
            let before = file.metadata()?.len();
            file.write_all(bytes).or_else(|_| file.set_len(before))
        });
        match outcome {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(format!("cannot append to {file}: {error}")),
        }
    }

    /// Unmounts it, at the end.
    pub(crate) fn unmount(&self) {
        if self.kind != Kind::Plain {
            let _ = run(&[&"umount", &self.root]);
        }
    }

    /// Creates the volume's directory, after it was moved away.
    pub(crate) fn make_volume(&self) -> Result<(), String> {
        fs::create_dir(self.volume()).map_err(|error| format!("cannot make the volume again: {error}"))
    }
}

fn run(words: &[&dyn AsRef<OsStr>]) -> Result<(), String> {
    let shown: Vec<_> = words.iter().map(|word| word.as_ref().to_string_lossy()).collect();
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.map_err(|error| format!("{}: {error}", shown[0]))?;
    let reason = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{}: {}", shown.join(" "), reason.trim())) }
}

/// Calls `each` for every regular file beneath a directory. Skips files that
/// disappear meanwhile.
fn files(dir: &Path, each: &mut dyn FnMut(PathBuf)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), each),
            Ok(kind) if kind.is_file() => each(entry.path()),
            _ => {}
        }
    }
}

/// Links every file of the volume to a second name as soon as it appears. Once
/// retention has deleted the others, that name is the last one: the file is counted
/// and deleted.
#[derive(Debug)]
pub(crate) struct Watcher {
    volume: PathBuf,
    away: PathBuf,
    kept: PathBuf,
    /// By inode: the link's name, and the file's handler.
    known: HashMap<u64, (PathBuf, &'static Handler)>,
    given: u64,
    /// Bytes of files deleted by retention.
    deleted: u64,
}

impl Watcher {
    pub(crate) fn new(disk: &Disk) -> Self {
        let (volume, away, kept) = (disk.volume(), disk.away(), disk.kept());
        Self { volume, away, kept, known: HashMap::new(), given: 0, deleted: 0 }
    }

    /// Links new files, and counts at most one deleted file, so that new files are
    /// not missed meanwhile. Returns whether there was one.
    pub(crate) fn look(&mut self, shared: &Shared) -> bool {
        for (path, handler, _) in owned(&self.volume) {
            self.link(&path, handler);
        }
        // Retention deleted a file if only our link is left: nothing else deletes
        // files, and retention deletes only closed ones.
        let last_name = |name: &Path| fs::metadata(name).is_ok_and(|status| status.nlink() == 1);
        let gone = self.known.iter().find(|(_, (name, _))| last_name(name));
        let Some((inode, (name, handler))) = gone.map(|(inode, known)| (*inode, known.clone())) else {
            return false;
        };
        let content = fs::read(&name);
        // Fails on a read-only volume: then it is counted at a later look.
        let deleted = fs::remove_file(&name).is_ok();
        if deleted {
            self.deleted += content.as_ref().map_or(0, |bytes| bytes.len() as u64);
            count(&name, content, handler, Place::Deleted, false, shared);
            self.known.remove(&inode);
        }
        deleted
    }

    /// Bytes deleted by retention so far.
    pub(crate) fn deleted_bytes(&self) -> u64 {
        self.deleted
    }

    fn link(&mut self, path: &Path, handler: &'static Handler) {
        if fs::metadata(path).is_ok_and(|status| self.known.contains_key(&status.ino())) {
            return;
        }
        self.given += 1;
        let name = self.kept.join(self.given.to_string());
        // Fails on a faulty volume, and is retried at the next look. The path may by
        // now lead to a known file of the same handler.
        if fs::hard_link(path, &name).is_ok()
            && let Ok(status) = fs::metadata(&name)
        {
            match self.known.entry(status.ino()) {
                Entry::Occupied(_) => drop(fs::remove_file(&name)),
                Entry::Vacant(place) => drop(place.insert((name, handler))),
            }
        }
    }

    /// Counts and deletes the files that were moved away. None may be open.
    pub(crate) fn sweep(&mut self, shared: &Shared) {
        for (path, handler, inode) in owned(&self.away) {
            let content = fs::read(&path);
            let ours = self.known.remove(&inode).map_or(Ok(()), |(name, _)| fs::remove_file(name));
            if let Err(error) = ours.and_then(|()| fs::remove_file(&path)) {
                shared.violated(format!("the soak cannot delete {}: {error}", path.display()));
            }
            // No process can repair it any more, so it may end in a partial record.
            count(&path, content, handler, Place::Found, true, shared);
        }
    }

    /// Counts the files in the volume at the end. Returns their number.
    pub(crate) fn finish(&self, shared: &Shared) -> usize {
        let all = owned(&self.volume);
        for (path, handler, _) in &all {
            count(path, fs::read(path), handler, Place::Found, false, shared);
        }
        all.len()
    }
}

/// The files of handlers beneath a directory, with their inodes.
fn owned(dir: &Path) -> Vec<(PathBuf, &'static Handler, u64)> {
    let mut found = Vec::new();
    files(dir, &mut |path| {
        let handler = path.file_name().and_then(|name| Handler::of_file(name.to_str()?));
        if let (Some(handler), Ok(status)) = (handler, fs::metadata(&path)) {
            found.push((path, handler, status.ino()));
        }
    });
    found
}

/// Adds a file's content to the account.
fn count(
    path: &Path,
    content: io::Result<Vec<u8>>,
    handler: &'static Handler,
    place: Place,
    may_be_torn: bool,
    shared: &Shared,
) {
    let content = match content {
        Ok(bytes) => records::read(handler, &bytes),
        Err(error) => Err(format!("cannot be read: {error}")),
    };
    match content {
        Ok(content) if content.torn > 0 && !may_be_torn => {
            shared.violated(format!("{} ({}) ends in a torn record", path.display(), handler.name));
            shared.account().see(&content.instances, place);
        }
        Ok(content) => {
            shared.tally(if content.torn > 0 { "torn ends in files taken away" } else { "files read" });
            shared.account().see(&content.instances, place);
        }
        Err(what) => shared.violated(format!("{} ({}): {what}", path.display(), handler.name)),
    }
}
