//! JSON Lines: recorded requests, hostile ones, and properties of any instance.

use mygrpcadapter::frontends::mixer::report::Report;
use mygrpcadapter::frontends::mixer::templates;
use mygrpcadapter::pb::istio::policy::v1beta1::{
    IpAddress, StringMap, TimeStamp, Value, value::Value as Kind,
};
use mygrpcadapter::pb::metric::{HandleMetricRequest, InstanceMsg};
use mygrpcadapter::pb::mygrpcadapter::config::v1::{Params, params::Format as Asked};
use mygrpcadapter::refusal::Refusal;
use mygrpcadapter::render::Format;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use serde_json::Value as Json;
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::captures::recorded;
use crate::properties::{reference, request, written};
use crate::support::message::{METRIC, own, with_config};
use crate::support::{Adapter, OK, Reply};

/// The objects of a file of JSON Lines; panics at anything else.
pub fn objects(file: &[u8]) -> Vec<Json> {
    assert!(file.is_empty() || file.ends_with(b"\n"), "the last line has no end");
    let file = std::str::from_utf8(file).expect("UTF-8");
    let object = |line| {
        let object: Json = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(object.is_object(), "{line}");
        object
    };
    file.split_terminator('\n').map(object).collect()
}

/// The names of the instances in a file of JSON Lines.
pub fn names(file: &[u8]) -> Vec<String> {
    objects(file).iter().map(|object| object["instance"].as_str().unwrap().to_owned()).collect()
}

/// Our own params, with format JSON.
pub fn asked(file_path: &str) -> Params {
    Params { file_path: file_path.into(), format: Asked::Json.into(), ..Params::default() }
}

/// Removes the common members from the front of an object, and checks them.
pub fn head(object: &Json, name: &str, template: &str) {
    assert_eq!((&object["instance"], &object["template"]), (&name.into(), &template.into()));
    let received_at = object["received_at"].as_str().unwrap();
    let form: String = received_at.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000000Z");
}

/// Asserts that an object has just these members.
pub fn members(object: &Json, expected: &[&str]) {
    let mut keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [&["instance", "template", "received_at"], expected].concat();
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!(keys, expected);
}

