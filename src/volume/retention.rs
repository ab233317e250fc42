//! How much is kept: rotation of a file by size and age, and the limit on all
//! that lies in the volume.
//!
//! A rotated file is named after its file with six digits behind: the highest
//! number is the newest. Only such files, and only if they begin as ours do, are
//! ever deleted.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::log_file::LogFile;
use super::{FilePath, OpenError, Volume};

const DIGITS: usize = 6;
const MAX_NUMBER: u32 = 999_999;
const MAX_DEPTH: usize = 16;

/// What an operator wants kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// The size at which a file is rotated.
    pub rotate_size: Option<u64>,
    /// The age at which a file is rotated.
    pub rotate_age: Option<Duration>,
    /// How many rotated files of each file are kept.
    pub rotate_keep: u32,
    /// How much may lie in the volume.
    pub max_volume_bytes: Option<u64>,
}

impl Retention {
    /// Whether a file of `len` bytes must be rotated before `more` are added.
    pub fn is_due(&self, file: &LogFile, len: u64, more: u64) -> bool {
        let too_large = self.rotate_size.is_some_and(|size| len + more > size);
        let too_old = || self.rotate_age.is_some_and(|age| file.age() >= age);
        len > 0 && file.is_owned() && (too_large || too_old())
    }

    /// Renames a file out of the way and deletes the rotated ones beyond the
    /// number to keep. Returns how many records went with them.
    pub fn rotate(&self, volume: &Volume, path: &FilePath) -> Result<u64, OpenError> {
        let (dir, name) = volume.enter(path)?;
        let full = volume.full_path(path);
        let parent = full.parent().unwrap_or(volume.dir());
        let mut numbers: Vec<u32> = rotated_in(parent, name).map_err(OpenError::Io)?;
        numbers.sort_unstable();
        let next = numbers.last().map_or(1, |last| last + 1);
        if next > MAX_NUMBER {
            // A number with more digits would not be found again, and written over.
            return Err(path.refused("a rotated file has the last number there is; rename it"));
        }
        rustix::fs::renameat(&dir, name, &dir, numbered(name, next))?;
        numbers.push(next);
        let full_path = |number| parent.join(OsStr::from_bytes(&numbered(name, number)));
        numbers.retain(|number| is_ours(&full_path(*number)));
        let mut deleted = 0;
        let surplus = numbers.len().saturating_sub(self.rotate_keep as usize);
        for number in &numbers[..surplus] {
            let unlink = || rustix::fs::unlinkat(&dir, numbered(name, *number), rustix::fs::AtFlags::empty());
            deleted += delete(&full_path(*number), || Ok(unlink()?)).map_err(OpenError::Io)?;
        }
        Ok(deleted)
    }
}

fn numbered(name: &[u8], number: u32) -> Vec<u8> {
    [name, format!(".{number:0DIGITS$}").as_bytes()].concat()
}

/// The numbers of the rotated files of `name` in a directory.
fn rotated_in(dir: &Path, name: &[u8]) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?.file_name();
        let number = entry.as_bytes().strip_prefix(name).and_then(number_of);
        numbers.extend(number);
    }
    Ok(numbers)
}

/// The number in `.000123`.
fn number_of(suffix: &[u8]) -> Option<u32> {
    let digits = suffix.strip_prefix(b".")?;
    let is_number = digits.len() == DIGITS && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0')))
}

/// Whether a name is that of a rotated file.
pub fn is_numbered(name: &[u8]) -> bool {
    let suffix = name.len().checked_sub(DIGITS + 1);
    suffix.is_some_and(|at| number_of(&name[at..]).is_some())
}

/// What lies in the volume, as far as we know.
#[derive(Debug, Default)]
pub struct Usage {
    /// Bytes found by the last look, and written since.
    bytes: Option<u64>,
}

/// What making room has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room; so many records were deleted for it.
    Made(u64),
    /// There is none, and nothing of ours is left to delete.
    None(u64),
}

