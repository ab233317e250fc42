//! The end of a file: detects and repairs a partial record.
//!
//! A crash leaves a partial record, or NUL bytes where data never reached the disk.
//! Both are cut off, but only if they certainly belong to a record of a known format.
//! Any other text is ended with a newline, so that the next record starts on its own
//! line.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::formats::GRAMMARS;
use crate::render::grammar::{AHEAD, BEHIND, Grammar, Start};

/// How far back to search for the start of a record, not counting NUL bytes: more
/// than the largest rendered request.
const MAX_LOOK: u64 = 16 * 1024 * 1024;
/// Bytes read at a time.
const BLOCK: u64 = 16 * 1024;

/// The repair that the end of a file needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// How many bytes of the file to keep.
    pub keep: u64,
    /// Whether to add a newline after them.
    pub newline: bool,
    /// Whether NUL bytes are cut off.
    pub nuls: bool,
}

/// Checks the end of a file of `len` bytes. Returns `None` if a whole record or a
/// foreign line ends there.
pub fn look(file: &File, len: u64) -> io::Result<Option<Repair>> {
    let repair = End::new(file, len, BLOCK).judge()?;
    Ok((repair.keep < len || repair.newline).then_some(repair))
}

/// The offset of a record's start, and its format.
type Found = (u64, &'static Grammar);

/// The end of a file, read block by block.
#[derive(Debug)]
struct End<'a> {
    file: &'a File,
    /// The length of the file; from [`End::judge`] on without trailing NUL bytes.
    len: u64,
    block: u64,
    buffer: Vec<u8>,
}

impl<'a> End<'a> {
    fn new(file: &'a File, len: u64, block: u64) -> Self {
        Self { file, len, block, buffer: Vec::new() }
    }

    fn judge(&mut self) -> io::Result<Repair> {
        let len = std::mem::replace(&mut self.len, 0);
        self.len = self.without_nuls(len)?;
        let nuls = self.len < len;
        let keep = |keep, newline| Repair { keep, newline, nuls: nuls && keep < len };
        if self.len == 0 {
            return Ok(keep(0, false));
        }
        let last = self.last_start()?;
        if let Some((start, grammar)) = last
            && !self.has_end_behind(start, grammar)?
        {
            return Ok(keep(start, false));
        }
        match self.read(self.len - 1, self.len)? {
            b"\n" => Ok(keep(self.len, false)),
            // NUL bytes after foreign text may belong to it.
            _ if last.is_none() => Ok(keep(len, true)),
            _ => Ok(keep(self.len, true)),
        }
    }

    /// The length of the file without trailing NUL bytes.
    fn without_nuls(&mut self, len: u64) -> io::Result<u64> {
        let mut end = len;
        while end > 0 {
            let start = end.saturating_sub(self.block);
            self.len = end;
            let seen = self.read(start, end)?;
            if let Some(at) = seen.iter().rposition(|byte| *byte != 0) {
                return Ok(start + at as u64 + 1);
            }
            end = start;
        }
        Ok(0)
    }

    /// The start of the last record. A possible start counts only after a whole
    /// record, or if the file holds nothing else.
    fn last_start(&mut self) -> io::Result<Option<Found>> {
        let mut partial: Option<Found> = None;
        let (mut end, mut looked) = (self.len, 0);
        while end > 0 && looked < MAX_LOOK {
            let start = end.saturating_sub(self.block);
            let lines = self.starts_in(start, end)?;
            looked += if self.buffer.iter().all(|byte| *byte == 0) { 0 } else { end - start };
            for (at, grammar, found) in lines.into_iter().rev() {
                match (found, partial) {
                    (Start::Certain, Some((at, _))) if self.is_behind(at, grammar)? => {
                        // NUL bytes do not reveal the format.
                        let lost = self.read(at, at + 1)? == b"\0";
                        return Ok(partial.map(|(at, own)| (at, if lost { grammar } else { own })));
                    }
                    (Start::Certain, _) => return Ok(Some((at, grammar))),
                    (_, None) => partial = Some((at, grammar)),
                    _ => {}
                }
            }
            end = start;
        }
        // The file holds only the first bytes of its first record.
        let is_all = partial.is_some_and(|(at, _)| at == 0) && !self.read(0, AHEAD as u64)?.contains(&0);
        Ok(partial.filter(|_| is_all))
    }

