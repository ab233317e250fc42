//! Mixer's front end: its services, from a request's bytes to an answer.
//!
//! All it knows of files is the name of one; all it knows of HTTP is a path.

pub mod authorization;
pub mod backend;
pub mod config;
pub mod counters;
pub mod report;
pub mod templates;

pub use records::protobuf::{walk, wire};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use self::counters::Counters;
use self::report::Refusal;
use crate::grpc::messages::Message;
use crate::histogram::Histogram;
use crate::journal::{Failure, Journal, Reason};
use crate::pb::istio::mixer::adapter::model::v1beta1::ValidateRequest;
use crate::policy::Policy;
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
    /// What is counted.
    pub counters: Arc<Counters>,
    /// How many sessions were created.
    pub sessions: AtomicU64,
}

impl Mixer {
    /// Answers one request.
    pub async fn call(&self, method: Method, message: Message) -> Result<Bytes, Status> {
        match method {
            Method::Report(template) => {
                self.report(template, false, message).await.map_err(|refusal| self.refuse(refusal))
            }
            Method::LogEntry => {
                let answer = self.report(&templates::LOGENTRY, true, message).await;
                answer.map_err(|refusal| self.refuse(refusal))
            }
            Method::Authorize => self.authorize(&message.bytes).map_err(|refusal| self.refuse(refusal)),
            Method::CheckNothing => Ok(authorization::allow(&authorization::Terms::default())),
            Method::Validate => {
                let request = ValidateRequest::decode(message.bytes);
                let request = request.map_err(|error| Status::invalid_argument(error.to_string()))?;
                let volume = self.journal.as_ref().map(|journal| journal.volume());
                let response = backend::validate(&request, volume);
                if response.status.as_ref().is_some_and(|status| status.code != 0) {
                    self.counters.refused(report::Cause::Config);
                }
                Ok(response.encode_to_vec().into())
            }
            Method::CreateSession => {
                let id = self.sessions.fetch_add(1, Ordering::Relaxed);
                Ok(backend::create_session(id).encode_to_vec().into())
            }
            Method::CloseSession => Ok(backend::close_session().encode_to_vec().into()),
        }
    }

    /// Counts a refusal and puts it into gRPC's terms. Mixer's log tells of any
    /// of these the same, that it can't connect; the text is for whoever calls
    /// by hand, and for Validate.
    fn refuse(&self, refusal: Refusal) -> Status {
        if let Some(cause) = refusal.cause() {
            self.counters.refused(cause);
        }
        match refusal {
            Refusal::Malformed(reason) => {
                Status::invalid_argument(format!("not a request of this template: {reason}"))
            }
            Refusal::Config(reason) => Status::invalid_argument(reason),
            Refusal::NoVolume => Status::failed_precondition("there is no volume to write to: --volume none"),
            Refusal::Instances => Status::resource_exhausted(format!(
                "more than {} instances in one request; send fewer",
                report::MAX_INSTANCES
            )),
            Refusal::Rendered => Status::resource_exhausted(format!(
                "the request becomes more than {} bytes; send fewer instances",
                report::MAX_RENDERED
            )),
            Refusal::Queue(failure) | Refusal::NotWritten(failure) => status(&failure),
            Refusal::Deadline => {
                Status::deadline_exceeded("the caller's timeout has passed; nothing was written")
            }
        }
    }
}

/// What a caller is told of a record that is not written.
fn status(failure: &Failure) -> Status {
    let text = &*failure.text;
    match failure.reason {
        Reason::Path => Status::invalid_argument(text),
        Reason::Full | Reason::Limit | Reason::Descriptors | Reason::Queue => {
            Status::resource_exhausted(text)
        }
        Reason::Denied => Status::failed_precondition(text),
        Reason::ReadOnly | Reason::Gone | Reason::Stalled | Reason::Io | Reason::Closing => {
            Status::unavailable(text)
        }
    }
}
