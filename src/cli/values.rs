//! Values of options: from text to what it stands for.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::frontends::envoy::ext_authz::settings::OnError;
use crate::journal::Fsync;
use crate::render::Format;

/// Upper bounds of a histogram's buckets.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds(pub Vec<f64>);

/// Prometheus's buckets.
pub(super) const USUAL_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A whole number and its unit, in lower case.
fn scaled(text: &str, unit: fn(&str) -> Option<u64>) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    number.parse::<u64>().ok()?.checked_mul(unit(&rest.to_ascii_lowercase())?)
}

/// A unit of durations, in milliseconds.
fn time_unit(unit: &str) -> Option<u64> {
    Some(match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    })
}

/// A unit of sizes, in bytes; K, M and G as in Kubernetes.
fn size_unit(unit: &str) -> Option<u64> {
    Some(match unit {
        "" | "b" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        _ => return None,
    })
}

/// A duration of at most a year.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match scaled(text, time_unit) {
        Some(millis @ 0..=31_536_000_000) => Ok(Duration::from_millis(millis)),
        _ => {
            Err(String::from("write a whole number and a unit, as in 500ms, 5s, 2m, 1h or 1d; at most 365d"))
        }
    }
}

/// A size in bytes, above zero.
pub(super) fn size(text: &str) -> Result<u64, String> {
    match scaled(text, size_unit) {
        Some(bytes @ 1..) => Ok(bytes),
        _ => Err(String::from(
            "write a whole number above zero and a unit, as in 65536, 512KiB, 16MiB, 10M or 1GiB",
        )),
    }
}

pub(super) fn count(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=100_000).contains(number));
    number.ok_or_else(|| String::from("write a number from 1 to 100000"))
}

pub(super) fn whole(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| String::from("write a whole number, as in 5"))
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| String::from("write a port from 0 to 65535"))
}

pub(super) fn port_or_off(text: &str) -> Result<Option<u16>, String> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| String::from("write a port from 0 to 65535, or off"))
}

pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| String::from("write an IP address, as in 10.0.0.1 or ::1, without a port"))
}

/// Parses a path. An empty one comes from a variable that is not set.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err(String::from("write a path")) } else { Ok(text.into()) }
}

/// Parses the histogram's bounds.
pub(super) fn buckets(text: &str) -> Result<Bounds, String> {
    if text.eq_ignore_ascii_case("gatewaymetric") {
        // Each bound is the previous one plus the width, including rounding errors.
        let bounds = std::iter::successors(Some(-0.00099), |bound| Some(bound + 0.0001));
        return Ok(Bounds(bounds.take(20).collect()));
    }
    let bounds: Option<Vec<f64>> = text.split(',').map(|bound| decimal(bound.trim())).collect();
    let ascends = |bounds: &Vec<f64>| bounds.is_sorted_by(|a, b| a < b);
    bounds.filter(|bounds| bounds.len() <= 64 && ascends(bounds)).map(Bounds).ok_or_else(|| {
        String::from("write at most 64 numbers, ascending, as in 0.01,0.1,1; or gatewaymetric")
    })
}

/// Parses a plain decimal of at most 15 digits: its digits and its power of ten are
/// exact, so a single division rounds correctly. std's parser needs a table of 10 kB.
fn decimal(text: &str) -> Option<f64> {
    let (sign, text) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.len() + part.len();
    let plain = whole.bytes().chain(part.bytes()).all(|byte| byte.is_ascii_digit());
    if digits == 0 || digits > 15 || !plain {
        return None;
    }
    let number: u64 =
        whole.bytes().chain(part.bytes()).fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(sign * number as f64 / 10_u64.pow(part.len() as u32) as f64)
}

pub(super) fn fsync(text: &str) -> Result<Fsync, String> {
    match &*text.to_ascii_lowercase() {
        "never" => Ok(Fsync::Never),
        "always" => Ok(Fsync::Always),
        text => match text.strip_prefix("interval=").map(duration) {
            Some(interval) => interval.map(Fsync::Interval),
            None => Err(String::from("write never, always, or interval=DURATION")),
        },
    }
}

pub(super) fn status(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| String::from("write an HTTP status from 400 to 599"))
}

pub(super) fn on_error(text: &str) -> Result<OnError, String> {
    match &*text.to_ascii_lowercase() {
        "deny" => Ok(OnError::Deny),
        "unavailable" => Ok(OnError::Unavailable),
        _ => Err(String::from("write deny or unavailable")),
    }
}

pub(super) fn format(text: &str) -> Result<Format, String> {
    match &*text.to_ascii_lowercase() {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err(String::from("write text or json")),
    }
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match &*text.to_ascii_lowercase() {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(String::from("write true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_to_the_last_bit() {
        for text in ["0.005", ".5", "10", "2.5", "-0.00099", "0.30000000000001", "123456789012345"] {
            assert_eq!(decimal(text), text.parse().ok(), "{text}");
        }
        for text in ["", ".", "-", "1e3", "NaN", "0x1", "1.2.3", "1234567890123456"] {
            assert_eq!(decimal(text), None, "{text}");
        }
        let original = buckets("gatewaymetric").unwrap().0;
        assert_eq!(
            (original.len(), original[2], original[9]),
            (20, -0.0007899999999999999, -8.999999999999979e-05)
        );
        assert_eq!(buckets("0.1, 1,10").unwrap().0, [0.1, 1.0, 10.0]);
        for text in ["", "1,1", "2,1", "a", "1,"] {
            assert!(buckets(text).is_err(), "{text}");
        }
    }

    #[test]
    fn units_and_words_are_read_in_any_case() {
        for (text, bytes) in [
            ("65536", 65_536),
            ("10M", 10_000_000),
            ("10m", 10_000_000),
            ("1k", 1_000),
            ("2G", 2_000_000_000),
            ("16MiB", 16 << 20),
            ("16mib", 16 << 20),
            ("1Gi", 1 << 30),
            ("512KiB", 512 << 10),
            ("7B", 7),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "M", "1.5M", "-1", "1MM", "1T", "99999999999G", "1 M"] {
            assert!(size(text).is_err(), "{text}");
        }
        for (text, seconds) in [("1d", 86_400), ("365D", 86_400 * 365), ("2H", 7_200), ("3m", 180), ("5S", 5)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["366d", "1w", "5", "d", "1d1h"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!((format("JSON"), format("Text")), (Ok(Format::Json), Ok(Format::Text)));
        assert_eq!((fsync("Always"), fsync("NEVER")), (Ok(Fsync::Always), Ok(Fsync::Never)));
        assert_eq!(fsync("Interval=1S"), Ok(Fsync::Interval(Duration::from_secs(1))));
        assert_eq!((port_or_off("OFF"), port_or_off("0")), (Ok(None), Ok(Some(0))));
        assert_eq!(on_error("Unavailable"), Ok(OnError::Unavailable));
        assert_eq!(buckets("GatewayMetric"), buckets("gatewaymetric"));
    }
}
