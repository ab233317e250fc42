//! Recorded messages: text compared with Envoy's own lines, except for the listed
//! differences; JSON compared with Envoy's JSON and with an independent reader's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use records::envoy::message::Message;
use records::render::Format;
use serde_json::Value;

use super::second;

const NOT_CHOSEN: &str = "of a request that Envoy answers itself an entry has no cluster: no host was chosen";
const NO_DURATION: &str = "an intermediate entry has no duration";
const SANITIZED: &str = "Envoy sends '!' for a byte that is no UTF-8 where its own line has it as it is";
const NO_DETAILS: &str = "a TCP entry has no field for them";
const ESCAPED: &str = "Envoy escapes nothing, so that a client can forge fields";
const CLUSTER: &[u8] = b" outbound|8000||httpbin.default.svc.cluster.local - ";

/// Differences between our text and Envoy's, besides the service time: the case,
/// Envoy's text, our text, the reason.
const TEXT: [(&str, &[u8], &[u8], &str); 17] = [
    ("02-get", b"\"agent \"quoted\" 1.0\"", b"\"agent \\\"quoted\\\" 1.0\"", ESCAPED),
    ("10-no-healthy-503-UH", b" nohost - ", b" - - ", NOT_CHOSEN),
    ("19-rate-limited-429-RL", CLUSTER, b" - - ", NOT_CHOSEN),
    ("20-fault-418-FI-DI", CLUSTER, b" - - ", NOT_CHOSEN),
    ("35-intermediate-start-periodic-end", CLUSTER, b" - - ", NOT_CHOSEN),
    ("35-intermediate-start-periodic-end", b" 0 0 0 ", b" 0 0 - ", NO_DURATION),
    ("35-intermediate-start-periodic-end", b" 1001 ", b" - ", NO_DURATION),
    ("35-intermediate-start-periodic-end", b" 2001 ", b" - ", NO_DURATION),
    ("44-h2-path-non-utf8", b"/%FF?\xfe", b"/%FF?!", SANITIZED),
    ("44-h2-path-non-utf8", b"\"caf\xe9\"", b"\"caf!\"", SANITIZED),
    ("46-ext-authz-denied-with-dynamic-metadata-UAEX", CLUSTER, b" - - ", NOT_CHOSEN),
    ("47-ext-authz-error-UAEX", CLUSTER, b" - - ", NOT_CHOSEN),
    ("53-batch-40-one-not-utf8", b"\"bad-\xfe\" \"bad-\xff\"", b"\"bad-!\" \"bad-!\"", SANITIZED),
    ("07-connected-periodic-end", b" 0 0 0 ", b" 0 0 - ", NO_DURATION),
    ("07-connected-periodic-end", b" 1004 ", b" - ", NO_DURATION),
    ("07-connected-periodic-end", b" 2023 ", b" - ", NO_DURATION),
    ("16-tcp-denied-by-ext-authz", b"ext_authz_denied", b"-", NO_DETAILS),
];

/// Differences between our JSON and Envoy's, besides the service time: the case, the
/// member, our value, the reason.
const JSON: [(&str, &str, Value, &str); 13] = [
    ("10-no-healthy-503-UH", "upstream_cluster", Value::Null, NOT_CHOSEN),
    ("19-rate-limited-429-RL", "upstream_cluster", Value::Null, NOT_CHOSEN),
    ("20-fault-418-FI-DI", "upstream_cluster", Value::Null, NOT_CHOSEN),
    ("35-intermediate-start-periodic-end", "upstream_cluster", Value::Null, NOT_CHOSEN),
    ("35-intermediate-start-periodic-end", "duration", Value::Null, NO_DURATION),
    ("44-h2-path-non-utf8", "path", Value::Bool(true), SANITIZED),
    ("44-h2-path-non-utf8", "user_agent", Value::Bool(true), SANITIZED),
    ("46-ext-authz-denied-with-dynamic-metadata-UAEX", "upstream_cluster", Value::Null, NOT_CHOSEN),
    ("47-ext-authz-error-UAEX", "upstream_cluster", Value::Null, NOT_CHOSEN),
    ("53-batch-40-one-not-utf8", "request_id", Value::Bool(true), SANITIZED),
    ("53-batch-40-one-not-utf8", "user_agent", Value::Bool(true), SANITIZED),
    ("07-connected-periodic-end", "duration", Value::Null, NO_DURATION),
    ("16-tcp-denied-by-ext-authz", "response_code_details", Value::Null, NO_DETAILS),
];

