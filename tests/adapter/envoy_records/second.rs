//! The independent reader: decodes messages by their definitions, and converts them to
//! JSON in the simplest way. It shares no code with the code under test.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine;
use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage, Value as Held,
};
use serde_json::{Map, Value, json};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/adapter/envoy_records");
    let files = protox::compile(["access_log.proto", "otlp_logs.proto"], [dir]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
});

/// A message's definition.
pub fn definition(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(name).unwrap()
}

fn decode(name: &str, bytes: &[u8]) -> DynamicMessage {
    DynamicMessage::decode(definition(name), bytes).unwrap()
}

/// A line: one object in valid UTF-8, and one newline.
pub fn object(line: &[u8]) -> Value {
    let text = std::str::from_utf8(line).unwrap().strip_suffix('\n').unwrap();
    assert!(!text.contains('\n') && text.starts_with('{'), "{text}");
    serde_json::from_str(text).unwrap()
}

/// The objects of a stream's entries.
pub fn stream(messages: &[Vec<u8>]) -> Vec<Value> {
    let mut names = json!({"log_name": null, "node": null, "pod": null, "namespace": null});
    let mut objects = Vec::new();
    for message in messages {
        let message = decode("als.Stream", message);
        if message.has_field_by_name("identifier") {
            names = identifier(&sub(&message, "identifier"));
        }
        for list in ["http_logs", "tcp_logs"] {
            for held in list_of(&sub(&message, list), "log_entry") {
                let mut object = entry(&held);
                object.as_object_mut().unwrap().extend(names.as_object().unwrap().clone());
                objects.push(object);
            }
        }
    }
    objects
}

/// The objects of the records in a request.
pub fn export(message: &[u8]) -> Vec<Value> {
    let mut objects = Vec::new();
    for resource in list_of(&decode("otlp.Export", message), "resource_logs") {
        let attributes = attributes(&sub(&resource, "resource"));
        for scoped in list_of(&resource, "scope_logs") {
            for record in list_of(&scoped, "log_records") {
                objects.push(log_record(&record, &attributes, &scoped));
            }
        }
    }
    objects
}

fn sub(message: &DynamicMessage, name: &str) -> DynamicMessage {
    message.get_field_by_name(name).unwrap().as_message().unwrap().clone()
}

fn list_of(message: &DynamicMessage, name: &str) -> Vec<DynamicMessage> {
    let field = message.get_field_by_name(name).unwrap();
    field.as_list().unwrap().iter().map(|item| item.as_message().unwrap().clone()).collect()
}

fn bytes(message: &DynamicMessage, name: &str) -> Vec<u8> {
    message.get_field_by_name(name).unwrap().as_bytes().unwrap().to_vec()
}

/// A string, with invalid UTF-8 replaced as in std.
fn text(bytes: &[u8]) -> Value {
    String::from_utf8_lossy(bytes).into()
}

fn text_or_null(bytes: &[u8]) -> Value {
    if bytes.is_empty() { Value::Null } else { text(bytes) }
}

fn number(message: &DynamicMessage, name: &str) -> i128 {
    match &*message.get_field_by_name(name).unwrap() {
        Held::I32(number) => (*number).into(),
        Held::I64(number) => (*number).into(),
        Held::U32(number) => (*number).into(),
        Held::U64(number) => (*number).into(),
        Held::Bool(truth) => (*truth).into(),
        other => panic!("{name} is {other:?}"),
    }
}

fn identifier(message: &DynamicMessage) -> Value {
    let node = sub(message, "node");
    let id = bytes(&node, "id");
    let mut names = BTreeMap::new();
    for field in list_of(&sub(&node, "metadata"), "fields") {
        let value = sub(&field, "value");
        names.insert(bytes(&field, "key"), bytes(&value, "string_value"));
    }
    let id_text = String::from_utf8_lossy(&id).into_owned();
    let parts: Vec<_> = id_text.split('~').collect();
    let (pod, namespace) = match parts[..] {
        [_, _, name, _] => name.rsplit_once('.').unwrap_or((name, "")),
        _ => ("", ""),
    };
    let said = |name: &str, other: &str| match names.get(name.as_bytes()) {
        Some(name) if !name.is_empty() => name.clone(),
        _ => other.as_bytes().to_vec(),
    };
    let shown = |name: &[u8]| text_or_null(&name[..name.len().min(512)]);
    json!({
        "log_name": shown(&bytes(message, "log_name")),
        "node": shown(&id),
        "pod": shown(&said("NAME", pod)),
        "namespace": shown(&said("NAMESPACE", namespace)),
    })
}

