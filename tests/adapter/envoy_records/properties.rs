//! Properties of any message. A valid message, in any encoding, is read as an
//! independent reader reads it; an invalid one does no harm.

use proptest::collection::vec;
use proptest::prelude::*;
use protox::prost::Message as _;
use protox::prost::encoding::{WireType, encode_key, encode_varint};
use protox::prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use records::envoy::entry::Entry;
use records::envoy::message::Message;
use records::render::{Format, bound};

use super::{exported, lines, second};

/// Texts for keys and values.
const TEXTS: [&[u8]; 20] = [
    b"",
    b"-",
    b"a",
    b"/a/b?c=d&e=f#g",
    b"two words",
    b"x\"y\\z",
    b"line\nfeed\r\ttab\0nul\x7fdel",
    b"caf\xe9",
    b"\xff\xfe",
    b"\xf0\x9f\xa6",
    "zoë 🦀".as_bytes(),
    b"::1",
    b"x-envoy-upstream-service-time",
    b"downstream_peer",
    b"upstream_peer",
    b"traceparent",
    b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"type.googleapis.com/google.protobuf.Struct",
    b"type.googleapis.com/google.protobuf.StringValue",
    b"sidecar~10.0.0.1~pod-1.name.space~domain",
];

/// Choices from a test's random bytes; the simplest ones after the last byte.
struct Choices(Vec<u8>);

impl Choices {
    fn below(&mut self, count: usize) -> usize {
        self.0.pop().map_or(0, |choice| usize::from(choice) % count)
    }

    fn word(&mut self) -> u64 {
        let bytes: [u8; 8] = std::array::from_fn(|_| self.0.pop().unwrap_or_default());
        u64::from_le_bytes(bytes) >> self.below(64)
    }

    fn text(&mut self) -> Vec<u8> {
        match self.below(TEXTS.len() + 2) {
            at if at < TEXTS.len() => TEXTS[at].to_vec(),
            _ => (0..self.below(12)).map(|_| self.below(256) as u8).collect(),
        }
    }

    /// A message of a definition, with a choice of its fields.
    fn message(&mut self, definition: &MessageDescriptor, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(definition.clone());
        for field in definition.fields() {
            if self.below(3) == 0 || (depth > 14 && matches!(field.kind(), Kind::Message(_))) {
                continue;
            }
            let value = match field.is_list() {
                true => Value::List((0..self.below(4)).map(|_| self.value(&field, depth)).collect()),
                false => self.value(&field, depth),
            };
            message.set_field(&field, value);
        }
        if definition.full_name() == "als.Any" {
            let name = ["als.Struct", "als.Wrapped"][self.below(2)];
            let held = self.message(&second::definition(name), depth + 1).encode_to_vec();
            message.set_field_by_name("value", Value::Bytes(held.into()));
        }
        message
    }

    fn value(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        match field.kind() {
            Kind::Message(definition) => Value::Message(self.message(&definition, depth + 1)),
            Kind::Bytes => Value::Bytes(self.text().into()),
            Kind::Bool => Value::Bool(self.below(2) == 1),
            Kind::Double => Value::F64(f64::from_bits(self.word())),
            Kind::Int32 => Value::I32((self.word() as i32) >> self.below(32)),
            Kind::Uint32 => Value::U32(self.word() as u32),
            Kind::Fixed32 => Value::U32(self.word() as u32),
            Kind::Int64 => Value::I64(self.word() as i64),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(self.word()),
            other => panic!("{other:?}"),
        }
    }

    /// Encodes a message in one of protobuf's valid ways: fields in any order, unknown
    /// fields, overlong lengths.
    fn written(&mut self, message: &DynamicMessage) -> Vec<u8> {
        let mut pieces: Vec<(usize, Vec<u8>)> = Vec::new();
        for (field, value) in message.fields() {
            let place = self.below(256);
            let items = match value {
                Value::List(items) => items.clone(),
                value => vec![value.clone()],
            };
            pieces.extend(items.iter().map(|item| (place, self.field(&field, item))));
        }
        if self.below(8) == 7 {
            pieces.push((self.below(256), self.unknown()));
        }
        pieces.sort_by_key(|piece| piece.0);
        pieces.into_iter().flat_map(|piece| piece.1).collect()
    }

