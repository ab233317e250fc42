//! `tail [-n LINES] [-c BYTES] [-f|-F] FILE`: the end of a file, and what follows.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::output::{Stop, copy, first_line, say};

pub(super) const USAGE: &str = "\
Usage: tail [-n [+]LINES] [-c [+]BYTES] [-f|-F] FILE

Prints the end of a file, ten lines without an option.
  -n LINES   so many lines; from line LINES on with +
  -c BYTES   so many bytes; from byte BYTES on with +
  -f         continue with what is appended, also after a rotation
  -F         the same, and wait for a file that is not there yet";
/// The polling interval of `-f`.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// The start of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    LastLines(u64),
    Line(u64),
    LastBytes(u64),
    Byte(u64),
}

#[derive(Debug, PartialEq, Eq)]
struct Args {
    from: From,
    follow: bool,
    /// Whether to wait for the file if it cannot be opened yet.
    wait: bool,
    path: PathBuf,
}

/// Prints the end of the file named by `words`. With `-f` continues with appended
/// bytes, across rotation and truncation, until the reader closes the pipe. `-F` also
/// waits for the file to appear.
pub fn run(words: &[OsString], out: &mut impl Write) -> Result<(), Stop> {
    let args = parse(words)?;
    let path = &args.path;
    let fail = |error: io::Error| Stop::Failed(format!("{}: {error}", path.display()));
    let Some((mut file, is_new)) = open(&args).map_err(fail)? else { return Ok(()) };
    let start = if is_new { 0 } else { start(&mut file, args.from).map_err(fail)? };
    file.seek(SeekFrom::Start(start)).map_err(fail)?;
    copy(&mut file, out, path)?;
    if !args.follow {
        return Ok(());
    }
    while pause() {
        file = current(file, path).map_err(fail)?;
        copy(&mut file, out, path)?;
    }
    Ok(())
}

/// Opens the file, waiting for it with `-F`. Returns whether it had to wait: then the
/// whole file is new. `None` if the reader closed the pipe first.
fn open(args: &Args) -> io::Result<Option<(File, bool)>> {
    let mut waited = false;
    loop {
        match File::open(&args.path) {
            Ok(file) => return Ok(Some((file, waited))),
            Err(error) if !args.wait => return Err(error),
            Err(error) if !waited => {
                say("tail", &format!("{}: {error}; waiting for it", args.path.display()));
                waited = true;
            }
            Err(_) => {}
        }
        if !pause() {
            return Ok(None);
        }
    }
}

/// Pauses. Returns whether the reader is still there.
fn pause() -> bool {
    let stdout = io::stdout();
    let mut output = [PollFd::new(&stdout, PollFlags::empty())];
    // With no events requested, poll reports only that the reader closed the pipe.
    match poll(&mut output, Some(&PAUSE)) {
        Ok(count) => count == 0,
        Err(_) => true,
    }
}

/// The file to read next: this one where it left off, from its start if it was
/// truncated, or the file that replaced it.
fn current(mut file: File, path: &Path) -> io::Result<File> {
    let now = file.metadata()?;
    if file.stream_position()? < now.len() {
        return Ok(file);
    }
    if let Ok(named) = std::fs::metadata(path)
        && (named.dev(), named.ino()) != (now.dev(), now.ino())
    {
        // If it was deleted before it could be opened, retry after the next pause.
        return Ok(File::open(path).unwrap_or(file));
    }
    if now.len() < file.stream_position()? {
        file.seek(SeekFrom::Start(0))?;
    }
    Ok(file)
}

/// The start of the output, as an offset.
fn start(file: &mut File, from: From) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    match from {
        From::Byte(number) => Ok(number.saturating_sub(1).min(end)),
        From::LastBytes(count) => Ok(end.saturating_sub(count)),
        From::Line(number) => after_newlines(file, number.saturating_sub(1), end),
        From::LastLines(count) => last_lines(file, count, end),
    }
}

/// The offset after the first `count` newlines.
fn after_newlines(file: &mut File, count: u64, end: u64) -> io::Result<u64> {
    let (mut left, mut at) = (count, 0);
    let mut block = vec![0; 64 * 1024];
    file.seek(SeekFrom::Start(0))?;
    while left > 0 && at < end {
        let read = file.read(&mut block)?;
        if read == 0 {
            break;
        }
        for byte in &block[..read] {
            at += 1;
            if *byte == b'\n' {
                left -= 1;
                if left == 0 {
                    return Ok(at);
                }
            }
        }
    }
    Ok(at)
}

