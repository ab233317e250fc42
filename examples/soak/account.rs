//! The account: acknowledgements to senders against the content of the files.

use crate::records::Request;

/// The outcome of a request for its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Unknown: the connection ended before the answer.
    Unanswered,
    Acknowledged,
    Refused,
}

/// The place of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In an existing file.
    Found,
    /// In a file deleted by retention.
    Deleted,
}

/// One row per request, two numbers per instance.
#[derive(Debug, Default)]
pub(crate) struct Account {
    requests: Vec<(Outcome, u32)>,
    found: Vec<u8>,
    deleted: Vec<u8>,
    /// Instances in files that were never sent.
    pub(crate) unknown: u64,
}

/// Instances with one outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) sent: u64,
    pub(crate) found: u64,
    pub(crate) deleted: u64,
    pub(crate) nowhere: u64,
    pub(crate) twice: u64,
}

impl Account {
    /// Adds a new request, before it is sent.
    pub(crate) fn begin(&mut self) -> Request {
        let request = Request(self.requests.len() as u32);
        self.requests.push((Outcome::Unanswered, self.found.len() as u32));
        let instances = self.found.len() + request.count() as usize;
        self.found.resize(instances, 0);
        self.deleted.resize(instances, 0);
        request
    }

    /// Records the outcome of a request.
    pub(crate) fn end(&mut self, request: Request, outcome: Outcome) {
        self.requests[request.0 as usize].0 = outcome;
    }

    /// Records instances found in a file.
    pub(crate) fn see(&mut self, instances: &[(Request, u32)], place: Place) {
        for (request, index) in instances {
            let Some((_, first)) = self.requests.get(request.0 as usize) else {
                self.unknown += 1;
                continue;
            };
            let list = if place == Place::Found { &mut self.found } else { &mut self.deleted };
            let seen = &mut list[(first + index) as usize];
            *seen = seen.saturating_add(1);
        }
    }

    /// All instances of requests with this outcome.
    pub(crate) fn sum(&self, outcome: Outcome) -> Sum {
        let mut sum = Sum::default();
        for (number, (_, first)) in self.requests.iter().enumerate().filter(|(_, known)| known.0 == outcome) {
            for at in *first..first + Request(number as u32).count() {
                let (found, deleted) = (self.found[at as usize], self.deleted[at as usize]);
                sum.sent += 1;
                sum.found += u64::from(found > 0);
                sum.deleted += u64::from(deleted > 0 && found == 0);
                sum.nowhere += u64::from(found + deleted == 0);
                sum.twice += u64::from(found.saturating_add(deleted) > 1);
            }
        }
        sum
    }
}
