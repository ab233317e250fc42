//! Input that Envoy never sends: several members of a oneof, unknown numbers, truncated
//! and nested messages, and short messages that would render to many bytes.

use records::envoy::entry::{Entry, Kind};
use records::envoy::identifier::MAX_NAME;
use records::envoy::message::Message;
use records::envoy::observation::Observation;
use records::otlp::export::{Count, Refusal};
use records::protobuf::object::MAX_DEPTH;
use records::protobuf::wire::Malformed;
use records::render::{Format, bound};
use serde_json::{Value, json};

use super::{exported, lines, second};

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A length-delimited field.
fn field(number: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn number(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

fn http(entries: &[Vec<u8>]) -> Vec<u8> {
    field(2, entries.iter().map(|entry| field(1, entry)).collect::<Vec<_>>().concat())
}

fn tcp(entries: &[Vec<u8>]) -> Vec<u8> {
    field(3, entries.iter().map(|entry| field(1, entry)).collect::<Vec<_>>().concat())
}

fn path(path: &str) -> Vec<u8> {
    field(3, field(5, path))
}

fn object(message: &[u8]) -> Value {
    let lines = lines(&[message.to_vec()], Format::Json);
    assert_eq!(lines.len(), 1);
    second::object(&lines[0])
}

/// The path in each line of a stream's messages.
fn paths(messages: &[Vec<u8>]) -> Vec<Value> {
    lines(messages, Format::Json).iter().map(|line| second::object(line)["path"].clone()).collect()
}

/// An OTLP request with one record.
fn record(record: impl AsRef<[u8]>) -> Vec<u8> {
    field(1, field(2, field(2, record)))
}

fn exported_object(message: &[u8]) -> Value {
    let (_, line) = exported(message, Format::Json, usize::MAX).unwrap();
    second::object(&line)
}

#[test]
fn of_entries_of_both_kinds_the_last_count_with_those_right_before() {
    let [a, b] = ["/a", "/b"].map(|text| http(&[path(text)]));
    let connection = tcp(&[field(2, number(1, 5))]);
    assert_eq!(paths(&[[a.clone(), b.clone()].concat()]), ["/a", "/b"]);
    assert_eq!(paths(&[[connection.clone(), a.clone(), b.clone()].concat()]), ["/a", "/b"]);
    assert_eq!(paths(&[[a.clone(), connection.clone(), b].concat()]), ["/b"]);
    assert_eq!(paths(&[[a, connection].concat()]), [Value::Null]);
}

#[test]
fn an_address_of_several_kinds_is_the_last_one() {
    let socket = field(1, [field(2, "10.0.0.1"), number(3, 80)].concat());
    let pipe = field(2, field(1, "@pipe"));
    let internal = field(3, [field(1, "connect_originate"), field(2, "10.0.0.2:8080")].concat());
    let six = field(1, [field(2, "fd00::1"), field(4, "https")].concat());
    for (parts, shown) in [
        (vec![&socket], json!("10.0.0.1:80")),
        (vec![&socket, &pipe], json!("@pipe")),
        (vec![&pipe, &internal], json!("envoy://connect_originate/10.0.0.2:8080")),
        (vec![&six], json!("[fd00::1]:https")),
        (vec![&internal, &socket], json!("10.0.0.1:80")),
        (vec![], json!(null)),
    ] {
        let address: Vec<u8> = parts.into_iter().flatten().copied().collect();
        let message = http(&[field(1, field(13, address))]);
        assert_eq!(object(&message)["upstream_host"], shown);
    }
}

#[test]
fn numbers_that_are_not_known_are_shown_where_they_have_no_name() {
    let entry = [field(1, number(33, 99)), number(2, 9), field(3, number(1, 77))].concat();
    let object = object(&http(&[entry]));
    assert_eq!(
        (&object["access_log_type"], &object["protocol"], &object["method"]),
        (&json!(99), &Value::Null, &Value::Null)
    );
    let negative = http(&[field(1, number(33, u64::MAX))]);
    assert_eq!(self::object(&negative)["access_log_type"], json!(-1));
    assert_eq!(exported_object(&record(number(2, 25)))["severity"], json!(25));
}

#[test]
fn every_flag_has_its_name() {
    let all: Vec<u8> =
        (1..=30).flat_map(|flag| if flag == 13 { field(13, []) } else { number(flag, 1) }).collect();
    let names =
        "LH,UH,UT,LR,UR,UF,UC,UO,NR,DI,FI,RL,UAEX,RLSE,DC,URX,SI,IH,DPE,UMSDR,RFCF,NFCF,DT,UPE,NC,OM,DF,DR";
    assert_eq!(object(&http(&[field(1, field(16, &all))]))["response_flags"], names);
    let cleared = [all, number(6, 0)].concat();
    let flags = object(&http(&[field(1, field(16, cleared))]))["response_flags"].clone();
    assert_eq!(flags, names.replace("UF,", ""));
}

#[test]
fn fields_of_another_wire_type_are_passed_over() {
    let entry =
        [number(1, 5), field(2, "x"), field(3, [number(5, 7), field(5, "/a"), field(1, "GET")].concat())]
            .concat();
    let object = object(&[number(1, 1), http(&[entry]), number(2, 3), number(3, 3)].concat());
    assert_eq!((&object["path"], &object["method"]), (&json!("/a"), &Value::Null));
    let fixed = [&[0x2d][..], b"1234", &field(5, field(1, "body"))].concat();
    assert_eq!(exported_object(&record(fixed))["body"], "body");
}

#[test]
fn an_entry_that_is_malformed_costs_no_other() {
    let message = http(&[path("/a"), b"\x1a\x7f".to_vec(), path("/b"), field(1, b"\x07"), path("/c")]);
    let (mut entry, mut seen) = (Entry::default(), Vec::new());
    for item in Message::read(&message).unwrap().entries() {
        let (kind, bytes) = item.unwrap();
        seen.push(entry.read(kind, bytes).map(|()| entry.fields.path));
    }
    let (truncated, illegal) = (Err(Malformed::Truncated), Err(Malformed::WireType));
    assert_eq!(seen, [Ok(&b"/a"[..]), truncated, Ok(b"/b"), illegal, Ok(b"/c")]);
}

#[test]
fn a_list_that_is_cut_gives_the_entries_before_the_cut_and_ends() {
    let list = [field(1, path("/a")), b"\x0a\x7fcut".to_vec()].concat();
    let message = field(2, list);
    let items: Vec<_> = Message::read(&message).unwrap().entries().collect();
    assert_eq!(items.len(), 2);
    assert_eq!((items[0].is_ok(), items[1].err()), (true, Some(Malformed::Truncated)));
    assert_eq!(Message::read(b"\x12\x7fcut").err(), Some(Malformed::Truncated));
}

#[test]
fn records_that_are_malformed_are_counted_and_cost_no_other() {
    let good = |text: &str| field(2, field(5, field(1, text)));
    let message = field(1, field(2, [good("a"), field(2, b"\x2a\x7f"), good("b")].concat()));
    for (format, end) in [(Format::Text, "a\nb\n"), (Format::Json, "}\n")] {
        let (count, text) = exported(&message, format, usize::MAX).unwrap();
        assert_eq!(count, Count { records: 3, malformed: 1 });
        assert!(text.ends_with(end.as_bytes()));
    }
    let cut = field(1, [field(2, good("a")), b"\x12\x7fcut".to_vec()].concat());
    assert_eq!(exported(&cut, Format::Text, usize::MAX), Err(Refusal::Malformed(Malformed::Truncated)));
}

#[test]
fn a_body_is_one_line_whatever_is_in_it() {
    for (body, line) in [
        (field(1, "plain \"text\" \\ with\ttab"), "plain \"text\" \\ with\ttab\n"),
        (field(1, "ends\n"), "ends\n"),
        (field(1, "two\nlines\r\n\n"), "two\\nlines\\r\\n\n"),
        (field(1, "\x1b[2Jbell\x07"), "\\x1b[2Jbell\\x07\n"),
        (field(1, ""), "-\n"),
        (field(1, "\n"), "-\n"),
        (vec![], "-\n"),
        (number(3, u64::MAX), "-1\n"),
        (field(7, "bytes"), "\"Ynl0ZXM=\"\n"),
        (field(6, field(1, [field(1, "k\n"), field(2, field(1, "v\n"))].concat())), "{\"k\\n\":\"v\\n\"}\n"),
    ] {
        let (_, text) = exported(&record(field(5, body)), Format::Text, usize::MAX).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), line);
    }
}

