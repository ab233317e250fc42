//! The templates whose instances become records: a table each.
//!
//! Adding one is a table here, a path in [`Method::at`](super::Method::at), a
//! file in `proto/mixer/template` and a test.

use super::walk::{Field, Kind, Template};
use crate::render::{Column, Layout};

/// `metric`: a number with its dimensions. The walkthrough's text shows nothing
/// of the monitored resource.
pub const METRIC: Template = Template {
    fields: &[
        Field::new(1, Kind::Value, 0),
        Field::new(2, Kind::Map, 1),
        Field::new(3, Kind::String, 2),
        Field::new(4, Kind::Map, 3),
    ],
    layout: Layout {
        call: "HandleMetric",
        template: "metric",
        columns: &[
            Column::value("Value", "value"),
            Column::value("Dimensions", "dimensions"),
            Column::json("monitored_resource_type"),
            Column::json("monitored_resource_dimensions"),
        ],
    },
};

/// The column of a log entry's variables.
pub const VARIABLES: usize = 2;

/// `logentry`: an access log's entry.
pub const LOGENTRY: Template = Template {
    fields: &[
        Field::new(1, Kind::Map, VARIABLES),
        Field::new(2, Kind::Time, 0),
        Field::new(3, Kind::String, 1),
        Field::new(4, Kind::String, 3),
        Field::new(5, Kind::Map, 4),
    ],
    layout: Layout {
        call: "HandleLogEntry",
        template: "logentry",
        columns: &[
            Column::plain("Timestamp", "timestamp"),
            Column::plain("Severity", "severity"),
            Column::value("Variables", "variables"),
            Column::json("monitored_resource_type"),
            Column::json("monitored_resource_dimensions"),
        ],
    },
};

/// `tracespan`: one span of a distributed trace.
pub const TRACESPAN: Template = Template {
    fields: &[
        Field::new(1, Kind::String, 0),
        Field::new(2, Kind::String, 1),
        Field::new(3, Kind::String, 2),
        Field::new(4, Kind::String, 3),
        Field::new(5, Kind::Time, 4),
        Field::new(6, Kind::Time, 5),
        Field::new(7, Kind::Map, 6),
        Field::new(8, Kind::Int, 7),
        Field::new(9, Kind::Bool, 8),
        Field::new(10, Kind::Bool, 9),
        Field::new(11, Kind::String, 10),
        Field::new(12, Kind::Ip, 11),
        Field::new(13, Kind::String, 12),
        Field::new(14, Kind::Ip, 13),
        Field::new(15, Kind::Int, 14),
        Field::new(16, Kind::Int, 15),
        Field::new(17, Kind::Int, 16),
        Field::new(18, Kind::Int, 17),
        Field::new(19, Kind::String, 18),
    ],
    layout: Layout {
        call: "HandleTraceSpan",
        template: "tracespan",
        columns: &[
            Column::plain("TraceId", "trace_id"),
            Column::plain("SpanId", "span_id"),
            Column::plain("ParentSpanId", "parent_span_id"),
            Column::plain("SpanName", "span_name"),
            Column::plain("StartTime", "start_time"),
            Column::plain("EndTime", "end_time"),
            Column::value("SpanTags", "span_tags"),
            Column::plain("HttpStatusCode", "http_status_code"),
            Column::plain("ClientSpan", "client_span"),
            Column::plain("RewriteClientSpanId", "rewrite_client_span_id"),
            Column::plain("SourceName", "source_name"),
            Column::plain("SourceIp", "source_ip"),
            Column::plain("DestinationName", "destination_name"),
            Column::plain("DestinationIp", "destination_ip"),
            Column::plain("RequestSize", "request_size"),
            Column::plain("RequestTotalSize", "request_total_size"),
            Column::plain("ResponseSize", "response_size"),
            Column::plain("ResponseTotalSize", "response_total_size"),
            Column::plain("ApiProtocol", "api_protocol"),
        ],
    },
};

