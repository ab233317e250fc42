//! Numbers, durations and times as Go prints them.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::append::append;
use crate::record::Instant;

const NANOS: i64 = 1_000_000_000;
/// The first second of the years 1 and 10000.
const YEAR_1: i64 = -62_135_596_800;
const YEAR_10000: i64 = 253_402_300_800;
/// The limit of google.protobuf.Duration: about 10,000 years either way.
const MAX_DURATION_SECONDS: u64 = 315_576_000_000;

/// A decimal integer.
pub fn int(out: &mut Vec<u8>, value: i64) {
    append(out, itoa::Buffer::new().format(value).as_bytes());
}

/// A `float64` as by `%v`: the shortest digits that round-trip; of these the closest
/// to the value; of two equally close the even one. Plain from 1e-4 to below 1e6,
/// else with an exponent of at least two digits.
pub fn float(out: &mut Vec<u8>, value: f64) {
    if !value.is_finite() {
        let text = if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        };
        return out.extend_from_slice(text.as_bytes());
    }
    let whole = value as i64;
    if whole as f64 == value && whole.unsigned_abs() < 1_000_000 && (whole != 0 || !value.is_sign_negative())
    {
        return int(out, whole);
    }
    let start = out.len();
    // `d.ddde-5`: std's shortest digits, with an exponent.
    let _ = write!(out, "{value:e}");
    let Some(e) = out[start..].iter().position(|byte| *byte == b'e').map(|at| start + at) else { return };
    let exponent = std::str::from_utf8(&out[e + 1..]).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    out.truncate(e);
    to_even(&mut out[start..], value, exponent);
    if (-4..=5).contains(&exponent) {
        plain(out, start, exponent);
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "e{sign}{:02}", exponent.unsigned_abs());
    }
}

/// Makes the last of the digits `d.ddd` of `value` even if the digits below are
/// equally close. std takes those above.
///
/// Such a value is `odd * 10^-places / 2`, where `odd` lies between twice the
/// one digits and twice the other. With a mantissa of 53 bits this takes `places`
/// from 1 to 24, and `odd` then is a multiple of 5^places, so that the value is a
/// whole number of 2^-(places + 1).
fn to_even(digits: &mut [u8], value: f64, exponent: i32) {
    let count = digits.iter().filter(|byte| byte.is_ascii_digit()).count() as i32;
    let places = count - 1 - exponent;
    if !(1..=24).contains(&places) || digits.last().is_none_or(|last| last % 2 == 0) {
        return;
    }
    let scaled = value.abs() * (1_u64 << (places + 1)) as f64;
    let whole = scaled as u64;
    if whole as f64 != scaled {
        return;
    }
    let above = digits.iter().filter(|byte| byte.is_ascii_digit());
    let above = above.fold(0, |number, digit| number * 10 + u128::from(digit - b'0'));
    let odd = above * 2 - 1;
    // Below a power of two the next value is half as far away: digits that far below
    // round-trip only if they are fine enough.
    let is_power = value.to_bits() << 12 == 0;
    let reads_back = !is_power || odd >= 1 << 54;
    if reads_back
        && u128::from(whole) * 5_u128.pow(places as u32) == odd
        && let Some(last) = digits.last_mut()
    {
        *last -= 1;
    }
}

/// Moves the decimal point of the `d.ddd` at `start` by `exponent` places.
fn plain(out: &mut Vec<u8>, start: usize, exponent: i32) {
    let first = start + usize::from(out[start] == b'-');
    if out.len() > first + 1 {
        out.remove(first + 1);
    }
    if exponent < 0 {
        let lead = &b"0.000"[..1 + exponent.unsigned_abs() as usize];
        out.splice(first..first, lead.iter().copied());
        return;
    }
    let point = first + 1 + exponent as usize;
    while out.len() < point {
        out.push(b'0');
    }
    if out.len() > point {
        out.insert(point, b'.');
    }
}

