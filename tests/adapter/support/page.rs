//! Prometheus's text format, parsed more strictly than by Prometheus: any deviation
//! fails the test.

use std::collections::{BTreeMap, BTreeSet};

type Labels = Vec<(String, String)>;
/// A name and its labels, sorted.
type Series = (String, Labels);

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Page {
    samples: BTreeMap<Series, f64>,
    kinds: BTreeMap<String, String>,
}

impl Page {
    pub fn parse(text: &str) -> Self {
        let mut page = Self::default();
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut family: Option<String> = None;
        let mut helped: Option<&str> = None;
        for line in text.split_terminator('\n') {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a name and words");
                assert!(is_name(name) && !words.is_empty(), "{line}");
                assert!(!words.contains('\\'), "{line}");
                assert!(helped.replace(name).is_none(), "{line}: no TYPE before it");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a name and a type");
                assert_eq!(helped.take(), Some(name), "HELP and TYPE come in pairs");
                assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(page.kinds.insert(name.into(), kind.into()).is_none(), "{line}: a second time");
                family = Some(name.into());
            } else {
                assert_eq!(helped, None, "{line}: no TYPE before it");
                let family = family.as_deref().expect("no sample before the first TYPE");
                page.sample(family, line);
            }
        }
        assert_eq!(helped, None);
        page.check_histograms();
        page
    }

    fn sample(&mut self, family: &str, line: &str) {
        let end = line.find(['{', ' ']).expect("a name");
        let (name, rest) = line.split_at(end);
        assert!(is_name(name), "{line}");
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line}: not of {family}"));
        let kind = &*self.kinds[family];
        let suffixes = if kind == "histogram" { &["_bucket", "_sum", "_count"][..] } else { &[""] };
        assert!(suffixes.contains(&suffix), "{line}");
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest),
            None => (Vec::new(), rest),
        };
        let text = value.strip_prefix(' ').unwrap_or_else(|| panic!("{line}: no space before the value"));
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.e".contains(&byte));
        assert!(plain || matches!(text, "NaN" | "+Inf" | "-Inf"), "{line}");
        let value: f64 = text.parse().unwrap_or_else(|_| panic!("{line}: not a number"));
        assert!(kind != "counter" || value >= 0.0, "{line}");
        let names: BTreeSet<_> = labels.iter().map(|label| &label.0).collect();
        assert_eq!(names.len(), labels.len(), "{line}: a label twice");
        let mut sorted = labels;
        sorted.sort();
        let series = (name.to_owned(), sorted);
        assert!(self.samples.insert(series, value).is_none(), "{line}: a second time");
    }

    /// Buckets ascend to `+Inf`, which equals the count.
    fn check_histograms(&self) {
        for (name, _) in self.kinds.iter().filter(|kind| kind.1 == "histogram") {
            let bucket = format!("{name}_bucket");
            let mut groups: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
            for ((_, labels), value) in self.samples.iter().filter(|sample| sample.0.0 == bucket) {
                let (le, others): (Vec<_>, Vec<_>) =
                    labels.iter().cloned().partition(|label| label.0 == "le");
                groups.entry(others).or_default().push((le[0].1.parse().unwrap(), *value));
            }
            for (labels, mut buckets) in groups {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{labels:?} {buckets:?}");
                let (last, all) = buckets[buckets.len() - 1];
                assert_eq!(last, f64::INFINITY, "{labels:?}");
                let of = |suffix: &str| self.samples.get(&(format!("{name}{suffix}"), labels.clone()));
                assert_eq!(of("_count"), Some(&all), "{labels:?}");
                assert!(of("_sum").is_some(), "{labels:?}");
            }
        }
    }

    /// The value of a series, if it exists.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.samples.get(&series(name, labels)).copied()
    }

    /// The value of a series.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?}"))
    }

    /// The value of a series with one label.
    pub fn of(&self, name: &str, label: &str, value: &str) -> f64 {
        self.value(name, &[(label, value)])
    }

    /// The value of a series without labels.
    pub fn single(&self, name: &str) -> f64 {
        self.value(name, &[])
    }

    /// The labels of every series of that name.
    pub fn labels(&self, name: &str) -> Vec<&[(String, String)]> {
        self.samples.keys().filter(|series| series.0 == name).map(|series| &*series.1).collect()
    }

    /// The sum of all series of that name.
    pub fn total(&self, name: &str) -> f64 {
        self.samples.iter().filter(|sample| sample.0.0 == name).map(|sample| sample.1).sum()
    }

    /// The type of each family.
    pub fn kinds(&self) -> impl Iterator<Item = (&str, &str)> {
        self.kinds.iter().map(|(name, kind)| (&**name, &**kind))
    }

    /// Every counter with its value, which must never decrease.
    pub fn counters(&self) -> impl Iterator<Item = (&Series, f64)> {
        let counts =
            |name: &str| name.ends_with("_total") || name.ends_with("_count") || name.ends_with("_bucket");
        self.samples.iter().filter(move |sample| counts(&sample.0.0)).map(|(series, value)| (series, *value))
    }

    /// The value of a series from [`Page::counters`] on this page.
    pub fn again(&self, series: &Series) -> Option<f64> {
        self.samples.get(series).copied()
    }
}

fn series(name: &str, labels: &[(&str, &str)]) -> Series {
    let mut labels: Vec<_> = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    labels.sort();
    (name.into(), labels)
}

fn is_name(name: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(letters) && !name.is_empty() && !name.as_bytes()[0].is_ascii_digit()
}

/// Labels up to the closing brace, and the rest.
fn labels(text: &str) -> (Labels, &str) {
    let mut labels = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = rest.split_once("=\"").expect("a label");
        assert!(is_name(name), "{rest}");
        let mut value = String::new();
        let mut letters = after.char_indices();
        let end = loop {
            match letters.next().expect("a quote at the end") {
                (at, '"') => break at,
                (_, '\\') => value.push(match letters.next().expect("a letter after the backslash").1 {
                    'n' => '\n',
                    letter @ ('\\' | '"') => letter,
                    letter => panic!("{text}: no such escape: {letter}"),
                }),
                (_, letter) => value.push(letter),
            }
        };
        labels.push((name.to_owned(), value));
        rest = &after[end + 1..];
        if let Some(after) = rest.strip_prefix('}') {
            return (labels, after);
        }
        rest = rest.strip_prefix(',').expect("a comma or the end");
    }
}
