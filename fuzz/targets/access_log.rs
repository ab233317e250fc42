//! Any bytes as a message of an access log stream.
#![no_main]

use mygrpcadapter_fuzz::lines;
use records::envoy::entry::Entry;
use records::envoy::identifier::{Identifier, MAX_NAME};
use records::envoy::message::Message;
use records::envoy::observation::Observation;
use records::render::{Format, bound};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::read(bytes) else { return };
    let identifier = message.identifier().unwrap_or_default();
    check_names(&identifier);
    let (mut entry, mut count) = (Entry::default(), 0);
    for item in message.entries() {
        count += 1;
        let Ok((kind, bytes)) = item else { continue };
        if entry.read(kind, bytes).is_err() {
            continue;
        }
        for (format, shared) in [(Format::Text, 0), (Format::Json, identifier.shared())] {
            let mut line = Vec::new();
            records::envoy::line(&mut line, format, &mut entry, &identifier);
            lines::check(format, &line);
            assert!(line.len() <= bound::most(format, bytes.len(), shared));
            assert!(line.len() <= bound::need(format, bytes, 0) + shared);
        }
        if let Some(seen) = Observation::of(&entry) {
            assert!(!seen.path.contains(&b'?') && seen.seconds.is_none_or(f64::is_finite));
        }
    }
    assert!(count <= bytes.len() / 2 + 1);
});

fn check_names(identifier: &Identifier) {
    for name in [identifier.log_name(), identifier.node(), identifier.pod(), identifier.namespace()] {
        assert!(name.len() <= MAX_NAME);
    }
    assert!(identifier.shared() <= 4 * (6 * MAX_NAME + 32));
}
