//! Requests and their expected records: both follow from a request's number.

use mygrpcadapter::pb::google::protobuf::Any;
use mygrpcadapter::pb::istio::policy::v1beta1::{Value, value::Value as Kind};
use mygrpcadapter::pb::metric::{HandleMetricRequest, InstanceMsg};
use mygrpcadapter::pb::mygrpcadapter::config::v1::{Params, params};
use prost::Message;

/// The type of a handler's params.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Config {
    None,
    Walkthrough,
    Own,
}

/// A handler, and thus a file.
#[derive(Debug)]
pub(crate) struct Handler {
    /// Its `file_path`.
    path: &'static str,
    /// Its path in the volume; `None` for the path that contains the host's name.
    pub(crate) file: Option<&'static str>,
    /// Its last part, unique among handlers.
    pub(crate) name: &'static str,
    pub(crate) json: bool,
    config: Config,
}

/// The file of the handler without params: the adapter's --default-file.
pub(crate) const DEFAULT_FILE: &str = "default.txt";
/// The directory of some of the files.
pub(crate) const SUBDIRECTORY: &str = "apart";

const HEAD: &str = "HandleMetric invoked with:\n  Adapter config: &Params{FilePath:";
const HEAD_END: &str = ",}\n  Instances: ";
const OBJECT: &str = "{\"instance\":\"";
const TEMPLATE: &str = "\",\"template\":\"metric\",\"received_at\":\"";

/// All handlers.
pub(crate) const HANDLERS: [Handler; 6] = [
    Handler {
        path: "/volume/out.txt",
        file: Some("out.txt"),
        name: "out.txt",
        json: false,
        config: Config::Walkthrough,
    },
    Handler {
        path: "lines.json",
        file: Some("lines.json"),
        name: "lines.json",
        json: true,
        config: Config::Own,
    },
    Handler {
        path: "apart/own.txt",
        file: Some("apart/own.txt"),
        name: "own.txt",
        json: false,
        config: Config::Own,
    },
    Handler {
        path: "/volume/apart/own.json",
        file: Some("apart/own.json"),
        name: "own.json",
        json: true,
        config: Config::Own,
    },
    Handler { path: "{hostname}/here.json", file: None, name: "here.json", json: true, config: Config::Own },
    Handler { path: "", file: Some(DEFAULT_FILE), name: DEFAULT_FILE, json: false, config: Config::None },
];

impl Handler {
    /// The handler of a file, rotated or not.
    pub(crate) fn of_file(name: &str) -> Option<&'static Self> {
        let digits = |text: &str| text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_digit());
        let name = name.rsplit_once('.').filter(|(_, end)| digits(end)).map_or(name, |(start, _)| start);
        HANDLERS.iter().find(|handler| handler.name == name)
    }

    fn any(&self) -> Option<Any> {
        let format = if self.json { params::Format::Json } else { params::Format::Text };
        let params = Params { file_path: self.path.into(), ..Params::default() };
        match self.config {
            Config::None => None,
            Config::Walkthrough => Some(Any {
                type_url: "type.googleapis.com/adapter.mygrpcadapter.config.Params".into(),
                value: params.encode_to_vec(),
            }),
            Config::Own => Some(own(&Params { format: format.into(), ..params })),
        }
    }
}

/// Our own params, packed.
pub(crate) fn own(params: &Params) -> Any {
    Any {
        type_url: "type.googleapis.com/mygrpcadapter.config.v1.Params".into(),
        value: params.encode_to_vec(),
    }
}

/// A request, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request(pub(crate) u32);

impl Request {
    pub(crate) fn handler(self) -> &'static Handler {
        &HANDLERS[self.0 as usize % HANDLERS.len()]
    }

    /// Occasionally a request is large, so that a kill interrupts its write.
    fn is_large(self) -> bool {
        self.0 % 211 == 210
    }

    /// Its number of instances.
    pub(crate) fn count(self) -> u32 {
        if self.is_large() { 400 } else { 1 + self.0.wrapping_mul(2_654_435_761) / 7 % 7 }
    }

    fn padding(self, index: u32) -> usize {
        let mixed = (self.0 ^ index.wrapping_mul(40_503)).wrapping_mul(2_654_435_761) >> 7;
        (if self.is_large() { 1000 } else { 0 }) + mixed as usize % 150
    }

    fn value(self, index: u32) -> i64 {
        i64::from(self.0) * 1000 + i64::from(index)
    }

    /// The text after an instance's name.
    fn block(self, index: u32) -> String {
        let (value, of, padding) = (self.value(index), self.count(), "x".repeat(self.padding(index)));
        format!("':\n  {{\n\t\tValue = {value}\n\t\tDimensions = map[of:{of} padding:{padding}]\n  }}")
    }

    /// The JSON members after the time.
    fn members(self, index: u32) -> String {
        let (value, of, padding) = (self.value(index), self.count(), "x".repeat(self.padding(index)));
        format!(
            "\",\"value\":{value},\"dimensions\":{{\"of\":{of},\"padding\":\"{padding}\"}},\
             \"monitored_resource_type\":\"\",\"monitored_resource_dimensions\":{{}}}}\n"
        )
    }

    /// Its record in the file.
    pub(crate) fn record(self) -> String {
        let each = 0..self.count();
        let number = self.0;
        if self.handler().json {
            let line = |index| {
                format!("{OBJECT}r{number}-{index}{TEMPLATE}2020-01-01T00:00:00Z{}", self.members(index))
            };
            return each.map(line).collect();
        }
        let blocks: String = each.map(|index| format!("'r{number}-{index}{}", self.block(index))).collect();
        format!("{HEAD}{}{HEAD_END}{blocks}\n", self.handler().path)
    }

    /// Its message.
    pub(crate) fn message(self) -> Vec<u8> {
        let value = |kind| Some(Value { value: Some(kind) });
        let instances = (0..self.count()).map(|index| {
            let padding = Kind::StringValue("x".repeat(self.padding(index)));
            let dimensions = [
                ("of".to_owned(), Value { value: Some(Kind::Int64Value(self.count().into())) }),
                ("padding".to_owned(), Value { value: Some(padding) }),
            ];
            InstanceMsg {
                name: format!("r{}-{index}", self.0),
                value: value(Kind::Int64Value(self.value(index))),
                dimensions: dimensions.into(),
                ..InstanceMsg::default()
            }
        });
        let instances = instances.collect();
        HandleMetricRequest { instances, adapter_config: self.handler().any(), dedup_id: "1".into() }
            .encode_to_vec()
    }
}

