//! The end of a file that a crash may have torn, mended before the first append.
//!
//! What is whole stays. JSON is cut to its last whole object; text is cut only
//! where the last record is ours for certain and unfinished. Anything else is
//! ended with a newline, so that the next record begins on a line of its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::render::Format;

/// How far back to look: more than the largest request becomes.
const MAX_LOOK: u64 = 16 * 1024 * 1024;
/// How much is in memory at a time, and no more than a line's head beside it.
const BLOCK: u64 = 64 * 1024;

/// What a record of ours begins with, in the text, between the name of the call
/// and the file's.
const HEAD: &[u8] = b" invoked with:\n  Adapter config: &Params{FilePath:";
const HEAD_START: &[u8] = b"Handle";
/// The longest name of a call, behind its start.
const MAX_CALL: usize = 32;
/// What ends every record of ours, in the text.
const LAST_LINE: &[u8] = b"\n  }\n";
const NO_INSTANCES: &[u8] = b",}\n  Instances: \n";

/// What must be seen before a line to know what it follows,
const BEFORE: u64 = NO_INSTANCES.len() as u64;
/// and of it to know whether it is a head.
const AFTER: u64 = (HEAD_START.len() + MAX_CALL + 1 + HEAD.len()) as u64;

/// What to do with an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mend {
    Leave,
    /// Cut to this many bytes.
    CutTo(u64),
    EndLine,
}

/// Mends the end of a file of `len` bytes. Returns what it did, for the log.
pub fn mend(file: &File, len: u64, format: Format) -> io::Result<Option<String>> {
    let mut end = End::new(file, len, BLOCK);
    match end.judge(format)? {
        // Unless others have written behind it meanwhile.
        Mend::CutTo(kept) if file.metadata()?.len() == len => {
            file.set_len(kept)?;
            Ok(Some(format!("cut_bytes={}", len - kept)))
        }
        Mend::EndLine => {
            file.write_all_at(b"\n", len)?;
            Ok(Some("ended_its_last_line=true".into()))
        }
        Mend::Leave | Mend::CutTo(_) => Ok(None),
    }
}

/// The end of a file, read a block at a time.
#[derive(Debug)]
struct End<'a> {
    file: &'a File,
    len: u64,
    block: u64,
    buffer: Vec<u8>,
}

impl<'a> End<'a> {
    fn new(file: &'a File, len: u64, block: u64) -> Self {
        let buffer = Vec::with_capacity((BEFORE + block + AFTER) as usize);
        Self { file, len, block, buffer }
    }

    fn judge(&mut self, format: Format) -> io::Result<Mend> {
        match format {
            _ if self.len == 0 => Ok(Mend::Leave),
            Format::Json => self.judge_json(),
            Format::Text => self.judge_text(),
        }
    }

    /// A line of JSON without its newline is cut unless it is a whole object that
    /// lost nothing else, or longer than any of ours.
    fn judge_json(&mut self) -> io::Result<Mend> {
        let Some(line) = self.last_line(|_, _| true)? else { return Ok(Mend::EndLine) };
        if line == self.len {
            return Ok(Mend::Leave);
        }
        match self.read(line, line + 1)?.first().copied() {
            Some(b'{') if !self.is_whole_object(line)? => Ok(Mend::CutTo(line)),
            // Blocks that a crash left unwritten.
            Some(0) => Ok(Mend::CutTo(line)),
            _ => Ok(Mend::EndLine),
        }
    }

    /// The last record of a text is cut unless it is whole.
    fn judge_text(&mut self) -> io::Result<Mend> {
        let last = self.read(self.len.saturating_sub(BEFORE), self.len)?;
        if ends_ours(last) {
            return Ok(Mend::Leave);
        }
        let ends_line = last.ends_with(b"\n");
        if let Some(start) = self.last_line(|before, line| is_head(line, ends_ours(before)))?
            // With an end of a record in it, it may be whole, and what follows foreign.
            && !self.has_end_behind(start)?
        {
            return Ok(Mend::CutTo(start));
        }
        Ok(if ends_line { Mend::Leave } else { Mend::EndLine })
    }

