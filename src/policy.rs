//! Authorization: whether a token opens the door.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use subtle::{Choice, ConstantTimeEq};

use crate::record::Value;

/// How often the file of keys is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// More than any file of keys.
const MAX_FILE: u64 = 64 * 1024;

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The token is one of the keys.
    Allow,
    /// It isn't, or there is none.
    Deny,
    /// No key is configured, so nobody gets in.
    NoKeys,
}

impl Verdict {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Deny, Self::NoKeys];

    /// Its label in metrics and records.
    pub fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::NoKeys => "deny_no_keys",
        }
    }
}

/// Compares a token with every key, in a time that tells nothing of which is
/// near. An empty key opens nothing; a value that isn't a string is no token.
pub fn judge<'a>(token: Value, keys: impl Iterator<Item = &'a [u8]>) -> Verdict {
    let token = if let Value::String(token) = token { token } else { &[] };
    let (mut known, mut matches) = (false, Choice::from(0));
    for key in keys.filter(|key| !key.is_empty()) {
        known = true;
        matches |= key.ct_eq(token);
    }
    match (known, bool::from(matches)) {
        (true, true) => Verdict::Allow,
        (true, false) => Verdict::Deny,
        (false, _) => Verdict::NoKeys,
    }
}

/// Keys, as they stand between line ends.
pub type Keys = Arc<[Box<[u8]>]>;

/// Keys in a file, one per line, as a mounted Secret brings them.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    state: Mutex<Known>,
}

struct Known {
    keys: Keys,
    stamp: Stamp,
    looked: Instant,
    unreadable: bool,
}

/// Keys are shown to nobody.
impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.keys.len())
    }
}

/// What changes when a file does: device, inode, size, time of change.
type Stamp = (u64, u64, u64, i64, i64);

impl KeyFile {
    /// Reads the keys for the first time.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (keys, stamp) = read(path)?;
        let state = Known { keys, stamp, looked: Instant::now(), unreadable: false };
        Ok(Self { path: path.into(), state: Mutex::new(state) })
    }

    /// The keys of now: read again if the file has changed. While it can't be
    /// read, the last ones hold.
    pub fn keys(&self) -> Keys {
        let mut known = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.elapsed() >= LOOK {
            known.looked = Instant::now();
            known.look(&self.path);
        }
        Arc::clone(&known.keys)
    }
}

impl Known {
    fn look(&mut self, path: &Path) {
        let unchanged = |status: Metadata| stamp(&status) == self.stamp;
        if !self.unreadable && std::fs::metadata(path).is_ok_and(unchanged) {
            return;
        }
        match read(path) {
            Ok((keys, stamp)) => {
                if stamp != self.stamp || self.unreadable {
                    log::info!("read the keys again path={} keys={}", path.display(), keys.len());
                }
                (self.keys, self.stamp, self.unreadable) = (keys, stamp, false);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    log::warn!(
                        "cannot read the keys, the last ones hold path={} error={error}",
                        path.display()
                    );
                }
            }
        }
    }
}

fn stamp(status: &Metadata) -> Stamp {
    (status.dev(), status.ino(), status.size(), status.ctime(), status.ctime_nsec())
}

fn read(path: &Path) -> io::Result<(Keys, Stamp)> {
    let file = File::open(path)?;
    let stamp = stamp(&file.metadata()?);
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("larger than 64 KiB"));
    }
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let keys = lines.filter(|line| !line.is_empty()).map(Box::from);
    Ok((keys.collect(), stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_string_that_is_a_key_opens() {
        let both = [&b"abc"[..], b"def"];
        for (token, keys, verdict) in [
            (Value::String(b"abc"), &both[..], Verdict::Allow),
            (Value::String(b"def"), &both, Verdict::Allow),
            (Value::String(b"ABC"), &both, Verdict::Deny),
            (Value::String(b"ab"), &both, Verdict::Deny),
            (Value::String(b"abcd"), &both, Verdict::Deny),
            (Value::String(b""), &both, Verdict::Deny),
            (Value::Absent, &both, Verdict::Deny),
            (Value::Int(1), &[b"1"], Verdict::Deny),
            (Value::Uri(b"abc"), &both, Verdict::Deny),
            (Value::String(b""), &[b""], Verdict::NoKeys),
            (Value::Absent, &[b""], Verdict::NoKeys),
            (Value::String(b"abc"), &[], Verdict::NoKeys),
            (Value::String(b"abc"), &[b"", b"abc"], Verdict::Allow),
        ] {
            assert_eq!(judge(token, keys.iter().copied()), verdict, "{token:?} {keys:?}");
        }
    }

    #[test]
    fn keys_are_lines_and_a_changed_file_is_read_again() {
        let path = std::env::temp_dir().join(format!("keys-{}", std::process::id()));
        std::fs::write(&path, "one\r\n\n two \nthree").unwrap();
        let file = KeyFile::open(&path).unwrap();
        let texts = |keys: Keys| keys.iter().map(|key| key.escape_ascii().to_string()).collect::<Vec<_>>();
        assert_eq!(texts(file.keys()), ["one", "two", "three"]);
        std::fs::write(&path, "four\n").unwrap();
        let long_ago = Instant::now().checked_sub(LOOK * 2).unwrap();
        file.state.lock().unwrap().looked = long_ago;
        assert_eq!(texts(file.keys()), ["four"]);
        std::fs::remove_file(&path).unwrap();
        file.state.lock().unwrap().looked = long_ago;
        assert_eq!(texts(file.keys()), ["four"]);
        assert!(!format!("{file:?}").contains("four"));
    }
}
