//! Any bytes as a report of `edge`.
#![no_main]

use mygrpcadapter::frontends::mixer::templates::EDGE;
use mygrpcadapter_fuzz::report;

libfuzzer_sys::fuzz_target!(|message: &[u8]| report::check(&EDGE, message));
