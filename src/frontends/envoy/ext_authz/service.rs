//! Checks as they are served: answered, counted, recorded.

use std::sync::Arc;

use bytes::Bytes;
use records::protobuf::wire::Malformed;

use super::audit::Audit;
use super::authorizer::ExtAuthz;
use crate::frontends::counters::Counters;
use crate::frontends::verdicts::Asker;
use crate::refusal::{Reason, Refusal};

/// Answers checks.
#[derive(Debug)]
pub struct Service {
    /// What answers them.
    pub authorizer: ExtAuthz,
    /// What keeps a record of each verdict, if anything does.
    pub audit: Option<Audit>,
    /// What is counted.
    pub counters: Arc<Counters>,
}

impl Service {
    /// Answers one CheckRequest, whole or [without its
    /// body](super::without_body). A message that is none is refused.
    pub fn answer(&self, message: &[u8]) -> Result<Bytes, Refusal> {
        let checked = self.authorizer.check(message).map_err(malformed)?;
        self.counters.judged(Asker::Envoy, checked.verdict);
        if let Some(audit) = &self.audit {
            audit.record(&checked, &self.counters);
        }
        Ok(checked.answer)
    }

    /// What is sent where there is no verdict, which is counted: see
    /// [`ExtAuthz::failed`].
    pub fn failed(&self) -> Option<Bytes> {
        self.counters.unjudged.add(1);
        self.authorizer.failed()
    }
}

/// A message that can't be read as a CheckRequest.
pub fn malformed(malformed: Malformed) -> Refusal {
    Refusal::new(Reason::Malformed, format!("not a CheckRequest: {malformed}"))
}
