//! The open files: opened, synced, rotated and closed as needed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use super::batch::{Batch, Destination};
use super::counters::Counters;
use super::failure;
use crate::refusal::{Reason, Refusal, Scope};
use crate::volume::log_file::{Appended, LogFile};
use crate::volume::retention::Retention;
use crate::volume::usage::{Room, Usage};
use crate::volume::{FilePath, Volume};

/// When acknowledged records are synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// By the system, and at exit.
    Never,
    /// At most this long after the acknowledgement.
    Interval(Duration),
    /// Before the acknowledgement.
    Always,
}

/// Limit on open files; beyond it the least recently used is closed.
const MAX_OPEN: usize = 32;
/// Attempts to write a batch whose file is deleted meanwhile.
const MAX_TRIES: usize = 5;
/// The size of a trial write.
const TRIAL_BYTES: u64 = 4096;

/// Why a batch was not written, or only in part.
#[derive(Debug)]
pub(super) struct NotWritten {
    /// The number of its requests that were written.
    pub(super) whole: usize,
    pub(super) failure: Refusal,
    /// Whether the file could not be opened, repaired or rotated.
    pub(super) is_unopened: bool,
}

impl From<Refusal> for NotWritten {
    fn from(failure: Refusal) -> Self {
        Self { whole: 0, failure, is_unopened: false }
    }
}

#[derive(Debug)]
struct OpenFile {
    path: FilePath,
    file: LogFile,
    /// Whether its last write failed while others succeeded.
    is_failing: bool,
}

/// The open files, most recently used last.
#[derive(Debug)]
pub(super) struct Files {
    volume: Volume,
    fsync: Fsync,
    retention: Retention,
    counters: Arc<Counters>,
    open: VecDeque<OpenFile>,
    /// Unreadable files, logged once each.
    unread: Vec<FilePath>,
    usage: Usage,
    /// Files with acknowledged records that could not be synced.
    lost: Vec<Refusal>,
    /// The volume, once a file was closed without a sync.
    unsynced: Option<File>,
}

impl Files {
    pub(super) fn new(volume: Volume, fsync: Fsync, retention: Retention, counters: Arc<Counters>) -> Self {
        let (open, unread, usage) = (VecDeque::new(), Vec::new(), Usage::default());
        Self { volume, fsync, retention, counters, open, unread, usage, lost: Vec::new(), unsynced: None }
    }

