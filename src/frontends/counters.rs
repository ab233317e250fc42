//! What all front ends count.

use std::sync::Arc;

use crate::metrics::{Counter, Export, Family, Page};
use crate::policy::Outcome;
use crate::refusal::Reason;

/// Refusals by reason, verdicts by outcome, and what became of their records.
#[derive(Debug)]
pub struct Counters {
    refusals: Family<{ Reason::REQUEST.len() }>,
    verdicts: Family<{ Outcome::ALL.len() }>,
    /// Records of verdicts that were not written.
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
            verdicts: Family::new(
                "mygrpcadapter_verdicts_total",
                "Authorizations judged.",
                "outcome",
                Outcome::ALL.map(Outcome::label),
            ),
            audit_errors: Arc::default(),
        }
    }
}

impl Counters {
    /// Counts what is refused; failed writes are counted by the journal.
    pub fn refused(&self, reason: Reason) {
        if let Some(at) = Reason::REQUEST.iter().position(|known| *known == reason) {
            self.refusals.at(at).add(1);
        }
    }

    /// Counts a verdict.
    pub fn judged(&self, outcome: Outcome) {
        self.verdicts.at(outcome as usize).add(1);
    }
}

impl Export for Counters {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        self.refusals.export(page);
        self.verdicts.export(page);
        page.counter(
            "mygrpcadapter_audit_errors_total",
            "Records of verdicts that were not written.",
            &self.audit_errors,
        );
        None
    }
}
