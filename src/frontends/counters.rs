//! Counters of all front ends, and the log of what they refuse.

use std::net::IpAddr;
use std::sync::Arc;

use super::verdicts::{Asker, Verdicts};
use crate::metrics::{Counter, Export, Family, Page};
use crate::once::Once;
use crate::policy::Verdict;
use crate::refusal::{Reason, Refusal, Scope};

/// Refusals by reason, verdicts, and failed audit records.
#[derive(Debug)]
pub struct Counters {
    refusals: Family<{ Reason::REQUEST.len() }>,
    verdicts: Verdicts,
    /// Envoy's checks that were answered without a verdict.
    pub unjudged: Counter,
    /// Audit records that were not written.
    pub audit_errors: Arc<Counter>,
    /// Services and reasons whose refusals were logged.
    logged: Once,
    /// The same with what is wrong: a peer can invent more of these than are remembered.
    handlers: Once,
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
            logged: Once::default(),
            handlers: Once::default(),
        }
    }
}

impl Counters {
    /// Counts a refusal, and logs it unless it concerns the whole volume: the journal
    /// does that. `peer` is the caller, if known.
    pub fn refused(&self, service: &str, peer: Option<IpAddr>, refusal: &Refusal) {
        let Refusal { reason, scope, text } = refusal;
        self.count(*reason);
        if *scope != Scope::Volume {
            // Handlers differ in what is wrong with them.
            let key = if let Reason::Config | Reason::Path | Reason::Denied = reason { &**text } else { "" };
            let (reason, remedy) = (format!("reason={}", reason.label()), reason.remedy());
            self.log(service, peer, &reason, key, &format!("{text}{remedy}"));
        }
    }

    /// Counts and logs an audit record that is lost at once.
    pub fn lost_audit(&self, asker: Asker) {
        self.audit_errors.add(1);
        self.refused(asker.label(), None, &Refusal::no_audit());
    }

    /// Logs that requests are refused, once in a while for each service, reason and key.
    pub fn log(&self, service: &str, peer: Option<IpAddr>, reason: &str, key: &str, text: &str) {
        let logged = if key.is_empty() { &self.logged } else { &self.handlers };
        if logged.is_due(format!("{reason} {service} {key}").as_bytes()) {
            let peer = peer.map_or_else(String::new, |peer| format!(" peer={peer}"));
            log::warn!("requests are refused {reason} service={service}{peer} {text}");
        }
    }

    /// Counts a refusal, except for failed writes, which the journal counts.
    pub fn count(&self, reason: Reason) {
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
