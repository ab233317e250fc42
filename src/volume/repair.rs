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
const BLOCK: u64 = 64 * 1024;

/// What a record of ours begins with, in the text, between the name of the call
/// and the file's.
const HEAD: &[u8] = b" invoked with:\n  Adapter config: &Params{FilePath:";
const HEAD_START: &[u8] = b"Handle";
/// What ends every record of ours, in the text.
const LAST_LINE: &[u8] = b"\n  }\n";
const NO_INSTANCES: &[u8] = b",}\n  Instances: \n";

/// What to do with an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mend {
    Leave,
    /// Cut to this many bytes of what was looked at.
    CutTo(usize),
    EndLine,
}

/// Mends the end of a file of `len` bytes. Returns what it did, for the log.
pub fn mend(file: &File, len: u64, format: Format) -> io::Result<Option<String>> {
    if len == 0 {
        return Ok(None);
    }
    let mut end = Vec::new();
    let mut start = len;
    loop {
        let size = BLOCK.max(end.len() as u64).min(start);
        start -= size;
        let mut grown = vec![0; size as usize];
        file.read_exact_at(&mut grown, start)?;
        grown.extend_from_slice(&end);
        end = grown;
        let seen_all = start == 0 || len - start >= MAX_LOOK;
        let verdict = match format {
            Format::Json => mend_json(&end, seen_all),
            Format::Text => mend_text(&end, seen_all),
        };
        return match verdict {
            None => continue,
            Some(Mend::Leave) => Ok(None),
            Some(Mend::CutTo(kept)) => {
                file.set_len(start + kept as u64)?;
                Ok(Some(format!("cut_bytes={}", end.len() - kept)))
            }
            Some(Mend::EndLine) => {
                file.write_all_at(b"\n", len)?;
                Ok(Some("ended_its_last_line=true".into()))
            }
        };
    }
}

/// The last line of a JSON file, or `None` if more must be seen. A line without
/// its newline is cut unless it is a whole object that lost nothing else.
fn mend_json(end: &[u8], seen_all: bool) -> Option<Mend> {
    let line = match end.iter().rposition(|byte| *byte == b'\n') {
        Some(at) if at + 1 == end.len() => return Some(Mend::Leave),
        Some(at) => at + 1,
        None if seen_all => 0,
        None => return None,
    };
    match end[line] {
        b'{' if !is_whole_object(&end[line..]) => Some(Mend::CutTo(line)),
        // Blocks that a crash left unwritten.
        0 => Some(Mend::CutTo(line)),
        _ => Some(Mend::EndLine),
    }
}

/// Whether the braces of an object, outside its strings, close at its very end.
fn is_whole_object(text: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' if !in_string => depth += 1,
            b'}' if !in_string => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1 == text.len();
                }
            }
            _ => {}
        }
    }
    false
}

/// The last record of a text file, or `None` if more must be seen.
fn mend_text(end: &[u8], seen_all: bool) -> Option<Mend> {
    if end.ends_with(LAST_LINE) || end.ends_with(NO_INSTANCES) {
        return Some(Mend::Leave);
    }
    let ends_line = end.ends_with(b"\n");
    let Some(start) = last_head(end) else {
        return match seen_all {
            true if ends_line => Some(Mend::Leave),
            true => Some(Mend::EndLine),
            false => None,
        };
    };
    // With an end of a record in it, it may be whole, and what follows foreign.
    let has_end = contains(&end[start..], LAST_LINE) || contains(&end[start..], NO_INSTANCES);
    match has_end {
        false => Some(Mend::CutTo(start)),
        true if ends_line => Some(Mend::Leave),
        true => Some(Mend::EndLine),
    }
}

/// Where the last head of a record begins. One that is cut off itself counts
/// only behind a record of ours.
fn last_head(end: &[u8]) -> Option<usize> {
    let mut line_end = end.len();
    loop {
        let line = end[..line_end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let follows_ours = end[..line].ends_with(LAST_LINE) || end[..line].ends_with(NO_INSTANCES);
        if is_head(&end[line..], follows_ours) {
            return Some(line);
        }
        line_end = line.checked_sub(1)?;
    }
}

/// Whether a text begins as a record of ours does; in part will do, too, where
/// `or_part` says so.
fn is_head(text: &[u8], or_part: bool) -> bool {
    let Some(rest) = text.strip_prefix(HEAD_START) else {
        return or_part && !text.is_empty() && HEAD_START.starts_with(text);
    };
    let name = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let rest = &rest[name..];
    name <= 32 && (rest.starts_with(HEAD) || or_part && HEAD.starts_with(rest))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "HandleMetric invoked with:\n  Adapter config: &Params{FilePath:/volume/out.txt,}\n  \
                         Instances: 'i':\n  {\n\t\tValue = 1\n\t\tDimensions = map[a:b]\n  }\n";

    #[test]
    fn every_torn_text_record_is_cut_and_the_whole_ones_before_it_stay() {
        let before = WHOLE.repeat(2);
        for length in 1..WHOLE.len() {
            let torn = format!("{before}{}", &WHOLE[..length]);
            assert_eq!(mend_text(torn.as_bytes(), true), Some(Mend::CutTo(before.len())), "{torn:?}");
        }
        assert_eq!(mend_text(before.as_bytes(), true), Some(Mend::Leave));
        let empty = "HandleMetric invoked with:\n  Adapter config: &Params{FilePath:,}\n  Instances: \n";
        assert_eq!(mend_text(empty.as_bytes(), true), Some(Mend::Leave));
    }

    #[test]
    fn text_that_is_not_ours_for_certain_is_kept() {
        for (text, mend) in [
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
            assert_eq!(mend_text(text.as_bytes(), true), Some(mend), "{text:?}");
        }
        // A head that a stranger put into a value: what is before it stays.
        let fake =
            WHOLE.replace("a:b", "a:\nHandleMetric invoked with:\n  Adapter config: &Params{FilePath:x");
        assert_eq!(mend_text(fake.as_bytes(), true), Some(Mend::Leave));
        assert_eq!(mend_text(format!("{fake}x").as_bytes(), true), Some(Mend::EndLine));
    }

    #[test]
    fn json_is_cut_to_its_last_whole_object() {
        let whole = "{\"a\":{\"b}\":\"\\\"{\"}}";
        for (line, mend) in [
            (whole.to_owned(), Mend::EndLine),
            (format!("{whole}\n"), Mend::Leave),
            ("\0\0".into(), Mend::CutTo(whole.len() + 1)),
            ("foreign".into(), Mend::EndLine),
        ] {
            let text = format!("{whole}\n{line}");
            assert_eq!(mend_json(text.as_bytes(), true), Some(mend), "{text:?}");
        }
        for length in 1..whole.len() {
            let text = format!("{whole}\n{}", &whole[..length]);
            assert_eq!(mend_json(text.as_bytes(), true), Some(Mend::CutTo(whole.len() + 1)), "{text:?}");
        }
        assert_eq!(mend_json(&whole.as_bytes()[..4], true), Some(Mend::CutTo(0)));
    }

    #[test]
    fn a_record_larger_than_a_block_is_found() {
        let path = std::env::temp_dir().join(format!("repair-{}", std::process::id()));
        let large = WHOLE.replace("a:b", &format!("a:{}", "\nxyz".repeat(100_000)));
        let torn = &large[..large.len() - 3];
        std::fs::write(&path, format!("{WHOLE}{torn}")).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        assert_eq!(mend(&file, len, Format::Text).unwrap(), Some(format!("cut_bytes={}", torn.len())));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), WHOLE);
        std::fs::remove_file(path).unwrap();
    }
}
