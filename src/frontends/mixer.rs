//! Mixer's front end: its services, from a request's bytes to an answer.
//!
//! All it knows of files is the name of one; all it knows of HTTP is a path.

pub mod authorization;
pub mod backend;
pub mod config;
pub mod instances;
pub mod latency;
pub mod report;
pub mod templates;

pub use records::protobuf::{walk, wire};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use prost::Message as _;

use self::instances::Instances;
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
    /// The same, and adds them to the histogram.
    LogEntry,
    /// Allows or denies.
    Authorize,
    /// Allows.
    CheckNothing,
    /// Says what is wrong with a handler's params.
    Validate,
    /// Begins a session.
    CreateSession,
    /// Ends a session.
    CloseSession,
}

/// What requests need to be answered.
#[derive(Debug)]
pub struct Mixer {
    /// Where records go, unless there is no volume.
    pub journal: Option<Arc<Journal>>,
    /// What log entries are added to.
    pub histogram: Arc<Histogram>,
    /// Rules for all handlers, beside their own keys.
    pub policy: Arc<Policy>,
    /// What all front ends count.
    pub counters: Arc<Counters>,
    /// Instances by template.
    pub instances: Arc<Instances>,
    /// How many sessions were created.
    pub sessions: AtomicU64,
}

impl Mixer {
    /// Answers one request. Mixer's log tells of any refusal the same, that it
    /// can't connect; the text is for whoever calls by hand, and for Validate.
    pub async fn call<H>(&self, method: Method, message: Message<H>) -> Result<Bytes, Refusal> {
        match method {
            Method::Report(template) => self.report(template, false, message).await,
            Method::LogEntry => self.report(&templates::LOGENTRY, true, message).await,
            Method::Authorize => self.authorize(&message.bytes),
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
        let response = backend::validate(&request, self.journal.as_ref().map(|journal| journal.volume()));
        if response.status.as_ref().is_some_and(|status| status.code != 0) {
            self.counters.refused(Reason::Config);
        }
        Ok(response.encode_to_vec().into())
    }
}