#[test]
fn values_are_shown_to_their_depth_and_null_beyond_it() {
    let nested = |depth: usize| (0..depth).fold(field(1, "deep"), |value, _| field(5, field(1, value)));
    let shown = |depth: usize| {
        let (_, line) = exported(&record(field(5, nested(depth))), Format::Json, usize::MAX).unwrap();
        let line = String::from_utf8(line).unwrap();
        (line.matches('[').count(), line.contains("deep"))
    };
    assert_eq!(shown(3), (3, true));
    assert_eq!(shown(MAX_DEPTH), (MAX_DEPTH, true));
    assert_eq!(shown(MAX_DEPTH + 1), (MAX_DEPTH + 1, false));
    assert_eq!(shown(50_000), (MAX_DEPTH + 1, false));

    let structs = (0..30_000)
        .fold(field(3, "deep"), |value, _| field(5, field(1, [field(1, "k"), field(2, value)].concat())));
    let metadata = field(
        17,
        field(1, [field(1, "f"), field(2, field(1, [field(1, "k"), field(2, structs)].concat()))].concat()),
    );
    let line = lines(&[http(&[field(1, metadata)])], Format::Json).remove(0);
    let text = String::from_utf8(line).unwrap();
    assert!(text.contains("{\"k\":null}") && !text.contains("deep"), "{text}");
}