/// OTLP bodies from a configured format, not Istio's default text.
const OTLP: [(&str, &str, &str); 3] = [
    ("13-labels-traceparent", "GET 200\n", "the text is %REQ(:METHOD)% %RESPONSE_CODE%"),
    ("14-labels-non-utf8", "- 400\n", "the same"),
    ("25-labels-not-utf8", "GET 200\n", "the same"),
];

/// A recorded case: its name, and its messages in order.
pub struct Case {
    pub name: String,
    path: PathBuf,
    pub messages: Vec<Vec<u8>>,
}

impl Case {
    /// The lines of a section in Envoy's own log.
    fn log(&self, section: &str) -> Option<Vec<Vec<u8>>> {
        let log = std::fs::read(self.path.with_file_name(format!("{}.lines", self.name))).ok()?;
        let lines: Vec<_> = log.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let head = format!("== {section}").into_bytes();
        let start = lines.iter().position(|line| *line == head).unwrap() + 1;
        let of_section =
            lines[start..].iter().take_while(|line| !line.starts_with(b"== ") && !line.is_empty());
        Some(of_section.cloned().collect())
    }
}

pub fn cases(folder: &str) -> Vec<Case> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures/envoy").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "bin"));
    files.sort();
    let mut cases: Vec<Case> = Vec::new();
    for path in files {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let name =
            [".1", ".2", ".3"].iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(stem).to_owned();
        let message = std::fs::read(&path).unwrap();
        match cases.last_mut().filter(|case| case.name == name) {
            Some(case) => case.messages.push(message),
            None => cases.push(Case { name, path, messages: vec![message] }),
        }
    }
    assert!(cases.len() > 10, "{folder}");
    cases
}

/// Removes the service time. It is a response header that no recorded configuration
/// logs, so no entry has it.
fn without_service_time(line: &[u8], json: &Value) -> Vec<u8> {
    let Some(service_time) = json["upstream_service_time"].as_str() else { return line.to_vec() };
    let before = format!(" {} {} {} ", json["bytes_received"], json["bytes_sent"], json["duration"]);
    replaced(line, format!("{before}{service_time} \"").as_bytes(), format!("{before}- \"").as_bytes())
        .expect("a service time")
}

fn replaced(line: &[u8], part: &[u8], by: &[u8]) -> Option<Vec<u8>> {
    let at = line.windows(part.len()).position(|window| window == part)?;
    Some([&line[..at], by, &line[at + part.len()..]].concat())
}

