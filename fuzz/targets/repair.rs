//! Any bytes as a file that a crash has left: what is cut off its end never has
//! a whole record in it, and what is left ends with a line.
//!
//! The first byte says what the file is; in the others, 1 stands for a run of
//! letters, so that small inputs become files of many blocks.
#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Seek, Write};

use mygrpcadapter::render::Format;
use mygrpcadapter::volume::repair::mend;
use mygrpcadapter_fuzz::{json, scratch};

/// Together less than `mend` looks back.
const RUN: usize = 50_000;
const MAX_RUNS: usize = 8;

thread_local! {
    static FILE: RefCell<File> = RefCell::new({
        let path = scratch("repair").join("file");
        File::options().read(true).write(true).create(true).truncate(true).open(path).expect("a file")
    });
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [first, rest @ ..] = input else { return };
    if rest.is_empty() {
        return;
    }
    let format = if first & 1 == 0 { Format::Text } else { Format::Json };
    let (mut before, mut runs) = (Vec::new(), 0);
    for byte in rest {
        match byte {
            1 if runs < MAX_RUNS => {
                before.extend_from_slice(&[b'x'; RUN]);
                runs += 1;
            }
            _ => before.push(*byte),
        }
    }
    let (after, told) = FILE.with_borrow_mut(|file| mended(file, &before, format));
    assert_eq!(told.is_some(), before != after, "it says when it does something");
    if let Some(cut) = before.strip_prefix(&*after).filter(|cut| !cut.is_empty()) {
        check_cut(&after, cut, format);
    } else if before != after {
        assert_eq!(after.strip_prefix(&*before), Some(&b"\n"[..]), "it adds an end of line or nothing");
    }
    assert!(after.is_empty() || after.ends_with(b"\n"));
});

fn mended(file: &mut File, before: &[u8], format: Format) -> (Vec<u8>, Option<String>) {
    file.set_len(0).expect("an empty file");
    file.rewind().expect("its start");
    file.write_all(before).expect("a file as it was");
    let told = mend(file, before.len() as u64, format).expect("a file that can be mended");
    let mut after = Vec::new();
    file.rewind().expect("its start");
    file.read_to_end(&mut after).expect("a file as it is");
    (after, told)
}

/// Whatever a record is in this format, there is none in what was cut; and
/// only what began on a line of its own was cut.
fn check_cut(kept: &[u8], cut: &[u8], format: Format) {
    assert!(kept.is_empty() || kept.ends_with(b"\n"));
    match format {
        Format::Json => {
            assert!(!cut.contains(&b'\n'), "a whole line was cut");
            assert!(matches!(cut[0], b'{' | 0), "a stranger's line was cut");
            assert!(json::object(cut).is_err(), "a whole object was cut");
        }
        Format::Text => {
            let has = |part: &[u8]| cut.windows(part.len()).any(|window| window == part);
            assert!(!has(b"\n  }\n") && !has(b",}\n  Instances: \n"), "a whole record was cut");
            assert!(b"Handle".starts_with(&cut[..cut.len().min(6)]), "a stranger's line was cut");
        }
    }
}