    /// Lines that begin between `start` and `end` and start a record, certainly or
    /// possibly. A line begins at the start of the file and after each newline.
    fn starts_in(&mut self, start: u64, end: u64) -> io::Result<Vec<(u64, &'static Grammar, Start)>> {
        let from = start.saturating_sub(1);
        let seen = self.read(from, end + AHEAD as u64)?;
        let first = (from == start).then_some(0);
        let within = (end - from) as usize;
        let behind = (1..within.min(seen.len())).filter(|at| seen[at - 1] == b'\n');
        let mut found = Vec::new();
        for at in first.into_iter().chain(behind) {
            for grammar in GRAMMARS {
                let start = (grammar.starts)(&seen[at..]);
                if start != Start::No {
                    found.push((from + at as u64, grammar, start));
                }
            }
        }
        Ok(found)
    }

    /// Whether a record of this format ends at `at`.
    fn is_behind(&mut self, at: u64, grammar: &Grammar) -> io::Result<bool> {
        Ok(grammar.ends(self.read(at.saturating_sub(BEHIND as u64), at)?))
    }

    /// Whether the record at `start` is whole, or followed by foreign text.
    fn has_end_behind(&mut self, mut start: u64, grammar: &Grammar) -> io::Result<bool> {
        while start < self.len {
            if grammar.has_end(self.read(start, start + self.block + BEHIND as u64)?) {
                return Ok(true);
            }
            start += self.block;
        }
        Ok(false)
    }

