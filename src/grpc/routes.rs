//! The routes: from a request's path to the handler of its method.

use tonic::Code;

use super::budget::{MAX_MESSAGE, Terms};
use crate::frontends::mixer::{Method, templates};

/// Size limit of a health request.
const MAX_HEALTH_MESSAGE: usize = 4 * 1024;

/// A gRPC service.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Its full name.
    pub name: &'static str,
    /// Whether it cannot work without the volume.
    pub needs_volume: bool,
    /// Its methods: names and handlers.
    pub methods: &'static [(&'static str, Handler)],
}

/// The handler of a method.
#[derive(Clone, Copy, Debug)]
pub enum Handler {
    /// The health service's unary call.
    Check,
    /// The health service's stream.
    Watch,
    /// Mixer's front end.
    Mixer(Method),
    /// Envoy's access logs, a stream.
    AccessLog,
    /// OpenTelemetry's log records.
    LogRecords,
    /// Envoy's external authorization.
    ExtAuthz,
}

impl Handler {
    pub(super) fn max_message(self) -> usize {
        match self {
            Self::Check | Self::Watch => MAX_HEALTH_MESSAGE,
            Self::Mixer(_) | Self::AccessLog | Self::LogRecords | Self::ExtAuthz => MAX_MESSAGE,
        }
    }

    /// Whether its callers need no token.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Check | Self::Watch)
    }

    /// How its calls are treated when room is short. OpenTelemetry exporters retry
    /// only after UNAVAILABLE.
    pub(super) fn terms(self, needs_volume: bool) -> Terms {
        let is_export = matches!(self, Self::LogRecords);
        let refusal = if is_export { Code::Unavailable } else { Code::ResourceExhausted };
        Terms { reserve: !needs_volume, refusal }
    }

    /// Whether its messages may be compressed with gzip: SDKs and collectors do so,
    /// Mixer and Envoy never.
    pub(super) fn unpacks(self) -> bool {
        matches!(self, Self::LogRecords)
    }
}

/// The names of all services, for messages.
pub fn names() -> String {
    SERVICES.map(|service| service.name).join(", ")
}

/// The routes. Health and call counters have an entry for each service.
pub const SERVICES: [Service; 12] = [
    Service {
        name: "metric.HandleMetricService",
        needs_volume: true,
        methods: &[("HandleMetric", Handler::Mixer(Method::Report(&templates::METRIC)))],
    },
    Service {
        name: "logentry.HandleLogEntryService",
        needs_volume: true,
        methods: &[("HandleLogEntry", Handler::Mixer(Method::LogEntry))],
    },
    Service {
        name: "authorization.HandleAuthorizationService",
        needs_volume: false,
        methods: &[("HandleAuthorization", Handler::Mixer(Method::Authorize))],
    },
    Service {
        name: "tracespan.HandleTraceSpanService",
        needs_volume: true,
        methods: &[("HandleTraceSpan", Handler::Mixer(Method::Report(&templates::TRACESPAN)))],
    },
    Service {
        name: "edge.HandleEdgeService",
        needs_volume: true,
        methods: &[("HandleEdge", Handler::Mixer(Method::Report(&templates::EDGE)))],
    },
    Service {
        name: "reportnothing.HandleReportNothingService",
        needs_volume: true,
        methods: &[("HandleReportNothing", Handler::Mixer(Method::Report(&templates::REPORTNOTHING)))],
    },
    Service {
        name: "checknothing.HandleCheckNothingService",
        needs_volume: false,
        methods: &[("HandleCheckNothing", Handler::Mixer(Method::CheckNothing))],
    },
    Service {
        name: "istio.mixer.adapter.model.v1beta1.InfrastructureBackend",
        needs_volume: false,
        methods: &[
            ("Validate", Handler::Mixer(Method::Validate)),
            ("CreateSession", Handler::Mixer(Method::CreateSession)),
            ("CloseSession", Handler::Mixer(Method::CloseSession)),
        ],
    },
    Service {
        name: "envoy.service.accesslog.v3.AccessLogService",
        needs_volume: true,
        methods: &[("StreamAccessLogs", Handler::AccessLog)],
    },
    Service {
        name: "opentelemetry.proto.collector.logs.v1.LogsService",
        needs_volume: true,
        methods: &[("Export", Handler::LogRecords)],
    },
    Service {
        name: "envoy.service.auth.v3.Authorization",
        needs_volume: false,
        methods: &[("Check", Handler::ExtAuthz)],
    },
    Service {
        name: "grpc.health.v1.Health",
        needs_volume: false,
        methods: &[("Check", Handler::Check), ("Watch", Handler::Watch)],
    },
];

/// The handler of the method at a path, and its service's index in [`SERVICES`].
pub(super) fn route(path: &str) -> Option<(usize, Handler)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let at = SERVICES.iter().position(|known| known.name == service)?;
    let (_, handler) = SERVICES[at].methods.iter().find(|(name, _)| *name == method)?;
    Some((at, *handler))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_and_no_other() {
        for (at, service) in SERVICES.iter().enumerate() {
            for (method, _) in service.methods {
                assert_eq!(route(&format!("/{}/{method}", service.name)).map(|found| found.0), Some(at));
            }
            assert!(route(&format!("/{}/", service.name)).is_none());
            assert!(route(&format!("/{}", service.name)).is_none());
        }
    }
}
