//! The command line: arguments and their parsers.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;

use crate::frontends::envoy::ext_authz::settings::{Flags, OnError};
use crate::journal::Fsync;
use crate::render::Format;
use crate::server::tls;

/// `--version`: version, revision, and `tls` in a build with TLS.
#[cfg(not(feature = "tls"))]
pub const VERSION: &str = concat!("mygrpcadapter ", env!("CARGO_PKG_VERSION"), " (", env!("REVISION"), ")");
/// `--version`: version, revision, and `tls` in a build with TLS.
#[cfg(feature = "tls")]
pub const VERSION: &str =
    concat!("mygrpcadapter ", env!("CARGO_PKG_VERSION"), " (", env!("REVISION"), ", tls)");

/// Telemetry and authorization adapter for Envoy, Istio and Mixer: writes access logs and reports to files,
/// answers authorization checks. Serves gRPC, in plaintext unless told
/// otherwise.
#[derive(Debug, FromArgs)]
#[argh(
    help_triggers("-h", "--help"),
    note = "Instead of a port: `cat FILE...`, `tail [-n LINES] [-c BYTES] [-f] FILE`, \
            `probe [--http] [PORT] [SERVICE]` (exit 0 if a running adapter serves).",
    note = "DURATION is a number with a unit: 500ms, 5s, 2m, 1h. SIZE is one in bytes, or with KiB, MiB, GiB.",
    note = "RUST_LOG sets what is logged: error, warn, info (the default), debug.",
    error_code(64, "the command line is wrong"),
    error_code(66, "a file of keys, tokens or certificates can't be read"),
    error_code(69, "the port is taken, or not ours to take"),
    error_code(71, "the system refuses a thread or a signal handler"),
    error_code(73, "the volume is missing or not writable"),
    error_code(74, "records were left unwritten at the end")
)]
pub struct Args {
    /// port for gRPC; 0 for any free one (default: 8000)
    #[argh(positional, default = "8000")]
    pub port: u16,

    /// IP address for gRPC (default: all)
    #[argh(option, arg_name = "IP", from_str_fn(ip))]
    pub address: Option<IpAddr>,

    /// directory for all files; `none` to run without one (default: /volume)
    #[argh(option, arg_name = "DIR", default = "PathBuf::from(\"/volume\")")]
    pub volume: PathBuf,

    /// file for handlers without file_path (default: out.txt)
    #[argh(option, arg_name = "PATH", default = "String::from(\"out.txt\")")]
    pub default_file: String,

    /// file for access logs and log records; with {log_name}, {namespace}, {pod} or {hostname} in its name,
    /// one per value (default: access.log)
    #[argh(option, arg_name = "PATH", default = "String::from(\"access.log\")")]
    pub access_log: String,

    /// format of records if the handler sets none: text or json (default: text)
    #[argh(option, arg_name = "FORMAT", from_str_fn(format), default = "Format::Text")]
    pub format: Format,

    /// when to sync files to disk: never (only at exit), interval=DURATION, or always (before each reply)
    /// (default: never)
    #[argh(option, arg_name = "WHEN", from_str_fn(fsync), default = "Fsync::Never")]
    pub fsync: Fsync,

    /// rotate a file before it grows beyond SIZE
    #[argh(option, arg_name = "SIZE", from_str_fn(size))]
    pub rotate_size: Option<u64>,

    /// rotate a file when it is older than this
    #[argh(option, arg_name = "DURATION", from_str_fn(duration))]
    pub rotate_age: Option<Duration>,

    /// how many rotated files to keep per file (default: 5)
    #[argh(option, arg_name = "N", default = "5")]
    pub rotate_keep: u32,

    /// keep all files in the volume below SIZE: delete the oldest rotated files, then refuse reports
    #[argh(option, arg_name = "SIZE", from_str_fn(size))]
    pub max_volume_bytes: Option<u64>,

    /// port for /metrics, /healthz and /readyz; `off` for none (default: 9145)
    #[argh(option, arg_name = "PORT", from_str_fn(port_or_off), default = "Some(9145)")]
    pub metrics_port: Option<u16>,

    /// IP address for the metrics port (default: all)
    #[argh(option, arg_name = "IP", from_str_fn(ip))]
    pub metrics_address: Option<IpAddr>,

