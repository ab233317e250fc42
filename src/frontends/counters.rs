//! Counters of all front ends.

use std::sync::Arc;

use super::verdicts::{Asker, Verdicts};
use crate::metrics::{Counter, Export, Family, Page};
use crate::policy::Verdict;
use crate::refusal::Reason;

/// Refusals by reason, verdicts, and failed audit records.
#[derive(Debug)]
pub struct Counters {
    refusals: Family<{ Reason::REQUEST.len() }>,
    verdicts: Verdicts,
    /// Envoy's checks that were answered without a verdict.
    pub unjudged: Counter,
    /// Audit records that were not written.
    pub audit_errors: Arc<Counter>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            refusals: Family::new(
                "mygrpcadapter_refusals_total",
                "Requests refused before they reached the volume.",
                "reason",
                Reason::REQUEST.map(Reason::label),
            ),
            verdicts: Verdicts::default(),
            unjudged: Counter::default(),
            audit_errors: Arc::default(),
        }
    }
}

impl Counters {
    /// Counts a refusal, except for failed writes, which the journal counts.
    pub fn refused(&self, reason: Reason) {
        if let Some(at) = Reason::REQUEST.iter().position(|known| *known == reason) {
            self.refusals.at(at).add(1);
        }
    }

    /// Counts a verdict.
    pub fn judged(&self, asker: Asker, verdict: Verdict) {
        self.verdicts.add(asker, verdict);
    }
}

impl Export for Counters {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        self.refusals.export(page);
        self.verdicts.export(page);
        page.counter(
            "mygrpcadapter_check_errors_total",
            "Checks of Envoy's answered without a verdict.",
            &self.unjudged,
        );
        page.counter(
            "mygrpcadapter_audit_errors_total",
            "Records of verdicts that were not written.",
            &self.audit_errors,
        );
        None
    }
}
