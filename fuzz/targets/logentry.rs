//! Any bytes as a report of `logentry`.
#![no_main]

use mygrpcadapter::frontends::mixer::templates::LOGENTRY;
use mygrpcadapter_fuzz::report;

libfuzzer_sys::fuzz_target!(|message: &[u8]| report::check(&LOGENTRY, message));
