//! Protobuf, read in place: the wire format, instances by a table of fields, and
//! messages with dynamic keys.

pub mod object;
pub mod walk;
pub mod wire;