/// `edge`: who talks to whom.
pub const EDGE: Template = Template {
    fields: &[
        Field::new(1, Kind::Time, 0),
        Field::new(10, Kind::String, 1),
        Field::new(11, Kind::String, 2),
        Field::new(12, Kind::String, 3),
        Field::new(13, Kind::String, 4),
        Field::new(20, Kind::String, 5),
        Field::new(21, Kind::String, 6),
        Field::new(22, Kind::String, 7),
        Field::new(23, Kind::String, 8),
        Field::new(24, Kind::String, 9),
        Field::new(25, Kind::String, 10),
        Field::new(30, Kind::String, 11),
        Field::new(31, Kind::String, 12),
    ],
    layout: Layout {
        call: "HandleEdge",
        template: "edge",
        columns: &[
            Column::plain("Timestamp", "timestamp"),
            Column::plain("SourceWorkloadNamespace", "source_workload_namespace"),
            Column::plain("SourceWorkloadName", "source_workload_name"),
            Column::plain("SourceOwner", "source_owner"),
            Column::plain("SourceUid", "source_uid"),
            Column::plain("DestinationWorkloadNamespace", "destination_workload_namespace"),
            Column::plain("DestinationWorkloadName", "destination_workload_name"),
            Column::plain("DestinationOwner", "destination_owner"),
            Column::plain("DestinationUid", "destination_uid"),
            Column::plain("DestinationServiceNamespace", "destination_service_namespace"),
            Column::plain("DestinationServiceName", "destination_service_name"),
            Column::plain("ContextProtocol", "context_protocol"),
            Column::plain("ApiProtocol", "api_protocol"),
        ],
    },
};

/// `reportnothing`: a name and nothing else.
pub const REPORTNOTHING: Template = Template {
    fields: &[],
    layout: Layout { call: "HandleReportNothing", template: "reportnothing", columns: &[] },
};

/// The templates of the report family, in the order of their counters.
pub const REPORTS: [&Template; 5] = [&METRIC, &LOGENTRY, &TRACESPAN, &EDGE, &REPORTNOTHING];

/// The column of an authorization's verdict, and of its subject's properties.
pub const VERDICT: usize = 0;
/// See [`VERDICT`].
pub const SUBJECT_PROPERTIES: usize = 3;

/// `authorization`: who asks, what for, and what we answered.
pub const AUTHORIZATION: Template = Template {
    fields: &[
        Field::new(
            1,
            Kind::Message(&[
                Field::new(1, Kind::String, 1),
                Field::new(2, Kind::String, 2),
                Field::new(3, Kind::Map, SUBJECT_PROPERTIES),
            ]),
            VERDICT,
        ),
        Field::new(
            2,
            Kind::Message(&[
                Field::new(1, Kind::String, 4),
                Field::new(2, Kind::String, 5),
                Field::new(3, Kind::String, 6),
                Field::new(4, Kind::String, 7),
                Field::new(5, Kind::Map, 8),
            ]),
            VERDICT,
        ),
    ],
    layout: Layout {
        call: "HandleAuthorization",
        template: "authorization",
        columns: &[
            Column::plain("Verdict", "verdict"),
            Column::plain("User", "user"),
            Column::plain("Groups", "groups"),
            Column::value("SubjectProperties", "subject_properties"),
            Column::plain("Namespace", "namespace"),
            Column::plain("Service", "service"),
            Column::plain("Method", "method"),
            Column::plain("Path", "path"),
            Column::value("ActionProperties", "action_properties"),
        ],
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(fields: &[Field], filled: &mut Vec<usize>) {
        for field in fields {
            match field.kind {
                Kind::Message(inner) => columns(inner, filled),
                _ => filled.push(field.column),
            }
        }
    }

    #[test]
    fn every_column_is_filled_by_one_field() {
        for template in REPORTS.into_iter().chain([&AUTHORIZATION]) {
            let mut filled = Vec::new();
            columns(template.fields, &mut filled);
            if template.layout.template == "authorization" {
                filled.push(VERDICT);
            }
            filled.sort_unstable();
            let all: Vec<usize> = (0..template.layout.columns.len()).collect();
            assert_eq!(filled, all, "{}", template.layout.template);
        }
    }
}
