//! The templates whose instances become records, one table each.
//!
//! A new template needs a table here, its method in [`super::Method`], and its
//! definition in `proto/mixer/template`. A test compares the tables with the
//! definitions.

use crate::template::{Column, Kind, Template};

/// `metric`: a number with its dimensions. The walkthrough's text omits the monitored
/// resource.
pub const METRIC: Template = Template {
    call: "HandleMetric",
    name: "metric",
    columns: &[
        Column::new(1, Kind::Value, "Value", "value"),
        Column::new(2, Kind::Map, "Dimensions", "dimensions"),
        Column::new(3, Kind::String, "", "monitored_resource_type"),
        Column::new(4, Kind::Map, "", "monitored_resource_dimensions"),
    ],
};

/// The column of a log entry's variables.
pub const VARIABLES: usize = 2;

/// `logentry`: an access log's entry.
pub const LOGENTRY: Template = Template {
    call: "HandleLogEntry",
    name: "logentry",
    columns: &[
        Column::new(2, Kind::Time, "Timestamp", "timestamp"),
        Column::new(3, Kind::String, "Severity", "severity"),
        Column::new(1, Kind::Map, "Variables", "variables"),
        Column::new(4, Kind::String, "", "monitored_resource_type"),
        Column::new(5, Kind::Map, "", "monitored_resource_dimensions"),
    ],
};

/// `tracespan`: one span of a distributed trace.
pub const TRACESPAN: Template = Template {
    call: "HandleTraceSpan",
    name: "tracespan",
    columns: &[
        Column::new(1, Kind::String, "TraceId", "trace_id"),
        Column::new(2, Kind::String, "SpanId", "span_id"),
        Column::new(3, Kind::String, "ParentSpanId", "parent_span_id"),
        Column::new(4, Kind::String, "SpanName", "span_name"),
        Column::new(5, Kind::Time, "StartTime", "start_time"),
        Column::new(6, Kind::Time, "EndTime", "end_time"),
        Column::new(7, Kind::Map, "SpanTags", "span_tags"),
        Column::new(8, Kind::Int, "HttpStatusCode", "http_status_code"),
        Column::new(9, Kind::Bool, "ClientSpan", "client_span"),
        Column::new(10, Kind::Bool, "RewriteClientSpanId", "rewrite_client_span_id"),
        Column::new(11, Kind::String, "SourceName", "source_name"),
        Column::new(12, Kind::Ip, "SourceIp", "source_ip"),
        Column::new(13, Kind::String, "DestinationName", "destination_name"),
        Column::new(14, Kind::Ip, "DestinationIp", "destination_ip"),
        Column::new(15, Kind::Int, "RequestSize", "request_size"),
        Column::new(16, Kind::Int, "RequestTotalSize", "request_total_size"),
        Column::new(17, Kind::Int, "ResponseSize", "response_size"),
        Column::new(18, Kind::Int, "ResponseTotalSize", "response_total_size"),
        Column::new(19, Kind::String, "ApiProtocol", "api_protocol"),
    ],
};

/// `edge`: a source and a destination.
pub const EDGE: Template = Template {
    call: "HandleEdge",
    name: "edge",
    columns: &[
        Column::new(1, Kind::Time, "Timestamp", "timestamp"),
        Column::new(10, Kind::String, "SourceWorkloadNamespace", "source_workload_namespace"),
        Column::new(11, Kind::String, "SourceWorkloadName", "source_workload_name"),
        Column::new(12, Kind::String, "SourceOwner", "source_owner"),
        Column::new(13, Kind::String, "SourceUid", "source_uid"),
        Column::new(20, Kind::String, "DestinationWorkloadNamespace", "destination_workload_namespace"),
        Column::new(21, Kind::String, "DestinationWorkloadName", "destination_workload_name"),
        Column::new(22, Kind::String, "DestinationOwner", "destination_owner"),
        Column::new(23, Kind::String, "DestinationUid", "destination_uid"),
        Column::new(24, Kind::String, "DestinationServiceNamespace", "destination_service_namespace"),
        Column::new(25, Kind::String, "DestinationServiceName", "destination_service_name"),
        Column::new(30, Kind::String, "ContextProtocol", "context_protocol"),
        Column::new(31, Kind::String, "ApiProtocol", "api_protocol"),
    ],
};

/// `reportnothing`: only a name.
pub const REPORTNOTHING: Template =
    Template { call: "HandleReportNothing", name: "reportnothing", columns: &[] };

/// The templates of the report family, in the order of their counters.
pub const REPORTS: [&Template; 5] = [&METRIC, &LOGENTRY, &TRACESPAN, &EDGE, &REPORTNOTHING];

/// The column of an authorization's verdict, and of its subject's properties.
pub const VERDICT: usize = 0;
/// See [`VERDICT`].
pub const SUBJECT_PROPERTIES: usize = 3;
/// The fields of an authorization's two messages.
const SUBJECT: i32 = 1;
const ACTION: i32 = 2;

/// `authorization`: subject, action, and the verdict.
pub const AUTHORIZATION: Template = Template {
    call: "HandleAuthorization",
    name: "authorization",
    columns: &[
        Column::new(0, Kind::String, "Verdict", "verdict"),
        Column::new(1, Kind::String, "User", "user").of(SUBJECT),
        Column::new(2, Kind::String, "Groups", "groups").of(SUBJECT),
        Column::new(3, Kind::Map, "SubjectProperties", "subject_properties").of(SUBJECT),
        Column::new(1, Kind::String, "Namespace", "namespace").of(ACTION),
        Column::new(2, Kind::String, "Service", "service").of(ACTION),
        Column::new(3, Kind::String, "Method", "method").of(ACTION),
        Column::new(4, Kind::String, "Path", "path").of(ACTION),
        Column::new(5, Kind::Map, "ActionProperties", "action_properties").of(ACTION),
    ],
};
