//! A template: one table that says what an instance holds on the wire and how
//! each value is shown.

use crate::record::{Stretch, Value};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    String,
    /// An int64.
    Int,
    /// A bool.
    Bool,
    /// A Value, shown in the text as Go prints it; all other kinds are shown
    /// plainly.
    Value,
    /// A `map<string, Value>`.
    Map,
    /// A TimeStamp.
    Time,
    /// An IPAddress.
    Ip,
}

impl Kind {
    /// The value of a field that wasn't sent.
    fn unset(self) -> Value<'static> {
        match self {
            Self::String => Value::String(&[]),
            Self::Int => Value::Int(0),
            Self::Bool => Value::Bool(false),
            Self::Map => Value::Map(Stretch::default()),
            Self::Value | Self::Time | Self::Ip => Value::Absent,
        }
    }
}

/// One column: a value of the record at the same index, the field that fills it,
/// and its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The number of the message field that holds it; 0 is the instance itself.
    pub parent: i32,
    /// Its field number; 0 for a column that no field fills.
    pub number: i32,
    /// What it holds.
    pub kind: Kind,
    /// Its label in the text; empty where the text leaves it out.
    pub label: &'static str,
    /// Its key in JSON.
    pub key: &'static str,
}

impl Column {
    /// A column that field `number` of the instance fills.
    pub const fn new(number: i32, kind: Kind, label: &'static str, key: &'static str) -> Self {
        Self { parent: 0, number, kind, label, key }
    }

    /// The same, as a field of the message in field `parent`.
    pub const fn of(mut self, parent: i32) -> Self {
        self.parent = parent;
        self
    }
}

/// What an instance holds, and how it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// The method that brings it, as in `HandleMetric`.
    pub call: &'static str,
    /// Its name, as in `metric`.
    pub name: &'static str,
    /// Its columns, in the order in which they are shown.
    pub columns: &'static [Column],
}

impl Template {
    /// The values of an instance of which nothing was sent.
    pub fn blank(&self) -> Vec<Value<'static>> {
        self.columns.iter().map(|column| column.kind.unset()).collect()
    }
}
