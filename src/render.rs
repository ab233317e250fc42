//! Records to bytes: the walkthrough's text, or JSON Lines.
//!
//! Renderers append to a buffer and can't fail. How a template looks is a table
//! of [`Column`]s; what it holds comes in as a [`Record`](crate::record::Record).

pub mod go;
pub mod json;
pub mod text;

/// How one field of a template is shown.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its label in the text, or empty where the text leaves it out.
    pub label: &'static str,
    /// Its key in JSON.
    pub key: &'static str,
}

/// How a template is shown: the name of its call, and its fields in order.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The method that brought it, as in `HandleMetric`.
    pub call: &'static str,
    /// The template's name, as in `metric`.
    pub template: &'static str,
    /// One column per value of the record.
    pub columns: &'static [Column],
}

/// What records look like in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The walkthrough's text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}