impl Usage {
    /// Makes room for `more` bytes beneath `limit`, by deleting our own oldest
    /// rotated files. A look at the volume is taken only when what is known of
    /// it says that it is full.
    pub fn make_room(&mut self, volume: &Volume, limit: u64, more: u64) -> Room {
        let mut deleted = 0;
        if self.bytes.is_none_or(|bytes| bytes + more > limit) {
            let mut found = Found::default();
            found.look(volume.dir(), 0);
            found.rotated.sort_unstable();
            let mut oldest = found.rotated.iter();
            while found.bytes + more > limit {
                let Some((_, path, bytes)) = oldest.next() else {
                    self.bytes = Some(found.bytes);
                    return Room::None(deleted);
                };
                match delete(path, || std::fs::remove_file(path)) {
                    Ok(records) => {
                        deleted += records;
                        found.bytes = found.bytes.saturating_sub(*bytes);
                        log::info!("deleted to make room path={} records={records}", path.display());
                    }
                    Err(error) => log::warn!("cannot delete path={} error={error}", path.display()),
                }
            }
            self.bytes = Some(found.bytes);
        }
        self.bytes = self.bytes.map(|bytes| bytes + more);
        Room::Made(deleted)
    }
}

/// Everything a look has found: bytes of all files, and the rotated ones that
/// are ours with their age and size.
#[derive(Debug, Default)]
struct Found {
    bytes: u64,
    rotated: Vec<(SystemTime, PathBuf, u64)>,
}

impl Found {
    /// Looks into a directory and those beneath it, following no link. What
    /// can't be read counts as nothing.
    fn look(&mut self, dir: &Path, depth: usize) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let Ok(status) = entry.metadata() else { continue };
            if status.is_dir() && depth < MAX_DEPTH {
                self.look(&entry.path(), depth + 1);
            } else if status.is_file() {
                let bytes = status.len().max(std::os::unix::fs::MetadataExt::blocks(&status) * 512);
                self.bytes += bytes;
                let name = entry.file_name();
                if is_numbered(name.as_bytes()) && is_ours(&entry.path()) {
                    let written = status.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    self.rotated.push((written, entry.path(), bytes));
                }
            }
        }
    }
}

const OBJECT: &[u8] = b"{\"instance\":";
const CALL: &[u8] = b"Handle";

/// Whether a file begins as our records do.
fn is_ours(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(OBJECT.len() as u64).read_to_end(&mut start));
    read.is_ok() && (start == OBJECT || start.starts_with(CALL))
}

/// Deletes a file by `unlink`; returns how many instances went with it. Counted
/// when it has no name any more: whoever writes after that writes it again.
fn delete(path: &Path, unlink: impl FnOnce() -> io::Result<()>) -> io::Result<u64> {
    let file = File::open(path);
    unlink()?;
    Ok(file.and_then(records_in).unwrap_or(0))
}

/// Counts the instances in a file.
///
/// Exact for JSON, where each is a line of its own. In the text, where a path, a
/// name or a value may hold whole lines, never too few; too many only where such
/// lines look like an instance to every reader: in a value, like the end of its
/// own and the beginning of another.
fn records_in(mut file: File) -> io::Result<u64> {
    let mut block = vec![0; 64 * 1024];
    let mut count = Count::default();
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok(count.instances);
        }
        block[..read].iter().for_each(|byte| count.take(*byte));
    }
}

/// What ends the name of an instance, and what stands around its values.
const NAMED: [u8; 2] = *b"':";
const OPEN: &[u8] = b"  {";
const CLOSE: &[u8] = b"  }";

/// Instances counted line by line.
#[derive(Debug, Default)]
struct Count {
    instances: u64,
    /// The beginning of this line.
    line: Vec<u8>,
    /// Its last two bytes.
    last: [u8; 2],
    /// Whether the line before ended the name of an instance.
    is_named: bool,
    /// Whether we are among the values of an instance.
    is_open: bool,
}

