//! The condition of the volume: whether it accepts reports, and how it recovers.
//!
//! | state | meaning | left by |
//! |---|---|---|
//! | Accepting | reports are written | a failure: to one of the others |
//! | Failing | every file fails, as on a full disk; each report is tried | at the next retry: a batch written since the last failure, or a trial |
//! | Unsynced | acknowledged records may be lost (`--fsync interval`); reports are refused without a write | a trial: it restores nothing, so the exit code is 74 |
//! | Refusing | each known file fails on its own, as in a volume of another user | a batch written; one of the files opens; a minute without a report to them, unless the default file is one of them |
//!
//! A retry is due a second after a failure, with or without new requests. A trial
//! writes and syncs a file of its own.

use std::time::{Duration, Instant};

use super::batch::Destination;
use crate::refusal::{Refusal, Scope};

/// The interval of retries.
const RETRY: Duration = Duration::from_secs(1);
/// How long to remember a failing file after its last report.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Limit on remembered files.
const MAX_REFUSED: usize = 16;

/// The states of the table above.
#[derive(Debug)]
pub(super) struct Condition {
    state: State,
    retry_at: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Accepting,
    Failing { failure: Refusal, written_since: bool },
    Unsynced(Refusal),
    Refusing { failure: Refusal, last: Instant, forgotten: bool, files: Vec<Destination> },
}

/// The work of a retry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// None: a batch was written since.
    Recovered,
    /// A trial write.
    Trial,
    /// Try to open these files.
    Files(Vec<Destination>),
}

impl Condition {
    pub(super) fn new() -> Self {
        Self { state: State::Accepting, retry_at: None }
    }

    pub(super) fn is_accepting(&self) -> bool {
        matches!(self.state, State::Accepting)
    }

    /// The reason to refuse reports without trying to write.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        if let State::Unsynced(failure) = &self.state { Some(failure) } else { None }
    }

    /// When the next retry is due.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// A batch was written, and synced if required.
    pub(super) fn written(&mut self) {
        match &mut self.state {
            State::Accepting | State::Unsynced(_) => {}
            // On a full disk some batches may still fit.
            State::Failing { written_since, .. } => *written_since = true,
            State::Refusing { .. } => self.recover(),
        }
    }

    /// Acknowledged records may be lost.
    pub(super) fn unsynced(&mut self, failure: &Refusal, now: Instant) {
        self.enter(State::Unsynced(failure.clone()), failure, now);
    }

    /// A batch failed. `file` is the one that could not be opened, if that was the
    /// cause; `others_accept` says whether any open file accepts reports.
    pub(super) fn failed(
        &mut self,
        failure: &Refusal,
        file: Option<&Destination>,
        others_accept: bool,
        now: Instant,
    ) {
        match (failure.scope, &mut self.state) {
            (Scope::Request, _) | (_, State::Unsynced(_)) => {}
            (Scope::Volume, _) => {
                self.enter(State::Failing { failure: failure.clone(), written_since: false }, failure, now);
            }
            (Scope::File, State::Failing { .. }) => {}
            (Scope::File, State::Refusing { last, files, .. }) => {
                *last = now;
                remember(files, file);
            }
            (Scope::File, State::Accepting) if others_accept => {}
            (Scope::File, State::Accepting) => {
                let mut files = Vec::new();
                remember(&mut files, file);
                let refusing =
                    State::Refusing { failure: failure.clone(), last: now, forgotten: true, files };
                self.enter(refusing, failure, now);
            }
        }
    }

    /// The default file is not writable at the start; it is never forgotten.
    pub(super) fn refused_at_start(&mut self, failure: &Refusal, file: Destination, now: Instant) {
        let refusing =
            State::Refusing { failure: failure.clone(), last: now, forgotten: false, files: vec![file] };
        self.enter(refusing, failure, now);
    }

    /// The work of a retry, if one is due.
    pub(super) fn retry(&mut self, now: Instant) -> Option<Retry> {
        if self.retry_at.is_none_or(|due| now < due) {
            return None;
        }
        self.retry_at = Some(now + RETRY);
        match &self.state {
            State::Accepting => None,
            State::Failing { written_since: true, .. } => Some(Retry::Recovered),
            State::Failing { .. } | State::Unsynced(_) => Some(Retry::Trial),
            State::Refusing { last, forgotten: true, .. } if now - *last >= REMEMBERED => {
                Some(Retry::Recovered)
            }
            State::Refusing { files, .. } => Some(Retry::Files(files.clone())),
        }
    }

    /// The volume accepts reports again.
    pub(super) fn recover(&mut self) {
        let (State::Failing { failure, .. } | State::Unsynced(failure) | State::Refusing { failure, .. }) =
            std::mem::replace(&mut self.state, State::Accepting)
        else {
            return;
        };
        self.retry_at = None;
        log::info!("reports are accepted again after reason={}", failure.reason.label());
    }

    /// Enters a state, and logs it if it is new.
    fn enter(&mut self, state: State, failure: &Refusal, now: Instant) {
        let known = match &self.state {
            State::Accepting => None,
            State::Failing { failure, .. } | State::Unsynced(failure) | State::Refusing { failure, .. } => {
                Some(failure.reason)
            }
        };
        if known != Some(failure.reason) {
            let Refusal { reason, text, .. } = failure;
            log::error!("reports are refused reason={} {text}{}", reason.label(), reason.remedy());
        }
        self.state = state;
        // Further failures do not postpone it.
        self.retry_at.get_or_insert(now + RETRY);
    }
}

