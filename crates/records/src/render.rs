//! Records to bytes: the walkthrough's text, or JSON Lines.
//!
//! Renderers append to a buffer and can't fail.

pub mod append;
pub mod bound;
pub mod escape;
pub mod go;
pub mod grammar;
pub mod json;
pub mod text;

use crate::record::{self, Record};
use crate::template::Template;

/// The format of records in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The walkthrough's text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A format, applied to one request.
#[derive(Debug)]
pub struct Style {
    format: Format,
    received_at: Vec<u8>,
}

impl Style {
    /// For a request received now.
    pub fn new(format: Format) -> Self {
        let mut received_at = Vec::new();
        if format == Format::Json {
            go::now(&mut received_at);
        }
        Self { format, received_at }
    }

    /// The text before the instances. `file_path` is the handler's param, as
    /// received.
    pub fn head(&self, template: &Template, file_path: &[u8], out: &mut Vec<u8>) {
        if self.format == Format::Text {
            text::head(out, template, file_path);
        }
    }

    /// One instance.
    pub fn instance(&self, template: &Template, record: &Record, out: &mut Vec<u8>) {
        match self.format {
            Format::Text => text::instance(out, template, record),
            Format::Json => json::instance(out, template, record, &self.received_at),
        }
    }

    /// Upper bound of a rendered instance of this many bytes. A time without its
    /// inner message grows most: from six bytes to a hundred.
    pub fn at_most(&self, template: &Template, instance: usize) -> usize {
        self.around(template) + template.columns.len() * record::MAX_GROWTH + 20 * instance
    }

    /// A tighter upper bound for this instance, which takes longer to compute.
    pub fn measure(&self, template: &Template, record: &Record, instance: &[u8]) -> usize {
        let grown: usize = match self.format {
            Format::Text => 0,
            Format::Json => instance.utf8_chunks().map(|chunk| json::growth(&chunk)).sum(),
        };
        self.around(template) + instance.len() + grown + record.growth()
    }

    /// Upper bound of the bytes that are not values.
    fn around(&self, template: &Template) -> usize {
        let columns = template.columns.iter().map(|column| column.label.len() + column.key.len() + 8);
        64 + template.name.len() + self.received_at.len() + columns.sum::<usize>()
    }

    /// The text after the last instance.
    pub fn tail(&self, out: &mut Vec<u8>) {
        if self.format == Format::Text {
            text::tail(out);
        }
    }
}
