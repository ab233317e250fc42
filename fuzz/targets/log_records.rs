//! Any bytes as an OTLP request: the same lines with just enough room as with plenty,
//! and an error with less.
#![no_main]

use mygrpcadapter_fuzz::lines;
use records::otlp::export::{Export, Refusal};
use records::render::Format;

const BEFORE: &[u8] = b"a request before\n";

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for mut resource in Export::new(bytes).filter_map(Result::ok) {
        let _ = resource.identifier();
        for format in [Format::Text, Format::Json] {
            let mut out = BEFORE.to_vec();
            let outcome = resource.lines(&mut out, format, 1 << 24);
            let written = out.strip_prefix(BEFORE).expect("what was there before is as it was");
            let Ok(count) = outcome else {
                assert!(written.is_empty());
                continue;
            };
            let all: Vec<_> = written.split_inclusive(|byte| *byte == b'\n').collect();
            assert_eq!(all.len() as u64, count.records - count.malformed);
            all.into_iter().for_each(|line| lines::check(format, line));
            if !written.is_empty() {
                let mut less = BEFORE.to_vec();
                assert_eq!(resource.lines(&mut less, format, written.len() - 1), Err(Refusal::TooLong));
                assert_eq!(less, BEFORE);
            }
        }
    }
});
