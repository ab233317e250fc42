//! Protobuf, read in place: its wire format, instances by a table of fields, and
//! messages whose shape is data.

pub mod object;
pub mod walk;
pub mod wire;
