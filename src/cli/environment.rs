//! Options from the environment: `MYGRPCADAPTER_DRAIN_DELAY=5s` is `--drain-delay 5s`,
//! unless the command line has that option.
//!
//! For a Service named mygrpcadapter, Kubernetes sets variables with the same prefix in
//! every pod of its namespace, such as `MYGRPCADAPTER_PORT=tcp://10.0.0.1:8000`. They
//! are ignored.

use std::ffi::OsString;
use std::net::IpAddr;

use super::{Given, Listed, PORT, values};

const PREFIX: &str = "MYGRPCADAPTER_";
/// Separates the values of a repeatable option.
const SEPARATOR: char = ',';

/// The variable of an option.
pub(super) fn variable(option: &str) -> String {
    format!("{PREFIX}{}", option.trim_start_matches('-').replace('-', "_").to_ascii_uppercase())
}

/// The words that the environment adds to the command line. Notes in `given` what they
/// set, and the variables that name no option.
pub(super) fn words(
    variables: impl Iterator<Item = (OsString, OsString)>,
    options: &[Listed],
    given: &mut Given,
) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    for (variable, value) in variables {
        let Ok(name) = variable.into_string() else { continue };
        if name.starts_with(PREFIX) && !value.is_empty() {
            add(&mut words, name, value, options, given)?;
        }
    }
    Ok(words)
}

/// Adds the words of one variable.
fn add(
    words: &mut Vec<String>,
    name: String,
    value: OsString,
    options: &[Listed],
    given: &mut Given,
) -> Result<(), String> {
    if is_link(&name, &value.to_string_lossy()) {
        return Ok(());
    }
    match options.iter().find(|option| variable(option.name) == name) {
        None => given.unknown.push(name),
        Some(option) if given.typed.contains(&option.name) => {}
        Some(option) => {
            let value = value.into_string().map_err(|_| format!("{name}: not UTF-8"))?;
            add_option(words, *option, &value).map_err(|hint| format!("{name}: {hint}"))?;
            given.environment.push(option.name);
        }
    }
    Ok(())
}

/// Adds an option and its value.
fn add_option(words: &mut Vec<String>, option: Listed, value: &str) -> Result<(), String> {
    let name = option.name;
    match option.value {
        // Checked here: argh would take -1 for an option.
        _ if name == PORT => words.push(values::port(value)?.to_string()),
        None if values::switch(value)? => words.push(name.into()),
        None => {}
        Some(_) if option.is_repeatable() => {
            let before = words.len();
            for part in value.split(SEPARATOR).map(str::trim).filter(|part| !part.is_empty()) {
                words.extend([name.into(), part.into()]);
            }
            // No names of clients would permit all of them.
            if words.len() == before {
                return Err("write at least one value, with commas between several".into());
            }
        }
        Some(_) => {
            words.push(name.into());
            words.push(value.into());
        }
    }
    Ok(())
}

/// An address, or all, and a port.
type Listener = (Option<IpAddr>, u16);

/// What `probe` asks without an argument: the adapter in the same container.
pub fn listener() -> Result<Listener, String> {
    let port = value_of(PORT, values::port)?.unwrap_or(super::DEFAULT_PORT);
    Ok((value_of("--address", values::ip)?, known(port, PORT)?))
}

/// The same for `probe --http`.
pub fn metrics_listener() -> Result<Listener, String> {
    let port = value_of("--metrics-port", values::port_or_off)?.unwrap_or(Some(super::DEFAULT_METRICS_PORT));
    let off = || format!("{}: off; there is no metrics port", variable("--metrics-port"));
    Ok((value_of("--metrics-address", values::ip)?, known(port.ok_or_else(off)?, "--metrics-port")?))
}

/// Refuses port 0, by which the adapter listens on one that only its log names.
fn known(port: u16, option: &str) -> Result<u16, String> {
    match port {
        0 => Err(format!("{}: 0 is any free port; name the one in the adapter's log", variable(option))),
        port => Ok(port),
    }
}

