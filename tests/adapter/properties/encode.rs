//! Encodes a message in any way that protobuf permits: fields in any order, repeated,
//! or among unknown ones; overlong lengths and numbers.
//!
//! One way is left out: a oneof member that is a message and occurs twice. There
//! prost merges, and Go, which we follow, replaces.

use mygrpcadapter::pb::google::protobuf::Any;
use mygrpcadapter::pb::istio::policy::v1beta1::{Value, value::Value as Kind};
use mygrpcadapter::pb::metric::{HandleMetricRequest, InstanceMsg};
use prost::encoding::{WireType, encode_key, encode_varint};

const NAME: u32 = 72_295_727;

/// Encodes by a list of choices; plainly once they run out.
#[derive(Debug)]
pub struct Writer {
    choices: Vec<u8>,
}

/// One field, including its tag.
type Field = Vec<u8>;

impl Writer {
    pub fn new(choices: Vec<u8>) -> Self {
        Self { choices }
    }

    /// A number below `count`.
    fn choose(&mut self, count: usize) -> usize {
        self.choices.pop().map_or(0, |choice| usize::from(choice) % count)
    }

    fn rarely(&mut self) -> bool {
        self.choose(8) == 7
    }

    pub fn request(&mut self, request: &HandleMetricRequest) -> Vec<u8> {
        let mut fields: Vec<Field> = Vec::new();
        for instance in &request.instances {
            let instance = self.instance(instance);
            fields.push(self.bytes(1, &instance));
        }
        if let Some(Any { type_url, value }) = &request.adapter_config {
            let parts = [self.text(1, type_url), self.bytes(2, value)];
            if self.rarely() {
                fields.extend(parts.map(|part| self.bytes(2, &part)));
            } else {
                let any = self.message(parts.into());
                fields.push(self.bytes(2, &any));
            }
        }
        fields.push(self.text(3, &request.dedup_id));
        self.message(fields)
    }

    fn instance(&mut self, instance: &InstanceMsg) -> Vec<u8> {
        let mut fields = vec![self.text(3, &instance.monitored_resource_type)];
        fields.push(self.text(NAME, &instance.name));
        if self.rarely() {
            fields.push(self.text(NAME, "another name"));
        }
        if let Some(value) = &instance.value {
            if self.rarely() {
                let other = self.scalar();
                fields.push(self.bytes(1, &other));
            }
            let value = self.value(value);
            fields.push(self.bytes(1, &value));
        }
        for (number, map) in [(2, &instance.dimensions), (4, &instance.monitored_resource_dimensions)] {
            for (key, value) in map {
                let value = self.value(value);
                let mut entry = vec![self.text(1, key), self.bytes(2, &value)];
                if self.rarely() {
                    entry.push(self.text(1, "another key"));
                }
                let entry = self.message(entry);
                fields.push(self.bytes(number, &entry));
                if self.rarely() {
                    let other = self.scalar();
                    let entry = [self.text(1, key), self.bytes(2, &other)].concat();
                    fields.push(self.bytes(number, &entry));
                }
            }
        }
        self.message(fields)
    }

    fn value(&mut self, value: &Value) -> Vec<u8> {
        let mut fields = Vec::new();
        if self.rarely() && value.value.is_some() {
            fields.push(self.scalar());
        }
        fields.extend(value.value.as_ref().map(|kind| self.kind(kind)));
        self.message(fields)
    }

