//! Response flags: reasons for a local reply of Envoy, or for a failure.

use crate::protobuf::wire::{Malformed, Reader, WireType};
use crate::render::append::append;

/// Envoy's short names, by field number minus one.
const NAMES: [&str; 28] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX",
    "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DR",
];
/// The field number of the last flag.
const LAST: i32 = NAMES.len() as i32;
/// The only flag with a message type; its presence sets the flag.
const UNAUTHORIZED: i32 = 13;

/// The flags of an entry as bits; the lowest bit is field 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Merges a message into these flags.
    pub(super) fn add(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            match (tag.field, tag.wire) {
                (UNAUTHORIZED, WireType::Bytes) => {
                    reader.skip(tag)?;
                    self.set(tag.field, true);
                }
                (1..=LAST, WireType::Varint) if tag.field != UNAUTHORIZED => {
                    let set = reader.varint()? != 0;
                    self.set(tag.field, set);
                }
                _ => reader.skip(tag)?,
            }
        }
        Ok(())
    }

    fn set(&mut self, field: i32, set: bool) {
        let bit = 1 << (field - 1);
        self.0 = if set { self.0 | bit } else { self.0 & !bit };
    }

    /// Appends the short names, separated by commas, or `-`.
    pub(super) fn show(self, out: &mut Vec<u8>) {
        if self.0 == 0 {
            return out.push(b'-');
        }
        let mut left = self.0;
        while let Some(name) = NAMES.get(left.trailing_zeros() as usize) {
            append(out, name.as_bytes());
            left &= left - 1;
            if left != 0 {
                out.push(b',');
            }
        }
    }
}
