//! The command line and the environment: from words to options.

pub mod environment;
mod values;
pub mod warnings;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::FromArgs;

pub use self::values::Bounds;
use self::values::{
    USUAL_BUCKETS, buckets, count, duration, format, fsync, ip, on_error, path, port, port_or_off, size,
    status, whole,
};
use crate::frontends::envoy::ext_authz::settings::{Flags, OnError};
use crate::journal::Fsync;
use crate::render::Format;
use crate::server::tls;

/// `--version`: version, revision, and `tls` in a build with TLS.
#[cfg(feature = "tls")]
pub const VERSION: &str =
    concat!("mygrpcadapter ", env!("CARGO_PKG_VERSION"), " (", env!("REVISION"), ", tls)");
/// `--version`: version, revision, and `tls` in a build with TLS.
#[cfg(not(feature = "tls"))]
pub const VERSION: &str = concat!("mygrpcadapter ", env!("CARGO_PKG_VERSION"), " (", env!("REVISION"), ")");
/// `--help`, and the list of all options: see [`options`].
const HELP: &str = include_str!("cli/help.txt");
/// The positional argument.
const PORT: &str = "PORT";
const DEFAULT_PORT: u16 = 8000;
const DEFAULT_METRICS_PORT: u16 = 9145;

/// The options; the help text has their defaults.
#[derive(Debug, FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
pub struct Args {
    /// port for gRPC
    #[argh(positional, from_str_fn(port), default = "DEFAULT_PORT")]
    pub port: u16,

    /// address for gRPC
    #[argh(option, from_str_fn(ip))]
    pub address: Option<IpAddr>,

    /// directory for all files
    #[argh(option, from_str_fn(path), default = "PathBuf::from(\"/volume\")")]
    pub volume: PathBuf,

    /// file for handlers without a path of their own
    #[argh(option, default = "String::from(\"out.txt\")")]
    pub default_file: String,

    /// file for access logs and log records
    #[argh(option, default = "String::from(\"access.log\")")]
    pub access_log: String,

    /// format of records
    #[argh(option, from_str_fn(format), default = "Format::Text")]
    pub format: Format,

    /// when to sync files
    #[argh(option, from_str_fn(fsync), default = "Fsync::Never")]
    pub fsync: Fsync,

    /// size of a file, in bytes, before which it is rotated
    #[argh(option, from_str_fn(size))]
    pub rotate_size: Option<u64>,

    /// age at which a file is rotated
    #[argh(option, from_str_fn(duration))]
    pub rotate_age: Option<Duration>,

    /// rotated files to keep per file
    #[argh(option, from_str_fn(whole), default = "5")]
    pub rotate_keep: u32,

    /// limit on the bytes in the volume
    #[argh(option, from_str_fn(size))]
    pub max_volume_bytes: Option<u64>,

    /// port for metrics and HTTP probes, if any
    #[argh(option, from_str_fn(port_or_off), default = "Some(DEFAULT_METRICS_PORT)")]
    pub metrics_port: Option<u16>,

    /// address for metrics
    #[argh(option, from_str_fn(ip))]
    pub metrics_address: Option<IpAddr>,

    /// file of the certificate for TLS
    #[argh(option, from_str_fn(path))]
    pub tls_cert: Option<PathBuf>,

    /// file of its key
    #[argh(option, from_str_fn(path))]
    pub tls_key: Option<PathBuf>,

    /// file of the CAs of clients
    #[argh(option, from_str_fn(path))]
    pub tls_client_ca: Option<PathBuf>,

    /// names of permitted clients
    #[argh(option)]
    pub tls_client_name: Vec<String>,

    /// file of the tokens of callers
    #[argh(option, from_str_fn(path))]
    pub caller_tokens_file: Option<PathBuf>,

    /// whether they may come in plaintext
    #[argh(switch)]
    pub caller_tokens_without_tls: bool,

    /// bounds of the histogram's buckets
    #[argh(option, from_str_fn(buckets), default = "Bounds(USUAL_BUCKETS.to_vec())")]
    pub buckets: Bounds,

    /// limit on the series of the histogram
    #[argh(option, from_str_fn(count), default = "2000")]
    pub max_series: u32,

    /// whether its labels keep the query string
    #[argh(switch)]
    pub keep_query: bool,

    /// file of authorization keys
    #[argh(option, from_str_fn(path))]
    pub auth_keys_file: Option<PathBuf>,

    /// headers with a token
    #[argh(option)]
    pub auth_header: Vec<String>,

    /// whether to remove them from allowed requests
    #[argh(switch)]
    pub auth_remove_header: bool,

    /// status without a token
    #[argh(option, from_str_fn(status))]
    pub auth_missing_code: Option<u16>,

    /// status of any other denial
    #[argh(option, from_str_fn(status))]
    pub auth_denied_code: Option<u16>,

    /// body of a denial
    #[argh(option, default = "String::new()")]
    pub auth_denied_body: String,

    /// its content type
    #[argh(option)]
    pub auth_denied_content_type: Option<String>,

    /// challenge of a denial with status 401
    #[argh(option)]
    pub auth_www_authenticate: Option<String>,