/// An address in its usual notation.
pub fn address(bytes: &[u8]) -> String {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ipv4Addr::from(octets).to_string();
    }
    let Ok(octets) = <[u8; 16]>::try_from(bytes) else {
        return format!("0x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    };
    match Ipv6Addr::from(octets).to_ipv4_mapped() {
        Some(mapped) => mapped.to_string(),
        None => Ipv6Addr::from(octets).to_string(),
    }
}

/// Whether `shown` is the JSON form of a value.
pub fn is(shown: &Json, value: Option<&Value>) -> bool {
    let Some(kind) = value.and_then(|value| value.value.as_ref()) else { return shown.is_null() };
    match kind {
        Kind::StringValue(text) => shown == text,
        Kind::Int64Value(number) => shown.as_i64() == Some(*number),
        Kind::DoubleValue(number) if number.is_nan() => shown == "NaN",
        Kind::DoubleValue(f64::INFINITY) => shown == "+Inf",
        Kind::DoubleValue(f64::NEG_INFINITY) => shown == "-Inf",
        Kind::DoubleValue(number) => shown.as_f64() == Some(*number),
        Kind::BoolValue(truth) => shown == truth,
        Kind::IpAddressValue(ip) => *shown == address(&ip.value),
        Kind::TimestampValue(TimeStamp { value: None }) => shown.is_null(),
        Kind::TimestampValue(time) => *shown == reference::timestamp(time.value),
        Kind::DurationValue(span) if span.value.is_none() => shown.is_null(),
        Kind::DurationValue(span) => *shown == reference::duration(span.value),
        Kind::EmailAddressValue(email) => *shown == email.value,
        Kind::DnsNameValue(name) => *shown == name.value,
        Kind::UriValue(uri) => *shown == uri.value,
        Kind::StringMapValue(StringMap { value }) => {
            let shown = shown.as_object().unwrap();
            shown.len() == value.len() && value.iter().all(|(key, text)| shown[key] == *text)
        }
    }
}

/// Whether `shown` is the JSON form of a map of values.
pub fn is_map(shown: &Json, map: &HashMap<String, Value>) -> bool {
    let shown = shown.as_object().unwrap();
    shown.len() == map.len() && map.iter().all(|(key, value)| is(&shown[key], Some(value)))
}

/// Asserts that the lines of a file match the instances of a request.
fn assert_shows(file: &[u8], request: &HandleMetricRequest) {
    let objects = objects(file);
    assert_eq!(objects.len(), request.instances.len());
    for (object, instance) in objects.iter().zip(&request.instances) {
        head(object, &instance.name, "metric");
        members(object, &["value", "dimensions", "monitored_resource_type", "monitored_resource_dimensions"]);
        assert!(is(&object["value"], instance.value.as_ref()), "{object} {instance:?}");
        assert!(is_map(&object["dimensions"], &instance.dimensions), "{object} {instance:?}");
        assert_eq!(object["monitored_resource_type"], instance.monitored_resource_type);
        let dimensions = &instance.monitored_resource_dimensions;
        assert!(is_map(&object["monitored_resource_dimensions"], dimensions), "{object} {instance:?}");
    }
}

#[tokio::test]
async fn metrics_of_a_real_mixer_become_one_typed_object_each() {
    let adapter = Adapter::start(&["--format", "json"]).await;
    let by_params = Adapter::start(&[]).await;
    let (client, other) = (adapter.client().await, by_params.client().await);
    for (folder, prefix) in [("metric", ""), ("by-version/1.0.9", "metric-"), ("synthetic", "metric-")] {
        for path in recorded(folder, prefix) {
            let message = std::fs::read(&path).unwrap();
            let request = HandleMetricRequest::decode(&*message).unwrap();
            let before = adapter.read("out.txt").len();
            assert_eq!(client.unary(METRIC, &message).await.unwrap(), Reply::default(), "{}", path.display());
            assert_shows(&adapter.read("out.txt")[before..], &request);

            let before = by_params.read("dir/own.json").len();
            let message = with_config(&message, &own(&asked("dir/own.json")));
            assert_eq!(other.unary(METRIC, &message).await.unwrap(), Reply::default(), "{}", path.display());
            assert_shows(&by_params.read("dir/own.json")[before..], &request);
        }
    }
    assert_eq!(by_params.files(), ["dir"]);
}

#[tokio::test]
async fn the_handlers_format_goes_before_the_adapters() {
    let adapter = Adapter::start(&["--format=json"]).await;
    let client = adapter.client().await;
    let message = HandleMetricRequest { instances: vec![InstanceMsg::default()], ..Default::default() };
    for (format, file, starts) in [
        (Asked::Default, "default", "{\"instance\":\"\""),
        (Asked::Json, "json", "{\"instance\":\"\""),
        (Asked::Text, "text", "HandleMetric invoked with:\n"),
    ] {
        let params = Params { format: format.into(), ..asked(file) };
        let message = with_config(&message.encode_to_vec(), &own(&params));
        assert_eq!(client.unary(METRIC, &message).await.unwrap().status, OK);
        let text = String::from_utf8(adapter.read(file)).unwrap();
        assert!(text.starts_with(starts), "{text}");
    }
}

#[tokio::test]
async fn hostile_strings_and_numbers_stay_one_line_of_json() {
    let adapter = Adapter::start(&["--format", "json"]).await;
    let client = adapter.client().await;
    let value = |kind| Value { value: Some(kind) };
    // Replaced with bytes that are not UTF-8.
    let placeholder = "<not UTF-8>";
    let invalid = b"\xff\xc3\x28\xed\xa0\x80\xf8abc\xe9";
    assert_eq!(placeholder.len(), invalid.len());
    let quotes = "\",\"instance\":\"forged\"}\n{\"instance\":\"";
    let dimensions = HashMap::from([
        ("quotes".to_owned(), value(Kind::StringValue(quotes.into()))),
        (quotes.to_owned(), value(Kind::BoolValue(true))),
        ("controls".into(), value(Kind::StringValue((0..0x20_u8).map(char::from).collect()))),
        ("separators".into(), value(Kind::StringValue("\u{2028}\u{2029}\u{85}\u{feff}\u{7f}".into()))),
        ("invalid".into(), value(Kind::StringValue(placeholder.into()))),
        (placeholder.to_owned(), value(Kind::Int64Value(i64::MIN))),
        ("nan".into(), value(Kind::DoubleValue(f64::NAN))),
        ("infinite".into(), value(Kind::DoubleValue(f64::NEG_INFINITY))),
        ("tiny".into(), value(Kind::DoubleValue(5e-324))),
        ("ip".into(), value(Kind::IpAddressValue(IpAddress { value: b"\"\n\\".into() }))),
        ("time".into(), value(Kind::TimestampValue(TimeStamp { value: None }))),
    ]);
    let name = format!("{placeholder}{quotes}");
    let instance = InstanceMsg { name, dimensions, ..InstanceMsg::default() };
    let request = HandleMetricRequest { instances: vec![instance; 3], ..Default::default() };
    let mut message = request.encode_to_vec();
    let mut replaced = 0;
    while let Some(at) = message.windows(invalid.len()).position(|part| part == placeholder.as_bytes()) {
        message[at..at + invalid.len()].copy_from_slice(invalid);
        replaced += 1;
    }
    assert_eq!(replaced, 9);
    assert_eq!(client.unary(METRIC, &message).await.unwrap(), Reply::default());

    let lossy = String::from_utf8_lossy(invalid);
    let objects = objects(&adapter.read("out.txt"));
    assert_eq!(objects.len(), 3);
    for object in objects {
        head(&object, &format!("{lossy}{quotes}"), "metric");
        let shown = object["dimensions"].as_object().unwrap();
        assert_eq!(shown.len(), 11);
        assert_eq!((&shown["invalid"], &shown[&*lossy]), (&(&*lossy).into(), &i64::MIN.into()));
        for (key, sent) in request.instances[0].dimensions.iter().filter(|entry| !entry.0.contains('<')) {
            assert!(key == "invalid" || is(&shown[key], Some(sent)), "{key}: {}", shown[key]);
        }
        assert_eq!(
            (&shown["nan"], &shown["time"], &shown["ip"]),
            (&"NaN".into(), &Json::Null, &"0x220a5c".into())
        );
    }
}

/// The adapter's lines for a message.
fn rendered(message: &[u8]) -> Result<(usize, Vec<u8>), Refusal> {
    let mut out = Vec::new();
    let report = Report::read(message)?;
    report.render(&templates::METRIC, Format::Json, &mut out, |_| {})?;
    Ok((report.instances, out))
}

proptest! {
    #[test]
    fn every_instance_becomes_one_object_with_all_that_prost_reads(message in written()) {
        let decoded = HandleMetricRequest::decode(&*message).expect("the writer writes what prost reads");
        let (instances, lines) = rendered(&message).unwrap();
        prop_assert_eq!(instances, decoded.instances.len());
        assert_shows(&lines, &decoded);
    }

    #[test]
    fn whatever_can_be_walked_becomes_one_valid_line_each(
        request in request(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
    ) {
        let mut message = request.encode_to_vec();
        for (at, byte) in edits {
            if let Some(edited) = message.len().checked_sub(1).map(|last| at.index(last + 1)) {
                message[edited] = byte;
            }
        }
        if let Ok((instances, lines)) = rendered(&message) {
            prop_assert_eq!(objects(&lines).len(), instances);
        }
    }

    #[test]
    fn any_bytes_in_the_place_of_a_string_become_one_valid_line(bytes in vec(any::<u8>(), 0..200)) {
        let mut instance = Vec::new();
        prost::encoding::bytes::encode(72_295_727, &bytes, &mut instance);
        prost::encoding::bytes::encode(3, &bytes, &mut instance);
        let mut message = Vec::new();
        prost::encoding::bytes::encode(1, &instance, &mut message);
        let (_, lines) = rendered(&message).unwrap();
        let objects = objects(&lines);
        prop_assert_eq!(objects.len(), 1);
        prop_assert_eq!(&objects[0]["instance"], &*String::from_utf8_lossy(&bytes));
        prop_assert_eq!(&objects[0]["monitored_resource_type"], &*String::from_utf8_lossy(&bytes));
    }
}