fn envoys_json(case: &Case) -> Vec<Value> {
    case.log("json").unwrap().iter().map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// The cases of both kinds of entry with Envoy's own lines.
fn logged() -> Vec<Case> {
    let cases = cases("als-http").into_iter().chain(cases("als-tcp"));
    cases.filter(|case| case.log("text").is_some()).collect()
}

#[test]
fn text_is_envoys_own_line_but_for_what_an_entry_does_not_have() {
    let (mut unused, mut compared): (BTreeSet<_>, _) = ((0..TEXT.len()).collect(), 0);
    for case in logged() {
        let log = case.log("text").unwrap();
        let ours = super::lines(&case.messages, Format::Text);
        assert_eq!(ours.len(), log.len(), "{}", case.name);
        for ((ours, line), json) in ours.iter().zip(&log).zip(&envoys_json(&case)) {
            let mut expected = without_service_time(line, json);
            for (at, (name, part, by, _)) in TEXT.iter().enumerate() {
                if *name == case.name
                    && let Some(line) = replaced(&expected, part, by)
                {
                    expected = line;
                    unused.remove(&at);
                }
            }
            expected.push(b'\n');
            let [ours, expected] = [ours, &expected].map(|line| line.escape_ascii().to_string());
            assert_eq!(ours, expected, "{}", case.name);
            compared += 1;
        }
    }
    assert_eq!((unused.len(), compared), (0, 165), "{unused:?}");
}

#[test]
fn json_begins_with_istios_members_as_envoy_writes_them() {
    let mut unused: BTreeSet<_> = (0..JSON.len()).collect();
    for case in logged() {
        for (line, envoys) in super::lines(&case.messages, Format::Json).iter().zip(&envoys_json(&case)) {
            let names: Vec<_> = envoys.as_object().unwrap().keys().collect();
            let positions: Vec<_> = names
                .iter()
                .map(|name| {
                    let member = format!("\"{name}\":");
                    line.windows(member.len()).position(|window| window == member.as_bytes()).unwrap()
                })
                .collect();
            assert!(names.len() == 24 && positions[0] == 1 && positions.is_sorted(), "{positions:?}");
            let ours: Value = serde_json::from_slice(line).unwrap();
            for (name, envoys) in envoys.as_object().unwrap() {
                let different =
                    JSON.iter().position(|(of, member, ..)| *of == case.name && *member == name.as_str());
                match different {
                    _ if ours[name] == *envoys => {}
                    _ if name == "upstream_service_time" => assert_eq!(ours[name], Value::Null),
                    Some(at) => {
                        let sanitized = ours[name].as_str().is_some_and(|text| text.ends_with('!'));
                        assert!(ours[name] == JSON[at].2 || sanitized, "{}: {}", case.name, ours[name]);
                        unused.remove(&at);
                    }
                    None => panic!("{}: {name} is {} and not {envoys}", case.name, ours[name]),
                }
            }
        }
    }
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn text_of_otlp_is_the_body() {
    for case in cases("otlp-logs") {
        let mut expected = case.log("text").unwrap().join(&b'\n');
        expected.push(b'\n');
        if let Some((_, body, _)) = OTLP.iter().find(|(name, ..)| *name == case.name) {
            expected = body.as_bytes().to_vec();
        }
        let (count, text) = super::exported(&case.messages[0], Format::Text, usize::MAX).unwrap();
        assert_eq!(text.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{}", case.name);
        assert_eq!(count.records as usize, text.split_inclusive(|byte| *byte == b'\n').count());
        assert_eq!(count.malformed, 0);
    }
}

#[test]
fn json_is_what_a_second_reading_comes_to() {
    let mut compared = 0;
    for case in cases("als-http").into_iter().chain(cases("als-tcp")) {
        let ours = super::lines(&case.messages, Format::Json);
        let expected = second::stream(&case.messages);
        assert_eq!(ours.len(), expected.len(), "{}", case.name);
        for (ours, expected) in ours.iter().zip(&expected) {
            assert_eq!(second::object(ours), *expected, "{}", case.name);
            compared += 1;
        }
    }
    for case in cases("otlp-logs") {
        let (_, ours) = super::exported(&case.messages[0], Format::Json, usize::MAX).unwrap();
        let ours: Vec<_> = ours.split_inclusive(|byte| *byte == b'\n').map(second::object).collect();
        assert_eq!(ours, second::export(&case.messages[0]), "{}", case.name);
        compared += ours.len();
    }
    assert_eq!(compared, 469);
}

#[test]
fn only_the_names_of_an_identifier_are_kept() {
    for (folder, log_name) in [("als-http", "http_envoy_accesslog"), ("als-tcp", "tcp_envoy_accesslog")] {
        let identified = cases(folder).into_iter().find(|case| case.name.starts_with("01-")).unwrap();
        let identifier = Message::read(&identified.messages[0]).unwrap().identifier().unwrap();
        let names = [identifier.log_name(), identifier.node(), identifier.pod(), identifier.namespace()];
        let node = "sidecar~10.244.0.7~httpbin-7d4b6f9c5d-x2x7k.default~default.svc.cluster.local";
        let expected = [log_name, node, "httpbin-7d4b6f9c5d-x2x7k", "default"];
        assert_eq!(names.map(|name| String::from_utf8_lossy(name)), expected);
    }
}

#[test]
fn each_request_is_observed_once_with_what_envoy_logs_of_it() {
    let mut observed = 0;
    for case in logged() {
        let ours = super::observations(&case.messages);
        let mut expected = envoys_json(&case);
        if case.path.parent().unwrap().ends_with("als-tcp") {
            expected.clear();
        } else if case.name.starts_with("35-") {
            expected.drain(..expected.len() - 1);
        }
        assert_eq!(ours.len(), expected.len(), "{}", case.name);
        for ((path, host, method, status, seconds), json) in ours.iter().zip(&expected) {
            let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
            assert_eq!([host, method], [&text("authority"), &text("method")], "{}", case.name);
            assert_eq!(*status, json["response_code"], "{}", case.name);
            assert_eq!((seconds * 1e3) as u64, json["duration"], "{}", case.name);
            assert!(text("path").starts_with(path) && !path.contains('?'), "{}: {path}", case.name);
            observed += 1;
        }
    }
    assert_eq!(observed, 119);
}
