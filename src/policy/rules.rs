//! Keys and principals in a file, one per line, such as a mounted Secret.
//!
//! ```text
//! a-key
//! another-key
//! principal spiffe://cluster.local/ns/default/sa/sleep
//! principal spiffe://cluster.local/ns/ops/*
//! ```

use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

/// How often the file is checked for a change.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Size limit of the file, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// The first word of a line that names a principal.
const PRINCIPAL: &[u8] = b"principal";
const SPIFFE: &[u8] = b"spiffe://";

/// The rules of a file.
#[derive(Default)]
pub struct Rules {
    keys: Vec<Box<[u8]>>,
    principals: Vec<Principal>,
}

/// An allowed identity.
enum Principal {
    Exact(Box<[u8]>),
    StartsWith(Box<[u8]>),
}

/// Never shows a key.
impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys, {} principals", self.keys.len(), self.principals.len())
    }
}

impl Rules {
    /// Parses rules, one per line. Surrounding white space is trimmed and empty lines
    /// are skipped. `principal NAME` names a principal, exact or up to a final `*`;
    /// any other line is a key. A line that looks like a mistyped principal is an
    /// error with its line number: as a key it would be easy to guess.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut rules = Self::default();
        for (at, line) in text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate() {
            if line.is_empty() {
                continue;
            }
            if !names_a_principal(line) {
                rules.keys.push(line.into());
                continue;
            }
            rules.principals.push(principal(line).ok_or_else(|| {
                format!(
                    "line {}: a principal is written `principal spiffe://DOMAIN/PATH`, with `*` only at its end",
                    at + 1
                )
            })?);
        }
        Ok(rules)
    }

    /// The keys, in line order.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(|key| &**key)
    }

    /// Whether there are any principals.
    pub fn has_principals(&self) -> bool {
        !self.principals.is_empty()
    }

    /// Whether a rule allows this principal.
    pub fn allow(&self, principal: &[u8]) -> bool {
        self.principals.iter().any(|rule| match rule {
            Principal::Exact(name) => principal == &**name,
            Principal::StartsWith(prefix) => principal.starts_with(prefix),
        })
    }
}

/// Whether a line seems meant as a principal, well-formed or not.
fn names_a_principal(line: &[u8]) -> bool {
    let first = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    first.eq_ignore_ascii_case(PRINCIPAL) || line.windows(SPIFFE.len()).any(|part| part == SPIFFE)
}

fn principal(line: &[u8]) -> Option<Principal> {
    let rest = line.strip_prefix(PRINCIPAL)?;
    let name = rest.trim_ascii_start();
    let wild = name.ends_with(b"*");
    let text = name.strip_suffix(b"*").unwrap_or(name);
    let illegal = |byte: &u8| *byte == b'*' || !byte.is_ascii_graphic();
    if name.len() == rest.len() || !name.starts_with(SPIFFE) || text.iter().any(illegal) {
        return None;
    }
    match wild {
        true => Some(Principal::StartsWith(text.into())),
        false if text == SPIFFE => None,
        false => Some(Principal::Exact(text.into())),
    }
}

/// A file of rules, reloaded when it changes.
#[derive(Debug)]
pub struct RuleFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rules: Arc<Rules>,
    stamp: Stamp,
    checked: Instant,
    unreadable: bool,
}

/// Identifies a version of the file: device, inode, size, change time.
type Stamp = (u64, u64, u64, i64, i64);

impl RuleFile {
    /// Reads the rules. An error gives the reason and none of the file's content.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (rules, stamp) = read(path)?;
        let state = State { rules, stamp, checked: Instant::now(), unreadable: false };
        Ok(Self { path: path.into(), state: Mutex::new(state) })
    }

    /// The current rules. Checks the file for a change at most once a second; while
    /// it cannot be read, the last rules hold.
    pub fn rules(&self) -> Arc<Rules> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked.elapsed() >= CHECK_INTERVAL {
            state.checked = Instant::now();
            state.check(&self.path);
        }
        Arc::clone(&state.rules)
    }
}

