//! A reference renderer of the walkthrough's text: from prost's types, by other
//! means, slow and plain.

use std::collections::{BTreeMap, HashMap};

use mygrpcadapter::pb::google::protobuf;
use mygrpcadapter::pb::istio::policy::v1beta1::{Value, value::Value as Kind};
use mygrpcadapter::pb::metric::HandleMetricRequest;

/// The text of a request, for a handler with this `file_path`.
pub fn text(request: &HandleMetricRequest, file_path: &str) -> String {
    let mut text = String::from("HandleMetric invoked with:\n");
    text += &format!("  Adapter config: &Params{{FilePath:{file_path},}}\n  Instances: ");
    for instance in &request.instances {
        let value = value(instance.value.as_ref());
        let dimensions = map(&instance.dimensions);
        let name = &instance.name;
        text += &format!("'{name}':\n  {{\n\t\tValue = {value}\n\t\tDimensions = {dimensions}\n  }}");
    }
    text + "\n"
}

/// A map in the text's notation.
pub fn map(entries: &HashMap<String, Value>) -> String {
    let sorted: BTreeMap<_, _> = entries.iter().collect();
    let shown: Vec<_> = sorted.iter().map(|(key, held)| format!("{key}:{}", value(Some(held)))).collect();
    format!("map[{}]", shown.join(" "))
}

fn value(value: Option<&Value>) -> String {
    let Some(kind) = value.and_then(|value| value.value.as_ref()) else { return "<nil>".into() };
    let (member, message, content) = match kind {
        Kind::StringValue(text) => return text.clone(),
        Kind::Int64Value(number) => return number.to_string(),
        Kind::DoubleValue(number) => return double(*number),
        Kind::BoolValue(truth) => return format!("&Value_BoolValue{{BoolValue:{truth},}}"),
        Kind::IpAddressValue(ip) => {
            let octets: Vec<_> = ip.value.iter().map(u8::to_string).collect();
            ("IpAddressValue", "IPAddress", format!("[{}]", octets.join(" ")))
        }
        Kind::TimestampValue(time) => ("TimestampValue", "TimeStamp", timestamp(time.value)),
        Kind::DurationValue(span) => ("DurationValue", "Duration", duration(span.value)),
        Kind::EmailAddressValue(email) => ("EmailAddressValue", "EmailAddress", email.value.clone()),
        Kind::DnsNameValue(name) => ("DnsNameValue", "DNSName", name.value.clone()),
        Kind::UriValue(uri) => ("UriValue", "Uri", uri.value.clone()),
        Kind::StringMapValue(map) => {
            let sorted: BTreeMap<_, _> = map.value.iter().collect();
            let pairs: String = sorted.iter().map(|(key, text)| format!("{key}: {text},")).collect();
            ("StringMapValue", "StringMap", format!("map[string]string{{{pairs}}}"))
        }
    };
    format!("&Value_{member}{{{member}:&{message}{{Value:{content},}},}}")
}

fn double(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let sign = if number.is_sign_negative() { "-" } else { "" };
    let (digits, exponent) = shortest(number.abs());
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let before = usize::try_from(exponent + 1).unwrap_or(0);
    match exponent {
        -4..0 => format!("{sign}0.{}{digits}", "0".repeat(exponent.unsigned_abs() as usize - 1)),
        0..6 if digits.len() <= before => format!("{sign}{digits:0<before$}"),
        0..6 => format!("{sign}{}.{}", &digits[..before], &digits[before..]),
        6.. => format!("{sign}{first}{point}{rest}e+{exponent:02}"),
        _ => format!("{sign}{first}{point}{rest}e-{:02}", -exponent),
    }
}

