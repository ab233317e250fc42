//! Rotated files: their names, and how one is deleted.
//!
//! A rotated file has its file's name and a suffix of six digits; the highest number is
//! the newest. Only files with such a name are ever deleted, only if they start with a
//! record or match the pattern of files for any text, and never through a link.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::dir::{GUARDED, identity, reopen};
use crate::formats::is_ours;
use crate::render::grammar::AHEAD;

const DIGITS: usize = 6;
/// The highest number: longer suffixes are not recognized.
pub(super) const MAX_NUMBER: u32 = 999_999;
/// Limit on the names read from one directory.
const MAX_NAMES: usize = 1_000_000;

/// The name of rotated file `number` of `name`.
pub(super) fn numbered(name: &[u8], number: u32) -> Vec<u8> {
    [name, format!(".{number:0DIGITS$}").as_bytes()].concat()
}

/// The numbers of the rotated files of `name` in a directory, ascending.
pub(super) fn numbers_of(dir: BorrowedFd, name: &[u8]) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in Dir::new(reopen(dir)?)?.take(MAX_NAMES) {
        let entry = entry?;
        numbers.extend(entry.file_name().to_bytes().strip_prefix(name).and_then(number_of));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The number in `.000123`.
fn number_of(suffix: &[u8]) -> Option<u32> {
    let digits = suffix.strip_prefix(b".")?;
    let is_number = digits.len() == DIGITS && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0')))
}

/// Splits the name of a rotated file into its file's name and the number.
pub(super) fn split(name: &[u8]) -> Option<(&[u8], u32)> {
    let at = name.len().checked_sub(DIGITS + 1)?;
    Some((&name[..at], number_of(&name[at..])?))
}

/// Whether a name is that of a rotated file.
pub fn is_numbered(name: &[u8]) -> bool {
    split(name).is_some()
}

/// How to recognize our rotated files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// By the first record.
    ByContent,
    /// By the name: the content may be any text.
    ByName,
}

/// Whether a name leads to a regular file of ours. Nothing else is opened: that could
/// have side effects or block.
pub(super) fn is_ours_at(dir: BorrowedFd, name: &[u8], known: Known) -> bool {
    look_at(dir, name, known).is_ok_and(|found| found.is_some())
}

/// Opens a file for inspection; `None` if it is not regular or does not start with a
/// record.
fn look_at(dir: BorrowedFd, name: &[u8], known: Known) -> rustix::io::Result<Option<File>> {
    let is_regular = |mode| FileType::from_raw_mode(mode) == FileType::RegularFile;
    if !is_regular(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode) {
        return Ok(None);
    }
    let file = File::from(rustix::fs::openat(dir, name, GUARDED | OFlags::RDONLY, Mode::empty())?);
    if !is_regular(rustix::fs::fstat(&file)?.st_mode) {
        return Ok(None);
    }
    if known == Known::ByName {
        return Ok(Some(file));
    }
    let mut start = [0; AHEAD];
    let read = file.read_at(&mut start, 0).unwrap_or(0);
    Ok(is_ours(&start[..read]).then_some(file))
}

/// Deletes a rotated file from its directory and returns its size in bytes; `None` if
/// it is not ours, or was replaced meanwhile.
pub(super) fn delete(dir: BorrowedFd, name: &[u8], known: Known) -> rustix::io::Result<Option<u64>> {
    match unlink_ours(dir, name, known) {
        // Another adapter was first, and counts it.
        Err(Errno::NOENT) => Ok(None),
        other => other,
    }
}

fn unlink_ours(dir: BorrowedFd, name: &[u8], known: Known) -> rustix::io::Result<Option<u64>> {
    let Some(file) = look_at(dir, name, known)? else { return Ok(None) };
    // Linux deletes by name only, so check the name as late as possible.
    let there = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if identity(&there) != identity(&rustix::fs::fstat(&file)?) {
        return Ok(None);
    }
    rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
    // Measured after the unlink: a later writer sees that the file is deleted and
    // writes again elsewhere.
    Ok(Some(rustix::fs::fstat(&file)?.st_size.unsigned_abs()))
}
