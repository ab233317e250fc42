//! Who was told what, and what is in the files: the two sides that must agree.

use crate::records::Request;

/// What a sender knows of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing: the connection ended before an answer came.
    Unanswered,
    Acknowledged,
    Refused,
}

/// Where an instance was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a file that is there.
    Found,
    /// In a file that retention has deleted.
    Deleted,
}

/// One line per request, two numbers per instance.
#[derive(Debug, Default)]
pub(crate) struct Account {
    requests: Vec<(Outcome, u32)>,
    found: Vec<u8>,
    deleted: Vec<u8>,
    /// Instances in files that nobody sent.
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
    /// Enters a new request, before it is sent.
    pub(crate) fn begin(&mut self) -> Request {
        let request = Request(self.requests.len() as u32);
        self.requests.push((Outcome::Unanswered, self.found.len() as u32));
        let instances = self.found.len() + request.count() as usize;
        self.found.resize(instances, 0);
        self.deleted.resize(instances, 0);
        request
    }

    /// Enters what came of it.
    pub(crate) fn end(&mut self, request: Request, outcome: Outcome) {
        self.requests[request.0 as usize].0 = outcome;
    }

    /// Enters instances that were seen in a file.
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

    /// All instances whose requests came to `outcome`.
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
