//! Messages as Mixer sends them, and their text.

use mygrpcadapter::pb::google::protobuf::{self, Any};
use mygrpcadapter::pb::istio::policy::v1beta1::{Duration, Value, value::Value as Kind};
use mygrpcadapter::pb::metric::{HandleMetricRequest, InstanceMsg};
use mygrpcadapter::pb::mygrpcadapter::config::v1::Params;
use prost::Message;

/// The path of the metric service.
pub const METRIC: &str = "/metric.HandleMetricService/HandleMetric";
/// The path of the service for log entries.
pub const LOGENTRY: &str = "/logentry.HandleLogEntryService/HandleLogEntry";
/// The path of the authorization service.
pub const AUTHORIZATION: &str = "/authorization.HandleAuthorizationService/HandleAuthorization";
/// The type of the walkthrough's params.
pub const WALKTHROUGH: &str = "type.googleapis.com/adapter.mygrpcadapter.config.Params";
/// The type of our own params.
pub const OWN: &str = "type.googleapis.com/mygrpcadapter.config.v1.Params";

/// A handler's params with a file.
pub fn params(type_url: &str, file: &[u8]) -> Any {
    let mut value = Vec::new();
    prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut value);
    prost::encoding::encode_varint(file.len() as u64, &mut value);
    value.extend_from_slice(file);
    Any { type_url: type_url.into(), value }
}

/// A handler's params of our own type.
pub fn own(params: &Params) -> Any {
    Any { type_url: OWN.into(), value: params.encode_to_vec() }
}

/// A request with another handler's params: the last field wins.
pub fn with_config(message: &[u8], adapter_config: &Any) -> Vec<u8> {
    let mut message = message.to_vec();
    prost::encoding::message::encode(2, adapter_config, &mut message);
    message
}

/// A string.
pub fn text(text: &str) -> Value {
    Value { value: Some(Kind::StringValue(text.into())) }
}

/// An integer.
pub fn number(number: i64) -> Value {
    Value { value: Some(Kind::Int64Value(number)) }
}

/// A duration.
pub fn span(nanos: i32) -> Value {
    let value = Some(protobuf::Duration { seconds: 0, nanos });
    Value { value: Some(Kind::DurationValue(Duration { value })) }
}

/// An instance with a number as its value.
pub fn instance(name: &str) -> InstanceMsg {
    InstanceMsg { name: name.into(), value: Some(number(1)), ..Default::default() }
}

/// A request with one instance, for a handler with these params.
pub fn request(adapter_config: Option<Any>, name: &str) -> Vec<u8> {
    let instances = vec![instance(name)];
    HandleMetricRequest { instances, adapter_config, dedup_id: "1".into() }.encode_to_vec()
}

/// Requests that differ only in the name of their instance.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The handler's file.
    pub file: &'static str,
    /// Additional bytes of each.
    pub padding: usize,
}

impl Shape {
    /// The request for a name.
    pub fn message(self, name: &str) -> Vec<u8> {
        let mut instance = instance(name);
        instance.dimensions.insert("padding".into(), text(&"x".repeat(self.padding)));
        HandleMetricRequest {
            instances: vec![instance],
            adapter_config: Some(params(WALKTHROUGH, self.file.as_bytes())),
            dedup_id: "1".into(),
        }
        .encode_to_vec()
    }

    /// Its text.
    pub fn text(self, name: &str) -> String {
        let (file, padding) = (self.file, "x".repeat(self.padding));
        format!(
            "HandleMetric invoked with:\n  Adapter config: &Params{{FilePath:{file},}}\n  \
             Instances: '{name}':\n  {{\n\t\tValue = 1\n\t\tDimensions = map[padding:{padding}]\n  }}\n"
        )
    }

    /// The names in a file that consists of whole requests of this shape; panics
    /// otherwise.
    pub fn names(self, file: &[u8]) -> Vec<String> {
        let file = std::str::from_utf8(file).expect("text");
        let mut names = Vec::new();
        let mut rest = file;
        while !rest.is_empty() {
            let name = rest.split('\'').nth(1).unwrap_or_default();
            let after = rest.strip_prefix(&*self.text(name));
            let shown = &rest[..rest.len().min(200)];
            rest = after.unwrap_or_else(|| panic!("not a whole request: {shown:?}"));
            names.push(name.to_owned());
        }
        names
    }
}

/// Asserts that every acknowledged name is in `written` exactly once, and no other
/// name twice.
pub fn assert_each_once(acknowledged: &[String], written: &[String]) {
    let mut sorted = written.to_vec();
    sorted.sort_unstable();
    let twice: Vec<_> = sorted.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "written twice: {twice:?}");
    let lost: Vec<_> = acknowledged.iter().filter(|name| sorted.binary_search(name).is_err()).collect();
    assert!(lost.is_empty(), "acknowledged but not written: {lost:?}");
}