fn entry(message: &DynamicMessage) -> Value {
    let common = sub(message, "common_properties");
    let is_http = message.descriptor().name() == "HttpEntry";
    let empty = |name: &str| DynamicMessage::new(definition(name));
    let (request, response) = match is_http {
        true => (sub(message, "request"), sub(message, "response")),
        false => (empty("als.Request"), empty("als.Response")),
    };
    let (received, sent) = match is_http {
        true => (number(&request, "request_body_bytes"), number(&response, "response_body_bytes")),
        false => {
            let connection = sub(message, "connection_properties");
            (number(&connection, "received_bytes"), number(&connection, "sent_bytes"))
        }
    };
    let protocol = if is_http { number(message, "protocol_version") } else { 0 };
    let reason = |bytes: Vec<u8>| match text_or_null(&bytes) {
        Value::String(text) => text.replace(' ', "_").into(),
        other => other,
    };
    let original = bytes(&request, "original_path");
    let path = if original.is_empty() { bytes(&request, "path") } else { original };
    let of_common = |name: &str| text_or_null(&bytes(&common, name));
    let of_request = |name: &str| text_or_null(&bytes(&request, name));
    let named = |names: &[&str], at: i128| {
        usize::try_from(at).ok().and_then(|at| names.get(at)).map_or(Value::Null, |name| (*name).into())
    };
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let protocols = ["HTTP/1.0", "HTTP/1.1", "HTTP/2", "HTTP/3"];
    let request_headers = texts(&request, "request_headers");
    let response_headers = texts(&response, "response_headers");
    let filter_state = map(&common, "filter_state_objects", any);
    let mut other_state = filter_state.clone();
    other_state.remove("downstream_peer");
    other_state.remove("upstream_peer");
    json!({
        "authority": of_request("authority"),
        "bytes_received": received as u64,
        "bytes_sent": sent as u64,
        "connection_termination_details": reason(bytes(&common, "connection_termination_details")),
        "downstream_local_address": address(&sub(&common, "downstream_local_address")),
        "downstream_remote_address": address(&sub(&common, "downstream_remote_address")),
        "duration": duration(&common),
        "method": named(&methods, number(&request, "request_method") - 1),
        "path": text_or_null(&path),
        "protocol": named(&protocols, protocol - 1),
        "request_id": of_request("request_id"),
        "requested_server_name": text_or_null(&bytes(&sub(&common, "tls_properties"), "tls_sni_hostname")),
        "response_code": number(&sub(&response, "response_code"), "value") as u64,
        "response_code_details": reason(bytes(&response, "response_code_details")),
        "response_flags": flags(&sub(&common, "response_flags")),
        "route_name": of_common("route_name"),
        "start_time": start_time(&common),
        "upstream_cluster": of_common("upstream_cluster"),
        "upstream_host": address(&sub(&common, "upstream_remote_address")),
        "upstream_local_address": address(&sub(&common, "upstream_local_address")),
        "upstream_service_time": match response_headers.get("x-envoy-upstream-service-time") {
            Some(Value::String(text)) if !text.is_empty() => text.clone().into(),
            _ => Value::Null,
        },
        "upstream_transport_failure_reason": reason(bytes(&common, "upstream_transport_failure_reason")),
        "user_agent": of_request("user_agent"),
        "x_forwarded_for": of_request("forwarded_for"),
        "access_log_type": access_log_type(number(&common, "access_log_type")),
        "source": filter_state.get("downstream_peer").cloned(),
        "destination": filter_state.get("upstream_peer").cloned(),
        "trace_id": trace_id(&request_headers),
        "request_headers": request_headers,
        "response_headers": response_headers,
        "response_trailers": texts(&response, "response_trailers"),
        "tags": texts(&common, "custom_tags"),
        "metadata": map(&sub(&common, "metadata"), "filter_metadata", object_of),
        "filter_state": other_state,
        "stream_id": of_common("stream_id"),
    })
}

/// The messages in a map, by key; the last of equal keys wins. Keys that differ only in
/// invalid UTF-8 become equal: such a map has both.
fn map(message: &DynamicMessage, name: &str, show: impl Fn(&DynamicMessage) -> Value) -> Map<String, Value> {
    let entries: BTreeMap<_, _> = list_of(message, name)
        .iter()
        .map(|entry| (bytes(entry, "key"), show(&sub(entry, "value"))))
        .collect();
    entries.into_iter().map(|(key, value)| (String::from_utf8_lossy(&key).into_owned(), value)).collect()
}