    /// PEM file of the certificate for TLS on the gRPC port, with those between it and its CA; reloaded on change
    /// (needs a build with TLS, the image with the tag suffix -tls)
    #[argh(option, arg_name = "PATH")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file of that certificate's key
    #[argh(option, arg_name = "PATH")]
    pub tls_key: Option<PathBuf>,

    /// PEM file of CAs; clients must present a certificate that one of them has issued
    #[argh(option, arg_name = "PATH")]
    pub tls_client_ca: Option<PathBuf>,

    /// SPIFFE id or DNS name in the certificates of permitted clients, exact or up to a final `*`; repeatable
    /// (default: any)
    #[argh(option, arg_name = "NAME")]
    pub tls_client_name: Vec<String>,

    /// file of tokens, one per line, reloaded on change; callers must send one as `authorization: Bearer TOKEN`
    #[argh(option, arg_name = "PATH")]
    pub caller_tokens_file: Option<PathBuf>,

    /// accept these tokens without TLS: something else encrypts, such as a sidecar
    #[argh(switch)]
    pub caller_tokens_without_tls: bool,

    /// upper bounds of the latency histogram's buckets in seconds, ascending, as in 0.01,0.1,1; or
    /// gatewaymetric for that adapter's own (default: Prometheus's)
    #[argh(option, arg_name = "BOUNDS", from_str_fn(buckets), default = "Bounds(USUAL_BUCKETS.to_vec())")]
    pub buckets: Bounds,

    /// maximum number of series in the histogram; the rest share one overflow series (default: 2000)
    #[argh(option, arg_name = "N", from_str_fn(count), default = "2000")]
    pub max_series: u32,

    /// keep the query string of URLs in the histogram's labels
    #[argh(switch)]
    pub keep_query: bool,

    /// file of authorization keys, one per line, reloaded on change
    #[argh(option, arg_name = "PATH")]
    pub auth_keys_file: Option<PathBuf>,

    /// header of Envoy's requests that carries the token; repeatable, the first one present counts (default:
    /// x-custom-token)
    #[argh(option, arg_name = "NAME")]
    pub auth_header: Vec<String>,

    /// remove these headers from allowed requests
    #[argh(switch)]
    pub auth_remove_header: bool,

    /// HTTP status for a request without a token (default: 401)
    #[argh(option, arg_name = "CODE", from_str_fn(status))]
    pub auth_missing_code: Option<u16>,

    /// HTTP status of any other denial (default: 403)
    #[argh(option, arg_name = "CODE", from_str_fn(status))]
    pub auth_denied_code: Option<u16>,

    /// body of a denial (default: none)
    #[argh(option, arg_name = "TEXT", default = "String::new()")]
    pub auth_denied_body: String,

    /// content type of that body (default: Envoy's, text/plain)
    #[argh(option, arg_name = "TYPE")]
    pub auth_denied_content_type: Option<String>,

    /// WWW-Authenticate header of a denial with status 401 (default: none)
    #[argh(option, arg_name = "CHALLENGE")]
    pub auth_www_authenticate: Option<String>,

    /// answer to Envoy without a verdict: deny (503, even with failOpen) or unavailable, which leaves it to
    /// statusOnError and failOpen (default: deny)
    #[argh(option, arg_name = "HOW", from_str_fn(on_error), default = "OnError::Deny")]
    pub auth_on_error: OnError,

    /// file in the volume for audit records of Envoy's checks (default: none)
    #[argh(option, arg_name = "PATH")]
    pub auth_audit_file: Option<String>,

    /// maximum number of connections; more have to wait. A sidecar keeps two open (default: 1024)
    #[argh(option, arg_name = "N", from_str_fn(count), default = "1024")]
    pub max_connections: u32,

    /// shut a connection down gracefully at this age, give or take a tenth, so that replicas share the load
    #[argh(option, arg_name = "DURATION", from_str_fn(duration))]
    pub max_connection_age: Option<Duration>,

    /// let another adapter listen on the same port, to take over without a gap
    #[argh(switch)]
    pub reuse_port: bool,

    /// how long to keep accepting after SIGTERM, while endpoints are withdrawn (default: 0s)
    #[argh(option, arg_name = "DURATION", from_str_fn(duration), default = "Duration::ZERO")]
    pub drain_delay: Duration,