    /// The error of opening an existing file, if any.
    pub(super) fn open_error(&self, to: &Destination) -> Option<Refusal> {
        let there = std::fs::symlink_metadata(self.volume.full_path(&to.path));
        if there.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return None;
        }
        let error = self.volume.open_append(&to.path).err()?;
        Some(failure::open(format_args!("open {}", to.path), &error))
    }

    /// Whether any open file accepts reports.
    pub(super) fn any_accepts(&self) -> bool {
        self.open.iter().any(|open| !open.is_failing)
    }

    /// Measures the free space of the volume.
    pub(super) fn measure(&self) {
        if let Some(free) = self.volume.free() {
            self.counters.free(free);
        }
    }

    /// Whether any file has unsynced writes.
    pub(super) fn any_dirty(&self) -> bool {
        self.open.iter().any(|open| open.file.dirty)
    }

    /// The failed syncs since the last call.
    pub(super) fn take_lost(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.lost)
    }

    /// Writes a batch, and with [`Fsync::Always`] syncs it.
    pub(super) fn write(&mut self, batch: &Batch) -> Result<(), NotWritten> {
        let more = batch.bytes.len() as u64;
        let is_open = self.open.iter().any(|open| open.path == batch.to.path);
        self.make_room(self.usage.need(&batch.to.path, more, is_open))?;
        for _ in 0..MAX_TRIES {
            if let Err(failure) = self.select(&batch.to, more) {
                return Err(NotWritten { whole: 0, failure, is_unopened: true });
            }
            let Some(appended) = self.append(batch) else { continue };
            self.account();
            self.counters.wrote(appended.bytes);
            if self.fsync == Fsync::Always && appended.bytes > 0 {
                self.sync_last()?;
            }
            let Err(error) = appended.outcome else { return Ok(()) };
            let failure = failure::io(format_args!("write to {}", batch.to.path), &error);
            if let Some(open) = self.open.back_mut() {
                open.is_failing = failure.scope == Scope::File;
            }
            return Err(NotWritten { whole: appended.whole, failure, is_unopened: false });
        }
        let text = format!("{} was deleted during a write", batch.to.path);
        Err(Refusal::new(Reason::Gone, text).of_file().into())
    }

    /// Appends a batch to the most recently used file; `None` if the file was deleted
    /// before the batch was complete.
    fn append(&mut self, batch: &Batch) -> Option<Appended> {
        let OpenFile { file, .. } = self.open.back_mut()?;
        let appended = file.append(&batch.bytes, &batch.ends);
        (!file.is_deleted(&self.volume)).then_some(appended)
    }

    /// Adds the space allocated by the last append, if the volume is limited.
    fn account(&mut self) {
        if self.retention.max_volume_bytes.is_some()
            && let Some(OpenFile { file, .. }) = self.open.back_mut()
        {
            self.usage.add(file.grown());
        }
    }

    /// Syncs the most recently used file. On failure closes it: a later success would
    /// not cover earlier writes.
    fn sync_last(&mut self) -> Result<(), Refusal> {
        let Some(OpenFile { path, file, .. }) = self.open.back_mut() else { return Ok(()) };
        let synced = file.sync().map_err(|error| failure::sync(path, &error));
        if synced.is_err() {
            self.open.pop_back();
        }
        synced
    }

    /// Makes `to` the most recently used file, with room for `more` bytes: opens it if
    /// it is closed, renamed or deleted, rotates it if due. Cuts off a partial record
    /// first, because afterwards nothing would.
    pub(super) fn select(&mut self, to: &Destination, more: u64) -> Result<(), Refusal> {
        let mut file = match self.take_open(&to.path)? {
            Some(file) => file,
            None => self.open_file(to)?,
        };
        let len = file.len_at(&self.volume).unwrap_or(0);
        if self.retention.is_due(&file, len, more) {
            file = self.rotate(to, file)?;
        }
        while self.open.len() >= MAX_OPEN {
            self.close_oldest();
        }
        self.open.push_back(OpenFile { path: to.path.clone(), file, is_failing: false });
        self.counters.files_open(self.open.len());
        Ok(())
    }

    /// Removes an open file from the list, if it is ready for an append and its path
    /// still leads to it.
    fn take_open(&mut self, path: &FilePath) -> Result<Option<LogFile>, Refusal> {
        let Some(at) = self.open.iter().position(|open| open.path == *path) else { return Ok(None) };
        let Some(mut open) = self.open.remove(at) else { return Ok(None) };
        match prepare(&mut open.file, path, &self.volume) {
            Ok(true) => Ok(Some(open.file)),
            Ok(false) => {
                self.close(open);
                Ok(None)
            }
            Err(failure) => {
                open.is_failing = failure.scope == Scope::File;
                self.open.push_back(open);
                Err(failure)
            }
        }
    }

    fn open_file(&mut self, to: &Destination) -> Result<LogFile, Refusal> {
        let mut opened = LogFile::open(&self.volume, &to.path);
        // Frees descriptors of files that are not in use.
        while matches!(&opened, Err(error) if error.is_out_of_descriptors()) && !self.open.is_empty() {
            self.close_oldest();
            opened = LogFile::open(&self.volume, &to.path);
        }
        let mut file = opened.map_err(|error| {
            let failure = failure::open(format_args!("open {}", to.path), &error);
            self.scoped(failure)
        })?;
        self.usage.add(file.dirs_grown);
        ready(&mut file, &to.path)?;
        self.note_unread(&to.path, file.unread);
        if self.fsync != Fsync::Never {
            // At each opening: the process that created it, or a part of its path, may
            // not have.
            self.volume
                .sync_dir_of(&to.path)
                .map_err(|error| failure::sync(format_args!("the directory of {}", to.path), &error))?;
        }
        Ok(file)
    }

    /// A file that disappeared while the volume exists concerns only that file.
    fn scoped(&self, failure: Refusal) -> Refusal {
        let is_file_alone = failure.reason == Reason::Gone && self.volume.dir().is_dir();
        if is_file_alone { failure.of_file() } else { failure }
    }

    /// Logs once that a file's end cannot be checked.
    fn note_unread(&mut self, path: &FilePath, is_unread: bool) {
        if !is_unread {
            self.unread.retain(|unread| unread != path);
        } else if !self.unread.contains(path) {
            if self.unread.len() >= MAX_OPEN {
                self.unread.remove(0);
            }
            self.unread.push(path.clone());
            log::warn!("cannot read a file to repair its end path={path}");
        }
    }

    /// Rotates a file and opens its successor. If rotation fails, keeps the file: an
    /// oversized file is better than a lost report.
    fn rotate(&mut self, to: &Destination, mut file: LogFile) -> Result<LogFile, Refusal> {
        match self.retention.rotate(&self.volume, &to.path) {
            Ok(deleted) => {
                self.counters.rotated();
                self.counters.deleted(deleted);
                self.close(OpenFile { path: to.path.clone(), file, is_failing: false });
                self.open_file(to)
            }
            Err(error) => {
                if !file.stuck {
                    file.stuck = true;
                    let what = format_args!("rotate {}", to.path);
                    log::warn!("{}", failure::open(what, &error).text);
                }
                Ok(file)
            }
        }
    }

    /// Closes the least recently used file, preferring one without a partial record.
    fn close_oldest(&mut self) {
        let at = self.open.iter_mut().position(|open| open.file.cut_back().is_ok());
        if let Some(open) = self.open.remove(at.unwrap_or(0)) {
            self.close(open);
        }
    }

    /// Closes a file, and makes sure that its writes get synced.
    fn close(&mut self, open: OpenFile) {
        let OpenFile { path, mut file, .. } = open;
        // With Always, acknowledged records are synced already.
        if !file.dirty || self.fsync == Fsync::Always || file.is_deleted(&self.volume) {
            return;
        }
        if self.fsync == Fsync::Never {
            // The whole file system, at exit: by then the file may have another name.
            self.unsynced = self.unsynced.take().or_else(|| File::open(self.volume.dir()).ok());
            if self.unsynced.is_some() {
                return;
            }
        }
        if let Err(error) = file.sync() {
            self.lost.push(failure::sync(path, &error));
        }
    }

    /// Syncs every file with unsynced writes. Closes a file on failure: a later success
    /// would not cover earlier writes.
    pub(super) fn sync(&mut self) {
        let Self { open, lost, .. } = self;
        open.retain_mut(|OpenFile { path, file, .. }| {
            let synced = if file.dirty { file.sync() } else { Ok(()) };
            lost.extend(synced.as_ref().err().map(|error| failure::sync(path, error)));
            synced.is_ok()
        });
        self.counters.files_open(self.open.len());
    }

    /// Syncs all writes of this process.
    pub(super) fn sync_at_end(&mut self) {
        if let Some(volume) = self.unsynced.take()
            && let Err(errno) = rustix::fs::syncfs(&volume)
        {
            self.lost.push(failure::sync("the volume", &errno.into()));
        }
        self.sync();
        if self.fsync != Fsync::Never {
            return;
        }
        for OpenFile { path, file, .. } in &self.open {
            if file.made
                && file.len_at(&self.volume).is_some()
                && let Err(error) = self.volume.sync_dir_of(path)
            {
                let what = format_args!("the directory of {path}");
                self.lost.push(failure::sync(what, &error));
            }
        }
    }

    fn make_room(&mut self, more: u64) -> Result<(), Refusal> {
        let Some(limit) = self.retention.max_volume_bytes else { return Ok(()) };
        let room = self.usage.make_room(&self.volume, limit, more);
        let (Room::Made(deleted) | Room::None(deleted)) = room;
        self.counters.deleted(deleted);
        if matches!(room, Room::Made(_)) {
            return Ok(());
        }
        let text = format!("--max-volume-bytes of {limit} is reached, and no rotated file can be deleted");
        Err(Refusal::new(Reason::Limit, text))
    }

    /// Tries to write a block to the volume. First closes deleted files, whose blocks
    /// are not free while they are open.
    pub(super) fn try_volume(&mut self) -> bool {
        let Self { open, volume, .. } = self;
        open.retain(|open| !open.file.is_deleted(volume));
        self.counters.files_open(self.open.len());
        self.make_room(TRIAL_BYTES).is_ok() && self.volume.try_write().is_ok()
    }
}

