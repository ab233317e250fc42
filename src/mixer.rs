//! Mixer's front end: its services, from a request's bytes to an answer.
//!
//! All it knows of files is the name of one; all it knows of HTTP is a path.

pub mod backend;
pub mod config;
pub mod report;
pub mod templates;
pub mod walk;
pub mod wire;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::time::Sleep;
use tonic::Status;

use self::report::{Refusal, Report};
use self::walk::Template;
use crate::admission::Share;
use crate::health::{Health, Service};
use crate::pb::istio::mixer::adapter::model::v1beta1::ValidateRequest;
use crate::render::Format;
use crate::sink::trouble::{Failure, Reason};
use crate::sink::{Outcome, Sink};
use crate::volume::{FilePath, Volume};

/// The services of this front end.
pub const SERVICES: [Service; 2] = [
    Service { name: "metric.HandleMetricService", needs_volume: true },
    Service { name: "istio.mixer.adapter.model.v1beta1.InfrastructureBackend", needs_volume: false },
];

/// The sink, answering through channels.
pub type ReportSink = Sink<oneshot::Sender<Outcome>>;

/// A request's message, with what it holds of the bounds.
#[derive(Debug)]
pub struct Message {
    /// The message as it came.
    pub bytes: Bytes,
    /// Its share of the bounds.
    pub share: Share,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
}

/// A method of this front end.
#[derive(Clone, Copy, Debug)]
pub enum Method {
    /// Appends the instances of a template to a file.
    Report(&'static Template),
    /// Says what is wrong with a handler's params.
    Validate,
    /// Begins a session.
    CreateSession,
    /// Ends a session.
    CloseSession,
}

impl Method {
    /// The method at a gRPC path.
    pub fn at(path: &str) -> Option<Self> {
        match path {
            "/metric.HandleMetricService/HandleMetric" => Some(Self::Report(&templates::METRIC)),
            _ => match path.strip_prefix("/istio.mixer.adapter.model.v1beta1.InfrastructureBackend/")? {
                "Validate" => Some(Self::Validate),
                "CreateSession" => Some(Self::CreateSession),
                "CloseSession" => Some(Self::CloseSession),
                _ => None,
            },
        }
    }
}

/// What requests need to be answered.
#[derive(Debug)]
pub struct Mixer {
    /// Where reports go.
    pub sink: ReportSink,
    /// What confines their paths.
    pub volume: Volume,
    /// The file of handlers that name none.
    pub default_file: FilePath,
    /// What records look like where the handler doesn't say.
    pub format: Format,
    /// How long a request waits for room in the queue.
    pub queue_timeout: Duration,
    /// How many sessions were created.
    pub sessions: AtomicU64,
}

impl Mixer {
    /// Answers one request.
    pub async fn call(&self, method: Method, message: Message) -> Result<Bytes, Status> {
        match method {
            Method::Report(template) => self.report(template, message).await,
            Method::Validate => {
                let request = ValidateRequest::decode(message.bytes);
                let request = request.map_err(|error| Status::invalid_argument(error.to_string()))?;
                Ok(backend::validate(&request, &self.volume).encode_to_vec().into())
            }
            Method::CreateSession => {
                let id = self.sessions.fetch_add(1, Ordering::Relaxed);
                Ok(backend::create_session(id).encode_to_vec().into())
            }
            Method::CloseSession => Ok(backend::close_session().encode_to_vec().into()),
        }
    }

    /// Renders a report into the sink and waits until it is in its file. An
    /// empty message is the whole answer.
    async fn report(&self, template: &Template, message: Message) -> Result<Bytes, Status> {
        if !self.sink.has_room() {
            self.wait_for_room().await?;
        }
        if message.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Status::deadline_exceeded("the caller's timeout has passed; nothing was written"));
        }
        let (ticket, outcome) = oneshot::channel();
        self.queue(template, &message.bytes, ticket).map_err(refused)?;
        drop(message);
        match outcome.await {
            Ok(Ok(())) => Ok(Bytes::new()),
            Ok(Err(failure)) => Err(failed(&failure)),
            Err(_) => Err(Status::unavailable("shutting down before the report was written")),
        }
    }

    fn queue(
        &self,
        template: &Template,
        message: &[u8],
        ticket: oneshot::Sender<Outcome>,
    ) -> Result<(), Refusal> {
        let report = Report::read(message)?;
        let path = match report.config.file_path() {
            b"" => self.default_file.clone(),
            text => self.volume.resolve(text).map_err(Refusal::Config)?,
        };
        let format = report.config.format().unwrap_or(self.format);
        self.sink.append(&path, format, ticket, |out| report.render(template, format, out))
    }

    async fn wait_for_room(&self) -> Result<(), Status> {
        let room = async {
            while !self.sink.has_room() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(self.queue_timeout, room).await;
        waited
            .map_err(|_| Status::resource_exhausted("the queue to the volume is full; it is slow or stalled"))
    }
}

/// Passes outcomes from the writer on to the requests that wait, and what they
/// say of the volume on to `health`. Ends with the runtime.
pub async fn deliver(mixer: &Mixer, health: &Health, stall: Duration) {
    // Set while the writer is at work: one timer at a time, none when idle.
    let mut alarm: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        let turn = mixer.sink.turn(context.waker());
        for (ticket, outcome) in turn.done {
            // The caller may have gone; its report is in the file all the same.
            let _ = ticket.send(outcome);
        }
        health.set_reports(turn.well);
        if alarm.is_none() && turn.busy_since.is_some() {
            alarm = Some(Box::pin(tokio::time::sleep(stall)));
        }
        if let Some(sleep) = &mut alarm
            && sleep.as_mut().poll(context).is_ready()
        {
            alarm = None;
            if turn.busy_since.is_some_and(|since| since.elapsed() >= stall) {
                mixer.sink.stall();
            }
            context.waker().wake_by_ref();
        }
        Poll::<()>::Pending
    })
    .await;
}

/// Mixer tells its log of any of these the same: it can't connect. The text is
/// for whoever calls us by hand, and for Validate.
fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Malformed(reason) => {
            Status::invalid_argument(format!("not a request of this template: {reason}"))
        }
        Refusal::Config(reason) => Status::invalid_argument(reason),
        Refusal::Instances => Status::resource_exhausted(format!(
            "more than {} instances in one request; send fewer",
            report::MAX_INSTANCES
        )),
        Refusal::Rendered => Status::resource_exhausted(format!(
            "the request becomes more than {} bytes; send fewer instances",
            report::MAX_RENDERED
        )),
    }
}

fn failed(failure: &Failure) -> Status {
    let text = &*failure.text;
    match failure.reason {
        Reason::Path => Status::invalid_argument(text),
        Reason::Full | Reason::Limit | Reason::Descriptors => Status::resource_exhausted(text),
        Reason::Denied => Status::failed_precondition(text),
        Reason::ReadOnly | Reason::Gone | Reason::Stalled | Reason::Io => Status::unavailable(text),
    }
}
