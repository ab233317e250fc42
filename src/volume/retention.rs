//! Retention: rotation of a file by size and age.

use std::time::Duration;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::log_file::LogFile;
use super::rotated::{self, MAX_NUMBER};
use super::{FilePath, OpenError, Volume, refused};

/// The operator's settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// The size at which a file is rotated, in bytes.
    pub rotate_size: Option<u64>,
    /// The age at which a file is rotated.
    pub rotate_age: Option<Duration>,
    /// Limit on rotated files per file.
    pub rotate_keep: u32,
    /// Limit on the bytes in the volume.
    pub max_volume_bytes: Option<u64>,
}

impl Retention {
    /// Whether a file of `len` bytes must be rotated before `more` are added.
    pub fn is_due(&self, file: &LogFile, len: u64, more: u64) -> bool {
        let too_large = self.rotate_size.is_some_and(|size| len + more > size);
        let too_old = || self.rotate_age.is_some_and(|age| file.age() >= age);
        len > 0 && file.is_owned() && (too_large || too_old())
    }

    /// Rotates a file and deletes its oldest rotated files beyond the limit. Returns
    /// the number of bytes deleted.
    pub fn rotate(&self, volume: &Volume, path: &FilePath) -> Result<u64, OpenError> {
        let (dir, name, _) = volume.enter(path)?;
        let dir = dir.as_fd();
        let mut numbers = rotated::numbers_of(dir, name).map_err(OpenError::Io)?;
        let mut next = numbers.last().map_or(1, |last| last + 1);
        loop {
            if next > MAX_NUMBER {
                return Err(refused(path, "a rotated file has the last number there is; rename it"));
            }
            match rename_to_new(dir, name, &rotated::numbered(name, next)) {
                Err(Errno::EXIST) => next += 1,
                other => break other?,
            }
        }
        numbers.push(next);
        let known = volume.known(&path.0);
        numbers.retain(|number| rotated::is_ours_at(dir, &rotated::numbered(name, *number), known));
        let surplus = numbers.len().saturating_sub(self.rotate_keep as usize);
        let mut deleted = 0;
        for number in &numbers[..surplus] {
            match rotated::delete(dir, &rotated::numbered(name, *number), known) {
                Ok(bytes) => deleted += bytes.unwrap_or(0),
                // Retried after the next rotation.
                Err(error) => log::warn!("cannot delete path={path}.{number:06} error={error}"),
            }
        }
        Ok(deleted)
    }
}

/// Renames a file, without replacing an existing one where the system supports that:
/// without locks another adapter may rotate the same file.
fn rename_to_new(dir: BorrowedFd, from: &[u8], to: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        // Unsupported by the file system, the kernel, or the seccomp profile.
        Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => rustix::fs::renameat(dir, from, dir, to),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::pattern::Pattern;

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
    fn rotation_keeps_as_many_as_asked_and_counts_the_bytes_that_go() {
        let volume = volume("keep");
        let path = volume.resolve(b"out.txt").unwrap();
        let keep_two = Retention { rotate_keep: 2, ..Retention::default() };
        let mut deleted = 0;
        for _ in 0..4 {
            std::fs::write(volume.full_path(&path), "{\"instance\":1}\n{\"instance\":2}\n").unwrap();
            deleted += keep_two.rotate(&volume, &path).unwrap();
        }
        std::fs::write(volume.dir().join("out.txt.1"), "foreign text").unwrap();
        assert_eq!(names(&volume), ["out.txt.000003", "out.txt.000004", "out.txt.1"]);
        assert_eq!(deleted, 60);
        std::fs::remove_dir_all(volume.dir()).unwrap();
    }

    #[test]
    fn rotation_deletes_any_text_where_the_access_log_lies_and_nowhere_else() {
        let mut volume = volume("lines");
        let pattern = Pattern::parse("/volume/{namespace}/./{pod}.log").unwrap();
        volume.hold_lines(&pattern).unwrap();
        for (name, is_deleted) in [
            ("shop/web-1.log", true),
            ("shop/overflow.log", true),
            ("shop/.log", false),
            ("shop/web/1.log", false),
            ("shop/web.txt", false),
            ("web-1.log", false),
        ] {
            let path = volume.resolve(name.as_bytes()).unwrap();
            std::fs::create_dir_all(volume.full_path(&path).parent().unwrap()).unwrap();
            std::fs::write(volume.full_path(&path), "any text\n").unwrap();
            let deleted = Retention::default().rotate(&volume, &path).unwrap();
            assert_eq!(deleted, if is_deleted { 9 } else { 0 }, "{name}");
        }
        std::fs::remove_dir_all(volume.dir()).unwrap();
    }

    #[test]
    fn rotation_deletes_no_stranger_and_writes_over_nothing() {
        let volume = volume("strangers");
        let path = volume.resolve(b"out.txt").unwrap();
        let write = |name: &str, content: &str| std::fs::write(volume.dir().join(name), content).unwrap();
        write("out.txt.000001", "foreign, though numbered");
        let keep_none = Retention::default();
        write("out.txt", "{\"instance\":1}\n");
        assert_eq!(keep_none.rotate(&volume, &path).unwrap(), 15);
        assert_eq!(names(&volume), ["out.txt.000001"]);

        write("out.txt.999999", "{\"instance\":2}\n");
        for _ in 0..2 {
            write("out.txt", "{\"instance\":3}\n");
            assert!(keep_none.rotate(&volume, &path).is_err());
        }
        assert_eq!(names(&volume), ["out.txt", "out.txt.000001", "out.txt.999999"]);
        std::fs::remove_dir_all(volume.dir()).unwrap();
    }
}