#[test]
fn a_value_that_is_malformed_is_null_and_costs_no_other() {
    let pair = |key: &str, value: &[u8]| [field(1, key), field(2, value)].concat();
    let attributes = [field(6, pair("a", b"\x0a\x7f")), field(6, pair("b", &field(1, "x")))].concat();
    assert_eq!(exported_object(&record(attributes))["attributes"], json!({"a": null, "b": "x"}));
    let any = |url: &str, value: &[u8]| [field(1, url), field(2, value)].concat();
    let state = |key: &str, any: Vec<u8>| field(21, pair(key, &any));
    let common = [
        state("downstream_peer", any("type.googleapis.com/google.protobuf.Struct", b"\x0a\x7f")),
        state("upstream_peer", any("google.protobuf.BytesValue", &field(1, b"\x00\xff"))),
        state("other", any("x/y.Z", b"\x01")),
    ];
    let object = object(&http(&[field(1, common.concat())]));
    assert_eq!((&object["source"], &object["destination"]), (&Value::Null, &json!("AP8=")));
    assert_eq!(object["filter_state"], json!({"other": {"@type": "x/y.Z", "value": "AQ=="}}));
}

#[test]
fn maps_of_more_than_32768_entries_are_refused_or_null() {
    let headers = |count: usize| {
        let headers: Vec<u8> = (0..count).flat_map(|at| field(13, field(1, at.to_string()))).collect();
        field(3, headers)
    };
    let read = |message: &[u8]| Entry::default().read(Kind::Http, message);
    assert_eq!(read(&headers(32_768)), Ok(()));
    assert_eq!(read(&headers(32_769)), Err(Malformed::Entries));
    let list: Vec<u8> = (0..32_769).flat_map(|at: usize| field(1, field(1, at.to_string()))).collect();
    assert_eq!(exported_object(&record(field(5, field(6, list))))["body"], Value::Null);
}

#[test]
fn names_of_a_sender_are_bounded_and_only_names() {
    let long = "n".repeat(100_000);
    let value = |text: &str| field(2, field(3, text));
    let metadata: Vec<u8> = [("NAME", "pod-1"), ("NAMESPACE", &*long), ("NAME\0", "x")]
        .iter()
        .flat_map(|(key, text)| field(1, [field(1, key), value(text)].concat()))
        .collect();
    let node = [field(1, "router~10.0.0.1~gw.istio-system~d"), field(3, metadata), field(9, &long)].concat();
    let message = field(1, [field(2, b"log\"\n\xff"), field(1, node)].concat());
    let identifier = Message::read(&message).unwrap().identifier().unwrap();
    assert_eq!((identifier.pod(), identifier.namespace()), (&b"pod-1"[..], &long.as_bytes()[..MAX_NAME]));
    assert_eq!(identifier.log_name(), b"log\"\n\xff");
    assert!(identifier.shared() < 1024);
}

