//! The authorization service: answers, counts and records checks.

use std::sync::Arc;

use bytes::Bytes;
use records::protobuf::wire::Malformed;

use super::audit::Audit;
use super::authorizer::ExtAuthz;
use crate::frontends::counters::Counters;
use crate::frontends::verdicts::Asker;
use crate::refusal::{Reason, Refusal};

/// The authorization service.
#[derive(Debug)]
pub struct Service {
    /// Judges and answers.
    pub authorizer: ExtAuthz,
    /// Records each verdict, if configured.
    pub audit: Option<Audit>,
    /// Its counters.
    pub counters: Arc<Counters>,
}

impl Service {
    /// Answers one CheckRequest, whole or [without its body](super::without_body).
    /// Refuses an invalid one.
    pub fn answer(&self, message: &[u8]) -> Result<Bytes, Refusal> {
        let checked = self.authorizer.check(message).map_err(malformed)?;
        self.counters.judged(Asker::Envoy, checked.verdict);
        if let Some(audit) = &self.audit {
            audit.record(&checked, &self.counters);
        }
        Ok(checked.answer)
    }

    /// The answer without a verdict, which is counted: see [`ExtAuthz::failed`].
    pub fn failed(&self) -> Option<Bytes> {
        self.counters.unjudged.add(1);
        self.authorizer.failed()
    }
}

/// The refusal of an invalid CheckRequest.
pub fn malformed(malformed: Malformed) -> Refusal {
    Refusal::new(Reason::Malformed, format!("not a CheckRequest: {malformed}"))
}