/// A `google.protobuf.Duration`: `1h30m0s`, `34.547407ms`, `1.5µs`, `0s`.
pub fn duration(out: &mut Vec<u8>, value: Option<Instant>) {
    match value.map(checked_nanos) {
        None => out.extend_from_slice(b"(duration: nil types.Duration)"),
        Some(Ok(nanos)) => span(out, nanos),
        Some(Err(reason)) => misfit(out, "duration", "Duration", value, reason),
    }
}

/// The nanoseconds of a duration within Go's range, or the reason why it is not.
fn checked_nanos(value: Instant) -> Result<i64, &'static str> {
    let Instant { seconds, nanos } = value;
    if seconds.unsigned_abs() > MAX_DURATION_SECONDS {
        return Err(": seconds out of range");
    }
    if i64::from(nanos).abs() >= NANOS {
        return Err(": nanos out of range");
    }
    if (seconds < 0 && nanos > 0) || (seconds > 0 && nanos < 0) {
        return Err(": seconds and nanos have different signs");
    }
    let whole = seconds.checked_mul(NANOS).and_then(|whole| whole.checked_add(i64::from(nanos)));
    whole.ok_or(" is out of range for time.Duration")
}

/// Go's text for an invalid duration or timestamp. Its generated code qualifies the
/// first mention of the type, although it is qualified already.
fn misfit(out: &mut Vec<u8>, what: &str, kind: &str, value: Option<Instant>, reason: &str) {
    let Instant { seconds, nanos } = value.unwrap_or_default();
    let _ = write!(out, "({what}: &types.types.{kind}{{Seconds: {seconds},\nNanos: {nanos},\n}}{reason})");
}

/// Nanoseconds as a Go duration: below a second in the largest unit with a whole
/// part, else in hours, minutes and seconds.
fn span(out: &mut Vec<u8>, nanos: i64) {
    if nanos == 0 {
        return out.extend_from_slice(b"0s");
    }
    if nanos < 0 {
        out.push(b'-');
    }
    let nanos = nanos.unsigned_abs();
    let (unit, places, name) = match nanos {
        0..1_000 => (1, 0, "ns"),
        1_000..1_000_000 => (1_000, 3, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, 6, "ms"),
        _ => (1_000_000_000, 9, "s"),
    };
    let mut whole = nanos / unit;
    if places == 9 {
        if whole >= 3600 {
            int(out, (whole / 3600) as i64);
            out.push(b'h');
        }
        if whole >= 60 {
            int(out, (whole / 60 % 60) as i64);
            out.push(b'm');
        }
        whole %= 60;
    }
    int(out, whole as i64);
    fraction(out, nanos % unit, places);
    append(out, name.as_bytes());
}

/// `.` and `places` digits of a fraction, without trailing zeros.
fn fraction(out: &mut Vec<u8>, mut value: u64, places: usize) {
    if value == 0 {
        return;
    }
    let (mut digits, mut used) = ([b'0'; 9], places);
    while value.is_multiple_of(10) {
        value /= 10;
        used -= 1;
    }
    for digit in digits[..used].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.push(b'.');
    append(out, &digits[..used]);
}

/// A `google.protobuf.Timestamp` in RFC 3339: UTC, up to nine fractional digits,
/// without trailing zeros.
pub fn timestamp(out: &mut Vec<u8>, value: Option<Instant>) {
    let Some(Instant { seconds, nanos }) = value else {
        return out.extend_from_slice(b"(timestamp: nil types.Timestamp)");
    };
    if seconds < YEAR_1 {
        misfit(out, "timestamp", "Timestamp", value, " before 0001-01-01");
    } else if seconds >= YEAR_10000 {
        misfit(out, "timestamp", "Timestamp", value, " after 10000-01-01");
    } else if !(0..NANOS).contains(&i64::from(nanos)) {
        misfit(out, "timestamp", "Timestamp", value, ": nanos not in range [0, 1e9)");
    } else {
        second(out, seconds);
        fraction(out, nanos as u64, 9);
        out.push(b'Z');
    }
}

/// Whether RFC 3339 can represent a time.
pub fn is_time(value: Instant) -> bool {
    (YEAR_1..YEAR_10000).contains(&value.seconds) && (0..NANOS).contains(&i64::from(value.nanos))
}