/// Prepares an open file for an append; returns whether `path` still leads to it.
fn prepare(file: &mut LogFile, path: &FilePath, volume: &Volume) -> Result<bool, Refusal> {
    let cut = file.cut_back();
    cut.map_err(|error| failure::io(format_args!("cut a partial record off {path}"), &error))?;
    // Before its name is checked: as owner, no other process can rotate it meanwhile.
    file.try_own();
    let is_there = file.len_at(volume).is_some();
    if is_there {
        ready(file, path)?;
    }
    Ok(is_there)
}

fn ready(file: &mut LogFile, path: &FilePath) -> Result<(), Refusal> {
    file.ready().map_err(|error| failure::open(format_args!("write to {path}"), &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::{Reason, Refusal, Scope};
    use crate::render::Format;

    fn files(name: &str, fsync: Fsync) -> (Files, Volume) {
        let dir = std::env::temp_dir().join(format!("files-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let volume = Volume::open(&dir).unwrap();
        (Files::new(volume.clone(), fsync, Retention::default(), Arc::default()), volume)
    }

    fn batch(volume: &Volume, file: &str) -> Batch {
        let to = Destination { path: volume.resolve(file.as_bytes()).unwrap(), format: Format::Text };
        Batch { to, bytes: b"one\ntwo\n".to_vec(), ends: vec![4, 8] }
    }

    #[test]
    fn what_was_written_to_a_file_after_it_was_deleted_is_written_again() {
        let (mut files, volume) = files("deleted", Fsync::Never);
        let batch = batch(&volume, "out.txt");
        let mut owner = LogFile::open(&volume, &batch.to.path).unwrap();
        owner.ready().unwrap();
        files.select(&batch.to, 8).unwrap();
        Retention::default().rotate(&volume, &batch.to.path).unwrap();
        std::fs::remove_file(volume.dir().join("out.txt.000001")).unwrap();
        assert!(files.append(&batch).is_none());
        files.write(&batch).unwrap();
        assert_eq!(std::fs::read(volume.dir().join("out.txt")).unwrap(), batch.bytes);
        assert!(owner.is_deleted(&volume));
        std::fs::remove_dir_all(volume.dir()).unwrap();
    }

    #[test]
    fn a_file_that_disappears_is_no_matter_of_the_volume_unless_that_is_gone_too() {
        let (files, volume) = files("gone", Fsync::Never);
        let gone = || Refusal::new(Reason::Gone, "");
        assert_eq!(files.scoped(gone()).scope, Scope::File);
        std::fs::remove_dir_all(volume.dir()).unwrap();
        assert_eq!(files.scoped(gone()).scope, Scope::Volume);
    }
}