/// The content of a file.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// Instances, as requests and indices.
    pub(crate) instances: Vec<(Request, u32)>,
    /// Bytes of a partial record at the end.
    pub(crate) torn: usize,
}

/// Why parsing stopped.
enum Stop {
    /// The file ends in a correct but partial record.
    Torn,
    Wrong,
}

/// Parses a file, whose every byte must be as expected.
pub(crate) fn read(handler: &'static Handler, bytes: &[u8]) -> Result<Content, String> {
    let mut reader = Reader { rest: bytes, handler };
    let mut content = Content::default();
    while !reader.rest.is_empty() {
        let (before, known) = (reader.rest, content.instances.len());
        let outcome = match handler.json {
            true => reader.line(&mut content.instances),
            false => reader.text(&mut content.instances),
        };
        match outcome {
            Ok(()) => {}
            Err(Stop::Torn) => {
                content.instances.truncate(known);
                content.torn = before.len();
                return Ok(content);
            }
            Err(Stop::Wrong) => {
                let at = bytes.len() - before.len();
                let shown = before[..before.len().min(150)].escape_ascii();
                return Err(format!("no whole record at byte {at}: {shown}"));
            }
        }
    }
    Ok(content)
}

struct Reader<'a> {
    rest: &'a [u8],
    handler: &'static Handler,
}

impl Reader<'_> {
    fn take(&mut self, expected: &str) -> Result<(), Stop> {
        let expected = expected.as_bytes();
        if let Some(rest) = self.rest.strip_prefix(expected) {
            self.rest = rest;
            return Ok(());
        }
        Err(if expected.starts_with(self.rest) { Stop::Torn } else { Stop::Wrong })
    }

    fn number(&mut self) -> Result<u32, Stop> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == self.rest.len() && digits < 10 {
            return Err(Stop::Torn);
        }
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        std::str::from_utf8(number).ok().and_then(|text| text.parse().ok()).ok_or(Stop::Wrong)
    }

    fn name(&mut self) -> Result<(Request, u32), Stop> {
        self.take("r")?;
        let request = Request(self.number()?);
        self.take("-")?;
        let index = self.number()?;
        let is_here = std::ptr::eq(request.handler(), self.handler) && index < request.count();
        if is_here { Ok((request, index)) } else { Err(Stop::Wrong) }
    }

    /// A request in text: its head, all its instances in order, a newline.
    fn text(&mut self, instances: &mut Vec<(Request, u32)>) -> Result<(), Stop> {
        self.take(HEAD)?;
        self.take(self.handler.path)?;
        self.take(HEAD_END)?;
        let first = instances.len();
        loop {
            self.take("'")?;
            let (request, index) = self.name()?;
            let next = (instances.len() - first) as u32;
            if index != next || instances.get(first).is_some_and(|known| known.0 != request) {
                return Err(Stop::Wrong);
            }
            self.take(&request.block(index))?;
            instances.push((request, index));
            if next + 1 == request.count() {
                return self.take("\n");
            }
        }
    }

    /// An instance in JSON: the first of a request, or the next one.
    fn line(&mut self, instances: &mut Vec<(Request, u32)>) -> Result<(), Stop> {
        self.take(OBJECT)?;
        let (request, index) = self.name()?;
        self.take(TEMPLATE)?;
        let is_of_time = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'T' | b'Z' | b':' | b'.' | b'-');
        self.rest = &self.rest[self.rest.iter().take_while(is_of_time).count()..];
        self.take(&request.members(index))?;
        let follows = index.checked_sub(1).is_none_or(|before| instances.last() == Some(&(request, before)));
        instances.push((request, index));
        if follows { Ok(()) } else { Err(Stop::Wrong) }
    }
}