    /// answer without a verdict
    #[argh(option, from_str_fn(on_error), default = "OnError::Deny")]
    pub auth_on_error: OnError,

    /// file for audit records
    #[argh(option)]
    pub auth_audit_file: Option<String>,

    /// limit on connections
    #[argh(option, from_str_fn(count), default = "1024")]
    pub max_connections: u32,

    /// age at which a connection is shut down
    #[argh(option, from_str_fn(duration))]
    pub max_connection_age: Option<Duration>,

    /// whether another adapter may listen on the same port
    #[argh(switch)]
    pub reuse_port: bool,

    /// how long to keep accepting after SIGTERM
    #[argh(option, from_str_fn(duration), default = "Duration::ZERO")]
    pub drain_delay: Duration,

    /// time limit for calls to finish after that
    #[argh(option, from_str_fn(duration), default = "Duration::from_secs(5)")]
    pub drain_timeout: Duration,

    /// how long a report waits for room in the queue
    #[argh(option, from_str_fn(duration), default = "Duration::from_secs(2)")]
    pub queue_timeout: Duration,
}

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

    /// The volume's directory; `None` if there is no volume.
    pub fn volume(&self) -> Option<&Path> {
        let is_none = self.volume.to_str().is_some_and(|name| name.eq_ignore_ascii_case("none"));
        (!is_none).then_some(&self.volume)
    }
}

/// An option in the help text, or the positional argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listed {
    name: &'static str,
    /// A word for its value; a switch has none.
    value: Option<&'static str>,
}

impl Listed {
    fn is_repeatable(self) -> bool {
        self.value.is_some_and(|value| value.ends_with("..."))
    }
}

/// What the options were set by.
#[derive(Debug, Default)]
pub struct Given {
    typed: Vec<&'static str>,
    environment: Vec<&'static str>,
    /// Variables with our prefix that name no option.
    unknown: Vec<String>,
}

impl Given {
    /// Whether an option was set.
    fn has(&self, name: &str) -> bool {
        self.typed.iter().chain(&self.environment).any(|set| *set == name)
    }

    /// A text about options, with the variables of those that the environment sets.
    pub fn named(&self, text: &str) -> String {
        environment::named(text, &self.environment)
    }
}

/// A result of parsing other than options.
#[derive(Debug, PartialEq, Eq)]
pub enum Early {
    /// Requested text.
    Text(String),
    /// An error in one line.
    Usage(String),
}

/// Parses the arguments after the program's name, and the environment. Accepts
/// `--flag value` and `--flag=value`.
pub fn parse(
    typed: impl Iterator<Item = OsString>,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(Args, Given), Early> {
    let typed: Result<Vec<String>, _> = typed.map(OsString::into_string).collect();
    let typed = typed.map_err(|word| Early::Usage(format!("not UTF-8: {}", word.display())))?;
    let mut given = Given::default();
    let options = options();
    let typed = read(&typed, &options, &mut given)?;
    let set = environment::words(variables, &options, &mut given).map_err(Early::Usage)?;
    // First, as `--` may end the options that were typed.
    let words: Vec<&str> = set.iter().map(String::as_str).chain(typed).collect();
    let args = Args::from_args(&["mygrpcadapter"], &words).map_err(|exit| {
        let line = exit.output.split_whitespace().collect::<Vec<_>>().join(" ");
        Early::Usage(given.named(&line))
    })?;
    Ok((args, given))
}

/// Splits joined values from their flags, and notes which options are set. A switch with
/// a value stays joined, and is rejected.
fn read<'a>(typed: &'a [String], options: &[Listed], given: &mut Given) -> Result<Vec<&'a str>, Early> {
    let mut words = Vec::with_capacity(typed.len());
    let mut rest = typed.iter().map(String::as_str);
    while let Some(word) = rest.next() {
        match word {
            "-h" | "--help" | "help" => return Err(Early::Text(HELP.into())),
            "-V" | "--version" => return Err(Early::Text(format!("{VERSION}\n"))),
            "--" => {
                words.push(word);
                let positional = rest.len();
                words.extend(rest.by_ref());
                if positional > 0 {
                    given.typed.push(PORT);
                }
            }
            _ if word.starts_with('-') => {
                let (name, joined) =
                    word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
                match options.iter().find(|option| option.name == name) {
                    Some(option) if option.value.is_some() => {
                        given.typed.push(option.name);
                        words.push(name);
                        words.extend(joined.or_else(|| rest.next()));
                    }
                    Some(option) if joined.is_none() => {
                        given.typed.push(option.name);
                        words.push(word);
                    }
                    _ => words.push(word),
                }
            }
            _ => {
                given.typed.push(PORT);
                words.push(word);
            }
        }
    }
    Ok(words)
}

