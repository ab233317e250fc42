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
pub struct Style<'t> {
    format: Format,
    template: &'t Template,
    /// Rendered members that all instances share; empty in text.
    shared: Vec<u8>,
    /// Upper bound of the bytes of an instance that are not values.
    around: usize,
}

impl<'t> Style<'t> {
    /// For a request received now.
    pub fn new(format: Format, template: &'t Template) -> Self {
        let shared = match format {
            Format::Text => Vec::new(),
            Format::Json => json::shared(template),
        };
        let columns = template.columns.iter().map(|column| column.label.len() + column.key.len() + 8);
        let around = 64 + shared.len() + columns.sum::<usize>();
        Self { format, template, shared, around }
    }

    /// The text before the instances. `file_path` is the handler's param, as
    /// received.
    pub fn head(&self, file_path: &[u8], out: &mut Vec<u8>) {
        if self.format == Format::Text {
            text::head(out, self.template, file_path);
        }
    }

    /// One instance.
    pub fn instance(&self, record: &Record, out: &mut Vec<u8>) {
        match self.format {
            Format::Text => text::instance(out, self.template, record),
            Format::Json => json::instance(out, self.template, record, &self.shared),
        }
    }

    /// Upper bound of a rendered instance of this many bytes. A time without its
    /// inner message grows most: from six bytes to a hundred.
    pub fn at_most(&self, instance: usize) -> usize {
        self.around + self.template.columns.len() * record::MAX_GROWTH + 20 * instance
    }

    /// A tighter upper bound for this instance, which takes longer to compute.
    pub fn measure(&self, record: &Record, instance: &[u8]) -> usize {
        let grown: usize = match self.format {
            Format::Text => 0,
            Format::Json => instance.utf8_chunks().map(|chunk| json::growth(&chunk)).sum(),
        };
        self.around + instance.len() + grown + record.growth()
    }

    /// The text after the last instance.
    pub fn tail(&self, out: &mut Vec<u8>) {
        if self.format == Format::Text {
            text::tail(out);
        }
    }
}