fn value_of<T>(option: &str, parse: fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    let variable = variable(option);
    let value = std::env::var_os(&variable).unwrap_or_default();
    let value = value.to_string_lossy();
    if value.is_empty() || is_link(&variable, &value) {
        return Ok(None);
    }
    parse(&value).map(Some).map_err(|hint| format!("{variable}: {hint}"))
}

/// Whether Kubernetes, or Docker in the same manner, sets this variable for a Service:
/// `SERVICE_HOST`, `SERVICE_PORT_GRPC`, `PORT_8000_TCP_ADDR`, or `PORT=tcp://...` after
/// the Service's name, which may be longer than ours, as mygrpcadapter-metrics.
fn is_link(name: &str, value: &str) -> bool {
    let mut before = "";
    for word in name.split('_') {
        let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        if before == "SERVICE" && matches!(word, "HOST" | "PORT") || before == "PORT" && is_number {
            return true;
        }
        before = word;
    }
    before == "PORT" && value.split(':').nth(1).is_some_and(|rest| rest.starts_with("//"))
}

/// A text about options, with the variables of those that the environment sets.
pub(super) fn named(text: &str, names: &[&'static str]) -> String {
    let is_name = |letter: char| letter == '-' || letter.is_ascii_alphanumeric();
    let mut named = String::with_capacity(text.len());
    for piece in text.split_inclusive(|letter| !is_name(letter)) {
        let word = piece.trim_end_matches(|letter| !is_name(letter));
        match names.contains(&word) {
            true => named.push_str(&variable(word)),
            false => named.push_str(word),
        }
        named.push_str(&piece[word.len()..]);
    }
    named
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::super::{Early, options, parse};
    use super::*;
    use crate::cli::Args;

    fn read(words: &[&str], variables: &[(&str, &str)]) -> Result<(Args, Given), Early> {
        let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        parse(words.iter().map(OsString::from), variables)
    }

    #[test]
    fn every_option_has_a_variable_and_the_command_line_wins() {
        for option in options() {
            let variable = variable(option.name);
            let value = match option.value {
                None => "true",
                Some("DURATION") => "7s",
                Some("SIZE" | "N" | "PORT") => "77",
                Some("CODE") => "477",
                Some("FORMAT") => "json",
                Some("WHEN") => "always",
                Some("HOW") => "unavailable",
                Some("BOUNDS") => "0.7",
                Some("IP") => "127.0.0.7",
                Some(_) => "seven",
            };
            let (set, given) = read(&[], &[(&variable, value)]).unwrap();
            let typed: Vec<&str> = match option.name {
                PORT => vec![value],
                name if option.value.is_none() => vec![name],
                name => vec![name, value],
            };
            let (expected, _) = read(&typed, &[]).unwrap();
            let (default, _) = read(&[], &[]).unwrap();
            assert_eq!(format!("{set:?}"), format!("{expected:?}"), "{variable}");
            assert_ne!(format!("{set:?}"), format!("{default:?}"), "{variable}");
            assert_eq!((&*given.environment, &*given.unknown), (&[option.name][..], &[][..]));
            // Not even read.
            let (both, _) = read(&typed, &[(&variable, "nonsense")]).unwrap();
            assert_eq!(format!("{both:?}"), format!("{expected:?}"), "{variable}");
        }
    }

    #[test]
    fn what_a_cluster_sets_for_a_service_is_no_option() {
        let links = [
            ("MYGRPCADAPTER_SERVICE_HOST", "10.0.0.1"),
            ("MYGRPCADAPTER_SERVICE_PORT", "8000"),
            ("MYGRPCADAPTER_SERVICE_PORT_GRPC", "8000"),
            ("MYGRPCADAPTER_PORT", "tcp://10.0.0.1:8000"),
            ("MYGRPCADAPTER_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
            ("MYGRPCADAPTER_PORT_8000_TCP_PROTO", "tcp"),
            ("MYGRPCADAPTER_PORT_8000_TCP_PORT", "8000"),
            ("MYGRPCADAPTER_PORT_8000_TCP_ADDR", "10.0.0.1"),
            ("MYGRPCADAPTER_METRICS_PORT", "tcp://10.0.0.2:80"),
            ("MYGRPCADAPTER_METRICS_PORT_80_TCP_PORT", "80"),
            ("MYGRPCADAPTER_METRICS_SERVICE_HOST", "10.0.0.2"),
            ("MYGRPCADAPTER_REUSE_PORT", "udp://[fd00::1]:53"),
        ];
        let (args, given) = read(&[], &links).unwrap();
        assert_eq!(format!("{args:?}"), format!("{:?}", read(&[], &[]).unwrap().0));
        assert!(given.environment.is_empty() && given.unknown.is_empty(), "{given:?}");
    }

    #[test]
    fn a_variable_without_an_option_is_noted_and_an_empty_one_is_not_set() {
        let (_, given) = read(
            &[],
            &[
                ("MYGRPCADAPTER_DRAIN_DELY", "5s"),
                ("MYGRPCADAPTER_HELP", "1"),
                ("MYGRPCADAPTER_FORMAT", ""),
                ("MYGRPCADAPTER_KEEP_QUERY", "No"),
                ("MYGRPCADAPTERSERVICE_PORT", "1"),
                ("FORMAT", "json"),
            ],
        )
        .unwrap();
        assert_eq!(given.unknown, ["MYGRPCADAPTER_DRAIN_DELY", "MYGRPCADAPTER_HELP"]);
    }

    #[test]
    fn the_end_of_the_options_leaves_the_port_to_the_environment() {
        let port = [("MYGRPCADAPTER_PORT", "77")];
        assert_eq!(read(&["--"], &port).unwrap().0.port, 77);
        assert_eq!(read(&["--", "78"], &port).unwrap().0.port, 78);
    }

    #[test]
    fn a_repeatable_option_takes_a_list() {
        let list = [("MYGRPCADAPTER_AUTH_HEADER", "x-api-key, authorization,")];
        assert_eq!(read(&[], &list).unwrap().0.auth_header, ["x-api-key", "authorization"]);
        // The command line replaces all of it.
        assert_eq!(read(&["--auth-header=a"], &list).unwrap().0.auth_header, ["a"]);
    }

    #[test]
    fn an_error_names_the_variable() {
        for (name, value) in [
            ("MYGRPCADAPTER_DRAIN_DELAY", "5"),
            ("MYGRPCADAPTER_PORT", "-1"),
            ("MYGRPCADAPTER_PORT", "70000"),
            ("MYGRPCADAPTER_METRICS_PORT", "http"),
            ("MYGRPCADAPTER_KEEP_QUERY", "maybe"),
            ("MYGRPCADAPTER_AUTH_DENIED_CODE", "none"),
            // No name permits every name.
            ("MYGRPCADAPTER_TLS_CLIENT_NAME", ","),
            ("MYGRPCADAPTER_TLS_CLIENT_NAME", " "),
        ] {
            let Err(Early::Usage(text)) = read(&["--volume", "/v"], &[(name, value)]) else {
                panic!("{name}={value} was taken")
            };
            assert!(text.contains(name) && !text.contains("'--"), "{name}={value}: {text}");
        }
        let invalid = (OsString::from("MYGRPCADAPTER_FORMAT"), OsString::from_vec(b"\xff".to_vec()));
        let outcome = parse(std::iter::empty(), [invalid].into_iter()).map(drop);
        assert_eq!(outcome, Err(Early::Usage("MYGRPCADAPTER_FORMAT: not UTF-8".into())));
        // Also an error that is found later, but not within a longer name.
        let (_, given) = read(&[], &[("MYGRPCADAPTER_VOLUME", "none")]).unwrap();
        assert_eq!(
            given.named("--volume none: see --volume, --volume-x"),
            "MYGRPCADAPTER_VOLUME none: see MYGRPCADAPTER_VOLUME, --volume-x"
        );
    }
}
