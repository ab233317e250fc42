//! What the front end counts.

use std::sync::Arc;

use super::report::Cause;
use super::templates::REPORTS;
use crate::metrics::{Counter, Export, Family, Page};
use crate::policy::Outcome;
use crate::template::Template;

/// The numbers of all handlers.
#[derive(Debug)]
pub struct Counters {
    instances: Family<{ REPORTS.len() }>,
    refusals: Family<{ Cause::ALL.len() }>,
    verdicts: Family<{ Outcome::ALL.len() }>,
    /// Records of verdicts that were not written.
    pub audit_errors: Arc<Counter>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            instances: Family::new(
                "mygrpcadapter_instances_total",
                "Instances taken and acknowledged.",
                "template",
                REPORTS.map(|template| template.name),
            ),
            refusals: Family::new(
                "mygrpcadapter_refusals_total",
                "Requests refused before they reached the volume.",
                "reason",
                Cause::ALL,
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
    /// The counter of a template's instances; one that is not shown for a template
    /// of no report.
    pub fn instances(&self, template: &Template) -> Arc<Counter> {
        let of_template = |known: &&Template| known.name == template.name;
        let at = REPORTS.iter().position(of_template);
        at.map_or_else(Arc::default, |at| Arc::clone(self.instances.at(at)))
    }

    /// Counts a request that is refused.
    pub fn refused(&self, cause: Cause) {
        self.refusals.at(cause as usize).add(1);
    }

    /// Counts a verdict.
    pub fn judged(&self, outcome: Outcome) {
        self.verdicts.at(outcome as usize).add(1);
    }
}

impl Export for Counters {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        self.instances.export(page);
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