/// The offset of the last `count` lines, searched block by block from the end. A
/// final newline ends the last line; it does not begin another.
fn last_lines(file: &mut File, count: u64, end: u64) -> io::Result<u64> {
    if count == 0 {
        return Ok(end);
    }
    let mut left = count;
    let mut block = vec![0; 64 * 1024];
    let mut block_end = end;
    while block_end > 0 {
        let size = block_end.min(block.len() as u64);
        let block_start = block_end - size;
        let part = &mut block[..size as usize];
        file.seek(SeekFrom::Start(block_start))?;
        file.read_exact(part)?;
        for (at, byte) in part.iter().enumerate().rev() {
            let offset = block_start + at as u64;
            if *byte == b'\n' && offset + 1 < end {
                left -= 1;
                if left == 0 {
                    return Ok(offset + 1);
                }
            }
        }
        block_end = block_start;
    }
    Ok(0)
}

fn parse(words: &[OsString]) -> Result<Args, Stop> {
    let usage = |text: &str| Stop::Usage(format!("{text} ({})", first_line(USAGE)));
    let mut from = From::LastLines(10);
    let (mut follow, mut wait) = (false, false);
    let mut path = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or_default();
        match text.get(..2) {
            Some("-n" | "-c") => {
                let number = match &text[2..] {
                    "" => words.next().and_then(|word| word.to_str()),
                    joined => Some(joined),
                };
                let number = number.ok_or_else(|| usage("a number is missing"))?;
                from = begin(text.as_bytes()[1], number).ok_or_else(|| usage("not a number"))?;
            }
            Some("-f") if text.len() == 2 => follow = true,
            Some("-F") if text.len() == 2 => (follow, wait) = (true, true),
            Some("--") if text.len() == 2 => {}
            // As in `tail -20 FILE`.
            Some(_) if text.starts_with('-') && text.len() > 1 => {
                from = begin(b'n', &text[1..]).ok_or_else(|| usage(&format!("no such flag: {text}")))?;
            }
            _ if path.is_none() => path = Some(PathBuf::from(word)),
            _ => return Err(usage("one file at a time")),
        }
    }
    let path = path.ok_or_else(|| usage("name a file"))?;
    Ok(Args { from, follow, wait, path })
}

fn begin(unit: u8, number: &str) -> Option<From> {
    let (from_start, digits) = match number.strip_prefix('+') {
        Some(digits) => (true, digits),
        None => (false, number),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count = digits.parse().ok()?;
    Some(match (unit, from_start) {
        (b'n', false) => From::LastLines(count),
        (b'n', true) => From::Line(count),
        (_, false) => From::LastBytes(count),
        (_, true) => From::Byte(count),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn flags_are_those_of_tail() {
        for (text, from, follow, wait) in [
            ("f", From::LastLines(10), false, false),
            ("-n 3 f", From::LastLines(3), false, false),
            ("-n3 f", From::LastLines(3), false, false),
            ("-3 f", From::LastLines(3), false, false),
            ("f -f -n +2", From::Line(2), true, false),
            ("-F f", From::LastLines(10), true, true),
            ("-c 5 f", From::LastBytes(5), false, false),
            ("-c +5 -- f", From::Byte(5), false, false),
        ] {
            let args = Args { from, follow, wait, path: "f".into() };
            assert_eq!(parse(&words(text)).unwrap(), args, "{text}");
        }
        for text in ["", "-n", "-n x f", "-n 99999999999999999999 f", "-q f", "a b", "-n -3 f"] {
            assert!(matches!(parse(&words(text)), Err(Stop::Usage(_))), "{text}");
        }
    }

    #[test]
    fn it_begins_where_tail_does() {
        let dir = std::env::temp_dir().join(format!("tail-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("f");
        let long = "x".repeat(100_000);
        for (content, flags, expected) in [
            ("a\nb\nc\n", "-n 2", "b\nc\n"),
            ("a\nb\nc", "-n 2", "b\nc"),
            ("a\nb\nc\n", "-n 9", "a\nb\nc\n"),
            ("a\nb\nc\n", "-n 0", ""),
            ("a\n\n\n", "-n 2", "\n\n"),
            ("a\nb\nc\n", "-n +2", "b\nc\n"),
            ("a\nb\nc\n", "-n +9", ""),
            ("a\nb\nc\n", "-c 3", "\nc\n"),
            ("a\nb\nc\n", "-c +3", "b\nc\n"),
            ("", "-n 2", ""),
            (&format!("a\n{long}\nb\n"), "-n 1", "b\n"),
            (&format!("a\n{long}\n"), "-n 1", &format!("{long}\n")),
        ] {
            std::fs::write(&path, content).unwrap();
            let mut out = Vec::new();
            let mut args = words(flags);
            args.push(path.clone().into());
            run(&args, &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{flags}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
