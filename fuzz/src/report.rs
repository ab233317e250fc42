//! Invariants of any bytes read as a report.

use mygrpcadapter::frontends::mixer::report::{MAX_INSTANCES, MAX_RENDERED, Report};
use mygrpcadapter::refusal::{Reason, Refusal};
use mygrpcadapter::render::Format;
use mygrpcadapter::template::Template;

use crate::{assert_is_line, json};

/// Stands for earlier requests in the batch.
const BEFORE: &[u8] = b"a request before\n";

/// Reads and renders a report in both formats.
pub fn check(template: &Template, message: &[u8]) {
    let report = match Report::read(message) {
        Ok(report) => report,
        Err(refusal) => {
            match refusal.reason {
                Reason::Config | Reason::Malformed => {}
                Reason::Instances => assert!(message.len() > 2 * MAX_INSTANCES),
                _ => panic!("reading a report is refused as {refusal:?}"),
            }
            return assert_is_line(&refusal.text);
        }
    };
    assert!(report.instances <= MAX_INSTANCES);
    let outcomes = [Format::Text, Format::Json].map(|format| {
        let (mut out, mut noted) = (BEFORE.to_vec(), 0);
        let outcome = report.render(template, format, &mut out, |_| noted += 1);
        let written = out.strip_prefix(BEFORE).expect("what was there before is as it was");
        match outcome {
            Ok(()) => {
                assert_eq!(noted, report.instances);
                assert!(written.len() <= MAX_RENDERED + 1);
                match format {
                    Format::Text => check_text(template, &report, written),
                    Format::Json => check_json(template, &report, written),
                }
            }
            Err(ref refusal) => {
                match refusal.reason {
                    Reason::Malformed => assert!(noted < report.instances),
                    Reason::Rendered => assert!(message.len() > MAX_RENDERED / 8),
                    _ => panic!("rendering a report is refused as {refusal:?}"),
                }
                assert_is_line(&refusal.text);
            }
        }
        outcome
    });
    let is_malformed = |refusal: &Refusal| refusal.reason == Reason::Malformed;
    if outcomes.iter().any(|outcome| outcome.as_ref().is_err_and(is_malformed)) {
        assert_eq!(outcomes[0], outcomes[1], "what is malformed is so in both formats");
    }
}

/// A head, blocks, and a newline.
fn check_text(template: &Template, report: &Report, written: &[u8]) {
    let call = template.call;
    let head = format!("{call} invoked with:\n  Adapter config: &Params{{FilePath:");
    let after = written.strip_prefix(head.as_bytes()).expect("the head of a request");
    let after = after.strip_prefix(report.config.file_path()).expect("the handler's own path");
    let blocks = after.strip_prefix(b",}\n  Instances: ").expect("the end of the head");
    match report.instances {
        0 => assert_eq!(blocks, b"\n"),
        _ => assert!(blocks.starts_with(b"'") && blocks.ends_with(b"\n  }\n")),
    }
}

/// One object per line and instance, each with all its columns.
fn check_json(template: &Template, report: &Report, written: &[u8]) {
    let columns = template.columns.iter().map(|column| column.key);
    let keys: Vec<_> = ["instance", "template", "received_at"].into_iter().chain(columns).collect();
    let name = format!("\"{}\"", template.name);
    let mut lines = 0;
    for line in written.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").expect("every line ends");
        let members = json::object(line).unwrap_or_else(|what| panic!("{what}: {}", line.escape_ascii()));
        assert!(members.iter().map(|member| &member.0).eq(&keys), "{members:?}");
        assert_eq!(members[1].1, name);
        lines += 1;
    }
    assert_eq!(lines, report.instances);
}
