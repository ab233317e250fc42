//! Mixer's front end: its services, from encoded requests to encoded answers.
//!
//! It knows files only by name, and HTTP only by path.

pub mod authorization;
pub mod backend;
pub mod config;
pub mod instances;
pub mod latency;
pub mod report;
pub mod templates;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use prost::Message as _;

use self::authorization::Authorizer;
use self::instances::Instances;
use self::report::Reports;
use super::counters::Counters;
use crate::histogram::Histogram;
use crate::journal::Journal;
use crate::message::Message;
use crate::pb::istio::mixer::adapter::model::v1beta1::ValidateRequest;
use crate::policy::Policy;
use crate::refusal::{Reason, Refusal};
use crate::template::Template;

/// A method of this front end.
#[derive(Clone, Copy, Debug)]
pub enum Method {
    /// Appends the instances of a template to a file.
    Report(&'static Template),
    /// The same for log entries, which also go to the histogram.
    LogEntry,
    /// Allows or denies.
    Authorize,
    /// Allows.
    CheckNothing,
    /// Validates a handler's params.
    Validate,
    /// Begins a session.
    CreateSession,
    /// Ends a session.
    CloseSession,
}

/// Mixer's services.
#[derive(Debug)]
pub struct Mixer {
    reports: Reports,
    authorizer: Authorizer,
    /// The number of created sessions.
    sessions: AtomicU64,
}

impl Mixer {
    /// Appends to `journal`, if there is a volume; adds log entries to `histogram`;
    /// judges by `policy` and the keys of each handler.
    pub fn new(
        journal: Option<Arc<Journal>>,
        histogram: Arc<Histogram>,
        policy: Arc<Policy>,
        counters: Arc<Counters>,
    ) -> Self {
        let reports = Reports { journal: journal.clone(), histogram, instances: Arc::default() };
        Self { reports, authorizer: Authorizer { policy, journal, counters }, sessions: AtomicU64::new(0) }
    }

    /// The counters of this front end.
    pub fn instances(&self) -> Arc<Instances> {
        Arc::clone(&self.reports.instances)
    }

    /// Answers one request. Mixer logs every error status as a failure to connect; the
    /// text is for manual callers and for Validate.
    pub async fn call<H>(&self, method: Method, message: Message<H>) -> Result<Bytes, Refusal> {
        match method {
            Method::Report(template) => self.reports.take(template, false, message).await,
            Method::LogEntry => self.reports.take(&templates::LOGENTRY, true, message).await,
            Method::Authorize => self.authorizer.authorize(&message.bytes),
            Method::CheckNothing => Ok(authorization::allow(&authorization::Terms::default())),
            Method::Validate => self.validate(message.bytes),
            Method::CreateSession => {
                let id = self.sessions.fetch_add(1, Ordering::Relaxed);
                Ok(backend::create_session(id).encode_to_vec().into())
            }
            Method::CloseSession => Ok(backend::close_session().encode_to_vec().into()),
        }
    }

    fn validate(&self, message: Bytes) -> Result<Bytes, Refusal> {
        let request = ValidateRequest::decode(message);
        let request = request.map_err(|error| Refusal::new(Reason::Malformed, error.to_string()))?;
        let journal = self.reports.journal.as_ref();
        let response = backend::validate(&request, journal.map(|journal| journal.volume()));
        if let Some(status) = response.status.as_ref().filter(|status| status.code != 0) {
            let refusal = Refusal::new(Reason::Config, &*status.message);
            self.authorizer.counters.refused("InfrastructureBackend", None, &refusal);
        }
        Ok(response.encode_to_vec().into())
    }
}
