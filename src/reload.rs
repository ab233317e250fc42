//! Files that are read again when they change, such as mounted Secrets.
//!
//! Whoever uses the content checks the files, at most once a second. Content that is
//! invalid or unreadable replaces nothing.

use std::fmt::Display;
use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::metrics::{Description, Export, Page};

/// How often the files are checked for a change.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Parses the contents of all files together.
type Parse<T> = dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync;

/// The content of one or more files. Clones share it.
#[derive(Debug)]
pub struct Reloaded<T>(Arc<Inner<T>>);

struct Inner<T> {
    what: &'static str,
    paths: Vec<PathBuf>,
    max_file: u64,
    parse: Box<Parse<T>>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamps: Vec<Stamp>,
    checked: Instant,
    /// Why the files could not be read again, if so.
    stale: Option<String>,
}

/// Identifies a version of a file: device, inode, size, change time.
type Stamp = (u64, u64, u64, i64, i64);

impl<T> Clone for Reloaded<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Never shows the content.
impl<T> std::fmt::Debug for Inner<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the {} in {:?}", self.what, self.paths)
    }
}

impl<T: Display> Reloaded<T> {
    /// Reads files of at most `max_file` bytes each. `what` names their content in
    /// logs and metrics. An error gives the reason and none of the content.
    pub fn read(
        what: &'static str,
        paths: Vec<PathBuf>,
        max_file: u64,
        parse: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (value, stamps) = read(&paths, max_file, &parse)?;
        let state = State { value, stamps, checked: Instant::now(), stale: None };
        Ok(Self(Arc::new(Inner { what, paths, max_file, parse: Box::new(parse), state: Mutex::new(state) })))
    }

    /// The current content. While the files cannot be read, the last content holds.
    pub fn current(&self) -> Arc<T> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked.elapsed() >= CHECK_INTERVAL {
            state.checked = Instant::now();
            self.0.check(&mut state);
        }
        Arc::clone(&state.value)
    }

    /// Makes the next use check the files.
    #[cfg(test)]
    pub(crate) fn age(&self) {
        let mut state = self.0.state.lock().unwrap();
        state.checked = Instant::now().checked_sub(CHECK_INTERVAL * 2).unwrap();
    }
}

impl<T: Display> Inner<T> {
    fn check(&self, state: &mut State<T>) {
        let unchanged = |(path, known): (&PathBuf, &Stamp)| {
            std::fs::metadata(path).is_ok_and(|status| stamp(&status) == *known)
        };
        if state.stale.is_none() && self.paths.iter().zip(&state.stamps).all(unchanged) {
            return;
        }
        let (what, paths) = (self.what, self.named());
        match read(&self.paths, self.max_file, &*self.parse) {
            Ok((value, stamps)) => {
                if stamps != state.stamps || state.stale.is_some() {
                    log::info!("read the {what} again {paths} {value}");
                }
                (state.value, state.stamps, state.stale) = (value, stamps, None);
            }
            Err(error) => {
                let reason = error.to_string();
                if state.stale.as_ref() != Some(&reason) {
                    log::warn!(
                        "cannot read the {what}, the last ones hold; correct the file {paths} error={reason}"
                    );
                }
                state.stale = Some(reason);
            }
        }
    }

    fn named(&self) -> String {
        let paths: Vec<_> = self.paths.iter().map(|path| format!("path={}", path.display())).collect();
        paths.join(" ")
    }
}

/// Files whose reloading may fail.
pub trait Reload: Send + Sync {
    /// What they contain.
    fn what(&self) -> &'static str;
    /// Whether they cannot be read, and the last content holds.
    fn is_stale(&self) -> bool;
}

impl<T: Display + Send + Sync> Reload for Reloaded<T> {
    fn what(&self) -> &'static str {
        self.0.what
    }

    fn is_stale(&self) -> bool {
        // Files may be used less often than metrics are read.
        self.current();
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).stale.is_some()
    }
}

/// All files that are read again when they change.
#[derive(Default)]
pub struct Files(pub Vec<Box<dyn Reload>>);

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|files| files.what())).finish()
    }
}

