//! Counters and gauges, and their text in Prometheus's format. Knows none of the
//! modules that count: each owns its metrics and exports them.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only increases.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the counter.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The current total.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds one.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Subtracts one.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The name, type and help of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// The metric's name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// One sentence.
    pub help: &'static str,
}

/// A counter for each of `N` values of one label.
#[derive(Debug)]
pub struct Family<const N: usize> {
    about: Description,
    label: &'static str,
    values: [&'static str; N],
    counters: [Arc<Counter>; N],
}

impl<const N: usize> Family<N> {
    /// All zero. `values` are the label's values, in the order of [`Family::at`].
    pub fn new(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: [&'static str; N],
    ) -> Self {
        let about = Description { name, kind: "counter", help };
        Self { about, label, values, counters: std::array::from_fn(|_| Arc::default()) }
    }

    /// The counter at this index of the values.
    pub fn at(&self, index: usize) -> &Arc<Counter> {
        &self.counters[index]
    }

    /// Appends all samples.
    pub fn export(&self, page: &mut Page) {
        page.describe(self.about);
        for (value, counter) in self.values.iter().zip(&self.counters) {
            page.sample(self.about.name, &[(self.label, value)], counter.get() as f64);
        }
    }
}

/// A source of metrics.
pub trait Export: Send + Sync {
    /// Appends a bounded number of metrics, from `start` on. Returns the next start,
    /// if any are left.
    fn export(&self, page: &mut Page, start: usize) -> Option<usize>;
}

/// All sources of metrics, in page order.
#[derive(Clone, Default)]
pub struct Registry(Vec<Arc<dyn Export>>);

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registry({} parts)", self.0.len())
    }
}

/// The position of the next piece of a page.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    part: usize,
    start: usize,
}

impl Registry {
    /// Adds a source at the end.
    pub fn add(&mut self, part: Arc<dyn Export>) {
        self.0.push(part);
    }

    /// Appends the piece at `at`. Returns the position of the next one, if any.
    pub fn piece(&self, at: Position, page: &mut Page) -> Option<Position> {
        let part = self.0.get(at.part)?;
        match part.export(page, at.start) {
            Some(start) => Some(Position { part: at.part, start }),
            None => (at.part + 1 < self.0.len()).then_some(Position { part: at.part + 1, start: 0 }),
        }
    }
}

/// The text of a page or a piece of it.
#[derive(Debug, Default)]
pub struct Page {
    /// The text so far.
    pub text: Vec<u8>,
}

impl Page {
    /// Appends the `HELP` and `TYPE` lines of a metric.
    pub fn describe(&mut self, about: Description) {
        let Description { name, kind, help } = about;
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// Appends one sample. Label values are constants and need no escaping.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text.extend_from_slice(name.as_bytes());
        for (at, (label, of)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{of}\"");
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    /// Appends a counter without labels.
    pub fn counter(&mut self, name: &'static str, help: &'static str, counter: &Counter) {
        self.describe(Description { name, kind: "counter", help });
        self.sample(name, &[], counter.get() as f64);
    }

    /// Appends a gauge without labels.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.describe(Description { name, kind: "gauge", help });
        self.sample(name, &[], value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Parts(usize);

    impl Export for Parts {
        fn export(&self, page: &mut Page, start: usize) -> Option<usize> {
            page.sample("part", &[("of", &self.0.to_string())], start as f64);
            (start + 1 < self.0).then_some(start + 1)
        }
    }

    #[test]
    fn a_page_has_every_piece_of_every_part_once() {
        let mut registry = Registry::default();
        [1, 3, 1].into_iter().for_each(|pieces| registry.add(Arc::new(Parts(pieces))));
        let (mut page, mut next) = (Page::default(), Some(Position::default()));
        while let Some(at) = next {
            next = registry.piece(at, &mut page);
        }
        let expected =
            "part{of=\"1\"} 0\npart{of=\"3\"} 0\npart{of=\"3\"} 1\npart{of=\"3\"} 2\npart{of=\"1\"} 0\n";
        assert_eq!(String::from_utf8(page.text).unwrap(), expected);
    }

    #[test]
    fn a_family_has_a_sample_for_each_value() {
        let family = Family::new("a_total", "What it counts.", "of", ["x", "y"]);
        family.at(1).add(3);
        let mut page = Page::default();
        family.export(&mut page);
        let expected = "# HELP a_total What it counts.\n# TYPE a_total counter\na_total{of=\"x\"} 0\na_total{of=\"y\"} 3\n";
        assert_eq!(String::from_utf8(page.text).unwrap(), expected);
    }
}