    /// time limit after that for calls to finish and the queue to be written (default: 5s)
    #[argh(option, arg_name = "DURATION", from_str_fn(duration), default = "Duration::from_secs(5)")]
    pub drain_timeout: Duration,

    /// how long a report waits for room in the queue before it is refused (default: 2s)
    #[argh(option, arg_name = "DURATION", from_str_fn(duration), default = "Duration::from_secs(2)")]
    pub queue_timeout: Duration,

    /// print version and revision
    #[argh(switch)]
    pub version: bool,
}

const USUAL_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const SWITCHES: [&str; 6] = [
    "--auth-remove-header",
    "--caller-tokens-without-tls",
    "--help",
    "--keep-query",
    "--reuse-port",
    "--version",
];

impl Args {
    /// The flags for answers to Envoy's checks, as given.
    pub fn auth(&self) -> Flags {
        Flags {
            auth_header: self.auth_header.clone(),
            auth_remove_header: self.auth_remove_header,
            auth_missing_code: self.auth_missing_code,
            auth_denied_code: self.auth_denied_code,
            auth_denied_body: self.auth_denied_body.clone(),
            auth_denied_content_type: self.auth_denied_content_type.clone(),
            auth_www_authenticate: self.auth_www_authenticate.clone(),
            auth_on_error: self.auth_on_error,
        }
    }

    /// The flags for TLS, as given.
    pub fn tls(&self) -> tls::Flags {
        tls::Flags {
            cert: self.tls_cert.clone(),
            key: self.tls_key.clone(),
            client_ca: self.tls_client_ca.clone(),
            client_names: self.tls_client_name.clone(),
        }
    }
}

/// Upper bounds of a histogram's buckets.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds(pub Vec<f64>);

/// A result of parsing other than arguments.
#[derive(Debug, PartialEq, Eq)]
pub enum Early {
    /// Requested text.
    Text(String),
    /// An error in one line.
    Usage(String),
}

/// Parses the arguments after the program's name. Accepts `--flag value` and
/// `--flag=value`.
pub fn parse(words: impl Iterator<Item = std::ffi::OsString>) -> Result<Args, Early> {
    let words: Result<Vec<String>, _> = words.map(std::ffi::OsString::into_string).collect();
    let words = words.map_err(|word| Early::Usage(format!("not UTF-8: {}", word.display())))?;
    let words: Vec<&str> = words.iter().flat_map(|word| separate(word)).collect();
    let args = Args::from_args(&["mygrpcadapter"], &words).map_err(|exit| match exit.status {
        Ok(()) => Early::Text(exit.output),
        Err(()) => Early::Usage(exit.output.split_whitespace().collect::<Vec<_>>().join(" ")),
    })?;
    if args.version { Err(Early::Text(format!("{VERSION}\n"))) } else { Ok(args) }
}

/// Splits `--flag=value`; anything else stays one word. A switch with a value stays
/// joined, and is rejected.
fn separate(word: &str) -> impl Iterator<Item = &str> {
    let (flag, value) = match word.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") && !SWITCHES.contains(&flag) => (flag, Some(value)),
        _ => (word, None),
    };
    std::iter::once(flag).chain(value)
}

/// Parses a duration: an integer and a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(millis)) {
        Some(total) if millis > 0 && total <= 86_400_000 * 365 => Ok(Duration::from_millis(total)),
        _ => Err(String::from("write a whole number and a unit, as in 500ms, 5s, 2m or 1h")),
    }
}

/// Parses a size in bytes.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "" | "B" => 1,
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        "GiB" | "Gi" => 1 << 30,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale)) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(String::from(
            "write a whole number above zero and a unit, as in 65536, 512KiB, 16MiB or 1GiB",
        )),
    }
}

fn count(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=100_000).contains(number));
    number.ok_or_else(|| String::from("write a number from 1 to 100000"))
}

fn port_or_off(text: &str) -> Result<Option<u16>, String> {
    match text {
        "off" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| String::from("write a port or off")),
    }
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| String::from("write an IP address"))
}