fn texts(message: &DynamicMessage, name: &str) -> Map<String, Value> {
    let entries: BTreeMap<_, _> =
        list_of(message, name).iter().map(|entry| (bytes(entry, "key"), bytes(entry, "value"))).collect();
    entries.iter().map(|(key, value)| (String::from_utf8_lossy(key).into_owned(), text(value))).collect()
}

fn address(address: &DynamicMessage) -> Value {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if address.has_field_by_name("socket_address") {
        let socket = sub(address, "socket_address");
        let host = lossy(&bytes(&socket, "address"));
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let name = bytes(&socket, "named_port");
        let port = match name.is_empty() {
            true => number(&socket, "port_value").to_string(),
            false => lossy(&name),
        };
        format!("{host}:{port}").into()
    } else if address.has_field_by_name("pipe") {
        lossy(&bytes(&sub(address, "pipe"), "path")).into()
    } else if address.has_field_by_name("envoy_internal_address") {
        let internal = sub(address, "envoy_internal_address");
        let [listener, endpoint] =
            ["server_listener_name", "endpoint_id"].map(|name| lossy(&bytes(&internal, name)));
        format!("envoy://{listener}/{endpoint}").into()
    } else {
        Value::Null
    }
}

fn duration(common: &DynamicMessage) -> Value {
    if !common.has_field_by_name("duration") {
        return Value::Null;
    }
    let span = sub(common, "duration");
    let millis = number(&span, "seconds") * 1000;
    let millis = millis.clamp(i64::MIN.into(), i64::MAX.into()) + number(&span, "nanos") / 1_000_000;
    (millis.clamp(i64::MIN.into(), i64::MAX.into()) as i64).into()
}

fn start_time(common: &DynamicMessage) -> Value {
    let time = sub(common, "start_time");
    let (seconds, nanos) = (number(&time, "seconds") as i64, number(&time, "nanos"));
    let in_range =
        (-62_135_596_800..253_402_300_800).contains(&seconds) && (0..1_000_000_000).contains(&nanos);
    if !common.has_field_by_name("start_time") || !in_range {
        return Value::Null;
    }
    format!("{}.{:03}Z", calendar(seconds), nanos / 1_000_000).into()
}

/// The date of a time, counted by years and months from 1970.
fn calendar(seconds: i64) -> String {
    let (mut days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while days < 0 {
        year -= 1;
        days += 365 + i64::from(leap(year));
    }
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}", month + 1, days + 1)
}

fn flags(flags: &DynamicMessage) -> Value {
    let names =
        "LH UH UT LR UR UF UC UO NR DI FI RL UAEX RLSE DC URX SI IH DPE UMSDR RFCF NFCF DT UPE NC OM DF DR";
    let set: Vec<_> = names
        .split(' ')
        .enumerate()
        .filter(|(at, _)| flags.has_field_by_name(&format!("f{}", at + 1)))
        .map(|(_, name)| name)
        .collect();
    if set.is_empty() { "-".into() } else { set.join(",").into() }
}

fn access_log_type(number: i128) -> Value {
    let names = "NotSet TcpUpstreamConnected TcpPeriodic TcpConnectionEnd DownstreamStart DownstreamPeriodic \
        DownstreamEnd UpstreamPoolReady UpstreamPeriodic UpstreamEnd DownstreamTunnelSuccessfullyEstablished \
        UdpTunnelUpstreamConnected UdpPeriodic UdpSessionEnd TcpConnectionStart";
    let name = usize::try_from(number).ok().and_then(|at| names.split(' ').nth(at));
    name.map_or((number as i64).into(), Into::into)
}

fn trace_id(headers: &Map<String, Value>) -> Value {
    let header = |name: &str| headers.get(name).and_then(Value::as_str);
    let of_parent = header("traceparent").and_then(|parent| parent.split('-').nth(1));
    let id = of_parent.filter(|id| id.len() == 32).or(header("x-b3-traceid")).unwrap_or_default();
    text_or_null(id.as_bytes())
}