/// The shortest digits that round-trip, and the exponent. Of two equally close, std
/// takes those above and Go the even ones.
fn shortest(number: f64) -> (String, i32) {
    let parts = |text: String| {
        let (digits, exponent) = text.split_once('e').unwrap();
        (digits.replace('.', ""), exponent.parse::<i32>().unwrap())
    };
    let (digits, exponent) = parts(format!("{number:e}"));
    // More digits than any number has.
    let (exact, exact_exponent) = parts(format!("{number:.1100e}"));
    let (below, rest) = exact.split_at(digits.len());
    let is_tie = rest.starts_with('5') && rest[1..].bytes().all(|digit| digit == b'0');
    let is_even = below.ends_with(['0', '2', '4', '6', '8']);
    let reads_back = format!("0.{below}e{}", exact_exponent + 1).parse() == Ok(number);
    if is_tie && is_even && reads_back { (below.to_owned(), exact_exponent) } else { (digits, exponent) }
}

/// Digits after a point, or nothing if all are zero.
fn fraction(number: u128, places: usize) -> String {
    let digits = format!("{number:0places$}");
    let digits = digits.trim_end_matches('0');
    if digits.is_empty() { String::new() } else { format!(".{digits}") }
}

fn misfit(what: &str, kind: &str, seconds: i64, nanos: i32, reason: &str) -> String {
    format!("({what}: &types.types.{kind}{{Seconds: {seconds},\nNanos: {nanos},\n}}{reason})")
}

/// A duration, as Go prints it.
pub fn duration(span: Option<protobuf::Duration>) -> String {
    let Some(protobuf::Duration { seconds, nanos }) = span else {
        return "(duration: nil types.Duration)".into();
    };
    let misfit = |reason| misfit("duration", "Duration", seconds, nanos, reason);
    if !(-315_576_000_000..=315_576_000_000).contains(&seconds) {
        return misfit(": seconds out of range");
    }
    if !(-999_999_999..=999_999_999).contains(&nanos) {
        return misfit(": nanos out of range");
    }
    if i128::from(seconds) * i128::from(nanos) < 0 {
        return misfit(": seconds and nanos have different signs");
    }
    let all = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    if i64::try_from(all).is_err() {
        return misfit(" is out of range for time.Duration");
    }
    let sign = if all < 0 { "-" } else { "" };
    let left = all.unsigned_abs();
    let shown = match left {
        0 => "0s".into(),
        1..1_000 => format!("{left}ns"),
        1_000..1_000_000 => format!("{}{}µs", left / 1_000, fraction(left % 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{}{}ms", left / 1_000_000, fraction(left % 1_000_000, 6)),
        _ => {
            let (whole, part) = (left / 1_000_000_000, fraction(left % 1_000_000_000, 9));
            match (whole / 3600, whole / 60 % 60, whole % 60) {
                (0, 0, seconds) => format!("{seconds}{part}s"),
                (0, minutes, seconds) => format!("{minutes}m{seconds}{part}s"),
                (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}{part}s"),
            }
        }
    };
    format!("{sign}{shown}")
}

/// A timestamp, as Go prints it.
pub fn timestamp(time: Option<protobuf::Timestamp>) -> String {
    let Some(protobuf::Timestamp { seconds, nanos }) = time else {
        return "(timestamp: nil types.Timestamp)".into();
    };
    let misfit = |reason| misfit("timestamp", "Timestamp", seconds, nanos, reason);
    if seconds < -62_135_596_800 {
        return misfit(" before 0001-01-01");
    }
    if seconds >= 253_402_300_800 {
        return misfit(" after 10000-01-01");
    }
    if !(0..=999_999_999).contains(&nanos) {
        return misfit(": nanos not in range [0, 1e9)");
    }
    // Counts days, years and months from the year 1 on.
    let mut days = (seconds + 62_135_596_800) / 86_400;
    let of_day = (seconds + 62_135_596_800) % 86_400;
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1;
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (day, hour, minute, second) = (days + 1, of_day / 3600, of_day / 60 % 60, of_day % 60);
    let part = fraction(u128::from(nanos.unsigned_abs()), 9);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{part}Z")
}