/// Parses the histogram's bounds.
fn buckets(text: &str) -> Result<Bounds, String> {
    if text == "gatewaymetric" {
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

fn fsync(text: &str) -> Result<Fsync, String> {
    match text {
        "never" => Ok(Fsync::Never),
        "always" => Ok(Fsync::Always),
        _ => match text.strip_prefix("interval=").map(duration) {
            Some(interval) => interval.map(Fsync::Interval),
            None => Err(String::from("write never, always, or interval=DURATION")),
        },
    }
}

fn status(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| String::from("write an HTTP status from 400 to 599"))
}

fn on_error(text: &str) -> Result<OnError, String> {
    match text {
        "deny" => Ok(OnError::Deny),
        "unavailable" => Ok(OnError::Unavailable),
        _ => Err(String::from("write deny or unavailable")),
    }
}

fn format(text: &str) -> Result<Format, String> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err(String::from("write text or json")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Args, Early> {
        parse(words.iter().map(std::ffi::OsString::from))
    }

    #[test]
    fn defaults_are_those_of_the_walkthrough() {
        let args = read(&[]).unwrap();
        assert_eq!(
            (args.port, args.volume.to_str(), &*args.default_file),
            (8000, Some("/volume"), "out.txt")
        );
        assert_eq!((args.drain_delay, args.drain_timeout), (Duration::ZERO, Duration::from_secs(5)));
    }

    #[test]
    fn values_may_follow_or_be_joined() {
        for words in [
            &["9000", "--volume", "/v", "--drain-delay", "2m"][..],
            &["--volume=/v", "--drain-delay=2m", "9000"],
        ] {
            let args = read(words).unwrap();
            assert_eq!((args.port, args.volume.to_str()), (9000, Some("/v")));
            assert_eq!(args.drain_delay, Duration::from_secs(120));
        }
        assert_eq!(read(&["--default-file=a=b"]).unwrap().default_file, "a=b");
    }

    #[test]
    fn headers_with_tokens_may_be_several() {
        let args = read(&["--auth-header", "a", "--auth-remove-header", "--auth-header=b"]).unwrap();
        assert_eq!((args.auth().auth_header, args.auth_remove_header), (vec!["a".into(), "b".into()], true));
        assert_eq!(read(&[]).unwrap().auth(), Flags::default());
    }

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
    fn what_is_wrong_is_said_in_one_line() {
        for (words, part) in [
            (&["port"][..], "port"),
            (&["65536"], "65536"),
            (&["-1"], "-1"),
            (&["1", "2"], "2"),
            (&["--volume"], "--volume"),
            (&["--nothing"], "--nothing"),
            (&["--drain-delay", "5"], "500ms"),
            (&["--drain-delay", "s"], "500ms"),
            (&["--drain-delay", "99999999999999999999s"], "500ms"),
            (&["--drain-delay", "18446744073709551615h"], "500ms"),
            (&["--drain-delay="], "500ms"),
            (&["--version=1"], "1"),
            (&["--auth-remove-header=1"], "1"),
            (&["--auth-missing-code", "abc"], "400 to 599"),
            (&["--auth-denied-code", "-1"], "400 to 599"),
            (&["--auth-denied-code", "65536"], "400 to 599"),
            (&["--address", "localhost"], "an IP address"),
            (&["--metrics-address=10.0.0.1:9145"], "an IP address"),
            (&["--caller-tokens-without-tls=1"], "1"),
            (&["--auth-on-error", "allow"], "deny or unavailable"),
            (&["--auth-header"], "--auth-header"),
        ] {
            let Err(Early::Usage(text)) = read(words) else { panic!("{words:?} was taken") };
            assert!(text.contains(part) && !text.contains('\n'), "{words:?}: {text}");
        }
    }

    #[test]
    fn help_names_every_flag_and_version_its_revision() {
        let Err(Early::Text(help)) = read(&["--help"]) else { panic!("no help") };
        for flag in [
            "[<port>]",
            "--volume",
            "--default-file",
            "--drain-delay",
            "--drain-timeout",
            "--version",
            "RUST_LOG",
        ] {
            assert!(help.contains(flag), "{flag} is missing in:\n{help}");
        }
        assert_eq!(read(&["--version"]).unwrap_err(), Early::Text(format!("{VERSION}\n")));
    }
}
