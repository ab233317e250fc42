//! The writer's side: batches to files, one round after the other.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::trouble::{Failure, Reason};
use super::{Batch, Fsync, Outcome, Settings, Shared, State};
use crate::volume::log_file::{Appended, LogFile};
use crate::volume::usage::{Room, Usage};
use crate::volume::{FilePath, Volume};

/// Files kept open; beyond it the least recently used is closed first.
const MAX_OPEN: usize = 32;
/// How often a batch is written whose file is deleted meanwhile.
const MAX_TRIES: usize = 5;
/// How often a volume in trouble is tried.
const RETRY: Duration = Duration::from_secs(1);

/// The open files, most recently used last, and what is known of the volume.
#[derive(Debug)]
pub(super) struct Writer {
    volume: Volume,
    settings: Settings,
    counters: Arc<Counters>,
    open: VecDeque<(FilePath, LogFile)>,
    /// Files that we may not read, told of once.
    unread: Vec<FilePath>,
    usage: Usage,
    /// When dirty files are due on disk.
    sync_due: Option<Instant>,
}

/// What came of a batch: how many of its requests are in the file, and why the
/// others are not.
type Written = (usize, Option<Failure>);

impl Writer {
    pub(super) fn new(volume: Volume, settings: Settings, counters: Arc<Counters>) -> Self {
        let (open, unread, usage) = (VecDeque::new(), Vec::new(), Usage::default());
        Self { volume, settings, counters, open, unread, usage, sync_due: None }
    }

    /// Takes what there is, writes it, says so; until it is told to end.
    pub(super) fn run<T>(mut self, shared: &Shared<T>) {
        let mut state = shared.lock();
        loop {
            let batches = std::mem::take(&mut state.batches);
            if batches.is_empty() {
                if state.closing {
                    break;
                }
                state = self.wait(shared, state);
                continue;
            }
            state.writing = std::mem::take(&mut state.tickets);
            state.busy_since = Some(Instant::now());
            drop(state);
            let written = self.write_all(&batches);
            state = shared.lock();
            state.finish(batches, &written);
        }
        drop(state);
        let failed = self.sync().len();
        shared.lock().unsynced = failed;
    }

