//! Options that have no effect, and limits too small to work. The adapter starts all
//! the same, and logs them.

use std::time::Duration;

use super::{Args, Given};
use crate::frontends::mixer::report::MAX_RENDERED;

/// Below this, a connection ends or a file is rotated almost as soon as it is used.
const SHORT: Duration = Duration::from_secs(1);
/// Below this, a full queue has no time to be written.
const HASTY: Duration = Duration::from_millis(10);
/// The options that only matter to checks of Envoy.
const CHECKS: [&str; 9] = [
    "--auth-header",
    "--auth-remove-header",
    "--auth-missing-code",
    "--auth-denied-code",
    "--auth-denied-body",
    "--auth-denied-content-type",
    "--auth-www-authenticate",
    "--auth-on-error",
    "--auth-audit-file",
];

/// The warnings, each in one line.
pub fn of(args: &Args, given: &Given) -> Vec<String> {
    let mut warnings = Vec::new();
    for name in &given.unknown {
        warnings.push(format!("{name} names no option and is ignored, see --help"));
    }
    for (is_met, options, need) in idle(args) {
        for option in options.iter().filter(|option| !is_met && given.has(option)) {
            warnings.push(given.named(&format!("{option} has no effect without {need}")));
        }
    }
    let check = CHECKS.iter().find(|option| args.auth_keys_file.is_none() && given.has(option));
    if let Some(option) = check {
        let text = format!("{option} without --auth-keys-file: every check of Envoy is denied");
        warnings.push(given.named(&text));
    }
    for (is_small, text) in small(args) {
        if is_small {
            warnings.push(given.named(text));
        }
    }
    warnings
}

/// What options need to have an effect, and whether it is there.
fn idle(args: &Args) -> [(bool, &'static [&'static str], &'static str); 6] {
    let rotates = args.rotate_size.is_some() || args.rotate_age.is_some();
    let is_401 = args.auth_missing_code.unwrap_or(401) == 401 || args.auth_denied_code == Some(401);
    [
        (rotates, &["--rotate-keep"], "--rotate-size or --rotate-age"),
        (
            args.volume().is_some(),
            &[
                "--default-file",
                "--access-log",
                "--format",
                "--fsync",
                "--rotate-size",
                "--rotate-age",
                "--max-volume-bytes",
            ],
            "a volume",
        ),
        (args.metrics_port.is_some(), &["--buckets", "--max-series", "--keep-query"], "a metrics port"),
        (!args.auth_denied_body.is_empty(), &["--auth-denied-content-type"], "--auth-denied-body"),
        (args.caller_tokens_file.is_some(), &["--caller-tokens-without-tls"], "--caller-tokens-file"),
        (is_401, &["--auth-www-authenticate"], "a denial with status 401"),
    ]
}