impl State {
    fn check(&mut self, path: &Path) {
        let unchanged = |status: Metadata| stamp(&status) == self.stamp;
        if !self.unreadable && std::fs::metadata(path).is_ok_and(unchanged) {
            return;
        }
        match read(path) {
            Ok((rules, stamp)) => {
                if stamp != self.stamp || self.unreadable {
                    log::info!(
                        "read the keys again path={} keys={} principals={}",
                        path.display(),
                        rules.keys.len(),
                        rules.principals.len()
                    );
                }
                (self.rules, self.stamp, self.unreadable) = (rules, stamp, false);
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

/// Opens without blocking: a FIFO would block until it has a writer, and
/// authorization with it.
fn read(path: &Path) -> io::Result<(Arc<Rules>, Stamp)> {
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    let status = file.metadata()?;
    if !status.is_file() {
        return Err(io::Error::other("not a file but a directory, a FIFO or a device"));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("larger than 64 KiB"));
    }
    let rules = Rules::parse(&text).map_err(io::Error::other)?;
    Ok((Arc::new(rules), stamp(&status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(rules: &Rules) -> Vec<String> {
        rules.keys().map(|key| key.escape_ascii().to_string()).collect()
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("mygrpcadapter-rules-{name}-{}", std::process::id()))
    }

    /// Makes the next check of the file due.
    fn age(file: &RuleFile) {
        file.state.lock().unwrap().checked = Instant::now().checked_sub(CHECK_INTERVAL * 2).unwrap();
    }

    #[test]
    fn a_line_is_a_key_unless_it_names_a_principal() {
        let rules = Rules::parse(b"one\r\n\n two words \n\tprincipal \t spiffe://d/a \nprincipality\nspiffe")
            .unwrap();
        assert_eq!(keys(&rules), ["one", "two words", "principality", "spiffe"]);
        assert_eq!(rules.principals.len(), 1);
        assert!(rules.allow(b"spiffe://d/a") && !rules.allow(b"spiffe://d/b") && !rules.allow(b""));
        assert!(Rules::parse(b"principal spiffe://*").unwrap().allow(b"spiffe://any/thing"));
        assert!(!Rules::parse(b"principal spiffe://*").unwrap().allow(b"CN=any"));
    }

    #[test]
    fn a_mistyped_principal_never_becomes_a_key() {
        for line in [
            "principal",
            "principal *",
            "principal cluster.local/ns/default/sa/sleep",
            "principal spiffe://",
            "principal spiffe://d/*/sa/x",
            "principal spiffe://d/**",
            "principal spiffe://d/a spiffe://d/b",
            "principal spiffe://d/a # a comment",
            "principal: spiffe://d/a",
            "principal=spiffe://d/a",
            "principals spiffe://d/a",
            "principalspiffe://d/a",
            "Principal spiffe://d/a",
            "spiffe://d/a",
            "\u{feff}principal spiffe://d/a",
            "principal spiffe://d/é",
        ] {
            let outcome = Rules::parse(format!("key\n\n{line}\nkey2").as_bytes());
            match outcome {
                Err(error) => assert!(error.starts_with("line 3: "), "{line}: {error}"),
                Ok(rules) => panic!("{line}: {rules:?}"),
            }
        }
    }

    #[test]
    fn a_changed_file_is_read_again_and_an_unreadable_one_is_not_missed() {
        let path = scratch("changes");
        std::fs::write(&path, "one\r\n\n two \nthree").unwrap();
        let file = RuleFile::open(&path).unwrap();
        assert_eq!(keys(&file.rules()), ["one", "two", "three"]);
        for (text, expected) in [("four\n", ["four"]), ("principal typo\n", ["four"]), ("five\n", ["five"])] {
            std::fs::write(&path, text).unwrap();
            age(&file);
            assert_eq!(keys(&file.rules()), expected, "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        age(&file);
        assert_eq!(keys(&file.rules()), ["five"]);
        assert!(!format!("{file:?}").contains("five"));
    }

    #[test]
    fn what_is_not_a_file_is_refused_without_waiting() {
        let path = scratch("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for path in [&path, &std::env::temp_dir()] {
            let error = RuleFile::open(path).unwrap_err().to_string();
            assert!(error.contains("not a file"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
