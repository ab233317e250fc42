//! Properties of any bytes: our walk against prost's decoding.

pub mod encode;
pub mod reference;

use mygrpcadapter::frontends::mixer::report::Report;
use mygrpcadapter::frontends::mixer::templates::METRIC;
use mygrpcadapter::pb::google::protobuf::{self, Any};
use mygrpcadapter::pb::istio::policy::v1beta1::{
    DnsName, Duration, EmailAddress, IpAddress, StringMap, TimeStamp, Uri, Value, value::Value as Kind,
};
use mygrpcadapter::pb::metric::{HandleMetricRequest, InstanceMsg};
use mygrpcadapter::refusal::{Reason, Refusal};
use mygrpcadapter::render::Format;
use proptest::collection::{hash_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message;
use records::protobuf::wire::Malformed;

use self::encode::Writer;
use crate::support::message::{OWN, WALKTHROUGH, params};

fn seconds() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(0),
        -100_000..100_000_i64,
        -62_135_596_900..253_402_300_900_i64,
        -315_576_000_001..=315_576_000_001_i64,
        any::<i64>(),
    ]
}

fn nanos() -> impl Strategy<Value = i32> {
    prop_oneof![Just(0), -999_999_999..=999_999_999_i32, (0..1000).prop_map(|n| n * 1_000_000), any::<i32>()]
}

fn double() -> impl Strategy<Value = f64> {
    let decimals = (any::<i32>(), 0..9).prop_map(|(n, places)| f64::from(n) / 10_f64.powi(places));
    prop_oneof![any::<f64>(), any::<u64>().prop_map(f64::from_bits), decimals]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,12}", "\\PC{0,40}", any::<String>()]
}

fn moment() -> impl Strategy<Value = (i64, i32)> {
    (seconds(), nanos())
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        text().prop_map(Kind::StringValue),
        any::<i64>().prop_map(Kind::Int64Value),
        double().prop_map(Kind::DoubleValue),
        any::<bool>().prop_map(Kind::BoolValue),
        vec(any::<u8>(), 0..20).prop_map(|value| Kind::IpAddressValue(IpAddress { value })),
        option::of(moment()).prop_map(|moment| {
            let value = moment.map(|(seconds, nanos)| protobuf::Timestamp { seconds, nanos });
            Kind::TimestampValue(TimeStamp { value })
        }),
        option::of(moment()).prop_map(|span| {
            let value = span.map(|(seconds, nanos)| protobuf::Duration { seconds, nanos });
            Kind::DurationValue(Duration { value })
        }),
        text().prop_map(|value| Kind::EmailAddressValue(EmailAddress { value })),
        text().prop_map(|value| Kind::DnsNameValue(DnsName { value })),
        text().prop_map(|value| Kind::UriValue(Uri { value })),
        hash_map(text(), text(), 0..6).prop_map(|value| Kind::StringMapValue(StringMap { value })),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    option::weighted(0.95, kind()).prop_map(|value| Value { value })
}

fn instance() -> impl Strategy<Value = InstanceMsg> {
    let maps = (hash_map(text(), value(), 0..8), hash_map(text(), value(), 0..4));
    (text(), option::of(value()), maps, text()).prop_map(|(name, value, maps, monitored_resource_type)| {
        let (dimensions, monitored_resource_dimensions) = maps;
        InstanceMsg { name, value, dimensions, monitored_resource_type, monitored_resource_dimensions }
    })
}

fn config() -> impl Strategy<Value = Option<Any>> {
    let types = prop_oneof![Just(OWN), Just(WALKTHROUGH)];
    option::of((types, text()).prop_map(|(type_url, file)| params(type_url, file.as_bytes())))
}

pub fn request() -> impl Strategy<Value = HandleMetricRequest> {
    (vec(instance(), 0..5), config(), "[0-9]{0,20}").prop_map(|(instances, adapter_config, dedup_id)| {
        HandleMetricRequest { instances, adapter_config, dedup_id }
    })
}

/// A request in one of its many encodings.
pub fn written() -> impl Strategy<Value = Vec<u8>> {
    (request(), vec(any::<u8>(), 0..300))
        .prop_map(|(request, choices)| Writer::new(choices).request(&request))
}

/// The adapter's text for a message.
fn rendered(message: &[u8]) -> Result<String, Refusal> {
    let mut out = b"before".to_vec();
    Report::read(message)?.render(&METRIC, Format::Text, &mut out, |_| {})?;
    assert!(out.starts_with(b"before"), "it changed what was there");
    Ok(String::from_utf8_lossy(&out[6..]).into_owned())
}

/// The handler's file, as prost reads it.
fn file_path(request: &HandleMetricRequest) -> String {
    let value = request.adapter_config.as_ref().map(|any| &*any.value).unwrap_or_default();
    mygrpcadapter::pb::mygrpcadapter::config::v1::Params::decode(value).unwrap().file_path
}

proptest! {
    #[test]
    fn however_a_request_is_written_the_text_is_that_of_what_prost_reads(message in written()) {
        let decoded = HandleMetricRequest::decode(&*message).expect("the writer writes what prost reads");
        prop_assert_eq!(rendered(&message), Ok(reference::text(&decoded, &file_path(&decoded))));
    }

    #[test]
    fn what_prost_takes_is_taken(
        message in written(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..4),
    ) {
        let mut message = message;
        for (at, byte, edit) in edits {
            let at = at.index(message.len().max(1));
            match edit {
                0 if at < message.len() => message[at] = byte,
                1 => message.insert(at, byte),
                _ => message.truncate(at),
            }
        }
        let ours = rendered(&message);
        // We are stricter than prost about params, and about the wire type of maps:
        // prost, unlike Go, ignores it. As the end of a group, a map's tag is illegal
        // at once.
        let mismatch = |field| Malformed::Mismatch { field };
        let stricter = [Malformed::WireType, mismatch(1), mismatch(2), mismatch(4)].map(Refusal::from);
        let stricter = match &ours {
            Err(refusal) => refusal.reason == Reason::Config || stricter.contains(refusal),
            Ok(_) => false,
        };
        if HandleMetricRequest::decode(&*message).is_ok() && !stricter {
            prop_assert!(ours.is_ok(), "{:?}", ours);
        }
    }

    #[test]
    fn no_bytes_panic(message in vec(any::<u8>(), 0..400)) {
        let _ = rendered(&message);
        let framed = [&[0x0a, message.len().min(127) as u8], &message[..message.len().min(127)]].concat();
        let _ = rendered(&framed);
    }

    #[test]
    fn as_many_instances_are_shown_as_were_sent_and_the_last_one_whole(
        names in vec("[a-z.]{0,30}", 0..50),
        value in value(),
    ) {
        let of = |names: &[String]| {
            let named = |name: &String| {
                InstanceMsg { name: name.clone(), value: Some(value.clone()), ..Default::default() }
            };
            let instances = names.iter().map(named).collect();
            let request = HandleMetricRequest { instances, ..Default::default() };
            rendered(&request.encode_to_vec()).unwrap()
        };
        let head = "HandleMetric invoked with:\n  Adapter config: &Params{FilePath:,}\n  Instances: ";
        let one = of(&["one".into()]);
        let block = one.strip_prefix(head).unwrap().strip_prefix("'one'").unwrap().strip_suffix('\n').unwrap();
        let all = of(&names);
        let mut rest = all.strip_prefix(head).unwrap().strip_suffix('\n').unwrap();
        for name in &names {
            rest = rest.strip_prefix(&*format!("'{name}'{block}")).unwrap();
        }
        prop_assert_eq!(rest, "");
    }
}
