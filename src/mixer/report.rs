//! A report: its instances, rendered into the sink's buffer.

use super::config::{self, Any, Config};
use super::walk::{self, Template};
use super::wire::{Malformed, Reader, WireType};
use crate::record::Record;
use crate::render::{Format, go, json, text};

/// The most instances one request may bring.
pub const MAX_INSTANCES: usize = 65_536;
/// The most bytes one request may become.
pub const MAX_RENDERED: usize = 8 * 1024 * 1024;

/// Why a report is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It isn't a request of this template.
    Malformed(Malformed),
    /// Its config is wrong; the text says how.
    Config(String),
    /// It has too many instances.
    Instances,
    /// It becomes too many bytes.
    Rendered,
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// A request of the report family, with its config read and its instances not
/// yet looked into.
#[derive(Debug)]
pub struct Report<'a> {
    message: &'a [u8],
    /// What its handler asks for.
    pub config: Config<'a>,
}

impl<'a> Report<'a> {
    /// Reads all of a request but its instances.
    pub fn read(message: &'a [u8]) -> Result<Self, Refusal> {
        let mut any = Any::default();
        let mut instances = 0_usize;
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
                1 => instances += 1,
                2 => any.merge(content)?,
                _ => {}
            }
        }
        if instances > MAX_INSTANCES {
            return Err(Refusal::Instances);
        }
        Ok(Self { message, config: config::read(any).map_err(Refusal::Config)? })
    }

    /// Appends all its instances to `out`: the walkthrough's text, or lines of
    /// JSON.
    pub fn render(&self, template: &Template, format: Format, out: &mut Vec<u8>) -> Result<(), Refusal> {
        match format {
            Format::Text => {
                text::head(out, &template.layout, self.config.file_path());
                self.each(template, out, |out, record| text::instance(out, &template.layout, record))?;
                text::tail(out);
            }
            Format::Json => {
                let mut now = Vec::with_capacity(32);
                go::now(&mut now);
                self.each(template, out, |out, record| json::instance(out, &template.layout, record, &now))?;
            }
        }
        Ok(())
    }

    /// Shows one instance after the other.
    fn each(
        &self,
        template: &Template,
        out: &mut Vec<u8>,
        show: impl Fn(&mut Vec<u8>, &Record),
    ) -> Result<(), Refusal> {
        let limit = out.len() + MAX_RENDERED;
        let mut record = Record::default();
        let mut reader = Reader::new(self.message);
        while let Some(tag) = reader.tag()? {
            if tag.field != 1 {
                reader.skip(tag)?;
                continue;
            }
            walk::instance(&mut record, template.fields, reader.bytes()?)?;
            show(out, &record);
            if out.len() > limit {
                return Err(Refusal::Rendered);
            }
        }
        Ok(())
    }
}
