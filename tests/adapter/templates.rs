//! The other report templates: each in text and in JSON, against prost's reading of
//! the same bytes.

use std::collections::HashMap;
use std::path::Path;

use mygrpcadapter::frontends::mixer::templates::{AUTHORIZATION, REPORTS};
use mygrpcadapter::pb::google::protobuf::Timestamp;
use mygrpcadapter::pb::istio::mixer::adapter::model::v1beta1::CheckResult;
use mygrpcadapter::pb::istio::policy::v1beta1::{IpAddress, TimeStamp, Value};
use mygrpcadapter::pb::{checknothing, edge, reportnothing, tracespan};
use mygrpcadapter::template::Kind;
use prost::Message;
use prost_types::FileDescriptorProto;
use prost_types::field_descriptor_proto::Type;
use serde_json::Value as Json;

use crate::json::{asked, head, is_map, members, objects};
use crate::properties::reference;
use crate::support::message::{METRIC, WALKTHROUGH, number, own, params, request, span, text, with_config};
use crate::support::{Adapter, INVALID_ARGUMENT, OK, Reply};

const TRACESPAN: &str = "/tracespan.HandleTraceSpanService/HandleTraceSpan";
const EDGE: &str = "/edge.HandleEdgeService/HandleEdge";
const REPORTNOTHING: &str = "/reportnothing.HandleReportNothingService/HandleReportNothing";
const CHECKNOTHING: &str = "/checknothing.HandleCheckNothingService/HandleCheckNothing";

/// Sends a message as text and as JSON, and returns both files.
async fn written(path: &str, message: &[u8]) -> (String, Vec<Json>) {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for config in [params(WALKTHROUGH, b"a.txt"), own(&asked("a.json"))] {
        let reply = client.unary(path, &with_config(message, &config)).await.unwrap();
        assert_eq!(reply, Reply::default());
    }
    (String::from_utf8(adapter.read("a.txt")).unwrap(), objects(&adapter.read("a.json")))
}

/// The text of a request, from the lines of each of its instances.
pub fn blocks(call: &str, file: &str, instances: &[(&str, Vec<(&str, String)>)]) -> String {
    let mut text =
        format!("{call} invoked with:\n  Adapter config: &Params{{FilePath:{file},}}\n  Instances: ");
    for (name, lines) in instances {
        text += &format!("'{name}':\n  {{\n");
        for (label, shown) in lines {
            text += &format!("\t\t{label} = {shown}\n");
        }
        text += "  }";
    }
    text + "\n"
}

fn moment(nanos: i32) -> TimeStamp {
    TimeStamp { value: Some(Timestamp { seconds: 1_538_912_940, nanos }) }
}

fn tags() -> HashMap<String, Value> {
    [("path", text("/a b")), ("code", number(-7)), ("took", span(1_500_000)), ("none", Value::default())]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
}