/// Seconds since 1970 as `2006-01-02T15:04:05`, within the years 1 to 9999.
pub fn second(out: &mut Vec<u8>, seconds: i64) {
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u32);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00";
    for (at, number) in [
        (0, year / 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, of_day / 3600),
        (14, of_day / 60 % 60),
        (17, of_day % 60),
    ] {
        // Two digits.
        [text[at], text[at + 1]] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
    }
    out.extend_from_slice(&text);
}

/// The current time in RFC 3339, in microseconds.
pub fn now(out: &mut Vec<u8>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    second(out, now.as_secs() as i64);
    let _ = write!(out, ".{:06}Z", now.subsec_micros());
}

/// The date of a day counted from 1970-01-01, from 0000-03-01 to beyond the year 9999,
/// with years that begin in March so that the leap day comes last.
///
/// The multiplications are those of Neri and Schneider, "Euclidean affine functions and
/// their application to calendar algorithms" (2023).
fn civil(days: i64) -> (u32, u32, u32) {
    let quarters = 4 * (days + 719_468) as u32 + 3;
    let (century, of_century) = (quarters / 146_097, (quarters % 146_097) | 3);
    let years = u64::from(of_century) * 2_939_745;
    let (year_of_century, of_year) = ((years >> 32) as u32, years as u32 / 2_939_745 / 4);
    let months = of_year * 2_141 + 197_913;
    let (march_month, day) = (months >> 16, (months & 0xffff) / 2_141 + 1);
    let is_next = of_year >= 306;
    let month = if is_next { march_month - 12 } else { march_month };
    (century * 100 + year_of_century + u32::from(is_next), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"x".to_vec();
        write(&mut out);
        String::from_utf8(out).unwrap()[1..].to_owned()
    }

    #[test]
    fn floats_are_the_shortest_and_change_form_where_go_does() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (0.5, "0.5"),
            (-2.5, "-2.5"),
            (100000.0, "100000"),
            (999999.0, "999999"),
            (999999.9, "999999.9"),
            (100000.25, "100000.25"),
            (1e6, "1e+06"),
            (-1e6, "-1e+06"),
            (1234567.0, "1.234567e+06"),
            (1234567.5, "1.2345675e+06"),
            (123456789.0, "1.23456789e+08"),
            (0.0001, "0.0001"),
            (0.00012345, "0.00012345"),
            (0.00001, "1e-05"),
            (0.000012345, "1.2345e-05"),
            (1e21, "1e+21"),
            (1e100, "1e+100"),
            (0.1 + 0.2, "0.30000000000000004"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (12.034, "12.034"),
            (0.034547407, "0.034547407"),
            (9007199254740993.0, "9.007199254740992e+15"),
        ] {
            assert_eq!(text(|out| float(out, value)), expected);
        }
    }

    /// All digits of a positive value, by big-number arithmetic, and how many of them
    /// are before the point.
    fn exactly(value: f64) -> (Vec<u8>, i32) {
        let bits = value.to_bits();
        let (raw, fraction) = ((bits >> 52) as i32, bits & ((1 << 52) - 1));
        let (mantissa, exponent) =
            if raw == 0 { (fraction, -1074) } else { (fraction | 1 << 52, raw - 1075) };
        const BASE: u64 = 1_000_000_000;
        // Least significant limb first.
        let mut limbs = vec![mantissa % BASE, mantissa / BASE];
        // Halving is multiplying by five and dividing by ten.
        let (factor, mut left) = (if exponent < 0 { 5_u64 } else { 2 }, exponent.unsigned_abs());
        while left > 0 {
            let step = left.min(12);
            left -= step;
            let mut carry = 0;
            for limb in &mut limbs {
                let product = *limb * factor.pow(step) + carry;
                (*limb, carry) = (product % BASE, product / BASE);
            }
            limbs.extend((carry > 0).then_some(carry));
        }
        let text: String = limbs.iter().rev().map(|limb| format!("{limb:09}")).collect();
        let digits: Vec<_> = text.trim_start_matches('0').bytes().map(|digit| digit - b'0').collect();
        let before = digits.len() as i32 + exponent.min(0);
        (digits, before)
    }

    fn spelled(digits: &[u8], before: i32) -> String {
        let text: String = digits.iter().map(|digit| char::from(b'0' + digit)).collect();
        format!("{}.{}e{}", &text[..1], &text[1..], before - 1)
    }

    /// The next number with the same number of digits.
    fn next(digits: &[u8]) -> Vec<u8> {
        let mut next = digits.to_vec();
        for digit in next.iter_mut().rev() {
            *digit += 1;
            if *digit < 10 {
                return next;
            }
            *digit = 0;
        }
        next.insert(0, 1);
        next
    }

    /// Go's rule: the fewest digits that round-trip; of these the closest to the
    /// value; of two equally close the even one.
    fn reference(value: f64) -> String {
        let (exact, before) = exactly(value);
        for count in 1..=17 {
            let low: Vec<u8> = (0..count).map(|at| exact.get(at).copied().unwrap_or(0)).collect();
            let high = next(&low);
            let high_before = before + i32::from(high.len() > count);
            let rest = exact.get(count..).unwrap_or_default();
            let reads_back = |digits: &[u8], before| spelled(digits, before).parse() == Ok(value);
            let (of_low, of_high) = (reads_back(&low, before), reads_back(&high, high_before));
            let half = [&[5][..], &vec![0; rest.len().saturating_sub(1)]].concat();
            let takes_high = match (of_low, of_high) {
                (false, false) => continue,
                (true, true) if rest == half => low[count - 1] % 2 == 1,
                (true, true) => rest > &half[..],
                (_, of_high) => of_high,
            };
            let (digits, before) = if takes_high { (high, high_before) } else { (low, before) };
            return formed(&digits, before);
        }
        panic!("17 digits are enough for {value:e}");
    }

    /// Digits in the layout of `%v`.
    fn formed(digits: &[u8], before: i32) -> String {
        let text: String = digits.iter().map(|digit| char::from(b'0' + digit)).collect();
        let text = text.trim_end_matches('0');
        let exponent = before - 1;
        let point = |text: &str| if text.is_empty() { String::new() } else { format!(".{text}") };
        match exponent {
            -4..0 => format!("0.{}{text}", "0".repeat(-before as usize)),
            0..6 if text.len() <= before as usize => format!("{text:0<0$}", before as usize),
            0..6 => format!("{}.{}", &text[..before as usize], &text[before as usize..]),
            _ => {
                let sign = if exponent < 0 { '-' } else { '+' };
                format!("{}{}e{sign}{:02}", &text[..1], point(&text[1..]), exponent.abs())
            }
        }
    }

    fn assert_as_go(value: f64) {
        let (shown, negative) = (text(|out| float(out, value)), text(|out| float(out, -value)));
        assert_eq!(shown, reference(value), "{:#x}", value.to_bits());
        assert_eq!(negative, format!("-{shown}"));
    }

    /// Pseudo-random numbers, the same in every run.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }
    }

    #[test]
    fn of_two_shortest_forms_as_close_the_even_one_is_shown() {
        for (value, expected) in [
            (6_000_000_000_000_001.0 / 4.0, "1.5000000000000002e+15"),
            (6_000_000_000_000_003.0 / 4.0, "1.5000000000000008e+15"),
            (-6_000_000_000_000_001.0 / 4.0, "-1.5000000000000002e+15"),
            (2.0_f64.powi(-25), "2.9802322387695312e-08"),
            (2.0_f64.powi(-24), "5.960464477539063e-08"),
            (5e-324, "5e-324"),
            (9_007_199_254_740_993.0, "9.007199254740992e+15"),
        ] {
            assert_eq!(text(|out| float(out, value)), expected);
        }
    }

    #[test]
    fn floats_of_every_exponent_are_those_of_go() {
        let mut random = Random(1);
        for raw in 0..2047_u64 {
            // The neighbour below a power of two is nearer than the one above.
            let edges = [0, 1, (1 << 52) - 1, 1 << 51];
            for fraction in edges.into_iter().chain((0..8).map(|_| random.next() >> 12)) {
                let value = f64::from_bits(raw << 52 | fraction);
                if value > 0.0 {
                    assert_as_go(value);
                }
            }
        }
    }

    #[test]
    fn floats_with_few_places_of_two_are_those_of_go() {
        let mut random = Random(2);
        // Where two forms can be equally close: multiples of small fractions.
        for places in 1..=30 {
            for bits in 40..=53 {
                for _ in 0..60 {
                    let whole = (random.next() >> (64 - bits)) | 1;
                    assert_as_go(whole as f64 / 2.0_f64.powi(places));
                }
            }
        }
        for exponent in 50..54 {
            for _ in 0..5_000 {
                let fraction = random.next() >> 12;
                assert_as_go(f64::from_bits((1023 + exponent) << 52 | fraction));
            }
        }
    }

    #[test]
    fn durations_are_go_durations() {
        for (seconds, nanos, expected) in [
            (0, 0, "0s"),
            (0, 1, "1ns"),
            (0, 1_500, "1.5µs"),
            (0, 34_547_407, "34.547407ms"),
            (0, 999_000, "999µs"),
            (1, 500_000_000, "1.5s"),
            (60, 0, "1m0s"),
            (5400, 0, "1h30m0s"),
            (360_000, 0, "100h0m0s"),
            (-1, 0, "-1s"),
            (-1, -500_000_000, "-1.5s"),
            (0, -1, "-1ns"),
            (3661, 1, "1h1m1.000000001s"),
            (9_223_369_200, 0, "2562047h0m0s"),
            (9_223_372_036, 854_775_807, "2562047h47m16.854775807s"),
            (-9_223_372_036, -854_775_808, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(text(|out| duration(out, Some(Instant { seconds, nanos }))), expected);
        }
        assert_eq!(text(|out| duration(out, None)), "(duration: nil types.Duration)");
    }

    #[test]
    fn durations_out_of_range_say_so() {
        for (seconds, nanos, reason) in [
            (315_576_000_001, 0, ": seconds out of range"),
            (i64::MIN, 0, ": seconds out of range"),
            (0, 1_000_000_000, ": nanos out of range"),
            (1, -1, ": seconds and nanos have different signs"),
            (9_223_372_036, 854_775_808, " is out of range for time.Duration"),
        ] {
            let expected = format!(
                "(duration: &types.types.Duration{{Seconds: {seconds},\nNanos: {nanos},\n}}{reason})"
            );
            assert_eq!(text(|out| duration(out, Some(Instant { seconds, nanos }))), expected);
        }
    }

    #[test]
    fn timestamps_are_rfc_3339() {
        for (seconds, nanos, expected) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (1_550_718_339, 955_797_905, "2019-02-21T03:05:39.955797905Z"),
            (1_538_912_940, 120_000_000, "2018-10-07T11:49:00.12Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (YEAR_1, 0, "0001-01-01T00:00:00Z"),
            (YEAR_10000 - 1, 999_999_999, "9999-12-31T23:59:59.999999999Z"),
            (-1, 1, "1969-12-31T23:59:59.000000001Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(text(|out| timestamp(out, Some(Instant { seconds, nanos }))), expected);
        }
        assert_eq!(text(|out| timestamp(out, None)), "(timestamp: nil types.Timestamp)");
        let early = text(|out| timestamp(out, Some(Instant { seconds: YEAR_1 - 1, nanos: 0 })));
        assert_eq!(
            early,
            "(timestamp: &types.types.Timestamp{Seconds: -62135596801,\nNanos: 0,\n} before 0001-01-01)"
        );
    }

    #[test]
    fn every_day_of_the_years_1_to_9999_follows_the_last() {
        let mut last = civil(-719_162);
        assert_eq!(last, (1, 1, 1));
        for day in -719_161..=2_932_896 {
            let (year, month, of_month) = civil(day);
            let expected_next = of_month == last.2 + 1 && (year, month) == (last.0, last.1);
            let new_month = of_month == 1 && (last.2 >= 28) && (month == last.1 % 12 + 1);
            assert!(expected_next || new_month, "day {day}: {last:?} then {:?}", (year, month, of_month));
            last = (year, month, of_month);
        }
        assert_eq!(last, (9999, 12, 31));
        assert_eq!(civil(0), (1970, 1, 1));
    }
}
