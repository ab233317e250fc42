//! Unpacks a message compressed with gzip (RFC 1952), within a limit.
//!
//! A member ends with its unpacked length. It is checked before anything is unpacked,
//! and never exceeded.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// The header: two bytes of magic, the method, flags, a time, two more bytes.
const HEAD: usize = 10;
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
/// The trailer: a checksum and the length.
const TAIL: usize = 8;
/// Optional fields, by their flags.
const HEADER_CHECKSUM: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// The unpacked length that a member claims; `None` if it is no member.
pub(super) fn length(member: &[u8]) -> Option<usize> {
    let (body, length) = member.split_last_chunk()?;
    let is_member = body.len() >= HEAD + TAIL - 4 && body.starts_with(&MAGIC);
    is_member.then_some(u32::from_le_bytes(*length) as usize)
}

/// Unpacks a member into `length` bytes; `None` if it is damaged, or has another
/// length.
pub(super) fn unpack(member: &[u8], length: usize) -> Option<Vec<u8>> {
    let (body, tail) = member.split_last_chunk::<TAIL>()?;
    let compressed = behind_head(body)?;
    let mut message = vec![0; length];
    let mut state = Box::<DecompressorOxide>::default();
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let outcome = decompress(&mut state, compressed, &mut message, 0, flags);
    let is_whole = outcome == (TINFLStatus::Done, compressed.len(), length);
    (is_whole && tail[..4] == checksum(&message).to_le_bytes()).then_some(message)
}

/// The rest after the header and its optional fields.
fn behind_head(member: &[u8]) -> Option<&[u8]> {
    let (head, mut rest) = member.split_first_chunk::<HEAD>()?;
    let flags = head[3];
    if !head.starts_with(&MAGIC) || flags & RESERVED != 0 {
        return None;
    }
    if flags & EXTRA != 0 {
        let (length, after) = rest.split_first_chunk()?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            rest = &rest[rest.iter().position(|byte| *byte == 0)? + 1..];
        }
    }
    if flags & HEADER_CHECKSUM != 0 { rest.get(2..) } else { Some(rest) }
}

/// CRC-32, four bits at a time: a table of 64 bytes.
fn checksum(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = table();
    let step = |crc: u32, bits: u32| TABLE[((crc ^ bits) & 15) as usize] ^ crc >> 4;
    !bytes.iter().fold(!0, |crc, byte| step(step(crc, u32::from(*byte)), u32::from(*byte) >> 4))
}

const fn table() -> [u32; 16] {
    let mut table = [0; 16];
    let mut index = 0;
    while index < 16 {
        let (mut crc, mut bit) = (index as u32, 0);
        while bit < 4 {
            crc = crc >> 1 ^ (if crc & 1 == 1 { 0xedb8_8320 } else { 0 });
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member with one stored block of these bytes, and optional fields.
    fn stored(text: &[u8], flags: u8, fields: &[u8]) -> Vec<u8> {
        let length = text.len() as u16;
        let head = [&MAGIC[..], &[flags, 0, 0, 0, 0, 0, 255], fields, &[1]].concat();
        let lengths = [length.to_le_bytes(), (!length).to_le_bytes()].concat();
        let tail = [checksum(text).to_le_bytes(), u32::from(length).to_le_bytes()].concat();
        [&head, &lengths, text, &tail].concat()
    }

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_member_is_unpacked_whatever_its_head_has() {
        let fields = b"\x03\0abcname\0comment\0\x01\x02";
        for member in [stored(b"hello", 0, b""), stored(b"hello", 0x1e, fields), stored(b"", 0, b"")] {
            let length = length(&member).unwrap();
            assert_eq!(unpack(&member, length).unwrap(), b"hello"[..length]);
        }
        // `printf '%0200d' 0 | gzip -9n`
        let packed = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\x33\x30\x18\x1e\0\0\x56\x83\xc0\x80\xc8\0\0\0";
        assert_eq!(length(packed), Some(200));
        assert_eq!(unpack(packed, 200).unwrap(), [b'0'; 200]);
    }

    #[test]
    fn what_is_damaged_or_holds_another_number_of_bytes_is_refused() {
        let member = stored(b"hello", 0x1e, b"\x03\0abcname\0comment\0\x01\x02");
        for length in [0, 4, 6, 1 << 16] {
            assert_eq!(unpack(&member, length), None, "{length}");
        }
        for end in 0..member.len() {
            let cut = &member[..end];
            assert_eq!(length(cut).and_then(|_| unpack(cut, 5)), None, "cut at {end}");
        }
        for at in (0..3).chain(member.len() - 13..member.len() - 4) {
            let mut damaged = member.clone();
            damaged[at] ^= 1;
            assert_eq!(unpack(&damaged, 5), None, "damaged at {at}");
        }
    }
}
