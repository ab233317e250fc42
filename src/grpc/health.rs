//! `grpc.health.v1`: whether we serve, as a whole and by service.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

use super::reply::Replies;
use super::routes::Service;
use crate::metrics::{Export, Page};
use crate::pb::grpc::health::v1::health_check_response::ServingStatus;
use crate::pb::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};

/// The path of the call that asks once.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";

/// Where the server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Taking requests.
    Serving,
    /// Still taking requests, but asked to go.
    Draining,
    /// Connections are told to close, watchers with them.
    Closing,
}

/// What everyone is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Where the server is in its life.
    pub phase: Phase,
    /// Whether reports can be written.
    pub reports: bool,
}

/// The state, and who is told of it.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<watch::Sender<State>>,
    services: &'static [Service],
}

impl Health {
    /// Serving, as a whole and each of `services`.
    pub fn new(services: &'static [Service]) -> Self {
        let state = State { phase: Phase::Serving, reports: true };
        Self { state: Arc::new(watch::Sender::new(state)), services }
    }

    /// Moves on to another phase.
    pub fn enter(&self, phase: Phase) {
        self.state.send_modify(|state| state.phase = phase);
    }

    /// Notes whether reports can be written.
    pub fn set_reports(&self, well: bool) {
        self.state.send_if_modified(|state| std::mem::replace(&mut state.reports, well) != well);
    }

    /// The state now.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Tells of the state now and of each change.
    pub fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Whether the service of that name needs the volume, if there is one; the
    /// empty name is the server as a whole and doesn't.
    fn needs_volume(&self, name: &str) -> Option<bool> {
        if name.is_empty() {
            return Some(false);
        }
        let service = self.services.iter().find(|service| service.name == name)?;
        Some(service.needs_volume)
    }

    /// Whether the service of that name serves, the empty name being the server
    /// as a whole; `None` if there is no such service.
    pub fn serves(&self, name: &str) -> Option<bool> {
        let needs_volume = self.needs_volume(name)?;
        Some(status(self.state(), needs_volume) == ServingStatus::Serving)
    }

    /// Answers one Check.
    pub fn check(&self, message: &Bytes) -> Result<Bytes, Status> {
        match self.needs_volume(&requested(message)?) {
            Some(needs_volume) => Ok(response(status(self.state(), needs_volume))),
            None => Err(Status::not_found("no service of that name is served here")),
        }
    }

    /// Answers a Watch: the status now and at each change, until the caller
    /// leaves or the connection is to close.
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

/// Waits until connections are to close.
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