fn any(any: &DynamicMessage) -> Value {
    let (type_url, value) = (bytes(any, "type_url"), bytes(any, "value"));
    let in_base64 = |bytes: &[u8]| Value::from(base64::engine::general_purpose::STANDARD.encode(bytes));
    let wrapped = |bytes: &[u8]| {
        let wrapped = DynamicMessage::decode(definition("als.Wrapped"), bytes).ok();
        wrapped.map(|wrapped| self::bytes(&wrapped, "value"))
    };
    match type_url.rsplit(|byte| *byte == b'/').next().unwrap() {
        b"" if value.is_empty() => Value::Null,
        b"google.protobuf.Struct" => DynamicMessage::decode(definition("als.Struct"), &*value)
            .map_or(Value::Null, |fields| object_of(&fields)),
        b"google.protobuf.StringValue" => wrapped(&value).map_or(Value::Null, |bytes| text(&bytes)),
        b"google.protobuf.BytesValue" => wrapped(&value).map_or(Value::Null, |bytes| in_base64(&bytes)),
        _ => json!({"@type": text(&type_url), "value": in_base64(&value)}),
    }
}

fn object_of(fields: &DynamicMessage) -> Value {
    map(fields, "fields", value).into()
}

fn value(message: &DynamicMessage) -> Value {
    let Some((field, held)) = message.fields().next() else { return Value::Null };
    match (field.name(), held) {
        ("number_value", Held::F64(number)) => double(*number),
        ("string_value", Held::Bytes(bytes)) => text(bytes),
        ("bool_value", Held::Bool(truth)) => (*truth).into(),
        ("struct_value", Held::Message(fields)) => object_of(fields),
        ("list_value", Held::Message(list)) => list_of(list, "values").iter().map(value).collect(),
        _ => Value::Null,
    }
}

fn double(number: f64) -> Value {
    match number {
        number if number.is_nan() => "NaN".into(),
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        number
            if number.fract() == 0.0
                && number.abs() <= 2_f64.powi(53)
                && !(number == 0.0 && number.is_sign_negative()) =>
        {
            (number as i64).into()
        }
        number => number.into(),
    }
}

fn log_record(record: &DynamicMessage, resource: &Value, scoped: &DynamicMessage) -> Value {
    let id = |name: &str| match &*bytes(record, name) {
        id if (1..=64).contains(&id.len()) => {
            id.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
        }
        _ => Value::Null,
    };
    let [time, observed] = ["time_unix_nano", "observed_time_unix_nano"].map(|name| number(record, name));
    let scope = sub(scoped, "scope");
    json!({
        "time": nanos(if time == 0 { observed } else { time }),
        "severity": severity(record),
        "body": any_value(&sub(record, "body")),
        "attributes": attributes(record),
        "resource": resource,
        "scope": match scoped.has_field_by_name("scope") {
            false => Value::Null,
            true => json!({
                "name": text_or_null(&bytes(&scope, "name")),
                "version": text_or_null(&bytes(&scope, "version")),
                "attributes": attributes(&scope),
            }),
        },
        "trace_id": id("trace_id"),
        "span_id": id("span_id"),
    })
}

fn nanos(nanos: i128) -> Value {
    if nanos == 0 {
        return Value::Null;
    }
    let time = calendar((nanos / 1_000_000_000) as i64);
    let fraction = format!(".{:09}", nanos % 1_000_000_000);
    format!("{time}{}Z", fraction.trim_end_matches('0').trim_end_matches('.')).into()
}

fn severity(record: &DynamicMessage) -> Value {
    let words = bytes(record, "severity_text");
    if !words.is_empty() {
        return text(&words);
    }
    let names = "TRACE TRACE2 TRACE3 TRACE4 DEBUG DEBUG2 DEBUG3 DEBUG4 INFO INFO2 INFO3 INFO4 \
        WARN WARN2 WARN3 WARN4 ERROR ERROR2 ERROR3 ERROR4 FATAL FATAL2 FATAL3 FATAL4";
    match number(record, "severity_number") {
        0 => Value::Null,
        number @ 1..=24 => names.split(' ').nth(number as usize - 1).into(),
        number => (number as i64).into(),
    }
}

fn attributes(message: &DynamicMessage) -> Value {
    map(message, "attributes", any_value).into()
}

fn any_value(message: &DynamicMessage) -> Value {
    let Some((field, held)) = message.fields().next() else { return Value::Null };
    match (field.name(), held) {
        ("string_value", Held::Bytes(bytes)) => text(bytes),
        ("bool_value", Held::Bool(truth)) => (*truth).into(),
        ("int_value", Held::I64(number)) => (*number).into(),
        ("double_value", Held::F64(number)) => double(*number),
        ("array_value", Held::Message(array)) => list_of(array, "values").iter().map(any_value).collect(),
        ("kvlist_value", Held::Message(list)) => map(list, "values", any_value).into(),
        ("bytes_value", Held::Bytes(bytes)) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
        other => panic!("{other:?}"),
    }
}
