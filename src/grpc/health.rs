//! `grpc.health.v1`: the health of the server and of each service.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

use super::reply::Replies;
use super::routes::{self, Service};
use crate::metrics::{Export, Page};
use crate::pb::grpc::health::v1::health_check_response::ServingStatus;
use crate::pb::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};

/// The path of the unary call.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";

/// The phases of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Accepting requests.
    Serving,
    /// Still accepting requests, but shutting down.
    Draining,
    /// Connections and watches are shut down.
    Closing,
}

/// The state behind all answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The phase of the server.
    pub phase: Phase,
    /// Whether reports can be written.
    pub reports: bool,
}

/// The state, and its subscribers.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<watch::Sender<State>>,
    services: &'static [Service],
}

impl Health {
    /// Serving, for the server and each of `services`.
    pub fn new(services: &'static [Service]) -> Self {
        let state = State { phase: Phase::Serving, reports: true };
        Self { state: Arc::new(watch::Sender::new(state)), services }
    }

    /// Enters another phase.
    pub fn enter(&self, phase: Phase) {
        self.state.send_modify(|state| state.phase = phase);
    }

    /// Sets whether reports can be written.
    pub fn set_reports(&self, well: bool) {
        self.state.send_if_modified(|state| std::mem::replace(&mut state.reports, well) != well);
    }

    /// The current state.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Subscribes to the current state and every change.
    pub fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Whether the named service needs the volume, if there is one; `None` if it does
    /// not exist. The empty name is the server as a whole, which does not need it.
    fn needs_volume(&self, name: &str) -> Option<bool> {
        if name.is_empty() {
            return Some(false);
        }
        let service = self.services.iter().find(|service| service.name == name)?;
        Some(service.needs_volume)
    }

    /// Whether the named service serves; `None` if it does not exist. The empty name is
    /// the server as a whole.
    pub fn serves(&self, name: &str) -> Option<bool> {
        let needs_volume = self.needs_volume(name)?;
        Some(status(self.state(), needs_volume) == ServingStatus::Serving)
    }

    /// Answers a Check.
    pub fn check(&self, message: &Bytes) -> Result<Bytes, Status> {
        match self.needs_volume(&requested(message)?) {
            Some(needs_volume) => Ok(response(status(self.state(), needs_volume))),
            None => Err(Status::not_found(format!("no such service; there are {}", routes::names()))),
        }
    }

    /// Answers a Watch: the current status and every change, until the caller cancels
    /// or the connection shuts down.
    pub fn watch(&self, message: &Bytes, closing: watch::Receiver<bool>) -> Result<Replies, Status> {
        let known = self.needs_volume(&requested(message)?);
        let states = WatchStream::new(self.state.subscribe()).map(Some);
        let closing = WatchStream::new(closing).filter(|closing| *closing).map(|_| None);
        let open = states.merge(closing).map_while(|state| state);
        let mut told = None;
        Ok(Box::pin(open.filter_map(move |state| {
            let now = known.map_or(ServingStatus::ServiceUnknown, |needs_volume| status(state, needs_volume));
            (told.replace(now) != Some(now)).then(|| response(now))
        })))
    }
}

impl Export for Health {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        let state = self.state();
        let draining = state.phase != Phase::Serving;
        page.gauge(
            "mygrpcadapter_reports_serving",
            "1 while reports can be written.",
            f64::from(u8::from(state.reports)),
        );
        page.gauge("mygrpcadapter_draining", "1 once asked to stop.", f64::from(u8::from(draining)));
        None
    }
}

/// Waits for the Closing phase.
pub async fn closing(states: &mut watch::Receiver<State>) {
    let _ = states.wait_for(|state| state.phase == Phase::Closing).await;
}

fn status(state: State, needs_volume: bool) -> ServingStatus {
    let serving = state.phase == Phase::Serving && (state.reports || !needs_volume);
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn requested(message: &Bytes) -> Result<String, Status> {
    let request = HealthCheckRequest::decode(message.as_ref());
    request.map(|request| request.service).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn response(status: ServingStatus) -> Bytes {
    HealthCheckResponse { status: status.into() }.encode_to_vec().into()
}
