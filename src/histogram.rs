//! Log entries as a Prometheus latency histogram.
//!
//! The name and labels are those of the gatewaymetric adapter, whose dashboards
//! exist: `http_request_seconds_histogram` by endpoint, fullurl, host, method and
//! status. Label values are untrusted, so their number and length are bounded.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use records::labels::{are_same, hash, label, without_query};

use crate::metrics::{Counter, Description, Export, Page};
use crate::render::go;

/// The metric name that dashboards query.
pub const NAME: &str = "http_request_seconds_histogram";
/// The original adapter's constant value of `endpoint`.
const ENDPOINT: &[u8] = b"/test";
/// Initial capacities: observations of a request, bytes of a label set.
const SEEN: usize = 64;
const LABELS: usize = 256;
/// Series per piece of the page: about 8 KB, held per slow reader.
const PIECE: usize = 4;
/// Label value of the overflow series, used beyond `max_series`.
const OVERFLOW: &[u8] = b"overflow";
/// The longest valid latency, in seconds: a year. Streams may last for weeks;
/// anything longer would make the sum useless.
const MAX_SECONDS: f64 = 365.0 * 86_400.0;

/// Buckets and labels of the histogram.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Upper bounds in seconds, ascending, without `+Inf`.
    pub buckets: Vec<f64>,
    /// Limit on series; further label sets share the overflow series.
    pub max_series: usize,
    /// Whether a URL keeps its query string.
    pub keep_query: bool,
}

#[derive(Debug)]
struct Series {
    /// Observations per bucket; the last bucket is `+Inf`.
    counts: Vec<u64>,
    sum: f64,
}

/// Rendered label sets, numbered in order of arrival.
#[derive(Debug, Default)]
struct LabelSets {
    /// Hash of a label set to its number. A collision is detected and counted
    /// as overflow.
    numbers: HashMap<u64, usize>,
    sets: Vec<Box<[u8]>>,
}

/// A rendered label set and its hash.
#[derive(Clone, Copy, Debug)]
struct Labels<'a> {
    text: &'a [u8],
    hash: u64,
}

#[derive(Debug, Default)]
struct Table {
    labels: LabelSets,
    /// The series of each label set.
    series: Vec<Series>,
    /// The number of the overflow series, once it exists.
    overflow: Option<usize>,
}

/// All series, behind a lock.
#[derive(Debug)]
pub struct Histogram {
    settings: Settings,
    /// The seed of all hashes.
    seed: u64,
    table: Mutex<Table>,
    /// Observations counted in the overflow series.
    pub overflowed: Counter,
    /// Log entries without a valid latency: absent, negative, not finite, or longer
    /// than a year.
    pub unmeasured: Counter,
}

/// One request, as label values and a latency.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observation<'a> {
    /// The URL, with or without its query.
    pub url: &'a [u8],
    /// The host.
    pub host: &'a [u8],
    /// The HTTP method.
    pub method: &'a [u8],
    /// The HTTP status.
    pub status: &'a [u8],
    /// The latency in seconds; `None` if unknown.
    pub seconds: Option<f64>,
}

/// The series of an observation.
#[derive(Clone, Copy, Debug)]
enum Slot {
    /// An existing series, by number.
    Known(usize),
    /// A series that the request would create, by its number among those.
    New(usize),
    Overflow,
}

/// The observations of one request. They enter the histogram together, after the
/// whole request was accepted.
#[derive(Debug, Default)]
pub struct Observations {
    seen: Vec<(Slot, f64)>,
    /// Label sets new to the histogram, at most as many as it has room for.
    new: LabelSets,
    unmeasured: u64,
    labels: Vec<u8>,
}

impl Histogram {
    /// A histogram without series.
    pub fn new(settings: Settings) -> Self {
        let (table, overflowed, unmeasured) = Default::default();
        Self { settings, seed: RandomState::new().hash_one(0), table, overflowed, unmeasured }
    }