    /// Where the last line starts of which `is_it` says so, given what is before
    /// it and the line and what follows. Behind a last newline is a line, too.
    fn last_line(&mut self, is_it: impl Fn(&[u8], &[u8]) -> bool) -> io::Result<Option<u64>> {
        let first = self.len.saturating_sub(MAX_LOOK);
        let mut end = self.len;
        while end > first {
            let start = end.saturating_sub(self.block).max(first);
            let from = start.saturating_sub(BEFORE);
            let seen = self.read(from, end + AFTER)?;
            let block = (start - from) as usize..(end - from) as usize;
            let mut lines = block.rev().filter(|at| seen[*at] == b'\n').map(|at| at + 1);
            if let Some(line) = lines.find(|line| is_it(&seen[..*line], &seen[*line..])) {
                return Ok(Some(from + line as u64));
            }
            end = start;
        }
        let starts_there = first == 0 && is_it(&[], self.read(0, AFTER)?);
        Ok(starts_there.then_some(0))
    }

    /// Whether the braces of an object, outside its strings, close at its very end.
    fn is_whole_object(&mut self, line: u64) -> io::Result<bool> {
        let (mut braces, mut start) = (Braces::default(), line);
        while start < self.len {
            let seen = self.read(start, start + self.block)?;
            for byte in seen {
                if braces.closed {
                    return Ok(false);
                }
                braces.take(*byte);
            }
            start += self.block;
        }
        Ok(braces.closed)
    }

    /// Whether a record of ours ends behind `start`.
    fn has_end_behind(&mut self, mut start: u64) -> io::Result<bool> {
        while start < self.len {
            let seen = self.read(start, start + self.block + BEFORE)?;
            if contains(seen, LAST_LINE) || contains(seen, NO_INSTANCES) {
                return Ok(true);
            }
            start += self.block;
        }
        Ok(false)
    }

    /// The bytes from `start` to `end`, as far as the file goes.
    fn read(&mut self, start: u64, end: u64) -> io::Result<&[u8]> {
        self.buffer.resize(end.min(self.len).saturating_sub(start) as usize, 0);
        self.file.read_exact_at(&mut self.buffer, start)?;
        Ok(&self.buffer)
    }
}

/// How far an object is open.
#[derive(Debug, Default)]
struct Braces {
    depth: usize,
    in_string: bool,
    escaped: bool,
    closed: bool,
}

impl Braces {
    fn take(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_string => self.escaped = true,
            b'"' => self.in_string = !self.in_string,
            b'{' if !self.in_string => self.depth += 1,
            b'}' if !self.in_string => {
                self.depth = self.depth.saturating_sub(1);
                self.closed = self.depth == 0;
            }
            _ => {}
        }
    }
}

/// Whether a text ends as every record of ours does.
fn ends_ours(text: &[u8]) -> bool {
    text.ends_with(LAST_LINE) || text.ends_with(NO_INSTANCES)
}