    fn field(&mut self, field: &FieldDescriptor, value: &Value) -> Vec<u8> {
        let mut piece = Vec::new();
        match value {
            Value::Message(message) => {
                let content = self.written(message);
                encode_key(field.number(), WireType::LengthDelimited, &mut piece);
                self.length(content.len(), &mut piece);
                piece.extend(content);
            }
            value => {
                let mut alone = DynamicMessage::new(field.parent_message().clone());
                alone.set_field(field, value.clone());
                piece = alone.encode_to_vec();
            }
        }
        piece
    }

    fn length(&mut self, length: usize, piece: &mut Vec<u8>) {
        encode_varint(length as u64, piece);
        if self.below(8) == 7 {
            *piece.last_mut().unwrap() |= 0x80;
            piece.push(0);
        }
    }

    fn unknown(&mut self) -> Vec<u8> {
        let field = 1000 + self.below(3) as u32;
        let (wire, content): (_, &[u8]) = match self.below(5) {
            0 => (WireType::Varint, b"\x96\x01"),
            1 => (WireType::SixtyFourBit, b"12345678"),
            2 => (WireType::LengthDelimited, b"\x02\xff\n"),
            3 => (WireType::ThirtyTwoBit, b"1234"),
            _ => return vec![0xc3, 0x3e, 0x08, 0x01, 0xc4, 0x3e],
        };
        let mut piece = Vec::new();
        encode_key(field, wire, &mut piece);
        piece.extend(content);
        piece
    }
}

/// An encoded message of a definition; sometimes two of them in sequence, which merge.
fn written(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..2000).prop_map(move |bytes| {
        let mut choices = Choices(bytes);
        let message = choices.message(&second::definition(name), 0);
        choices.written(&message)
    })
}

fn entries(message: &[u8]) -> usize {
    Message::read(message).unwrap().entries().count()
}

/// The number of fields in a line of text, separated by spaces outside quotes.
fn fields(line: &[u8]) -> usize {
    let (mut quoted, mut escaped, mut count) = (false, false, 1);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b' ' if !quoted => count += 1,
            _ => {}
        }
    }
    assert!(!quoted && !escaped);
    count
}

fn must_be_one_line(line: &[u8]) {
    let controls = line.iter().filter(|byte| **byte < 0x20 || **byte == 0x7f).count();
    assert!(line.ends_with(b"\n") && controls == 1, "{}", line.escape_ascii());
}

/// Checks the properties of every valid entry.
fn must_be_lines(message: &[u8]) {
    let Ok(message) = Message::read(message) else { return };
    let identifier = message.identifier().unwrap_or_default();
    let mut entry = Entry::default();
    for (kind, bytes) in message.entries().filter_map(Result::ok) {
        if entry.read(kind, bytes).is_err() {
            continue;
        }
        for format in [Format::Text, Format::Json] {
            let mut line = Vec::new();
            records::envoy::line(&mut line, format, &mut entry, &identifier);
            let shared = if format == Format::Json { identifier.shared() } else { 0 };
            assert!(line.len() <= bound::most(format, bytes.len(), shared));
            assert!(line.len() <= bound::need(format, bytes, 0) + shared);
            match format {
                Format::Json => drop(second::object(&line)),
                Format::Text => {
                    must_be_one_line(&line);
                    assert_eq!(fields(&line), 22, "{}", line.escape_ascii());
                }
            }
        }
    }
}

fn must_be_exported(message: &[u8]) {
    for format in [Format::Text, Format::Json] {
        let Ok((count, lines)) = exported(message, format, usize::MAX) else { continue };
        let lines: Vec<_> = lines.split_inclusive(|byte| *byte == b'\n').collect();
        assert_eq!(lines.len() as u64, count.records - count.malformed);
        if format == Format::Json {
            lines.into_iter().for_each(|line| drop(second::object(line)));
        }
    }
}