    fn labels<'a>(&self, text: &'a [u8]) -> Labels<'a> {
        Labels { text, hash: hash(self.seed, text) }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one observation to those of a request.
    pub fn note(&self, observation: &Observation, observations: &mut Observations) {
        let valid = |seconds: &f64| (0.0..=MAX_SECONDS).contains(seconds);
        let Some(seconds) = observation.seconds.filter(valid) else {
            observations.unmeasured += 1;
            return;
        };
        let Observations { seen, new, labels, .. } = observations;
        if seen.is_empty() {
            seen.reserve(SEEN);
            labels.reserve(LABELS);
        }
        let Observation { url, host, method, status, .. } = observation;
        let url = if self.settings.keep_query { url } else { without_query(url) };
        labels.clear();
        label(labels, "endpoint", ENDPOINT);
        label(labels, "fullurl", url);
        label(labels, "host", host);
        label(labels, "method", method);
        label(labels, "status", status);
        let slot = self.lock().slot(self.labels(labels), new, self.settings.max_series);
        seen.push((slot, seconds));
    }

    /// Adds the observations of a request to the histogram.
    pub fn add(&self, observations: &Observations) {
        self.unmeasured.add(observations.unmeasured);
        let mut table = self.lock();
        let made: Vec<_> =
            observations.new.sets.iter().map(|text| table.number(self.labels(text), self)).collect();
        for (slot, seconds) in &observations.seen {
            let number = match slot {
                Slot::Known(number) => *number,
                Slot::New(number) => made[*number],
                Slot::Overflow => table.overflow(self),
            };
            self.overflowed.add(u64::from(table.overflow == Some(number)));
            let series = &mut table.series[number];
            let bucket = self.settings.buckets.partition_point(|bound| bound < seconds);
            series.counts[bucket] += 1;
            series.sum += seconds;
        }
    }

    /// Appends at most `count` series to a page, starting at `start`. Returns the
    /// next start, if any are left.
    pub fn expose(&self, out: &mut Vec<u8>, start: usize, count: usize) -> Option<usize> {
        let table = self.lock();
        let end = table.series.len().min(start.saturating_add(count));
        for number in start.min(end)..end {
            self.expose_series(out, &table.labels.sets[number], &table.series[number]);
        }
        (end < table.series.len()).then_some(end)
    }

    fn expose_series(&self, out: &mut Vec<u8>, labels: &[u8], series: &Series) {
        let sample = |out: &mut Vec<u8>, suffix: &str| {
            out.extend_from_slice(NAME.as_bytes());
            out.extend_from_slice(suffix.as_bytes());
            out.push(b'{');
            out.extend_from_slice(labels);
        };
        let mut total = 0;
        for (at, count) in series.counts.iter().enumerate() {
            total += count;
            sample(out, "_bucket");
            out.extend_from_slice(b",le=\"");
            go::float(out, self.settings.buckets.get(at).copied().unwrap_or(f64::INFINITY));
            out.extend_from_slice(b"\"} ");
            go::int(out, total as i64);
            out.push(b'\n');
        }
        sample(out, "_sum");
        out.extend_from_slice(b"} ");
        go::float(out, series.sum);
        out.push(b'\n');
        sample(out, "_count");
        out.extend_from_slice(b"} ");
        go::int(out, total as i64);
        out.push(b'\n');
    }

    /// The number of series.
    pub fn len(&self) -> usize {
        self.lock().series.len()
    }

    /// Whether there is no series yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Export for Histogram {
    fn export(&self, page: &mut Page, start: usize) -> Option<usize> {
        if start == 0 {
            page.counter(
                "mygrpcadapter_latency_overflow_total",
                "Log entries observed in the overflow series.",
                &self.overflowed,
            );
            page.counter(
                "mygrpcadapter_latency_unmeasured_total",
                "Log entries whose latency is absent, negative, not finite or longer than a year.",
                &self.unmeasured,
            );
            page.gauge("mygrpcadapter_latency_series", "Series in the histogram.", self.len() as f64);
            let help = "Latency of requests, from log entries, in seconds.";
            page.describe(Description { name: NAME, kind: "histogram", help });
        }
        self.expose(&mut page.text, start, PIECE)
    }
}

impl LabelSets {
    /// The number of a label set, or `Err` if a different set has the same hash.
    fn find(&self, labels: Labels) -> Result<Option<usize>, Collision> {
        match self.numbers.get(&labels.hash) {
            Some(number) if are_same(&self.sets[*number], labels.text) => Ok(Some(*number)),
            Some(_) => Err(Collision),
            None => Ok(None),
        }
    }

    /// Adds a new label set and returns its number.
    fn add(&mut self, labels: Labels) -> usize {
        let number = self.sets.len();
        self.numbers.insert(labels.hash, number);
        self.sets.push(labels.text.into());
        number
    }
}

/// Two label sets share a hash.
#[derive(Debug)]
struct Collision;

impl Table {
    /// The series for these labels, among existing ones and those the request would
    /// create.
    fn slot(&self, labels: Labels, new: &mut LabelSets, max_series: usize) -> Slot {
        match self.labels.find(labels) {
            Ok(Some(number)) => return Slot::Known(number),
            Ok(None) => {}
            Err(Collision) => return Slot::Overflow,
        }
        match new.find(labels) {
            Ok(Some(number)) => Slot::New(number),
            Ok(None) if self.series.len() + new.sets.len() < max_series => Slot::New(new.add(labels)),
            _ => Slot::Overflow,
        }
    }