impl Count {
    fn take(&mut self, byte: u8) {
        if byte != b'\n' {
            if self.line.len() < OBJECT.len() {
                self.line.push(byte);
            }
            self.last = [self.last[1], byte];
            return;
        }
        if self.is_open {
            self.is_open = !self.line.starts_with(CLOSE);
        } else {
            self.is_open = self.is_named && self.line == OPEN;
            self.instances += u64::from(self.is_open || self.line == OBJECT);
        }
        self.is_named = self.last == NAMED;
        self.line.clear();
        self.last = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str) -> Volume {
        let dir = std::env::temp_dir().join(format!("retention-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Volume::open(&dir).unwrap()
    }

    fn names(volume: &Volume) -> Vec<String> {
        let entries = std::fs::read_dir(volume.dir()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn rotation_keeps_as_many_as_asked_and_counts_what_goes() {
        let volume = volume("keep");
        let path = volume.resolve(b"out.txt").unwrap();
        let keep_two = Retention { rotate_keep: 2, ..Retention::default() };
        let mut deleted = 0;
        for _ in 0..4 {
            std::fs::write(volume.full_path(&path), "{\"instance\":1}\n{\"instance\":2}\n").unwrap();
            deleted += keep_two.rotate(&volume, &path).unwrap();
        }
        std::fs::write(volume.dir().join("out.txt.1"), "a stranger's").unwrap();
        assert_eq!(names(&volume), ["out.txt.000003", "out.txt.000004", "out.txt.1"]);
        assert_eq!(deleted, 4);
        std::fs::remove_dir_all(volume.dir()).unwrap();
    }

    #[test]
    fn rotation_deletes_no_stranger_and_writes_over_nothing() {
        let volume = volume("strangers");
        let path = volume.resolve(b"out.txt").unwrap();
        let write = |name: &str, content: &str| std::fs::write(volume.dir().join(name), content).unwrap();
        write("out.txt.000001", "a stranger's, though numbered");
        let keep_none = Retention::default();
        write("out.txt", "{\"instance\":1}\n");
        assert_eq!(keep_none.rotate(&volume, &path).unwrap(), 1);
        assert_eq!(names(&volume), ["out.txt.000001"]);

        write("out.txt.999999", "{\"instance\":2}\n");
        for _ in 0..2 {
            write("out.txt", "{\"instance\":3}\n");
            assert!(keep_none.rotate(&volume, &path).is_err());
        }
        assert_eq!(names(&volume), ["out.txt", "out.txt.000001", "out.txt.999999"]);
        std::fs::remove_dir_all(volume.dir()).unwrap();
    }

    #[test]
    fn room_is_made_by_deleting_our_oldest_and_nothing_else() {
        let volume = volume("room");
        let write = |name: &str, content: &str| std::fs::write(volume.dir().join(name), content).unwrap();
        let record = format!("{{\"instance\":\"{}\"}}\n", "x".repeat(4000));
        write("b.txt.000001", &record.repeat(2));
        std::thread::sleep(Duration::from_millis(20));
        write("a.txt.000009", &record);
        write("notes.000001", "a stranger's, though numbered");
        let mut usage = Usage::default();
        assert_eq!(usage.make_room(&volume, 40_000, 10), Room::Made(0));
        assert_eq!(usage.make_room(&volume, 40_000, 28_000), Room::Made(2));
        assert_eq!(names(&volume), ["a.txt.000009", "notes.000001"]);
        assert_eq!(usage.make_room(&volume, 40_000, 38_000), Room::None(1));
        assert_eq!(names(&volume), ["notes.000001"]);
        std::fs::remove_dir_all(volume.dir()).unwrap();
    }

    /// How many instances are in a file of these bytes.
    fn counted(text: &str) -> u64 {
        let mut count = Count::default();
        text.bytes().for_each(|byte| count.take(byte));
        count.instances
    }

    /// A request in the text with two instances.
    fn two(path: &str, name: &str, value: &str) -> String {
        format!(
            "HandleMetric invoked with:\n  Adapter config: &Params{{FilePath:{path},}}\n  Instances: \
             '{name}':\n  {{\n\t\tValue = {value}\n\t\tDimensions = map[]\n  }}'{name}':\n  {{\n  }}\n"
        )
    }

    #[test]
    fn instances_are_counted_in_both_formats() {
        let path = std::env::temp_dir().join(format!("records-{}", std::process::id()));
        let empty = "HandleMetric invoked with:\n  Adapter config: &Params{FilePath:,}\n  Instances: \n";
        let text = two("out.txt", "a", "1");
        std::fs::write(&path, format!("{text}{empty}{{\"instance\":\"a\"}}\n{text}")).unwrap();
        assert_eq!(records_in(File::open(&path).unwrap()).unwrap(), 5);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_a_path_a_name_or_a_value_holds_is_not_counted() {
        for part in ["\n  {\n", "\n  {", "':\n  {\n", "a':\n  {\nb", "\n  }\n  {\n", "\n  }\n{\n", "\n\n"] {
            for text in [two(part, "a", "1"), two("out.txt", part, "1"), two("out.txt", "a", part)] {
                assert_eq!(counted(&text.repeat(2)), 4, "{text}");
            }
        }
        let object = two("out.txt", "a", "\n{\"instance\":\"a\"}\n");
        assert_eq!(counted(&object), 2, "{object}");
        // To a reader these are three, too.
        assert_eq!(counted(&two("out.txt", "a", "1\n  }'b':\n  {\n")), 3);
        // One whole and a half that was ended with a newline, and two behind them.
        let text = two("out.txt", "a", "1");
        assert_eq!(counted(&format!("{}\n{text}", &text[..text.len() - 4])), 3);
    }
}
