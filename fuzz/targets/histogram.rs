//! Any bytes as log entries whose labels go to `/metrics`: the page parses, and
//! contains every observation.
#![no_main]

use std::collections::BTreeSet;

use mygrpcadapter::frontends::mixer::latency;
use mygrpcadapter::frontends::mixer::report::Report;
use mygrpcadapter::frontends::mixer::templates::LOGENTRY;
use mygrpcadapter::histogram::{Histogram, NAME, Observations, Settings};
use mygrpcadapter::record::Record;
use mygrpcadapter::render::Format;
use mygrpcadapter_fuzz::exposition::{Sample, samples};

const BUCKETS: [f64; 3] = [0.01, 0.1, 1.0];
const MAX_SERIES: usize = 3;
const LABELS: [&str; 5] = ["endpoint", "fullurl", "host", "method", "status"];

libfuzzer_sys::fuzz_target!(|message: &[u8]| {
    let Ok(report) = Report::read(message) else { return };
    for keep_query in [false, true] {
        let settings = Settings { buckets: BUCKETS.to_vec(), max_series: MAX_SERIES, keep_query };
        let histogram = Histogram::new(settings);
        let mut observations = Observations::default();
        let note = |record: &Record| latency::note(record, &histogram, &mut observations);
        let outcome = report.render(&LOGENTRY, Format::Json, &mut Vec::new(), note);
        if outcome.is_err() {
            return;
        }
        histogram.add(&observations);
        let (mut page, mut next) = (Vec::new(), Some(0));
        while let Some(start) = next {
            next = histogram.expose(&mut page, start, 2);
        }
        let samples = samples(&page).unwrap_or_else(|what| panic!("{what}"));
        let observed = report.instances as u64 - histogram.unmeasured.get();
        check(&histogram, &samples, observed, keep_query);
    }
});

fn check(histogram: &Histogram, samples: &[Sample], observed: u64, keep_query: bool) {
    // One line per bound, `+Inf`, the sum, the count.
    let lines = BUCKETS.len() + 3;
    assert_eq!(samples.len(), histogram.len() * lines);
    assert!(histogram.len() <= MAX_SERIES + 1);
    let (mut known, mut total) = (BTreeSet::new(), 0);
    for series in samples.chunks(lines) {
        let [buckets @ .., sum, count] = series else { panic!("no series") };
        assert_eq!((&*sum.name, &*count.name), (&*format!("{NAME}_sum"), &*format!("{NAME}_count")));
        assert!(count.labels.iter().map(|label| &*label.0).eq(LABELS));
        assert!(known.insert(&count.labels), "a series twice: {:?}", count.labels);
        let url = &count.labels[1].1;
        assert!(keep_query || !url.contains('?'), "{url}");
        assert!(count.labels.iter().all(|label| label.1.len() <= 128));
        let mut below = 0.0;
        for bucket in buckets {
            let [labels @ .., le] = &*bucket.labels else { panic!("no labels") };
            assert_eq!((labels, &*le.0, &*bucket.name), (&*count.labels, "le", &*format!("{NAME}_bucket")));
            assert!(bucket.value >= below);
            below = bucket.value;
        }
        assert_eq!(below, count.value);
        total += count.value as u64;
    }
    assert_eq!(total, observed);
}
