//! A handler's params: the `adapter_config` of every request.
//!
//! Our own adapter resource sends `mygrpcadapter.config.v1.Params`. Another package's
//! `Params` belongs to an existing resource of an operator: only field 1 is read, and
//! the called service interprets it.

use prost::Message;

use crate::pb::mygrpcadapter::config::v1::{Params, params};
use crate::quoted::quoted;
use crate::refusal::{Reason, Refusal};
use crate::render::Format;
use records::protobuf::wire::{Malformed, Reader, WireType};

/// The package and name of our own params.
pub const OWN_TYPE: &str = "mygrpcadapter.config.v1.Params";

/// An `Any`, borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Any<'a> {
    /// A URL that ends in `/` and the full name of the message.
    pub type_url: &'a [u8],
    /// The encoded message.
    pub value: &'a [u8],
}

impl<'a> Any<'a> {
    /// Merges an encoded `Any` into this one.
    pub fn merge(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            match tag.field {
                1 | 2 => tag.expect(WireType::Bytes)?,
                _ => {
                    reader.skip(tag)?;
                    continue;
                }
            }
            match tag.field {
                1 => self.type_url = reader.bytes()?,
                _ => self.value = reader.bytes()?,
            }
        }
        Ok(())
    }
}

/// Reads the `adapter_config` of a request of any template, and passes each of its
/// instances, or parts of its one instance, to `instance`.
pub fn in_request<'a>(message: &'a [u8], mut instance: impl FnMut(&'a [u8])) -> Result<Any<'a>, Malformed> {
    let mut any = Any::default();
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag.field {
            1..=3 => tag.expect(WireType::Bytes)?,
            _ => {
                reader.skip(tag)?;
                continue;
            }
        }
        let content = reader.bytes()?;
        match tag.field {
            1 => instance(content),
            2 => any.merge(content)?,
            _ => {}
        }
    }
    Ok(any)
}

/// The params of a handler.
#[derive(Clone, Debug, PartialEq)]
pub enum Config<'a> {
    /// Field 1 of another package's `Params`; empty if unset or without params.
    Foreign(&'a [u8]),
    /// Our own.
    Own(Box<Params>),
}

impl Config<'_> {
    /// The file for reports, as received; empty if unset.
    pub fn file_path(&self) -> &[u8] {
        match self {
            Self::Foreign(first) => first,
            Self::Own(params) => params.file_path.as_bytes(),
        }
    }

    /// The format of records, if set.
    pub fn format(&self) -> Option<Format> {
        let Self::Own(params) = self else { return None };
        match params.format() {
            params::Format::Default => None,
            params::Format::Text => Some(Format::Text),
            params::Format::Json => Some(Format::Json),
        }
    }
}

/// Reads `adapter_config`. If it is absent or has no value, the handler gets the
/// defaults.
pub fn read<'a>(any: Any<'a>) -> Result<Config<'a>, Refusal> {
    if any.value.is_empty() {
        return Ok(Config::Foreign(&[]));
    }
    let name = any.type_url.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if name == OWN_TYPE.as_bytes() {
        let params = Params::decode(any.value).map_err(|error| undecodable(name, &error))?;
        return Ok(Config::Own(Box::new(params)));
    }
    if name.rsplit(|byte| *byte == b'.').next() != Some(b"Params") {
        let name = quoted(name);
        let text = format!("adapter_config: type {name} is not a Params message; check the adapter resource");
        return Err(Refusal::new(Reason::Config, text));
    }
    let first = first_field(any.value).map_err(|error| undecodable(name, &error))?;
    Ok(Config::Foreign(first))
}

fn undecodable(name: &[u8], error: &dyn std::fmt::Display) -> Refusal {
    let text = format!("adapter_config: cannot decode {}: {error}; check the handler's params", quoted(name));
    Refusal::new(Reason::Config, text)
}

/// Field 1 of a message, as bytes.
fn first_field(message: &[u8]) -> Result<&[u8], Malformed> {
    let mut first = &[][..];
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        if tag.field == 1 {
            tag.expect(WireType::Bytes)?;
            first = reader.bytes()?;
        } else {
            reader.skip(tag)?;
        }
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any<'a>(name: &'a str, value: &'a [u8]) -> Any<'a> {
        Any { type_url: name.as_bytes(), value }
    }

    #[test]
    fn no_value_means_defaults_whatever_the_type() {
        for name in ["", "type.googleapis.com/a.Params", "type.googleapis.com/a.Config"] {
            assert_eq!(read(any(name, b"")), Ok(Config::Foreign(b"")));
        }
    }

    #[test]
    fn field_1_of_any_params_is_read_and_nothing_else() {
        for name in [
            "type.googleapis.com/mygrpcadapter.config.v1.Params",
            "type.googleapis.com/adapter.mygrpcadapter.config.Params",
            "example.com/Params",
            "Params",
        ] {
            let config = read(any(name, b"\x0a\x05a.txt\x7a\x01x")).unwrap();
            assert_eq!(config.file_path(), b"a.txt", "{name}");
        }
        let latin1 = read(any("x/a.Params", b"\x0a\x02\xe9x")).unwrap();
        assert_eq!(latin1.file_path(), b"\xe9x");
    }

    #[test]
    fn what_is_not_params_is_refused_with_a_reason() {
        for (name, value, reason) in [
            (
                "type.googleapis.com/adapter.Config",
                &b"\x0a\x01a"[..],
                "\"adapter.Config\" is not a Params message",
            ),
            ("", b"\x0a\x01a", "\"\" is not a Params message"),
            ("x/a.MyParams", b"\x0a\x01a", "is not a Params message"),
            ("x/a.Params", b"\x0a\x05a", "cannot decode \"a.Params\": the message ends inside a field"),
            ("x/a.Params", b"\x08\x05", "field 1 has the wrong wire type"),
            ("x/mygrpcadapter.config.v1.Params", b"\x0a\x05a", "cannot decode"),
            ("x/mygrpcadapter.config.v1.Params", b"\x0a\x01\xff", "cannot decode"),
        ] {
            let refusal = read(any(name, value)).unwrap_err();
            assert!(refusal.text.contains(reason), "{name}: {refusal:?}");
        }
    }
}