    /// Waits for work; with files to put on disk or a volume in trouble, no
    /// longer than until that is due.
    fn wait<'a, T>(
        &mut self,
        shared: &'a Shared<T>,
        mut state: MutexGuard<'a, State<T>>,
    ) -> MutexGuard<'a, State<T>> {
        state.idle = true;
        state.busy_since = None;
        let retry = state.trouble.is_some().then(|| Instant::now() + RETRY);
        let due = self.sync_due.into_iter().chain(retry).min();
        let Some(due) = due else {
            return shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        let pause = due.saturating_duration_since(Instant::now());
        let (waited, timeout) =
            shared.work.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
        if !timeout.timed_out() {
            return waited;
        }
        let (mut state, in_trouble) = (waited, retry.is_some());
        state.idle = false;
        state.busy_since = Some(Instant::now());
        drop(state);
        if self.sync_due.is_some_and(|due| due <= Instant::now()) {
            self.sync();
        }
        let well = in_trouble && self.try_volume();
        let mut state = shared.lock();
        if well {
            state.recover();
        }
        state
    }

    fn write_all(&mut self, batches: &[Batch]) -> Vec<Written> {
        let mut written: Vec<Written> = batches.iter().map(|batch| self.write(batch)).collect();
        match self.settings.fsync {
            Fsync::Never => {}
            Fsync::Interval(interval) => {
                let dirty = self.open.iter().any(|(_, file)| file.dirty);
                self.sync_due = self.sync_due.or(dirty.then(|| Instant::now() + interval));
                if self.sync_due.is_some_and(|due| due <= Instant::now()) {
                    self.sync();
                }
            }
            Fsync::Always => {
                for (path, failure) in self.sync() {
                    let of_file = |at: &usize| batches[*at].path == path;
                    if let Some(at) = (0..batches.len()).find(of_file) {
                        written[at] = (0, Some(failure));
                    }
                }
            }
        }
        for failure in written.iter().filter_map(|(_, failure)| failure.as_ref()) {
            self.counters.failed(failure.reason);
        }
        written
    }

    fn write(&mut self, batch: &Batch) -> Written {
        let more = batch.bytes.len() as u64;
        if let Some(limit) = self.settings.retention.max_volume_bytes
            && !self.make_room(limit, self.need(&batch.path, more))
        {
            let text =
                format!("the volume holds its --max-volume-bytes of {limit}, and nothing can be deleted");
            return (0, Some(Failure::new(Reason::Limit, &text)));
        }
        for _ in 0..MAX_TRIES {
            if let Err(failure) = self.prepare(&batch.path, more) {
                return (0, Some(failure));
            }
            let Some(appended) = self.append(batch) else { continue };
            self.account();
            self.counters.wrote(appended.bytes);
            let what = || format!("write to {}", batch.path);
            return (appended.whole, appended.outcome.err().map(|error| Failure::io(&what(), &error)));
        }
        let text = format!("{} is deleted while it is written", batch.path);
        (0, Some(Failure::new(Reason::Gone, &text)))
    }

    /// Appends a batch to the file that was used last; `None` if that was deleted
    /// before all of it was there.
    fn append(&mut self, batch: &Batch) -> Option<Appended> {
        let (_, file) = self.open.back_mut()?;
        let appended = file.append(&batch.bytes, &batch.ends);
        (!file.is_deleted(&self.volume)).then_some(appended)
    }

    /// How much of the volume an append may take.
    fn need(&self, path: &FilePath, more: u64) -> u64 {
        self.usage.need(path, more, self.open.iter().any(|(open, _)| open == path))
    }

    /// Notes what the last append has taken of the volume, if that is limited.
    fn account(&mut self) {
        if self.settings.retention.max_volume_bytes.is_some()
            && let Some((_, file)) = self.open.back_mut()
        {
            self.usage.add(file.grown());
        }
    }

    /// Makes the file at a path the one that was used last, with room for `more`
    /// bytes: opened anew where it isn't open or not there any more, rotated where
    /// that is due. Neither before a partial record is off its end: nobody would
    /// look for it there again.
    fn prepare(&mut self, path: &FilePath, more: u64) -> Result<(), Failure> {
        let what = |verb: &str| format!("{verb} {path}");
        let known = self.open.iter().position(|(open, _)| open == path);
        if let Some((_, file)) = known.and_then(|at| self.open.get_mut(at)) {
            file.cut_back().map_err(|error| Failure::io(&what("cut a partial record off"), &error))?;
            // Before its name is looked at: then nobody else rotates it behind us.
            file.try_own();
        }
        let known = known.and_then(|at| self.open.remove(at));
        let there = known.filter(|(_, file)| file.len_at(&self.volume).is_some());
        let mut file = match there {
            Some((_, mut file)) => {
                self.ready(path, &mut file)?;
                file
            }
            None => self.open_file(path)?,
        };
        let len = file.len_at(&self.volume).unwrap_or(0);
        if self.settings.retention.is_due(&file, len, more) {
            if self.settings.fsync != Fsync::Never && file.dirty {
                file.sync().map_err(|error| Failure::io(&what("sync"), &error))?;
            }
            match self.settings.retention.rotate(&self.volume, path) {
                Ok(deleted) => {
                    self.counters.deleted(deleted);
                    drop(file);
                    file = self.open_file(path)?;
                }
                // A file that grows too large beats a report that is lost.
                Err(error) if !file.stuck => {
                    file.stuck = true;
                    log::warn!("{}", Failure::open(&what("rotate"), error).text);
                }
                Err(_) => {}
            }
        }
        while self.open.len() >= MAX_OPEN {
            self.close_oldest();
        }
        self.counters.files_open(self.open.len() + 1);
        self.open.push_back((path.clone(), file));
        Ok(())
    }

    /// Makes a file ready for an append.
    fn ready(&mut self, path: &FilePath, file: &mut LogFile) -> Result<(), Failure> {
        file.ready().map_err(|error| Failure::open(&format!("write to {path}"), error))?;
        if !file.unread {
            self.unread.retain(|unread| unread != path);
        } else if !self.unread.contains(path) {
            self.unread.push(path.clone());
            log::warn!("cannot read a file to repair its end path={path}");
        }
        Ok(())
    }

    fn open_file(&mut self, path: &FilePath) -> Result<LogFile, Failure> {
        let what = format!("open {path}");
        let mut opened = LogFile::open(&self.volume, path);
        // Descriptors held for files that nobody writes to just now.
        while matches!(&opened, Err(error) if error.is_out_of_descriptors()) && !self.open.is_empty() {
            self.close_oldest();
            opened = LogFile::open(&self.volume, path);
        }
        let mut file = opened.map_err(|error| Failure::open(&what, error))?;
        self.usage.add(file.dirs_grown);
        self.ready(path, &mut file)?;
        if file.made && self.settings.fsync != Fsync::Never {
            self.volume.sync_dir_of(path).map_err(|error| Failure::io(&what, &error))?;
        }
        Ok(file)
    }

    /// Closes the one that was used the longest time ago; one that has a partial
    /// record at its end only if all have.
    fn close_oldest(&mut self) {
        let at = self.open.iter_mut().position(|(_, file)| file.cut_back().is_ok());
        if let Some((path, mut file)) = self.open.remove(at.unwrap_or(0))
            && file.dirty
            && self.settings.fsync != Fsync::Never
            && let Err(error) = file.sync()
        {
            log::error!("cannot put a file on disk path={path} error={error}");
        }
    }

    fn make_room(&mut self, limit: u64, more: u64) -> bool {
        let room = self.usage.make_room(&self.volume, limit, more);
        let (Room::Made(deleted) | Room::None(deleted)) = room;
        self.counters.deleted(deleted);
        matches!(room, Room::Made(_))
    }

    /// Puts every file on disk that needs it; returns those that failed.
    fn sync(&mut self) -> Vec<(FilePath, Failure)> {
        self.sync_due = None;
        let mut failed = Vec::new();
        for (path, file) in self.open.iter_mut().filter(|(_, file)| file.dirty) {
            if let Err(error) = file.sync() {
                let failure = Failure::io(&format!("sync {path}"), &error);
                log::error!("{}", failure.text);
                failed.push((path.clone(), failure));
            }
        }
        failed
    }

    /// Whether the volume takes a block of bytes again.
    fn try_volume(&mut self) -> bool {
        let limit = self.settings.retention.max_volume_bytes;
        limit.is_none_or(|limit| self.make_room(limit, 4096)) && self.volume.try_write().is_ok()
    }
}