/// Whether a text begins as a record of ours does. One that is cut off in its
/// head counts, too, where `or_part` says so: behind a record of ours.
fn is_head(text: &[u8], or_part: bool) -> bool {
    let Some(rest) = text.strip_prefix(HEAD_START) else {
        return or_part && !text.is_empty() && HEAD_START.starts_with(text);
    };
    let name = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let rest = &rest[name..];
    name <= MAX_CALL && (rest.starts_with(HEAD) || or_part && HEAD.starts_with(rest))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "HandleMetric invoked with:\n  Adapter config: &Params{FilePath:/volume/out.txt,}\n  \
                         Instances: 'i':\n  {\n\t\tValue = 1\n\t\tDimensions = map[a:b]\n  }\n";

    /// A file of a test, gone when it ends.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("repair-{name}-{}", std::process::id())))
        }

        fn holding(&self, text: impl AsRef<[u8]>) -> File {
            std::fs::write(&self.0, text).unwrap();
            File::options().read(true).write(true).open(&self.0).unwrap()
        }

        /// What to do with such an end, which is the same whatever a block holds.
        fn judge(&self, text: impl AsRef<[u8]>, format: Format) -> Mend {
            let (file, len) = (self.holding(&text), text.as_ref().len() as u64);
            let judge = |block| End::new(&file, len, block).judge(format).unwrap();
            let verdict = judge(BLOCK);
            for block in [1, 2, 7, 64, 129] {
                assert_eq!(judge(block), verdict, "in blocks of {block}");
            }
            verdict
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn cut_to(kept: &str) -> Mend {
        Mend::CutTo(kept.len() as u64)
    }

    #[test]
    fn every_torn_text_record_is_cut_and_the_whole_ones_before_it_stay() {
        let (scratch, before) = (Scratch::new("text"), WHOLE.repeat(2));
        for length in 1..WHOLE.len() {
            let torn = format!("{before}{}", &WHOLE[..length]);
            assert_eq!(scratch.judge(&torn, Format::Text), cut_to(&before), "{torn:?}");
        }
        assert_eq!(scratch.judge(&before, Format::Text), Mend::Leave);
        let empty = "HandleMetric invoked with:\n  Adapter config: &Params{FilePath:,}\n  Instances: \n";
        assert_eq!(scratch.judge(empty, Format::Text), Mend::Leave);
    }

    #[test]
    fn text_that_is_not_ours_for_certain_is_kept() {
        let scratch = Scratch::new("foreign");
        for (text, mend) in [
            ("", Mend::Leave),
            ("hello", Mend::EndLine),
            ("hello\n", Mend::Leave),
            ("H", Mend::EndLine),
            ("HandleMetric invoked with:\n", Mend::Leave),
            ("\0\0\0", Mend::EndLine),
            (&format!("{WHOLE}foreign"), Mend::EndLine),
            (&format!("{WHOLE}foreign\n"), Mend::Leave),
            ("HandleMetric was called", Mend::EndLine),
            ("He said", Mend::EndLine),
        ] {
            assert_eq!(scratch.judge(text, Format::Text), mend, "{text:?}");
        }
        // A head that a stranger put into a value: what is before it stays.
        let fake =
            WHOLE.replace("a:b", "a:\nHandleMetric invoked with:\n  Adapter config: &Params{FilePath:x");
        assert_eq!(scratch.judge(&fake, Format::Text), Mend::Leave);
        assert_eq!(scratch.judge(format!("{fake}x"), Format::Text), Mend::EndLine);
    }

    #[test]
    fn json_is_cut_to_its_last_whole_object() {
        let whole = "{\"a\":{\"b}\":\"\\\"{\"}}";
        let (scratch, kept) = (Scratch::new("json"), cut_to(&format!("{whole}\n")));
        for (line, mend) in [
            (whole.to_owned(), Mend::EndLine),
            (format!("{whole}\n"), Mend::Leave),
            ("\0\0".into(), kept),
            ("foreign".into(), Mend::EndLine),
        ] {
            let text = format!("{whole}\n{line}");
            assert_eq!(scratch.judge(&text, Format::Json), mend, "{text:?}");
        }
        for length in 1..whole.len() {
            let text = format!("{whole}\n{}", &whole[..length]);
            assert_eq!(scratch.judge(&text, Format::Json), kept, "{text:?}");
        }
        assert_eq!(scratch.judge(&whole[..4], Format::Json), Mend::CutTo(0));
        assert_eq!(scratch.judge("", Format::Json), Mend::Leave);
    }

    #[test]
    fn a_record_larger_than_a_block_is_found() {
        let scratch = Scratch::new("large");
        let large = WHOLE.replace("a:b", &format!("a:{}", "\nxyz".repeat(100_000)));
        let torn = &large[..large.len() - 3];
        let file = scratch.holding(format!("{WHOLE}{torn}"));
        let len = file.metadata().unwrap().len();
        assert_eq!(mend(&file, len, Format::Text).unwrap(), Some(format!("cut_bytes={}", torn.len())));
        assert_eq!(std::fs::read_to_string(&scratch.0).unwrap(), WHOLE);
    }

    #[test]
    fn a_line_longer_than_any_of_ours_is_kept_and_little_of_it_in_memory() {
        let scratch = Scratch::new("long");
        let (file, len) = (scratch.holding("{"), MAX_LOOK + 1);
        file.set_len(len).unwrap();
        for format in [Format::Text, Format::Json] {
            let mut end = End::new(&file, len, BLOCK);
            assert_eq!(end.judge(format).unwrap(), Mend::EndLine);
            let held = end.buffer.capacity() as u64;
            assert!(held < BLOCK + 1024, "{held}");
        }
        let mut end = End::new(&file, MAX_LOOK, BLOCK);
        assert_eq!(end.judge(Format::Json).unwrap(), Mend::CutTo(0));
    }
}
