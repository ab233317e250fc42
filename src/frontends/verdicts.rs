//! Counters of verdicts, by service.

use crate::metrics::{Counter, Description, Page};
use crate::policy::{Outcome, Verdict};

/// The service that judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// Mixer's `authorization`.
    Mixer,
    /// Envoy's external authorization.
    Envoy,
}

impl Asker {
    /// All services, in the order of their discriminants.
    pub const ALL: [Self; 2] = [Self::Mixer, Self::Envoy];

    /// Its full name, as in the counters of calls.
    pub fn label(self) -> &'static str {
        match self {
            Self::Mixer => "authorization.HandleAuthorizationService",
            Self::Envoy => "envoy.service.auth.v3.Authorization",
        }
    }
}

/// A counter for each service and verdict.
#[derive(Debug, Default)]
pub struct Verdicts([[Counter; Verdict::ALL.len()]; Asker::ALL.len()]);

impl Verdicts {
    /// Counts a verdict.
    pub fn add(&self, asker: Asker, verdict: Verdict) {
        self.0[asker as usize][verdict as usize].add(1);
    }

    /// Appends all samples.
    pub fn export(&self, page: &mut Page) {
        self.outcomes(page);
        self.reasons(page);
    }

    fn of(&self, asker: Asker, verdict: Verdict) -> u64 {
        self.0[asker as usize][verdict as usize].get()
    }

    fn outcomes(&self, page: &mut Page) {
        let help = "Authorizations judged.";
        let about = Description { name: "mygrpcadapter_verdicts_total", kind: "counter", help };
        page.describe(about);
        for outcome in Outcome::ALL {
            let those = Verdict::ALL.into_iter().filter(|verdict| verdict.outcome() == outcome);
            let count: u64 = those
                .map(|verdict| Asker::ALL.map(|asker| self.of(asker, verdict)).iter().sum::<u64>())
                .sum();
            page.sample(about.name, &[("outcome", outcome.label())], count as f64);
        }
    }

    fn reasons(&self, page: &mut Page) {
        let help = "Authorizations judged, by the service that asked, outcome and reason.";
        let about = Description { name: "mygrpcadapter_authorizations_total", kind: "counter", help };
        page.describe(about);
        for asker in Asker::ALL {
            for verdict in Verdict::ALL {
                let (outcome, reason) = (verdict.outcome().label(), verdict.reason());
                let labels = [("service", asker.label()), ("outcome", outcome), ("reason", reason)];
                page.sample(about.name, &labels, self.of(asker, verdict) as f64);
            }
        }
    }
}