impl<T> State<T> {
    /// Notes what came of a round, and wakes whoever passes it on.
    fn finish(&mut self, batches: Vec<Batch>, written: &[Written]) {
        let tickets = std::mem::take(&mut self.writing);
        for ((batch, tickets), (whole, failure)) in batches.into_iter().zip(tickets).zip(written) {
            self.queued -= batch.bytes.len();
            // Those that a stall has answered already were the first.
            let answered = batch.ends.len() - tickets.len();
            for (at, ticket) in (answered..).zip(tickets) {
                let outcome: Outcome = match failure {
                    Some(failure) if at >= *whole => Err(failure.clone()),
                    _ => Ok(()),
                };
                self.done.push((ticket, outcome));
            }
            self.spare(batch);
        }
        self.busy_since = None;
        if std::mem::take(&mut self.stalled) {
            log::info!("the volume has come back from its stall");
        }
        let trouble = written.iter().filter_map(|(_, failure)| failure.as_ref());
        if let Some(failure) = trouble.into_iter().find(|failure| failure.reason.is_of_volume()) {
            if self.trouble.as_ref().map(|known| known.reason) != Some(failure.reason) {
                log::error!("reports are refused reason={} {}", failure.reason.label(), failure.text);
            }
            self.trouble = Some(failure.clone());
        }
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// The volume takes bytes again.
    fn recover(&mut self) {
        if let Some(failure) = self.trouble.take() {
            log::info!("reports are taken again, it was reason={}", failure.reason.label());
        }
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::Format;

    #[test]
    fn what_was_written_to_a_file_after_it_was_deleted_is_written_again() {
        let dir = std::env::temp_dir().join(format!("writer-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let volume = Volume::open(&dir).unwrap();
        let path = volume.resolve(b"out.txt").unwrap();
        let owner = LogFile::open(&volume, &path).unwrap();
        let (retention, capacity, stall) = (Default::default(), 1000, Duration::from_secs(1));
        let settings = Settings { fsync: Fsync::Never, retention, capacity, stall };
        let mut writer = Writer::new(volume.clone(), settings, Arc::default());
        let batch = Batch { path, format: Format::Text, bytes: b"one\ntwo\n".to_vec(), ends: vec![4, 8] };
        writer.prepare(&batch.path, 8).unwrap();
        retention.rotate(&volume, &batch.path).unwrap();
        std::fs::remove_file(dir.join("out.txt.000001")).unwrap();
        assert!(writer.append(&batch).is_none());
        let (whole, failure) = writer.write(&batch);
        assert!(whole == 2 && failure.is_none(), "{failure:?}");
        assert_eq!(std::fs::read(dir.join("out.txt")).unwrap(), batch.bytes);
        assert!(owner.is_deleted(&volume));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn whoever_still_waits_after_a_stall_is_told_of_its_own_request() {
        let path = Volume::open(&std::env::temp_dir()).unwrap().resolve(b"a").unwrap();
        let batch = Batch { path, format: Format::Text, bytes: vec![0; 40], ends: vec![10, 20, 30, 40] };
        let mut state = State { writing: vec![vec!["third", "fourth"]], queued: 40, ..State::default() };
        state.finish(vec![batch], &[(3, Some(Failure::new(Reason::Full, "full")))]);
        let told: Vec<_> = state.done.iter().map(|(ticket, outcome)| (*ticket, outcome.is_ok())).collect();
        assert_eq!(told, [("third", true), ("fourth", false)]);
        assert_eq!(state.queued, 0);
    }
}