#[test]
fn a_request_is_observed_by_its_last_entry_alone() {
    let entry = |kind: u64, intermediate: u64| {
        let duration = field(23, [number(1, 1), number(2, 500_000_000)].concat());
        let common = field(1, [number(33, kind), number(27, intermediate), duration].concat());
        let request =
            field(3, [number(1, 1), field(3, "host"), field(5, "/new"), field(10, "/old?q=1?2")].concat());
        [common, request, field(4, field(1, number(1, 404)))].concat()
    };
    fn observed(kind: Kind, message: &[u8]) -> Option<Observation<'_>> {
        let mut entry = Entry::default();
        entry.read(kind, message).unwrap();
        Observation::of(&entry)
    }
    let expected =
        Some(Observation { path: b"/old", host: b"host", method: "GET", status: 404, seconds: Some(1.5) });
    assert_eq!(observed(Kind::Http, &entry(6, 0)), expected);
    assert_eq!(observed(Kind::Http, &entry(0, 0)), expected);
    assert_eq!(observed(Kind::Http, &entry(0, 1)), None);
    for kind in (1..=20).filter(|kind| *kind != 6) {
        assert_eq!(observed(Kind::Http, &entry(kind, 0)), None, "{kind}");
    }
    assert_eq!(observed(Kind::Tcp, &entry(6, 0)), None);
    let nothing = Observation { path: b"", host: b"", method: "", status: 0, seconds: None };
    assert_eq!(observed(Kind::Http, b""), Some(nothing));
}

#[test]
fn few_bytes_that_would_become_many_are_known_before_they_do() {
    // A large resource, repeated for each of many small records.
    let attribute = field(1, [field(1, "k"), field(2, field(1, "v".repeat(500_000)))].concat());
    let records = field(2, field(2, []).repeat(100_000));
    let message = field(1, [field(1, attribute), records].concat());
    assert_eq!(exported(&message, Format::Json, 8 << 20), Err(Refusal::TooLong));
    let (count, text) = exported(&message, Format::Text, 8 << 20).unwrap();
    assert_eq!((count.records, text.len()), (100_000, 200_000));

    // Control characters, of six bytes each in JSON.
    let body = record(field(5, field(1, "\x01".repeat(2 << 20))));
    assert_eq!(exported(&body, Format::Json, 8 << 20), Err(Refusal::TooLong));
    let plain = record(field(5, field(1, "p".repeat(4_000_000))));
    assert!(exported(&plain, Format::Json, 8 << 20).is_ok());

    let entry = field(3, field(6, "\x01".repeat(1 << 20)));
    let line = lines(&[http(std::slice::from_ref(&entry))], Format::Json).remove(0);
    assert!(line.len() <= bound::most(Format::Json, entry.len(), 0));
    assert!(!bound::fits(Format::Json, &entry, 0, line.len() - 1));
    assert!(bound::fits(Format::Json, &path(&"p".repeat(1 << 20)), 0, 2 << 20));
}

#[test]
fn a_large_message_of_the_smallest_parts_is_read_in_one_go() {
    // A mebibyte of each. Quadratic time would take an hour in a debug build.
    let start = std::time::Instant::now();
    let size = 1 << 20;
    let entries = http(&vec![Vec::new(); size / 2]);
    assert_eq!(Message::read(&entries).unwrap().entries().count(), size / 2);
    for small in [field(2, []), field(3, []), field(1, [])] {
        let message = small.repeat(size / small.len());
        let message = Message::read(&message).unwrap();
        assert_eq!(message.entries().count() + message.identifier().unwrap().node().len(), 0);
    }
    let resources = field(1, []).repeat(size / 2);
    assert_eq!(exported(&resources, Format::Json, 0).unwrap().0, Count::default());
    let scopes = field(1, field(2, []).repeat(size / 2));
    assert_eq!(exported(&scopes, Format::Text, 0).unwrap().0, Count::default());
    let parts = field(1, field(1, []).repeat(size / 2));
    assert_eq!(exported(&parts, Format::Text, 0).unwrap().0, Count::default());
    let common = field(1, field(2, field(1, [])).repeat(size / 4));
    assert_eq!(lines(&[http(&[common])], Format::Text).len(), 1);
    assert!(start.elapsed().as_secs() < 120, "{:?}", start.elapsed());
}