impl Export for Files {
    fn export(&self, page: &mut Page, _: usize) -> Option<usize> {
        let help = "1 while changed files cannot be read, and the last content holds.";
        let about = Description { name: "mygrpcadapter_reload_failed", kind: "gauge", help };
        if !self.0.is_empty() {
            page.describe(about);
        }
        for files in &self.0 {
            page.sample(about.name, &[("files", files.what())], f64::from(u8::from(files.is_stale())));
        }
        None
    }
}

fn read<T>(paths: &[PathBuf], max_file: u64, parse: &Parse<T>) -> io::Result<(Arc<T>, Vec<Stamp>)> {
    let (mut contents, mut stamps) = (Vec::new(), Vec::new());
    for path in paths {
        let (content, stamp) = content(path, max_file).map_err(|error| match paths {
            [_] => error,
            // Which of them?
            _ => io::Error::new(error.kind(), format!("{}: {error}", path.display())),
        })?;
        contents.push(content);
        stamps.push(stamp);
    }
    let value = parse(&contents).map_err(io::Error::other)?;
    Ok((Arc::new(value), stamps))
}

/// Opens without blocking: a FIFO would block until it has a writer, and the event loop
/// with it.
fn content(path: &Path, max_file: u64) -> io::Result<(Vec<u8>, Stamp)> {
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
    let file = file.map_err(|error| advised(&error))?;
    let status = file.metadata()?;
    if !status.is_file() {
        return Err(io::Error::other("not a file but a directory, a FIFO or a device"));
    }
    let mut content = Vec::new();
    file.take(max_file + 1).read_to_end(&mut content)?;
    if content.len() as u64 > max_file {
        return Err(io::Error::other(format!("larger than {} KiB", max_file / 1024)));
    }
    Ok((content, stamp(&status)))
}

/// An error of opening a file, with what to do about it.
fn advised(error: &io::Error) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "; mount it there, or name another",
        io::ErrorKind::PermissionDenied => "; let the adapter's group read it",
        _ => "",
    };
    io::Error::new(error.kind(), format!("{error}{advice}"))
}

/// A text without the byte order mark that some editors begin it with.
pub fn unmarked(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

fn stamp(status: &Metadata) -> Stamp {
    (status.dev(), status.ino(), status.size(), status.ctime(), status.ctime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("mygrpcadapter-reload-{name}-{}", std::process::id()))
    }

    /// Two numbers that must be equal.
    fn pair(contents: &[Vec<u8>]) -> Result<String, String> {
        let [one, two] = contents else { return Err("not two".into()) };
        if one == two { Ok(one.escape_ascii().to_string()) } else { Err("no pair".into()) }
    }

    #[test]
    fn a_pair_is_replaced_when_both_files_fit_again() {
        let paths = vec![scratch("one"), scratch("two")];
        let write = |at: usize, text: &str| std::fs::write(&paths[at], text).unwrap();
        write(0, "a");
        write(1, "a");
        let files = Reloaded::read("pair", paths.clone(), 8, pair).unwrap();
        let seen = || {
            files.age();
            let seen = (files.current().to_string(), files.is_stale());
            files.age();
            (seen, files.is_stale())
        };
        assert_eq!(seen(), (("a".into(), false), false));
        write(0, "b");
        assert_eq!(seen(), (("a".into(), true), true));
        write(1, "b");
        assert_eq!(seen(), (("b".into(), false), false));
        write(1, "more than 8 bytes");
        assert_eq!(seen(), (("b".into(), true), true));
        let reason = || files.0.state.lock().unwrap().stale.clone().unwrap_or_default();
        assert!(reason().contains("larger than"), "{}", reason());
        std::fs::remove_file(&paths[1]).unwrap();
        assert_eq!(seen(), (("b".into(), true), true));
        write(1, "b");
        assert_eq!(seen(), (("b".into(), false), false));
        let mut page = Page::default();
        Files(vec![Box::new(files.clone())]).export(&mut page, 0);
        let text = String::from_utf8(page.text).unwrap();
        assert!(text.ends_with("mygrpcadapter_reload_failed{files=\"pair\"} 0\n"), "{text}");
        paths.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    }

    #[test]
    fn what_is_not_a_file_is_refused_without_waiting() {
        let path = scratch("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for path in [&path, &std::env::temp_dir()] {
            let outcome = Reloaded::read("thing", vec![path.clone()], 8, |_| Ok(String::new()));
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains("not a file"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