    /// The bytes from `start` to `end`, or to the end of the file.
    fn read(&mut self, start: u64, end: u64) -> io::Result<&[u8]> {
        self.buffer.resize(end.min(self.len).saturating_sub(start) as usize, 0);
        self.file.read_exact_at(&mut self.buffer, start)?;
        Ok(&self.buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "HandleMetric invoked with:\n  Adapter config: &Params{FilePath:/volume/out.txt,}\n  \
                         Instances: 'i':\n  {\n\t\tValue = 1\n\t\tDimensions = map[a:b]\n  }\n";
    const OBJECT: &str = "{\"instance\":\"i\",\"template\":\"metric\",\"value\":{\"a\":\"\\\"{\"}}\n";

    const ENTRY: &str =
        "[2026-11-25T18:57:55.442Z] \"GET / HTTP/1.1\" 200 - via_upstream - \"-\" 0 5 1 - \"-\" route\n";
    const UNTIMED: &str = "[-] \"- - -\" 0 - - - \"-\" 0 0 - - \"-\" \"-\" -\n";
    const ENTRY_OBJECT: &str = "{\"authority\":\"a\",\"path\":\"/[2026-\",\"trace_id\":null}\n";
    const LOG_RECORD: &str = "{\"time\":null,\"severity\":null,\"body\":\"{\",\"span_id\":null}\n";
    const AUDIT: &str =
        "2026-11-25T19:00:16.572947Z ext_authz verdict=deny reason=no_token kind=tcp method=-\n";
    const AUDIT_OBJECT: &str =
        "{\"service\":\"ext_authz\",\"received_at\":\"2026-11-25T19:00:16.572947Z\"}\n";
    const RECORDS: [&str; 8] = [WHOLE, OBJECT, ENTRY, UNTIMED, ENTRY_OBJECT, LOG_RECORD, AUDIT, AUDIT_OBJECT];

    /// A temporary file, deleted on drop.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("repair-{name}-{}", std::process::id())))
        }

        fn holding(&self, text: impl AsRef<[u8]>) -> File {
            std::fs::write(&self.0, text).unwrap();
            File::options().read(true).write(true).open(&self.0).unwrap()
        }

        /// The number of bytes kept and whether a newline is added. Both must be
        /// independent of the block size.
        fn judge(&self, text: impl AsRef<[u8]>) -> (usize, bool) {
            let (file, len) = (self.holding(&text), text.as_ref().len() as u64);
            let judge = |block| End::new(&file, len, block).judge().unwrap();
            let verdict = judge(BLOCK);
            for block in [1, 2, 7, 64, 129] {
                assert_eq!(judge(block), verdict, "in blocks of {block}");
            }
            (verdict.keep as usize, verdict.newline)
        }

        #[track_caller]
        fn assert_cut(&self, kept: &str, cut: &str) {
            assert_eq!(self.judge(format!("{kept}{cut}")), (kept.len(), false), "{kept:?} {cut:?}");
        }

        #[track_caller]
        fn assert_kept(&self, text: &str) {
            assert_eq!(self.judge(text), (text.len(), !text.is_empty() && !text.ends_with('\n')), "{text:?}");
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn every_partial_record_is_cut_and_the_whole_ones_before_it_stay() {
        let scratch = Scratch::new("partial");
        let others = [(WHOLE, WHOLE), (OBJECT, WHOLE)].into_iter();
        for (first, last) in others.chain(RECORDS.into_iter().zip(RECORDS.into_iter().cycle().skip(1))) {
            let before = format!("{first}{last}");
            scratch.assert_kept(&before);
            for record in RECORDS {
                for length in 1..record.len() {
                    scratch.assert_cut(&before, &record[..length]);
                }
            }
        }
        for record in RECORDS {
            for length in 1..record.len() {
                scratch.assert_cut("", &record[..length]);
            }
        }
        scratch.assert_kept(
            "HandleMetric invoked with:\n  Adapter config: &Params{FilePath:,}\n  Instances: \n",
        );
    }

    #[test]
    fn nul_bytes_at_the_end_are_cut_however_many_they_are() {
        let scratch = Scratch::new("nuls");
        for nuls in ["\0".to_owned(), "\0".repeat(300)] {
            for kept in RECORDS.iter().chain(&["", "a stranger's line\n"]) {
                scratch.assert_cut(kept, &nuls);
            }
            for record in RECORDS {
                for length in [1, 10, 40] {
                    let partial = &record[..length];
                    scratch.assert_cut(record, &format!("{partial}{nuls}"));
                    scratch.assert_cut(record, &format!("{partial}{nuls} = 1"));
                    scratch.assert_cut(record, &format!("{nuls}{partial}"));
                    scratch.assert_cut(record, &format!("{nuls} = 1"));
                }
            }
        }
        let (file, len) = (scratch.holding(WHOLE), 17 << 20);
        file.set_len(len).unwrap();
        let mut end = End::new(&file, len, BLOCK);
        assert_eq!(end.judge().unwrap(), Repair { keep: WHOLE.len() as u64, newline: false, nuls: true });
        assert!(end.buffer.capacity() as u64 <= 2 * BLOCK, "{}", end.buffer.capacity());
        // A hole within a partial record.
        let file = scratch.holding(format!("{WHOLE}{}", &WHOLE[..40]));
        file.set_len(len).unwrap();
        file.write_all_at(b"Value", len).unwrap();
        let repair = look(&file, len + 5).unwrap().unwrap();
        assert_eq!((repair.keep as usize, repair.newline), (WHOLE.len(), false));
    }

    #[test]
    fn text_that_is_not_certainly_ours_is_kept() {
        let scratch = Scratch::new("foreign");
        for text in [
            "",
            "hello",
            "hello\n",
            "hello\0\0\0",
            "\0\0\0hello",
            "HandleMetric was called",
            "He said",
            "hello\nH",
            "{ \"a\": 1, \"unfinished\": ",
            "{\"a\":1",
            "{\"a\":1}",
            "[\n{",
            "[2026-11-25] a line",
            "[2026-11-25T18:57:55Z] GET",
            "[-] x",
            "{\"times\":1",
            "hello\n[2026-11-25T",
            "{\n  \"a\": {\n  }\n}\n{",
            "{\"a\":1}\n{\"a\":",
            "{\n  }\nH",
            "2026-11-25T19:00:16.572947Z something",
            "{\"service\":\"other\",",
            &format!("{WHOLE}foreign"),
            &format!("{WHOLE}foreign\n"),
            &format!("{OBJECT}foreign"),
            &format!("{OBJECT}{{ \"a\": 1, \"unfinished\": "),
            &format!("{OBJECT}{{\"a\":1"),
        ] {
            scratch.assert_kept(text);
        }
        // A forged head within a value: the text before it is kept.
        let fake =
            WHOLE.replace("a:b", "a:\nHandleMetric invoked with:\n  Adapter config: &Params{FilePath:x");
        scratch.assert_kept(&fake);
        scratch.assert_kept(&format!("{fake}x"));
    }

    #[test]
    fn a_record_larger_than_a_block_is_found() {
        let scratch = Scratch::new("large");
        let large = WHOLE.replace("a:b", &format!("a:{}", "\nxyz".repeat(100_000)));
        let partial = &large[..large.len() - 3];
        let file = scratch.holding(format!("{WHOLE}{partial}"));
        let len = file.metadata().unwrap().len();
        assert_eq!(look(&file, len).unwrap().unwrap().keep, WHOLE.len() as u64);
    }

    #[test]
    fn a_line_longer_than_any_of_ours_is_kept_and_little_of_it_in_memory() {
        let scratch = Scratch::new("long");
        let mut text = b"HandleMetric invoked with:\n  Adapter config: &Params{FilePath:".to_vec();
        text.resize((MAX_LOOK + BLOCK) as usize + text.len(), b'x');
        let (file, len) = (scratch.holding(&text), text.len() as u64);
        let mut end = End::new(&file, len, BLOCK);
        assert_eq!(end.judge().unwrap(), Repair { keep: len, newline: true, nuls: false });
        assert!(end.buffer.capacity() as u64 <= 2 * BLOCK, "{}", end.buffer.capacity());
    }
}