/// Limits, and whether they are too small.
fn small(args: &Args) -> [(bool, &'static str); 7] {
    let below = |limit: Option<Duration>| limit.is_some_and(|limit| limit < SHORT);
    let volume = args.max_volume_bytes.unwrap_or(u64::MAX);
    [
        (
            args.max_connections == 1,
            "--max-connections 1 serves a Mixer's handlers, or an Envoy's workers, one at a time; allow more",
        ),
        (
            below(args.max_connection_age),
            "--max-connection-age is below 1s: connections end at once; raise it",
        ),
        (below(args.rotate_age), "--rotate-age is below 1s: nearly every write rotates its file; raise it"),
        (
            args.rotate_size.is_some_and(|size| volume < size),
            "--max-volume-bytes is below --rotate-size: reports are refused before a file is rotated; raise it",
        ),
        (
            volume < MAX_RENDERED as u64,
            "--max-volume-bytes is below 8MiB: the largest reports never fit; raise it",
        ),
        (
            args.queue_timeout < HASTY,
            "--queue-timeout is below 10ms: reports are refused whenever the queue is full; raise it",
        ),
        (args.drain_timeout.is_zero(), "--drain-timeout 0s cuts calls in flight on SIGTERM; raise it"),
    ]
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn warned(words: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
        let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let (args, given) = super::super::parse(words.iter().map(OsString::from), variables).unwrap();
        of(&args, &given)
    }

    #[test]
    fn each_option_without_effect_and_each_limit_too_small_is_named() {
        for (words, text) in [
            (&["--rotate-keep=3"][..], "--rotate-keep has no effect without --rotate-size or --rotate-age"),
            (&["--volume=none", "--default-file=a"], "--default-file has no effect without a volume"),
            (&["--volume=none", "--access-log=a"], "--access-log has no effect without a volume"),
            (&["--volume=none", "--format=json"], "--format has no effect without a volume"),
            (&["--volume=none", "--fsync=always"], "--fsync has no effect without a volume"),
            (&["--volume=none", "--rotate-size=9M"], "--rotate-size has no effect without a volume"),
            (&["--volume=none", "--rotate-age=1d"], "--rotate-age has no effect without a volume"),
            (
                &["--volume=none", "--max-volume-bytes=9M"],
                "--max-volume-bytes has no effect without a volume",
            ),
            (&["--metrics-port=off", "--buckets=1"], "--buckets has no effect without a metrics port"),
            (&["--metrics-port=off", "--max-series=9"], "--max-series has no effect without a metrics port"),
            (&["--metrics-port=off", "--keep-query"], "--keep-query has no effect without a metrics port"),
            (
                &["--auth-keys-file=k", "--auth-denied-content-type=a/b"],
                "--auth-denied-content-type has no effect without --auth-denied-body",
            ),
            (
                &["--auth-keys-file=k", "--auth-missing-code=403", "--auth-www-authenticate=Bearer"],
                "--auth-www-authenticate has no effect without a denial with status 401",
            ),
            (
                &["--caller-tokens-without-tls"],
                "--caller-tokens-without-tls has no effect without --caller-tokens-file",
            ),
            (&["--auth-header=a"], "--auth-header without --auth-keys-file: every check of Envoy is denied"),
            (&["--auth-audit-file=a"], "--auth-audit-file without --auth-keys-file: every"),
            (&["--max-connections=1"], "--max-connections 1 serves"),
            (&["--max-connection-age=10ms"], "--max-connection-age is below 1s"),
            (&["--rotate-age=0s"], "--rotate-age is below 1s"),
            (&["--max-volume-bytes=16MiB", "--rotate-size=17MiB"], "is below --rotate-size"),
            (&["--max-volume-bytes=8388607"], "--max-volume-bytes is below 8MiB"),
            (&["--queue-timeout=0s"], "--queue-timeout is below 10ms"),
            (&["--drain-timeout=0s"], "--drain-timeout 0s cuts"),
        ] {
            let warned = warned(words, &[]);
            assert!(warned.len() == 1 && warned[0].contains(text), "{words:?}: {warned:?}");
        }
    }

    #[test]
    fn what_has_an_effect_is_not_warned_about() {
        for words in [
            &[][..],
            &["--rotate-size=16MiB", "--rotate-keep=3", "--max-volume-bytes=96MiB", "--max-connections=64"],
            &["--rotate-age=1d", "--rotate-keep=3", "--max-volume-bytes=8MiB", "--fsync=always"],
            &["--volume=none", "--metrics-port=0", "--buckets=1", "--keep-query", "--queue-timeout=1s"],
            &["--auth-keys-file=k", "--auth-header=a", "--auth-www-authenticate=B", "--auth-on-error=deny"],
            &[
                "--auth-keys-file=k",
                "--auth-denied-code=401",
                "--auth-missing-code=400",
                "--auth-www-authenticate=B",
            ],
            &["--auth-keys-file=k", "--auth-denied-body=no", "--auth-denied-content-type=text/html"],
        ] {
            assert_eq!(warned(words, &[]), [""; 0], "{words:?}");
        }
    }

    #[test]
    fn a_warning_names_the_variable_that_set_the_option() {
        let set = [("MYGRPCADAPTER_ROTATE_KEEP", "3"), ("MYGRPCADAPTER_DRAIN_DELY", "3s")];
        assert_eq!(
            warned(&[], &set),
            [
                "MYGRPCADAPTER_DRAIN_DELY names no option and is ignored, see --help",
                "MYGRPCADAPTER_ROTATE_KEEP has no effect without --rotate-size or --rotate-age"
            ]
        );
    }
}