    /// The number of the series with these labels, created if there is room; else
    /// that of the overflow series.
    fn number(&mut self, labels: Labels, histogram: &Histogram) -> usize {
        match self.labels.find(labels) {
            Ok(Some(number)) => number,
            Ok(None) if self.series.len() < histogram.settings.max_series => {
                self.make(labels, &histogram.settings)
            }
            _ => self.overflow(histogram),
        }
    }

    /// The number of the overflow series, created on first use.
    fn overflow(&mut self, histogram: &Histogram) -> usize {
        if let Some(number) = self.overflow {
            return number;
        }
        let mut text = Vec::new();
        for name in ["endpoint", "fullurl", "host", "method", "status"] {
            label(&mut text, name, OVERFLOW);
        }
        let number = self.make(histogram.labels(&text), &histogram.settings);
        self.overflow = Some(number);
        number
    }

    fn make(&mut self, labels: Labels, settings: &Settings) -> usize {
        self.series.push(Series { counts: vec![0; settings.buckets.len() + 1], sum: 0.0 });
        self.labels.add(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(max_series: usize, keep_query: bool) -> Histogram {
        Histogram::new(Settings { buckets: vec![0.01, 0.1, 1.0], max_series, keep_query })
    }

    fn observe(histogram: &Histogram, observation: Observation) {
        let mut observations = Observations::default();
        histogram.note(&observation, &mut observations);
        histogram.add(&observations);
    }

    fn of(url: &[u8]) -> Observation<'_> {
        Observation { url, seconds: Some(0.5), ..Observation::default() }
    }

    fn page(histogram: &Histogram) -> String {
        let (mut out, mut next) = (Vec::new(), Some(0));
        while let Some(start) = next {
            next = histogram.expose(&mut out, start, 1);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn labels_and_samples_are_the_original_ones() {
        let histogram = histogram(10, false);
        for seconds in [0.03125, 0.0078125] {
            let observation = Observation {
                url: b"/productpage?u=normal",
                host: b"h:80",
                method: b"GET",
                status: b"200",
                seconds: Some(seconds),
            };
            observe(&histogram, observation);
        }
        let labels =
            "endpoint=\"/test\",fullurl=\"/productpage\",host=\"h:80\",method=\"GET\",status=\"200\"";
        assert_eq!(
            page(&histogram),
            format!(
                "{NAME}_bucket{{{labels},le=\"0.01\"}} 1\n{NAME}_bucket{{{labels},le=\"0.1\"}} 2\n\
                 {NAME}_bucket{{{labels},le=\"1\"}} 2\n{NAME}_bucket{{{labels},le=\"+Inf\"}} 2\n\
                 {NAME}_sum{{{labels}}} 0.0390625\n{NAME}_count{{{labels}}} 2\n"
            )
        );
    }

    #[test]
    fn callers_get_no_more_series_than_allowed() {
        let histogram = histogram(2, true);
        for url in [&b"/a?1"[..], b"/a?2", b"/a?3", b"/a?4", b"/a?1"] {
            observe(&histogram, of(url));
        }
        assert_eq!((histogram.len(), histogram.overflowed.get()), (3, 2));
        assert!(page(&histogram).contains("_count{endpoint=\"overflow\",fullurl=\"overflow\",host=\"overflow\",method=\"overflow\",status=\"overflow\"} 2\n"));
    }

    #[test]
    fn an_observation_without_a_latency_is_counted_apart() {
        let histogram = histogram(2, true);
        for seconds in [None, Some(f64::NAN), Some(-1.0), Some(f64::INFINITY), Some(1e9)] {
            observe(&histogram, Observation { seconds, ..Observation::default() });
        }
        assert_eq!((histogram.len(), histogram.unmeasured.get()), (0, 5));
    }

    proptest::proptest! {
        #[test]
        fn whatever_strangers_send_series_are_bounded_and_every_observation_is_in_one(
            urls in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..300), 1..40),
            cap in 1_usize..8,
        ) {
            let histogram = histogram(cap, true);
            let mut observations = Observations::default();
            for url in &urls {
                histogram.note(&of(url), &mut observations);
            }
            histogram.add(&observations);
            assert!(histogram.len() <= cap + 1);
            // The page is UTF-8; each line is a label set with balanced quotes and a
            // number.
            let page = page(&histogram);
            let mut counted = 0;
            for line in page.lines() {
                let (name, number) = line.rsplit_once(' ').unwrap();
                let number: f64 = number.parse().unwrap();
                let escaped = name.replace("\\\\", "").replace("\\\"", "");
                assert_eq!(escaped.matches('"').count() % 2, 0, "{line}");
                assert!(name.starts_with(NAME) && name.ends_with("\"}"), "{line}");
                if name.contains("_count{") {
                    counted += number as usize;
                }
            }
            assert_eq!(counted, urls.len());
        }
    }
}
