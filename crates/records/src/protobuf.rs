//! Protobuf, read in place: its wire format, and instances by a table of fields.

pub mod walk;
pub mod wire;