fn trace_span() -> tracespan::InstanceMsg {
    tracespan::InstanceMsg {
        name: "span.instance.istio-system".into(),
        trace_id: "463ac35c9f6413ad48485a3953bb6124".into(),
        span_id: "a2fb4a1d1a96d312".into(),
        parent_span_id: "0020000000000001".into(),
        span_name: "productpage GET /".into(),
        start_time: Some(moment(1)),
        end_time: Some(moment(120_000_000)),
        span_tags: tags(),
        http_status_code: 200,
        client_span: true,
        rewrite_client_span_id: false,
        source_name: "ingress".into(),
        source_ip: Some(IpAddress { value: vec![10, 4, 1, 2] }),
        destination_name: "productpage".into(),
        destination_ip: Some(IpAddress {
            value: vec![0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        }),
        request_size: 17,
        request_total_size: 1 << 40,
        response_size: -1,
        response_total_size: 4183,
        api_protocol: "grpc".into(),
    }
}

/// The columns of a trace span: label, key, value of [`trace_span`], and value of an
/// empty one.
const SPAN_COLUMNS: [(&str, &str, &str, &str); 18] = [
    ("TraceId", "trace_id", "463ac35c9f6413ad48485a3953bb6124", ""),
    ("SpanId", "span_id", "a2fb4a1d1a96d312", ""),
    ("ParentSpanId", "parent_span_id", "0020000000000001", ""),
    ("SpanName", "span_name", "productpage GET /", ""),
    ("StartTime", "start_time", "2018-10-07T11:49:00.000000001Z", "<nil>"),
    ("EndTime", "end_time", "2018-10-07T11:49:00.12Z", "<nil>"),
    ("HttpStatusCode", "http_status_code", "200", "0"),
    ("ClientSpan", "client_span", "true", "false"),
    ("RewriteClientSpanId", "rewrite_client_span_id", "false", "false"),
    ("SourceName", "source_name", "ingress", ""),
    ("SourceIp", "source_ip", "10.4.1.2", "<nil>"),
    ("DestinationName", "destination_name", "productpage", ""),
    ("DestinationIp", "destination_ip", "2001:db8::1", "<nil>"),
    ("RequestSize", "request_size", "17", "0"),
    ("RequestTotalSize", "request_total_size", "1099511627776", "0"),
    ("ResponseSize", "response_size", "-1", "0"),
    ("ResponseTotalSize", "response_total_size", "4183", "0"),
    ("ApiProtocol", "api_protocol", "grpc", ""),
];

#[tokio::test]
async fn trace_spans_are_shown_field_by_field() {
    let bare = tracespan::InstanceMsg { name: "bare".into(), ..Default::default() };
    let instances = vec![trace_span(), bare];
    let request = tracespan::HandleTraceSpanRequest { instances, ..Default::default() };
    let (shown, objects) = written(TRACESPAN, &request.encode_to_vec()).await;
    let lines = |full: bool| {
        let line = |column: (&'static str, &str, &str, &str)| {
            (column.0, if full { column.2 } else { column.3 }.to_owned())
        };
        let mut lines = SPAN_COLUMNS.map(line).to_vec();
        let tags = if full { reference::map(&tags()) } else { "map[]".into() };
        lines.insert(6, ("SpanTags", tags));
        lines
    };
    let instances = [("span.instance.istio-system", lines(true)), ("bare", lines(false))];
    assert_eq!(shown, blocks("HandleTraceSpan", "a.txt", &instances));

    // Numbers and booleans keep their type; all else is a string or null.
    let typed = |key: &str, text: &str| match text {
        "<nil>" => Json::Null,
        "true" | "false" => Json::from(text == "true"),
        _ if key.contains("_size") || key == "http_status_code" => text.parse::<i64>().unwrap().into(),
        _ => text.into(),
    };
    let [first, second] = &objects[..] else { panic!("two objects") };
    head(first, "span.instance.istio-system", "tracespan");
    head(second, "bare", "tracespan");
    for (_, key, full, bare) in SPAN_COLUMNS {
        assert_eq!((&first[key], &second[key]), (&typed(key, full), &typed(key, bare)), "{key}");
    }
    assert!(is_map(&first["span_tags"], &tags()) && is_map(&second["span_tags"], &HashMap::new()));
    let keys: Vec<_> = SPAN_COLUMNS.iter().map(|column| column.1).chain(["span_tags"]).collect();
    members(first, &keys);
    members(second, &keys);
}

#[tokio::test]
async fn edges_are_shown_field_by_field() {
    let instance = edge::InstanceMsg {
        name: "edge.instance.istio-system".into(),
        timestamp: Some(moment(500_000_000)),
        source_workload_namespace: "a".into(),
        source_workload_name: "b".into(),
        source_owner: "c".into(),
        source_uid: "kubernetes://d".into(),
        destination_workload_namespace: "e".into(),
        destination_workload_name: "f".into(),
        destination_owner: "g".into(),
        destination_uid: "h".into(),
        destination_service_namespace: "i".into(),
        destination_service_name: "j".into(),
        context_protocol: "tcp".into(),
        api_protocol: "http".into(),
    };
    let request = edge::HandleEdgeRequest { instances: vec![instance], ..Default::default() };
    let (shown, objects) = written(EDGE, &request.encode_to_vec()).await;
    let columns = [
        ("Timestamp", "timestamp", "2018-10-07T11:49:00.5Z"),
        ("SourceWorkloadNamespace", "source_workload_namespace", "a"),
        ("SourceWorkloadName", "source_workload_name", "b"),
        ("SourceOwner", "source_owner", "c"),
        ("SourceUid", "source_uid", "kubernetes://d"),
        ("DestinationWorkloadNamespace", "destination_workload_namespace", "e"),
        ("DestinationWorkloadName", "destination_workload_name", "f"),
        ("DestinationOwner", "destination_owner", "g"),
        ("DestinationUid", "destination_uid", "h"),
        ("DestinationServiceNamespace", "destination_service_namespace", "i"),
        ("DestinationServiceName", "destination_service_name", "j"),
        ("ContextProtocol", "context_protocol", "tcp"),
        ("ApiProtocol", "api_protocol", "http"),
    ];
    let lines = columns.map(|(label, _, value)| (label, value.to_owned())).to_vec();
    assert_eq!(shown, blocks("HandleEdge", "a.txt", &[("edge.instance.istio-system", lines)]));
    head(&objects[0], "edge.instance.istio-system", "edge");
    members(&objects[0], &columns.map(|column| column.1));
    for (_, key, value) in columns {
        assert_eq!(objects[0][key], value, "{key}");
    }
}

#[tokio::test]
async fn a_report_of_nothing_is_a_name() {
    let instance = |name: &str| reportnothing::InstanceMsg { name: name.into() };
    let request = reportnothing::HandleReportNothingRequest {
        instances: vec![instance("one"), instance("two")],
        ..Default::default()
    };
    let (shown, objects) = written(REPORTNOTHING, &request.encode_to_vec()).await;
    assert_eq!(shown, blocks("HandleReportNothing", "a.txt", &[("one", vec![]), ("two", vec![])]));
    for (object, name) in objects.iter().zip(["one", "two"]) {
        head(object, name, "reportnothing");
        members(object, &[]);
    }
    assert_eq!(objects.len(), 2);
}

#[tokio::test]
async fn without_a_path_they_go_to_the_default_file_and_are_counted_by_template() {
    let adapter = Adapter::start(&["--format", "json", "--metrics-port", "0"]).await;
    let client = adapter.client().await;
    let span =
        tracespan::HandleTraceSpanRequest { instances: vec![Default::default(); 3], ..Default::default() };
    let edge = edge::HandleEdgeRequest { instances: vec![Default::default(); 2], ..Default::default() };
    let nothing = reportnothing::HandleReportNothingRequest {
        instances: vec![Default::default()],
        ..Default::default()
    };
    for (path, message) in [
        (METRIC, request(None, "metric")),
        (TRACESPAN, span.encode_to_vec()),
        (EDGE, edge.encode_to_vec()),
        (REPORTNOTHING, nothing.encode_to_vec()),
    ] {
        assert_eq!(client.unary(path, &message).await.unwrap(), Reply::default(), "{path}");
    }
    let objects = objects(&adapter.read("out.txt"));
    let templates: Vec<&str> = objects.iter().map(|object| object["template"].as_str().unwrap()).collect();
    assert_eq!(templates, ["metric", "tracespan", "tracespan", "tracespan", "edge", "edge", "reportnothing"]);
    let page = adapter.page();
    for (template, count) in
        [("metric", 1.0), ("logentry", 0.0), ("tracespan", 3.0), ("edge", 2.0), ("reportnothing", 1.0)]
    {
        assert_eq!(page.of("mygrpcadapter_instances_total", "template", template), count, "{template}");
    }
}

#[tokio::test]
async fn a_field_of_the_wrong_type_refuses_the_whole_request() {
    let adapter = Adapter::start(&[]).await;
    let client = adapter.client().await;
    for (path, instance) in [
        (TRACESPAN, &b"\x42\x01x"[..]),
        (TRACESPAN, b"\x08\x01"),
        (EDGE, b"\x08\x01"),
        (REPORTNOTHING, b"\xf8\xd2\xe4\x93\x02\x01"),
    ] {
        let mut message = request(None, "whole");
        prost::encoding::bytes::encode(1, &instance.to_vec(), &mut message);
        let reply = client.unary(path, &message).await.unwrap();
        assert_eq!(reply.status, INVALID_ARGUMENT, "{path} {}", instance.escape_ascii());
    }
    assert!(adapter.files().is_empty());
}

#[tokio::test]
async fn checknothing_is_allowed_for_a_while() {
    let adapter = Adapter::start(&["--volume", "none"]).await;
    let client = adapter.client().await;
    let instance = Some(checknothing::InstanceMsg { name: "n".into() });
    let message = checknothing::HandleCheckNothingRequest { instance, ..Default::default() }.encode_to_vec();
    let reply = client.unary(CHECKNOTHING, &message).await.unwrap();
    assert_eq!(reply.status, OK);
    let result = CheckResult::decode(reply.body).unwrap();
    assert_eq!(result.status.unwrap_or_default().code, 0);
    // If both were zero, Mixer would replace them with its own.
    assert_eq!((result.valid_duration.unwrap().seconds, result.valid_use_count), (5, 10_000));
}

/// A column in a definition: field and message, number, name, type.
type Defined = (i32, i32, String, Kind);

/// The columns of a message in a definition, and of its nested messages.
fn defined(file: &FileDescriptorProto, message: &str, parent: i32) -> Vec<Defined> {
    let message = file.message_type.iter().find(|known| known.name() == message).unwrap();
    let columns = message.field.iter().filter(|field| field.name() != "name").flat_map(|field| {
        let inner = field.type_name().rsplit('.').next().unwrap().to_owned();
        let kind = match (field.r#type(), &*inner) {
            (Type::String, _) => Kind::String,
            (Type::Int64, _) => Kind::Int,
            (Type::Bool, _) => Kind::Bool,
            (_, "Value") => Kind::Value,
            (_, "TimeStamp") => Kind::Time,
            (_, "IPAddress") => Kind::Ip,
            (_, entry) if entry.ends_with("Entry") => Kind::Map,
            (_, message) => return defined(file, message, field.number()),
        };
        vec![(parent, field.number(), field.name().to_owned(), kind)]
    });
    columns.collect()
}

#[test]
fn every_template_is_counted_and_has_the_columns_of_its_definition() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let entries = std::fs::read_dir(root.join("mixer/template")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for name in names {
        let path = format!("mixer/template/{name}");
        let files = protox::compile([&path], [&root]).unwrap();
        let file = files.file.iter().find(|file| *file.name() == path).unwrap();
        let template = match file.package() {
            "checknothing" => continue,
            "authorization" => &AUTHORIZATION,
            package => REPORTS.into_iter().find(|template| template.name == package).expect("a counter"),
        };
        assert_eq!(file.service[0].method[0].name(), template.call);
        let mut expected = defined(file, "InstanceMsg", 0);
        let filled = template.columns.iter().filter(|column| column.number > 0);
        let mut columns: Vec<Defined> = filled
            .map(|column| {
                let plain = |name: &str| name.replace('_', "").to_lowercase();
                let of_it = |known: &&Defined| (known.0, known.1) == (column.parent, column.number);
                let name = &expected.iter().find(of_it).expect("a field").2;
                assert!(
                    plain(column.key).ends_with(&plain(name)),
                    "{path}: {name} is shown as {}",
                    column.key
                );
                (column.parent, column.number, name.clone(), column.kind)
            })
            .collect();
        columns.sort_by_key(|column| (column.0, column.1));
        expected.sort_by_key(|column| (column.0, column.1));
        assert_eq!(columns, expected, "{path}");
    }
}
