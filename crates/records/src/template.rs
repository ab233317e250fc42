//! A template: one table of an instance's fields on the wire and their rendering.

use crate::record::{Stretch, Value};

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    String,
    /// An int64.
    Int,
    /// A bool.
    Bool,
    /// A Value. The text shows it as Go prints it, and all other kinds plainly.
    Value,
    /// A `map<string, Value>`.
    Map,
    /// A TimeStamp.
    Time,
    /// An IPAddress.
    Ip,
}

impl Kind {
    /// The value of a field that was not sent.
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

/// One column: the record's value at the same index, its field, and its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The number of the field whose message holds it; 0 for the instance itself.
    pub parent: i32,
    /// Its field number; 0 for a column without a field.
    pub number: i32,
    /// Its type.
    pub kind: Kind,
    /// Its label in the text; empty if the text omits it.
    pub label: &'static str,
    /// Its key in JSON.
    pub key: &'static str,
}

impl Column {
    /// A column for field `number` of the instance.
    pub const fn new(number: i32, kind: Kind, label: &'static str, key: &'static str) -> Self {
        Self { parent: 0, number, kind, label, key }
    }

    /// The same column, for a field of the message in field `parent`.
    pub const fn of(mut self, parent: i32) -> Self {
        self.parent = parent;
        self
    }
}

/// The fields of an instance, and their rendering.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// The RPC method that carries it, as in `HandleMetric`.
    pub call: &'static str,
    /// Its name, as in `metric`.
    pub name: &'static str,
    /// Its columns, in rendering order.
    pub columns: &'static [Column],
}

impl Template {
    /// The values of an empty instance.
    pub fn blank(&self) -> Vec<Value<'static>> {
        self.columns.iter().map(|column| column.kind.unset()).collect()
    }
}