    fn kind(&mut self, kind: &Kind) -> Field {
        let (number, inner) = match kind {
            Kind::StringValue(text) => return self.text(1, text),
            Kind::Int64Value(number) => return self.number(2, *number),
            Kind::DoubleValue(number) => return fixed64(3, number.to_bits()),
            Kind::BoolValue(truth) => return self.number(4, i64::from(*truth)),
            Kind::IpAddressValue(ip) => (5, vec![self.bytes(1, &ip.value)]),
            Kind::TimestampValue(time) => {
                (6, self.moment(time.value.as_ref().map(|time| (time.seconds, time.nanos))))
            }
            Kind::DurationValue(span) => {
                (7, self.moment(span.value.as_ref().map(|span| (span.seconds, span.nanos))))
            }
            Kind::EmailAddressValue(email) => (8, vec![self.text(1, &email.value)]),
            Kind::DnsNameValue(name) => (9, vec![self.text(1, &name.value)]),
            Kind::UriValue(uri) => (10, vec![self.text(1, &uri.value)]),
            Kind::StringMapValue(map) => {
                let mut entries = Vec::new();
                for (key, text) in &map.value {
                    let entry = [self.text(1, key), self.text(2, text)];
                    let entry = self.message(entry.into());
                    entries.push(self.bytes(1, &entry));
                }
                (11, entries)
            }
        };
        let inner = self.message(inner);
        self.bytes(number, &inner)
    }

    /// A Timestamp or a Duration in field 1, sometimes in two parts.
    fn moment(&mut self, moment: Option<(i64, i32)>) -> Vec<Field> {
        let Some((seconds, nanos)) = moment else { return Vec::new() };
        let parts = [self.number(1, seconds), self.number(2, nanos.into())];
        if self.rarely() {
            return parts.map(|part| self.bytes(1, &part)).into();
        }
        let whole = self.message(parts.into());
        vec![self.bytes(1, &whole)]
    }

    /// A scalar member of a Value.
    fn scalar(&mut self) -> Field {
        match self.choose(3) {
            0 => self.text(1, "another value"),
            1 => self.number(2, -1),
            _ => fixed64(3, 0),
        }
    }

    /// Fields in a chosen order, among unknown ones.
    fn message(&mut self, mut fields: Vec<Field>) -> Vec<u8> {
        for at in 1..fields.len() {
            let other = at - self.choose(at + 1);
            fields.swap(at, other);
        }
        if self.rarely() {
            let at = self.choose(fields.len() + 1);
            let unknown = self.unknown();
            fields.insert(at, unknown);
        }
        fields.concat()
    }

    fn unknown(&mut self) -> Field {
        let number = [15, 99, 777, (1 << 29) - 1][self.choose(4)];
        match self.choose(5) {
            0 => self.number(number, i64::MIN),
            1 => fixed64(number, u64::MAX),
            2 => {
                let mut field = key(number, WireType::ThirtyTwoBit);
                field.extend([1, 2, 3, 4]);
                field
            }
            3 => {
                let inside = self.text(1, "in a group");
                [key(number, WireType::StartGroup), inside, key(number, WireType::EndGroup)].concat()
            }
            _ => self.text(number, "unknown"),
        }
    }

    fn text(&mut self, number: u32, text: &str) -> Field {
        // An empty field may be omitted.
        if text.is_empty() && self.choose(2) == 0 {
            Field::new()
        } else {
            self.bytes(number, text.as_bytes())
        }
    }

    fn bytes(&mut self, number: u32, content: &[u8]) -> Field {
        let mut field = key(number, WireType::LengthDelimited);
        self.varint(content.len() as u64, &mut field);
        field.extend(content);
        field
    }

    fn number(&mut self, field_number: u32, number: i64) -> Field {
        let mut field = key(field_number, WireType::Varint);
        self.varint(number as u64, &mut field);
        field
    }

    /// A base-128 number, sometimes padded with zeros, like Mixer's lengths.
    fn varint(&mut self, number: u64, out: &mut Vec<u8>) {
        let start = out.len();
        encode_varint(number, out);
        let zeros = self.choose(4).min(10 - (out.len() - start));
        if let (Some(last), true) = (out.last_mut(), zeros > 0) {
            *last |= 0x80;
            out.extend(std::iter::repeat_n(0x80, zeros - 1));
            out.push(0);
        }
    }
}

fn key(number: u32, wire_type: WireType) -> Field {
    let mut field = Vec::new();
    encode_key(number, wire_type, &mut field);
    field
}

fn fixed64(number: u32, bits: u64) -> Field {
    let mut field = key(number, WireType::SixtyFourBit);
    field.extend(bits.to_le_bytes());
    field
}