/// A recorded or a generated message.
fn seed() -> impl Strategy<Value = Vec<u8>> {
    let recorded = [
        &include_bytes!("../../captures/envoy/als-http/02-get.bin")[..],
        include_bytes!("../../captures/envoy/als-http/22-jwt-dynamic-metadata.bin"),
        include_bytes!("../../captures/envoy/als-http/29-logged-headers-custom-tags.bin"),
        include_bytes!("../../captures/envoy/als-http/70-synthetic-istio-peers.bin"),
        include_bytes!("../../captures/envoy/als-tcp/02-upstream-refused-UF.bin"),
        include_bytes!("../../captures/envoy/otlp-logs/13-labels-traceparent.bin"),
        include_bytes!("../../captures/envoy/otlp-logs/16-batch-of-40.bin"),
    ];
    let recorded = prop::sample::select(recorded.to_vec()).prop_map(<[u8]>::to_vec);
    prop_oneof![recorded, written("als.Stream"), written("otlp.Export")]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn entries_are_read_as_a_second_reader_reads_them(parts in vec(written("als.Stream"), 1..3)) {
        let message = parts.concat();
        let ours: Vec<_> = lines(std::slice::from_ref(&message), Format::Json).iter().map(|line| second::object(line)).collect();
        prop_assert_eq!(ours, second::stream(&[message]));
    }

    #[test]
    fn parts_of_an_entry_add_up_as_for_a_second_reader(parts in vec(written("als.HttpEntry"), 2..4)) {
        let entry = parts.concat();
        let mut message = Vec::new();
        for content in [Vec::new(), entry] {
            let mut field = Vec::new();
            encode_key(1, WireType::LengthDelimited, &mut field);
            encode_varint(content.len() as u64, &mut field);
            field.extend(content);
            encode_key(2, WireType::LengthDelimited, &mut message);
            encode_varint(field.len() as u64, &mut message);
            message.extend(field);
        }
        let ours: Vec<_> = lines(std::slice::from_ref(&message), Format::Json).iter().map(|line| second::object(line)).collect();
        prop_assert_eq!(ours.len(), 2);
        prop_assert_eq!(ours, second::stream(&[message]));
    }

    #[test]
    fn log_records_are_read_as_a_second_reader_reads_them(parts in vec(written("otlp.Export"), 1..3)) {
        let message = parts.concat();
        let (count, ours) = exported(&message, Format::Json, usize::MAX).unwrap();
        let ours: Vec<_> = ours.split_inclusive(|byte| *byte == b'\n').map(second::object).collect();
        prop_assert_eq!(count.records as usize, ours.len());
        prop_assert_eq!(ours, second::export(&message));
    }

    #[test]
    fn each_entry_is_one_line_of_22_fields_or_one_object(message in written("als.Stream")) {
        prop_assert_eq!(lines(std::slice::from_ref(&message), Format::Text).len(), entries(&message));
        must_be_lines(&message);
    }

    #[test]
    fn what_is_changed_anywhere_is_lines_or_refused(
        message in seed(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
    ) {
        let mut message = message;
        for (at, byte, edit) in edits {
            let at = at.index(message.len().max(1));
            match edit {
                0 | 1 if at < message.len() => message[at] = byte,
                2 => message.insert(at, byte),
                _ => message.truncate(at),
            }
        }
        must_be_lines(&message);
        must_be_exported(&message);
    }

    #[test]
    fn no_bytes_panic(message in vec(any::<u8>(), 0..400)) {
        let framed = |tags: &[u8]| {
            tags.iter().rev().fold(message[..message.len().min(100)].to_vec(), |content, tag| {
                [&[*tag, content.len() as u8], &content[..]].concat()
            })
        };
        for tags in [&[][..], &[0x12, 0x0a], &[0x1a, 0x0a], &[0x12, 0x0a, 0x0a], &[0x0a], &[0x0a, 0x12, 0x12]] {
            must_be_lines(&framed(tags));
            must_be_exported(&framed(tags));
        }
        must_be_lines(&message);
        must_be_exported(&message);
    }

    #[test]
    fn lines_that_have_no_room_leave_nothing_behind(message in written("otlp.Export"), room in 0..20_000_usize) {
        let (count, all) = exported(&message, Format::Json, usize::MAX).unwrap();
        match exported(&message, Format::Json, room) {
            Ok((counted, lines)) => prop_assert_eq!((counted, lines), (count, all)),
            Err(refusal) => prop_assert_eq!(refusal, records::otlp::export::Refusal::TooLong),
        }
    }
}
