//! From a log entry's variables to an observation of latency.

use std::borrow::Cow;

use super::templates::VARIABLES;
use crate::histogram::{Histogram, Observation, Observations};
use crate::record::{Record, Value};
use crate::render::text;

const NANOS: i32 = 1_000_000_000;

/// The variables of an observation.
#[derive(Debug, Default)]
struct Variables<'a> {
    url: Value<'a>,
    host: Value<'a>,
    method: Value<'a>,
    status: Value<'a>,
    latency: Value<'a>,
}

impl<'a> Variables<'a> {
    /// Collects them in one pass.
    fn of(record: &Record<'a>) -> Self {
        let mut found = Self::default();
        let Some(Value::Map(entries)) = record.values.get(VARIABLES) else { return found };
        for entry in record.entries(*entries) {
            match entry.key {
                b"url" => found.url = entry.value,
                b"host" => found.host = entry.value,
                b"method" => found.method = entry.value,
                b"responseCode" => found.status = entry.value,
                b"latency" => found.latency = entry.value,
                _ => {}
            }
        }
        found
    }
}

/// Adds the latency of one log entry to the observations of its request.
pub fn note(record: &Record, histogram: &Histogram, observations: &mut Observations) {
    let variables = Variables::of(record);
    let observation = Observation {
        url: &shown(record, variables.url),
        host: &shown(record, variables.host),
        method: &shown(record, variables.method),
        status: &shown(record, variables.status),
        seconds: seconds(variables.latency),
    };
    histogram.note(&observation, observations);
}

fn shown<'a>(record: &Record, value: Value<'a>) -> Cow<'a, [u8]> {
    match value {
        Value::Absent => Cow::Borrowed(&[]),
        Value::String(text) => Cow::Borrowed(text),
        value => {
            let mut shown = Vec::new();
            text::plain(&mut shown, record, value);
            Cow::Owned(shown)
        }
    }
}

/// A latency in seconds; `None` for other types and for invalid durations.
fn seconds(latency: Value) -> Option<f64> {
    match latency {
        Value::Duration(Some(span)) if span.seconds >= 0 && (0..NANOS).contains(&span.nanos) => {
            Some(span.seconds as f64 + f64::from(span.nanos) / 1e9)
        }
        Value::Double(seconds) => Some(seconds),
        Value::Int(seconds) => Some(seconds as f64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Instant;

    #[test]
    fn only_a_span_or_a_number_is_a_latency() {
        let span = |seconds, nanos| Value::Duration(Some(Instant { seconds, nanos }));
        for (value, expected) in [
            (span(1, 500_000_000), Some(1.5)),
            (span(-1, 0), None),
            (span(0, NANOS), None),
            (Value::Duration(None), None),
            (Value::Double(0.25), Some(0.25)),
            (Value::Int(2), Some(2.0)),
            (Value::String(b"5ms"), None),
            (Value::Absent, None),
        ] {
            assert_eq!(seconds(value), expected, "{value:?}");
        }
    }
}