/// The options, read from the lines of the help text that begin with one, and the
/// positional argument.
fn options() -> Vec<Listed> {
    let mut options = vec![Listed { name: PORT, value: Some(PORT) }];
    for line in HELP.lines() {
        let Some(line) = line.strip_prefix("  ").filter(|line| line.starts_with("--")) else { continue };
        let mut words = line.split(' ');
        let (name, value) = (words.next().unwrap_or_default(), words.next().filter(|word| !word.is_empty()));
        options.push(Listed { name, value });
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Args, Early> {
        parse(words.iter().map(OsString::from), std::iter::empty()).map(|(args, _)| args)
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
    fn what_is_wrong_is_said_in_one_line() {
        for (words, part) in [
            (&["http"][..], "0 to 65535"),
            (&["65536"], "0 to 65535"),
            (&["--metrics-port", "65536"], "0 to 65535, or off"),
            (&["-1"], "-1"),
            (&["1", "2"], "2"),
            (&["--volume"], "--volume"),
            (&["--nothing"], "--nothing"),
            (&["--drain-delay", "5"], "500ms"),
            (&["--drain-delay", "s"], "500ms"),
            (&["--drain-delay", "99999999999999999999s"], "500ms"),
            (&["--drain-delay", "18446744073709551615h"], "500ms"),
            (&["--drain-delay="], "500ms"),
            (&["--drain-delay", "366d"], "at most 365d"),
            (&["--address=[::1]"], "as in 10.0.0.1 or ::1, without a port"),
            (&["--version=1"], "1"),
            (&["--auth-remove-header=1"], "1"),
            (&["--address", "localhost"], "an IP address"),
            (&["--metrics-address=10.0.0.1:9145"], "an IP address"),
            (&["--caller-tokens-without-tls=1"], "1"),
            (&["--auth-missing-code", "abc"], "400 to 599"),
            (&["--auth-denied-code", "-1"], "400 to 599"),
            (&["--auth-denied-code", "65536"], "400 to 599"),
            (&["--auth-on-error", "allow"], "deny or unavailable"),
            (&["--auth-header"], "--auth-header"),
        ] {
            let Err(Early::Usage(text)) = read(words) else { panic!("{words:?} was taken") };
            assert!(text.contains(part) && !text.contains('\n'), "{words:?}: {text}");
        }
    }

    /// The default in the help text of an option.
    fn listed_default(option: Listed) -> Option<&'static str> {
        let (_, text) = HELP.split_once(&format!("\n  {} ", option.name))?;
        let text = text.split("\n  --").next()?.split("\n\n").next()?;
        let (_, default) = text.split_once("(default: ")?;
        default.split(')').next()
    }

    #[test]
    fn the_help_text_lists_the_options_that_there_are() {
        use argh::{ArgsInfo, FlagInfoKind, Optionality};
        let known = Args::get_args_info();
        let known: Vec<_> = known
            .flags
            .iter()
            .filter(|flag| flag.long != "--help")
            .map(|flag| {
                let is_switch = matches!(flag.kind, FlagInfoKind::Switch);
                (flag.long, is_switch, flag.optionality == Optionality::Repeating)
            })
            .collect();
        let mut listed: Vec<_> = options()
            .into_iter()
            .filter(|option| option.name != PORT)
            .map(|option| (option.name, option.value.is_none(), option.is_repeatable()))
            .collect();
        for option in &known {
            let at = listed.iter().position(|other| other == option);
            listed.remove(at.unwrap_or_else(|| panic!("--help lacks {option:?}, or differs")));
        }
        assert!(listed.is_empty(), "there are no {listed:?}");
    }

    #[test]
    fn the_help_text_has_the_defaults_that_hold() {
        let shown = |words: &[&str]| {
            let mut args = read(words).unwrap();
            // Two of their defaults are set later.
            let auth = format!("{:?}", args.auth().check().unwrap());
            (args.auth_header, args.auth_missing_code, args.auth_denied_code) = (Vec::new(), None, None);
            format!("{args:?} {auth}")
        };
        let mut count = 0;
        for option in options() {
            if let Some(default) = listed_default(option) {
                let default = default.split_whitespace().collect::<Vec<_>>().join(" ");
                assert_eq!(shown(&[option.name, &default]), shown(&[]), "{option:?} {default}");
                count += 1;
            }
        }
        assert_eq!(count, 17);
        assert!(HELP.contains("on PORT (default: 8000;"));
    }

    #[test]
    fn help_and_version_are_asked_for_by_any_of_their_names() {
        for words in [&["--help"][..], &["-h"], &["help"], &["8000", "--help"], &["--nonsense", "-h", "x"]] {
            assert_eq!(read(words).unwrap_err(), Early::Text(HELP.into()), "{words:?}");
        }
        assert!(HELP.starts_with("Usage: mygrpcadapter [OPTIONS] [PORT]\n"));
        assert!(HELP.lines().all(|line| line.len() <= 80 && line.trim_end() == line));
        for words in [&["--version"][..], &["-V"], &["--reuse-port", "-V"]] {
            assert_eq!(read(words).unwrap_err(), Early::Text(format!("{VERSION}\n")), "{words:?}");
        }
        assert_eq!(read(&["--volume", "help"]).unwrap().volume(), Some(Path::new("help")));
        assert_eq!(read(&["--default-file", "--volume=x"]).unwrap().default_file, "--volume=x");
        assert_eq!(read(&["--volume", "None"]).unwrap().volume(), None);
    }
}
