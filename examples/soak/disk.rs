//! The volume's file system, what can be done to it, and a watcher that keeps a
//! second name of every file, so that nothing is gone before it is counted.

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

/// Room for what retention leaves, several times over.
const SIZE: &str = "64M";
const BALLAST: &str = "ballast";

/// What the file system can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// ext4 in a file: everything.
    Ext4,
    /// In memory: everything but to be frozen.
    Tmpfs,
    /// A directory of somebody else's.
    Plain,
}

/// The file system. All names that a record may have are in it, so that files
/// can be renamed and linked: the volume, what was taken away from it, and the
/// watcher's.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) kind: Kind,
    root: PathBuf,
    taken: u32,
}

impl Disk {
    /// Makes the best that is allowed here in `scratch`, and says what is not.
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

    /// Fills it, but for `spare` bytes.
    pub(crate) fn fill(&self, spare: u64) -> Result<(), String> {
        let what = |error: io::Error| format!("cannot fill the volume: {error}");
        let status = rustix::fs::statvfs(&self.root).map_err(|error| what(error.into()))?;
        let bytes = (status.f_bavail * status.f_frsize).saturating_sub(spare).max(1);
        let file = File::create(self.root.join(BALLAST)).map_err(what)?;
        let all = rustix::fs::FallocateFlags::empty();
        // The adapter may take some of it in the meantime: full is full.
        match rustix::fs::fallocate(&file, all, 0, bytes) {
            Ok(()) | Err(rustix::io::Errno::NOSPC) => Ok(()),
            Err(error) => Err(what(error.into())),
        }
    }

    /// Frees what [`fill`](Self::fill) took.
    pub(crate) fn free(&self) -> Result<(), String> {
        fs::remove_file(self.root.join(BALLAST)).map_err(|error| format!("cannot free the volume: {error}"))
    }

    /// Makes it read-only, or writable again. Nobody may have a file of it open
    /// for writing; the watcher has, for an instant.
    pub(crate) fn remount(&self, how: &str) -> Result<(), String> {
        let options = format!("remount,{how}");
        let try_once = || run(&[&"mount", &"-o", &options, &self.root]);
        (0..20).try_fold(String::new(), |_, _| try_once().err().ok_or(())).map_or(Ok(()), Err)
    }

    /// Freezes it (`-f`) or thaws it (`-u`).
    pub(crate) fn freeze(&self, how: &str) -> Result<(), String> {
        run(&[&"fsfreeze", &how, &self.root])
    }

    /// Takes a file or directory of the volume away, or all of it. What isn't
    /// there can't be taken.
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

    /// Appends to a file of the volume, if it is there and there is room.
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

    /// Makes the volume's directory, after it was taken away.
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

/// Every regular file beneath a directory. What goes while we look is passed
/// over.
fn files(dir: &Path, each: &mut dyn FnMut(PathBuf)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), each),
            Ok(kind) if kind.is_file() => each(entry.path()),
            _ => {}
        }
    }
}

/// Links every file of the volume to a name of its own as soon as it is there.
/// The last name left is ours once retention has deleted the others: then the
/// file is counted, and goes.
#[derive(Debug)]
pub(crate) struct Watcher {
    volume: PathBuf,
    away: PathBuf,
    kept: PathBuf,
    /// By inode: the name we gave it, and whose file it is.
    known: HashMap<u64, (PathBuf, &'static Handler)>,
    given: u64,
    /// Bytes of the files that retention has deleted.
    deleted: u64,
}

impl Watcher {
    pub(crate) fn new(disk: &Disk) -> Self {
        let (volume, away, kept) = (disk.volume(), disk.away(), disk.kept());
        Self { volume, away, kept, known: HashMap::new(), given: 0, deleted: 0 }
    }

    /// Links what is new, and counts one file that is gone, if there is any:
    /// says whether there was. No more at once, so that nothing new goes unseen
    /// meanwhile.
    pub(crate) fn look(&mut self, shared: &Shared) -> bool {
        for (path, handler, _) in owned(&self.volume) {
            self.link(&path, handler);
        }
        // A file of which only our name is left was deleted by retention; nobody
        // else deletes any, and what it deletes it has closed.
        let last_name = |name: &Path| fs::metadata(name).is_ok_and(|status| status.nlink() == 1);
        let gone = self.known.iter().find(|(_, (name, _))| last_name(name));
        let Some((inode, (name, handler))) = gone.map(|(inode, known)| (*inode, known.clone())) else {
            return false;
        };
        let content = fs::read(&name);
        // Not on a read-only volume: then it is counted at a later look.
        let deleted = fs::remove_file(&name).is_ok();
        if deleted {
            self.deleted += content.as_ref().map_or(0, |bytes| bytes.len() as u64);
            count(&name, content, handler, Place::Deleted, false, shared);
            self.known.remove(&inode);
        }
        deleted
    }

    /// How many bytes retention has deleted so far.
    pub(crate) fn deleted_bytes(&self) -> u64 {
        self.deleted
    }

    fn link(&mut self, path: &Path, handler: &'static Handler) {
        if fs::metadata(path).is_ok_and(|status| self.known.contains_key(&status.ino())) {
            return;
        }
        self.given += 1;
        let name = self.kept.join(self.given.to_string());
        // On a volume in trouble this fails, and is tried at the next look. The
        // path may lead to another file of the handler by now, one we know.
        if fs::hard_link(path, &name).is_ok()
            && let Ok(status) = fs::metadata(&name)
        {
            match self.known.entry(status.ino()) {
                Entry::Occupied(_) => drop(fs::remove_file(&name)),
                Entry::Vacant(place) => drop(place.insert((name, handler))),
            }
        }
    }

    /// Counts what was taken away, and deletes it. Nobody may have it open.
    pub(crate) fn sweep(&mut self, shared: &Shared) {
        for (path, handler, inode) in owned(&self.away) {
            let content = fs::read(&path);
            let ours = self.known.remove(&inode).map_or(Ok(()), |(name, _)| fs::remove_file(name));
            if let Err(error) = ours.and_then(|()| fs::remove_file(&path)) {
                shared.violated(format!("the soak cannot delete {}: {error}", path.display()));
            }
            // Nobody could repair it any more, so it may be torn.
            count(&path, content, handler, Place::Found, true, shared);
        }
    }

    /// Counts what is in the volume, at the very end. Returns how many files.
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

/// Enters a file's content into the account.
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
