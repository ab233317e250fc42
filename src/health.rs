//! `grpc.health.v1`: whether we serve, as a whole and by service.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::pb::grpc::health::v1::health_check_response::ServingStatus;
use crate::pb::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};

/// The path of the call that asks once.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";
/// The path of the call that is told at each change.
pub const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// What is told to one who watches.
pub type Statuses = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

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

/// The state everyone is told.
#[derive(Clone, Debug)]
pub struct Health {
    phase: Arc<watch::Sender<Phase>>,
    services: &'static [&'static str],
}

impl Health {
    /// Serving, as a whole and each of `services`.
    pub fn new(services: &'static [&'static str]) -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Serving)), services }
    }

    /// Moves on to another phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Tells of the phase now and of each change.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }

    /// Answers one Check.
    pub fn check(&self, message: &Bytes) -> Result<Bytes, Status> {
        if self.knows(&requested(message)?) {
            Ok(response(status(*self.phase.borrow())))
        } else {
            Err(Status::not_found("no service of that name is served here"))
        }
    }

    /// Answers a Watch: the status now and at each change, until the caller
    /// leaves or the connections close.
    pub fn watch(&self, message: &Bytes) -> Result<Statuses, Status> {
        let known = self.knows(&requested(message)?);
        let phases = WatchStream::new(self.phase.subscribe());
        let open = phases.take_while(|phase| *phase != Phase::Closing);
        Ok(Box::pin(open.map(move |phase| {
            Ok(response(if known { status(phase) } else { ServingStatus::ServiceUnknown }))
        })))
    }
}

/// Waits until connections are to close.
pub async fn closing(phases: &mut watch::Receiver<Phase>) {
    let _ = phases.wait_for(|phase| *phase == Phase::Closing).await;
}

fn status(phase: Phase) -> ServingStatus {
    if phase == Phase::Serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn requested(message: &Bytes) -> Result<String, Status> {
    let request = HealthCheckRequest::decode(message.as_ref());
    request.map(|request| request.service).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn response(status: ServingStatus) -> Bytes {
    HealthCheckResponse { status: status.into() }.encode_to_vec().into()
}
