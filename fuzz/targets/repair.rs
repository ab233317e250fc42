//! Any bytes as a file after a crash: the part cut off its end never contains a whole
//! record, and the rest ends with a line.
//!
//! The first byte is ignored; in the others, 1 stands for a run of letters, so that
//! small inputs become files of many blocks.
#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, Write};

use mygrpcadapter::volume::repair::look;
use mygrpcadapter_fuzz::scratch;

/// Together less than the repair looks back.
const RUN: usize = 50_000;
const MAX_RUNS: usize = 8;

thread_local! {
    static FILE: RefCell<File> = RefCell::new({
        let path = scratch("repair").join("file");
        File::options().read(true).write(true).create(true).truncate(true).open(path).expect("a file")
    });
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [_, rest @ ..] = input else { return };
    if rest.is_empty() {
        return;
    }
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
    FILE.with_borrow_mut(|file| {
        file.set_len(0).expect("an empty file");
        file.rewind().expect("its start");
        file.write_all(&before).expect("a file as it was");
        let Some(repair) = look(file, before.len() as u64).expect("a file that can be read") else {
            return assert!(before.ends_with(b"\n"), "no line ends there");
        };
        let (kept, cut) = before.split_at(repair.keep as usize);
        if !cut.is_empty() {
            check_cut(kept, cut, repair.newline);
        }
        assert!(repair.newline || kept.is_empty() || kept.ends_with(b"\n"));
        assert!(!repair.newline || !kept.ends_with(b"\n"), "an empty line");
    });
});

/// The cut contains no whole record, and only text that begins as a record was cut.
fn check_cut(kept: &[u8], cut: &[u8], newline: bool) {
    if cut.iter().all(|byte| *byte == 0) {
        return;
    }
    assert!(!newline, "a line was cut and another ended");
    assert!(kept.is_empty() || kept.ends_with(b"\n"));
    let has = |part: &[u8]| cut.windows(part.len()).any(|window| window == part);
    let agrees = |part: &[u8]| {
        let written = cut.iter().position(|byte| *byte == 0).unwrap_or(cut.len()).min(part.len());
        part.starts_with(&cut[..written])
    };
    let is_text = agrees(b"Handle") && !has(b"\n  }\n") && !has(b",}\n  Instances: \n");
    let is_json = agrees(b"{\"instance\":") && !has(b"\n");
    let digit = |byte: &u8| if byte.is_ascii_digit() { b'0' } else { *byte };
    let shape: Vec<u8> = cut.iter().take_while(|byte| **byte != 0).map(digit).collect();
    let audit = b"0000-00-00T00:00:00.000000Z ext_authz verdict=";
    let is_audit =
        agrees(b"{\"service\":\"ext_authz\",") || audit.starts_with(&shape[..shape.len().min(audit.len())]);
    assert!(is_text || is_json || is_audit && !has(b"\n"), "a stranger's line or a whole record was cut");
}
