//! Any bytes as a report of `tracespan`.
#![no_main]

use mygrpcadapter::frontends::mixer::templates::TRACESPAN;
use mygrpcadapter_fuzz::report;

libfuzzer_sys::fuzz_target!(|message: &[u8]| report::check(&TRACESPAN, message));