/// Keeps the most recent ones.
fn remember(files: &mut Vec<Destination>, file: Option<&Destination>) {
    let Some(file) = file.filter(|file| !files.contains(file)) else { return };
    if files.len() == MAX_REFUSED {
        files.remove(0);
    }
    files.push(file.clone());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Reason;
    use crate::render::Format;
    use crate::volume::Volume;

    fn file(name: &str) -> Destination {
        let volume = Volume::open(&std::env::temp_dir()).unwrap();
        Destination { path: volume.resolve(name.as_bytes()).unwrap(), format: Format::Text }
    }

    fn failure(reason: Reason) -> Refusal {
        Refusal::new(reason, "")
    }

    /// A condition and the time at which it was entered.
    fn failing(reason: Reason) -> (Condition, Instant) {
        let (mut condition, now) = (Condition::new(), Instant::now());
        condition.failed(&failure(reason), None, false, now);
        assert!(!condition.is_accepting());
        (condition, now)
    }

    #[test]
    fn a_volume_that_fails_is_tried_a_second_later_however_often_it_fails_meanwhile() {
        let (mut condition, start) = failing(Reason::Full);
        for millis in (0..1000).step_by(100) {
            let now = start + Duration::from_millis(millis);
            assert_eq!(condition.retry(now), None);
            condition.failed(&failure(Reason::Full), None, false, now);
        }
        assert_eq!(condition.retry(start + RETRY), Some(Retry::Trial));
        assert_eq!(condition.retry(start + RETRY), None);
        assert_eq!(condition.retry(start + 2 * RETRY), Some(Retry::Trial));
        condition.recover();
        assert!(condition.is_accepting() && condition.retry_at().is_none());
    }

    #[test]
    fn a_batch_written_since_the_last_failure_needs_no_trial() {
        let (mut condition, start) = failing(Reason::Full);
        condition.written();
        condition.failed(&failure(Reason::Full), None, false, start);
        assert_eq!(condition.retry(start + RETRY), Some(Retry::Trial));
        condition.written();
        assert_eq!(condition.retry(start + 2 * RETRY), Some(Retry::Recovered));
    }

    #[test]
    fn what_was_acknowledged_and_is_not_on_disk_needs_a_trial_whatever_is_written() {
        let (mut condition, now) = (Condition::new(), Instant::now());
        condition.unsynced(&failure(Reason::Io), now);
        assert!(condition.refusal().is_some());
        condition.written();
        condition.failed(&failure(Reason::Full), None, false, now);
        assert!(condition.refusal().is_some());
        assert_eq!(condition.retry(now + RETRY), Some(Retry::Trial));
    }

    #[test]
    fn a_file_that_fails_is_no_matter_as_long_as_another_accepts() {
        let (mut condition, now) = (Condition::new(), Instant::now());
        condition.failed(&failure(Reason::Denied), Some(&file("a")), true, now);
        assert!(condition.is_accepting());
        condition.failed(&failure(Reason::Path), Some(&file("a")), false, now);
        assert!(condition.is_accepting(), "the caller's mistake");
        condition.failed(&failure(Reason::Denied), Some(&file("a")), false, now);
        assert!(!condition.is_accepting() && condition.refusal().is_none());
        condition.written();
        assert!(condition.is_accepting());
    }

    #[test]
    fn files_that_fail_are_tried_and_forgotten_when_nobody_reports_to_them() {
        let (mut condition, start) = (Condition::new(), Instant::now());
        for at in 0..100 {
            condition.failed(&failure(Reason::Denied), Some(&file(&at.to_string())), false, start);
        }
        condition.failed(&failure(Reason::Denied), None, false, start);
        let Some(Retry::Files(files)) = condition.retry(start + RETRY) else { panic!("{condition:?}") };
        assert_eq!((files.len(), files.last()), (MAX_REFUSED, Some(&file("99"))));
        condition.failed(&failure(Reason::Denied), None, false, start + RETRY);
        assert!(matches!(condition.retry(start + REMEMBERED), Some(Retry::Files(_))));
        assert_eq!(condition.retry(start + REMEMBERED + RETRY), Some(Retry::Recovered));
    }

    #[test]
    fn a_default_file_that_is_refused_at_the_start_is_not_forgotten() {
        let (mut condition, start) = (Condition::new(), Instant::now());
        condition.refused_at_start(&failure(Reason::Denied), file("out.txt"), start);
        assert!(!condition.is_accepting());
        assert_eq!(condition.retry(start + 2 * REMEMBERED), Some(Retry::Files(vec![file("out.txt")])));
        condition.failed(&failure(Reason::Denied), Some(&file("out.txt")), false, start);
        assert_eq!(condition.retry(start + 4 * REMEMBERED), Some(Retry::Files(vec![file("out.txt")])));
    }

    #[test]
    fn a_volume_that_fails_is_worse_than_files_that_do() {
        let (mut condition, now) = failing(Reason::Denied);
        condition.failed(&failure(Reason::Full), None, false, now);
        condition.failed(&failure(Reason::Denied), None, false, now);
        assert_eq!(condition.retry(now + RETRY), Some(Retry::Trial));
    }
}
