//! Any bytes as a report of `metric`, compared with a slow and plain renderer on
//! prost's decoding.
#![no_main]

#[path = "../../tests/adapter/properties/reference.rs"]
mod reference;

use mygrpcadapter::frontends::mixer::report::Report;
use mygrpcadapter::frontends::mixer::templates::METRIC;
use mygrpcadapter::pb::metric::HandleMetricRequest;
use mygrpcadapter::refusal::Reason;
use mygrpcadapter::render::Format;
use mygrpcadapter_fuzz::report;
use prost::Message;

libfuzzer_sys::fuzz_target!(|message: &[u8]| {
    report::check(&METRIC, message);
    let Ok(request) = HandleMetricRequest::decode(message) else { return };
    let canonical = request.encode_to_vec();
    let report = match Report::read(&canonical) {
        Ok(report) => report,
        Err(refusal) if refusal.reason == Reason::Config => return,
        Err(refusal) => panic!("prost's own encoding is refused as {refusal:?}"),
    };
    let Ok(path) = std::str::from_utf8(report.config.file_path()) else { return };
    let mut out = Vec::new();
    report.render(&METRIC, Format::Text, &mut out, |_| {}).expect("prost's own encoding is taken");
    assert_eq!(String::from_utf8(out).expect("text"), reference::text(&request, path));
});
