//! Any bytes as a report of `reportnothing`.
#![no_main]

use mygrpcadapter::frontends::mixer::templates::REPORTNOTHING;
use mygrpcadapter_fuzz::report;

libfuzzer_sys::fuzz_target!(|message: &[u8]| report::check(&REPORTNOTHING, message));
