//! Any bytes as the instance of a check: its verdict and its audit record.
#![no_main]

use mygrpcadapter::frontends::mixer::authorization::token;
use mygrpcadapter::frontends::mixer::report::render_one;
use mygrpcadapter::frontends::mixer::templates::{AUTHORIZATION, SUBJECT_PROPERTIES, VERDICT};
use mygrpcadapter::pb::authorization::InstanceMsg;
use mygrpcadapter::pb::istio::policy::v1beta1::value::Value as Kind;
use mygrpcadapter::policy::{self, Rules, Verdict};
use mygrpcadapter::record::{Record, Value};
use mygrpcadapter::render::Format;
use mygrpcadapter_fuzz::json;
use prost::Message;
use records::protobuf::walk;

const PROPERTY: &str = "custom_token_header";
const KEYS: [&[u8]; 3] = [b"abc", b"", b"a longer key"];

libfuzzer_sys::fuzz_target!(|message: &[u8]| {
    let mut record = Record::default();
    if walk::instance(&mut record, &AUTHORIZATION, message).is_err() {
        return;
    }
    let token = record.lookup(SUBJECT_PROPERTIES, PROPERTY.as_bytes());
    let verdict = judged(token, &KEYS);
    let is_key = matches!(token, Value::String(b"abc" | b"a longer key"));
    assert_eq!(verdict == Verdict::Key, is_key);
    assert_eq!(judged(token, &[]), Verdict::NoKeys);
    compare_with_prost(message);

    record.hide(SUBJECT_PROPERTIES, PROPERTY.as_bytes());
    assert_eq!(record.lookup(SUBJECT_PROPERTIES, PROPERTY.as_bytes()), Value::Absent);
    record.values[VERDICT] = Value::String(verdict.outcome().label().as_bytes());
    let (mut text, mut line) = (Vec::new(), Vec::new());
    render_one(&AUTHORIZATION, b"a.txt", Format::Text, &record, &mut text).expect("small enough");
    assert!(text.starts_with(b"HandleAuthorization invoked with:\n") && text.ends_with(b"\n  }\n"));
    render_one(&AUTHORIZATION, b"a.txt", Format::Json, &record, &mut line).expect("small enough");
    let line = line.strip_suffix(b"\n").expect("a line");
    let members = json::object(line).unwrap_or_else(|what| panic!("{what}: {}", line.escape_ascii()));
    assert_eq!(members[3], ("verdict", &*format!("\"{}\"", verdict.outcome().label())));
});

fn judged(value: Value, keys: &[&[u8]]) -> Verdict {
    policy::judge(token(value), None, &Rules::default(), keys.iter().copied())
}

/// If prost can decode it, its map must give the same verdict.
fn compare_with_prost(message: &[u8]) {
    let Ok(instance) = InstanceMsg::decode(message) else { return };
    let canonical = instance.encode_to_vec();
    let mut record = Record::default();
    walk::instance(&mut record, &AUTHORIZATION, &canonical).expect("prost's own encoding is taken");
    let verdict = judged(record.lookup(SUBJECT_PROPERTIES, PROPERTY.as_bytes()), &KEYS);
    let token = instance.subject.as_ref().and_then(|subject| subject.properties.get(PROPERTY));
    let token = token.and_then(|token| token.value.as_ref());
    let is_key = matches!(token, Some(Kind::StringValue(text)) if text == "abc" || text == "a longer key");
    assert_eq!(verdict == Verdict::Key, is_key);
}
